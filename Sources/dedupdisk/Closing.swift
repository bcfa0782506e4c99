import BlockModel
import Glibc
import Serve
import System

/// Closes a disk that could not be served: what for is about to be told, and what comes on top of it here.
func close<Device: BlockDevice>(_ device: Device) {
    do throws(Failure) { try device.close() } catch { Console.complain("\(error.advised)") }
}

/// Closes a disk that was served. After a second request to stop, that has a second's time: the journal has all that was acknowledged.
func close<Device: BlockDevice>(_ device: Device, named name: String, unlessForced stop: StopRequest) throws {
    let result = Monitor<Result<Void, Failure>?>(nil)
    let thread = try Thread("close") {
        var outcome = Result<Void, Failure>.success(())
        do throws(Failure) { try device.close() } catch { outcome = .failure(error) }
        result.with { $0 = outcome }
    }
    var deadline = Double.infinity
    while true {
        if let outcome = result.with({ $0 }) {
            thread.join()
            return try outcome.get()
        }
        guard monotonicSeconds() < deadline else { break }
        var request = pollfd(fd: stop.descriptor, events: Int16(POLLIN), revents: 0)
        // The end of the thread is no event.
        _ = unsafe poll(&request, 1, 20)
        // timeout(1), for one, sends its signal twice: most disks are closed by then.
        if stop.take() > 0, deadline == .infinity { deadline = monotonicSeconds() + 1 }
    }
    Console.log("disk \(name) was left with its last writes in its journal: they go in when it is opened again")
    // Its threads are still at work: nothing that they use may go before the process does.
    Console.end(0)
}
