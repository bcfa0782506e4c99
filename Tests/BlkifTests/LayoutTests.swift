import Blkif
import CRingReference
import Testing

@Suite struct LayoutTests {
    @Test func protocolNames() {
        for abi in ABI.allCases {
            #expect(ABI(protocolName: abi.protocolName) == abi)
            #expect(ABI(protocolName: Array(abi.protocolName.utf8)) == abi)
        }
        #expect(ABI(protocolName: "x86_64-abi") == .x86_64)
        #expect(ABI(protocolName: "x86_32-abi") == .x86_32)
        for name in ["", "x86_64", "x86_64-abi ", "X86_64-ABI", "x86_64-abi\0"] { #expect(ABI(protocolName: name) == nil) }
        #expect(ABI(protocolName: [0xFF, 0xFE]) == nil)
        #if arch(x86_64)
            #expect(ABI.native == .x86_64)
        #endif
    }

    /// The layout as the compiler has it from <xen/io/blkif.h>.
    private func layout(_ abi: ABI) -> reference_layout {
        var layout = reference_layout()
        unsafe (abi == .x86_32 ? x86_32_layout : x86_64_layout)(&layout)
        return layout
    }

    @Test func referenceHasTheWireLayout() {
        let wide = layout(.x86_64), narrow = layout(.x86_32)
        #expect([wide.slot, wide.response, wide.slots] == [112, 16, 64])
        #expect([narrow.slot, narrow.response, narrow.slots] == [108, 12, 64])
        #expect([wide.id, wide.sector, wide.segments] == [8, 16, 24])
        #expect([narrow.id, narrow.sector, narrow.segments] == [4, 12, 20])
        #expect([wide.indirect_id, wide.indirect_sector, wide.indirect_handle, wide.grefs] == [8, 16, 24, 28])
        #expect([narrow.indirect_id, narrow.indirect_sector, narrow.indirect_handle, narrow.grefs] == [4, 12, 20, 24])
    }

    @Test(arguments: [ABI.x86_64, .x86_32]) func everyFieldIsWhereTheHeaderHasIt(_ abi: ABI) throws {
        let l = layout(abi)
        #expect(abi.slotByteCount == l.slot)
        #expect(abi.responseByteCount == l.response)

        var transfer = Request.transfer(.write, id: 0x1122_3344_5566_7788, sector: 0x99AA_BBCC_DDEE_FF00, pages: 11)
        transfer.handle = 0xABCD
        transfer.segments[10] = Segment(gref: 0xDEAD_BEEF, firstSector: 3, lastSector: 5)
        var slot = try posted(transfer, abi)
        #expect(slot.load(l.operation, as: UInt8.self) == 1)
        #expect(slot.load(l.segment_count, as: UInt8.self) == 11)
        #expect(slot.load(l.handle, as: UInt16.self) == 0xABCD)
        #expect(slot.load(l.id, as: UInt64.self) == transfer.id)
        #expect(slot.load(l.sector, as: UInt64.self) == transfer.sector)
        let last = l.segments + 10 * l.segment
        #expect(slot.load(last + l.gref, as: UInt32.self) == 0xDEAD_BEEF)
        #expect([slot.load(last + l.first, as: UInt8.self), slot.load(last + l.last, as: UInt8.self)] == [3, 5])

        var discard = Request()
        (discard.rawOperation, discard.discardFlag, discard.handle) = (5, 1, 0x1234)
        (discard.id, discard.sector, discard.discardSectorCount) = (7, 8, 9)
        slot = try posted(discard, abi)
        #expect([slot.load(0, as: UInt8.self), slot.load(l.flag, as: UInt8.self)] == [5, 1])
        #expect(slot.load(l.discard_handle, as: UInt16.self) == 0x1234)
        #expect([l.discard_id, l.discard_sector, l.discard_count].map { slot.load($0, as: UInt64.self) } == [7, 8, 9])

        var indirect = Request()
        (indirect.rawOperation, indirect.rawInnerOperation, indirect.indirectSegmentCount) = (6, 1, 0x0FFE)
        (indirect.handle, indirect.id, indirect.sector) = (0x4321, 10, 11)
        for i in 0..<8 { indirect.indirectGrefs[i] = UInt32(100 + i) }
        slot = try posted(indirect, abi)
        #expect([slot.load(0, as: UInt8.self), slot.load(l.inner_operation, as: UInt8.self)] == [6, 1])
        #expect(slot.load(l.indirect_count, as: UInt16.self) == 0x0FFE)
        #expect(slot.load(l.indirect_handle, as: UInt16.self) == 0x4321)
        #expect([l.indirect_id, l.indirect_sector].map { slot.load($0, as: UInt64.self) } == [10, 11])
        #expect((0..<8).map { slot.load(l.grefs + $0 * 4, as: UInt32.self) } == (100..<108).map { $0 })
    }

    /// Memory that starts with the first slot of a ring, after `request` was posted.
    private func posted(_ request: Request, _ abi: ABI) throws -> RingMemory {
        let memory = RingMemory()
        let front = try OurFront(memory, abi)
        #expect(front.post(request))
        let slot = RingMemory()
        for (i, byte) in memory.slot(0, abi).enumerated() { slot[i] = byte }
        return slot
    }

    @Test(arguments: ABI.allCases) func entriesPerOrder(_ abi: ABI) throws {
        for (order, entries) in [32, 64, 128, 256, 512].enumerated() {
            let memory = RingMemory(order: order)
            let front = try OurFront(memory, abi)
            let back = try OurBack(memory, abi)
            #expect(front.entries == entries)
            #expect(back.entries == entries)
            #expect(ReferenceBack(memory, abi, at: nil).entries == entries)
        }
        let memory = RingMemory(order: 5)
        for byteCount in [0, 1, -4096, 4095, 4097, 3 * 4096, 32 * 4096, Int.max, Int.min] {
            #expect(throws: (any Error).self, "\(byteCount) bytes") {
                _ = unsafe try BackRing(page: memory.bytes, byteCount: byteCount, abi: abi)
            }
        }
    }
}
