import CXen
import Glibc
public import System
public import XenBus

extension SimulatedXen {
    public func read(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [UInt8]? {
        try access("read", path, transaction) { tree, path throws(StoreRefusal) in try tree.read(path, as: domain).value }
    }

    public func write(_ path: String, _ value: [UInt8], in transaction: XenstoreTransaction) throws(Failure) {
        _ = try access("write", path, transaction) { tree, path throws(StoreRefusal) in
            try tree.write(path, value, as: domain)
        }
    }

    public func makeDirectory(_ path: String, in transaction: XenstoreTransaction) throws(Failure) {
        _ = try access("make", path, transaction) { tree, path throws(StoreRefusal) in
            try tree.write(path, nil, as: domain)
        }
    }

    public func remove(_ path: String, in transaction: XenstoreTransaction) throws(Failure) {
        _ = try access("remove", path, transaction) { tree, path throws(StoreRefusal) in
            try tree.remove(path, as: domain)
        }
    }

    public func list(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [String]? {
        try access("list", path, transaction) { tree, path throws(StoreRefusal) in
            Array(try tree.read(path, as: domain).children)
        }
    }

    public func setPermissions(
        _ path: String, owner: DomainID, readers: [DomainID], in transaction: XenstoreTransaction
    ) throws(Failure) {
        _ = try access("set permissions of", path, transaction) { tree, path throws(StoreRefusal) in
            try tree.setPermissions(path, owner: owner, readers: readers, as: domain)
        }
    }

    public func watch(_ path: String, token: String) throws(Failure) {
        try refusals("watch", path) { state throws(StoreRefusal) in
            let path = absolute(path)
            state.processes[id]?.watches.append((path, token))
            state.queue(WatchEvent(path: path, token: token), for: id)
        }
    }

    public func unwatch(_ path: String, token: String) throws(Failure) {
        try refusals("unwatch", path) { state throws(StoreRefusal) in
            let path = absolute(path)
            state.processes[id]?.watches.removeAll { $0.path == path && $0.token == token }
        }
    }

    public func nextWatchEvent() throws(Failure) -> WatchEvent? {
        try refusals("wait for a change in", "the store") { state throws(StoreRefusal) in
            guard let first = state.processes[id]?.watchEvents.first else {
                var count: eventfd_t = 0
                _ = unsafe eventfd_read(storeDescriptor, &count)
                return nil
            }
            state.processes[id]?.watchEvents.removeFirst()
            state.tellTaken(by: id)
            return first
        }
    }

    public func isIntroduced(_ domain: DomainID) -> Bool {
        machine.state.with { $0.domains[domain]?.isAlive ?? false }
    }

    public func beginTransaction() throws(Failure) -> XenstoreTransaction {
        try refusals("begin a transaction in", "the store") { state throws(StoreRefusal) in
            let number = state.nextTransaction
            state.nextTransaction &+= 1
            var tree = state.tree
            tree.beginTracking()
            state.processes[id]?.transactions[number] = (state.tree, tree)
            return XenstoreTransaction(number: number)
        }
    }

    public func endTransaction(_ transaction: XenstoreTransaction, commit: Bool) throws(Failure) -> Bool {
        try refusals("end a transaction in", "the store") { state throws(StoreRefusal) in
            guard let (base, tree) = state.processes[id]?.transactions.removeValue(forKey: transaction.number) else {
                throw StoreRefusal(code: ENOENT)
            }
            guard commit else { return true }
            guard state.tree.merge(tree, begunFrom: base) else { return false }
            state.fireChanges(tree.changed)
            return true
        }
    }

    /// Runs `body` on the tree, or a transaction's copy of it. Nil when there is no such node.
    private func access<Result>(
        _ operation: Failure.Operation, _ path: String, _ transaction: XenstoreTransaction,
        _ body: (inout StoreTree, String) throws(StoreRefusal) -> Result
    ) throws(Failure) -> Result? {
        try refusals(operation, path) { state throws(StoreRefusal) in
            do throws(StoreRefusal) {
                if transaction == .none {
                    state.tree.beginTracking()
                    let result = try body(&state.tree, absolute(path))
                    state.fireChanges(state.tree.changed)
                    return result
                }
                // Taken out meanwhile: a tree that two hold is copied by each change.
                guard var trees = state.processes[id]?.transactions.removeValue(forKey: transaction.number) else {
                    throw StoreRefusal(code: EINVAL)
                }
                defer { state.processes[id]?.transactions[transaction.number] = trees }
                return try body(&trees.tree, absolute(path))
            } catch {
                if error.code == ENOENT { return nil }
                throw error
            }
        }
    }

    private func absolute(_ path: String) -> String {
        path.hasPrefix("/") || path.hasPrefix("@") ? path : "/local/domain/\(domain)/\(path)"
    }

    private func refusals<Result>(
        _ operation: Failure.Operation, _ path: String, _ body: (inout SimulatedMachine.State) throws(StoreRefusal) -> Result
    ) throws(Failure) -> Result {
        do throws(StoreRefusal) {
            return try call(body)
        } catch {
            throw storeFailure(operation, path, error.code)
        }
    }
}
