import Glibc
import XenBus

/// What the xenstore refuses, as an `errno`.
struct StoreRefusal: Error { let code: Int32 }

/// The tree of a simulated xenstore at one moment, and who may do what to it.
struct StoreTree {
    struct Node {
        var value: [UInt8] = []
        var children: Set<String> = []
        var owner: DomainID
        var readers: [DomainID]
        /// Another one with each change of the node, so that a transaction's end sees whether there was one.
        var generation: UInt64
    }

    private(set) var nodes: [String: Node] = ["/": Node(owner: 0, readers: [], generation: 0)]
    private var generation: UInt64 = 0
    /// The nodes that were looked at, and those that were made, changed or removed, since `beginTracking`.
    private(set) var accessed: Set<String> = []
    private(set) var changed: Set<String> = []

    /// From now on `accessed` and `changed` are noted, from nothing.
    mutating func beginTracking() {
        accessed = []
        changed = []
    }

    mutating func read(_ path: String, as domain: DomainID) throws(StoreRefusal) -> Node {
        accessed.insert(path)
        guard let node = nodes[path] else {
            let (_, ancestor) = nearestAncestor(path)
            throw StoreRefusal(code: Self.mayRead(ancestor, domain) ? ENOENT : EACCES)
        }
        guard Self.mayRead(node, domain) else { throw StoreRefusal(code: EACCES) }
        return node
    }

    /// Makes the node if it is missing, with the permissions of the nearest node above, and sets its value if given.
    mutating func write(_ path: String, _ value: [UInt8]?, as domain: DomainID) throws(StoreRefusal) {
        accessed.insert(path)
        if let node = nodes[path] {
            guard Self.mayWrite(node, domain) else { throw StoreRefusal(code: EACCES) }
        } else {
            try make(path, as: domain)
        }
        if let value {
            nodes[path]?.value = value
            touch(path)
        }
    }

    mutating func remove(_ path: String, as domain: DomainID) throws(StoreRefusal) {
        let node = try read(path, as: domain)
        guard path != "/", Self.mayWrite(node, domain) else { throw StoreRefusal(code: EACCES) }
        let parent = Self.parent(of: path)
        nodes[parent]?.children.remove(Self.name(of: path))
        touch(parent)
        var doomed = [path]
        while let next = doomed.popLast() {
            guard let node = nodes.removeValue(forKey: next) else { continue }
            accessed.insert(next)
            changed.insert(next)
            doomed += node.children.map { "\(next)/\($0)" }
        }
    }

    mutating func setPermissions(_ path: String, owner: DomainID, readers: [DomainID], as domain: DomainID) throws(StoreRefusal) {
        let node = try read(path, as: domain)
        guard Self.mayWrite(node, domain) else { throw StoreRefusal(code: EACCES) }
        nodes[path]?.owner = owner
        nodes[path]?.readers = readers
        touch(path)
    }

    /// Takes over what a transaction changed, unless something it looked at has changed here since it began.
    mutating func merge(_ transaction: StoreTree, begunFrom base: StoreTree) -> Bool {
        for path in transaction.accessed where nodes[path]?.generation != base.nodes[path]?.generation { return false }
        for path in transaction.changed {
            nodes[path] = transaction.nodes[path]
            touch(path)
        }
        return true
    }

    func isReadable(_ path: String, by domain: DomainID) -> Bool {
        Self.mayRead(nodes[path] ?? nearestAncestor(path).node, domain)
    }

    static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return "/" }
        return String(path[..<slash])
    }

    private static func name(of path: String) -> String {
        String(path.suffix(from: path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex))
    }

    private mutating func make(_ path: String, as domain: DomainID) throws(StoreRefusal) {
        let (ancestor, above) = nearestAncestor(path)
        guard Self.mayWrite(above, domain) else { throw StoreRefusal(code: EACCES) }
        let inheriting = Node(owner: domain == 0 ? above.owner : domain, readers: above.readers, generation: 0)
        var lower = path
        var below: Set<String> = []
        while lower != ancestor {
            nodes[lower, default: inheriting].children.formUnion(below)
            touch(lower)
            below = [Self.name(of: lower)]
            lower = Self.parent(of: lower)
        }
        nodes[ancestor]?.children.formUnion(below)
        touch(ancestor)
    }

    private mutating func touch(_ path: String) {
        generation += 1
        nodes[path]?.generation = generation
        accessed.insert(path)
        changed.insert(path)
    }

    private func nearestAncestor(_ path: String) -> (path: String, node: Node) {
        var path = Self.parent(of: path)
        while path != "/" {
            if let node = nodes[path] { return (path, node) }
            path = Self.parent(of: path)
        }
        return ("/", nodes["/"] ?? Node(owner: 0, readers: [], generation: 0))
    }

    private static func mayRead(_ node: Node, _ domain: DomainID) -> Bool {
        domain == 0 || node.owner == domain || node.readers.contains(domain)
    }

    private static func mayWrite(_ node: Node, _ domain: DomainID) -> Bool {
        domain == 0 || node.owner == domain
    }
}
