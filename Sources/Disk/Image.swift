public import BlockModel
public import Store

/// Raw images in and out of a store.
public enum Image {
    private static let chunkBytes = 1 << 20

    /// Stops an import or export: asked between chunks.
    public typealias ShouldStop = () -> Bool
    /// Told bytes done, and bytes to do when that is known.
    public typealias Progress = (UInt64, UInt64?) -> Void

    /// Makes a disk of a raw image. The disk appears when all of it is in; before that, there is none.
    /// - Parameter sequential: a pipe: read to its end; otherwise a file, whose holes are not read.
    public static func load(
        _ source: consuming File, sequential: Bool, into store: Store, as name: String,
        shouldStop: ShouldStop, progress: Progress
    ) throws(Failure) {
        let size = sequential ? nil : try source.size()
        // A pipe's length is known at its end; until then the disk is as large as any can be.
        let lock = try store.createIncomplete(name, byteCount: size.map { roundUp($0) } ?? Store.largestDisk)
        do throws(Failure) {
            let end = try load(Loader(store, name, from: source), size: size, shouldStop, progress)
            guard end > 0 else { throw Failure(.usage, "import disk \(name)", "the image is empty") }
            try store.complete(name, byteCount: roundUp(end))
        } catch {
            try? store.delete(lock)
            throw error.kind == .interrupted ? interrupted("import disk \(name)") : error
        }
        _ = consume lock
        try store.trim()
    }

    private static func roundUp(_ byteCount: UInt64) -> UInt64 {
        (byteCount + UInt64(sectorSize) - 1) / UInt64(sectorSize) * UInt64(sectorSize)
    }

    /// - Returns: the image's length.
    private static func load(_ loader: Loader, size: UInt64?, _ shouldStop: ShouldStop, _ progress: Progress) throws(Failure) -> UInt64 {
        defer { loader.end() }
        let end = if let size {
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
                if shouldStop() { throw interrupted("import disk \(loader.name)") }
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
            if shouldStop() { throw interrupted("import disk \(loader.name)") }
            let got = try loader.addNext(at: offset)
            guard got > 0 else { return offset }
            guard offset + UInt64(got) <= Store.largestDisk else { throw Failure(.usage, "import disk \(loader.name)", "the image is larger than 128 TiB") }
            offset += UInt64(got)
            progress(offset, nil)
        }
    }

    static func interrupted(_ what: String) -> Failure { Failure(.interrupted, what, "interrupted", remedy: "nothing was kept") }

    /// Writes a disk as a raw image, each mapped run where it belongs; what is not mapped stays a hole.
    /// - Parameter sequential: a pipe: holes are written as zeros.
    public static func save(
        _ disk: StoreDisk, to target: borrowing File, sequential: Bool, shouldStop: ShouldStop, progress: Progress
    ) throws(Failure) {
        let size = disk.byteCount
        if !sequential { try target.truncate(to: size) }
        var chunk = [UInt8](repeating: 0, count: chunkBytes)
        var offset: UInt64 = 0
        while offset < size {
            if shouldStop() { throw interrupted("export to \(target.path)") }
            var count = Int(min(UInt64(chunkBytes), size - offset))
            if !sequential {
                guard let run = try disk.nextMapped(at: offset / UInt64(blockSize), limit: UInt64(chunkBytes / blockSize)) else { break }
                offset = run.lowerBound * UInt64(blockSize)
                count = Int(min(run.upperBound * UInt64(blockSize), size) - offset)
            }
            try chunk.withMutableBytes { (bytes) throws(Failure) in
                var room = bytes._mutatingExtracting(0..<count)
                try disk.read(at: offset / UInt64(sectorSize), into: &room)
                if sequential { try target.writeNext(room.bytes) } else { try target.write(at: offset, room.bytes) }
            }
            offset += UInt64(count)
            progress(offset, size)
        }
        progress(size, size)
        if !sequential { try target.synchronize() }
    }
}
