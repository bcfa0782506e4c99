import System

/// All text of a file of /proc, which has no size and comes in pieces.
func procText(_ path: String) throws -> String {
    let file = try File(path: path)
    var text: [UInt8] = [], chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = try chunk.withMutableBytes { (bytes) throws(Failure) in try file.readNext(into: &bytes) }
        if count == 0 { return String(decoding: text, as: UTF8.self) }
        text += chunk[..<count]
    }
}
