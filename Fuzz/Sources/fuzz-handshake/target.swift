import Blkif
import DiskExercise
import FuzzDriver
@testable import Serve
import System
import XenBus
import XenSimulation

/// The bytes are what a guest has written into its nodes, and what a toolstack's nodes say of a disk.
@main struct HandshakeTarget {
    static func main() throws {
        let world = try World()
        fuzz { read($0, world) }
    }
}

private func read(_ script: Script, _ world: World) {
    var script = script
    try? world.xen.remove(world.nodes.frontend)
    try? world.xen.remove(world.nodes.backend)
    let limits = RingLimits(ringOrder: script.number(below: 5), queues: 1 + script.number(below: 8))
    if script.byte() % 2 == 0 { offer(&script, limits, world) }
    while !script.isAtEnd {
        let key = keys[script.number(below: keys.count)]
        let isNumber = script.byte() % 2 == 0
        let value = isNumber ? Array("\(script.word() % 70000)".utf8) : script.run(atMost: 4096)
        try? world.xen.write("\(key.hasPrefix("^") ? world.nodes.backend : world.nodes.frontend)/\(key.filter { $0 != "^" })", value, in: .none)
    }
    _ = try? world.nodes.frontendState()
    if let disk = try? ToolstackDevice(className: "qdisk", domain: 7, device: world.nodes.device).disk(world.nodes) {
        require(disk.name.utf8.count <= 3 * 4096, "a name out of nothing")
    }
    guard let offer = try? FrontendOffer(world.nodes, limits) else { return }
    require((1...limits.queues).contains(offer.queues.count), "more queues than were offered")
    for queue in offer.queues {
        require(queue.references.count.nonzeroBitCount == 1 && queue.references.count <= 1 << limits.ringOrder, "a ring of a wrong size")
        require(queue.eventChannel <= UInt32(Int32.max), "no port")
    }
}

/// Values that make sense together, for the script to spoil.
private func offer(_ script: inout Script, _ limits: RingLimits, _ world: World) {
    let order = script.number(below: limits.ringOrder + 2), queues = script.number(below: limits.queues + 2)
    var values = [("protocol", "x86_64-abi"), ("multi-queue-num-queues", "\(queues)")]
    switch script.byte() % 3 {
    case 0: values.append(("ring-page-order", "\(order)"))
    case 1: values.append(("num-ring-pages", "\(script.number(below: 1 << limits.ringOrder) + 1)"))
    default: values += [("ring-page-order", "\(order)"), ("num-ring-pages", "\(1 << order)")]
    }
    for queue in 0..<queues {
        let prefix = queues == 1 ? "" : "queue-\(queue)/"
        values.append((prefix + "event-channel", "\(queue + 1)"))
        if order == 0 { values.append((prefix + "ring-ref", "8")) }
        for page in 0..<(1 << order) { values.append(("\(prefix)ring-ref\(page)", "\(page + 8)")) }
    }
    for (key, value) in values { try? world.xen.write("\(world.nodes.frontend)/\(key)", value) }
}

private let keys = [
    "ring-ref", "ring-ref0", "ring-ref1", "ring-ref2", "ring-ref3", "event-channel", "protocol", "ring-page-order", "num-ring-pages",
    "multi-queue-num-queues", "queue-0/ring-ref", "queue-0/ring-ref0", "queue-0/ring-ref1", "queue-0/event-channel", "queue-1/ring-ref",
    "queue-1/ring-ref0", "queue-1/ring-ref1", "queue-1/event-channel", "state", "^params", "^mode", "^script",
]

private struct World {
    let xen: SimulatedXen
    let nodes: BackendNodes<SimulatedXen>

    init() throws(Failure) {
        let machine = try SimulatedMachine(pageLimit: 16)
        _ = try SimulatedGuest(machine, id: 7, name: "web")
        xen = try SimulatedXen(machine)
        nodes = BackendNodes(
            xen, className: "qdisk", domain: 7, ownDomain: 0, device: VirtualDevice(anyNumber: 51728), isToolstacks: true)
    }
}
