import Glibc
public import System

/// Where an NBD server listens: a UNIX socket, or a port of this machine's loopback interface.
public enum NBDAddress: Sendable, Equatable {
    case unix(path: String)
    /// An address of the loopback interface, in figures.
    case tcp(host: String, port: UInt16)

    /// Where servers listen when nobody says where: the protocol's registered port, for this machine alone.
    public static let standard = NBDAddress.tcp(host: "127.0.0.1", port: 10809)

    /// Reads `127.0.0.1:10809`, `[::1]:10809` or `localhost:10809`; port 0 is any that is free.
    /// - Throws: `.usage` for anything else, addresses that other machines reach included: nothing is encrypted, and nobody is asked who they are.
    public init(listen text: String) throws(Failure) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            throw Failure(.usage, .listen, .address(text), "not an address and a port", remedy: "127.0.0.1:10809, say")
        }
        var host = String(text[..<colon])
        if host == "localhost" { host = "127.0.0.1" }
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        switch Self.isLoopback(host) {
        case nil:
            throw Failure(.usage, .listen, .address(text), "'\(host)' is no address of this machine in figures", remedy: "127.0.0.1:10809, say")
        case false?:
            throw Failure(
                .usage, .listen, .address(text), "other machines could read and write the disk, as NBD asks nobody who they are",
                remedy: "listen on 127.0.0.1 or [::1], and let others in through ssh -L or a TLS proxy")
        case true?: self = .tcp(host: host, port: port)
        }
    }

    /// Whether only this machine can reach the address; nil: the text is no address.
    private static func isLoopback(_ host: String) -> Bool? {
        var four = in_addr()
        if unsafe inet_pton(AF_INET, host, &four) == 1 { return UInt32(bigEndian: four.s_addr) >> 24 == 127 }
        var six = in6_addr()
        guard unsafe inet_pton(AF_INET6, host, &six) == 1 else { return nil }
        var loopback = in6addr_loopback
        return unsafe memcmp(&six, &loopback, MemoryLayout<in6_addr>.size) == 0
    }

    /// The export there, as clients write it (the NBD project's doc/uri.md).
    public func uri(export: String) -> String {
        switch self {
        case .unix(let path): "nbd+unix:///\(Self.escaped(export))?socket=\(Self.escaped(path))"
        case .tcp(let host, let port): "nbd://\(host.contains(":") ? "[\(host)]" : host):\(port)/\(Self.escaped(export))"
        }
    }

    /// With `%` and two digits for each byte that means something in a URI, or may.
    private static func escaped(_ text: String) -> String {
        PathText.bytes(text).reduce(into: "") { result, byte in
            let scalar = Unicode.Scalar(byte)
            if byte < 0x80, scalar.properties.isAlphabetic || scalar.properties.numericType != nil || "-._~/".unicodeScalars.contains(scalar) {
                result.unicodeScalars.append(scalar)
            } else {
                result += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
    }
}
