import BlockModel
import FuzzDriver
@testable import Serve
import System

/// Follows what a client sent and what it was answered, by the protocol's description alone, and knows what the disk must hold
/// afterwards. Traps at the first thing that is wrong.
struct Judge {
    private let deeds: Deeds
    private var sent: Reader
    private var received: Reader
    private var isStructured = false
    private var hasAllocation = false
    private var model: [UInt8]
    /// Sectors that a request which may have failed was about: they are one thing or the other.
    private var doubtful: [Bool]
    private var isAnythingDoubtful = false
    /// Requests, by their cookies, which the server must have answered.
    private var unanswered: [UInt64: Expectation] = [:]
    /// Two requests had one cookie: their answers can't be told apart.
    private var isAmbiguous = false
    /// Something came that is no request: what was to be answered with those before it need not be any more.
    private var isCutOff = false

    init(_ deeds: Deeds, _ received: [UInt8]) {
        self.deeds = deeds
        model = [UInt8](repeating: 0, count: deeds.diskSectors * sectorSize)
        doubtful = [Bool](repeating: false, count: deeds.diskSectors)
        sent = Reader(deeds.bytes)
        self.received = Reader(received)
    }

    mutating func judge() {
        require(received.take(18) == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3], "no greeting")
        guard shakeHands() else { return require(received.left == 0, "answers to nothing") }
        while followRequest() {}
        guard !isAmbiguous else { return }
        while received.left > 0, takeAnswer() {}
        require(unanswered.isEmpty || isCutOff || isAnythingDoubtful, "requests without an answer")
    }

    func compare(_ disk: [UInt8]) {
        if !isAnythingDoubtful { return require(isSame(disk, model), "the disk is not what was written") }
        for sector in doubtful.indices where !doubtful[sector] {
            let range = sector * sectorSize..<(sector + 1) * sectorSize
            require(isSame(Array(disk[range]), Array(model[range])), "sector \(sector) is not what was written")
        }
    }

    // MARK: Handshake

    /// Whether requests follow.
    private mutating func shakeHands() -> Bool {
        guard sent.left >= 4 else { return false }
        let flags = sent.number(4)
        guard flags <= 3 else { return false }
        while sent.left >= 16 {
            guard sent.take(8) == Array("IHAVEOPT".utf8) else { return false }
            let option = sent.number(4), length = Int(sent.number(4))
            if length > 65536, option == 1 { return false }
            guard sent.left >= length else { return false }
            let data = Reader(sent.take(length))
            switch option {
            case 1:
                guard isName(data.rest) else { return false }
                takeExport()
                if flags & 2 == 0 { require(received.take(124) == [UInt8](repeating: 0, count: 124), "no zeros") }
                return true
            case 2 where length <= 65536:
                require(takeReplies(to: option) == 1, "a goodbye without an answer")
                return false
            default:
                if answer(option, data, isTooLong: length > 65536) { return true }
            }
        }
        return false
    }

    /// Takes the answer to an option. True: requests follow.
    private mutating func answer(_ option: UInt64, _ data: Reader, isTooLong: Bool) -> Bool {
        let verdict = isTooLong ? 0x8000_0009 : verdict(option, data)
        let contexts = contextReplies, exports = exportReplies
        require(takeReplies(to: option) == verdict, "option \(option) was answered otherwise than with \(verdict)")
        guard verdict == 1 else { return false }
        switch option {
        case 6, 7: require(exportReplies == exports + 1, "a size, once")
        case 8: isStructured = true
        case 10: hasAllocation = contextReplies > contexts
        default: break
        }
        return option == 7
    }

    /// What ends the answer to an option: 1, or an error.
    private func verdict(_ option: UInt64, _ data: Reader) -> UInt64 {
        var data = data
        switch option {
        case 3, 8: return data.left == 0 ? 1 : 0x8000_0003
        case 6, 7:
            guard let name = data.counted(), data.left >= 2, Int(data.number(2)) * 2 == data.left else { return 0x8000_0003 }
            return isName(name) ? 1 : 0x8000_0006
        case 9, 10:
            guard isStructured, let name = data.counted(), data.left >= 4 else { return 0x8000_0003 }
            var queries = data.number(4)
            while queries > 0, data.counted() != nil { queries -= 1 }
            guard queries == 0, data.left == 0 else { return 0x8000_0003 }
            return isName(name) ? 1 : 0x8000_0006
        default: return 0x8000_0001
        }
    }

    private func isName(_ name: [UInt8]) -> Bool { name.isEmpty || name == Array(exportName.utf8) }

    private var contextReplies = 0
    private var exportReplies = 0

    /// Takes all replies to an option.
    /// - Returns: the last one's kind.
    private mutating func takeReplies(to option: UInt64) -> UInt64 {
        while true {
            require(received.left >= 20 && received.number(8) == 0x3_e889_0455_65a9, "no reply to option \(option)")
            require(received.number(4) == option, "a reply to another option")
            let kind = received.number(4)
            let length = Int(received.number(4))
            require(received.left >= length, "a reply that is cut off")
            let end = received.left - length
            switch kind {
            case 3 where length == 12 && received.peek(2) == 0:
                _ = received.number(2)
                takeExport()
                exportReplies += 1
            case 2, 3: _ = received.take(length)
            case 4:
                require(received.number(4) == (option == 10 ? 1 : 0), "another context")
                require(received.take(length - 4) == Array("base:allocation".utf8), "another context")
                contextReplies += 1
            default:
                require(length == 0 && (kind == 1 || kind >> 31 == 1), "a reply of kind \(kind)")
                return kind
            }
            require(received.left == end, "a reply of a wrong length")
        }
    }

    private mutating func takeExport() {
        require(received.left >= 10 && received.number(8) == UInt64(model.count), "another size")
        require(received.number(2) & 2 == (deeds.isReadOnly ? 2 : 0), "read-only or not")
    }

    // MARK: Requests

    private struct Expectation {
        let request: Header
        /// 0: none.
        let error: UInt64
        /// The disk may fail instead.
        let mayFail: Bool
        /// What a read finds.
        let data: [UInt8]
        /// Bytes of chunks so far.
        var gathered = 0
    }

    private struct Header {
        let flags, command, cookie, offset, length: UInt64
        var range: Range<Int> { Int(offset)..<Int(offset + length) }
    }

    /// Does the next request, if there is a whole one.
    private mutating func followRequest() -> Bool {
        guard sent.left >= 28 else { return false }
        isCutOff = sent.number(4) != 0x2560_9513
        guard !isCutOff else { return false }
        let request = Header(
            flags: sent.number(2), command: sent.number(2), cookie: sent.number(8), offset: sent.number(8), length: sent.number(4))
        guard request.command != 2 else { return false }
        let error = error(request)
        let payload = request.command == 1 ? sent.take(min(Int(request.length), sent.left)) : []
        var mayFail = false
        if error == 0, request.command != 3 { mayFail = apply(request, payload) } else { mayFail = deeds.failsFlush && error == 0 }
        if mayFail { isAnythingDoubtful = true }
        guard request.command != 1 || payload.count == Int(request.length) else { return false }
        let data = request.command == 0 && error == 0 && !mayFail ? Array(model[request.range]) : []
        let expectation = Expectation(request: request, error: error, mayFail: mayFail, data: data)
        if unanswered.updateValue(expectation, forKey: request.cookie) != nil { isAmbiguous = true }
        return !(request.command == 0 && error == 0 && endsConnection(request.range))
    }

    /// Whether a read fails behind its first piece: of that nothing can be told behind a simple reply, and no more is done.
    private func endsConnection(_ range: Range<Int>) -> Bool {
        let bad = Int(deeds.badSectors.lowerBound) * sectorSize..<Int(deeds.badSectors.upperBound) * sectorSize
        let first = range.lowerBound..<min(range.upperBound, range.lowerBound + largestPiece)
        return !isStructured && range.overlaps(bad) && !first.overlaps(bad)
    }

    /// What must be answered if the disk does not fail.
    private func error(_ request: Header) -> UInt64 {
        let allowed: [UInt64: UInt64] = [0: isStructured ? 5 : 1, 1: 1, 3: 1, 4: 1, 6: 1 | 2 | 16, 7: 1 | 8]
        guard let flags = allowed[request.command], request.flags & ~flags == 0 else { return 22 }
        if request.command == 3 { return 0 }
        let isChange = request.command == 1 || request.command == 4 || request.command == 6
        if isChange, deeds.isReadOnly { return 1 }
        if request.command <= 1, request.length > 32 << 20 { return 22 }
        if request.command == 7, !hasAllocation || request.length == 0 { return 22 }
        guard request.offset % 512 == 0, request.length % 512 == 0 else { return 22 }
        let (end, isTooFar) = request.offset.addingReportingOverflow(request.length)
        guard !isTooFar, end <= UInt64(model.count) else { return request.command == 1 || request.command == 6 ? 28 : 22 }
        return request.command == 6 && request.flags & 18 == 18 ? 95 : 0
    }

    /// Does a right request's change to the model, as far as its data came.
    /// - Returns: whether the disk may fail it.
    private mutating func apply(_ request: Header, _ payload: [UInt8]) -> Bool {
        let range = request.range
        let isChange = request.command == 1 || request.command == 4 || request.command == 6
        let sectors = range.lowerBound / sectorSize..<range.upperBound / sectorSize
        let meetsBad = sectors.overlaps(Int(deeds.badSectors.lowerBound)..<Int(deeds.badSectors.upperBound))
        let mayFail = meetsBad || isChange && deeds.failsFlush || request.flags & 1 == 1 && deeds.failsFlush
        if isChange, mayFail {
            for sector in sectors { doubtful[sector] = true }
        } else if request.command == 1 {
            // A piece that is cut off is not written.
            let count = payload.count == range.count ? payload.count : payload.count / largestPiece * largestPiece
            change(range.lowerBound..<range.lowerBound + count) { $0.copyBytes(from: payload.prefix(count)) }
        } else if isChange {
            change(range) { $0.initializeMemory(as: UInt8.self, repeating: 0) }
        } else if request.command == 0 {
            return mayFail || isAnythingDoubtful && sectors.contains { doubtful[$0] }
        }
        return mayFail
    }

    private mutating func change(_ range: Range<Int>, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
        guard !range.isEmpty else { return }
        model.withUnsafeMutableBytes { body(UnsafeMutableRawBufferPointer(rebasing: $0[range])) }
        if isAnythingDoubtful { for sector in range.lowerBound / sectorSize..<range.upperBound / sectorSize { doubtful[sector] = false } }
    }

    // MARK: Answers

    /// Takes a reply or a chunk. False: the connection ended within it.
    private mutating func takeAnswer() -> Bool {
        guard received.left >= 16 else { return end(isAllowed: isCutOff) }
        let magic = received.number(4)
        if magic == 0x6744_6698 { return takeSimple() }
        require(magic == 0x668e_33ef, "neither a reply nor a chunk")
        return takeChunk()
    }

    private mutating func end(isAllowed: Bool) -> Bool {
        require(isAllowed, "an answer that is cut off")
        return false
    }

    private mutating func takeSimple() -> Bool {
        let error = received.number(4), cookie = received.number(8)
        guard let expectation = unanswered.removeValue(forKey: cookie) else { fatalError("an answer to nothing") }
        let request = expectation.request
        require(!isStructured || request.command != 0 && request.command != 7, "a simple reply where chunks were chosen")
        check(error, expectation)
        guard request.command == 0, error == 0 else { return true }
        // Of a failure within the data nothing can be told.
        guard received.left >= Int(request.length) else { return end(isAllowed: isCutOff || expectation.mayFail) }
        let data = received.take(Int(request.length))
        require(expectation.mayFail || isSame(data, expectation.data), "other data than was written")
        return true
    }

    private func check(_ error: UInt64, _ expectation: Expectation) {
        let isRight = error == expectation.error || expectation.mayFail && error == 5
        require(isRight, "error \(error) for command \(expectation.request.command), not \(expectation.error)")
    }

    private mutating func takeChunk() -> Bool {
        let flags = received.number(2), kind = received.number(2), cookie = received.number(8)
        guard received.left >= 4, received.peek(4) + 4 <= received.left else { return end(isAllowed: isCutOff) }
        var data = Reader(received.take(Int(received.number(4))))
        guard var expectation = unanswered.removeValue(forKey: cookie) else { fatalError("a chunk for nothing") }
        let request = expectation.request
        require(isStructured && flags <= 1, "a chunk, or flags, that nobody wants")
        switch (kind, request.command) {
        case (0, 0):
            require(flags == 1 && data.left == 0, "an empty chunk that is not")
            check(0, expectation)
        case (1, 0):
            check(0, expectation)
            require(data.left > 8 && data.number(8) == request.offset + UInt64(expectation.gathered), "data of another place")
            let found = data.rest
            let range = expectation.gathered..<expectation.gathered + found.count
            expectation.gathered = range.upperBound
            require(range.upperBound <= Int(request.length), "more data than was asked for")
            require(expectation.mayFail || isSame(found, Array(expectation.data[range])), "other data than was written")
        case (5, 7):
            check(0, expectation)
            require(flags == 1 && data.left >= 12 && data.number(4) == 1, "no status of the context")
            takeExtents(&data, request)
        case (0x8001, 0), (0x8001, 7):
            require(flags == 1 && data.left == 6, "an error that is none")
            check(data.number(4), expectation)
            return true
        case (0x8002, 0):
            require(flags == 1 && data.left == 14 && expectation.mayFail && data.number(4) == 5, "an error that is none")
            return true
        default: fatalError("a chunk of kind \(kind) for command \(request.command)")
        }
        if flags == 0 {
            unanswered[cookie] = expectation
        } else {
            require(request.command != 0 || expectation.gathered == Int(request.length), "data is missing")
        }
        return true
    }

    private func takeExtents(_ data: inout Reader, _ request: Header) {
        var left = request.length
        while data.left >= 8 {
            let count = data.number(4), state = data.number(4)
            require(count > 0 && count % 512 == 0 && count <= left && (state == 0 || state == 3), "an extent that is none")
            left -= count
        }
        require(data.left == 0, "a part of an extent")
    }
}

/// Takes big-endian numbers and bytes from the front.
struct Reader {
    private let bytes: [UInt8]
    private var next = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var left: Int { bytes.count - next }
    var rest: [UInt8] { Array(bytes[next...]) }

    func peek(_ count: Int) -> UInt64 { bytes[next..<next + count].reduce(0) { $0 << 8 | UInt64($1) } }

    mutating func number(_ count: Int) -> UInt64 {
        defer { next += count }
        return peek(count)
    }

    /// As many as there are, if there are fewer.
    mutating func take(_ count: Int) -> [UInt8] {
        let end = next + min(count, left)
        defer { next = end }
        return Array(bytes[next..<end])
    }

    /// Bytes behind their number; nil: there are not so many.
    mutating func counted() -> [UInt8]? {
        guard left >= 4, peek(4) <= left - 4 else { return nil }
        return take(Int(number(4)))
    }
}
