// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "Benchmarks",
    products: [
        .executable(name: "bench", targets: ["bench"]),
        // Loaded into a benchmark whose instructions valgrind counts.
        .library(name: "SmallMaps", type: .dynamic, targets: ["SmallMaps"]),
    ],
    dependencies: [
        .package(name: "dedupdisk", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        .executableTarget(
            name: "bench",
            dependencies: [
                "CBench", "PairedStatistics",
                .product(name: "DedupDiskEngine", package: "dedupdisk"),
                .product(name: "DedupDiskGuest", package: "dedupdisk"),
                .product(name: "DedupDiskProcess", package: "dedupdisk"),
                .product(name: "DedupDiskTesting", package: "dedupdisk"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: [.treatAllWarnings(as: .error)]),
        // What the kernel counts of a process, which Swift can't ask for by itself.
        .target(name: "CBench"),
        .target(name: "SmallMaps"),
        // What pairs of figures tell of two revisions. It knows no store, so that its tests are built in seconds.
        .target(name: "PairedStatistics", swiftSettings: [.treatAllWarnings(as: .error)]),
        .testTarget(name: "PairedStatisticsTests", dependencies: ["PairedStatistics"], swiftSettings: [.treatAllWarnings(as: .error)]),
    ]
)
