import Glibc
import Synchronization
public import System

/// Requests to stop, from signals or other threads, which wake whoever polls `descriptor`. The first one asks to end
/// in order, a second one to end at once. A request to hand over asks to end and to leave all as it is for a successor.
public final class StopRequest: Sendable {
    private let doorbell: Doorbell
    private let handsOver = Atomic(false)

    /// What `sendOnSignals` listens to.
    private static let signals = [SIGINT, SIGTERM, SIGHUP]
    private static let stop: UInt8 = 1
    private static let handOver: UInt8 = 2

    public init() throws(Failure) { doorbell = try Doorbell() }

    /// Readable while there are requests that `take` has not seen.
    public var descriptor: Int32 { doorbell.descriptor }

    /// Asks to stop.
    public func send() { doorbell.ring(Self.stop) }

    /// Asks to hand over.
    public func sendHandOver() { doorbell.ring(Self.handOver) }

    /// Number of requests to stop since the last call.
    public func take() -> Int {
        let tones = doorbell.take()
        if tones.contains(Self.handOver) { handsOver.store(true, ordering: .relaxed) }
        return tones.count { $0 == Self.stop }
    }

    /// Whether a request to hand over was among those that `take` has seen.
    public var isHandOver: Bool { handsOver.load(ordering: .relaxed) }

    /// From now on SIGINT, SIGTERM and SIGHUP ask to stop, but for those in `handOver`, which ask to hand over. This must live as
    /// long as the process.
    public func sendOnSignals(handOver: [Int32] = []) {
        signalSender.store(doorbell.sender, ordering: .relaxed)
        // Under nohup(1), which ignores SIGHUP for us, it stays ignored. A shell's script has what it starts in the background ignore SIGINT, too,
        // and yet that is how README has a disk unplugged: whoever sends it means it.
        for number in Self.signals where !handOver.contains(number) && !(number == SIGHUP && Self.isIgnored(number)) {
            Self.handle(number) { _ in
                let interrupted = errno
                Doorbell.ring(signalSender.load(ordering: .relaxed), StopRequest.stop)
                errno = interrupted
            }
        }
        for number in handOver where !Self.isIgnored(number) {
            Self.handle(number) { _ in
                let interrupted = errno
                Doorbell.ring(signalSender.load(ordering: .relaxed), StopRequest.handOver)
                errno = interrupted
            }
        }
    }

    /// From now on these signals go to other threads than this one, and than those that it starts: they should interrupt no call to a disk.
    static func leaveSignalsToOthers() {
        var blocked = sigset_t()
        unsafe sigemptyset(&blocked)
        for number in signals { unsafe sigaddset(&blocked, number) }
        unsafe pthread_sigmask(SIG_BLOCK, &blocked, nil)
    }

    private static func isIgnored(_ number: Int32) -> Bool {
        var action = sigaction()
        _ = unsafe sigaction(number, nil, &action)
        return unsafe unsafeBitCast(action.__sigaction_handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
    }

    private static func handle(_ number: Int32, _ handler: @escaping @convention(c) (Int32) -> Void) {
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_handler = handler
        _ = unsafe sigaction(number, &action, nil)
    }
}

/// Where signals go: a handler can't capture anything.
private let signalSender = Atomic<Int32>(-1)
