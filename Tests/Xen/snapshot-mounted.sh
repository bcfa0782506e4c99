#!/bin/bash
# Promise: a snapshot of a mounted, busy ext4 is what a loss of power would have left: in a clone of it the filesystem's journal is
# replayed, and all that was synced before is there. Two guests use one snapshot at once, and neither changes it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk work --size 256M
source=$backend
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/synced
written=$(sums guest1 /mnt/xvdb/synced)

step 'the guest writes, syncs and deletes until it is told to stop'
guest1 'n=0; until [ -e /tmp/stop ]; do n=$((n + 1))
    dd if=/dev/urandom of=/mnt/xvdb/busy.$((n % 6)) bs=64k count=16 conv=fsync status=none || exit 1
    rm -f /mnt/xvdb/busy.$(((n + 3) % 6)); done' >"$work/guest" 2>&1 &
writer=$!
for name in 1 2 3; do
    sleep 1
    # The back end has two seconds to answer; where the machine is too busy for that, whoever asked is told to try again.
    eventually "snapshot $name" dedupdisk snapshot "work@$name"
done
expect 'a clone of the second' dedupdisk clone work@2 copy
eventually 'and one of the disk as it is' dedupdisk clone work moment

for disk in copy moment; do
    connect guest2 xvdb --disk "$disk"
    mount_in guest2 xvdb
    expect_equal "$disk has what was synced" "$(sums guest2 /mnt/xvdb/synced)" "$written"
    unmount_in guest2 xvdb
    expect 'its filesystem is clean' guest2 "e2fsck -f -n /dev/xvdb"
    disconnect
done
expect 'a journal was replayed' guest2 'dmesg | grep -q "xvdb.*recovery complete"'

guest1 'touch /tmp/stop'
status=0
wait "$writer" || status=$?
expect_equal 'the guest that wrote saw nothing of it' "$status $(cat "$work/guest")" '0 '

step 'one snapshot for two guests at once'
connect guest1 xvdc --disk work@1 --ephemeral
first=$backend
connect guest2 xvdc --disk work@1 --ephemeral
second=$backend
for guest in guest1 guest2; do
    mount_in $guest xvdc
    expect "$guest writes" $guest "echo $guest >/mnt/xvdc/own && rm -r /mnt/xvdc/synced/random && sync && echo 3 >/proc/sys/vm/drop_caches"
done
for guest in guest1 guest2; do
    expect_equal "$guest has its own" "$($guest 'cat /mnt/xvdc/own')" $guest
    unmount_in $guest xvdc
done
disconnect "$first"
disconnect "$second"
connect guest2 xvdc --disk work@1 --ephemeral
mount_in guest2 xvdc
expect_equal 'the snapshot is what it was' "$(sums guest2 /mnt/xvdc/synced) $(guest2 'ls /mnt/xvdc/own 2>/dev/null' || true)" "$written "
unmount_in guest2 xvdc
disconnect

unmount_in guest1 xvdb
disconnect "$source"
expect 'the disk goes with its snapshots' dedupdisk delete work copy moment --recursive
await_stats 'nothing is left' '.disks == [] and .uniqueBytes == 0'
no_nodes
quiet_kernel guest1
quiet_kernel guest2
sound_store
