internal import Glibc
internal import LMDB
internal import Synchronization
public import System

// A full filesystem.
//
// LMDB writes what a commit changes beside what it was, so that even deleting takes room first. DIR/reserve, 1280 KiB, is that room:
//
// - An ordinary writer (a guest's data, an import, a new disk) goes on only while the reserve is there. Where it is missing, it is
//   filled first; where that can't be, there is no room.
// - What leads out of "full" (opening and resizing a disk, deleting, discarding, gc) is made of steps, each a commit of a few pages.
//   Where there is no room for one, it is done again in its least size with the reserve given up, under the store's lock. Then what
//   the commit left behind is given back to the filesystem, and the reserve is the first to get it.

/// What may be taken for a transaction.
enum Room {
    /// What is free beside the reserve.
    case beyondReserve
    /// Whatever is free.
    case any
    /// The reserve, too: it is given up as soon as the lock is held.
    case reserve
}

/// How much a step of something long does: less when there is no room.
struct StepSize {
    private(set) var value: Int
    /// With so much, a step takes less than the reserve.
    let least: Int
    let most: Int

    init(least: Int, most: Int) {
        value = most
        self.least = least
        self.most = most
    }

    mutating func grow() { value = min(most, 2 * value) }
    mutating func shrink() { value = least }
}

extension Store {
    /// Does a step of a way out of "full". Where there is no room, it is done again in its least size, with the reserve.
    /// - Parameter step: one commit, or none; it is told how much to do, and what it may take.
    func wayOut<Result: ~Copyable>(
        _ size: inout StepSize, _ patience: Patience? = nil, _ step: (Int, Room) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        do throws(Failure) {
            let result = try step(size.value, .any)
            size.grow()
            return result
        } catch where error.kind == .noSpace {
            size.shrink()
        }
        // What the failed commit wrote before it failed takes room that the step needs.
        punchHoles(patience)
        defer { regain(patience) }
        return try step(size.least, .reserve)
    }

    /// The same of one that has a size only.
    func wayOut<Result: ~Copyable>(_ patience: Patience? = nil, _ step: (Room) throws(Failure) -> Result) throws(Failure) -> Result {
        var size = StepSize(least: 1, most: 1)
        return try wayOut(&size, patience) { (_, room) throws(Failure) in try step(room) }
    }

    /// Gives back what the last commits left, also one that failed, and fills the reserve with it, as far as that goes.
    func regain(_ patience: Patience? = nil) {
        // What a failed commit wrote takes room that the next one needs.
        punchHoles(patience)
        // Other failures show in the next commit.
        try? trim(patience)
    }

    /// Gives the free pages of both environments back to the filesystem, and the reserve has the first of it.
    ///
    /// LMDB never writes over what the last commit needs. So a commit that changes next to nothing comes first, after which the one
    /// before is not the last any more.
    public func trim(_ patience: Patience? = nil) throws(Failure) {
        do throws(Failure) {
            let transaction = try StoreTransaction.begin(self, patience, room: .any)
            try packs.releaseSpace(patience)
            try transaction.commit()
        } catch where error.kind == .noSpace {
            // Not even that much is left: a later call gets it.
        }
        punchHoles(patience)
        // Under the lock, as somebody else may just have given the reserve up.
        let lock = try WriteTransaction(meta, patience)
        _ = reserve.fill()
        lock.abort()
    }

    /// Gives the free pages of both environments back to the filesystem, where it can take them.
    func punchHoles(_ patience: Patience? = nil) {
        // What can't be given back now is later.
        try? meta.trim(patience)
        try? packs.giveBackSpace(patience)
    }

    /// The error for an ordinary writer that finds no reserve, nor room for one.
    var isFull: Failure {
        Failure(
            .noSpace, "write to", .store(path), "No space left on device but what deleting needs",
            remedy: "delete disks and collect what they leave, or free some space on the filesystem of \(path)")
    }
}

/// The file. To be changed by whoever holds `meta`'s write transaction, or makes the store.
final class Reserve: Sendable {
    private let path: String
    let reporter: Reporter
    private let absence: Condition
    /// When something was last tried to be given back for an ordinary writer: seconds of CLOCK_MONOTONIC.
    private let lastRegain = Mutex(-10)

    /// Of the store in that directory.
    init(in directory: String, _ reporter: Reporter) {
        path = directory + "/reserve"
        self.reporter = reporter
        absence = reporter.condition(.reserve)
    }

    /// The largest step writes a pack of 186 pages anew, changes 48 entries of the index, two pages each at most, and what goes with both: some 300 pages.
    private static let byteCount: UInt64 = 1280 << 10
    /// A filesystem gives its blocks in such pieces, or smaller ones.
    private static let step: UInt64 = 1 << 16

    /// Takes its room for a step, behind which it is filled again: that is no news.
    func giveUp() {
        // Made empty, not removed: it stays who owns it, and needs no new name on a full filesystem.
        // No link is followed: who owns the directory could have put it there.
        do throws(Failure) { try File(path: path, options: [.write, .notFollowing]).truncate(to: 0) } catch { unsafe unlink(path) }
    }

    /// Sees to it that the reserve is all there.
    /// - Returns: false: there is no room for it; it has what there was.
    func fill() -> Bool {
        let isThere = makeWhole()
        if isThere {
            absence.over("the room for deleting is set aside again")
        } else {
            absence.met("it is full: there is no room to set aside for deleting, and nothing is written before there is")
        }
        return isThere
    }

    private func makeWhole() -> Bool {
        var status = stat()
        if unsafe lstat(path, &status) == 0 {
            if Self.isWhole(status) { return true }
            if status.st_mode & S_IFMT != S_IFREG { unsafe unlink(path) }
        }
        do throws(Failure) {
            let file = try File.owned(path)
            for end in stride(from: Self.step, through: Self.byteCount, by: Int(Self.step)) { try file.allocate(byteCount: end) }
            return true
        } catch {
            // A filesystem that can't set anything aside, or no right to: that is no lack of room.
            return error.kind != .noSpace
        }
    }

    /// Whether all of it is there.
    var isWhole: Bool {
        var status = stat()
        return unsafe lstat(path, &status) == 0 && Self.isWhole(status)
    }

    private static func isWhole(_ status: stat) -> Bool {
        status.st_mode & S_IFMT == S_IFREG && status.st_blocks >= byteCount / 512 && status.st_size >= byteCount
    }

    /// Whether it is worth while to try whether there is something to regain: once in ten seconds, as disks that find no room try
    /// again each second.
    func mayRegain() -> Bool {
        var now = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        let seconds = now.tv_sec
        return lastRegain.withLock { last in
            guard seconds >= last + 10 else { return false }
            last = seconds
            return true
        }
    }
}
