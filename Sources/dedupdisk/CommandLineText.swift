import ArgumentParser
import CProcess
import Glibc
import System

/// The arguments and the environment of the process, byte for byte: bytes that are not UTF-8 are as `PathText` has them. `CommandLine.arguments`
/// would put U+FFFD in their places, and has nothing where there is no /proc.
enum CommandLineText {
    /// The arguments behind the program's name.
    static let arguments: [String] = (1..<max(1, cprocess_argument_count())).compactMap { index in
        unsafe cprocess_argument(index).map { unsafe PathText.text($0) }
    }

    /// The value of an environment variable; nil when it is not set.
    static func variable(_ name: String) -> String? { unsafe getenv(name).map { unsafe PathText.text($0) } }

    /// Reads the name of a disk or a VM: UTF-8, else wrong usage.
    static func name(_ argument: String) throws -> String {
        guard let name = String(validating: PathText.bytes(argument), as: UTF8.self) else { throw ValidationError("names are UTF-8, and this is not") }
        return name
    }
}
