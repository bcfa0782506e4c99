import Serve
import Testing

@Suite struct VirtualDeviceTests {
    @Test(
        arguments: [
            ("xvda", 51712), ("xvdb", 51728), ("xvdp", 51952), ("xvdq", 268_439_552), ("xvdz", 268_441_856), ("xvdaa", 268_442_112),
            ("xvdba", 268_448_768),
        ] as [(String, UInt64)])
    func namesAndNumbers(name: String, number: UInt64) throws {
        let device = try #require(VirtualDevice(name: name))
        #expect(UInt64(device.number) == number)
        #expect(VirtualDevice(number: number) == device)
        #expect(device.description == name)
    }

    @Test(arguments: ["", "xvd", "xvd1", "xvdB", "xvda1", "sda", "hda", "xvdaaaaaa", "xvdzzzzz", "xvdé", "/dev/xvda", " xvda"])
    func otherNames(name: String) { #expect(VirtualDevice(name: name) == nil) }

    @Test(arguments: [0, 1, 51711, 51713, 51968, 768, 1 << 28 | 1, 1 << 29, .max] as [UInt64])
    func otherNumbers(number: UInt64) { #expect(VirtualDevice(number: number) == nil) }

    @Test func allNames() {
        for index in 0..<2000 {
            let device = VirtualDevice(index: index)
            #expect(device != nil && device.flatMap { VirtualDevice(name: "\($0)") } == device)
        }
        #expect(VirtualDevice(index: VirtualDevice.limit) == nil)
    }
}
