internal import BlobModel
internal import LMDB
internal import System

/// Where the buckets of the digest index lie, by their keys. LMDB searches three levels of pages for one among many
/// thousands; here a guess is a few steps off, as digests are spread evenly.
///
/// What is found with it is tried like any guess: where others have changed the index since, look-ups take longer, and
/// that is all. Pages that were given up may hold anything, and are in the map as long as the store is open.
@safe
final class BucketCache: @unchecked Sendable {
    private let keys: [UInt64]
    private let values: [UnsafeRawBufferPointer]

    /// Most buckets: 3 MiB, of a store of 33 million blobs.
    static let limit = 1 << 17

    /// Of the newest commit. Nil: it has too many.
    init?(_ environment: Environment, _ index: Environment.Table) throws(Failure) {
        let reading = try ReadTransaction(environment)
        let count = try reading.view.count(index)
        guard count <= Self.limit else { return nil }
        var keys: [UInt64] = []
        var values = unsafe [UnsafeRawBufferPointer]()
        keys.reserveCapacity(count)
        unsafe values.reserveCapacity(count)
        var cursor = try reading.view.cursor(index)
        var more = try cursor.first()
        while more, let key = cursor.integerKey {
            keys.append(key)
            unsafe values.append(cursor.value.withUnsafeBytes { bytes in unsafe bytes })
            more = try cursor.next()
        }
        self.keys = keys
        unsafe self.values = values
    }

    /// The bucket that `prefix` belongs to, its key and the next one's, or `Bucket.prefixes`. Nil: there is none.
    func bucket(of prefix: UInt64) -> (key: UInt64, end: UInt64, bytes: UnsafeRawBufferPointer)? {
        // How many keys are `prefix` or less: between `low` and `high`, which move apart until that is so.
        var low = min(Int(truncatingIfNeeded: ((prefix >> 16) &* UInt64(keys.count)) >> 32), keys.count)
        var high = low
        var step = 16
        while low > 0, keys[low - 1] > prefix {
            high = low - 1
            low = max(0, low - step)
            step *= 2
        }
        while high < keys.count, keys[high] <= prefix {
            low = high + 1
            high = min(keys.count, high + step)
            step *= 2
        }
        while low < high {
            let middle = (low + high) / 2
            if keys[middle] <= prefix { low = middle + 1 } else { high = middle }
        }
        guard low > 0 else { return nil }
        return unsafe (keys[low - 1], low < keys.count ? keys[low] : Bucket.prefixes, values[low - 1])
    }
}

/// Lists the buckets when that is worthwhile: as long as the index stays as it is, and many blocks are looked up.
struct BucketMemory {
    private var state: IndexState?
    private var cache: BucketCache?
    /// Made in this state.
    private var lookUps = 0
    private var isTried = false

    /// - Parameter more: look-ups that are about to be made.
    mutating func buckets(
        _ environment: Environment, _ index: Environment.Table, _ now: IndexState, _ view: View, lookUps more: Int
    ) throws(Failure) -> BucketCache? {
        if state != now {
            self = BucketMemory()
            state = now
        }
        lookUps += more
        // A bucket takes some twenty nanoseconds to list, and spares a look-up three hundred.
        if !isTried, try view.count(index) < 4 * lookUps {
            isTried = true
            cache = try BucketCache(environment, index)
        }
        return cache
    }
}
