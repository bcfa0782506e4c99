#!/bin/bash
# Promise: SIGINT unplugs even a disk that is mounted and written to; the guest goes on, and what it had synced is on the
# disk.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 256M
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
guest1 'dd if=/dev/zero of=/mnt/xvdb/more bs=64k count=2000' >/dev/null 2>&1 &
sleep 1
disconnect
no_nodes
expect 'the guest goes on' guest1 true
# Linux lets a process that wrote to a disk that is gone wait for ever; it can be killed.
eventually 'it can let go of the filesystem' guest1 'killall -q -9 dd; umount /mnt/xvdb; ! grep -q xvdb /proc/mounts'
connect guest1 xvdb
mount_in guest1 xvdb
expect_equal 'what was synced is there' "$(sums guest1 /mnt/xvdb/tree)" "$written"
unmount_in guest1 xvdb
expect 'the filesystem is sound' guest1 'e2fsck -fn /dev/xvdb'
disconnect
no_nodes
sound_store
