// swift-tools-version: 6.2
import PackageDescription

/// Every target of ours: Swift 6 mode (the tools version's default), strict memory safety, no warning left standing.
let strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableExperimentalFeature("Lifetimes"),
    .enableExperimentalFeature("SuppressedAssociatedTypes"),
]

/// Relocations in the compact form that glibc reads from 2.36 on: they take a hundredth of what they took, a megabyte of each process.
let compact: [LinkerSetting] = [.unsafeFlags(["-use-ld=lld", "-Xlinker", "-z", "-Xlinker", "pack-relative-relocs"])]

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
        // A store and its disks.
        .library(
            name: "DedupDiskEngine",
            targets: [
                "System", "BlockModel", "Hashing", "LMDB", "BlobModel", "Packs", "Index", "Counts", "Maps", "Catalogue", "Store", "Disk", "Activity", "Control",
            ]),
        // Xen and NBD, for disks of any kind.
        .library(name: "DedupDiskServe", targets: ["System", "BlockModel", "XenBus", "Blkif", "NBD", "Activity", "Serve"]),
        // A guest to drive them, and the machine that it runs on.
        .library(name: "DedupDiskGuest", targets: ["System", "BlockModel", "XenBus", "Blkif", "XenSimulation", "FrontEnd"]),
        // How a program begins that uses a store in a container, or is started with descriptors closed. It replaces functions of libc.
        .library(name: "DedupDiskProcess", targets: ["CProcess"]),
        // What the benchmarks and the fuzzers, nested packages, need of the tests. Nothing for others.
        .library(name: "DedupDiskTesting", targets: ["TestSupport", "DiskExercise", "OldStores"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: multiBuffer + [
        // C libraries, as Debian packages them.
        .systemLibrary(name: "CLMDB", pkgConfig: "lmdb", providers: [.apt(["liblmdb-dev"])]),
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        // Ours, in C: what Swift can't call by itself.
        .target(name: "CLinux"),
        // How every program begins, and what it has in place of libc's functions: each executable depends on it.
        .target(name: "CProcess", dependencies: ["CLinux"]),
        // libxxhash's code, of which only the header is used (libxxhash-dev).
        .target(name: "CXXHash"),
        .target(
            name: "CXen",
            linkerSettings: [.linkedLibrary("xenstore"), .linkedLibrary("xengnttab"), .linkedLibrary("xenevtchn")]),

        // The store and the disks. None of these knows Xen.
        .target(name: "System", dependencies: ["CLinux"], swiftSettings: strict),
        .target(name: "BlockModel", dependencies: ["System"], swiftSettings: strict),
        .target(name: "LMDB", dependencies: ["CLMDB", "CLinux", "System"], swiftSettings: strict),
        .target(
            name: "Hashing", dependencies: ["CCrypto", "CXXHash", "System", "BlockModel"] + multiBuffer.map { .target(name: $0.name) }, swiftSettings: strict),
        // The parts of a store. Each owns its tables and files; none knows another.
        .target(name: "BlobModel", dependencies: ["Hashing", "BlockModel", "System"], swiftSettings: strict),
        .target(name: "Packs", dependencies: ["BlobModel", "BlockModel", "Hashing", "LMDB", "System", "CLZ4", "CZstd"], swiftSettings: strict),
        .target(name: "Index", dependencies: ["BlobModel", "BlockModel", "Hashing", "LMDB", "System", "CLinux"], swiftSettings: strict),
        .target(name: "Counts", dependencies: ["BlobModel", "Hashing", "LMDB", "System"], swiftSettings: strict),
        .target(name: "Maps", dependencies: ["BlobModel", "Hashing", "LMDB", "System"], swiftSettings: strict),
        .target(name: "Catalogue", dependencies: ["Maps", "BlockModel", "Hashing", "LMDB", "System"], swiftSettings: strict),
        // What composes them.
        .target(
            name: "Store",
            dependencies: ["Packs", "Index", "Counts", "Maps", "Catalogue", "BlobModel", "BlockModel", "Hashing", "LMDB", "System", "CLinux"],
            swiftSettings: strict),
        .target(name: "Disk", dependencies: ["Store", "Catalogue", "Hashing", "System", "BlockModel"], swiftSettings: strict),
        // What those who use a store at once say to each other.
        .target(name: "Control", dependencies: ["Disk", "Store", "Catalogue", "Activity", "System"], swiftSettings: strict),

        // Xen. Neither of these knows a disk.
        .target(name: "XenBus", dependencies: ["CXen", "System"], swiftSettings: strict),
        // A machine of the same kind within the process, for tests, benchmarks and fuzzers.
        .target(name: "XenSimulation", dependencies: ["XenBus", "CXen", "System"], swiftSettings: strict),
        .target(name: "Blkif", dependencies: ["CXen", "System", "BlockModel"], swiftSettings: strict),

        // Network block devices. It knows no disk either, and no socket.
        .target(name: "NBD", dependencies: ["System", "BlockModel"], swiftSettings: strict),

        // What is done for whoever uses a disk, counted.
        .target(name: "Activity", dependencies: ["System", .product(name: "Histogram", package: "hdrhistogram-swift")], swiftSettings: strict),

        // The only layer that knows both sides.
        .target(name: "Serve", dependencies: ["XenBus", "Blkif", "NBD", "Activity", "System", "BlockModel"], swiftSettings: strict),
        .executableTarget(
            name: "dedupdisk",
            dependencies: [
                "Store", "Catalogue", "Packs", "Disk", "Control", "Activity", "Serve", "XenBus", "System", "BlockModel", "CProcess",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict, linkerSettings: compact),

        .target(name: "LMDBTestSupport", dependencies: ["LMDB", "System"], path: "Tests/Support/LMDBTestSupport", swiftSettings: strict),
        .target(name: "TestSupport", dependencies: ["System", "BlockModel"], path: "Tests/Support/TestSupport", swiftSettings: strict),
        // Stores as programs of older formats made them.
        .target(
            name: "OldStores", dependencies: ["LMDB", "Hashing", "BlockModel", "System", "CLZ4", "TestSupport"], path: "Tests/Support/OldStores",
            swiftSettings: strict),
        .testTarget(
            name: "PacksTests", dependencies: ["Packs", "BlobModel", "BlockModel", "Hashing", "LMDB", "System", "TestSupport"], swiftSettings: strict),
        .testTarget(name: "MapsTests", dependencies: ["Maps", "BlobModel", "LMDB", "LMDBTestSupport", "System", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "CatalogueTests", dependencies: ["Catalogue", "Maps", "LMDB", "LMDBTestSupport", "System", "TestSupport"], swiftSettings: strict),
        .testTarget(
            name: "StoreTests",
            dependencies: [
                "Store", "Packs", "Index", "Counts", "Maps", "Catalogue", "BlobModel", "LMDB", "Hashing", "System", "BlockModel", "CLinux", "CProcess",
                "OldStores", "TestSupport",
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "CrashWriter", dependencies: ["Disk", "Store", "System", "BlockModel", "TestSupport", "CProcess"], path: "Tests/Support/CrashWriter",
            swiftSettings: strict),
        .testTarget(
            name: "DiskTests", dependencies: ["Disk", "Store", "Packs", "Catalogue", "LMDB", "System", "BlockModel", "CrashWriter", "TestSupport"],
            swiftSettings: strict),
        .executableTarget(
            name: "SnapshotWorker", dependencies: ["Control", "Disk", "Store", "Catalogue", "System", "BlockModel", "TestSupport", "CProcess"],
            path: "Tests/Support/SnapshotWorker", swiftSettings: strict),
        .testTarget(
            name: "ControlTests", dependencies: ["Disk", "Store", "Catalogue", "System", "BlockModel", "SnapshotWorker", "TestSupport"],
            swiftSettings: strict),
        // The guest's side, for tests and benchmarks.
        .target(name: "FrontEnd", dependencies: ["XenSimulation", "XenBus", "Blkif", "System", "BlockModel"], swiftSettings: strict),
        .target(
            name: "DiskExercise", dependencies: ["FrontEnd", "Serve", "XenSimulation", "XenBus", "Blkif", "System", "BlockModel", "TestSupport"],
            path: "Tests/Support/DiskExercise", swiftSettings: strict),
        .executableTarget(
            name: "RingProcess", dependencies: ["DiskExercise", "Disk", "Store", "System", "CProcess"], path: "Tests/Support/RingProcess",
            swiftSettings: strict),

        .testTarget(name: "XenBusTests", dependencies: ["XenSimulation", "XenBus", "System"], swiftSettings: strict),
        .testTarget(
            name: "ServeTests",
            dependencies: [
                "Activity", "Serve", "DiskExercise", "RingProcess", "FrontEnd", "XenSimulation", "XenBus", "Blkif", "System", "BlockModel", "Disk", "Store",
                "TestSupport",
            ],
            swiftSettings: strict),
        .testTarget(
            name: "NBDTests", dependencies: ["NBD", "Serve", "Activity", "System", "BlockModel", "DiskExercise", "TestSupport"],
            swiftSettings: strict),
        .testTarget(
            name: "CommandTests",
            dependencies: [
                "dedupdisk", "CrashWriter", "Store", "Catalogue", "Disk", "Control", "Hashing", "System", "BlockModel", "OldStores", "TestSupport",
            ],
            exclude: ["late-hashing.c"], swiftSettings: strict),
        .testTarget(name: "SystemTests", dependencies: ["System", "TestSupport"], swiftSettings: strict),
        .target(name: "CRingReference", path: "Tests/Support/CRingReference"),
        .testTarget(name: "BlkifTests", dependencies: ["Blkif", "System", "BlockModel", "CRingReference", "TestSupport"], swiftSettings: strict),
    ]
)
