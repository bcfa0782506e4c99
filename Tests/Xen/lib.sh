# shellcheck shell=bash
# What the tests on a real Xen machine share. A test sources this in dom0 of tools/xen-lab, where two guests run,
# guest1 and guest2, and says with each check what is promised; the first that fails ends it.
#
# Nothing here measures time: the limits only end what hangs, on an emulated machine on a busy computer.
set -euo pipefail

export DEDUPDISK_STORE=/store/dedupdisk
limit=900
work=$(mktemp -d)
declare -A log_of=()
backend=

guest1() { guest-exec -t "$limit" guest1 "$@"; }
guest2() { guest-exec -t "$limit" guest2 "$@"; }

step() { printf '%4d s  %s\n' $SECONDS "$*"; }

fail() {
    printf 'FAILED: %s\n' "$*"
    exit 1
}

# On failure, all that tells why: the backends' words, the states in xenstore, the guests' kernels.
# shellcheck disable=SC2317  # the trap calls it
report() {
    local status=$? pid name
    [ "$status" != 0 ] || return 0
    for pid in "${!log_of[@]}"; do
        echo "--- backend $pid:"
        cat "${log_of[$pid]}"
    done
    echo '--- xenstore:'
    nodes | grep -E '/(state|online|ring-ref) =' || true
    for name in guest1 guest2; do
        echo "--- $name:"
        guest-exec -t 20 "$name" 'dmesg | grep -E "xvd|error|EXT4" | tail -n 15; grep xvd /proc/mounts; ps | grep -v "\["
            for task in /proc/[0-9]*; do case $(cat $task/stat) in *") D "*) cat $task/comm $task/stack ;; esac; done' || true
    done 2>&1
    exit "$status"
}
trap report EXIT

# expect WHAT COMMAND...: WHAT is promised when COMMAND succeeds. Its output shows only when it does not.
expect() {
    local what=$1
    shift
    step "$what"
    "$@" >"$work/expected" 2>&1 || { cat "$work/expected"; fail "$what"; }
}

# expect_equal WHAT GOT WANTED
expect_equal() {
    step "$1"
    [ "$2" = "$3" ] || { printf 'got:\n%s\nwanted:\n%s\n' "$2" "$3"; fail "$1"; }
}

# eventually WHAT COMMAND...: as expect, for what takes its time.
eventually() {
    local what=$1 deadline=$((SECONDS + limit))
    shift
    step "$what"
    until "$@" >"$work/expected" 2>&1; do
        [ $SECONDS -lt $deadline ] || { cat "$work/expected"; fail "$what"; }
        sleep 0.3
    done
}

# start_backend VM [OPTION...]: `dedupdisk connect` in the background; $backend is its process id.
start_backend() {
    local log=$work/backend.${#log_of[@]}
    # Job control, for the one line: without it the shell starts background processes with SIGINT ignored.
    set -m
    dedupdisk connect "$@" >"$log" 2>&1 </dev/null &
    backend=$!
    set +m
    log_of[$backend]=$log
}

# wait_device GUEST DEVICE: until the guest has the disk, and not the one before of that name, which is empty until its kernel comes to remove it.
wait_device() {
    local deadline=$((SECONDS + limit))
    step "$1 gets /dev/$2"
    until guest-exec "$1" "[ -b /dev/$2 ] && [ \"\$(cat /sys/block/$2/size)\" -gt 0 ]"; do
        kill -0 "$backend" 2>/dev/null || fail "the backend ended before $1 had /dev/$2"
        [ $SECONDS -lt $deadline ] || fail "$1 did not get /dev/$2"
        sleep 0.2
    done
}

# connect GUEST DEVICE OPTION...: both of the above.
connect() {
    start_backend "$1" --device "$2" "${@:3}"
    wait_device "$1" "$2"
}

# await_end PID: until the process has ended; $ended is its exit status.
await_end() {
    local deadline=$((SECONDS + limit))
    while kill -0 "$1" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || fail "process $1 does not end"
        sleep 0.1
    done
    ended=0
    wait "$1" 2>/dev/null || ended=$?
}

# ends_by_itself PID: a backend whose guest has gone.
ends_by_itself() {
    await_end "$1"
    step "the backend ended by itself, exit status $ended"
    [ "$ended" -le 1 ] || fail 'it was killed'
}

# The domain's memory is held as long as a grant is: a zombie says that the backend let something be mapped.
domain_gone() { # domain_gone ID
    ! xl list | awk '{ print $2 }' | grep -qx "$1"
}

# disconnect [PID [SIGNAL]]: asks a backend to unplug its disk.
disconnect() {
    local pid=${1:-$backend} signal=${2:-INT}
    kill -"$signal" "$pid"
    await_end "$pid"
    expect_equal "SIG$signal unplugs, exit status 0" "$ended" 0
}

# The vbd nodes of both sides that exist, as "path = value".
nodes() {
    xenstore-ls -f /local/domain | grep -E '^/local/domain/(0/backend/[^/]+|[0-9]+/device/vbd)/' | grep -v /backend/console/
}

# What a domain that is gone had in its own directory is the toolstack's to remove, which may come to that after the back end has ended.
no_nodes() {
    eventually 'no node is left in xenstore' has_no_nodes
}

has_no_nodes() {
    ! nodes | grep -E '/(backend/[^/]+/[0-9]+|vbd)/[0-9]+ ='
}

# quiet_kernel GUEST: the guest's kernel had nothing to complain of.
quiet_kernel() {
    expect_equal "no I/O error in $1" \
        "$(guest-exec "$1" 'dmesg | grep -iE "I/O error|ext4-fs (error|warning)|blkfront.*(bad|fail)|hung|lockup" || true')" ''
}

# make_filesystem GUEST DEVICE: ext4 on it, mounted at /mnt/DEVICE. A small one would get blocks of 1 KiB, and equal files
# would then seldom be equal blocks of 4.
make_filesystem() {
    expect "mkfs.ext4 and mount in $1" \
        guest-exec -t "$limit" "$1" "mkfs.ext4 -q -F -b 4096 /dev/$2 && mkdir -p /mnt/$2 && mount -t ext4 /dev/$2 /mnt/$2"
}

mount_in() { # mount_in GUEST DEVICE [OPTION]
    expect "mount in $1" guest-exec -t "$limit" "$1" "mkdir -p /mnt/$2 && mount -t ext4 -o ${3:-rw} /dev/$2 /mnt/$2"
}

unmount_in() { # unmount_in GUEST DEVICE
    expect "umount in $1" guest-exec -t "$limit" "$1" "umount /mnt/$2"
}

# fill GUEST DIRECTORY: a tree of small files and a file of random bytes, on the disk when this returns.
fill() {
    expect "copy a tree into $1" guest-exec -t "$limit" "$1" \
        "mkdir -p $2 && cp -a /usr/sbin /usr/lib $2/ && dd if=/dev/urandom of=$2/random bs=64k count=64 status=none && sync"
}

# sums GUEST DIRECTORY: one digest over names and contents, read from the disk and not from the guest's memory.
sums() {
    guest-exec -t "$limit" "$1" "echo 3 >/proc/sys/vm/drop_caches; cd $2 &&
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
}

# stat_of KEY: a number of `dedupdisk stats --json`.
stat_of() {
    dedupdisk stats --json | jq ".$1"
}

# await_stats WHAT CONDITION: until the store's numbers fulfil a jq condition. They are exact as of the last commit, and
# a commit follows what the guest was told; hence the patience.
await_stats() {
    eventually "$1" stats_fulfil "$2"
}

stats_fulfil() {
    local stats
    stats=$(dedupdisk stats --json)
    jq -e "$1" <<<"$stats" >/dev/null || { echo "not $1: $stats"; return 1; }
}

sound_store() {
    expect 'the store is sound' dedupdisk check --read-data
}

# refused WHAT COMMAND...: ends with status 1 and one line for people.
refused() {
    ends_with '1' "$@"
}

# wrong_usage WHAT COMMAND...: likewise, with the status of a command line that makes no sense.
wrong_usage() {
    ends_with '2|64' "$@"
}

ends_with() { # ends_with STATUSES WHAT COMMAND...
    local statuses=$1 what=$2 status=0
    shift 2
    step "$what"
    timeout "$limit" "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
    if ! [[ $status =~ ^($statuses)$ ]] || [ "$(wc -l <"$work/stderr")" != 1 ] || ! grep -q '^dedupdisk: ' "$work/stderr"; then
        echo "exit status $status"
        cat "$work/stdout" "$work/stderr"
        fail "$what"
    fi
    sed 's/^/          /' "$work/stderr"
}
