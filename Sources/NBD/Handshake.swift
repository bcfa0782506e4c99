internal import BlockModel
internal import System

/// The server's side of a fixed newstyle handshake, over bytes: what a client sends goes in, the answers come out.
///
///     server                               client
///     greeting: magics, flags
///                                          flags                           4 bytes
///                                          magic, option, length, data     16 bytes and the data, again and again
///     magic, option, kind, length, data
///                                          …, until an option ends it
///
/// Where a client does not speak the protocol, or asks for something that has no answer but the end of the connection, `receive` throws a `Violation`.
public struct Handshake: Sendable {
    private let export: Export
    private var state = State.clientFlags
    private var sendsZeroes = true
    private var session = Session()

    private enum State {
        case clientFlags
        case option
        /// An option is too large: so many of its bytes are still to come.
        case skipping(option: UInt32, left: Int)
        case ended
    }

    /// What became of the bytes.
    public enum Progress: Sendable, Equatable {
        /// So many bytes were taken: go on behind them.
        case consumed(Int)
        /// Not a whole message yet.
        case incomplete
        /// Requests follow behind so many bytes.
        case transmission(Session, consumed: Int)
        /// The client has said goodbye.
        case aborted
    }

    /// For the one export that there is.
    public init(_ export: Export) { self.export = export }

    /// What the server says first.
    public static var greeting: [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(big: Magic.greeting)
        bytes.append(big: Magic.option)
        bytes.append(big: UInt16(HandshakeFlags.all.rawValue))
        return bytes
    }

    /// Takes one message from the start of `input`, and appends to `output` what it is answered with: no more than the export's name and some
    /// hundred bytes.
    /// - Throws: when no answer is left but the end of the connection.
    public mutating func receive(_ input: RawSpan, _ output: inout [UInt8]) throws(Violation) -> Progress {
        switch state {
        case .clientFlags: return try receiveFlags(input)
        case .skipping(let option, let left): return skip(option, left, input, &output)
        case .option: return try receiveOption(input, &output)
        case .ended: return .aborted
        }
    }

    private mutating func receiveFlags(_ input: RawSpan) throws(Violation) -> Progress {
        guard input.byteCount >= 4 else { return .incomplete }
        let flags = HandshakeFlags(rawValue: input.big(at: 0))
        guard HandshakeFlags.all.isSuperset(of: flags) else { throw Violation("client flags 0x\(String(flags.rawValue, radix: 16))") }
        sendsZeroes = !flags.contains(.noZeroes)
        state = .option
        return .consumed(4)
    }

    private mutating func receiveOption(_ input: RawSpan, _ output: inout [UInt8]) throws(Violation) -> Progress {
        guard input.byteCount >= optionHeaderBytes else { return .incomplete }
        guard input.big(at: 0) == Magic.option else { throw Violation("no option where one should be") }
        let option: UInt32 = input.big(at: 8)
        let length = Int(input.big(at: 12, as: UInt32.self))
        guard length <= maximumOptionBytes else {
            // No export has such a name, and this option has no answer that says so.
            if option == Option.exportName.rawValue { throw Violation("an export name of \(length) bytes") }
            state = .skipping(option: option, left: length)
            return .consumed(optionHeaderBytes)
        }
        guard input.byteCount - optionHeaderBytes >= length else { return .incomplete }
        let data = input.extracting(optionHeaderBytes..<optionHeaderBytes + length)
        return try answer(option, data, consumed: optionHeaderBytes + length, &output)
    }

    private mutating func skip(_ option: UInt32, _ left: Int, _ input: RawSpan, _ output: inout [UInt8]) -> Progress {
        let count = min(left, input.byteCount)
        guard count > 0 else { return .incomplete }
        if count == left {
            state = .option
            reply(.tooBig, to: option, &output)
        } else {
            state = .skipping(option: option, left: left - count)
        }
        return .consumed(count)
    }

    // MARK: Options

    private mutating func answer(
        _ rawOption: UInt32, _ data: RawSpan, consumed: Int, _ output: inout [UInt8]
    ) throws(Violation) -> Progress {
        guard let option = Option(rawValue: rawOption) else {
            reply(.unsupported, to: rawOption, &output)
            return .consumed(consumed)
        }
        switch option {
        case .exportName:
            guard names(data) else { throw Violation("an unknown export") }
            appendExport(&output)
            if sendsZeroes { output.append(contentsOf: repeatElement(0, count: 124)) }
            state = .ended
            return .transmission(session, consumed: consumed)
        case .abort:
            reply(.acknowledged, to: rawOption, &output)
            state = .ended
            return .aborted
        case .list: list(data, &output)
        case .info, .go:
            if describe(option, data, &output), option == .go {
                state = .ended
                return .transmission(session, consumed: consumed)
            }
        case .structuredReply:
            session.isStructured = session.isStructured || data.isEmpty
            reply(data.isEmpty ? .acknowledged : .invalid, to: rawOption, &output)
        case .listMetaContext, .setMetaContext: metaContext(option, data, &output)
        }
        return .consumed(consumed)
    }

    /// Whether `name` is the export's, byte for byte, or empty.
    private func names(_ name: RawSpan) -> Bool { name.isEmpty || name.equals(export.name) }

    private func appendExport(_ output: inout [UInt8]) {
        output.append(big: export.byteCount)
        output.append(big: export.flags(isStructured: session.isStructured).rawValue)
    }

    private func list(_ data: RawSpan, _ output: inout [UInt8]) {
        let option = Option.list.rawValue
        guard data.isEmpty else { return reply(.invalid, to: option, &output) }
        reply(.server, to: option, &output) { data in
            data.append(big: UInt32(export.name.utf8.count))
            data.append(contentsOf: export.name.utf8)
        }
        reply(.acknowledged, to: option, &output)
    }

    /// Answers `info` and `go`: length and name, number of wishes, the wishes in 16 bits each.
    /// - Returns: whether the export is the one that was asked for.
    private func describe(_ option: Option, _ data: RawSpan, _ output: inout [UInt8]) -> Bool {
        var fields = Fields(data)
        guard let name = fields.string(), let count = fields.next(UInt16.self), fields.left == Int(count) * 2 else {
            reply(.invalid, to: option.rawValue, &output)
            return false
        }
        guard names(name) else {
            reply(.unknown, to: option.rawValue, &output)
            return false
        }
        var wantsName = false
        while let wish = fields.next(UInt16.self) { if wish == Information.name.rawValue { wantsName = true } }
        reply(.info, to: option.rawValue, &output) { data in
            data.append(big: Information.export.rawValue)
            appendExport(&data)
        }
        if wantsName {
            reply(.info, to: option.rawValue, &output) { data in
                data.append(big: Information.name.rawValue)
                data.append(contentsOf: export.name.utf8)
            }
        }
        reply(.info, to: option.rawValue, &output) { data in
            data.append(big: Information.blockSize.rawValue)
            for size in [minimumTransfer, preferredTransfer, maximumTransfer] { data.append(big: UInt32(size)) }
        }
        reply(.acknowledged, to: option.rawValue, &output)
        return true
    }

    /// Answers a question for contexts, or a choice of them: length and name of the export, number of queries, length and text
    /// of each. There is one context.
    private mutating func metaContext(_ option: Option, _ data: RawSpan, _ output: inout [UInt8]) {
        var fields = Fields(data)
        guard session.isStructured, let name = fields.string(), let count = fields.next(UInt32.self) else {
            return reply(.invalid, to: option.rawValue, &output)
        }
        // Without queries, a question is for all contexts, and a choice is of none.
        var isMatched = option == .listMetaContext && count == 0
        // Each round takes bytes, and they are bounded, whatever the number says.
        for _ in 0..<count {
            guard let query = fields.string() else { return reply(.invalid, to: option.rawValue, &output) }
            if query.equals(allocationContext) || option == .listMetaContext && query.equals("base:") { isMatched = true }
        }
        guard fields.left == 0 else { return reply(.invalid, to: option.rawValue, &output) }
        guard names(name) else { return reply(.unknown, to: option.rawValue, &output) }
        if option == .setMetaContext { session.hasAllocation = isMatched }
        if isMatched {
            reply(.metaContext, to: option.rawValue, &output) { data in
                data.append(big: option == .setMetaContext ? allocationContextID : 0)
                data.append(contentsOf: allocationContext.utf8)
            }
        }
        reply(.acknowledged, to: option.rawValue, &output)
    }

    private func reply(
        _ kind: OptionReply, to option: UInt32, _ output: inout [UInt8], _ fill: (inout [UInt8]) -> Void = { _ in }
    ) {
        var data: [UInt8] = []
        fill(&data)
        output.append(big: Magic.optionReply)
        output.append(big: option)
        output.append(big: kind.rawValue)
        output.append(big: UInt32(data.count))
        output += data
    }
}

/// A client did something that the protocol has no answer for: the connection is to end.
public struct Violation: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// Bytes of an option's data at most: an option with more is skipped, and answered as too big.
public let maximumOptionBytes = 1 << 16
private let optionHeaderBytes = 16
private let allocationContext = "base:allocation"
/// The context's number in requests of this server.
let allocationContextID: UInt32 = 1

/// Fields of an option's data, one after the other. Nil: there are not enough bytes.
private struct Fields: ~Escapable {
    private let data: RawSpan
    private var offset = 0

    @_lifetime(copy data)
    init(_ data: RawSpan) { self.data = data }

    var left: Int { data.byteCount - offset }

    mutating func next<Integer: FixedWidthInteger & BitwiseCopyable>(_ type: Integer.Type) -> Integer? {
        guard left >= MemoryLayout<Integer>.size else { return nil }
        defer { offset += MemoryLayout<Integer>.size }
        return data.big(at: offset)
    }

    /// A string behind its length in 32 bits.
    @_lifetime(copy self)
    mutating func string() -> RawSpan? {
        guard let count = next(UInt32.self), left >= Int(count) else { return nil }
        defer { offset += Int(count) }
        return data.extracting(offset..<offset + Int(count))
    }
}

extension RawSpan {
    fileprivate func equals(_ text: String) -> Bool {
        guard byteCount == text.utf8.count else { return false }
        for (index, byte) in text.utf8.enumerated() where load(at: index, as: UInt8.self) != byte { return false }
        return true
    }
}
