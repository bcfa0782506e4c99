import ArgumentParser
import BlockModel
import Glibc
import Store

@main
struct DedupDisk: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dedupdisk",
        abstract: "Virtual disks that store every block once.",
        discussion: """
            A store is a directory: --store DIR, else $DEDUPDISK_STORE, else /var/lib/dedupdisk. Sizes are bytes, or \
            numbers with K, M, G, T (powers of 1024; KiB, MiB, GiB, TiB are the same).

            Exit status: 0 done, 1 failed, 3 damage found, 64 wrong usage.
            """,
        version: "0.1.0",
        subcommands: [
            Connect.self, BackendCommand.self, Serve.self, Create.self, Resize.self, Delete.self, List.self, Import.self, Export.self,
            Map.self, Stats.self, Check.self, Collect.self,
        ])

    /// Runs the command line. Every failure becomes one line on standard error, and an exit status.
    static func main() {
        do {
            dieOfBusErrorsInWords()
            dieOfDamagedPagesInWords()
            Store.tuneAllocator()
            var command = try parseAsRoot()
            try command.run()
        } catch let failure as Failure {
            Console.complain("\(failure)")
            DedupDisk.exit(withError: ExitCode(status(of: failure)))
        } catch let code as ExitCode {
            DedupDisk.exit(withError: code)
        } catch where exitCode(for: error) == .success {
            DedupDisk.exit(withError: error)  // --help, --version
        } catch {
            Console.complain("\(message(for: error)) (see: dedupdisk help)")
            DedupDisk.exit(withError: ExitCode.validationFailure)
        }
    }

    private static func status(of failure: Failure) -> Int32 {
        switch failure.kind {
        case .usage: ExitCode.validationFailure.rawValue
        case .damage: 3
        default: 1
        }
    }

    /// A page of LMDB whose flags are damaged may be taken for one that may be written where it lies, in a map that is only to
    /// be read: SEGV_ACCERR of sigaction(2). Anything else is a fault of this program, and dies as it would have.
    private static func dieOfDamagedPagesInWords() {
        var action = sigaction()
        action.sa_flags = SA_SIGINFO
        unsafe action.__sigaction_handler.sa_sigaction = { _, information, _ in
            guard let information = unsafe information, unsafe information.pointee.si_code == 2 else {
                var before = unsafe segmentationActionBefore
                unsafe sigaction(SIGSEGV, &before, nil)
                return
            }
            let line: StaticString = "dedupdisk: store: its database is damaged: a page of it can't be what it says (restore it from a copy)\n"
            _ = unsafe write(2, line.utf8Start, line.utf8CodeUnitCount)
            _exit(3)
        }
        unsafe sigaction(SIGSEGV, &action, &segmentationActionBefore)
    }

    /// A page of the store that the disk under it can't give, or that somebody cut off, is a SIGBUS at first touch.
    private static func dieOfBusErrorsInWords() {
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_handler = { _ in
            let line: StaticString = "dedupdisk: store: a page of it cannot be read: an I/O error, or its file was cut short (see the system's log; restore it from a copy)\n"
            _ = unsafe write(2, line.utf8Start, line.utf8CodeUnitCount)
            _exit(3)
        }
        unsafe sigaction(SIGBUS, &action, nil)
    }
}

/// What a SIGSEGV did before: written before any thread is started, read in the signal's handler.
nonisolated(unsafe) private var segmentationActionBefore = sigaction()
