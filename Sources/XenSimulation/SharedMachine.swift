import CXen
import Glibc
import System
import XenBus

/// The descriptors that another process inherits to be a domain of a `SimulatedMachine`.
///
/// Data goes through shared memory and events through eventfds: as on Xen, neither needs a third party. For all else (xenstore,
/// grants not seen before, binding) the process that has the machine is asked.
public struct SharedDescriptors: Sendable {
    /// The machine's memory.
    public let memory: Int32
    /// Readable when a watch event waits.
    public let store: Int32
    /// Written to when an event is sent to the guest.
    public let guestEvents: Int32
    /// The socket for calls and their answers, a packet each (SOCK_SEQPACKET).
    public let calls: Int32
    /// An event channel each: readable when an event is pending.
    public let events: [Int32]

    init(memory: Int32, store: Int32, guestEvents: Int32, calls: Int32, events: [Int32]) {
        self.memory = memory
        self.store = store
        self.guestEvents = guestEvents
        self.calls = calls
        self.events = events
    }

    /// Those of a process that has inherited `all` in this order, from descriptor `first` on.
    public init(inheritedFrom first: Int32, channels: Int = 1) {
        self.init(
            memory: first, store: first + 1, guestEvents: first + 2, calls: first + 3, events: (0..<Int32(channels)).map { first + 4 + $0 })
    }

    /// All of them, in the order in which they are to be inherited.
    public var all: [Int32] { [memory, store, guestEvents, calls] + events }
}

/// What is asked of the process that has the machine.
enum SharedCall: UInt8 {
    case read, write, makeDirectory, remove, list, setPermissions, watch, unwatch, nextWatchEvent, isIntroduced
    case beginTransaction, endTransaction, bind, unbind, findPages
}

/// A call or an answer: a code, and fields, each of which is its length in 32 bits and its bytes.
struct SharedMessage {
    /// The call; or 0 for an answer, 1 for "there is none", 2 for a failure.
    var code: UInt8
    var fields: [[UInt8]] = []

    /// Most bytes of a message: a packet's.
    static let limit = 128 << 10

    init(_ code: UInt8, _ fields: [[UInt8]] = []) {
        self.code = code
        self.fields = fields
    }

    /// Nil when it is malformed.
    init?(_ bytes: ArraySlice<UInt8>) {
        guard let code = bytes.first else { return nil }
        self.code = code
        var rest = bytes.dropFirst()
        while !rest.isEmpty {
            guard rest.count >= 4 else { return nil }
            let length = (0..<4).reduce(0) { $0 | Int(rest[rest.startIndex + $1]) << ($1 * 8) }
            rest = rest.dropFirst(4)
            guard length <= rest.count else { return nil }
            fields.append(Array(rest[..<(rest.startIndex + length)]))
            rest = rest.dropFirst(length)
        }
    }

    var bytes: [UInt8] {
        fields.reduce(into: [code]) { bytes, field in
            bytes += (0..<4).map { UInt8(truncatingIfNeeded: field.count >> ($0 * 8)) } + field
        }
    }

    func text(_ index: Int) -> String { index < fields.count ? String(decoding: fields[index], as: UTF8.self) : "" }
    func number(_ index: Int) -> Int { Int(text(index)) ?? 0 }

    /// Sends it as one packet.
    func send(to socket: Int32) throws(Failure) {
        let bytes = bytes
        let sent = unsafe bytes.span.withUnsafeBufferPointer { unsafe Glibc.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        guard sent == bytes.count else { throw Failure(.system, "call", "the other process of a simulated machine", systemError(errno)) }
    }

    /// Waits for a packet. Nil: the other process is gone.
    static func receive(from socket: Int32) -> SharedMessage? {
        var buffer = [UInt8](repeating: 0, count: limit)
        var count = 0
        repeat { count = unsafe recv(socket, &buffer, limit, 0) } while count < 0 && errno == EINTR
        return count > 0 ? SharedMessage(buffer[..<count]) : nil
    }
}

/// A field of a message.
func field(_ value: some CustomStringConvertible) -> [UInt8] { Array(value.description.utf8) }
