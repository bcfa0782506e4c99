/// Memory in which a disk has some of its sectors, for a system call to read. It shows what is written meanwhile, as a read at
/// the same time may.
///
/// What lies behind it may have become shorter, or not be readable: then the system call fails with EFAULT, while the
/// processor would raise SIGBUS. So nobody but the kernel looks at it.
@safe
public struct LentMemory {
    /// The first byte, for as long as this is in use: `withExtendedLifetime`.
    @unsafe public let address: UnsafeRawPointer
    private let owner: any AnyObject & Sendable

    /// `owner` keeps it there.
    @unsafe public init(_ address: UnsafeRawPointer, of owner: any AnyObject & Sendable) {
        unsafe self.address = address
        self.owner = owner
    }
}
