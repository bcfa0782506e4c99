public import BlockModel
import Synchronization
public import System

/// A disk that takes nothing more after a flush has failed: from then on each write, discard and flush fails, too.
///
/// After a failed flush nobody knows what is durable. A guest asks once (Linux's block front end even takes a failed
/// flush for a device that needs none, and never asks again), so that a later success would be a lie.
public final class FailStop<Device: BlockDevice>: BlockDevice {
    private let device: Device
    private let failure = Mutex<Failure?>(nil)

    public init(_ device: Device) { self.device = device }

    public var sectorCount: UInt64 { device.sectorCount }
    public var isReadOnly: Bool { device.isReadOnly }

    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        try device.read(at: sector, into: &buffer)
    }

    public func lend(_ range: SectorRange) -> LentMemory? { device.lend(range) }

    public func expectReads(of ranges: [SectorRange]) { device.expectReads(of: ranges) }

    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        try refuseAfterFailure("write")
        try device.write(at: sector, bytes)
    }

    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) {
        try refuseAfterFailure("write")
        try device.write(parts, of: bytes)
    }

    public func discard(_ range: SectorRange) throws(Failure) {
        try refuseAfterFailure("discard")
        try device.discard(range)
    }

    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent {
        try device.extent(at: sector, limit: limit)
    }

    public func flush() throws(Failure) {
        try refuseAfterFailure("flush")
        do {
            try device.flush()
        } catch {
            failure.withLock { $0 = $0 ?? error }
            throw error
        }
    }

    public func refresh() throws(Failure) -> Bool { try device.refresh() }

    public func close() throws(Failure) { try device.close() }

    private func refuseAfterFailure(_ operation: StaticString) throws(Failure) {
        guard let failure = failure.withLock({ $0 }) else { return }
        throw Failure(failure.kind, "\(operation)", "an earlier flush failed: \(failure)", remedy: "disconnect the disk and connect it again")
    }
}
