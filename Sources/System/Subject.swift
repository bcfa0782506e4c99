/// What an event is about.
public enum Subject: Equatable, Sendable, CustomStringConvertible {
    /// By its directory.
    case store(String)
    /// By its name.
    case disk(String)
    /// Whatever else, as people call it.
    case named(String)

    public var description: String {
        switch self {
        case .store(let path): "store \(path)"
        case .disk(let name): "disk \(name)"
        case .named(let name): name
        }
    }
}
