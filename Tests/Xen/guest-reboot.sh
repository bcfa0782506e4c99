#!/bin/bash
# Promise: a guest's reboot, which gives it a new domain id, ends the backend of the old one and leaves no node behind;
# the disk can then be connected to the guest under its old name.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk data --size 256M
make_filesystem guest1 xvdb
fill guest1 /mnt/xvdb/tree
written=$(sums guest1 /mnt/xvdb/tree)
id=$(xl domid guest1)
step 'the guest reboots'
guest1 '(sleep 0.5; reboot -f) >/dev/null 2>&1 &'
ends_by_itself "$backend"
no_nodes
renewed() {
    local now
    now=$(xl domid guest1 2>/dev/null) && [ "$now" != "$id" ] && guest-exec guest1 true
}
eventually 'the guest is there again' renewed
eventually 'the domain that it was is gone for good' domain_gone "$id"
connect guest1 xvdb --disk data
mount_in guest1 xvdb
expect_equal 'what was synced is there' "$(sums guest1 /mnt/xvdb/tree)" "$written"
unmount_in guest1 xvdb
disconnect
no_nodes
quiet_kernel guest1
sound_store
