#!/bin/bash
# Promise: direct reads and writes of a megabyte, and of sizes that are no multiple of a block, arrive whole and in place.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 128M
expect 'random bytes' guest1 'dd if=/dev/urandom of=/tmp/random bs=1M count=24 status=none &&
    dd if=/tmp/random of=/tmp/rest bs=1M skip=4 count=20 status=none'
expect 'write a megabyte at a time' guest1 'dd if=/tmp/random of=/dev/xvdb bs=1M oflag=direct status=none'
expect 'read a megabyte at a time' guest1 'dd if=/dev/xvdb bs=1M count=24 iflag=direct status=none | cmp - /tmp/random'
expect 'write 7 sectors at a time, from sector 3' guest1 \
    'dd if=/tmp/random of=/dev/xvdb bs=3584 count=1000 oflag=direct,seek_bytes seek=1536 conv=notrunc status=none'
expect 'read 5 sectors at a time' guest1 \
    'dd if=/dev/xvdb bs=2560 count=1400 iflag=direct,skip_bytes skip=1536 status=none | cmp -n 3584000 - /tmp/random'
expect 'what was before and behind is whole' guest1 \
    'dd if=/dev/xvdb bs=512 count=3 iflag=direct status=none | cmp -n 1536 - /tmp/random &&
     dd if=/dev/xvdb bs=1M skip=4 count=20 iflag=direct status=none | cmp - /tmp/rest'
expect 'several at once, at the end of the disk' guest1 'for part in 1 2 3 4; do
    dd if=/tmp/random of=/dev/xvdb bs=1M count=6 skip=$((part * 4)) seek=$((96 + part * 6)) oflag=direct conv=notrunc status=none & done
    wait
    for part in 1 2 3 4; do
    dd if=/tmp/random bs=1M count=6 skip=$((part * 4)) status=none >/tmp/part
    dd if=/dev/xvdb bs=1M count=6 skip=$((96 + part * 6)) iflag=direct status=none | cmp - /tmp/part || exit 1; done'
expect 'not past the end' guest1 '! dd if=/dev/zero of=/dev/xvdb bs=1M seek=128 count=1 oflag=direct status=none 2>/dev/null'
quiet_kernel guest1
disconnect
no_nodes
sound_store
