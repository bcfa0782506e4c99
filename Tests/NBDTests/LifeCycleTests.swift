import DiskExercise
import Glibc
import Serve
import System
import Testing
import TestSupport

/// From the listening socket to the end.
@Suite struct LifeCycleTests {
    let disk = SharedDisk(sectorCount: 4096)

    @Test func theEnd() throws {
        let served = try ServedDisk(disk)
        let idle = try served.connected(), middle = try served.client(), halfway = try served.connected()
        #expect(middle.receive(18).count == 18)
        halfway.send(request(1, length: 4096, data: Array(block(1).prefix(100))))
        served.askForEnd()
        #expect(served.outcome() == .stopped)
        #expect(idle.isEnded && middle.isEnded && halfway.isEnded)
        #expect(unsafe access(served.path, F_OK) != 0)
        #expect(disk.live.allSatisfy { $0 == 0 })
        #expect(throws: Failure.self) { try served.client() }
    }

    /// What asks for the end interrupts no call to the disk.
    @Test func signalsAreForOtherThreads() throws {
        let served = try ServedDisk(disk)
        #expect(try served.connected().perform(request(1, length: 4096, data: block(1))) == 0)
        #expect(disk.state.withLock { $0.blockedSignals } == [SIGINT, SIGTERM, SIGHUP])
    }

    @Test func requestsAtWorkAreFinished() throws {
        let served = try ServedDisk(disk)
        let client = try served.connected()
        disk.isHeld.store(true, ordering: .relaxed)
        client.send(request(1, length: 4096, flags: 1, cookie: 8, data: block(1)))
        #expect(waitUntil { disk.waiting.load(ordering: .relaxed) > 0 })
        served.askForEnd()
        // Nobody else is let in meanwhile.
        #expect(waitUntil { unsafe access(served.path, F_OK) != 0 })
        #expect(throws: Failure.self) { try served.client() }
        disk.isHeld.store(false, ordering: .relaxed)
        #expect(try client.answer() == Client.Answer(cookie: 8))
        #expect(client.isEnded)
        #expect(served.outcome() == .stopped)
        #expect(Array(disk.durable.prefix(4096)) == block(1))
    }

    @Test func aSecondRequestDoesNotWait() throws {
        let served = try ServedDisk(disk)
        let client = try served.connected()
        disk.isHeld.store(true, ordering: .relaxed)
        client.send(request(1, length: 4096, data: block(1)))
        #expect(waitUntil { disk.waiting.load(ordering: .relaxed) > 0 })
        served.askForEnd()
        served.askForEnd()
        #expect(served.outcome() == .forced)
        #expect(client.isEnded)
        disk.isHeld.store(false, ordering: .relaxed)
    }

    @Test(arguments: [false, true]) func whoTakesNoAnswersIsNotWaitedForLong(isForced: Bool) throws {
        let served = try ServedDisk(disk, patience: isForced ? .seconds(1000) : .milliseconds(50))
        let client = try served.connected()
        for number in 0..<64 as Range<UInt64> { client.send(request(0, length: 2 << 20, cookie: number)) }
        // It is under way.
        #expect(client.receive(1000).count == 1000)
        served.askForEnd()
        if isForced {
            usleep(20_000)
            served.askForEnd()
        }
        #expect(served.outcome() == .stopped)
    }

    // MARK: Sockets

    @Test func theSocketIsItsOwners() throws {
        let served = try ServedDisk(disk)
        var status = stat()
        #expect(unsafe stat(served.path, &status) == 0 && status.st_mode & 0o777 == 0o600 && status.st_mode & S_IFMT == S_IFSOCK)
    }

    @Test func aLiveServerStays() throws {
        let served = try ServedDisk(disk)
        let failure = #expect(throws: Failure.self) { _ = try NBDListener(.unix(path: served.path)) }
        #expect(failure?.kind == .busy && failure?.why.contains("another server") == true)
        #expect(try served.connected().perform(request(3)) == 0)
    }

    @Test func aDeadServersSocketIsReplaced() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/socket"
        // As after a kill -9: the file stays.
        let dead = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        #expect(Self.bind(dead, path) == 0)
        close(dead)
        #expect(unsafe access(path, F_OK) == 0)
        let stop = try StopRequest()
        let listener = try NBDListener(.unix(path: path))
        #expect(listener.address == .unix(path: path))
        let thread = ServerThread(disk, on: listener, stop)
        let client = try Client(path: path)
        try client.negotiate()
        stop.send()
        #expect(thread.outcome() == .stopped)
        #expect(unsafe access(path, F_OK) != 0)
    }

    /// Of many that start at once, one listens.
    @Test func oneOfMany() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/socket"
        for _ in 0..<100 {
            let dead = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            #expect(Self.bind(dead, path) == 0)
            close(dead)
            let all = Rendezvous(6)
            let threads = (0..<6).map { _ in
                BackgroundThread<Bool> {
                    all.meet()
                    guard let listener = try? NBDListener(.unix(path: path)) else {
                        all.meet()
                        return false
                    }
                    // It listens until all have tried.
                    all.meet()
                    _ = consume listener
                    return true
                }
            }
            #expect(threads.map { $0.join() ?? false }.count { $0 } == 1)
            #expect(unsafe access(path, F_OK) != 0)
        }
    }

    @Test func whatIsNoSocketStays() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/letter.txt"
        try Files.write(path, [65])
        let failure = #expect(throws: Failure.self) { _ = try NBDListener(.unix(path: path)) }
        #expect(failure?.kind == .exists && failure?.remedy != nil)
        #expect(try Files.bytes(path) == [65])
        #expect(throws: Failure.self) { _ = try NBDListener(.unix(path: scratch.path)) }
        #expect(throws: Failure.self) { _ = try NBDListener(.unix(path: scratch.path + "/no/such/directory")) }
    }

    @Test func anothersSocketStays() throws {
        let scratch = try ScratchDirectory()
        let path = scratch.path + "/socket"
        let listener = try NBDListener(.unix(path: path))
        unsafe unlink(path)
        let other = try NBDListener(.unix(path: path))
        _ = consume listener
        #expect(unsafe access(path, F_OK) == 0)
        _ = consume other
        #expect(unsafe access(path, F_OK) != 0)
    }

    @Test(arguments: ["", String(repeating: "n", count: 108)]) func pathsThatAreNone(path: String) {
        let failure = #expect(throws: Failure.self) { _ = try NBDListener(.unix(path: path)) }
        #expect(failure?.kind == .usage)
    }

    @Test func aPortInUse() throws {
        let first = try NBDListener(try NBDAddress(listen: "127.0.0.1:0"))
        let failure = #expect(throws: Failure.self) { _ = try NBDListener(first.address) }
        #expect(failure?.kind == .busy)
        _ = consume first
    }

    @Test(arguments: ["0.0.0.0:10809", "192.168.1.1:10809", "[::]:10809", "8.8.8.8:1", "[2001:db8::1]:5"]) func otherMachines(text: String) {
        let failure = #expect(throws: Failure.self) { try NBDAddress(listen: text) }
        #expect(failure?.kind == .usage && failure?.why.contains("other machines") == true)
    }

    @Test(arguments: [
        "", "10809", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "example.org:10809", ":10809", "[::1]", "127.1:5",
    ])
    func whatIsNoAddress(text: String) {
        let failure = #expect(throws: Failure.self) { try NBDAddress(listen: text) }
        #expect(failure?.kind == .usage && failure?.remedy != nil)
    }

    @Test func addressesAndURIs() throws {
        #expect(try NBDAddress(listen: "127.0.0.1:10809") == .standard)
        #expect(try NBDAddress(listen: "localhost:10809") == .standard)
        #expect(try NBDAddress(listen: "127.1.2.3:7").uri(export: "gold") == "nbd://127.1.2.3:7/gold")
        #expect(try NBDAddress(listen: "[::1]:7").uri(export: "a.b_c") == "nbd://[::1]:7/a.b_c")
        #expect(NBDAddress.unix(path: "/run/a b&c.sock").uri(export: "gold?") == "nbd+unix:///gold%3F?socket=/run/a%20b%26c.sock")
        #expect(NBDAddress.unix(path: "/é").uri(export: "") == "nbd+unix:///?socket=/%C3%A9")
    }

    private static func bind(_ descriptor: Int32, _ path: String) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        return unsafe withUnsafePointer(to: address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe Glibc.bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
