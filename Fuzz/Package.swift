// swift-tools-version: 6.2
import PackageDescription

// libFuzzer's targets. They are built by tools/fuzz, which passes the flags that instrument all that they use.
let settings: [SwiftSetting] = [
    .treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny"), .enableUpcomingFeature("InternalImportsByDefault"),
]

let package = Package(
    name: "Fuzz",
    dependencies: [.package(name: "dedupdisk", path: "..")],
    targets: [
        .target(name: "CLibFuzzer"),
        .target(
            name: "FuzzDriver", dependencies: ["CLibFuzzer", .product(name: "DedupDiskTesting", package: "dedupdisk")],
            swiftSettings: settings),
    ]
        + ["fuzz-ring", "fuzz-handshake", "fuzz-frontend", "fuzz-nbd"].map { name in
            .executableTarget(
                name: name,
                dependencies: ["FuzzDriver"]
                    + ["Engine", "Serve", "Guest", "Process", "Testing"].map { .product(name: "DedupDisk\($0)", package: "dedupdisk") },
                swiftSettings: settings)
        }
)
