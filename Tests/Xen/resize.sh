#!/bin/bash
# Promise: a disk that is resized while it is plugged has its new size in the guest within seconds, and a filesystem on it can
# grow; one that is not plugged has it when it is.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

guest_has() { # guest_has BYTES
    [ "$(guest1 'blockdev --getsize64 /dev/xvdb')" = "$1" ]
}

connect guest1 xvdb --disk data --size 64M
make_filesystem guest1 xvdb
fill_some() {
    guest1 "dd if=/dev/urandom of=/mnt/xvdb/$1 bs=64k count=$2 status=none && sync"
}
expect 'the guest writes' fill_some before 256
written=$(sums guest1 /mnt/xvdb)
expect 'dedupdisk resize' dedupdisk resize data 160M
eventually 'the guest sees it' guest_has $((160 << 20))
expect_equal 'what it wrote is there' "$(sums guest1 /mnt/xvdb)" "$written"
expect 'the new end can be written' guest1 'dd if=/dev/urandom of=/tmp/end bs=64k count=16 status=none &&
    dd if=/tmp/end of=/dev/xvdb bs=1M seek=159 oflag=direct conv=notrunc status=none &&
    dd if=/dev/xvdb bs=1M skip=159 count=1 iflag=direct status=none | cmp - /tmp/end'
refused 'a plugged disk does not shrink' dedupdisk resize data 32M
unmount_in guest1 xvdb
disconnect

expect 'resized while it is not plugged' dedupdisk resize data 256M
connect guest1 xvdb --disk data
expect_equal 'it has its size at once' "$(guest1 'blockdev --getsize64 /dev/xvdb')" $((256 << 20))
mount_in guest1 xvdb
expect_equal 'and its files' "$(sums guest1 /mnt/xvdb)" "$written"
unmount_in guest1 xvdb
disconnect
no_nodes
quiet_kernel guest1
sound_store
