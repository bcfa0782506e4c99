import Glibc
import System
import Testing

@testable import Serve

@Suite struct SpinWaitTests {
    /// What came soon is looked for the next time, and then nobody sleeps. Whether "soon" was soon enough is the machine's
    /// business, and whether others spin already: so it is tried some times.
    @Test(.enabled(if: sysconf(Int32(_SC_NPROCESSORS_ONLN)) > 1)) func whatCameSoonIsLookedFor() {
        var spin = SpinWait(.here)
        var looks = 0, sleeps = 0, tries = 0
        spin.wait {
            looks += 1; return true
        } sleep: {
            sleeps += 1
        }
        #expect(looks == 0 && sleeps == 1)
        let end = monotonicSeconds() + 60
        while looks == 0, monotonicSeconds() < end {
            // Whoever spins may not have a processor, and others have to wait for him to end.
            if tries % 1000 == 999 { usleep(1000) }
            spin.wait {
                looks += 1; return true
            } sleep: {
                sleeps += 1
            }
            tries += 1
        }
        #expect(looks == 1 && sleeps == tries)
    }

    /// Where there is one processor, too.
    @Test func aGuestIsLookedForAsLongAsItsRequestsTake() {
        var spin = SpinWait(.elsewhere)
        var slept = true
        // Where others want the processors, it pauses for up to two thirds of a second.
        let limit = monotonicSeconds() + 120
        while slept, monotonicSeconds() < limit {
            spin.wait {
                true
            } sleep: {
            }
            usleep(1000)
            // Much longer than a client here is looked for.
            let end = monotonicSeconds() + 300e-6
            slept = false
            spin.wait {
                monotonicSeconds() >= end
            } sleep: {
                slept = true
            }
        }
        #expect(!slept)
    }

    /// However long nothing comes, it ends in sleep.
    @Test(arguments: [SpinWait.Place.here, .elsewhere]) func whatDoesNotComeIsSleptFor(place: SpinWait.Place) {
        var spin = SpinWait(place)
        var sleeps = 0
        for _ in 0..<100 {
            spin.wait {
                false
            } sleep: {
                sleeps += 1
            }
        }
        #expect(sleeps == 100)
    }

    @Test func errorsGoThrough() {
        struct Problem: Error {}
        var spin = SpinWait(.here)
        for _ in 0..<3 {
            #expect(throws: Problem.self) {
                try spin.wait { () throws(Problem) in
                    throw Problem()
                } sleep: { () throws(Problem) in
                    throw Problem()
                }
            }
        }
    }
}
