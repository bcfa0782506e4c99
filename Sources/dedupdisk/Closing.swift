import BlockModel
import Glibc
import Serve
import System

/// Closes a disk that could not be served. Why it could not is what the caller throws; that it can't be closed either is told here.
func close<Device: BlockDevice>(_ device: Device) {
    do throws(Failure) { try device.close() } catch { Console.complain("\(error.advised)") }
}

/// Closes a disk that was served. After another request to stop, it is waited for a second longer, and then left as it is: the journal has all that was
/// acknowledged.
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
    // Its threads are still at work: what they use must stay as long as the process does.
    Console.end(0)
}
