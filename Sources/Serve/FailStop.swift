public import BlockModel
public import System

/// A disk that takes nothing more after a flush has failed: from then on each write, discard and flush fails, too.
///
/// After a failed flush nobody knows what is durable. A guest asks once (Linux's block frontend even takes a failed
/// flush for a device that needs none, and never asks again), so that a later success would be a lie. Reads go on.
public final class FailStop<Device: BlockDevice>: ForwardingDisk {
    public let next: Device
    private let latch = SyncLatch()

    public init(_ device: Device) { next = device }

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        try refuseAfterFailure("write")
        try next.write(at: sector, bytes)
    }

    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        try refuseAfterFailure("write")
        try next.write(parts, of: bytes)
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        try refuseAfterFailure("discard")
        try next.discard(range)
    }

    public func flush() throws(Failure) {
        try refuseAfterFailure("flush")
        try latch.run { () throws(Failure) in try next.flush() }
    }

    private func refuseAfterFailure(_ operation: StaticString) throws(Failure) {
        guard let failure = latch.failure else { return }
        throw Failure(failure.kind, .init(operation), "the disk", "an earlier flush failed", cause: failure, remedy: "disconnect the disk and connect it again")
    }
}
