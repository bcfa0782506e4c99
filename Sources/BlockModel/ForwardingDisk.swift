public import System

/// A disk over another one, `next`, that changes some of what it does: whatever it does not say itself is `next`'s.
///
/// There are three ways to read (`read`, `lend`, and what `expectReads` announces) and two to write (one range, and several together).
/// Who changes what is read or written has to see to each of them, as those that it leaves out go past it.
public protocol ForwardingDisk: BlockDevice {
    associatedtype Next: BlockDevice
    /// The disk below.
    var next: Next { get }
}

// All of `BlockDevice`, its defaults too: the disk below may do better. Inlinable, so that a call through a disk over a disk is
// a call of the one below.
extension ForwardingDisk {
    @inlinable
    public var sectorCount: UInt64 { next.sectorCount }
    @inlinable
    public var isReadOnly: Bool { next.isReadOnly }

    @inlinable
    public func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) { try next.read(at: sector, into: &buffer) }
    @inlinable
    public func lend(_ range: SectorRange) -> LentMemory? { next.lend(range) }
    @inlinable
    public func expectReads(of ranges: [SectorRange]) { next.expectReads(of: ranges) }

    @inlinable
    public func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) { try next.write(at: sector, bytes) }
    @inlinable
    public func write(_ parts: Span<WritePart>, of bytes: RawSpan) throws(Failure) { try next.write(parts, of: bytes) }
    @inlinable
    public func discard(_ range: SectorRange) throws(Failure) { try next.discard(range) }

    @inlinable
    public func extent(at sector: UInt64, limit: UInt64) throws(Failure) -> Extent { try next.extent(at: sector, limit: limit) }
    @inlinable
    public func flush() throws(Failure) { try next.flush() }
    @inlinable
    public func refresh() throws(Failure) -> Bool { try next.refresh() }
    @inlinable
    public func allowWaiting(_ isAllowed: Bool) { next.allowWaiting(isAllowed) }
    @inlinable
    public func close() throws(Failure) { try next.close() }
}
