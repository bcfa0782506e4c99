import CLibFuzzer
public import DiskExercise
import Glibc

/// Runs libFuzzer with the command line's arguments. `target` gets the bytes of an input; what is wrong makes it trap.
public func fuzz(_ target: @escaping (Script) -> Void) -> Never {
    current = target
    var count = CommandLine.argc
    var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
    exit(LLVMFuzzerRunDriver(&count, &arguments) { data, size in
        current?(Script(Array(UnsafeBufferPointer(start: data, count: size))))
        return 0
    })
}

/// A C function can't capture anything. Set once, before the one thread that uses it starts.
private nonisolated(unsafe) var current: ((Script) -> Void)?
