internal import LMDB
public import Packs
public import System

/// What people may choose of a store.
public struct Settings: Equatable, Sendable {
    /// When blobs are compressed.
    public enum Compression: Equatable, Sendable {
        /// As they come: new blobs are stored by that codec.
        case atOnce(BlobCodec)
        /// They are stored as they come, and compressed when maintenance writes packs anew.
        case background
    }

    public var compression = Compression.atOnce(.raw)
    /// Whoever serves a disk has what nothing refers to collected by and by. Else that is left to `gc`.
    public var isMaintained = true

    /// What becomes of guests' writes when the store is full, and its journals are.
    public enum WhenFull: String, CaseIterable, Sendable {
        /// They fail: a guest sees "no space", or an I/O error where there is no word for that.
        case fail
        /// They wait until there is room: a guest stands still, and goes on as if nothing had been.
        case wait
    }

    public var whenFull = WhenFull.fail

    public init() {}
}

extension Store {
    /// The codec of packs that are written anew in the background.
    static let backgroundCodec = BlobCodec.zstd

    public func settings() throws(Failure) -> Settings {
        let reading = try ReadTransaction(meta)
        return try parts.superblock.superblock(reading.view).settings
    }

    /// Changes settings. What is stored stays as it is. Works in a full store, too.
    public func change(_ body: (inout Settings) -> Void) throws(Failure) {
        try wayOut { (room) throws(Failure) in
            var transaction = try StoreTransaction.begin(self, room: room)
            var settings = transaction.superblock.settings
            body(&settings)
            switch settings.compression {
            case .atOnce(let codec): transaction.superblock.use(codec)
            case .background: transaction.superblock.use(.raw, later: Self.backgroundCodec)
            }
            transaction.superblock.isMaintained = settings.isMaintained
            transaction.superblock.waitsForRoom = settings.whenFull == .wait
            try transaction.commit()
        }
    }

    /// How new blobs are stored.
    public func codec() throws(Failure) -> BlobCodec {
        let reading = try ReadTransaction(meta)
        return try parts.superblock.superblock(reading.view).codec
    }

    /// Stores new blobs that way from now on; those that are there stay as they are.
    public func use(_ codec: BlobCodec) throws(Failure) { try change { $0.compression = .atOnce(codec) } }
}

extension Superblock {
    var settings: Settings {
        var settings = Settings()
        settings.compression = laterCodec == .raw ? .atOnce(codec) : .background
        settings.isMaintained = isMaintained
        settings.whenFull = waitsForRoom ? .wait : .fail
        return settings
    }
}
