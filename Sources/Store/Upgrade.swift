internal import BlobModel
internal import Glibc
internal import LMDB
internal import Packs
internal import System

// Upgrades: a store of an older format becomes one of this one, by whoever opens it first and may write to it.
//
// It is done under the lock to open the store, and with the environments isolated, so that nobody has them open: programs of old formats, too, which
// know LMDB's own locks alone. It may end at any instant, and is gone on with then: each step is made of commits, what is on the disk says how far it
// is, and a program of the old format refuses it from the first commit on. The superblock of `packs` is of the next version when all the rest is.
//
// A change of format takes a case here, and a file for it.

/// The upgrade of a store, for whoever holds `LockFile.Lock.opening`, and has nothing of it open.
struct Upgrade {
    let directory: StoreDirectory
    let lockFile: LockFile
    let reserve: Reserve

    /// From one version to the next, by the number of the first.
    private enum Step: UInt32 {
        case format3 = 3
    }

    /// - Throws: `.busy` when a program of an old format has the store open; `.noSpace` when there is not even as much room as the reserve takes.
    func run() throws(Failure) {
        let packs = try Isolation(of: directory.path + "/packs")
        let meta = try Isolation(of: directory.path + "/meta")
        let condition = reserve.reporter.condition(.upgrade)
        var isDone = false
        while let (step, bytes) = try outdated() {
            isDone = true
            condition.met("its format is \(step.rawValue), and becomes \(FormatHeader.version): \(bytes >> 20) MiB are written anew")
            try take(step)
        }
        guard isDone else {
            throw Failure(
                .damage, .file(directory.path + "/meta"), "its format is older than that of packs", remedy: "put back the directory that belongs beside packs")
        }
        _ = reserve.fill()
        condition.over("its format is \(FormatHeader.version) now")
        _ = consume meta
        _ = consume packs
    }

    private func take(_ step: Step) throws(Failure) {
        do throws(Failure) {
            switch step {
            case .format3: try UpgradeFrom3(self).run()
            }
        } catch where error.kind == .noSpace {
            throw Failure(
                .noSpace, .upgrade, .store(directory.path), "there is no room for it", cause: error,
                remedy: "free some space on the filesystem of \(directory.path): nothing is lost, and it is gone on with when the store is opened again")
        }
    }

    /// The step that is next, and how large the packs are. Nil: there is none.
    private func outdated() throws(Failure) -> (step: Step, byteCount: UInt64)? {
        let (version, byteCount) = try LMDBPackStore.format(path: directory.path + "/packs", number: 1, lockFile)
        if version == FormatHeader.version { return nil }
        guard let step = Step(rawValue: version) else { throw FormatHeader.otherVersion(version, directory.path + "/packs") }
        return (step, byteCount)
    }

    /// Does a part of a step, one commit. Where there is no room, what is free is given back, and the reserve given up; then it is done again in its
    /// least size.
    func part<Result>(_ size: inout StepSize, _ giveBack: () -> Void, _ body: (Int) throws(Failure) -> Result) throws(Failure) -> Result {
        do throws(Failure) {
            let result = try body(size.value)
            size.grow()
            return result
        } catch where error.kind == .noSpace {
            size.shrink()
        }
        reserve.giveUp()
        giveBack()
        let result = try body(size.least)
        // The next one may write where this one does not need it any more.
        giveBack()
        return result
    }
}
