internal import Hashing
public import LMDB
internal import Maps
public import System

extension DiskRecord {
    /// A record of format 3 ended before `source`.
    private static let byteCountOfFormat3 = 72

    /// The record of a disk of format 3, where there were no snapshots and no copies. Nil: it is not what was written.
    fileprivate init?(ofFormat3 bytes: RawSpan, name: String) {
        guard bytes.byteCount == Self.byteCountOfFormat3,
            bytes.load(at: 0, as: UInt64.self) == checksum(bytes.extracting(8..<Self.byteCountOfFormat3), seed: bytes.load(at: 8)),
            bytes.load(at: 40, as: UInt32.self) <= UInt32(MapNode.maximumHeight)
        else { return nil }
        self.init(name: name, number: bytes.load(at: 8), byteCount: bytes.load(at: 16), created: bytes.load(at: 64))
        map = MapRoot(node: bytes.load(at: 24), height: Int(bytes.load(at: 40, as: UInt32.self)), mappedBlocks: bytes.load(at: 32))
        isIncomplete = bytes.load(at: 44, as: UInt32.self) & 1 != 0
        journal = JournalPosition(sequence: bytes.load(at: 48), offset: bytes.load(at: 56))
    }
}

extension LMDBDiskCatalogue {
    /// Records of format 3 become those of format 4; they are read nowhere else. What is damaged stays as it is, and damaged.
    public func upgradeFrom3(_ lmdb: inout WriteTransaction) throws(Failure) {
        for disk in try disksOfFormat3(lmdb.view) { try change(disk, &lmdb) }
    }

    private func disksOfFormat3(_ view: View) throws(Failure) -> [DiskRecord] {
        var cursor = try view.cursor(table)
        var all: [DiskRecord] = []
        var more = try cursor.first()
        while more {
            if let disk = DiskRecord(ofFormat3: cursor.value, name: cursor.textKey) { all.append(disk) }
            more = try cursor.next()
        }
        return all
    }
}
