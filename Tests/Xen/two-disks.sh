#!/bin/bash
# Promise: one guest has two disks at the same time; neither sees the other's data, and what they share is stored once.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk first --size 256M
first=$backend
connect guest1 xvdc --disk second --size 128M
second=$backend
expect_equal 'each has its own size' "$(guest1 'blockdev --getsize64 /dev/xvdb; blockdev --getsize64 /dev/xvdc' | tr '\n' ' ')" \
    "$((256 << 20)) $((128 << 20)) "
make_filesystem guest1 xvdb
make_filesystem guest1 xvdc
fill guest1 /mnt/xvdb/tree
expect 'copy from one to the other' guest1 'cp -a /mnt/xvdb/tree /mnt/xvdc/ && echo second >/mnt/xvdc/tree/only-here && sync'
expect 'neither sees the other' guest1 '[ ! -e /mnt/xvdb/tree/only-here ] && rm /mnt/xvdc/tree/only-here'
expect_equal 'the copies are equal' "$(sums guest1 /mnt/xvdb/tree)" "$(sums guest1 /mnt/xvdc/tree)"
await_stats 'the copies are stored once' '.dedupRatio > 1.5'
written=$(sums guest1 /mnt/xvdb/tree)
unmount_in guest1 xvdb
disconnect "$first"
expect_equal 'one goes, the other stays' "$(sums guest1 /mnt/xvdc/tree)" "$written"
unmount_in guest1 xvdc
disconnect "$second"
no_nodes
quiet_kernel guest1
sound_store
