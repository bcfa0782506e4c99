#!/bin/bash
# Promise: a disk is hot-plugged into a running guest with the size that was asked for, holds a filesystem whose files
# read back as they were written, and goes away cleanly.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 256M
expect_equal 'the size is the one asked for' "$(guest1 'blockdev --getsize64 /dev/xvdb')" $((256 << 20))
expect_equal 'sectors of 512 bytes on blocks of 4096' "$(guest1 'blockdev --getss --getpbsz /dev/xvdb' | tr '\n' ' ')" '512 4096 '
expect_equal 'a new disk is all zeros' \
    "$(guest1 'dd if=/dev/xvdb bs=1M count=16 iflag=direct status=none | tr -d "\0" | wc -c')" 0
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
unmount_in guest1 xvdb
expect 'the filesystem is clean' guest1 'e2fsck -fn /dev/xvdb'
mount_in guest1 xvdb
expect_equal 'the files read back as written' "$(sums guest1 /mnt/xvdb/tree)" "$written"
unmount_in guest1 xvdb
disconnect
eventually 'the guest has no disk any more' guest1 '[ ! -e /dev/xvdb ]'
no_nodes
quiet_kernel guest1
sound_store
