// swift-tools-version: 6.2
import PackageDescription

// Losses of power: a program is watched, and the states that a cut would have left are tried. See tools/crash-explore.
let settings: [SwiftSetting] = [
    .treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny"), .enableUpcomingFeature("InternalImportsByDefault"),
]

let package = Package(
    name: "Crash",
    dependencies: [
        .package(name: "dedupdisk", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        // Watches a program's calls: ptrace(2).
        .target(name: "CTrace"),
        // What is known of a run's files, and what a cut leaves of them. It knows no store, so that its tests are built in seconds.
        .target(name: "Volumes", dependencies: ["CTrace"], swiftSettings: settings),
        // What is done to a store, and what has to be there afterwards.
        .target(
            name: "Workloads",
            dependencies: [.product(name: "DedupDiskEngine", package: "dedupdisk"), .product(name: "DedupDiskTesting", package: "dedupdisk")],
            swiftSettings: settings),
        .executableTarget(
            name: "crash-worker",
            dependencies: [
                "Workloads",
                .product(name: "DedupDiskEngine", package: "dedupdisk"),
                .product(name: "DedupDiskProcess", package: "dedupdisk"),
                .product(name: "DedupDiskTesting", package: "dedupdisk"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "crash-explore",
            dependencies: [
                "Volumes", "Workloads",
                .product(name: "DedupDiskEngine", package: "dedupdisk"),
                .product(name: "DedupDiskProcess", package: "dedupdisk"),
                .product(name: "DedupDiskTesting", package: "dedupdisk"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: settings),
        .testTarget(name: "VolumesTests", dependencies: ["Volumes"], swiftSettings: settings),
    ]
)
