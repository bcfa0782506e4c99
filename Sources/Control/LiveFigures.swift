public import Activity
internal import Disk
internal import FoundationEssentials
public import Store
internal import System

/// What the one who serves a disk knows of it at the moment. A later version may leave nothing of it out, and add what may be missing.
public struct LiveFigures: Codable, Sendable {
    /// Bytes of writes that were answered, and are not in the store yet.
    public let stagedBytes: UInt64
    /// Seconds since something of them went into the store; nil: nothing has.
    public let secondsSinceCommit: Double?
    public let activity: Activity.Figures

    init(_ disk: StoreDisk, _ activity: Activity) {
        stagedBytes = disk.stagedBytes
        secondsSinceCommit = disk.secondsSinceCommit
        self.activity = activity.figures
    }

    /// A line of JSON.
    var line: String? {
        // There is nothing in it that can't be said.
        (try? JSONEncoder().encode(self)).map { String(decoding: $0, as: UTF8.self) }
    }

    /// Seconds in which servers have to answer who only wants to look.
    private static let patience = 1.0

    /// Asks those that have disks to write to, all at once. Of a disk that nobody has, or whose server does not answer, or is of another version,
    /// nothing is known.
    public static func ask(for names: [String], of store: Store) -> [String: LiveFigures] {
        var asked: [(name: String, socket: LocalSocket)] = []
        for name in names {
            // Whoever can't be asked has nothing to say.
            guard let record = try? store.disk(name), let socket = try? LocalSocket.connect(to: store.controlPath(of: record.number)),
                socket.send("figures")
            else { continue }
            asked.append((name, socket))
        }
        let end = monotonicSeconds() + patience
        var found: [String: LiveFigures] = [:]
        for (name, socket) in asked {
            guard case .line(let line) = socket.receive(within: end - monotonicSeconds()), line.hasPrefix("figures ") else { continue }
            // Another version may say something else.
            found[name] = try? JSONDecoder().decode(LiveFigures.self, from: Data(line.dropFirst(8).utf8))
        }
        return found
    }
}
