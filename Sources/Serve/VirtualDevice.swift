/// A guest's disk by its number in the xenstore (`virtual-device`; xen-vbd-interface(7)) and its name, `xvda` on.
///
///     xvda ... xvdp   202 << 8 | n << 4     the major and minor number of the Linux device
///     xvdq ...        1 << 28 | n << 8
public struct VirtualDevice: Hashable, Sendable, CustomStringConvertible {
    /// Number of disks that numbers are defined for.
    public static let limit = 1 << 20

    /// 0 for xvda, 1 for xvdb, ...; nil for what is no such disk: hda, or a partition.
    public let index: Int?
    /// As in the xenstore: 51728 for xvdb.
    public let number: UInt32

    /// Nil when there is no such disk.
    public init?(index: Int) {
        guard (0..<Self.limit).contains(index) else { return nil }
        self.index = index
        number = index < 16 ? 202 << 8 | UInt32(index) << 4 : 1 << 28 | UInt32(index) << 8
    }

    /// Whatever device a toolstack has given this number to.
    public init(anyNumber number: UInt32) {
        index = VirtualDevice(number: UInt64(number))?.index
        self.number = number
    }

    /// A disk by name: `xvdb`, `xvdaa`. Nil for any other name, and for partitions.
    public init?(name: String) {
        guard name.hasPrefix("xvd") else { return nil }
        let letters = name.utf8.dropFirst(3)
        guard (1...5).contains(letters.count) else { return nil }
        var ordinal = 0
        for letter in letters {
            guard (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(letter) else { return nil }
            ordinal = ordinal * 26 + Int(letter - UInt8(ascii: "a")) + 1
        }
        self.init(index: ordinal - 1)
    }

    /// A disk by number. Nil for what is not a whole disk of this kind.
    public init?(number: UInt64) {
        let index: UInt64
        if number >> 28 == 1, number & 0xff == 0 {
            index = (number & 0xfff_ffff) >> 8
        } else if number >> 8 == 202, number & 0xf == 0 {
            index = (number & 0xff) >> 4
        } else {
            return nil
        }
        self.init(index: Int(index))
    }

    public var description: String {
        guard let index else { return "device \(number)" }
        var letters: [UInt8] = []
        var rest = index + 1
        while rest > 0 {
            letters.append(UInt8(ascii: "a") + UInt8((rest - 1) % 26))
            rest = (rest - 1) / 26
        }
        return "xvd" + String(decoding: letters.reversed(), as: UTF8.self)
    }
}
