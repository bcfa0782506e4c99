#!/bin/bash
# Promise: --path serves a raw file as it is: what the guest writes is in the file, at its place; and the guest sees it grow.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

truncate -s 128M /store/raw
connect guest1 xvdb --path /store/raw
expect_equal 'the disk has the size of the file' "$(guest1 'blockdev --getsize64 /dev/xvdb')" $((128 << 20))
make_filesystem guest1 xvdb
guest_has() { # guest_has BYTES
    [ "$(guest1 'blockdev --getsize64 /dev/xvdb')" = "$1" ]
}
truncate -s 160M /store/raw
eventually 'the guest sees that the file has grown' guest_has $((160 << 20))
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
unmount_in guest1 xvdb
expect_equal 'large reads, which are not staged, bring what is in the file' \
    "$(guest1 'dd if=/dev/xvdb bs=1M count=32 iflag=direct status=none | sha256sum')" "$(head -c 32M /store/raw | sha256sum)"
disconnect
no_nodes
expect 'the file holds a clean filesystem' e2fsck -fn /store/raw
mkdir "$work/image"
expect 'that dom0 can mount' mount -t ext4 -o loop,ro /store/raw "$work/image"
expect_equal 'with the same files' \
    "$(cd "$work/image/tree" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)" "$written"
umount "$work/image"
expect 'the store was not touched' [ ! -e "$DEDUPDISK_STORE" ]
quiet_kernel guest1
