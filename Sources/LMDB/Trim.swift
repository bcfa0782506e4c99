internal import CLMDB
public import System

extension Environment {
    /// Punches holes where the file has free pages, so that they take no room on the filesystem until they are
    /// used again. LMDB's file itself never shrinks.
    ///
    /// LMDB lists the pages that each transaction freed in its table 0 (mdb.c, `FREE_DBI`): key, the transaction;
    /// value, a count and as many page numbers. It uses those of a transaction again once no reader sees an older
    /// state and the last commit is a newer one; the same condition makes it safe to forget what is in them. A page
    /// that is used again is written whole, never read first.
    /// - Parameter patience: how long to wait for the other writers.
    public func trim(_ patience: Patience? = nil) throws(Failure) {
        let file = try File(path: path + "/data.mdb", options: [.write])
        var next: FreeListPlace? = FreeListPlace()
        while let place = next { next = try trim(file, from: place, patience) }
    }

    /// Seconds after which the lock is given up in between.
    private static let longestStep = 0.005
    /// Bytes that one system call gives back at most, as it can't be interrupted.
    private static let longestHole: UInt64 = 16 << 20

    /// Where in the list of free pages a step ended.
    private struct FreeListPlace {
        /// Pages of that transaction, from its lowest, were seen to.
        var transaction: UInt64 = 0, pages = 0
        /// The last transaction that is looked at, so that this ends: a writer may free pages as fast as they are given back.
        var end: Int?
    }

    /// Punches holes from a place on, for a while.
    /// - Returns: where to go on; nil: that was all.
    private func trim(_ file: borrowing File, from place: FreeListPlace, _ patience: Patience?) throws(Failure) -> FreeListPlace? {
        // While it is held, no page is used again; it is dropped without a change. LMDB shows table 0 to readers only.
        let holding = try WriteTransaction(self, patience)
        let until = monotonicSeconds() + Self.longestStep
        let reading = try ReadTransaction(self)
        let end = try highWaterBytes()
        var place = place
        if place.end == nil { place.end = try oldestInUse() }
        var cursor = try reading.view.cursor(Table(dbi: 0, name: "free pages"))
        // LMDB's own keys are numbers of the machine's order.
        var more = try cursor.seek(atOrAfter: place.transaction.byteSwapped)
        while more {
            let key = cursor.key, list = cursor.value
            guard key.byteCount == 8, list.byteCount >= 8, key.load(at: 0, as: Int.self) < place.end ?? 0 else { break }
            let transaction: UInt64 = key.load(at: 0)
            if transaction != place.transaction { (place.transaction, place.pages) = (transaction, 0) }
            switch try punch(file, list, &place.pages, end: end, until: until) {
            case .all: more = try cursor.next()
            case .outOfTime: return place
            case .cannot: more = false
            }
        }
        let size = try file.size()
        // What a transaction wrote that failed to commit, as the filesystem was full, may lie behind the last page.
        if size > end { _ = try file.punchHole(at: end, count: size - end) }
        // XFS sets blocks aside behind a file's end, as many as it has, for minutes; it takes them back for this.
        try file.truncate(to: size)
        holding.abort()
        return nil
    }

    private enum Punched { case all, outOfTime, cannot }

    /// Punches holes where one transaction freed pages.
    /// - Parameters:
    ///   - list: a count and so many page numbers, the highest first. When it is damaged, it may hold anything.
    ///   - done: pages that were seen to, from the end of the list.
    ///   - end: bytes of the file that have pages.
    /// - Returns: `.cannot`: the filesystem can't.
    private func punch(_ file: borrowing File, _ list: RawSpan, _ done: inout Int, end: UInt64, until: Double) throws(Failure) -> Punched {
        let count = max(0, min(list.load(at: 0, as: Int.self), list.byteCount / 8 - 1))
        // Most of them are holes already, and finding a hole is faster than making it.
        var hole: Range<UInt64> = 0..<0
        while done < count {
            let first: UInt64 = list.load(at: 8 * (count - done))
            var length: UInt64 = 1
            while done + Int(length) < count, list.load(at: 8 * (count - done - Int(length))) == first &+ length, length < Self.longestHole / 4096 {
                length += 1
            }
            done += Int(length)
            // The two meta pages are never free.
            if first >= 2, first < end / 4096, length <= end / 4096 - first {
                let run = first * 4096..<(first + length) * 4096
                if !hole.contains(run.lowerBound) { hole = run.lowerBound..<(try file.nextDataStart(at: run.lowerBound) ?? .max) }
                if hole.upperBound < run.upperBound {
                    guard try file.punchHole(at: run.lowerBound, count: UInt64(run.count)) else { return .cannot }
                }
            }
            guard monotonicSeconds() < until else { return done < count ? .outOfTime : .all }
        }
        return .all
    }

    /// The oldest transaction whose state somebody reads, or the last one that was committed.
    private func oldestInUse() throws(Failure) -> Int {
        var info = unsafe MDB_envinfo()
        try unsafe check(mdb_env_info(handle, &info), "inspect", .file(path))
        var oldest = unsafe Int(info.me_last_txnid)
        // A line a reader: process, thread, transaction; "-" when it reads nothing now.
        let result = unsafe withUnsafeMutablePointer(to: &oldest) { oldest in
            unsafe mdb_reader_list(
                handle,
                { line, oldest in
                    guard let line = unsafe line, let oldest = unsafe oldest?.assumingMemoryBound(to: Int.self) else { return 0 }
                    let words = unsafe String(cString: line).split { $0.isWhitespace }
                    if words.count == 3, let transaction = Int(words[2]) { unsafe oldest.pointee = min(oldest.pointee, transaction) }
                    return 0
                }, oldest)
        }
        guard result >= 0 else { throw failure(result, "list the readers of", .file(path)) }
        return oldest
    }
}
