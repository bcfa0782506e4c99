import Serve
import System

extension Failure {
    /// The same, with the command of this program that is the way out, where there is one. Libraries know no commands: their remedies lie in the environment.
    var advised: Failure {
        Failure(kind, operation, subject, why, cause: cause?.advised, remedy: command ?? remedy)
    }

    private var command: String? {
        switch (kind, operation, subject) {
        case (.notFound, _, .store(let path)): "make one with: dedupdisk create DISK --size SIZE --store \(Shell.quoted(path: path))"
        case (.notFound, _, .diskOf(let store, _)): "see: dedupdisk list --store \(Shell.quoted(path: store))"
        case (.outdated, _, .file): "any command upgrades it, dedupdisk list, say, where and by whom it can be written to"
        case (.notPermitted, .read, .store(let path)): "run: dedupdisk list --store \(Shell.quoted(path: path)) once as the store's owner"
        case (.damage, _, .digestIndex), (.damage, _, .counts): "run: dedupdisk check --repair"
        // Before that is over, no disk can be deleted.
        case (.noSpace, .upgrade, .store): nil
        case (.noSpace, _, .store(let path)): "delete disks and run gc, or free some space on the filesystem of \(path)"
        case (.invalidRequest, .resize, .disk): joined("with --discard-data")
        case (.invalidRequest, "delete", .disk): joined(", or add --recursive")
        case (.busy, _, .image): joined(", or insist with --force")
        case (.usage, .import, let image): command(toImport: image)
        case (.usage, .export, let image): command(toExportTo: image)
        case (.system, .export, .file): "--in-place overwrites the file itself"
        case (.busy, .listen, .address): "stop it, or give --listen another port, or --socket"
        case (.busy, _, .device): remedy.map { "--device \($0)" }
        default: nil
        }
    }

    /// The default export of the NBD server that listens on a socket.
    private func uri(_ path: String) -> String { NBDAddress.unix(path: path).uri(export: "") }

    private func joined(_ words: String) -> String { (remedy ?? "") + (words.hasPrefix(",") ? "" : " ") + words }

    private func command(toImport image: Subject) -> String? {
        switch image {
        case .socket(let path): "nbdcopy '\(uri(path))' - | dedupdisk import - DISK imports what an NBD server has there"
        case .terminal("standard input"): "name a file or a device, or give one: dedupdisk import - DISK <IMAGE"
        case .endless(let path): "head -c SIZE \(Shell.quoted(path: path)) | dedupdisk import - DISK takes a part of it; dedupdisk create makes an empty disk"
        case .empty: (remedy.map { $0 + "; " } ?? "") + "dedupdisk create makes an empty disk"
        default: nil
        }
    }

    private func command(toExportTo image: Subject) -> String? {
        switch image {
        case .socket(let path): "dedupdisk export DISK - | nbdcopy - '\(uri(path))' writes to an NBD server there"
        case .terminal("standard output"): "redirect it: dedupdisk export DISK - >IMAGE, or name a file"
        default: nil
        }
    }
}

extension Event {
    /// The same, its failure with the command of this program that is the way out.
    var advised: Event { Event(kind, subject, text, phase, because: failure?.advised) }
}
