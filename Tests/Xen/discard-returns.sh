#!/bin/bash
# Promise: what a guest discards is returned: mappedBytes falls, the blocks read as zeros, and the collector frees the
# space.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 128M
expect 'the guest writes 16 MiB' guest1 'dd if=/dev/urandom of=/dev/xvdb bs=1M count=16 oflag=direct conv=fsync status=none'
await_stats 'they are mapped' '.mappedBytes == 16777216'
expect 'blkdiscard of the first half' guest1 'blkdiscard -o 0 -l 8388608 /dev/xvdb && blockdev --flushbufs /dev/xvdb'
await_stats 'half is mapped' '.mappedBytes == 8388608'
expect_equal 'what was discarded reads as zeros' \
    "$(guest1 'dd if=/dev/xvdb bs=1M count=8 iflag=direct status=none | tr -d "\0" | wc -c')" 0
expect 'blkdiscard of it all' guest1 'blkdiscard /dev/xvdb && blockdev --flushbufs /dev/xvdb'
await_stats 'nothing is mapped' '.mappedBytes == 0'

make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
await_stats 'the tree is mapped' '.mappedBytes > 8388608'
full=$(stat_of mappedBytes)
expect 'rm and fstrim' guest1 'rm -r /mnt/xvdb/tree && sync && fstrim /mnt/xvdb && sync'
await_stats 'it is returned' ".mappedBytes < $full / 2"
unmount_in guest1 xvdb
disconnect
expect 'gc' dedupdisk gc
await_stats 'nothing is left to free' '.reclaimableBytes == 0'
quiet_kernel guest1
sound_store
