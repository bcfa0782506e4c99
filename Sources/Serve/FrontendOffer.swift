import Blkif
import BlockModel
import XenBus

/// Where a front end says that its ring is, and how it is laid out. Checked: whatever the guest wrote, these are
/// values that can be tried.
struct FrontendOffer {
    let references: [GrantReference]
    let eventChannel: EventPort
    let abi: ABI

    /// Reads the front end's nodes, of a ring of at most 2^`maximumRingOrder` pages.
    init<Store: Xenstore>(_ nodes: BackendNodes<Store>, maximumRingOrder: Int) throws(Failure) {
        let store = nodes.store, directory = nodes.frontend
        func number(_ key: String, upTo limit: UInt64) throws(Failure) -> UInt32 {
            guard let number = try store.number("\(directory)/\(key)"), number <= limit else {
                throw Failure(.invalidRequest, "\(nodes.device): the guest's \(key)", "absent, or not a number up to \(limit)")
            }
            return UInt32(number)
        }

        let hasOrder = try store.read(directory + "/ring-page-order") != nil
        let order = hasOrder ? try number("ring-page-order", upTo: UInt64(maximumRingOrder)) : 0
        // A ring of one page may have its one reference under either name.
        let hasOneReference = try store.read(directory + "/ring-ref") != nil
        if order == 0, hasOneReference || !hasOrder {
            references = [try number("ring-ref", upTo: UInt64(UInt32.max))]
        } else {
            var references: [GrantReference] = []
            for index in 0..<(1 << order) { references.append(try number("ring-ref\(index)", upTo: UInt64(UInt32.max))) }
            self.references = references
        }
        // A port fits in 31 bits (xenevtchn.h).
        eventChannel = try number("event-channel", upTo: UInt64(Int32.max))

        if let name = try store.read(directory + "/protocol") {
            guard let abi = ABI(protocolName: name) else {
                throw Failure(.invalidRequest, "\(nodes.device): the guest's protocol", "none that we know")
            }
            self.abi = abi
        } else {
            abi = ABI.native == .x86_64 ? .x86_32 : .native
        }
    }
}
