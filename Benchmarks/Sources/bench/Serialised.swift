import BlockModel
import Synchronization

/// A disk whose calls take turns, for as long as `StoreDisk` is for one thread at a time.
final class Serialised<Device: BlockDevice>: BlockDevice {
    private let device: Device
    private let turn = Mutex<Void>(())

    init(_ device: Device) { self.device = device }

    var sectorCount: UInt64 { device.sectorCount }
    var isReadOnly: Bool { device.isReadOnly }
    func read(at sector: UInt64, into buffer: inout MutableRawSpan) throws(Failure) {
        try take { () throws(Failure) in try device.read(at: sector, into: &buffer) }
    }
    func write(at sector: UInt64, _ bytes: RawSpan) throws(Failure) {
        try take { () throws(Failure) in try device.write(at: sector, bytes) }
    }
    func discard(_ range: SectorRange) throws(Failure) { try take { () throws(Failure) in try device.discard(range) } }
    func flush() throws(Failure) { try take { () throws(Failure) in try device.flush() } }
    func close() throws(Failure) { try take { () throws(Failure) in try device.close() } }

    private func take(_ body: () throws(Failure) -> Void) throws(Failure) {
        try turn.withLock { _ throws(Failure) in try body() }
    }
}
