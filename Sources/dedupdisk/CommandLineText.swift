import ArgumentParser
import CProcess
import Glibc
import System

/// What the process was started with, byte for byte: bytes that are no UTF-8 are as `PathText` holds them. `CommandLine.arguments`
/// would put U+FFFD in their places, and has nothing where there is no /proc.
enum CommandLineText {
    /// The arguments behind the program's name.
    static let arguments: [String] = (1..<max(1, cprocess_argument_count())).compactMap { index in
        unsafe cprocess_argument(index).map { unsafe PathText.text($0) }
    }

    /// The value of an environment variable; nil when it is not set.
    static func variable(_ name: String) -> String? { unsafe getenv(name).map { unsafe PathText.text($0) } }

    /// Reads a name, of a disk or a VM: text, of which nothing stands for a byte.
    static func name(_ argument: String) throws -> String {
        guard let name = String(validating: PathText.bytes(argument), as: UTF8.self) else { throw ValidationError("names are UTF-8, and this is not") }
        return name
    }
}
