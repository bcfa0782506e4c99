internal import BlockModel
internal import Hashing
public import System

/// How the records begin that say what a store is, one in each of its environments:
///
///      0  magic            u64   "DEDUPDSK"
///      8  version          u32   4
///     12  block size       u32   4096
///     16  features a reader must know to open the store      u64   see `Feature`
///     24  features a reader may ignore                       u64
///     32  store id         2 × u64, random
///     48  …                      what this environment has to say
///     n   checksum         u64   XXH3-64 of bytes 0 to n − 1, the last word of the record
///
/// All integers of the store are little-endian, except in keys, which are big-endian so that they sort.
public struct FormatHeader: Equatable, Sendable {
    public static let byteCount = 48
    /// "DEDUPDSK", read as a little-endian number.
    public static let magic: UInt64 = 0x4b53_4450_5544_4544
    public static let version: UInt32 = 4
    /// The oldest one that is upgraded.
    public static let oldestUpgraded: UInt32 = 3
    /// The one key of the tables that have such a record.
    public static let key = "superblock"

    /// What a reader must know, a bit each: it is looked at before the fields that it is about.
    public var incompatibleFeatures: UInt64 = 0
    public var compatibleFeatures: UInt64 = 0
    public let storeID: StoreID

    public init(storeID: StoreID) { self.storeID = storeID }

    /// - Parameters:
    ///   - record: all of it.
    ///   - path: whose it is, for messages.
    ///   - version: the one that it has to be of.
    ///   - byteCount: how long a record of that version is.
    ///   - features: those that are known here.
    /// - Throws: `.damage` when it is not what was written; `.outdated` when it is of an older version that can be upgraded; `.system` when it is of
    ///   another one, or has features that are not known here.
    public init(
        _ record: RawSpan, of path: String, version wanted: UInt32 = Self.version, byteCount: Int, knownFeatures features: UInt64
    ) throws(Failure) {
        guard record.byteCount >= 12, record.load(at: 0, as: UInt64.self) == Self.magic else {
            throw Failure(.damage, .file(path), "not a dedupdisk store", remedy: "name the directory of a store")
        }
        let intact = Self.intactVersion(of: record)
        if let version = intact, version != wanted { throw Self.otherVersion(version, path) }
        guard intact != nil, record.byteCount >= Self.byteCount + 8, record.load(at: 12, as: UInt32.self) == UInt32(blockSize) else { throw Self.damaged(path) }
        let unknown = record.load(at: 16, as: UInt64.self) & ~features
        guard unknown == 0 else {
            throw Failure(.system, .file(path), "it uses features \(unknown) that this program does not know", remedy: "use a newer dedupdisk")
        }
        guard record.byteCount == byteCount else { throw Self.damaged(path) }
        incompatibleFeatures = record.load(at: 16)
        compatibleFeatures = record.load(at: 24)
        storeID = StoreID(record.load(at: 32), record.load(at: 40))
    }

    /// Of which version a record is. Nil: it is not what was written. Of every version, the last word is the checksum of what is before it: what
    /// another one says of itself can be believed.
    public static func intactVersion(of record: RawSpan) -> UInt32? {
        let end = record.byteCount - 8
        guard end >= 16, record.load(at: 0, as: UInt64.self) == magic, record.load(at: end, as: UInt64.self) == checksum(record.extracting(0..<end)) else {
            return nil
        }
        return record.load(at: 8)
    }

    /// The error for a record of another version.
    public static func otherVersion(_ version: UInt32, _ path: String) -> Failure {
        let why = "a store of format \(version), this program knows \(Self.version)"
        if version > Self.version { return Failure(.system, .file(path), why, remedy: "use a newer dedupdisk") }
        guard version >= oldestUpgraded else { return Failure(.system, .file(path), why, remedy: "export its disks with the program that made it") }
        return Failure(
            .outdated, .file(path), "made by an older version: \(why)", remedy: "have it opened once by who may write to it, which upgrades it")
    }

    /// The error for an environment that has none.
    public static func missing(_ path: String) -> Failure {
        Failure(.damage, .file(path), "it has no superblock", remedy: "not a store, or a damaged one: restore it from a copy")
    }

    private static func damaged(_ path: String) -> Failure {
        Failure(.damage, .file(path), "its superblock is damaged", remedy: "restore the store from a copy")
    }

    /// A record that begins with this header.
    /// - Parameters:
    ///   - version: what it says that it is of.
    ///   - fill: writes what is behind it.
    public func record(version: UInt32 = Self.version, byteCount: Int, fill: (inout MutableRawSpan) -> Void = { _ in }) -> [UInt8] {
        [UInt8](count: byteCount) { bytes in
            bytes.store(Self.magic, at: 0)
            bytes.store(version, at: 8)
            bytes.store(UInt32(blockSize), at: 12)
            bytes.store(incompatibleFeatures, at: 16)
            bytes.store(compatibleFeatures, at: 24)
            bytes.store(storeID.word0, at: 32)
            bytes.store(storeID.word1, at: 40)
            fill(&bytes)
            bytes.store(checksum(bytes.bytes.extracting(0..<byteCount - 8)), at: byteCount - 8)
        }
    }
}

/// Which store it is: 16 random bytes.
public struct StoreID: Equatable, Sendable {
    public let word0, word1: UInt64
    public init(_ word0: UInt64, _ word1: UInt64) {
        self.word0 = word0
        self.word1 = word1
    }

    /// A new one.
    public static func random() -> StoreID {
        var generator = SystemRandomNumberGenerator()
        return StoreID(generator.next(), generator.next())
    }
}
