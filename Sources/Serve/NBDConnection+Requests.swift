import Activity
import BlockModel
import NBD
import System

/// What is done for each kind of request.
extension NBDConnection {
    /// Checks a request, and does it. What is refused is not counted.
    mutating func perform(_ request: Request) throws(Disconnection) {
        let range: SectorRange?
        do throws(ErrorCode) {
            range = try request.check(export, session)
        } catch {
            common.log("a client's request \(request.rawCommand) for \(request.length) bytes at \(request.offset) was refused: \(error)")
            try skipPayload(request.payloadByteCount)
            return try fail(request, error)
        }
        guard let kind = Activity.Kind(request.command) else { return try perform(request, range) }
        let began = beginWork()
        try perform(request, range)
        noteWork(kind, byteCount: range == nil ? 0 : UInt64(request.length), since: began)
    }

    /// Does a request that was checked.
    private mutating func perform(_ request: Request, _ range: SectorRange?) throws(Disconnection) {
        if request.command == .write, let range, isReceived(range) { return join(request, range) }
        try performWaiting()
        guard let range else { return try finish(request, nil, needsFlush: !export.isReadOnly) }
        switch request.command {
        case .read: try read(request, range)
        case .write: try write(request, range)
        case .trim: try change(request, range) { (connection: borrowing Self) throws(Failure) in try connection.device.discard(range) }
        case .writeZeroes: try writeZeroes(request, range)
        case .blockStatus: try tellStatus(request, range)
        // `check` knows no sectors for these.
        case .flush, .disconnect, nil: break
        }
    }

    // MARK: Reads

    /// Reads straight to where the reply is sent from. A large reply goes out in pieces while it is read. When the disk fails in the
    /// middle, the rest of a chunk is zeros, and another chunk tells of the failure. Behind a simple reply nothing can be told, so
    /// that the connection ends.
    private mutating func read(_ request: Request, _ range: SectorRange) throws(Disconnection) {
        let total = Int(request.length)
        guard total > 0 else { return try answerWithoutData(request) }
        var failure: (code: ErrorCode, offset: UInt64)?
        var done = 0
        while done < total {
            let piece = done..<min(total, done + largestPiece)
            try makeRoom(Reply.dataHeaderByteCount + piece.count)
            do throws(Failure) {
                if failure == nil { try append(piece, of: request, range) }
            } catch {
                failure = (try common.report(error, request), request.offset + UInt64(done))
            }
            if let failure {
                // Nothing of it is on its way yet.
                if done == 0 { return try fail(request, failure.code) }
                guard session.isStructured else { throw .broken }
                output.append(piece.count) { $0.zero(at: 0, count: piece.count) }
            }
            done = piece.upperBound
            if output.count >= enoughToSend { try send() }
        }
        if let failure {
            try makeRoom(Reply.errorOffsetChunkByteCount)
            output.append(Reply.errorOffsetChunkByteCount) { Reply.error(request.cookie, failure.code, at: failure.offset, into: &$0) }
        } else if total > largestPiece, session.isStructured {
            try answerWithoutData(request)
        }
    }

    /// Appends a piece of the data, behind the reply's header if it is the first; nothing when the disk fails.
    private mutating func append(_ piece: Range<Int>, of request: Request, _ range: SectorRange) throws(Failure) {
        let isStructured = session.isStructured
        let headerByteCount = piece.lowerBound > 0 ? 0 : isStructured ? Reply.dataHeaderByteCount : Reply.simpleByteCount
        try output.append(headerByteCount + piece.count) { [device] (bytes) throws(Failure) in
            if headerByteCount > 0, isStructured {
                // A chunk is the last when no failure can follow it.
                Reply.dataHeader(
                    request.cookie, offset: request.offset, byteCount: Int(request.length),
                    isLast: request.length == piece.count, into: &bytes)
            } else if headerByteCount > 0 {
                Reply.simple(request.cookie, nil, into: &bytes)
            }
            var data = bytes._mutatingExtracting(droppingFirst: headerByteCount)
            try device.read(at: range.start + UInt64(piece.lowerBound / sectorSize), into: &data)
        }
    }

    /// The end of a read that has no data, or has sent all of it.
    private mutating func answerWithoutData(_ request: Request) throws(Disconnection) {
        guard session.isStructured else { return try answer(request.cookie, nil) }
        try makeRoom(Reply.chunkHeaderByteCount)
        output.append(Reply.chunkHeaderByteCount) { Reply.chunk(.none, request.cookie, byteCount: 0, isLast: true, into: &$0) }
    }

    // MARK: Changes

    /// Whether all data of a write is there.
    private func isReceived(_ range: SectorRange) -> Bool { !range.isEmpty && range.count <= UInt64(input.count / sectorSize) }

    /// Has a write wait for those that came with it.
    private mutating func join(_ request: Request, _ range: SectorRange) {
        let count = Int(range.count) * sectorSize
        parts.append(WritePart(sector: range.start, range: input.position..<input.position + count))
        waiting.append(request)
        input.consume(count)
    }

    /// Does the writes that wait: together, or, where that fails, one by one, so that only those fail that can't be done.
    mutating func performWaiting() throws(Disconnection) {
        guard !waiting.isEmpty else { return }
        // Private memory: what is hashed is what is stored. If it fails, each is written by itself, which tells what is wrong with which.
        let isDone = parts.count > 1 && (try? device.write(parts.span, of: input.memory)) != nil
        // To answer may lead here again, which must find none waiting.
        var requests: [Request] = []
        swap(&requests, &waiting)
        defer {
            swap(&requests, &waiting)
            waiting.removeAll(keepingCapacity: true)
            parts.removeAll(keepingCapacity: true)
        }
        for (index, request) in requests.enumerated() {
            var error: ErrorCode?
            if !isDone {
                do throws(Failure) {
                    try device.write(at: parts[index].sector, input.memory.extracting(parts[index].range))
                } catch let failure {
                    error = try common.report(failure, request)
                }
            }
            try finish(request, error, needsFlush: request.flags.contains(.fua))
        }
    }

    /// Pieces go to the disk as they come, each when it is whole: where the client goes in the middle, each sector is old or new.
    private mutating func write(_ request: Request, _ range: SectorRange) throws(Disconnection) {
        var sector = range.start
        var error: ErrorCode?
        while sector < range.end, error == nil {
            let count = min(Int(range.end - sector) * sectorSize, largestPiece)
            try receive(count)
            do throws(Failure) {
                // Private memory: what is hashed is what is stored.
                try device.write(at: sector, input.bytes.extracting(first: count))
            } catch let failure {
                error = try common.report(failure, request)
            }
            input.consume(count)
            sector += UInt64(count / sectorSize)
        }
        try skipPayload(Int(range.end - sector) * sectorSize)
        try finish(request, error, needsFlush: request.flags.contains(.fua))
    }

    /// Waits for so much of a request's data.
    private mutating func receive(_ byteCount: Int) throws(Disconnection) {
        guard input.count < byteCount else { return }
        // The client may wait for answers before it sends more.
        try answerAll()
        guard input.receive(byteCount, from: socket) else { throw .gone }
    }

    /// Takes the data of a request that is not done, so that the next one is found behind it.
    private mutating func skipPayload(_ byteCount: Int) throws(Disconnection) {
        var left = byteCount
        while left > 0 {
            let count = min(left, largestPiece)
            try receive(count)
            input.consume(count)
            left -= count
        }
    }

    /// A range that is discarded reads as zeros, which is all that is asked, unless it has to be stored.
    private mutating func writeZeroes(_ request: Request, _ range: SectorRange) throws(Disconnection) {
        guard request.flags.contains(.noHole) else {
            return try change(request, range) { (connection: borrowing Self) throws(Failure) in try connection.device.discard(range) }
        }
        // To store zeros takes as long as to store anything.
        if request.flags.contains(.fastZero) { return try finish(request, .notSupported, needsFlush: false) }
        try change(request, range) { (connection: borrowing Self) throws(Failure) in
            let zeros = NBDCommon.zeros
            var sector = range.start
            while sector < range.end {
                let count = min(range.end - sector, UInt64(largestPiece / sectorSize))
                try connection.device.write(at: sector, zeros.rawBytes.extracting(first: Int(count) * sectorSize))
                sector += count
            }
        }
    }

    private mutating func change(
        _ request: Request, _ range: SectorRange, _ body: (borrowing Self) throws(Failure) -> Void
    ) throws(Disconnection) {
        // It may take long, and what was done before need not wait for it.
        try send()
        var error: ErrorCode?
        if !range.isEmpty {
            do throws(Failure) { try body(self) } catch let failure { error = try common.report(failure, request) }
        }
        try finish(request, error, needsFlush: request.flags.contains(.fua))
    }

    // MARK: Status

    /// Says where the disk has holes: from the range's beginning on, as far as a bounded number of looks at the map goes.
    private mutating func tellStatus(_ request: Request, _ range: SectorRange) throws(Disconnection) {
        do throws(Failure) {
            try gatherExtents(of: range, atMost: request.flags.contains(.reqOne) ? 1 : mostExtents)
        } catch {
            return try fail(request, try common.report(error, request))
        }
        try makeRoom(Reply.statusHeaderByteCount + extents.count * Reply.extentByteCount)
        let count = extents.count
        output.append(Reply.statusHeaderByteCount) { Reply.statusHeader(request.cookie, extentCount: count, into: &$0) }
        for extent in extents {
            // No longer than the request, whose length has 32 bits: nothing is cut.
            let byteCount = UInt32(clamping: extent.count * UInt64(sectorSize))
            output.append(Reply.extentByteCount) { Reply.extent(byteCount: byteCount, isHole: extent.isHole, into: &$0) }
        }
    }

    /// Neighbours that are alike become one.
    private mutating func gatherExtents(of range: SectorRange, atMost most: Int) throws(Failure) {
        extents.removeAll(keepingCapacity: true)
        var sector = range.start
        var looks = 0
        while sector < range.end, looks < mostLooks {
            let found = try device.extent(at: sector, limit: range.end - sector)
            let count = max(1, min(found.count, range.end - sector))
            if let last = extents.last, last.isHole == found.isHole {
                extents[extents.count - 1] = Extent(isHole: last.isHole, count: last.count + count)
            } else {
                guard extents.count < most else { return }
                extents.append(Extent(isHole: found.isHole, count: count))
            }
            sector += count
            looks += 1
        }
    }

    // MARK: Ends

    /// Answers a request without data, now or after the next flush.
    private mutating func finish(_ request: Request, _ error: ErrorCode?, needsFlush: Bool) throws(Disconnection) {
        guard error == nil, needsFlush else { return try answer(request.cookie, error) }
        unflushed.append(request.cookie)
        if unflushed.count >= mostUnflushed { try answerAll() }
    }

    private mutating func fail(_ request: Request, _ error: ErrorCode) throws(Disconnection) {
        // Requests that ask for data are answered in chunks, if the client chose these.
        guard session.isStructured, request.command == .read || request.command == .blockStatus else {
            return try answer(request.cookie, error)
        }
        try makeRoom(Reply.errorChunkByteCount)
        output.append(Reply.errorChunkByteCount) { Reply.error(request.cookie, error, into: &$0) }
    }
}

extension Activity.Kind {
    /// What a request is counted as; nil: it is not counted.
    fileprivate init?(_ command: Command?) {
        switch command {
        case .read: self = .read
        case .write: self = .write
        case .trim, .writeZeroes: self = .discard
        case .flush: self = .flush
        case .blockStatus, .disconnect, nil: return nil
        }
    }
}

extension NBDCommon {
    /// Logs why a request failed.
    /// - Returns: what the client is told.
    /// - Throws: `.gone` for a change that was waiting for room in the store when it might wait no longer: it is not answered, so that the client may ask
    ///   again.
    fileprivate func report(_ failure: Failure, _ request: Request) throws(Disconnection) -> ErrorCode {
        if failure.kind == .interrupted { throw .gone }
        log("a client's request \(request.rawCommand) for \(request.length) bytes at \(request.offset) failed: \(failure)")
        return ErrorCode(failure)
    }
}

/// So many bytes of answers are sent, though more will come.
let enoughToSend = 256 << 10
/// Most extents of one answer, and most looks for them.
let mostExtents = 1024
private let mostLooks = 4096
