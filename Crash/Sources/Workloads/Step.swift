public import TestSupport

/// One thing that is done to a store, which says when it begins and when it is over.
public enum Step: Sendable {
    /// The store, and its directories above it.
    case make
    /// A store that is there.
    case open
    case create(String, sectors: Int)
    /// On a disk that is open to write: it is opened for that when it is not.
    case change(String, SectorStep)
    /// Lets go of a disk.
    case close(String)
    /// A disk of an image, whose sectors are those of a write.
    case load(String, SectorStep)
    /// Of several disks at one moment.
    case snapshot(disks: [String], name: String)
    case clone(String, String)
    case rollBack(String)
    case rename(String, String)
    case delete(String)
    /// All snapshots of a disk but so many, which are the newest.
    case prune(String, keeping: Int)
    case resize(String, sectors: Int)
    case collect
    /// So many steps of a collection.
    case collectSteps(Int)
    /// From now on, collections follow one on the other on a thread of their own, or no longer.
    case maintain(Bool)
    /// Whether what is written from now on is compressed by and by.
    case compress(Bool)
    /// A second process does it, which has the store open, too.
    indirect case elsewhere(Step)

    public var words: String {
        switch self {
        case .make: "make the store"
        case .open: "open the store"
        case .create(let name, let sectors): "create \(name) of \(sectors) sectors"
        case .change(let name, let step): "\(step.operation) \(step.range) of \(name)"
        case .close(let name): "close \(name)"
        case .load(let name, let image): "import \(image.count) sectors as \(name)"
        case .snapshot(let disks, let name): "snapshot \(disks)@\(name)"
        case .clone(let name, let new): "clone \(name) \(new)"
        case .rollBack(let name): "roll back to \(name)"
        case .rename(let name, let new): "rename \(name) \(new)"
        case .delete(let name): "delete \(name)"
        case .prune(let name, let count): "prune \(name) to \(count) snapshots"
        case .resize(let name, let sectors): "resize \(name) to \(sectors) sectors"
        case .collect: "collect"
        case .collectSteps(let count): "\(count) steps of a collection"
        case .maintain(let isWanted): "maintain beside what follows: \(isWanted)"
        case .compress(let isWanted): "compress in the background: \(isWanted)"
        case .elsewhere(let step): "in the second process: \(step.words)"
        }
    }
}
