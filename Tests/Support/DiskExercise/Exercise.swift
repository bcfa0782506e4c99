public import Blkif
public import BlockModel
import FrontEnd
import Serve
public import System
import TestSupport

/// What an exercise does to the process that serves, besides using the disk.
public struct ExerciseEvents: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    /// The guest closes the disk and opens it again.
    public static let reconnects = ExerciseEvents(rawValue: 1)
    /// The disk is unplugged, closed, made again and plugged in again.
    public static let reopens = ExerciseEvents(rawValue: 2)
    /// The process is killed within some call, with requests under way; the device is dropped without `close`, made
    /// again, and the guest's connection continued.
    public static let kills = ExerciseEvents(rawValue: 4)
}

/// Random operations of a guest on a disk, through frontend, ring and backend, compared with an array of sectors.
///
/// `makeDevice` is called on the thread that then uses the device: first for an empty disk, which must read as zeros,
/// then, after `close` or, with `.kills`, after being dropped, for the same disk again. What was acknowledged, and
/// what was under way and got acknowledged later, must be there. Throws at the first difference, naming the seed.
public func exerciseDisk<Device: BlockDevice & SendableMetatype>(
    seed: UInt64, operations: Int, abi: ABI = .native, ringOrder: Int = 0, queueCount: Int = 1, events: ExerciseEvents = [.reconnects, .reopens],
    makeDevice: @escaping @Sendable () throws(Failure) -> Device
) throws(Failure) {
    let served = try ServedDisk(abi: abi, ringOrder: ringOrder, queueCount: queueCount)
    var exercise = Exercise(seed: seed, served: served, events: events)
    do throws(Failure) {
        try served.start(makeDevice)
        try served.frontEnd.connect()
        try exercise.load.begin(served.frontEnd)
        while exercise.operationCount < operations {
            try exercise.batch(makeDevice)
        }
        try exercise.load.compareAll(served.frontEnd)
        guard case .unplugged = try served.unplug() else { throw Failure(.damage, "unplug", "ended otherwise") }
        guard served.isLetGo, try served.remainingNodes().isEmpty else { throw Failure(.damage, "unplug", "left something") }
    } catch {
        throw Failure(
            error.kind, "exercise with seed \(seed), operation \(exercise.operationCount): \(error.what)", error.why,
            remedy: served.log.lines.suffix(5).joined(separator: "; "))
    }
}

private struct Exercise {
    let seed: UInt64
    let served: ServedDisk
    let events: ExerciseEvents
    var load: RandomLoad
    var operationCount = 0

    init(seed: UInt64, served: ServedDisk, events: ExerciseEvents) {
        self.seed = seed
        self.served = served
        self.events = events
        load = RandomLoad(seed: seed)
    }

    /// Some operations, all under way at a time, and perhaps an event.
    mutating func batch<Device: BlockDevice & SendableMetatype>(_ makeDevice: @escaping @Sendable () throws(Failure) -> Device) throws(Failure) {
        let frontEnd = served.frontEnd
        let batch = load.batch(Int.random(in: 1...40, using: &load.random), for: frontEnd)
        if events.contains(.kills), Int.random(in: 0..<4, using: &load.random) == 0 {
            served.kill(afterCalls: Int.random(in: 0..<40, using: &load.random))
            try frontEnd.begin(batch.operations, on: batch.queues)
            // Sometimes all of it is answered first.
            if Bool.random(using: &load.random) { _ = served.guest.wait(milliseconds: 2) }
            served.kill()
            try served.joinKilled()
            try served.start(makeDevice)
            try load.checkRepeated(batch, try frontEnd.finish())
        } else {
            try frontEnd.begin(batch.operations, on: batch.queues)
            try load.check(batch, try frontEnd.finish())
        }
        operationCount += batch.operations.count
        try event(makeDevice)
    }

    private mutating func event<Device: BlockDevice & SendableMetatype>(_ makeDevice: @escaping @Sendable () throws(Failure) -> Device) throws(Failure) {
        switch Int.random(in: 0..<20, using: &load.random) {
        case 0 where events.contains(.reconnects):
            try served.frontEnd.disconnect()
            try served.frontEnd.setState(1)
            try served.frontEnd.connect()
        case 1 where events.contains(.reopens):
            guard case .unplugged = try served.unplug() else { throw Failure(.damage, "unplug", "ended otherwise") }
            try served.start(makeDevice)
            try served.frontEnd.connect()
            try load.compareAll(served.frontEnd)
        default:
            break
        }
    }
}
