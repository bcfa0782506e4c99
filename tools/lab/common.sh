# shellcheck shell=bash
# What every tool here needs. Sourced, not run.

fail() { # fail MESSAGE [STATUS]: one line, and the end
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail 'this installs packages and runs disks: run it as root'
}

# need_packages PACKAGE...: installs what is missing. The package lists are only fetched again when the installation
# fails with those at hand: a machine that has everything needs no network.
need_packages() {
    local package missing=()
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root
    command -v apt-get >/dev/null || fail "needs the Debian packages ${missing[*]} (this machine has no apt-get)"
    local log
    log=$(mktemp)
    {
        apt_install "${missing[@]}" || { apt-get -q update && apt_install "${missing[@]}"; }
    } >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; fail "could not install ${missing[*]}"; }
    rm -f "$log"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

need_swift() {
    command -v swift >/dev/null ||
        fail 'needs the Swift toolchain, 6.2 or later (https://www.swift.org/install/linux/, then put its usr/bin into PATH)'
}

# What the package compiles and links with.
# shellcheck disable=SC2034  # read by those who source this
build_packages=(libxen-dev libssl-dev liblmdb-dev libxxhash-dev liblz4-dev libzstd-dev pkg-config)
[ "$(uname -m)" != x86_64 ] || build_packages+=(libipsec-mb-dev)
# What tests run beside the program: tools/modules; NBD clients of others; strace, to have it killed at a system call of their choice; filesystems.
# shellcheck disable=SC2034
client_packages=(python3 libnbd-bin qemu-utils fio strace xfsprogs btrfs-progs xz-utils acl zstd bzip2)

# need_name ROOT: fails when the directory above the package in ROOT is called as it is. SwiftPM knows a package by the last part of its path,
# without regard to capitals, and finds no other one of that name.
need_name() {
    local path own above
    path=$(cd "$1" && pwd)
    own=${path##*/} above=${path%/*} above=${above##*/}
    [ "${own,,}" != "${above,,}" ] || [ ! -e "$path/../Package.swift" ] || fail "package $own can't be built in a directory that is called $above: rename that"
}

# build_package ROOT WHAT OPTION...: builds the package in ROOT; prints nothing, unless WHAT can't be built.
build_package() {
    local root=$1 what=$2 log
    shift 2
    need_name "$root"
    log=$(mktemp)
    # SwiftPM sees a file that was added to a package beside when the manifest is newer.
    touch "$root/Package.swift"
    swift build --package-path "$root" -c release "$@" >"$log" 2>&1 ||
        { cat "$log" >&2; rm -f "$log"; fail "the build of $what failed"; }
    rm -f "$log"
}

# build_release ROOT: the program as it is released, with the Swift libraries inside, so that dom0 needs no toolchain.
# Prints its path.
build_release() {
    local root=$1
    build_package "$root" 'the release' --static-swift-stdlib --product dedupdisk
    printf '%s\n' "$root/.build/release/dedupdisk"
}

# libraries_of PROGRAM [DIRECTORY]: the shared libraries that the dynamic loader would load for it, DIRECTORY's first,
# and the loader itself.
libraries_of() {
    local listing
    listing=$(LD_LIBRARY_PATH=${2:-} ldd "$1" 2>&1) || return 0 # a static program, or a script
    case $listing in *'not found'*) fail "$1: ${listing#*"$'\t'"}" ;; esac
    awk '$2 == "=>" { print $3 } $1 ~ /^\/.*ld-linux/ { print $1 }' <<<"$listing"
}
