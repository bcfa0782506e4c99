import ArgumentParser
import Glibc
import Store
import System

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
        version: programVersion,
        subcommands: [
            Connect.self, BackendCommand.self, Serve.self, Create.self, Rename.self, Resize.self, Delete.self, List.self, Snapshot.self, Clone.self,
            Rollback.self, Prune.self, Diff.self, Import.self, Export.self, Map.self, Stats.self, Check.self, Collect.self, Maintain.self, Change.self,
            Get.self,
        ])

    /// Runs the command line. Every failure becomes one line on standard error, and an exit status.
    ///
    /// The process goes without exit(3): threads that are at work, as those that hash, would find what they use torn down.
    static func main() {
        let status: Int32
        do {
            surviveLimits()
            dieOfBusErrorsInWords()
            dieOfDamagedPagesInWords()
            dieOfAssertionsInWords()
            Store.tuneAllocator()
            deferTerminalStops()
            status = try run(CommandLineText.arguments)
        } catch {
            Console.complain("\(error.advised)")
            status = self.status(of: error)
        }
        Console.end(status)
    }

    /// The exit status of a command line that got as far as to have one.
    private static func run(_ arguments: [String]) throws(Failure) -> Int32 {
        do {
            var command = try parseAsRoot(arguments)
            unsafe isServing = command is Connect || command is Serve || command is BackendCommand
            // Reading a command line takes more memory than waiting for requests does.
            if unsafe isServing { Store.trimAllocator() }
            try command.run()
            return 0
        } catch let failure as Failure {
            throw failure
        } catch let code as ExitCode {
            return code.rawValue
        } catch where exitCode(for: error) == .success {
            try Console.print(fullMessage(for: error))  // --help, --version
            return 0
        } catch {
            Console.complain(usage(arguments.first ?? "", message(for: error)))
            return ExitCode.validationFailure.rawValue
        }
    }

    /// What is wrong with a command line that begins with `word`, and where it says how it is done.
    private static func usage(_ word: String, _ message: String) -> String {
        let isCommand = configuration.subcommands.contains { $0._commandName == word }
        guard isCommand || ["", "help"].contains(word) || word.hasPrefix("-") else { return "\(word): no such command (see: dedupdisk help)" }
        return "\(message) (see: dedupdisk help\(isCommand ? " " + word : ""))"
    }

    private static func status(of failure: Failure) -> Int32 {
        switch failure.kind {
        case .usage: ExitCode.validationFailure.rawValue
        case .damage: 3
        default: 1
        }
    }

    /// A file that is larger than a limit allows (ulimit -f) is an error of the call, and a terminal that is another job's no
    /// reason to stop in the middle of a commit, with the store's lock.
    private static func surviveLimits() {
        for number in [SIGXFSZ, SIGTTOU] { _ = signal(number, SIG_IGN) }
    }

    /// LMDB believes its pages, and so may a damaged one lead it, or whoever reads what it gives, to where no memory is or none
    /// that may be written, or have it spoil the allocator's, which aborts. This program's own code is memory-safe but for what
    /// it marks: should that be at fault, whoever asks for a backtrace gets it.
    private static func dieOfDamagedPagesInWords() {
        guard unsafe getenv("SWIFT_BACKTRACE") == nil else { return }
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_handler = { number in
            let line: StaticString = """
                dedupdisk: memory was touched that cannot be: the store's database is damaged, or this is a fault of dedupdisk \
                (restore the store from a copy; with SWIFT_BACKTRACE=enable=yes the same command tells where)

                """
            unsafe die(of: number, saying: line)
        }
        for signal in [SIGSEGV, SIGABRT] { unsafe sigaction(signal, &action, nil) }
    }

    /// LMDB has found a page that it can't go on with.
    private static func dieOfAssertionsInWords() {
        Store.endProcess { text in
            Console.complain("the store's database is damaged: \(text) (restore it from a copy)")
            _exit(3)
        }
    }

    /// A page of the store that the disk under it can't give, or that somebody cut off, is a SIGBUS at first touch.
    private static func dieOfBusErrorsInWords() {
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_handler = { number in
            let line: StaticString =
                "dedupdisk: store: a page of it cannot be read: an I/O error, or its file was cut short (see the system's log; restore it from a copy)\n"
            unsafe die(of: number, saying: line)
        }
        unsafe sigaction(SIGBUS, &action, nil)
    }
}

/// The end of a signal's handler. What serves a guest still dies of the signal, so that whoever watches over it starts it again.
@unsafe private func die(of number: Int32, saying line: StaticString) {
    _ = unsafe write(2, line.utf8Start, line.utf8CodeUnitCount)
    guard unsafe isServing else { _exit(3) }
    signal(number, SIG_DFL)
    raise(number)  // When the handler returns.
}

/// Written before any thread is started, read in a signal's handler and by who tells what.
nonisolated(unsafe) var isServing = false
