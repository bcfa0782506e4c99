#!/bin/bash
# Promise: a guest with a disk that xl plugged is saved and restored, and goes on with the disk as it was.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

expect 'a disk' dedupdisk create data --size 64M
rmmod xen_blkback
set -m
dedupdisk backend >"$work/daemon" 2>&1 </dev/null &
backend=$!
set +m
log_of[$backend]=$work/daemon
expect 'xl block-attach' xl block-attach guest1 'format=raw,vdev=xvdb,access=rw,script=block-dedupdisk,target=data'
wait_device guest1 xvdb
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
id=$(xl domid guest1)

expect 'xl save' xl save guest1 /store/saved
eventually 'the domain is gone for good' domain_gone "$id"
no_nodes
expect 'xl restore' xl restore /store/saved
eventually 'the guest answers' guest-exec -t 120 guest1 true
expect_equal 'the disk is mounted as it was' "$(sums guest1 /mnt/xvdb/tree)" "$written"
expect 'it can be written' guest1 'dd if=/dev/urandom of=/mnt/xvdb/tree/new bs=64k count=16 conv=fsync status=none'
unmount_in guest1 xvdb
expect 'xl block-detach' xl block-detach guest1 xvdb
no_nodes
quiet_kernel guest1
kill -TERM "$backend"
await_end "$backend"
sound_store
