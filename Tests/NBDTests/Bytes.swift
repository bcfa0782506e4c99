// Big-endian numbers and messages, put together and taken apart without the help of what is tested.

func u16(_ value: Int) -> [UInt8] { big(UInt64(value), 2) }
func u32(_ value: UInt64) -> [UInt8] { big(value, 4) }
func u64(_ value: UInt64) -> [UInt8] { big(value, 8) }
func text(_ value: String) -> [UInt8] { Array(value.utf8) }
/// A string behind its length.
func counted(_ value: String) -> [UInt8] { u32(UInt64(value.utf8.count)) + text(value) }

private func big(_ value: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).reversed().map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}

func number(_ bytes: some Sequence<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

/// An option as a client sends it.
func option(_ number: UInt64, _ data: [UInt8] = []) -> [UInt8] {
    text("IHAVEOPT") + u32(number) + u32(UInt64(data.count)) + data
}

/// The data of INFO and GO.
func wish(_ name: String, _ kinds: [Int] = []) -> [UInt8] { counted(name) + u16(kinds.count) + kinds.flatMap { u16($0) } }
/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
func contexts(_ name: String, _ queries: [String]) -> [UInt8] {
    counted(name) + u32(UInt64(queries.count)) + queries.flatMap { counted($0) }
}

/// An answer to an option.
struct OptionAnswer: Equatable {
    let option, kind: UInt64
    let data: [UInt8]

    /// All answers in `bytes`; nil when it is not a row of whole ones.
    static func all(_ bytes: [UInt8]) -> [OptionAnswer]? {
        var answers: [OptionAnswer] = []
        var rest = bytes[...]
        while !rest.isEmpty {
            guard rest.count >= 20, number(rest.prefix(8)) == 0x3e889045565a9 else { return nil }
            let fields = Array(rest.prefix(20)), length = Int(number(fields[16..<20]))
            guard rest.count >= 20 + length else { return nil }
            answers.append(
                OptionAnswer(
                    option: number(fields[8..<12]), kind: number(fields[12..<16]), data: Array(rest.dropFirst(20).prefix(length))))
            rest = rest.dropFirst(20 + length)
        }
        return answers
    }
}

func request(
    _ command: Int, offset: UInt64 = 0, length: UInt64 = 0, flags: Int = 0, cookie: UInt64 = 1, data: [UInt8] = []
) -> [UInt8] {
    u32(0x25609513) + u16(flags) + u16(command) + u64(cookie) + u64(offset) + u32(length) + data
}
