internal import Glibc

/// Paths are bytes, whatever encoding they are in; a String is of valid Unicode. This is how the one holds the other without a
/// loss: what is valid UTF-8 stands for itself, and each byte of what is not is the scalar U+10FF00 + byte, from U+10FF80 on. (A
/// path that has such scalars itself, which nobody uses, has their bytes written that way.) So a path from the command line, the
/// environment or realpath(3) may be put together and passed on like any other text, and `bytes` gives exactly what came.
///
/// The functions below that have the names of system calls take such paths. They are chosen before those of Glibc wherever this
/// module is imported, so that no path reaches the system in another way.
public enum PathText {
    /// The scalars that stand for bytes.
    static let escapes: ClosedRange<UInt32> = 0x10_ff80...0x10_ffff

    /// The text for a path.
    public static func text(_ bytes: some Sequence<UInt8>) -> String {
        var text = String.UnicodeScalarView()
        var parser = Unicode.UTF8.ForwardParser()
        var bytes = Array(bytes)[...]
        while let first = bytes.first {
            var iterator = bytes.makeIterator()
            if case .valid(let encoded) = parser.parseScalar(from: &iterator), !escapes.contains(Unicode.UTF8.decode(encoded).value) {
                text.append(Unicode.UTF8.decode(encoded))
                bytes = bytes.dropFirst(encoded.count)
            } else {
                // A parser keeps what it has looked at.
                text.append(escape(first))
                bytes = bytes.dropFirst()
            }
            parser = Unicode.UTF8.ForwardParser()
        }
        return String(text)
    }

    /// The same for a C string.
    @unsafe public static func text(_ path: UnsafePointer<CChar>) -> String {
        let bytes = unsafe UnsafeRawBufferPointer(start: path, count: strlen(path))
        return unsafe String(validating: bytes, as: UTF8.self).flatMap { mayHaveEscapes($0) ? nil : $0 } ?? text(Array(bytes))
    }

    /// The path's bytes, without a 0 behind them.
    public static func bytes(_ text: String) -> [UInt8] {
        guard mayHaveEscapes(text) else { return Array(text.utf8) }
        var bytes: [UInt8] = []
        for scalar in text.unicodeScalars {
            if escapes.contains(scalar.value) { bytes.append(UInt8(truncatingIfNeeded: scalar.value)) } else { bytes += Array(String(scalar).utf8) }
        }
        return bytes
    }

    /// `body` with the path as the system takes it, for the length of the call.
    @unsafe public static func withCString<Result, Error>(
        _ path: String, _ body: (UnsafePointer<CChar>) throws(Error) -> Result
    ) throws(Error) -> Result {
        var bytes = bytes(path).map { CChar(bitPattern: $0) }
        bytes.append(0)
        return unsafe try body(bytes)
    }

    /// The text as it can be shown: one line, that no terminal takes for an order and that reads in the order of its bytes.
    /// What is no valid UTF-8, breaks lines, is invisible or turns the direction of writing is `\x` and two digits for each byte.
    public static func shown(_ text: String) -> String {
        var shown = ""
        for scalar in text.unicodeScalars {
            if escapes.contains(scalar.value) {
                shown += hexadecimal(UInt8(truncatingIfNeeded: scalar.value))
            } else if isInvisible(scalar) {
                for byte in String(scalar).utf8 { shown += hexadecimal(byte) }
            } else {
                shown.unicodeScalars.append(scalar)
            }
        }
        return shown
    }

    /// Whether nobody can see the scalar, or it changes how others are seen: controls, formats, separators but the plain space,
    /// what stands for a byte, and what Unicode says is never a character.
    public static func isInvisible(_ scalar: Unicode.Scalar) -> Bool {
        if (0x20..<0x7f).contains(scalar.value) { return false }
        if escapes.contains(scalar.value) { return true }
        return switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .spaceSeparator: true
        default: scalar.properties.isDefaultIgnorableCodePoint || scalar.properties.isNoncharacterCodePoint
        }
    }

    private static func escape(_ byte: UInt8) -> Unicode.Scalar { Unicode.Scalar(0x10_ff00 + UInt32(byte)) ?? "\u{fffd}" }

    private static func hexadecimal(_ byte: UInt8) -> String { "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16) }

    /// Such scalars, and few others, begin with this byte.
    private static func mayHaveEscapes(_ text: String) -> Bool { text.utf8.contains(0xf4) }
}

extension String {
    /// Whether both have the same bytes. `==` is also true of texts that merely look the same (é is one scalar, or two), which
    /// the store, a filesystem and clients take for different names.
    public func hasSameBytes(as other: some StringProtocol) -> Bool { utf8.elementsEqual(other.utf8) }
}
