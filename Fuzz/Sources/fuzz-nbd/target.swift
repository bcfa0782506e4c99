import DiskExercise
import FuzzDriver
import Glibc
import NBD
@testable import Serve
import System

/// The bytes are a client's deeds: a handshake, requests, their data, right or wrong. The connection that serves it must end,
/// its answers must be what the protocol says, and the disk must hold what was written by whole requests, and nothing else.
@main struct NBDTarget {
    static func main() throws {
        let world = try World()
        fuzz { world.run($0) }
    }
}

private final class World {
    private let client: ClientThread
    private let common = NBDCommon(handshakeLimit: .seconds(3600), log: { _ in })

    init() throws(Failure) { client = try ClientThread() }

    func run(_ script: Script) {
        let deeds = Deeds(script)
        let disk = MemoryDisk(sectorCount: deeds.diskSectors, isReadOnly: deeds.isReadOnly)
        disk.badSectors = deeds.badSectors
        disk.failsFlush = deeds.failsFlush
        var ends: [Int32] = [-1, -1]
        require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0, "no socket pair")
        let socket = Socket(ends[0])
        client.begin(ends[1], deeds)
        let export = Export(name: exportName, byteCount: disk.byteCount, isReadOnly: deeds.isReadOnly)
        var connection = NBDConnection(FailStop(disk), export, common, socket)
        connection.run()
        socket.close()
        let received = client.finish()
        // Who does not take the answers may be left at any of them.
        guard !deeds.vanishes else { return }
        var judge = Judge(deeds, received)
        judge.judge()
        judge.compare(disk.bytes)
    }
}

let exportName = "disk"
