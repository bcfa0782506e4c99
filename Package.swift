// swift-tools-version: 6.2
import PackageDescription

/// Every target of ours: Swift 6 mode (the tools version's default), strict memory safety, no warning left standing.
let strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableExperimentalFeature("Lifetimes"),
]

/// Intel's library, which is there for this architecture only.
#if arch(x86_64)
    let multiBuffer: [Target] = [.systemLibrary(name: "CIPSecMB", providers: [.apt(["libipsec-mb-dev"])])]
#else
    let multiBuffer: [Target] = []
#endif

let package = Package(
    name: "dedupdisk",
    products: [
        .executable(name: "dedupdisk", targets: ["dedupdisk"]),
        // What the benchmarks, a nested package, measure.
        .library(name: "DedupDiskEngine", targets: ["BlockModel", "Hashing", "LMDB", "Store", "Disk", "CInterpose", "CProcess"]),
        // A guest to drive it, and processes to run beside it.
        .library(name: "DedupDiskGuest", targets: ["FrontEnd", "Serve", "XenSimulation", "XenBus", "Blkif", "TestSupport", "DiskExercise"]),
        // What the fuzzers, another nested package, feed.
        .library(name: "DedupDiskXen", targets: ["BlockModel", "XenSimulation", "XenBus", "Blkif", "NBD", "Serve", "FrontEnd", "DiskExercise", "TestSupport"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: multiBuffer + [
        // C libraries, as Debian packages them.
        .systemLibrary(name: "CLMDB", pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])]),
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        // Ours, in C: what Swift can't call by itself.
        .target(name: "CLinux"),
        // What the program has in place of libc's functions, for LMDB's library.
        .target(name: "CInterpose", dependencies: ["CLinux"]),
        // How every program begins: each executable depends on it.
        .target(name: "CProcess"),
        // libxxhash's code, of which only the header is used (libxxhash-dev).
        .target(name: "CXXHash"),
        .target(
            name: "CXen",
            linkerSettings: [.linkedLibrary("xenstore"), .linkedLibrary("xengnttab"), .linkedLibrary("xenevtchn")]),

        // The store and the disks. None of these knows Xen.
        .target(name: "BlockModel", dependencies: ["CLinux"], swiftSettings: strict),
        .target(name: "LMDB", dependencies: ["CLMDB", "CLinux", "BlockModel"], swiftSettings: strict),
        .target(name: "Hashing", dependencies: ["CCrypto", "CXXHash", "BlockModel"] + multiBuffer.map { .target(name: $0.name) }, swiftSettings: strict),
        .target(name: "Store", dependencies: ["LMDB", "Hashing", "BlockModel", "CLinux", "CLZ4", "CZstd"], swiftSettings: strict),
        .target(name: "Disk", dependencies: ["Store", "Hashing", "BlockModel"], swiftSettings: strict),

        // Xen. Neither of these knows a disk.
        .target(name: "XenBus", dependencies: ["CXen", "BlockModel"], swiftSettings: strict),
        // A machine of the same kind within the process, for tests, benchmarks and fuzzers.
        .target(name: "XenSimulation", dependencies: ["XenBus", "CXen", "BlockModel"], swiftSettings: strict),
        .target(name: "Blkif", dependencies: ["CXen", "BlockModel"], swiftSettings: strict),

        // Network block devices. It knows no disk either, and no socket.
        .target(name: "NBD", dependencies: ["BlockModel"], swiftSettings: strict),

        // The only layer that knows both sides.
        .target(name: "Serve", dependencies: ["XenBus", "Blkif", "NBD", "BlockModel"], swiftSettings: strict),
        .executableTarget(
            name: "dedupdisk",
            dependencies: [
                "Store", "Disk", "Serve", "XenBus", "BlockModel", "CInterpose", "CProcess",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),

        .target(name: "TestSupport", dependencies: ["BlockModel"], path: "Tests/Support/TestSupport", swiftSettings: strict),
        .testTarget(name: "StoreTests", dependencies: ["Store", "Disk", "LMDB", "Hashing", "BlockModel", "CInterpose", "TestSupport"], swiftSettings: strict),
        .executableTarget(
            name: "CrashWriter", dependencies: ["Disk", "Store", "BlockModel", "TestSupport", "CProcess"], path: "Tests/Support/CrashWriter",
            swiftSettings: strict),
        .testTarget(
            name: "DiskTests", dependencies: ["Disk", "Store", "LMDB", "BlockModel", "CrashWriter", "TestSupport"], swiftSettings: strict),
        // The guest's side, for tests and benchmarks.
        .target(name: "FrontEnd", dependencies: ["XenSimulation", "XenBus", "Blkif", "BlockModel"], swiftSettings: strict),
        .target(
            name: "DiskExercise", dependencies: ["FrontEnd", "Serve", "XenSimulation", "XenBus", "Blkif", "BlockModel", "TestSupport"],
            path: "Tests/Support/DiskExercise", swiftSettings: strict),
        .executableTarget(
            name: "RingProcess", dependencies: ["DiskExercise", "Disk", "Store", "BlockModel", "CProcess"], path: "Tests/Support/RingProcess",
            swiftSettings: strict),

        .testTarget(name: "XenBusTests", dependencies: ["XenSimulation", "XenBus", "BlockModel"], swiftSettings: strict),
        .testTarget(
            name: "ServeTests",
            dependencies: [
                "Serve", "DiskExercise", "RingProcess", "FrontEnd", "XenSimulation", "XenBus", "Blkif", "BlockModel", "Disk", "Store", "TestSupport",
            ],
            swiftSettings: strict),
        .testTarget(
            name: "NBDTests", dependencies: ["NBD", "Serve", "Disk", "BlockModel", "DiskExercise", "TestSupport"],
            swiftSettings: strict),
        .testTarget(
            name: "CommandTests", dependencies: ["dedupdisk", "Store", "Disk", "LMDB", "Hashing", "BlockModel", "TestSupport"],
            exclude: ["late-hashing.c"], swiftSettings: strict),
        .testTarget(name: "BlockModelTests", dependencies: ["BlockModel", "TestSupport"], swiftSettings: strict),
        .target(name: "CRingReference", path: "Tests/Support/CRingReference"),
        .testTarget(name: "BlkifTests", dependencies: ["Blkif", "BlockModel", "CRingReference", "TestSupport"], swiftSettings: strict),
    ]
)
