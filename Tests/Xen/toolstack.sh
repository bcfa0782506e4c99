#!/bin/bash
# Promise: the toolstack attaches, lists and detaches disks that `dedupdisk backend` serves; the daemon's death and its
# restart cost the guest nothing; what cannot be served says why; a guest that is destroyed leaves nothing behind.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

start_daemon() {
    local log=$work/backend.${#log_of[@]}
    set -m
    dedupdisk backend >"$log" 2>&1 </dev/null &
    backend=$!
    set +m
    log_of[$backend]=$log
}

node() { # node KEY: of xvdb's backend
    xenstore-read "/local/domain/0/backend/qdisk/$id/51728/$1"
}

node_is() { # node_is KEY VALUE
    [ "$(node "$1" 2>/dev/null)" = "$2" ]
}

id=$(xl domid guest1)
expect 'disks' dedupdisk create data --size 64M
expect 'another' dedupdisk create more --size 32M
start_daemon
# For a disk of this kind, xl wants the guest to have a device model, which it ends with the guest. Any process will do.
stand_in() {
    sleep 100000 &
    xenstore-write "/local/domain/$(xl domid "$1")/image/device-model-pid" $!
}
stand_in guest1

expect 'xl block-attach' xl block-attach guest1 'format=raw,vdev=xvdb,access=rw,backendtype=qdisk,target=dedupdisk:data'
wait_device guest1 xvdb
expect_equal 'with the size of the disk' "$(guest1 'blockdev --getsize64 /dev/xvdb')" $((64 << 20))
expect 'xl block-list has it' sh -c "xl block-list guest1 | grep -w 51728"
expect_equal 'the toolstack is told' "$(node hotplug-status)" connected
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)

for signal in KILL TERM KILL TERM; do
    guest1 'dd if=/dev/urandom of=/mnt/xvdb/more bs=64k count=256 conv=fsync status=none' >"$work/guest" 2>&1 &
    writer=$!
    sleep 0.5
    kill -$signal "$backend"
    await_end "$backend"
    expect_equal "SIG$signal leaves the disk plugged" "$(node state)" 4
    start_daemon
    status=0
    wait "$writer" || status=$?
    expect_equal "the guest that wrote meanwhile saw nothing of it" "$status $(cat "$work/guest")" '0 '
done
expect_equal 'the files are what they were' "$(sums guest1 /mnt/xvdb/tree)" "$written"

expect 'a disk that does not exist' xl block-attach guest1 'format=raw,vdev=xvdc,access=rw,backendtype=qdisk,target=dedupdisk:nothing'
refusal() {
    xenstore-read "/local/domain/0/backend/qdisk/$id/51744/hotplug-error" | grep 'disk nothing'
}
eventually 'is refused with a reason' refusal
expect 'and can be detached' xl block-detach guest1 xvdc

expect 'a read-only disk' xl block-attach guest1 'format=raw,vdev=xvdd,access=ro,backendtype=qdisk,target=dedupdisk:more'
wait_device guest1 xvdd
expect 'refuses writes' guest1 '! dd if=/dev/zero of=/dev/xvdd bs=4k count=1 oflag=direct 2>/dev/null'
expect 'xl block-detach' xl block-detach guest1 xvdd
eventually 'the guest has it no more' guest1 '[ ! -e /dev/xvdd ]'

eventually 'a snapshot of the disk in use' dedupdisk snapshot data@now
expect 'for reading' xl block-attach guest1 'format=raw,vdev=xvdd,access=ro,backendtype=qdisk,target=dedupdisk:data@now'
wait_device guest1 xvdd
expect 'refuses writes' guest1 '! dd if=/dev/zero of=/dev/xvdd bs=4k count=1 oflag=direct 2>/dev/null'
expect 'xl block-detach' xl block-detach guest1 xvdd
eventually 'the guest has it no more' guest1 '[ ! -e /dev/xvdd ]'
expect 'for writing' xl block-attach guest1 'format=raw,vdev=xvdd,access=rw,backendtype=qdisk,target=dedupdisk:data@now'
wait_device guest1 xvdd
expect 'the guest writes' guest1 'dd if=/dev/urandom of=/tmp/own bs=4k count=64 status=none && dd if=/tmp/own of=/dev/xvdd bs=4k oflag=direct status=none'
kill -KILL "$backend"
await_end "$backend"
start_daemon
expect 'it is there after a kill -9' guest1 'dd if=/dev/xvdd bs=4k count=64 iflag=direct status=none | cmp - /tmp/own'
expect 'xl block-detach' xl block-detach guest1 xvdd
eventually 'the guest has it no more' guest1 '[ ! -e /dev/xvdd ]'
expect 'anew' xl block-attach guest1 'format=raw,vdev=xvdd,access=rw,backendtype=qdisk,target=dedupdisk:data@now'
wait_device guest1 xvdd
expect 'it is the snapshot again' guest1 '! dd if=/dev/xvdd bs=4k count=64 iflag=direct status=none | cmp -s - /tmp/own'
expect 'xl block-detach' xl block-detach guest1 xvdd
eventually 'the guest has it no more' guest1 '[ ! -e /dev/xvdd ]'

unmount_in guest1 xvdb
expect 'xl block-detach of the first' xl block-detach guest1 xvdb
no_nodes
stand_in guest2
expect 'xl block-attach to another guest' xl block-attach guest2 'format=raw,vdev=xvdb,access=rw,backendtype=qdisk,target=dedupdisk:data'
wait_device guest2 xvdb
mount_in guest2 xvdb
expect_equal 'the same files' "$(sums guest2 /mnt/xvdb/tree)" "$written"

step 'xl destroy while the guest writes'
gone=$(xl domid guest2)
guest2 'dd if=/dev/zero of=/mnt/xvdb/zeros bs=64k' >/dev/null 2>&1 &
sleep 1
expect 'ends' xl destroy guest2
no_nodes
eventually 'the domain is gone for good' domain_gone "$gone"
quiet_kernel guest1
step 'the daemon ends'
kill -TERM "$backend"
await_end "$backend"
expect_equal 'with status 0' "$ended" 0
sound_store
