#!/bin/bash
# Promise: whatever a guest's driver uses of what is offered, small or large rings and requests, with indirect segments or
# without, what it writes reads back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

expect 'random bytes' guest1 'dd if=/dev/urandom of=/tmp/random bs=1M count=8 status=none'
# Pages of the ring as an order, and segments of a request (11 fit without a page of their own).
for features in '0 0' '0 256' '2 32' '4 0' '4 256'; do
    read -r order segments <<<"$features"
    expect "a driver with rings of 2^$order pages and requests of up to $segments indirect segments" guest1 \
        "rmmod xen_blkfront && insmod /lab/modules/*xen-blkfront.ko* max_ring_page_order=$order max_indirect_segments=$segments"
    connect guest1 xvdb --size 64M
    frontend=/local/domain/$(xl domid guest1)/device/vbd/51728
    expect_equal 'it uses such a ring' "$(xenstore-read "$frontend/ring-page-order" 2>/dev/null || echo 0)" "$order"
    expect_equal 'and such requests' "$(guest1 'cat /sys/block/xvdb/queue/max_segments')" $((segments > 11 ? segments : 11))
    expect 'it writes' guest1 'dd if=/tmp/random of=/dev/xvdb bs=1M oflag=direct status=none &&
        dd if=/tmp/random of=/dev/xvdb bs=3584 count=500 seek=16777728 oflag=direct,seek_bytes status=none'
    expect 'and reads' guest1 'dd if=/dev/xvdb bs=1M count=8 iflag=direct status=none | cmp - /tmp/random &&
        dd if=/dev/xvdb bs=3584 count=500 skip=16777728 iflag=direct,skip_bytes status=none | cmp -n 1792000 - /tmp/random'
    expect 'and discards' guest1 'blkdiscard -o 1048576 -l 1048576 /dev/xvdb && blockdev --flushbufs /dev/xvdb &&
        [ "$(dd if=/dev/xvdb bs=1M skip=1 count=1 iflag=direct status=none | tr -d "\0" | wc -c)" = 0 ]'
    quiet_kernel guest1
    disconnect
    no_nodes
done
sound_store
