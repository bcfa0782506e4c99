import Glibc
import System
import Testing

/// A client that sends what it is told, bytes for bytes, and waits for answers, but not for ever.
final class Client {
    let descriptor: Int32

    /// Connects to a UNIX socket.
    init(path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else { throw Failure(systemCall: "connect to", .file(path), errno: errno) }
        limitWaiting()
    }

    /// Connects to a port of the loopback interface.
    init(port: UInt16) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw Failure(systemCall: "connect to", "port \(port)", errno: errno) }
        limitWaiting()
    }

    deinit { close(descriptor) }

    private func limitWaiting() {
        var limit = timeval(tv_sec: 120, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            _ = unsafe setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    /// False: the server takes no more.
    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.send(descriptor, $0.baseAddress.map { unsafe $0 + done }, bytes.count - done, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }

    /// So many bytes; fewer when the server closes the connection, or nothing comes for long.
    func receive(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let received = unsafe bytes.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress.map { unsafe $0 + done }, count - done, 0) }
            guard received > 0 else { break }
            done += received
        }
        return Array(bytes.prefix(done))
    }

    /// Whether the server ends the connection, and sends nothing more.
    var isEnded: Bool {
        var byte: UInt8 = 0
        let count = unsafe recv(descriptor, &byte, 1, 0)
        return count == 0 || count < 0 && errno == ECONNRESET
    }

    func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    // MARK: Handshake

    /// Until requests may follow.
    func negotiate(_ name: String = "gold", isStructured: Bool = true) throws {
        #expect(receive(18).count == 18)
        send(u32(3))
        if isStructured {
            send(option(8))
            #expect(try optionAnswer().kind == 1)
            send(option(10, contexts(name, ["base:allocation"])))
            #expect(try optionAnswer().kind == 4)
            #expect(try optionAnswer().kind == 1)
        }
        send(option(7, wish(name)))
        while try optionAnswer().kind != 1 {}
    }

    func optionAnswer() throws -> OptionAnswer {
        let header = receive(20)
        try #require(header.count == 20)
        let answer = try #require(OptionAnswer.all(header + receive(Int(number(header[16...])))))
        return try #require(answer.first)
    }

    // MARK: Requests

    /// An answer: the error, 0 for none, and what came with it.
    struct Answer: Equatable {
        var cookie: UInt64 = 0
        var error: UInt64 = 0
        /// Chunk's kind; nil: a simple reply.
        var kind: UInt64?
        var isLast = true
        var data: [UInt8] = []
    }

    /// The next reply or chunk. `dataCount`: of a read that is answered by a simple reply.
    func answer(dataCount: Int = 0) throws -> Answer {
        let header = receive(16)
        try #require(header.count == 16, "no answer")
        if number(header.prefix(4)) == 0x67446698 {
            let error = number(header[4..<8])
            return Answer(cookie: number(header[8...]), error: error, data: error == 0 ? receive(dataCount) : [])
        }
        try #require(number(header.prefix(4)) == 0x668e33ef, "neither reply nor chunk")
        let data = receive(Int(number(receive(4))))
        let kind = number(header[6..<8])
        return Answer(
            cookie: number(header[8...]), error: kind & 0x8000 != 0 ? number(data.prefix(4)) : 0, kind: kind,
            isLast: header[5] == 1, data: data)
    }

    /// A request by itself, which has a simple reply.
    func perform(_ request: [UInt8]) throws -> UInt64 {
        send(request)
        let answer = try answer()
        #expect(answer.kind == nil || answer.kind == 0x8001)
        return answer.error
    }

    /// The data of a structured read; nil: it failed.
    func read(offset: UInt64, length: Int, flags: Int = 0) throws -> [UInt8]? {
        send(request(0, offset: offset, length: UInt64(length), flags: flags, cookie: 5))
        var data: [UInt8] = []
        while true {
            let chunk = try answer()
            #expect(chunk.cookie == 5)
            if chunk.kind == 1 {
                #expect(number(chunk.data.prefix(8)) == offset + UInt64(data.count))
                data += chunk.data.dropFirst(8)
            }
            if chunk.error != 0 { return nil }
            if chunk.isLast { return data }
        }
    }

    /// The extents of a range: bytes, and whether it is a hole.
    func status(offset: UInt64, length: UInt64, flags: Int = 0) throws -> [(count: UInt64, isHole: Bool)]? {
        send(request(7, offset: offset, length: length, flags: flags))
        let chunk = try answer()
        guard chunk.kind == 5 else { return nil }
        #expect(number(chunk.data.prefix(4)) == 1 && chunk.isLast)
        return stride(from: 4, to: chunk.data.count, by: 8).map { start in
            (number(chunk.data[start..<start + 4]), number(chunk.data[start + 4..<start + 8]) == 3)
        }
    }
}
