internal import CLinux
internal import Glibc
internal import Synchronization
public import System

/// Who uses a store: its locks, in one file, for processes of any container.
///
/// LMDB has locks of its own, in shared memory. They know processes and threads by their ids, which are the same in different PID
/// namespaces; they wait without limit; and they name nobody. So whoever wants one of LMDB's locks takes the one here first, and
/// LMDB's is free then. The kernel keeps these (fcntl(2), `F_OFD_SETLK`): they end with their holder, however that dies.
///
///          0  magic, "DDLOCK 1"          8 bytes
///        256  who holds lock n           256 bytes each, n counts from 0: see `LockHolder`
///     2³²     + n          locked        lock n is held
///     2³² + 4096 + n       locked        somebody waits for lock n
///     2³³     + i          locked        a process uses the store whose number is i (`identity`)
///     2³⁴     + n          read-locked   pack n has blobs that somebody has just stored and nothing refers to yet (`claim`)
///
/// Nothing in it outlives the processes. The numbers' range is locked as a whole, to read, by one who may not write to the store,
/// so that nobody changes it meanwhile.
public final class LockFile: Sendable {
    /// What can be held.
    public struct Lock: Sendable, Equatable {
        let number: Int
        /// What messages call it.
        let name: StaticString
        /// Opening the store's environments, and making them.
        public static let opening = Lock(number: 0, name: "the right to open the store")
        /// Writing to the environment of that number: 0 or 1.
        static func writing(_ environment: Int) -> Lock { Lock(number: 1 + 2 * environment, name: "the store's write lock") }
        /// Entering the table of readers of that environment.
        static func reading(_ environment: Int) -> Lock { Lock(number: 2 + 2 * environment, name: "the store's table of readers") }
        /// Maintenance: collecting blobs that nothing refers to, and what goes with it. Nobody else waits for it, so that its holder may be
        /// stopped. Then another takes the next one of these: two at once get in each other's way, and do no harm.
        static func collecting(_ turn: Int) -> Lock { Lock(number: 5 + turn, name: "the right to collect") }
        static let collectors = 4
        static let count = 5 + collectors
        var defersStops: Bool { number < 5 }
        public static func == (a: Lock, b: Lock) -> Bool { a.number == b.number }
    }

    /// Where the file is.
    public var path: String { file.path }
    /// Nobody writes to the store while this is held: it may not, or cannot, be written to here.
    public let isReadOnly: Bool
    /// A number that no other process of the store has; 0 when it is read-only.
    let identity: pid_t
    private let file: File
    /// Who holds which lock, where that can be mapped.
    private let records: SharedRecords?
    private let turns: [Monitor<Turn>]
    /// Packs that this process has claimed, and how often.
    private let claims = Mutex<[UInt64: Int]>([:])
    /// How long to wait where a call does not say it.
    public let patience: Patience

    private static let recordBytes = LockHolder.byteCount
    private static let firstLock: UInt64 = 1 << 32
    private static let firstWaiter: UInt64 = firstLock + 4096
    private static let firstIdentity: UInt64 = 1 << 33
    private static let identities = firstIdentity..<firstIdentity + 1 << 31
    private static let firstClaim: UInt64 = 1 << 34
    public static let magic = "DDLOCK 1"
    public static let byteCount = UInt64((1 + Lock.count) * recordBytes)

    /// Whose turn it is among this process's threads, in the order in which they came.
    private struct Turn {
        var isHeld = false
        var queue: [UInt64] = []
        var next: UInt64 = 0
        /// Whether this process was the last to hold the lock.
        var wasOurs = false
        /// When it was last seen that no other process waits: seconds of the monotonic clock.
        var lastLook = 0.0
    }

    /// Says that the store is in use, by this process.
    /// - Parameters:
    ///   - file: the lock file, opened to write.
    ///   - patience: how long to wait for a lock where nothing else is said.
    /// - Throws: `.busy` when somebody who may only read has the store.
    public init(_ file: consuming File, patience: Patience) throws(Failure) {
        self.patience = patience
        isReadOnly = false
        turns = (0..<Lock.count).map { _ in Monitor(Turn()) }
        identity = try Self.claimIdentity(file, patience)
        records = SharedRecords(file, byteCount: Int(Self.byteCount))
        self.file = file
    }

    /// Keeps all others from writing to the store, which this process may only read.
    /// - Parameter file: the lock file, opened to read.
    /// - Throws: `.busy` when somebody may write to the store at this time.
    public init(readOnly file: consuming File, patience: Patience) throws(Failure) {
        self.patience = patience
        isReadOnly = true
        turns = []
        identity = 0
        records = nil
        guard try file.tryLock(Self.identities, exclusive: false) else {
            throw Failure(
                .busy, "read the store of", .file(file.path), "it is in use by others, and it takes the right to write to its files to read beside them",
                remedy: "run as root or as the store's owner, or wait until nobody uses it")
        }
        self.file = file
    }

    /// Whether others find the same file: it goes with a store whose making fails.
    public func isInPlace() throws(Failure) -> Bool { try file.isInPlace() }

    /// - Throws: why the store can't be written to.
    public func refuseIfReadOnly() throws(Failure) {
        guard isReadOnly else { return }
        throw Failure(
            .system, "write to the store of", .file(path), "it can only be read here: its filesystem is read-only, or its files are others'",
            remedy: "mount it for writing, or run as root or as the store's owner")
    }

    // MARK: Numbers of processes

    private static func claimIdentity(_ file: borrowing File, _ patience: Patience) throws(Failure) -> pid_t {
        let own = clinux_process_id()
        // Where the program answers getpid(2), any number will do that is no process's: those of containers collide.
        let isFree = isAnswered(1)
        var waiting = Waiting(patience, "the right to use the store")
        defer { waiting.end() }
        while true {
            for _ in 0..<16 {
                let identity = isFree ? pid_t.random(in: 1 << 23..<1 << 30) : own
                let place = firstIdentity + UInt64(identity)
                if try file.tryLock(place..<place + 1, exclusive: true) { return identity }
            }
            let place = firstIdentity + UInt64(own)
            if !isFree, try file.isLockedElsewhere(place..<place + 1, exclusively: true) {
                throw Failure(
                    .busy, "use the store of", .file(file.path), "a process with the same number, \(own), uses it, perhaps in another container",
                    remedy: "start this one again")
            }
            try waiting.pause(for: nil, remedy: "somebody who may only read it has it open: wait until that is over")
        }
    }

    /// Whether getpid(2) can be told what to answer.
    private static func isAnswered(_ number: pid_t) -> Bool {
        clinux_set_identity(number)
        defer { clinux_set_identity(0) }
        return getpid() == number
    }

    /// Calls `body`, in which LMDB finds this process's number by getpid(2).
    func withIdentity<Result>(_ body: () -> Result) -> Result {
        guard identity != 0 else { return body() }
        clinux_set_identity(identity)
        defer { clinux_set_identity(0) }
        return body()
    }

    // MARK: Holding

    /// A lock, held until the end of this value.
    public struct Hold: ~Copyable {
        private let file: LockFile
        private let lock: Lock

        fileprivate init(_ file: LockFile, _ lock: Lock) {
            self.file = file
            self.lock = lock
        }

        deinit { file.release(lock) }
    }

    /// Waits for a lock. Threads of this process get it in turn; among processes, one that had it gives way to one that waits.
    /// - Throws: `.busy` when patience is at its end.
    public func hold(_ lock: Lock, _ patience: Patience? = nil) throws(Failure) -> Hold {
        var waiting = Waiting(patience ?? self.patience, lock.name)
        defer { waiting.end() }
        while true {
            let gaveWay = try takeTurn(lock, &waiting)
            var isHeld = false
            do throws(Failure) {
                isHeld = try takeLock(lock, &waiting, givingWay: gaveWay)
            } catch {
                endTurn(lock)
                throw error
            }
            if isHeld { break }
            // The process is stopped when all its locks are given up, and a thread that has one may want this turn first.
            endTurn(lock)
            clinux_await_stop()
        }
        return Hold(self, lock)
    }

    /// Waits for the right to do maintenance. Whoever has it and is stopped is not waited for.
    /// - Throws: `.busy` when patience is at its end.
    public func holdCollecting(_ patience: Patience? = nil) throws(Failure) -> Hold {
        for turn in 0..<Lock.collectors - 1 {
            let lock = Lock.collecting(turn)
            do throws(Failure) {
                return try hold(lock, Self.impatience)
            } catch where error.kind == .busy {
                guard holder(of: lock)?.isStopped == true else { return try hold(lock, patience) }
            }
        }
        return try hold(.collecting(Lock.collectors - 1), patience)
    }

    private static let impatience = Patience(limit: 0.01, limitWhenStopped: 0.01)

    /// Whether another process waits for the right to do maintenance.
    public func isCollectingWanted() throws(Failure) -> Bool {
        for turn in 0..<Lock.collectors { if try isWaitedFor(.collecting(turn)) { return true } }
        return false
    }

    /// - Returns: whether this process was the last that had it, as far as it knows.
    private func takeTurn(_ lock: Lock, _ waiting: inout Waiting) throws(Failure) -> Bool {
        let turn = turns[lock.number]
        var ticket: UInt64?
        var last: Failure?
        let wasOurs = try turn.wait { (turn) throws(Failure) -> Wait<Bool?> in
            if !turn.isHeld, ticket == nil ? turn.queue.isEmpty : turn.queue.first == ticket {
                if ticket != nil { turn.queue.removeFirst() }
                turn.isHeld = true
                return .done(turn.wasOurs)
            }
            let own = ticket ?? turn.next
            if ticket == nil {
                turn.next &+= 1
                turn.queue.append(own)
                ticket = own
            }
            do throws(Failure) {
                return .atMost(try waiting.step(for: holder(of: lock), remedy: nil))
            } catch {
                turn.queue.removeAll { $0 == own }
                last = error
                return .done(nil)
            }
        }
        guard let wasOurs else {
            // The next in the queue may be the first now.
            turn.notify()
            throw last ?? Failure(.busy, "wait for", .lock("\(lock.name)"), "it took too long")
        }
        return wasOurs
    }

    private func endTurn(_ lock: Lock) {
        let turn = turns[lock.number]
        let isWaitedFor = turn.with { turn in
            turn.isHeld = false
            return !turn.queue.isEmpty
        }
        if isWaitedFor { turn.notify() }
    }

    /// - Returns: false: the process is about to be stopped, and goes on with this afterwards.
    private func takeLock(_ lock: Lock, _ waiting: inout Waiting, givingWay: Bool) throws(Failure) -> Bool {
        let place = Self.firstLock + UInt64(lock.number), queue = Self.firstWaiter + UInt64(lock.number)
        // Another process tries every few milliseconds, and would rarely find it free.
        if givingWay, try isTimeToGiveWay(lock) { usleep(Self.longestPauseMicroseconds + 1000) }
        var isAnnounced = false
        // If it can't be unlocked, holders give way a little more often than they need.
        defer { if isAnnounced { try? file.unlock(queue..<queue + 1) } }
        while true {
            if lock.defersStops, clinux_begin_unstoppable() == 0 { return false }
            do throws(Failure) {
                if try file.tryLock(place..<place + 1, exclusive: true) {
                    sign(lock)
                    return true
                }
            } catch {
                if lock.defersStops { clinux_end_unstoppable() }
                throw error
            }
            if lock.defersStops { clinux_end_unstoppable() }
            turns[lock.number].with { $0.wasOurs = false }
            if !isAnnounced { isAnnounced = try file.tryLock(queue..<queue + 1, exclusive: false) }
            try waiting.pause(for: holder(of: lock), remedy: nil)
        }
    }

    /// Whether another process waits, which is looked at now and then.
    private func isTimeToGiveWay(_ lock: Lock) throws(Failure) -> Bool {
        let now = monotonicSeconds(), turn = turns[lock.number]
        guard turn.with({ now - $0.lastLook >= Self.lookInterval }) else { return false }
        if try isWaitedFor(lock) { return true }
        turn.with { $0.lastLook = now }
        return false
    }

    /// Seconds between looks: few enough that a waiter does not notice.
    private static let lookInterval = 0.001

    /// Whether another process waits.
    func isWaitedFor(_ lock: Lock) throws(Failure) -> Bool {
        let queue = Self.firstWaiter + UInt64(lock.number)
        return try file.isLockedElsewhere(queue..<queue + 1)
    }

    static let longestPauseMicroseconds: UInt32 = 2000

    fileprivate func release(_ lock: Lock) {
        let place = Self.firstLock + UInt64(lock.number)
        turns[lock.number].with { $0.wasOurs = true }
        // Only a descriptor that is none could fail.
        try? file.unlock(place..<place + 1)
        if lock.defersStops { clinux_end_unstoppable() }
        endTurn(lock)
    }

    // MARK: Tests

    /// How many threads of this process wait.
    func waiters(_ lock: Lock) -> Int { turns[lock.number].with { $0.queue.count } }

    // MARK: Names

    /// Writes down who holds a lock, for messages of those who wait for it.
    private func sign(_ lock: Lock) {
        let place = (1 + lock.number) * Self.recordBytes, turn = LockHolder.nextTurn()
        switch records {
        case .some(let records):
            records.put(LockHolder.ownText, at: place)
            records.put(turn, at: place + LockHolder.turnOffset)
        case .none:
            let record = LockHolder.ownText + [UInt8](count: 8) { $0.store(turn, at: 0) }
            // Without room for it, waiters have nobody to name.
            try? file.write(at: UInt64(place), record.rawBytes)
        }
    }

    /// Who holds the lock, or held it last.
    private func holder(of lock: Lock) -> LockHolder? {
        let place = (1 + lock.number) * Self.recordBytes
        var record = [UInt8](repeating: 0, count: Self.recordBytes)
        // Only a name is missing where it can't be read.
        let count = try? record.withMutableBytes { (bytes) throws(Failure) in try file.read(at: UInt64(place), into: &bytes) }
        return count == Self.recordBytes ? LockHolder(record) : nil
    }

    // MARK: Claims

    /// Says that a pack has blobs of this process that nothing refers to yet: nobody may take them for dead. Ends with the process at the latest.
    public func claim(_ pack: UInt64) throws(Failure) {
        let place = Self.firstClaim + pack
        try claims.withLock { (claims) throws(Failure) in
            // Nobody locks it exclusively.
            if claims[pack] == nil { _ = try file.tryLock(place..<place + 1, exclusive: false) }
            claims[pack, default: 0] += 1
        }
    }

    /// Takes one claim back.
    public func release(_ pack: UInt64) {
        let place = Self.firstClaim + pack
        claims.withLock { claims in
            guard let count = claims[pack] else { return }
            claims[pack] = count > 1 ? count - 1 : nil
            // If it can't be unlocked, the pack is not collected before the process ends.
            if count == 1 { try? file.unlock(place..<place + 1) }
        }
    }

    /// Whether anybody claims a pack.
    public func isClaimed(_ pack: UInt64) throws(Failure) -> Bool {
        let place = Self.firstClaim + pack
        if claims.withLock({ $0[pack] != nil }) { return true }
        return try file.isLockedElsewhere(place..<place + 1)
    }
}
