internal import System

/// Waits until something is so, looking again and again.
/// - Parameter limit: seconds after which nobody looks any more: many times what it takes, as the machine may be busy with other things.
/// - Returns: whether it is so.
@discardableResult
public func waitUntil(limit: Double = 120, _ isSo: () throws -> Bool) rethrows -> Bool {
    let end = monotonicSeconds() + limit
    while try !isSo() {
        if monotonicSeconds() > end { return try isSo() }
        pause(milliseconds: 2)
    }
    return true
}
