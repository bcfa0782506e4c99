import Glibc

/// Nanoseconds of a clock that never goes back (CLOCK_MONOTONIC).
func nanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) &* 1_000_000_000 &+ UInt64(now.tv_nsec)
}

func seconds() -> Double { Double(nanoseconds()) / 1e9 }

/// Seconds that `body` takes. What else it takes is counted.
func time(_ body: () throws -> Void) rethrows -> Double {
    try Meter.counting {
        let start = seconds()
        try body()
        return seconds() - start
    }
}
