package import CXen

/// Copies between our memory and granted pages, which are done in one call (`xengnttab_grant_copy`). There is room for a fixed
/// number of them, allocated once. The hypervisor copies, so that no page of the guest is mapped, and a page
/// that the guest takes away meanwhile fails one copy and no other.
@safe public struct GrantCopyBatch: ~Copyable {
    package let segments: UnsafeMutableBufferPointer<xengnttab_grant_copy_segment_t>
    /// Number of copies.
    public private(set) var count = 0
    /// The memory that is copied from may not be there (see `takeFrom`). Simulations have to know: there no kernel looks first.
    package private(set) var isFromLentMemory = false

    /// Room for `capacity` copies.
    public init(capacity: Int) {
        unsafe segments = .allocate(capacity: capacity)
        unsafe segments.initialize(repeating: xengnttab_grant_copy_segment_t())
    }

    deinit { unsafe segments.deallocate() }

    public var capacity: Int { unsafe segments.count }
    public var isFull: Bool { count == capacity }

    /// Forgets all copies.
    public mutating func removeAll() {
        count = 0
        isFromLentMemory = false
    }

    /// Adds a copy of `byteCount` bytes at `offset` in a page of `domain` to `local`. The caller has checked that they
    /// are within the page (the kernel refuses the whole batch otherwise), and that `local` stays.
    @unsafe public mutating func copy(
        from reference: GrantReference, of domain: DomainID, offset: UInt16, byteCount: UInt16,
        to local: UnsafeMutableRawPointer
    ) {
        precondition(!isFull, "more grant copies than there is room for")
        unsafe cxen_copy_from_grant(segments.baseAddress, count, domain, reference, offset, local, byteCount)
        count += 1
    }

    /// Adds a copy from `local` to a page, likewise.
    @unsafe public mutating func copy(
        _ local: UnsafeMutableRawPointer, to reference: GrantReference, of domain: DomainID, offset: UInt16, byteCount: UInt16
    ) {
        precondition(!isFull, "more grant copies than there is room for")
        unsafe cxen_copy_to_grant(segments.baseAddress, count, domain, reference, offset, local, byteCount)
        count += 1
    }

    /// Has all copies, which are all to pages, take what lies side by side from `start` on.
    /// - Parameter lent: the memory is lent by a disk, and may not be there. Then the call that does the copies fails (EFAULT: gntdev takes
    ///   hold of the memory by get_user_pages(9)), and nothing is known of any of them.
    @unsafe public mutating func takeFrom(_ start: UnsafeRawPointer, lent: Bool) {
        var offset = 0
        for index in 0..<count {
            unsafe cxen_copy_from(segments.baseAddress, index, start + offset)
            unsafe offset += Int(segments[index].len)
        }
        isFromLentMemory = lent
    }

    /// Whether the copy at `index` was done.
    public func succeeded(_ index: Int) -> Bool {
        precondition(index >= 0 && index < count, "no such grant copy")
        return unsafe segments[index].status == Int16(GNTST_okay)
    }

    /// Whether the copies at these indices were all done.
    public func succeeded(_ indices: Range<Int>) -> Bool {
        indices.allSatisfy { succeeded($0) }
    }
}
