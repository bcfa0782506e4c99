import Glibc

/// Which of these signals the calling thread does not take.
public func blocked(_ signals: [Int32]) -> [Int32] {
    var mask = sigset_t()
    unsafe pthread_sigmask(SIG_BLOCK, nil, &mask)
    return signals.filter { unsafe sigismember(&mask, $0) == 1 }
}
