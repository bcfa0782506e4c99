import System

@testable import Disk

/// A place for one journal, of each kind, which is opened again and again.
struct JournalPlace {
    enum Kind: CaseIterable { case file, memory }

    let kind: Kind
    private let path: String
    let memory = MemoryJournal()

    init(_ kind: Kind, _ path: String) {
        self.kind = kind
        self.path = path
    }

    func open(byteCount: UInt64) throws(Failure) -> any JournalStorage {
        switch kind {
        case .file: try FileJournalStorage(try File(path: path, options: [.write, .create]), byteCount: byteCount)
        case .memory: MemoryJournalStorage(memory, byteCount: byteCount)
        }
    }
}
