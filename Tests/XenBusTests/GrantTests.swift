import System
import Testing
import XenBus
import XenSimulation

@Suite struct GrantTests {
    let machine: SimulatedMachine
    let guest: SimulatedGuest
    let xen: SimulatedXen

    init() throws {
        machine = try SimulatedMachine(pageLimit: 64)
        guest = try SimulatedGuest(machine, id: 7, name: "web")
        xen = try SimulatedXen(machine)
    }

    @Test func mappedPagesAreTheGuestsOneAfterTheOther() throws {
        let pages = try guest.allocatePages(3)
        do {
            let mapping = try GrantMapping(xen, domain: 7, references: [guest.grant(pages[2]), guest.grant(pages[0])])
            #expect(mapping.byteCount == 8192)
            #expect(machine.mappedPageCount(of: 7) == 2)
            unsafe pages[2].pointer.storeBytes(of: 0xabcd, toByteOffset: 8, as: UInt32.self)
            unsafe mapping.pointer.storeBytes(of: 0x1234, toByteOffset: 4096, as: UInt32.self)
            #expect(unsafe mapping.pointer.load(fromByteOffset: 8, as: UInt32.self) == 0xabcd)
            #expect(unsafe pages[0].pointer.load(as: UInt32.self) == 0x1234)
            // As in Xen, a mapping outlives its domain.
            machine.destroy(7)
            #expect(unsafe mapping.pointer.load(fromByteOffset: 8, as: UInt32.self) == 0xabcd)
        }
        #expect(machine.mappedPageCount(of: 7) == 0)
    }

    @Test func onlyGrantsToUsCanBeMapped() throws {
        let page = try guest.allocatePages(1)[0]
        let revoked = guest.grant(page)
        guest.revoke(revoked)
        for (domain, reference) in [(7, 999), (7, revoked), (7, guest.grant(page, to: 3)), (9, 8)] as [(DomainID, GrantReference)] {
            #expect(throws: Failure.self) { _ = try GrantMapping(xen, domain: domain, references: [reference]) }
        }
        #expect(throws: Failure.self) { _ = try GrantMapping(xen, domain: 7, references: []) }
    }

    @Test func copiesSucceedOrFailOneByOne() throws {
        let pages = try guest.allocatePages(2), page = pages[0], taken = pages[1]
        let reference = guest.grant(page), revoked = guest.grant(taken)
        guest.revoke(revoked)
        unsafe page.pointer.storeBytes(of: 0x5566_7788, toByteOffset: 512, as: UInt32.self)
        let local = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        unsafe local.initializeMemory(as: UInt8.self, repeating: 0xee, count: 4096)
        defer { unsafe local.deallocate() }

        var batch = GrantCopyBatch(capacity: 4)
        unsafe batch.copy(from: reference, of: 7, offset: 512, byteCount: 512, to: local)
        unsafe batch.copy(from: revoked, of: 7, offset: 0, byteCount: 512, to: local + 512)
        unsafe batch.copy(local + 1024, to: reference, of: 7, offset: 1024, byteCount: 512)
        unsafe batch.copy(from: reference, of: 9, offset: 0, byteCount: 512, to: local + 512)
        let isFull = batch.isFull
        #expect(isFull)
        try xen.perform(&batch)
        let statuses = (0..<4).map { batch.succeeded($0) }, both = batch.succeeded(0..<2)
        #expect(statuses == [true, false, true, false])
        #expect(!both)
        #expect(unsafe local.load(as: UInt32.self) == 0x5566_7788)
        #expect(unsafe local.load(fromByteOffset: 512, as: UInt8.self) == 0xee)
        #expect(unsafe page.pointer.load(fromByteOffset: 1535, as: UInt8.self) == 0xee)
        #expect(unsafe page.pointer.load(fromByteOffset: 1536, as: UInt8.self) == 0)
    }

    /// Lent memory that isn't there is an error of the call, not the end of the process.
    @Test func copiesFromLentMemoryLookFirst() throws {
        let page = try guest.allocatePages(1)[0]
        let reference = guest.grant(page)
        let file = try File(temporaryIn: "/tmp")
        try file.write(at: 0, [UInt8](repeating: 0xab, count: 4096).rawBytes)
        let mapping = try file.map(byteCount: 4096)
        var batch = GrantCopyBatch(capacity: 2)
        let local = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { unsafe local.deallocate() }
        unsafe local.initializeMemory(as: UInt8.self, repeating: 1, count: 4096)
        unsafe batch.copy(local, to: reference, of: 7, offset: 0, byteCount: 512)
        unsafe batch.copy(local, to: reference, of: 7, offset: 1024, byteCount: 512)
        unsafe batch.takeFrom(mapping.address(at: 0, count: 1024), lent: true)
        try xen.perform(&batch)
        let both = batch.succeeded(0..<2)
        #expect(both)
        #expect(unsafe page.pointer.load(fromByteOffset: 1535, as: UInt8.self) == 0xab)
        try file.truncate(to: 0)
        unsafe batch.takeFrom(mapping.address(at: 0, count: 1024), lent: true)
        var thrown = false
        do { try xen.perform(&batch) } catch { thrown = true }
        #expect(thrown)
        let any = batch.succeeded(0) || batch.succeeded(1)
        #expect(!any)
        unsafe batch.takeFrom(local, lent: false)
        try xen.perform(&batch)
        #expect(unsafe page.pointer.load(fromByteOffset: 1535, as: UInt8.self) == 1)
    }

    @Test func aCopyBeyondItsPageFailsTheCall() throws {
        let reference = guest.grant(try guest.allocatePages(1)[0])
        let local = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { unsafe local.deallocate() }
        var batch = GrantCopyBatch(capacity: 1)
        unsafe batch.copy(from: reference, of: 7, offset: 4095, byteCount: 2, to: local)
        var thrown = false
        do { try xen.perform(&batch) } catch { thrown = true }
        #expect(thrown)
        let succeeded = batch.succeeded(0)
        #expect(!succeeded)
    }
}
