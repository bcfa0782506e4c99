import Glibc
import Serve
import Testing

@Suite struct StopRequestTests {
    @Test func requestsAreCounted() throws {
        let stop = try StopRequest()
        #expect(stop.take() == 0)
        stop.send()
        stop.send()
        #expect(stop.take() == 2)
        #expect(stop.take() == 0)
    }

    @Test func signalsAreRequests() throws {
        // Not as under nohup(1), where it is to do nothing.
        _ = signal(SIGHUP, SIG_DFL)
        signalled?.sendOnSignals()
        for number in [SIGINT, SIGTERM, SIGHUP] {
            #expect(kill(getpid(), number) == 0)
            var request = pollfd(fd: signalled?.descriptor ?? -1, events: Int16(POLLIN), revents: 0)
            // The signal may be another thread's to handle.
            for _ in 0..<1200 where unsafe poll(&request, 1, 100) < 1 {}
            #expect(signalled?.take() == 1)
        }
    }
}

/// Handlers stay, so this must.
private let signalled = try? StopRequest()
