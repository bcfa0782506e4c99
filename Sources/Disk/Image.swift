internal import BlockModel
public import Store
public import System

/// Raw images in and out of a store.
public enum Image {
    private static let chunkBytes = 1 << 20

    /// Stops an import or export: asked between chunks.
    public typealias ShouldStop = () -> Bool
    /// Told bytes done, and bytes to do when that is known.
    public typealias Progress = (UInt64, UInt64?) -> Void

    /// Makes a disk of a raw image. The disk appears when all of it is in; before that, there is none.
    /// - Parameter check: asked when all is read; what it throws is why there will be no disk.
    public static func load(
        _ source: ImageSource, into store: Store, as name: String, check: () throws(Failure) -> Void,
        shouldStop: ShouldStop, progress: Progress
    ) throws(Failure) {
        // A pipe's length is known at its end; until then the disk is as large as any can be.
        let lock = try store.createIncomplete(name, byteCount: source.byteCount.map { roundUp($0) } ?? Store.largestDisk)
        do throws(Failure) {
            let end = try load(Loader(store, name, from: source), shouldStop, progress)
            guard end > 0 else {
                throw Failure(
                    .usage, .import, .empty(source.name), "the image is empty",
                    remedy: source.byteCount == nil ? "see whether what should write it did" : nil)
            }
            try check()
            try store.complete(name, byteCount: roundUp(end))
            source.end(read: true)
        } catch {
            source.end(read: false)
            // What it leaves is invisible, and removed as a leftover later; the failure is the one to tell.
            try? store.delete(lock)
            throw error.kind == .interrupted ? interrupted(.import, .disk(name)) : error
        }
        _ = consume lock
        try store.trim()
    }

    private static func roundUp(_ byteCount: UInt64) -> UInt64 {
        (byteCount + UInt64(sectorSize) - 1) / UInt64(sectorSize) * UInt64(sectorSize)
    }

    /// - Returns: the image's length.
    private static func load(_ loader: Loader, _ shouldStop: ShouldStop, _ progress: Progress) throws(Failure) -> UInt64 {
        defer { loader.end() }
        let end =
            if let size = loader.source.byteCount {
                try loadFile(loader, size: size, shouldStop, progress)
            } else {
                try loadPipe(loader, shouldStop, progress)
            }
        try loader.finish()
        return end
    }

    private static func loadFile(_ loader: Loader, size: UInt64, _ shouldStop: ShouldStop, _ progress: Progress) throws(Failure) -> UInt64 {
        var offset: UInt64 = 0
        while offset < size, let data = try loader.source.nextData(at: offset) {
            offset = max(offset, data.lowerBound / UInt64(blockSize) * UInt64(blockSize))
            let end = min((data.upperBound + UInt64(blockSize) - 1) / UInt64(blockSize) * UInt64(blockSize), size)
            while offset < end {
                if shouldStop() { throw interrupted(.import, .disk(loader.name)) }
                let step = min(UInt64(Loader.stepBytes), end - offset)
                try loader.add(at: offset, Int(step))
                offset += step
                progress(offset, size)
            }
        }
        progress(size, size)
        return size
    }

    private static func loadPipe(_ loader: Loader, _ shouldStop: ShouldStop, _ progress: Progress) throws(Failure) -> UInt64 {
        var offset: UInt64 = 0
        while true {
            if shouldStop() { throw interrupted(.import, .disk(loader.name)) }
            let got = try loader.addNext(at: offset)
            guard got > 0 else { return offset }
            guard offset + UInt64(got) <= Store.largestDisk else { throw Failure(.usage, .import, .disk(loader.name), "the image is larger than 128 TiB") }
            offset += UInt64(got)
            progress(offset, nil)
        }
    }

    static func interrupted(_ operation: Failure.Operation, _ subject: Subject, _ remedy: String = "nothing was kept") -> Failure {
        Failure(.interrupted, operation, subject, "interrupted", remedy: remedy)
    }

    /// Writes a disk as a raw image, each mapped run where it belongs. What is not mapped is a hole of a new file, and zeros elsewhere.
    public static func save(
        _ disk: StoreDisk, to target: ImageTarget, shouldStop: ShouldStop, progress: Progress
    ) throws(Failure) {
        let size = disk.byteCount
        try target.prepare(size)
        do throws(Failure) {
            var chunk = [UInt8](repeating: 0, count: chunkBytes)
            var offset: UInt64 = 0
            while offset < size {
                let run = try nextRun(of: disk, at: offset, for: target)
                try leaveOut(offset..<run.lowerBound, of: target, shouldStop) { progress($0, size) }
                guard !run.isEmpty else { break }
                if shouldStop() { throw interrupted(.none, "") }
                try chunk.withMutableBytes { (bytes) throws(Failure) in
                    var room = bytes._mutatingExtracting(0..<run.count)
                    try disk.read(at: run.lowerBound / UInt64(sectorSize), into: &room)
                    try target.write(at: run.lowerBound, room.bytes)
                }
                offset = run.upperBound
                progress(offset, size)
            }
            if shouldStop() { throw interrupted(.none, "") }
            try target.finish(size)
        } catch {
            throw error.kind == .interrupted ? interrupted(.export, .image(target.name), target.whatIsLeft) : error
        }
        progress(size, size)
    }

    /// Bytes of the disk that are to be written next, a chunk at most, from `offset` on; empty at its end when there are none. All that
    /// lies before is not mapped.
    private static func nextRun(of disk: StoreDisk, at offset: UInt64, for target: ImageTarget) throws(Failure) -> Range<UInt64> {
        let size = disk.byteCount
        if target.isStream { return offset..<min(offset + UInt64(chunkBytes), size) }
        guard let run = try disk.nextMapped(at: offset / UInt64(blockSize), limit: UInt64(chunkBytes / blockSize)) else { return size..<size }
        return run.lowerBound * UInt64(blockSize)..<min(run.upperBound * UInt64(blockSize), size)
    }

    private static func leaveOut(
        _ hole: Range<UInt64>, of target: ImageTarget, _ shouldStop: ShouldStop, _ progress: (UInt64) -> Void
    ) throws(Failure) {
        var offset = hole.lowerBound
        while offset < hole.upperBound {
            if shouldStop() { throw interrupted(.none, "") }
            let end = min(hole.upperBound, offset + ImageTarget.longestHole)
            try target.leaveOut(offset..<end)
            offset = end
            progress(offset)
        }
    }
}
