#!/bin/bash
# Promise: what a guest wrote is there when its disk is connected again, by the guest's name, its domain id or its UUID,
# under another device name, and in another guest.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk data --size 256M
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
unmount_in guest1 xvdb
disconnect

id=$(xl domid guest1)
uuid=$(xl vm-list | awk '$3 == "guest1" { print $1 }')
for vm in "$id" "$uuid"; do
    start_backend "$vm" --disk data --device xvdc
    wait_device guest1 xvdc
    mount_in guest1 xvdc
    expect_equal "the same files, connected by $vm" "$(sums guest1 /mnt/xvdc/tree)" "$written"
    unmount_in guest1 xvdc
    disconnect "$backend" TERM
    no_nodes
done

connect guest2 xvdb --disk data
expect 'the filesystem is clean' guest2 'e2fsck -fn /dev/xvdb'
mount_in guest2 xvdb
expect_equal 'the same files in another guest' "$(sums guest2 /mnt/xvdb/tree)" "$written"
unmount_in guest2 xvdb
disconnect
quiet_kernel guest1
quiet_kernel guest2
