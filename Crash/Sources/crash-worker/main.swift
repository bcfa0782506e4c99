import Glibc
import System
import TestSupport
import Workloads

// crash-worker STORE IMAGES KIND SEED [DISK:SECTORS...]: does the steps of a workload to a store, with a directory for images, and says when each
// begins (b), is done (e), or can't be done as somebody is in the way (f). With disks: what is done to a store that is there.
//
// crash-worker STORE IMAGES KIND SEED --second: does those steps of the workload whose places it is told, a line each, and answers each with a line.

func say(_ text: String) {
    let bytes = Array(text.utf8)
    _ = write(1, bytes, bytes.count)
}

/// The process that does what is done elsewhere; it is started when it is needed.
final class Second {
    private let arguments: [String]
    private var child: Child?

    init(_ arguments: [String]) { self.arguments = arguments }

    func run(_ place: Int) throws(Failure) {
        let child: Child
        if let started = self.child { child = started } else { child = try Child(Child.built("crash-worker"), arguments + ["--second"], input: .pipe) }
        self.child = child
        _ = child.send(Array("\(place)\n".utf8))
        let answer = String(decoding: child.receive(limit: Child.patience), as: UTF8.self)
        if answer == "k\n" { return }
        let isBusy = answer == "busy\n"
        throw Failure(isBusy ? .busy : .system, "run", "step \(place) in the second process", isBusy ? "somebody is in the way" : child.receiveErrors(limit: 1))
    }

    func end() throws(Failure) {
        guard let outcome = child?.wait(), outcome.status != 0 else { return }
        throw Failure(.system, "run", "the second process", outcome.errors)
    }
}

func serve(_ workload: Workload, _ runner: Runner) throws(Failure) {
    while let line = readLine(), let place = Int(line), workload.steps.indices.contains(place) {
        do throws(Failure) {
            if case .elsewhere(let step) = workload.steps[place] { try runner.run(step, at: place) }
            say("k\n")
        } catch where error.kind == .busy {
            say("busy\n")
        }
    }
}

func run() throws(Failure) {
    let arguments = CommandLine.arguments
    guard arguments.count >= 5, let kind = Workload.Kind(rawValue: arguments[3]), let seed = UInt64(arguments[4]) else {
        throw Failure(.usage, "crash-worker", "it takes a store, a directory, a workload and a seed")
    }
    let rest = arguments.dropFirst(5), isSecond = rest.first == "--second"
    let disks = isSecond ? [] : rest.map { $0.split(separator: ":") }.map { (name: String($0[0]), sectors: Int($0[1]) ?? 0) }
    let workload = kind == .recovering ? Workload(recovering: disks, seed: seed) : Workload(kind, seed: seed)
    let second = Second(Array(arguments[1..<5]))
    let runner = Runner(arguments[1], images: arguments[2], elsewhere: isSecond ? nil : { (place) throws(Failure) in try second.run(place) })
    if isSecond {
        try serve(workload, runner)
    } else {
        for (place, step) in workload.steps.enumerated() {
            say("b\(place)\n")
            do throws(Failure) {
                try runner.run(step, at: place)
                say("e\(place)\n")
            } catch where error.kind == .busy {
                say("f\(place)\n")
            }
        }
        try second.end()
    }
    try runner.end()
}

do throws(Failure) { try run() } catch {
    let text = Array("crash-worker: \(error)\n".utf8)
    _ = write(2, text, text.count)
    exit(1)
}
