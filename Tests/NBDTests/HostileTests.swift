import Glibc
import Serve
import System
import Testing
import TestSupport

/// What no honest client does, and what befalls honest ones. Each time an honest client is served meanwhile and afterwards.
@Suite struct HostileTests {
    let disk = SharedDisk(sectorCount: 4096, fill: 1)
    let served: ServedDisk
    let honest: Client

    init() throws {
        served = try ServedDisk(disk)
        honest = try served.connected()
    }

    /// The honest client's connection is as it was, and another can be made.
    func expectService(location: SourceLocation = #_sourceLocation) throws {
        for client in [honest, try served.connected()] {
            #expect(try client.perform(request(1, length: 4096, data: block(9))) == 0, sourceLocation: location)
            #expect(try client.read(offset: 0, length: 4096) == block(9), sourceLocation: location)
        }
    }

    // MARK: Requests

    @Test func whatIsNoRequest() throws {
        for bytes in [
            [UInt8](repeating: 0, count: 28), [UInt8](repeating: 0xff, count: 1000), option(3) + [UInt8](repeating: 0, count: 20),
            u32(0x25609514) + Array(request(0, length: 512).dropFirst(4)),
        ] {
            let client = try served.connected()
            client.send(bytes)
            #expect(client.isEnded)
        }
        #expect(served.log.count == 4 && served.log.allSatisfy { $0.contains("cut off") }, "\(served.log)")
        try expectService()
    }

    /// However many there are, the log says how many.
    @Test func nobodyIsLeftOutOfTheCount() throws {
        for _ in 0..<30 {
            let client = try served.connected()
            client.send([UInt8](repeating: 0, count: 28))
            #expect(client.isEnded)
        }
        served.askForEnd()
        #expect(served.outcome() == .stopped)
        let told = served.log.filter { $0.contains("cut off") }.count
        let counted = served.log.filter { $0.hasSuffix(" more such messages") }.compactMap { Int($0.prefix { $0 != " " }) }
        #expect(told + counted.reduce(0, +) == 30, "\(served.log)")
    }

    @Test func whatComesBeforeItIsAnswered() throws {
        let client = try served.connected()
        client.send(request(1, length: 4096, data: block(3)) + request(3) + [UInt8](repeating: 0, count: 28))
        for _ in 0..<2 { #expect(try client.answer().error == 0) }
        #expect(client.isEnded)
        try expectService()
    }

    @Test func requestsThatAreRefused() throws {
        let end: UInt64 = 4096 * 512
        for isStructured in [true, false] {
            let client = try served.connected(isStructured: isStructured)
            for (bytes, error) in [
                (request(0, offset: 1, length: 512), 22), (request(0, length: 511), 22), (request(0, offset: end, length: 512), 22),
                (request(0, offset: .max - 511, length: 512), 22), (request(0, length: 32 << 20 + 512), 22), (request(0, length: 0xffff_ffff), 22),
                (request(4, offset: 256, length: 512), 22), (request(4, offset: end, length: 512), 22), (request(6, offset: end, length: 512), 28),
                (request(7, length: 0), 22), (request(7, offset: end, length: 512), 22), (request(5, length: 512), 22), (request(8, length: 512), 22),
                (request(0xffff), 22), (request(0, length: 512, flags: 2), 22), (request(3, flags: 4), 22), (request(1, length: 0, flags: 32), 22),
            ] {
                client.send(bytes)
                #expect(try client.answer().error == UInt64(error), "\(bytes)")
            }
        }
        #expect(disk.state.withLock { $0.transfers } == 0)
        try expectService()
    }

    /// Their data is taken, and what follows is done.
    @Test func writesThatAreRefused() throws {
        let end: UInt64 = 4096 * 512
        let client = try served.connected()
        for (offset, count, flags, error) in [
            (1, 512, 0, 22), (0, 513, 0, 22), (end, 512, 0, 28), (end - 512, 1024, 0, 28), (.max - 511, 1024, 0, 28), (0, 512, 4, 22),
            (0, 40 << 20, 0, 22), (0, 33 << 20 + 7, 0, 22),
        ] as [(UInt64, Int, Int, UInt64)] {
            let data = [UInt8](repeating: 2, count: count)
            client.send(request(1, offset: offset, length: UInt64(count), flags: flags, cookie: 6, data: data))
            #expect(try client.answer() == Client.Answer(cookie: 6, error: error))
            #expect(try client.read(offset: 0, length: 512) == [UInt8](repeating: 1, count: 512))
        }
        #expect(disk.live.allSatisfy { $0 == 1 })
        try expectService()
    }

    @Test(arguments: 1...10 as ClosedRange<UInt64>) func anyBytes(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<20 {
            let client = try served.connected(isStructured: Bool.random(using: &random))
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 1...50, using: &random) {
                bytes += request(
                    Int.random(in: 0...9, using: &random), offset: random.next() % (1 << 22) & ~511, length: random.next() % (1 << 17) & ~511,
                    flags: Int.random(in: 0...3, using: &random) == 0 ? Int.random(in: 0...63, using: &random) : 0)
                if Bool.random(using: &random) { bytes += [UInt8](repeating: 3, count: Int.random(in: 0...5000, using: &random)) }
            }
            // It may be cut off in the middle.
            client.send(bytes)
            client.endSending()
            while client.receive(1 << 16).count == 1 << 16 {}
        }
        try expectService()
    }

    // MARK: Clients that go

    @Test func goneBeforeAndInTheHandshake() throws {
        for bytes: [UInt8] in [[], u32(3), u32(3) + Array(option(8).prefix(5)), u32(3) + text("IHAVEOPT") + u32(7) + u32(500) + [1, 2]] {
            let client = try served.client()
            client.send(bytes)
            client.endSending()
            #expect(client.receive(18).count == 18 && client.isEnded)
            // And without a word.
            try served.client().send(bytes)
        }
        try expectService()
    }

    @Test func goneInTheMiddleOfAWrite() throws {
        let data = (1...500).flatMap { block(UInt64($0)) }
        for count in [0, 1, 511, 512, 4095, 300_000, 1_000_001, data.count - 1] {
            let before = disk.live
            let client = try served.connected()
            client.send(request(1, offset: 512, length: UInt64(data.count), data: Array(data.prefix(count))))
            client.endSending()
            #expect(client.isEnded)
            // Each sector is old or new, and nothing is new that did not come.
            let after = disk.live
            #expect(after.prefix(512) == before.prefix(512) && after.dropFirst(512 + count) == before.dropFirst(512 + count))
            for sector in 0..<data.count / 512 {
                let place = 512 + sector * 512..<1024 + sector * 512
                let isNew = after[place] == data[sector * 512..<(sector + 1) * 512]
                #expect(isNew || after[place] == before[place], "sector \(sector) of a write of which \(count) bytes came")
            }
        }
        // A small one is done whole or not at all.
        let before = disk.live
        let client = try served.connected()
        client.send(request(1, offset: 0, length: 4096, data: Array(block(77).prefix(4000))))
        client.endSending()
        #expect(client.isEnded)
        #expect(disk.live == before)
        try expectService()
    }

    /// Nobody waits for data that nobody takes.
    @Test func goneWithoutItsAnswers() throws {
        for _ in 0..<10 {
            let client = try served.connected()
            for number in 0..<8 as Range<UInt64> { client.send(request(0, length: 1 << 20, cookie: number)) }
        }
        try expectService()
    }

    // MARK: Clients that wait

    @Test func oneByteAtATime() throws {
        let client = try served.client()
        #expect(client.receive(18).count == 18)
        for byte in u32(3) + option(8) + option(7, wish("gold")) { client.send([byte]) }
        while try client.optionAnswer() != OptionAnswer(option: 7, kind: 1, data: []) {}
        for byte in request(1, offset: 512, length: 512, data: [UInt8](repeating: 8, count: 512)) { client.send([byte]) }
        #expect(try client.answer().error == 0)
        try expectService()
        #expect(try client.read(offset: 512, length: 512) == block(9)[512..<1024].map { $0 })
    }

    @Test func aHandshakeThatNeverEnds() throws {
        let served = try ServedDisk(disk, handshakeLimit: .milliseconds(50))
        let silent = try served.client(), slow = try served.client()
        #expect(silent.receive(18).count == 18 && slow.receive(18).count == 18)
        slow.send(u32(3) + option(99).prefix(10))
        #expect(silent.isEnded && slow.isEnded)
        // Whoever is through, for which a busy machine may take longer than that, may wait as long as it likes.
        let patient = try ServedDisk(disk, handshakeLimit: .seconds(2))
        let idle = try patient.connected()
        usleep(3_000_000)
        #expect(try idle.perform(request(3)) == 0)
    }

    @Test func whoTakesNoAnswersIsNobodysProblem() throws {
        let client = try served.connected()
        // More than sockets hold; nothing of it is ever received.
        for number in 0..<64 as Range<UInt64> { client.send(request(0, length: 2 << 20, cookie: number)) }
        try expectService()
    }

    @Test func thereAreNeverTooMany() throws {
        let served = try ServedDisk(disk, maximumConnections: 4)
        var clients = try (0..<4).map { _ in try served.connected() }
        for _ in 0..<3 { #expect(try served.client().isEnded) }
        #expect(try clients[0].perform(request(3)) == 0)
        // A place becomes free when one goes, as soon as the server has seen it.
        clients.removeLast()
        var isServed = false
        for _ in 0..<60_000 where !isServed {
            isServed = try served.client().receive(18).count == 18
            if !isServed { usleep(2000) }
        }
        #expect(isServed)
        #expect(served.log.contains { $0.contains("sent away") })
    }

    // MARK: Disks that fail

    @Test func aBadSector() throws {
        disk.state.withLock { $0.badSectors = 3000..<3001 }
        for isStructured in [true, false] {
            let client = try served.connected(isStructured: isStructured)
            client.send(request(0, offset: 3000 * 512, length: 512))
            #expect(try client.answer().error == 5)
            #expect(try client.perform(request(1, offset: 3000 * 512, length: 512, data: [UInt8](repeating: 0, count: 512))) == 5)
            for (command, flags) in [(4, 0), (6, 0), (6, 2)] {
                #expect(try client.perform(request(command, offset: 2990 * 512, length: 20 * 512, flags: flags)) == 5)
            }
            // The data behind the failure is taken, too.
            let data = [UInt8](repeating: 2, count: 1200 * 512)
            #expect(try client.perform(request(1, offset: 2500 * 512, length: UInt64(data.count), data: data)) == 5)
            client.send(request(0, length: 512))
            #expect(try client.answer(dataCount: 512).error == 0)
        }
        #expect(served.log.contains { $0.contains("told to fail") })
        try expectService()
    }

    @Test func aBadSectorBehindGoodOnes() throws {
        disk.state.withLock { $0.badSectors = 3000..<3001 }
        // A chunk is filled up, and the error said behind it.
        let client = try served.connected()
        for flags in [0, 4] {
            client.send(request(0, offset: 512, length: 3500 * 512, flags: flags))
            let data = try client.answer()
            #expect(data.kind == 1 && data.data.count == 8 + 3500 * 512 && !data.isLast)
            let end = try client.answer()
            #expect(end.kind == 0x8002 && end.error == 5 && end.isLast)
            let offset = number(end.data[6..<14])
            #expect(offset > 512 && offset <= 3000 * 512)
            #expect(data.data.dropFirst(8).prefix(Int(offset) - 512).allSatisfy { $0 == 1 })
            #expect(data.data.dropFirst(Int(offset) - 512 + 8).allSatisfy { $0 == 0 })
        }
        // At once, when nothing was sent yet.
        client.send(request(0, offset: 2900 * 512, length: 1100 * 512))
        #expect(try client.answer().kind == 0x8001)
        // A simple reply has begun, and can't be taken back.
        let simple = try served.connected(isStructured: false)
        simple.send(request(0, offset: 512, length: 3500 * 512))
        #expect(try simple.answer().error == 0)
        let sent = simple.receive(3500 * 512)
        #expect(sent.count < 3500 * 512 && sent.allSatisfy { $0 == 1 })
        #expect(simple.isEnded)
        try expectService()
    }

    /// After it, nobody knows what is durable: no connection is told that something is.
    @Test func aFlushThatFails() throws {
        let other = try served.connected()
        disk.state.withLock { $0.failsFlush = true }
        #expect(try honest.perform(request(1, length: 512, flags: 1, data: [UInt8](repeating: 2, count: 512))) == 5)
        disk.state.withLock { $0.failsFlush = false }
        for client in [honest, other, try served.connected()] {
            #expect(try client.perform(request(3)) == 5)
            #expect(try client.perform(request(1, length: 512, data: [UInt8](repeating: 3, count: 512))) == 5)
            #expect(try client.read(offset: 512, length: 512) != nil)
        }
    }

    @Test func aLogHasAnEnd() throws {
        let client = try served.connected(), began = monotonicSeconds()
        for _ in 0..<500 { #expect(try client.perform(request(5)) == 22) }
        // Twenty of each ten seconds, and how many were left out before.
        #expect(served.log.count <= 22 + 21 * Int((monotonicSeconds() - began + 1) / 10))
    }
}
