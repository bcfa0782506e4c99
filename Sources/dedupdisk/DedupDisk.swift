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
        // Each says its name: to make one of its type's takes the runtime a quarter of the time in which a command starts.
        subcommands: [
            Connect.self, BackendCommand.self, Serve.self, Create.self, Rename.self, Resize.self, Delete.self, List.self, Snapshot.self, Clone.self,
            Rollback.self, Prune.self, Diff.self, Import.self, Export.self, Map.self, Stats.self, Check.self, Collect.self, Maintain.self, Change.self,
            Get.self,
        ])

    /// Runs the command line. Every failure becomes one line on standard error, and an exit status.
    ///
    /// The process ends without exit(3), which would tear down what threads still use, those that hash for example.
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

    /// Runs a command.
    /// - Returns: the exit status.
    /// - Throws: the failure that is to be told.
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

    /// To write beyond a limit of files (ulimit -f) is to be an error of the call, not a signal. Nor is a job in the background to be stopped by its
    /// terminal (stty tostop), as that may be in the middle of a commit, with the store's lock.
    private static func surviveLimits() {
        for number in [SIGXFSZ, SIGTTOU] { _ = signal(number, SIG_IGN) }
    }

    /// LMDB trusts its pages: a damaged one may lead it, or whoever reads what it returns, to memory that is not there or can't be written
    /// (SIGSEGV), or make it damage the allocator's, which then aborts (SIGABRT). This program's own code is memory-safe but for what is
    /// marked `unsafe`: should that be at fault, SWIFT_BACKTRACE gives a backtrace instead of the line.
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

    /// A page of the store that can't be read from the disk, or is beyond the end of a file that was cut short, is a SIGBUS when it is first touched.
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

/// The end of a signal's handler: status 3; but what serves a disk dies of the signal, so that whoever supervises it starts it again.
@unsafe private func die(of number: Int32, saying line: StaticString) {
    _ = unsafe write(2, line.utf8Start, line.utf8CodeUnitCount)
    guard unsafe isServing else { _exit(3) }
    signal(number, SIG_DFL)
    raise(number)  // It takes effect when the handler returns.
}

/// Whether the command serves a disk. Written before there is another thread; read in handlers of signals and by those who tell events.
nonisolated(unsafe) var isServing = false
