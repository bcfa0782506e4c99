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
        var next: UInt64? = 0
        while let start = next { next = try trim(file, from: start, patience) }
    }

    /// Seconds after which the lock is given up in between.
    private static let longestStep = 0.02

    /// Punches holes from an offset on, for a while.
    /// - Returns: where to go on; nil: that was all.
    private func trim(_ file: borrowing File, from start: UInt64, _ patience: Patience?) throws(Failure) -> UInt64? {
        // While it is held, no page changes hands; it is dropped without a change. LMDB shows table 0 to readers only.
        let holding = try WriteTransaction(self, patience)
        let reading = try ReadTransaction(self)
        let end = try highWaterBytes(), size = try file.size()
        // A damaged list may name any number.
        let free = Self.runs(of: try freePages(reading).filter { $0 >= 0 && UInt64($0) < end / 4096 })
        // Most of them are holes already, which are found faster than they are made.
        var data: Range<UInt64>? = 0..<0
        let began = monotonicSeconds()
        for run in free.map({ UInt64($0.lowerBound) * 4096..<UInt64($0.upperBound) * 4096 }) where run.lowerBound >= start {
            if let known = data, known.upperBound <= run.lowerBound { data = try file.nextData(at: run.lowerBound) }
            guard let found = data else { break }
            if found.lowerBound >= run.upperBound { continue }
            guard try file.punchHole(at: run.lowerBound, count: UInt64(run.count)) else { break }
            if monotonicSeconds() - began > Self.longestStep { return run.upperBound }
        }
        // Behind the last page is what a transaction wrote that failed to commit, when the filesystem was full.
        if size > end { _ = try file.punchHole(at: end, count: size - end) }
        // XFS sets blocks aside behind a file's end, as many as it has, for minutes; it takes them back for this.
        try file.truncate(to: size)
        holding.abort()
        return nil
    }

    private func freePages(_ transaction: borrowing ReadTransaction) throws(Failure) -> [Int] {
        let oldest = try oldestInUse()
        let table = Table(dbi: 0, name: "free pages")
        var cursor = try transaction.view.cursor(table)
        var pages: [Int] = []
        var more = try cursor.first()
        while more {
            let key = cursor.key
            let list = cursor.value
            guard key.byteCount == 8, list.byteCount >= 8, key.load(at: 0, as: Int.self) < oldest else { break }
            let count = min(list.load(at: 0, as: Int.self), list.byteCount / 8 - 1)
            for index in 0..<max(0, count) { pages.append(list.load(at: 8 + index * 8)) }
            more = try cursor.next()
        }
        return pages.sorted()
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

    /// Consecutive pages together; the two meta pages are never among them.
    static func runs(of pages: [Int]) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        for page in pages where page >= 2 {
            if let last = runs.last, last.upperBound == page {
                runs[runs.count - 1] = last.lowerBound..<page + 1
            } else {
                runs.append(page..<page + 1)
            }
        }
        return runs
    }
}
