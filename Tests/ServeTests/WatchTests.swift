import Glibc
import System
import Testing

@testable import Serve

@Suite struct WatchTests {
    /// What came soon is looked for the next time, and then nobody sleeps. Whether "soon" was soon enough is the machine's
    /// business, and whether others watch already: so it is tried some times.
    @Test(.enabled(if: sysconf(Int32(_SC_NPROCESSORS_ONLN)) > 1)) func whatCameSoonIsLookedFor() {
        var watch = Watch(.here)
        var looks = 0, sleeps = 0, tries = 0
        watch.wait {
            looks += 1; return true
        } sleep: {
            sleeps += 1
        }
        #expect(looks == 0 && sleeps == 1)
        while looks == 0, tries < 10_000 {
            watch.wait {
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
        var watch = Watch(.elsewhere)
        var slept = false
        for _ in 0..<1000 {
            watch.wait {
                true
            } sleep: {
            }
            usleep(1000)
            // Much longer than a client here is looked for.
            let end = monotonicSeconds() + 300e-6
            slept = false
            watch.wait {
                monotonicSeconds() >= end
            } sleep: {
                slept = true
            }
            if !slept { break }
        }
        #expect(!slept)
    }

    /// However long nothing comes, it ends in sleep.
    @Test(arguments: [Watch.Place.here, .elsewhere]) func whatDoesNotComeIsSleptFor(place: Watch.Place) {
        var watch = Watch(place)
        var sleeps = 0
        for _ in 0..<100 {
            watch.wait {
                false
            } sleep: {
                sleeps += 1
            }
        }
        #expect(sleeps == 100)
    }

    @Test func errorsGoThrough() {
        struct Problem: Error {}
        var watch = Watch(.here)
        for _ in 0..<3 {
            #expect(throws: Problem.self) {
                try watch.wait { () throws(Problem) in
                    throw Problem()
                } sleep: { () throws(Problem) in
                    throw Problem()
                }
            }
        }
    }
}
