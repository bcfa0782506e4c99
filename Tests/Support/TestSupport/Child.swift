public import Glibc
public import System

/// A process under test: started at once, watched with a time limit, never left behind.
public final class Child {
    /// Where standard input comes from.
    public enum Input { case nothing, file(String), pipe }
    /// Where standard output goes to.
    public enum Output { case captured, file(String) }

    /// What became of the process.
    public struct Outcome: Sendable {
        /// Exit status; nil: a signal ended it.
        public let status: Int32?
        /// The signal that ended it.
        public let signal: Int32?
        public let hasTimedOut: Bool
        public let output: [UInt8]
        public let errors: String

        /// Standard output as text.
        public var text: String { String(decoding: output, as: UTF8.self) }
        /// Lines of standard error.
        public var errorLines: [Substring] { errors.split(separator: "\n") }
    }

    public let process: pid_t
    private var input: Int32 = -1
    private var output: Int32 = -1
    private var errors: Int32 = -1
    private var hasEnded = false

    nonisolated(unsafe) private static let lock = {
        let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
        return unsafe mutex
    }()

    /// Starts `executable`.
    /// - Parameters:
    ///   - environment: all variables that it has, besides PATH, LD_LIBRARY_PATH and TMPDIR of this process.
    ///   - inherited: descriptors that it has as 3, 4, ...
    public init(
        _ executable: String, _ arguments: [String], environment: [String: String] = [:], input: Input = .nothing,
        output: Output = .captured, inherited: [Int32] = []
    ) throws(Failure) {
        // A child that is gone is an error of write(2), not the end of the tests.
        _ = signal(SIGPIPE, SIG_IGN)
        // One child at a time: the ends of a pipe are closed on exec only some moments after they are made, and another child would inherit them.
        unsafe pthread_mutex_lock(Self.lock)
        defer { unsafe pthread_mutex_unlock(Self.lock) }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        var ours: [Int32] = []
        var theirs: [Int32] = []
        defer { for end in theirs { close(end) } }
        func pipe(to descriptor: Int32, reading: Bool) throws(Failure) -> Int32 {
            var ends: [Int32] = [-1, -1]
            guard unsafe Glibc.pipe(&ends) == 0 else { throw Failure(systemCall: "make", "a pipe", errno: errno) }
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            let (mine, its) = reading ? (ends[0], ends[1]) : (ends[1], ends[0])
            ours.append(mine)
            theirs.append(its)
            unsafe posix_spawn_file_actions_adddup2(&actions, its, descriptor)
            return mine
        }
        var ends: (input: Int32, output: Int32, errors: Int32) = (-1, -1, -1)
        switch input {
        case .nothing: unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        case .file(let path): unsafe posix_spawn_file_actions_addopen(&actions, 0, path, O_RDONLY, 0)
        case .pipe: ends.input = try pipe(to: 0, reading: false)
        }
        switch output {
        case .captured: ends.output = try pipe(to: 1, reading: true)
        case .file(let path): unsafe posix_spawn_file_actions_addopen(&actions, 1, path, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
        }
        ends.errors = try pipe(to: 2, reading: true)
        for (index, descriptor) in inherited.enumerated() {
            // Far from the places that they are to take, so that none is overwritten before its turn.
            let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 64)
            guard copy >= 0 else { throw Failure(systemCall: "copy", "a descriptor", errno: errno) }
            theirs.append(copy)
            unsafe posix_spawn_file_actions_adddup2(&actions, copy, Int32(3 + index))
        }
        // Threads of a pool block signals, which children inherit; and nohup(1), or a script that runs tests in the background, has some ignored.
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        var plain = sigset_t()
        unsafe sigemptyset(&none)
        unsafe sigemptyset(&plain)
        for number in [SIGPIPE, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP] { unsafe sigaddset(&plain, number) }
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &plain)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var variables = environment
        for name in ["PATH", "LD_LIBRARY_PATH", "TMPDIR"] where variables[name] == nil {
            if let value = unsafe getenv(name) { variables[name] = unsafe String(cString: value) }
        }
        var pid: pid_t = 0
        let code = unsafe Self.withCStrings([executable] + arguments) { arguments in
            unsafe Self.withCStrings(variables.map { "\($0)=\($1)" }) { variables in
                unsafe posix_spawn(&pid, executable, &actions, &attributes, arguments, variables)
            }
        }
        guard code == 0 else {
            for end in ours { close(end) }
            throw Failure(systemCall: "start", .file(executable), errno: code)
        }
        process = pid
        self.input = ends.input
        self.output = ends.output
        self.errors = ends.errors
    }

    deinit {
        if !hasEnded {
            Glibc.kill(process, SIGKILL)
            waitpid(process, nil, 0)
        }
        for end in [input, output, errors] where end >= 0 { close(end) }
    }

    /// The strings as a null-terminated array, for the length of `body`.
    private static func withCStrings<Result>(
        _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        let list = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: strings.count + 1)
        for (index, string) in strings.enumerated() { unsafe list[index] = unsafe PathText.withCString(string) { unsafe strdup($0) } }
        unsafe list[strings.count] = nil
        defer {
            for index in strings.indices { unsafe free(list[index]) }
            unsafe list.deallocate()
        }
        return unsafe body(list)
    }

    /// Writes to its standard input, as much as it takes. False: it does not read any more.
    @discardableResult
    public func send(_ bytes: [UInt8]) -> Bool {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.span.withUnsafeBufferPointer { unsafe write(input, $0.baseAddress.map { unsafe $0 + done }, bytes.count - done) }
            if count < 0, errno != EINTR { return false }
            done += max(0, count)
        }
        return true
    }

    public func closeInput() {
        if input >= 0 { close(input) }
        input = -1
    }

    public func kill(_ signal: Int32) { if !hasEnded { Glibc.kill(process, signal) } }

    /// What has come from standard output, waiting for something for `limit` seconds at most; empty: nothing came, or it is at its end.
    public func receive(limit: Double) -> [UInt8] { Self.receive(from: output, limit: limit) }

    /// The same of standard error. What is taken here is not in the outcome.
    public func receiveErrors(limit: Double) -> String { String(decoding: Self.receive(from: errors, limit: limit), as: UTF8.self) }

    /// What it says on standard error until these words are in it and their line is whole; less at its end, or when they do not come for long. What is
    /// taken here is not in the outcome.
    public func receiveErrors(until words: String) -> String {
        let deadline = Self.seconds() + Self.patience
        var said: [UInt8] = []
        while true {
            let text = String(decoding: said, as: UTF8.self)
            if text.contains(words), text.hasSuffix("\n") { return text }
            let bytes = Self.receive(from: errors, limit: max(0, deadline - Self.seconds()))
            guard !bytes.isEmpty else { return text }
            said += bytes
        }
    }

    /// Seconds for what a process of the tests does: many times what any of them takes, as the machine may be busy with other things. What hangs
    /// hangs longer.
    public static let patience = 600.0

    private static func receive(from descriptor: Int32, limit: Double) -> [UInt8] {
        let deadline = seconds() + limit
        while true {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let ready = unsafe poll(&entry, 1, Int32(max(0, (deadline - seconds()) * 1000)))
            // A signal that is for a test of signals.
            if ready < 0, errno == EINTR { continue }
            return ready > 0 ? take(from: descriptor) ?? [] : []
        }
    }

    /// Waits for the end, reading all that the process writes; kills it after `limit` seconds.
    public func wait(limit: Double = Child.patience) -> Outcome {
        closeInput()
        var gathered: [[UInt8]] = [[], []]
        var open = [output, errors]
        let deadline = Self.seconds() + limit
        var hasTimedOut = false
        while open.contains(where: { $0 >= 0 }) {
            var entries = open.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            let ready = unsafe poll(&entries, 2, Int32(max(0, (deadline - Self.seconds()) * 1000)))
            if ready == 0, !hasTimedOut {
                hasTimedOut = true
                Glibc.kill(process, SIGKILL)
                // A child of its own may still have its pipes open: their end is not waited for.
                break
            }
            for index in 0..<2 where entries[index].revents != 0 {
                guard let bytes = Self.take(from: open[index]) else {
                    open[index] = -1
                    continue
                }
                // More than a test could want is not kept.
                if gathered[index].count < 256 << 20 { gathered[index] += bytes }
            }
        }
        var status: Int32 = 0
        // It may have closed its output long before its end.
        while !hasTimedOut, unsafe waitpid(process, &status, Int32(WNOHANG)) == 0 {
            if Self.seconds() > deadline {
                hasTimedOut = true
                Glibc.kill(process, SIGKILL)
            } else {
                usleep(1000)
            }
        }
        if hasTimedOut { while unsafe waitpid(process, &status, 0) < 0, errno == EINTR {} }
        hasEnded = true
        let signal = status & 0x7f
        return Outcome(
            status: signal == 0 ? status >> 8 & 0xff : nil, signal: signal == 0 ? nil : signal, hasTimedOut: hasTimedOut,
            output: gathered[0], errors: String(decoding: gathered[1], as: UTF8.self))
    }

    /// The next bytes, or nil at the end.
    private static func take(from descriptor: Int32) -> [UInt8]? {
        let chunk = 1 << 16
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: chunk) { buffer, count in
            repeat { count = unsafe read(descriptor, buffer.baseAddress, chunk) } while count < 0 && errno == EINTR
            count = max(0, count)
        }
        return bytes.isEmpty ? nil : bytes
    }

    private static func seconds() -> Double {
        var now = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &now)
        return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
    }

    /// An executable that was built with these tests.
    public static func built(_ name: String) throws(Failure) -> String {
        var path = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink("/proc/self/exe", &path, 4095)
        let this = String(decoding: path.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let found = this.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/" + name
        guard unsafe access(found, X_OK) == 0 else { throw Failure(systemCall: "find", .file(found), errno: errno) }
        return found
    }
}
