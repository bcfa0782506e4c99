import Glibc
import Testing

@testable import Serve

@Suite struct WatchTests {
    /// What came soon is looked for the next time, and then nobody sleeps. Whether "soon" was soon enough is the machine's
    /// business, and whether others watch already: so it is tried some times.
    @Test(.enabled(if: sysconf(Int32(_SC_NPROCESSORS_ONLN)) > 1)) func whatCameSoonIsLookedFor() {
        var watch = Watch()
        var looks = 0, sleeps = 0, tries = 0
        watch.wait { looks += 1; return true } sleep: { sleeps += 1 }
        #expect(looks == 0 && sleeps == 1)
        while looks == 0, tries < 10_000 {
            watch.wait { looks += 1; return true } sleep: { sleeps += 1 }
            tries += 1
        }
        #expect(looks == 1 && sleeps == tries)
    }

    /// However long nothing comes, it ends in sleep.
    @Test func whatDoesNotComeIsSleptFor() {
        var watch = Watch()
        var sleeps = 0
        for _ in 0..<100 { watch.wait { false } sleep: { sleeps += 1 } }
        #expect(sleeps == 100)
    }

    @Test func errorsGoThrough() {
        struct Problem: Error {}
        var watch = Watch()
        for _ in 0..<3 {
            #expect(throws: Problem.self) { try watch.wait { () throws(Problem) in throw Problem() } sleep: { () throws(Problem) in throw Problem() } }
        }
    }
}
