import CXen
import Glibc
public import System

extension LibXen {
    public func read(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [UInt8]? {
        var count: UInt32 = 0
        guard let value = unsafe xs_read(store, transaction.number, path, &count) else {
            return try absent("read", path)
        }
        defer { unsafe free(value) }
        return unsafe [UInt8](UnsafeRawBufferPointer(start: value, count: Int(count)))
    }

    public func write(_ path: String, _ value: [UInt8], in transaction: XenstoreTransaction) throws(Failure) {
        guard unsafe xs_write(store, transaction.number, path, value, UInt32(value.count)) else { throw failure("write", path) }
    }

    public func makeDirectory(_ path: String, in transaction: XenstoreTransaction) throws(Failure) {
        guard unsafe xs_mkdir(store, transaction.number, path) else { throw failure("make", path) }
    }

    public func remove(_ path: String, in transaction: XenstoreTransaction) throws(Failure) {
        guard unsafe xs_rm(store, transaction.number, path) else {
            let _: Never? = try absent("remove", path)
            return
        }
    }

    public func list(_ path: String, in transaction: XenstoreTransaction) throws(Failure) -> [String]? {
        var count: UInt32 = 0
        guard let names = unsafe xs_directory(store, transaction.number, path, &count) else {
            return try absent("list", path)
        }
        defer { unsafe free(names) }
        return unsafe UnsafeBufferPointer(start: names, count: Int(count)).map { unsafe $0.map { unsafe String(cString: $0) } ?? "" }
    }

    public func setPermissions(
        _ path: String, owner: DomainID, readers: [DomainID], in transaction: XenstoreTransaction
    ) throws(Failure) {
        var permissions = [xs_permissions(id: UInt32(owner), perms: UInt32(XS_PERM_NONE))]
        permissions += readers.map { xs_permissions(id: UInt32($0), perms: UInt32(XS_PERM_READ)) }
        guard unsafe xs_set_permissions(store, transaction.number, path, &permissions, UInt32(permissions.count)) else {
            throw failure("set permissions of", path)
        }
    }

    public func watch(_ path: String, token: String) throws(Failure) {
        guard unsafe xs_watch(store, path, token) else { throw failure("watch", path) }
    }

    public func unwatch(_ path: String, token: String) throws(Failure) {
        guard unsafe xs_unwatch(store, path, token) else { throw failure("unwatch", path) }
    }

    public func nextWatchEvent() throws(Failure) -> WatchEvent? {
        guard let event = unsafe xs_check_watch(store) else {
            if errno == EAGAIN { return nil }
            throw failure("wait for a change in", "the store")
        }
        defer { unsafe free(event) }
        // XS_WATCH_PATH and XS_WATCH_TOKEN: a path and the token that we gave.
        guard let path = unsafe event[0], let token = unsafe event[1] else { return nil }
        return unsafe WatchEvent(path: String(cString: path), token: String(cString: token))
    }

    public var storeDescriptor: Int32 { unsafe xs_fileno(store) }

    public func isIntroduced(_ domain: DomainID) -> Bool { unsafe xs_is_domain_introduced(store, UInt32(domain)) }

    public func beginTransaction() throws(Failure) -> XenstoreTransaction {
        let number = unsafe xs_transaction_start(store)
        guard number != UInt32(XBT_NULL) else { throw failure("begin a transaction in", "the store") }
        return XenstoreTransaction(number: number)
    }

    public func endTransaction(_ transaction: XenstoreTransaction, commit: Bool) throws(Failure) -> Bool {
        if unsafe xs_transaction_end(store, transaction.number, !commit) { return true }
        guard errno == EAGAIN else { throw failure("end a transaction in", "the store") }
        return false
    }

    /// Nil when the last call failed because there is no such node.
    private func absent<Value>(_ operation: Failure.Operation, _ path: String) throws(Failure) -> Value? {
        if errno == ENOENT { return nil }
        throw failure(operation, path)
    }

    private func failure(_ operation: Failure.Operation, _ path: String) -> Failure { storeFailure(operation, path, errno) }
}
