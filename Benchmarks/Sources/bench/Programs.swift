import Glibc
import System
import TestSupport

/// Where a program is; nil when it is not installed.
func find(_ program: String) -> String? {
    if program.contains("/") { return access(program, X_OK) == 0 ? program : nil }
    let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
    return path.split(separator: ":").map { "\($0)/\(program)" }.first { access($0, X_OK) == 0 }
}

/// Runs a program to its end.
/// - Throws: when there is none, when it fails, or when it takes longer than `limit` seconds.
@discardableResult
func succeed(_ program: String, _ arguments: [String], environment: [String: String] = [:], limit: Double = 600) throws -> String {
    guard let path = find(program) else { throw Failure(.notFound, .named(program), "not installed") }
    let outcome = try Child(path, arguments, environment: environment).wait(limit: limit)
    guard outcome.status == 0 else {
        let why = outcome.hasTimedOut ? "took longer than \(Int(limit)) s" : outcome.errorLines.last.map(String.init) ?? "failed"
        throw Failure(.system, "\(program) \(arguments.first ?? "")", why)
    }
    return outcome.text
}
