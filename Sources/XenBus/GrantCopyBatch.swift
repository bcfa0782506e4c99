package import CXen

/// Copies between our memory and granted pages, to be done in one call (`xengnttab_grant_copy`): room for a fixed
/// number of them, allocated once. The hypervisor does the copies, so no page of the guest gets mapped, and a page
/// that the guest takes away in the middle is an error of one copy.
@safe public struct GrantCopyBatch: ~Copyable {
    package let segments: UnsafeMutableBufferPointer<xengnttab_grant_copy_segment_t>
    /// Number of copies.
    public private(set) var count = 0
    /// What is copied from may not be there, see `takeFrom`: for simulations, in which no kernel looks first.
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
    /// - Parameter lent: it is lent by a disk and may not be there; then the call fails that does the copies (EFAULT: gntdev takes
    ///   hold of the memory by get_user_pages(9)), and nothing can be said of any.
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
