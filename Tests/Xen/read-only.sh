#!/bin/bash
# Promise: with --read-only the guest reads, and cannot write.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk data --size 256M
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
unmount_in guest1 xvdb
disconnect

connect guest1 xvdb --disk data --read-only
expect_equal 'the guest knows that it may not write' "$(guest1 'blockdev --getro /dev/xvdb')" 1
mount_in guest1 xvdb ro
expect_equal 'it reads the files' "$(sums guest1 /mnt/xvdb/tree)" "$written"
unmount_in guest1 xvdb
expect 'it cannot write' guest1 '! dd if=/dev/zero of=/dev/xvdb bs=4k count=1 oflag=direct 2>/dev/null'
disconnect
no_nodes
quiet_kernel guest1
