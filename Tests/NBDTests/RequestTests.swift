import BlockModel
import NBD
import System
import Testing
import TestSupport

/// Requests and replies, over bytes.
@Suite struct RequestTests {
    static let export = Export(name: "gold", byteCount: 1 << 20, isReadOnly: false)
    static let full = Session(isStructured: true, hasAllocation: true)

    func parse(_ bytes: [UInt8]) -> Request? { Request(bytes.rawBytes) }

    func check(_ bytes: [UInt8], _ export: Export = export, _ session: Session = full) -> ErrorCode? {
        do throws(ErrorCode) { _ = try parse(bytes)?.check(export, session) } catch { return error }
        return nil
    }

    @Test func fields() throws {
        let bytes = request(6, offset: 0x0102_0304_0506_0708, length: 0xa1a2_a3a4, flags: 0x1f, cookie: 0xf1f2_f3f4_f5f6_f7f8)
        let parsed = try #require(parse(bytes))
        #expect(parsed.command == .writeZeroes && parsed.flags.rawValue == 0x1f && parsed.cookie == 0xf1f2_f3f4_f5f6_f7f8)
        #expect(parsed.offset == 0x0102_0304_0506_0708 && parsed.length == 0xa1a2_a3a4)
        #expect([UInt8](count: Request.byteCount) { parsed.encode(into: &$0) } == bytes)
        #expect(parsed.payloadByteCount == 0)
        #expect(parse(request(1, length: 0xffff_ffff))?.payloadByteCount == 0xffff_ffff)
    }

    @Test func wrongMagic() {
        for bit in 0..<32 {
            var bytes = request(0, length: 512)
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(parse(bytes) == nil)
        }
    }

    @Test func ranges() throws {
        let end: UInt64 = 1 << 20
        for command in [0, 1, 4, 6, 7] {
            let range = try parse(request(command, offset: end - 1024, length: 1024))?.check(Self.export, Self.full)
            #expect(range == SectorRange(start: 2046, count: 2))
            let outside: ErrorCode = command == 1 || command == 6 ? .noSpace : .invalid
            for (offset, length) in [
                (end, 512), (end - 512, 1024), (UInt64.max - 511, 512), (UInt64.max - 511, 1024), (1 << 63, 0xffff_fe00),
            ] as [(UInt64, UInt64)] where length <= 32 << 20 || command > 1 {
                #expect(check(request(command, offset: offset, length: length)) == outside, "\(command) \(offset) \(length)")
            }
            for (offset, length) in [(1, 512), (511, 512), (0, 1), (0, 513), (256, 256), (UInt64.max, 1)] as [(UInt64, UInt64)] {
                #expect(check(request(command, offset: offset, length: length)) == .invalid, "\(command) \(offset) \(length)")
            }
        }
        for command in [0, 1] { #expect(check(request(command, offset: end, length: 0)) == nil) }
        #expect(check(request(7, length: 0)) == .invalid)
    }

    @Test func lengths() {
        let export = Export(name: "", byteCount: 1 << 40, isReadOnly: false)
        for command in [0, 1] {
            #expect(check(request(command, length: 32 << 20), export) == nil)
            #expect(check(request(command, length: 32 << 20 + 512), export) == .invalid)
        }
        for command in [4, 6, 7] { #expect(check(request(command, length: 0xffff_fe00), export) == nil) }
    }

    @Test func flags() {
        let allowed = [0: 0b00101, 1: 0b00001, 2: 0b00001, 3: 0b00001, 4: 0b00001, 6: 0b10011, 7: 0b01001]
        for (command, mask) in allowed {
            for bit in 0..<16 {
                let isAllowed = mask & 1 << bit != 0
                #expect((check(request(command, length: 512, flags: 1 << bit)) == nil) == isAllowed, "\(command), bit \(bit)")
            }
        }
        #expect(check(request(0, length: 512, flags: 4), Self.export, Session()) == .invalid)
    }

    @Test func unknownCommands() {
        for command in [5, 8, 9, 255, 0xffff] { #expect(check(request(command, length: 512)) == .invalid) }
        #expect(check(request(7, length: 512), Self.export, Session(isStructured: true)) == .invalid)
    }

    @Test func readOnly() {
        let export = Export(name: "", byteCount: 1 << 20, isReadOnly: true)
        for command in [1, 4, 6] { #expect(check(request(command, length: 512), export) == .notPermitted) }
        for command in [0, 3, 7] { #expect(check(request(command, length: 512), export) == nil) }
    }

    @Test(arguments: 0..<4 as Range<UInt64>) func anyRequestIsChecked(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<5_000 {
            let large = Bool.random(using: &random)
            let bytes = request(
                Int.random(in: 0...9, using: &random), offset: large ? random.next() : random.next() % (1 << 21) & ~511,
                length: large ? random.next() >> 32 : random.next() % (1 << 16) & ~511, flags: Int.random(in: 0...31, using: &random))
            guard let parsed = parse(bytes), let range = try? parsed.check(Self.export, Self.full) else { continue }
            // What is let through is on the disk, and is what was asked for.
            #expect(range.end <= 2048 && range.start * 512 == parsed.offset && range.count * 512 == parsed.length, "seed \(seed)")
        }
    }

    @Test func failuresAsClientsSeeThem() {
        for (kind, code) in [
            (.invalidRequest, .invalid), (.noSpace, .noSpace), (.damage, .inputOutput), (.system, .inputOutput), (.busy, .inputOutput),
        ] as [(Failure.Kind, ErrorCode)] {
            #expect(ErrorCode(Failure(kind, "", "")) == code)
        }
    }

    @Test func replies() {
        let cookie: UInt64 = 0x0102_0304_0506_0708
        let simple = u32(0x67446698)
        #expect([UInt8](count: 16) { Reply.simple(cookie, nil, into: &$0) } == simple + u32(0) + u64(cookie))
        #expect([UInt8](count: 16) { Reply.simple(cookie, .noSpace, into: &$0) } == simple + u32(28) + u64(cookie))
        func chunk(_ flags: Int, _ kind: Int, _ data: [UInt8]) -> [UInt8] {
            u32(0x668e33ef) + u16(flags) + u16(kind) + u64(cookie) + u32(UInt64(data.count)) + data
        }
        #expect([UInt8](count: 20) { Reply.chunk(.none, cookie, byteCount: 0, isLast: true, into: &$0) } == chunk(1, 0, []))
        let data = [UInt8](count: 28) { Reply.dataHeader(cookie, offset: 4096, byteCount: 512, isLast: false, into: &$0) }
        #expect(data + [UInt8](repeating: 0, count: 512) == chunk(0, 1, u64(4096) + [UInt8](repeating: 0, count: 512)))
        #expect([UInt8](count: 26) { Reply.error(cookie, .inputOutput, into: &$0) } == chunk(1, 0x8001, u32(5) + u16(0)))
        #expect([UInt8](count: 34) { Reply.error(cookie, .inputOutput, at: 77, into: &$0) } == chunk(1, 0x8002, u32(5) + u16(0) + u64(77)))
        var status = [UInt8](count: 24) { Reply.statusHeader(cookie, extentCount: 2, into: &$0) }
        status += [UInt8](count: 8) { Reply.extent(byteCount: 4096, isHole: true, into: &$0) }
        status += [UInt8](count: 8) { Reply.extent(byteCount: 512, isHole: false, into: &$0) }
        #expect(status == chunk(1, 5, u32(1) + u32(4096) + u32(3) + u32(512) + u32(0)))
    }
}
