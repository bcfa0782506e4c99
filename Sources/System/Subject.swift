/// What a failure or an event is about.
public enum Subject: Hashable, Sendable, CustomStringConvertible {
    /// By its directory.
    case store(String)
    /// By its name.
    case disk(String)
    /// A disk that a store, by its directory, should have.
    case diskOf(store: String, String)
    /// By its path; a directory, too.
    case file(String)
    /// An image, by its file's path or what else people call it: what is imported, or exported to.
    case image(String)
    /// The same, of which it is known that it is empty, endless, a terminal, or an NBD server's socket.
    case empty(String)
    case endless(String)
    case terminal(String)
    case socket(String)
    /// A table of an environment, by the environment's directory.
    case table(String, of: String)
    /// A lock of a store.
    case lock(String)
    case pack(UInt64)
    case mapNode(UInt64)
    /// By its number, as people write it.
    case blob(String)
    case block(UInt64, of: String)
    /// So many bytes of a disk from a sector on.
    case bytes(UInt64, at: UInt64)
    /// A bucket of the digest index, by its key.
    case digestIndex(UInt64)
    /// The reference counts of something, or changes of these.
    case counts(String)
    /// A virtual machine, and a device of it.
    case domain(String)
    case device(String, of: String)
    /// An address that is listened on.
    case address(String)
    /// A node of the xenstore.
    case node(String)
    /// Whatever else, as people call it.
    case named(String)

    public var description: String {
        switch self {
        case .store(let path): "store \(path)"
        case .disk(let name), .diskOf(_, let name): "disk \(name)"
        case .file(let path): path
        case .image(let name), .empty(let name), .socket(let name), .terminal(let name), .endless(let name): name
        case .table(let name, let path): "table \(name) of \(path)"
        case .lock(let name): name
        case .pack(let number): "pack \(number)"
        case .mapNode(let number): "map node \(number)"
        case .blob(let number): "blob \(number)"
        case .block(let number, let disk): "disk \(disk), block \(number)"
        case .bytes(let count, let sector): "\(count) bytes at sector \(sector)"
        case .digestIndex(let key): "digest index, bucket \(key)"
        case .counts(let name): "reference counts of \(name)"
        case .domain(let name): "VM \(name)"
        case .device(let device, let domain): "\(device) of VM \(domain)"
        case .node(let path): "\(path) in the xenstore"
        case .address(let text), .named(let text): text
        }
    }
}

extension Subject: ExpressibleByStringInterpolation {
    public init(stringLiteral name: String) { self = .named(name) }
}
