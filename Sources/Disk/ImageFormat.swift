internal import System

/// What an image's bytes are.
public enum ImageFormat: String, CaseIterable, Sendable {
    /// The disk's bytes, one after the other.
    case raw
    // By the names that qemu-img(1) gives them.
    case qcow2, qcow, vmdk, vpc, vhdx, vdi, qed, parallels, dmg
    // A file of any kind, compressed; by the names of the programs.
    case gzip, xz, zstd, bzip2, lz4

    /// What people call it.
    public var title: String {
        switch self {
        case .vpc: "VHD"
        case .vhdx, .vmdk, .vdi, .qed, .dmg: rawValue.uppercased()
        case .parallels: "Parallels"
        default: rawValue
        }
    }

    /// A shell's words that write the raw bytes of the image `file` to the new file `raw`, both quoted already; nil: it is raw.
    public func conversion(of file: String, to raw: String) -> String? {
        switch self {
        case .raw: nil
        case .gzip, .xz, .zstd, .bzip2, .lz4: "\(rawValue) -dc \(file) >\(raw)"
        default: "qemu-img convert -f \(rawValue) -O raw \(file) \(raw)"
        }
    }

    /// How many bytes of an image's beginning, and of its end, tell.
    public static let tellingBytes = 512

    /// Bytes of the beginning that a format has, and where.
    private static let marks: [(ImageFormat, offset: Int, [UInt8])] =
        [
            (.qcow, 0, Array("QFI".utf8) + [0xfb, 0, 0, 0, 1]), (.qcow2, 0, Array("QFI".utf8) + [0xfb]),
            (.vmdk, 0, Array("KDMV".utf8)), (.vmdk, 0, Array("COWD".utf8)),
            (.vpc, 0, Array("conectix".utf8)), (.vhdx, 0, Array("vhdxfile".utf8)),
            (.vdi, 64, [0x7f, 0x10, 0xda, 0xbe]), (.qed, 0, Array("QED".utf8) + [0]),
            (.parallels, 0, Array("WithoutFreeSpace".utf8)), (.parallels, 0, Array("WithouFreSpacExt".utf8)),
            (.gzip, 0, [0x1f, 0x8b, 8]), (.xz, 0, [0xfd] + Array("7zXZ".utf8) + [0]), (.zstd, 0, [0x28, 0xb5, 0x2f, 0xfd]),
            (.lz4, 0, [0x04, 0x22, 0x4d, 0x18]),
        ] + (UInt8(ascii: "1")...UInt8(ascii: "9")).map { (.bzip2, 0, Array("BZh".utf8) + [$0, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]) }

    /// The format that these bytes are known by; nil: none, and so raw.
    /// - Parameters:
    ///   - head: the image's beginning; more than `tellingBytes` tells no more.
    ///   - tail: its end, as long, or as much as there is.
    public init?(head: [UInt8], tail: [UInt8]) {
        if let mark = Self.marks.first(where: { head.dropFirst($0.offset).starts(with: $0.2) }) {
            self = mark.0
        } else if Self.isDescriptor(head) {
            self = .vmdk
        } else if tail.suffix(512).starts(with: "conectix".utf8) || tail.suffix(511).starts(with: "conectix".utf8) {
            // A VHD of fixed size has its footer alone; Virtual PC's first ones have a byte less.
            self = .vpc
        } else if tail.count >= 512, tail.suffix(512).starts(with: "koly".utf8) {
            self = .dmg
        } else {
            return nil
        }
    }

    /// A VMDK's text, which names the files with its data: `# Disk DescriptorFile`.
    private static func isDescriptor(_ head: [UInt8]) -> Bool {
        guard head.first == UInt8(ascii: "#") else { return false }
        let line = String(decoding: head.prefix { $0 != 10 && $0 != 13 }, as: UTF8.self).dropFirst()
        return line.drop { $0 == " " }.lowercased().hasPrefix("disk descriptorfile")
    }

    /// The same of a file, whose bytes are from `start` on.
    init?(of file: borrowing File, from start: UInt64 = 0, byteCount: UInt64) throws(Failure) {
        let count = min(byteCount, UInt64(Self.tellingBytes))
        let head = try Self.bytes(of: file, at: start, Int(count))
        let tail = try Self.bytes(of: file, at: start + byteCount - count, Int(count))
        self.init(head: head, tail: tail)
    }

    private static func bytes(of file: borrowing File, at offset: UInt64, _ count: Int) throws(Failure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let got = try bytes.withMutableBytes { (bytes) throws(Failure) in try file.read(at: offset, into: &bytes) }
        return Array(bytes.prefix(got))
    }
}
