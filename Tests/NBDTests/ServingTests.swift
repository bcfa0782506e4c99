import BlockModel
import Glibc
import Serve
import System
import Testing
import TestSupport

/// What honest clients do.
@Suite struct ServingTests {
    let disk = SharedDisk(sectorCount: 4096)
    let served: ServedDisk

    init() throws { served = try ServedDisk(disk) }

    @Test(arguments: [false, true]) func readsAndWrites(isStructured: Bool) throws {
        let client = try served.connected(isStructured: isStructured)
        #expect(try client.perform(request(1, offset: 512, length: 4096, data: block(7))) == 0)
        #expect(Array(disk.live[512..<4608]) == block(7))
        if isStructured {
            #expect(try client.read(offset: 512, length: 4096) == block(7))
            #expect(try client.read(offset: 512, length: 4096, flags: 4) == block(7))
            // Without data there is no chunk of data.
            client.send(request(0, cookie: 9))
            #expect(try client.answer() == Client.Answer(cookie: 9, kind: 0))
        } else {
            client.send(request(0, offset: 512, length: 4096, cookie: 9))
            #expect(try client.answer(dataCount: 4096) == Client.Answer(cookie: 9, data: block(7)))
            client.send(request(0, cookie: 9))
            #expect(try client.answer() == Client.Answer(cookie: 9))
        }
        #expect(try client.perform(request(1, length: 0)) == 0)
    }

    @Test func theOldWayIn() throws {
        let client = try served.client()
        #expect(client.receive(18) == text("NBDMAGICIHAVEOPT") + u16(3))
        // All at once, and a request right behind it.
        client.send(u32(1) + option(1, text("gold")) + request(0, length: 512, cookie: 3))
        #expect(client.receive(8 + 2 + 124).prefix(8) == u64(4096 * 512)[...])
        #expect(try client.answer(dataCount: 512) == Client.Answer(cookie: 3, data: [UInt8](repeating: 0, count: 512)))
    }

    @Test(arguments: [false, true]) func largeTransfers(isStructured: Bool) throws {
        let client = try served.connected(isStructured: isStructured)
        let data = (1...500).flatMap { block(UInt64($0)) }
        #expect(try client.perform(request(1, offset: 1024, length: UInt64(data.count), data: data)) == 0)
        #expect(Array(disk.live[1024..<1024 + data.count]) == data)
        if isStructured {
            for flags in [0, 4] { #expect(try client.read(offset: 1024, length: data.count, flags: flags) == data) }
        } else {
            client.send(request(0, offset: 1024, length: UInt64(data.count)))
            #expect(try client.answer(dataCount: data.count).data == data)
        }
        // Memory is bounded, whatever a request wants.
        #expect(disk.state.withLock { $0.largestTransfer } <= 256 << 10)
    }

    /// A chunk that is not to be fragmented is one.
    @Test func onlyOneChunk() throws {
        let client = try served.connected()
        client.send(request(0, length: 1 << 20, flags: 4))
        let first = try client.answer()
        #expect(first.kind == 1 && first.data.count == 8 + 1 << 20 && !first.isLast)
        #expect(try client.answer() == Client.Answer(cookie: 1, kind: 0))
    }

    /// Of those before the first other request: behind it there may be data.
    @Test func theDiskIsToldOfReadsThatComeTogether() throws {
        let client = try served.connected(isStructured: false)
        func read(_ offset: UInt64, _ length: UInt64) -> [UInt8] { request(0, offset: offset, length: length) }
        client.send(read(4096, 512))
        _ = try client.answer(dataCount: 512)
        #expect(disk.state.withLock { $0.expected } == [])
        // One is outside the disk.
        client.send(read(512, 512) + read(4096 * 512, 512) + read(8192, 1024) + request(3) + read(0, 512))
        _ = try client.answer(dataCount: 512)
        #expect(try client.answer().error == 22)
        _ = try client.answer(dataCount: 1024)
        _ = try client.answer(dataCount: 512)
        _ = try client.answer()
        #expect(disk.state.withLock { $0.expected } == [[SectorRange(start: 1, count: 1), SectorRange(start: 16, count: 2)].compactMap { $0 }])
    }

    @Test func manyRequestsAtOnce() throws {
        let client = try served.connected(isStructured: false)
        // As many as sockets hold: a client that takes no answers meanwhile would wait for itself.
        for first in stride(from: 0, to: 192, by: 16) as StrideTo<UInt64> {
            var all: [UInt8] = []
            for number in first..<first + 16 {
                all += request(1, offset: number * 4096, length: 4096, cookie: number, data: block(number))
                all += request(0, offset: number * 4096, length: 4096, cookie: 1000 + number)
            }
            client.send(all)
            for number in first..<first + 16 {
                #expect(try client.answer() == Client.Answer(cookie: number))
                #expect(try client.answer(dataCount: 4096) == Client.Answer(cookie: 1000 + number, data: block(number)))
            }
        }
    }

    @Test func writesThatComeTogetherAreGivenTogether() throws {
        let disk = disk
        let client = try served.connected()
        func write(_ place: UInt64, flags: Int = 0) -> [UInt8] {
            request(1, offset: place * 512, length: 512, flags: flags, cookie: place, data: [UInt8](repeating: UInt8(place), count: 512))
        }
        disk.state.withLock { $0.badSectors = 30..<31 }
        // One is outside the disk, one fails; the read sees what came before it.
        client.send(write(9) + write(3) + request(1, offset: 1 << 40, length: 512, cookie: 99, data: [UInt8](repeating: 1, count: 512)))
        client.send(write(20) + write(30) + write(5, flags: 1) + request(0, offset: 5 * 512, length: 512, cookie: 100) + write(6) + write(7))
        var errors: [UInt64: UInt64] = [:]
        for _ in 0..<9 {
            let answer = try client.answer()
            errors[answer.cookie] = answer.error
            if answer.cookie == 100 { #expect(answer.data.suffix(512) == [UInt8](repeating: 5, count: 512)) }
        }
        #expect(errors == [9: 0, 3: 0, 99: 28, 20: 0, 30: 5, 5: 0, 100: 0, 6: 0, 7: 0])
        for place in [9, 3, 20, 5, 6, 7] { #expect(disk.live[place * 512] == UInt8(place)) }
        for place in [9, 3, 20, 5] { #expect(disk.durable[place * 512] == UInt8(place)) }
        #expect(disk.live[30 * 512] == 0)
        // They may not all have come at once.
        #expect(disk.state.withLock { $0.writtenTogether }.contains { $0 > 1 })
    }

    @Test func zeroesAndTrims() throws {
        let disk = disk
        let client = try served.connected()
        func fill() throws { #expect(try client.perform(request(1, length: 1 << 20, data: [UInt8](repeating: 9, count: 1 << 20))) == 0) }
        // Trim, zeros, zeros that are stored, zeros at once.
        for (command, flags) in [(4, 0), (6, 0), (6, 2), (6, 16), (4, 1), (6, 3)] {
            try fill()
            #expect(try client.perform(request(command, offset: 512, length: 1 << 20 - 1024, flags: flags)) == 0, "\(command) \(flags)")
            #expect(disk.live.prefix(512).allSatisfy { $0 == 9 } && disk.live[512..<1 << 20 - 512].allSatisfy { $0 == 0 })
            #expect(disk.live[1 << 20 - 512..<1 << 20].allSatisfy { $0 == 9 })
        }
        // What has to be stored can't be fast.
        try fill()
        #expect(try client.perform(request(6, length: 4096, flags: 2 | 16)) == 95)
        #expect(disk.live[0] == 9)
        for command in [4, 6] { #expect(try client.perform(request(command, length: 0)) == 0) }
    }

    @Test func statusOfExtents() throws {
        let client = try served.connected()
        for sector in [0, 1, 2, 100, 4095] as [UInt64] {
            #expect(try client.perform(request(1, offset: sector * 512, length: 512, data: [UInt8](repeating: 1, count: 512))) == 0)
        }
        let all = try #require(try client.status(offset: 0, length: 4096 * 512))
        #expect(all.map(\.count) == [3, 97, 1, 3994, 1].map { $0 * 512 })
        #expect(all.map(\.isHole) == [false, true, false, true, false])
        let part = try #require(try client.status(offset: 1024, length: 1024))
        #expect(part.map(\.count) == [512, 512] && part.map(\.isHole) == [false, true])
        let one = try #require(try client.status(offset: 0, length: 4096 * 512, flags: 8))
        #expect(one.count == 1 && one[0].count == 1536)
        disk.state.withLock { $0.badSectors = 0..<1 }
        #expect(try client.status(offset: 0, length: 512) == nil)
    }

    /// A client asks again for what an answer does not cover.
    @Test func statusIsBounded() throws {
        let disk = SharedDisk(sectorCount: 8192)
        let served = try ServedDisk(disk)
        disk.state.withLock { state in for sector in stride(from: 0, to: 8192, by: 2) { state.live[sector * 512] = 1 } }
        let client = try served.connected()
        var offset: UInt64 = 0, answers = 0
        while offset < 8192 * 512 {
            let extents = try #require(try client.status(offset: offset, length: 8192 * 512 - offset))
            #expect(extents.count <= 1024)
            for extent in extents {
                #expect(extent.count == 512 && extent.isHole == (offset / 512 % 2 == 1))
                offset += extent.count
            }
            answers += 1
        }
        #expect(answers == 8)
    }

    /// What was refused, and what asks for nothing of the disk's data, is not counted; what failed is.
    @Test(arguments: [false, true]) func whatIsCounted(isStructured: Bool) throws {
        let client = try served.connected(isStructured: isStructured)
        disk.state.withLock { $0.badSectors = 16..<17 }
        // Refused: a length that is no multiple of 512, an unknown command, and a write behind the end, whose data comes all the same.
        let refused: [[UInt8]] = [
            request(0, length: 511), request(0xffff), request(1, offset: 4096 * 512, length: 512, data: [UInt8](repeating: 1, count: 512)),
        ]
        let done: [[UInt8]] = [
            request(1, length: 4096, data: block(1)), request(1, offset: 8192, length: 4096, flags: 1, data: block(2)), request(4, length: 1024),
            request(6, length: 512), request(3),
        ]
        let errors: [UInt64] = try (refused + done).map { bytes in try client.perform(bytes) }
        #expect(errors == [22, 22, 28, 0, 5, 0, 0, 0])
        client.send(request(0, offset: 4096, length: 512))
        #expect(try client.answer(dataCount: 512).error == 0)
        // All before this one was noted when this one is answered.
        #expect(try client.perform(request(7, length: 511)) == 22)
        let figures = served.activity.figures
        #expect(figures.queueDepth == 0)
        #expect(figures.read.requests == 1 && figures.read.bytes == 512)
        #expect(figures.write.requests == 2 && figures.write.bytes == 8192)
        #expect(figures.discard.requests == 2 && figures.discard.bytes == 1536)
        #expect(figures.flush.requests == 1 && figures.flush.bytes == 0)
    }

    @Test func whatHasToBeDurable() throws {
        let disk = disk
        let client = try served.connected()
        #expect(try client.perform(request(1, length: 4096, data: block(1))) == 0)
        #expect(disk.state.withLock { $0.flushes } == 0)
        #expect(try client.perform(request(3)) == 0)
        #expect(Array(disk.durable[0..<4096]) == block(1))
        #expect(try client.perform(request(1, offset: 4096, length: 4096, flags: 1, data: block(2))) == 0)
        #expect(Array(disk.durable[4096..<8192]) == block(2))
        for command in [4, 6] {
            #expect(try client.perform(request(command, offset: command == 4 ? 0 : 4096, length: 4096, flags: 1)) == 0)
        }
        #expect(disk.durable.prefix(8192).allSatisfy { $0 == 0 })
    }

    /// Requests that wait for durability share a flush.
    @Test func oneFlushForMany() throws {
        let client = try served.connected()
        var all: [UInt8] = []
        for number in 0..<8 as Range<UInt64> {
            all += request(1, offset: number * 512, length: 512, flags: 1, cookie: number, data: [UInt8](repeating: 1, count: 512))
        }
        client.send(all + request(3, cookie: 8))
        #expect(try Set((0...8).map { _ in try client.answer() }.map(\.cookie)) == Set(0...8))
        // They may not all have come at once.
        #expect(disk.state.withLock { $0.flushes } < 9)
        var many = (0..<800 as Range<UInt64>).flatMap {
            request(1, offset: $0 * 512, length: 512, flags: 1, cookie: $0, data: [UInt8](repeating: 2, count: 512))
        }
        client.send(many)
        #expect(try Set((0..<800).map { _ in try client.answer() }.map(\.cookie)) == Set(0..<800))
        #expect(disk.durable.prefix(800 * 512).allSatisfy { $0 == 2 })
        many = []
        for number in 0..<1000 as Range<UInt64> { many += request(3, cookie: number) }
        client.send(many)
        #expect(try Set((0..<1000).map { _ in try client.answer() }.map(\.cookie)) == Set(0..<1000))
    }

    @Test func aFlushIsForAllConnections() throws {
        let disk = disk
        let one = try served.connected(), other = try served.connected(isStructured: false)
        for number in 1...20 as ClosedRange<UInt64> {
            #expect(try one.perform(request(1, offset: number * 4096, length: 4096, data: block(number))) == 0)
            #expect(try other.perform(request(3)) == 0)
            #expect(Array(disk.durable[Int(number) * 4096..<Int(number + 1) * 4096]) == block(number))
            other.send(request(0, offset: number * 4096, length: 4096))
            #expect(try other.answer(dataCount: 4096).data == block(number))
        }
    }

    @Test func goodbyes() throws {
        let client = try served.connected()
        // What was asked before is answered.
        client.send(request(1, length: 512, flags: 1, cookie: 4, data: [UInt8](repeating: 1, count: 512)) + request(2))
        #expect(try client.answer() == Client.Answer(cookie: 4))
        #expect(client.isEnded)
        let early = try served.client()
        #expect(early.receive(18).count == 18)
        early.send(u32(3) + option(2))
        #expect(try early.optionAnswer().kind == 1)
        #expect(early.isEnded)
        #expect(served.log == [])
    }

    @Test func aReadOnlyDisk() throws {
        let served = try ServedDisk(SharedDisk(sectorCount: 8, isReadOnly: true, fill: 5))
        let client = try served.connected()
        #expect(try client.perform(request(1, length: 4096, data: block(1))) == 1)
        for command in [4, 6] { #expect(try client.perform(request(command, length: 4096)) == 1) }
        #expect(try client.perform(request(3)) == 0)
        #expect(try client.read(offset: 0, length: 4096) == [UInt8](repeating: 5, count: 4096))
    }

    @Test func overTCP() throws {
        let listener = try NBDListener(try NBDAddress(listen: "localhost:0"))
        guard case .tcp("127.0.0.1", let port) = listener.address, port > 0 else { throw Failure(.system, "listen", "\(listener.address)") }
        let stop = try StopRequest()
        let thread = ServerThread(disk, on: listener, stop)
        let client = try Client(port: port)
        try client.negotiate()
        #expect(try client.perform(request(1, length: 4096, data: block(3))) == 0)
        #expect(try client.read(offset: 0, length: 4096) == block(3))
        stop.send()
        #expect(client.isEnded)
        #expect(thread.outcome() == .stopped)
    }

    // MARK: A model

    /// Several connections, each with requests under way in its own part of the disk, and a model of it.
    @Test(arguments: 1...6 as ClosedRange<UInt64>) func aModelAgrees(seed: UInt64) throws {
        let connections = 4, sectors = 1024
        var random = SeededGenerator(seed: seed)
        let clients = try (0..<connections).map { try served.connected(isStructured: $0 % 2 == 0) }
        var model = ModelDisk(sectors: sectors * connections)
        for _ in 0..<40 {
            // All are sent before any is answered.
            let batches = (0..<connections).map { index in
                batch(&random, first: index * sectors, sectors: sectors, &model)
            }
            for (client, batch) in zip(clients, batches) { #expect(client.send(batch.flatMap(\.bytes))) }
            for (client, batch) in zip(clients, batches) {
                // Answers may come in any order, and say which they are.
                var open = Dictionary(uniqueKeysWithValues: batch.map { ($0.cookie, $0) })
                let isSimple = client === clients[1] || client === clients[3]
                while !open.isEmpty {
                    let answer = isSimple ? try simpleAnswer(client, batch) : try client.answer()
                    #expect(answer.error == 0, "seed \(seed)")
                    let found = open.removeValue(forKey: answer.cookie)
                    let asked = try #require(found, "seed \(seed)")
                    if let expected = asked.expected {
                        #expect(Array(answer.data.dropFirst(isSimple ? 0 : 8)) == expected, "seed \(seed)")
                    }
                }
            }
        }
        #expect(disk.live == model.bytes, "seed \(seed)")
        #expect(try clients[0].perform(request(3)) == 0)
        #expect(disk.durable == model.bytes, "seed \(seed)")
    }

    struct Step {
        let cookie: UInt64
        let bytes: [UInt8]
        /// Data that a read has to give.
        var expected: [UInt8]?
    }

    /// Requests for ranges that do not overlap: those under way have no order.
    private func batch(_ random: inout SeededGenerator, first: Int, sectors: Int, _ model: inout ModelDisk) -> [Step] {
        var steps: [Step] = []
        var sector = first + Int.random(in: 0..<8, using: &random)
        while steps.count < 16 {
            // All together no more than sockets hold.
            let count = Int.random(in: 1...24, using: &random)
            guard sector + count <= first + sectors else { break }
            let cookie = random.next()
            let offset = UInt64(sector) * 512, length = UInt64(count) * 512
            let flags = Int.random(in: 0..<4, using: &random) == 0 ? 1 : 0
            switch Int.random(in: 0..<8, using: &random) {
            case 0, 1, 2:
                steps.append(
                    Step(
                        cookie: cookie, bytes: request(0, offset: offset, length: length, flags: flags, cookie: cookie),
                        expected: model.read(at: sector, count: count)))
            case 3:
                steps.append(Step(cookie: cookie, bytes: request(3, cookie: cookie)))
            case 4:
                let command = Bool.random(using: &random) ? 4 : 6
                model.discard(at: sector, count: count)
                steps.append(Step(cookie: cookie, bytes: request(command, offset: offset, length: length, flags: flags, cookie: cookie)))
            default:
                let data = (0...count / 8).flatMap { _ in block(UInt64.random(in: 0..<24, using: &random)) }.prefix(count * 512)
                model.write(at: sector, Array(data))
                steps.append(
                    Step(
                        cookie: cookie, bytes: request(1, offset: offset, length: length, flags: flags, cookie: cookie, data: Array(data))))
            }
            sector += count + Int.random(in: 0...10, using: &random)
        }
        return steps
    }

    /// How much data a simple reply has depends on what was asked.
    private func simpleAnswer(_ client: Client, _ batch: [Step]) throws -> Client.Answer {
        var answer = try client.answer()
        if let step = batch.first(where: { $0.cookie == answer.cookie }), let expected = step.expected, answer.error == 0 {
            answer.data = client.receive(expected.count)
        }
        return answer
    }
}
