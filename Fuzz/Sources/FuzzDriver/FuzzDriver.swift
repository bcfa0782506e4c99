import CLibFuzzer
public import DiskExercise
import Glibc

/// Runs libFuzzer with the command line's arguments. `target` gets the bytes of an input; what is wrong makes it trap.
public func fuzz(_ target: @escaping (Script) -> Void) -> Never {
    current = target
    var count = CommandLine.argc
    var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
    exit(
        LLVMFuzzerRunDriver(&count, &arguments) { data, size in
            current?(Script(Array(UnsafeBufferPointer(start: data, count: size))))
            return 0
        })
}

/// Ends the run with an error unless `isTrue`. (A precondition that fails says nothing in an optimised build.)
public func require(_ isTrue: Bool, _ error: @autoclosure () -> String, file: StaticString = #file, line: UInt = #line) {
    if !isTrue { fatalError(error(), file: file, line: line) }
}

/// memcmp(3): arrays compare their elements one by one, and each comparison is instrumented.
public func isSame(_ bytes: [UInt8], _ others: [UInt8]) -> Bool {
    bytes.count == others.count && memcmp(bytes, others, bytes.count) == 0
}

/// A C function can't capture anything. Set once, before the one thread that uses it starts.
private nonisolated(unsafe) var current: ((Script) -> Void)?
