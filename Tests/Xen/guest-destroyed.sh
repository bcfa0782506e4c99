#!/bin/bash
# Promise: when a guest is destroyed in the midst of writing, its backend ends by itself and leaves neither a node in
# xenstore nor a zombie of the domain, and the disk has all that the guest had synced.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk data --size 256M
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
id=$(xl domid guest1)
step 'xl destroy while the guest writes'
guest1 'dd if=/dev/zero of=/mnt/xvdb/more bs=64k' >/dev/null 2>&1 &
sleep 1
xl destroy guest1
ends_by_itself "$backend"
no_nodes
eventually 'the domain is gone for good' domain_gone "$id"
connect guest2 xvdb --disk data
mount_in guest2 xvdb
expect_equal 'what was synced is there' "$(sums guest2 /mnt/xvdb/tree)" "$written"
unmount_in guest2 xvdb
disconnect
quiet_kernel guest2
sound_store
