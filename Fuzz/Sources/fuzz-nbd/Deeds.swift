import BlockModel
import DiskExercise
import System

/// What a client sends, as a script says, and the disk that it meets.
struct Deeds: Sendable {
    private(set) var bytes: [UInt8] = []
    /// Where it waits until the server has taken all before.
    private(set) var pauses: [Int] = []
    let diskSectors: Int
    let isReadOnly: Bool
    /// It takes no answers, and closes its end as soon as all is sent.
    let vanishes: Bool
    let badSectors: Range<UInt64>
    let failsFlush: Bool
    private var cookie: UInt64 = 0
    /// Bytes that the requests move, about.
    private var volume = 0

    init(_ script: Script) {
        var script = script
        let kind = script.byte()
        // Some are larger than a piece of a transfer.
        diskSectors = kind >> 4 == 1 ? 700 : 64
        let fault = kind % 16
        isReadOnly = fault == 1
        vanishes = fault == 2
        badSectors = fault == 3 || fault == 4 ? UInt64(diskSectors) * 7 / 8..<UInt64(diskSectors) * 7 / 8 + 3 : 0..<0
        failsFlush = fault == 4 || fault == 5
        // Sessions are short, so that there are many.
        while !script.isAtEnd, volume < 1 << 20 { add(&script) }
    }

    private mutating func add(_ script: inout Script) {
        switch script.byte() % 16 {
        case 0: send(script.run(atMost: 300))
        case 1: pauses.append(bytes.count)
        case 2: send(big(script.byte() < 200 ? UInt64(script.byte() % 4) : script.word(), 4))
        case 3: greet(isStructured: true)
        case 4: greet(isStructured: false)
        case 5, 6: offer(&script)
        default: request(&script)
        }
    }

    private mutating func send(_ bytes: [UInt8]) {
        self.bytes += bytes
        volume += bytes.count
    }

    // MARK: Handshake

    private mutating func greet(isStructured: Bool) {
        send(big(3, 4))
        if isStructured {
            option(8)
            option(10, counted(exportName) + big(1, 4) + counted("base:allocation"))
        }
        option(7, counted(exportName) + big(0, 2))
    }

    private mutating func option(_ number: UInt64, _ data: [UInt8] = []) {
        send(Array("IHAVEOPT".utf8) + big(number, 4) + big(UInt64(data.count), 4) + data)
    }

    /// An option that is nearly right.
    private mutating func offer(_ script: inout Script) {
        let known: [UInt64] = [1, 2, 3, 6, 7, 8, 9, 10]
        let number = script.byte() < 240 ? known[script.number(below: known.count)] : script.word()
        let name = script.byte() < 200 ? counted(script.byte() % 2 == 0 ? exportName : "") : script.run(atMost: 64)
        var data: [UInt8]
        switch number {
        case 1: data = Array(name.dropFirst(4))
        case 6, 7:
            let wishes = script.number(below: 4)
            data = name + big(UInt64(wishes), 2) + (0..<wishes).flatMap { _ in big(UInt64(script.byte() % 5), 2) }
        case 9, 10:
            let queries = script.number(below: 4)
            let texts = ["base:allocation", "base:", "", "qemu:dirty-bitmap:x"]
            data = name + big(UInt64(queries), 4) + (0..<queries).flatMap { _ in counted(texts[script.number(below: texts.count)]) }
        default: data = []
        }
        if script.byte() > 220 { data += script.run(atMost: 64) }
        if script.byte() > 240 {
            // Longer or shorter than it says.
            send(Array("IHAVEOPT".utf8) + big(number, 4) + big(script.word(), 4) + data)
        } else if script.byte() > 250 {
            option(number, [UInt8](repeating: 0, count: 65536 + script.number(below: 3)))
        } else {
            option(number, data)
        }
    }

    // MARK: Requests

    /// One that is nearly right, with its data.
    private mutating func request(_ script: inout Script) {
        let known: [UInt64] = [0, 0, 1, 1, 1, 3, 4, 6, 7]
        let command = script.byte() < 250 ? known[script.number(below: known.count)] : script.byte() % 2 == 0 ? 2 : script.word()
        let flags = script.byte() < 220 ? [0, 0, 0, 1, 2, 4, 8, 16, 18][script.number(below: 9)] : script.word()
        let offset = script.byte() < 230 ? UInt64(Int(script.byte()) * diskSectors / 250) * 512 : script.word()
        let lengths: [UInt64] = [0, UInt64(diskSectors), 512, 513, 128, 32 << 11, 32 << 11 | 1, 1 << 23]
        let length =
            switch script.byte() {
            case 0..<170: UInt64(script.byte() % 16) * 512
            case 170..<210: UInt64(script.byte()) * 512
            case 210..<245: lengths[script.number(below: lengths.count)] * 512
            default: script.word()
            }
        cookie += 1
        send(big(0x2560_9513, 4) + big(flags, 2) + big(command, 2) + big(cookie, 8) + big(offset, 8) + big(length, 4))
        let count = Int(length & 0xffff_ffff)
        if command == 1 {
            // What follows is taken for data that is missing.
            send(data(count > 1 << 19 ? 8192 : count, script.byte()))
        } else if command == 0, count <= diskSectors * sectorSize {
            volume += count
        }
    }

    /// Sectors that tell where in the data they are; zeros for 0.
    private func data(_ count: Int, _ seed: UInt8) -> [UInt8] {
        var bytes = [UInt8](repeating: seed, count: count)
        if seed != 0 { for start in stride(from: 0, to: count, by: sectorSize) { bytes[start] = UInt8(truncatingIfNeeded: start >> 9) } }
        return bytes
    }

    private func counted(_ text: String) -> [UInt8] { big(UInt64(text.utf8.count), 4) + Array(text.utf8) }

    /// The lowest `count` bytes of a number, the highest of them first.
    private func big(_ value: UInt64, _ count: Int) -> [UInt8] {
        (0..<count).reversed().map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }
}
