#!/bin/bash
# Promise: with --ephemeral the guest writes as it likes, and the disk is afterwards what it was before.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk gold --size 256M
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
unmount_in guest1 xvdb
disconnect

connect guest1 xvdb --disk gold --ephemeral
mount_in guest1 xvdb
expect 'the guest writes and deletes' guest1 'dd if=/dev/urandom of=/mnt/xvdb/tree/new bs=64k count=64 status=none &&
    rm /mnt/xvdb/tree/random && sync && echo 3 >/proc/sys/vm/drop_caches && [ -s /mnt/xvdb/tree/new ]'
changed=$(sums guest1 /mnt/xvdb/tree)
expect_equal 'it sees what it wrote' "$changed" "$(sums guest1 /mnt/xvdb/tree)"
[ "$changed" != "$written" ] || fail 'the guest does not see its own writes'
unmount_in guest1 xvdb
disconnect

connect guest2 xvdb --disk gold
mount_in guest2 xvdb
expect_equal 'the disk is what it was' "$(sums guest2 /mnt/xvdb/tree)" "$written"
unmount_in guest2 xvdb
disconnect
no_nodes
quiet_kernel guest1
quiet_kernel guest2
sound_store
