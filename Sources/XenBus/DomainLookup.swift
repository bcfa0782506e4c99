public import System

/// A running VM.
public struct Domain: Equatable, Sendable {
    public let id: DomainID
    /// Its name, or `domain N` when it has none.
    public let name: String

    public init(id: DomainID, name: String) {
        self.id = id
        self.name = name
    }
}

extension Xenstore {
    /// The running VM with this UUID, number or name, tried in this order, as `xl` does: what looks like a UUID or a number is no name.
    /// - Throws: `.notFound`; what the xenstore refuses.
    public func domain(_ designation: String) throws(Failure) -> Domain {
        let what = Subject.domain(designation)
        let unknown = Failure(.notFound, what, "no running VM has this name, number or UUID", remedy: "see `xl list` for those that run")
        let domains = try list("/local/domain") ?? []
        let id: DomainID
        if let uuid = canonicalUUID(designation) {
            guard let match = try firstDomain(domains, where: "vm", equals: "/vm/\(uuid)") else { throw unknown }
            id = match
        } else if let number = DomainID(designation), designation.first != "+" {
            guard domains.contains(String(number)) else { throw unknown }
            id = number
        } else {
            guard let match = try firstDomain(domains, where: "name", equals: designation) else { throw unknown }
            id = match
        }
        guard isIntroduced(id) else {
            throw Failure(.notFound, what, "it is shutting down", remedy: "start it, then try again; see `xl list`")
        }
        return Domain(id: id, name: try text("/local/domain/\(id)/name") ?? "domain \(id)")
    }

    /// The number of the domain that this process runs in: 0 in dom0, another one in a driver domain.
    public func ownDomain() throws(Failure) -> DomainID {
        try number("domid").flatMap { DomainID(exactly: $0) } ?? 0
    }

    private func firstDomain(_ domains: [String], where key: String, equals value: String) throws(Failure) -> DomainID? {
        for domain in domains {
            guard let id = DomainID(domain) else { continue }
            if try text("/local/domain/\(id)/\(key)")?.hasSameBytes(as: value) == true { return id }
        }
        return nil
    }
}

/// A UUID as the toolstack writes it, in lower case; nil when the text is none.
private func canonicalUUID(_ text: String) -> String? {
    let groups = text.split(separator: "-", omittingEmptySubsequences: false)
    guard groups.map(\.count) == [8, 4, 4, 4, 12], groups.allSatisfy({ $0.allSatisfy(\.isHexDigit) }) else { return nil }
    return text.lowercased()
}
