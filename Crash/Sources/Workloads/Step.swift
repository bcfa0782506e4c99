public import TestSupport

/// One thing that is done to a store. Whoever does it says when it begins and when it is answered.
public enum Step: Sendable {
    /// The store, and its directories above it.
    case make
    /// A store that is there.
    case open
    case create(String, sectors: Int)
    /// A write, discard or flush of a disk, which is opened for that if it is not.
    case change(String, SectorStep)
    /// Lets go of a disk.
    case close(String)
    /// A disk is imported: its image has the sectors of a write.
    case load(String, SectorStep)
    /// Snapshots of several disks, of one moment.
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
    /// From now on, collections follow one another on a thread of their own; false: no longer.
    case maintain(Bool)
    /// Whether what is written from now on is compressed in the background.
    case compress(Bool)
    /// A step that a second process does, which has the store open, too.
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
