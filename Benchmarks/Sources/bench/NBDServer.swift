import Glibc
import System
import TestSupport

/// A server of the export `disk` on a UNIX socket, ended with this.
final class NBDServer {
    enum Kind: String, CaseIterable {
        /// The first is what the others are compared with.
        case nbdkit = "nbdkit file"
        case dedupdisk = "dedupdisk serve"
        case qemuRaw = "qemu-nbd, raw"
        case qemuQcow2 = "qemu-nbd, qcow2"
    }

    let kind: Kind
    let socket: String
    private let server: Child
    private let files: String

    /// Serves a copy of `image`.
    init(_ kind: Kind, _ image: String, _ plan: Plan) throws {
        self.kind = kind
        // A socket's name has at most 107 characters.
        socket = plan.memory + "/\(kind)"
        files = plan.disk + "/\(kind)"
        server = try Self.start(kind, image, files, socket, plan)
        try Self.wait(for: socket, server)
    }

    deinit {
        server.kill(SIGTERM)
        _ = server.wait(limit: 30)
        removeAll(files)
        removeAll(socket)
    }

    var process: pid_t { server.process }

    private static func start(_ kind: Kind, _ image: String, _ files: String, _ socket: String, _ plan: Plan) throws -> Child {
        func program(_ name: String, _ package: String) throws -> String {
            guard let path = find(name) else { throw Failure(.notFound, .named(name), "not installed", remedy: "Debian: \(package)") }
            return path
        }
        switch kind {
        case .nbdkit:
            let nbdkit = try program("nbdkit", "nbdkit")
            try succeed("cp", ["--sparse=always", image, files])
            return try Child(nbdkit, ["--foreground", "--exit-with-parent", "-U", socket, "file", files])
        case .dedupdisk:
            guard let dedupdisk = plan.program else { throw Failure(.notFound, "dedupdisk", "not named", remedy: "--program") }
            try succeed(dedupdisk, ["import", "--store", files, image, "disk"])
            return try Child(dedupdisk, ["serve", "disk", "--store", files, "--socket", socket])
        case .qemuRaw:
            let qemu = try program("qemu-nbd", "qemu-utils")
            try succeed("cp", ["--sparse=always", image, files])
            return try Child(qemu, ["--persistent", "-x", "disk", "-k", socket, "-f", "raw", "--cache=writeback", files])
        case .qemuQcow2:
            let qemu = try program("qemu-nbd", "qemu-utils")
            try succeed("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", image, files])
            return try Child(qemu, ["--persistent", "-x", "disk", "-k", socket, "-f", "qcow2", "--cache=writeback", files])
        }
    }

    /// Waits until somebody listens.
    private static func wait(for socket: String, _ server: Child) throws {
        for _ in 0..<1000 {
            if access(socket, F_OK) == 0 {
                // It may have been bound and not be listening yet.
                usleep(50_000)
                return
            }
            if kill(server.process, 0) != 0 { break }
            usleep(10_000)
        }
        server.kill(SIGKILL)
        throw Failure(.system, "server", "does not listen: \(server.wait(limit: 5).errors)")
    }
}
