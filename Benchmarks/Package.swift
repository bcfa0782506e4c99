// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "Benchmarks",
    dependencies: [.package(name: "dedupdisk", path: "..")],
    targets: [
        .executableTarget(
            name: "bench", dependencies: [.product(name: "DedupDiskEngine", package: "dedupdisk")],
            swiftSettings: [.treatAllWarnings(as: .error)])
    ]
)
