#!/bin/bash
# Promise: two processes serve two guests out of one store at the same time, and what both guests wrote is stored once.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 256M
first=$backend
connect guest2 xvdb --size 256M
second=$backend
make_filesystem guest1 xvdb
make_filesystem guest2 xvdb
step 'both copy the same tree, at the same time'
copy='mkdir /mnt/xvdb/tree && cp -a /usr /mnt/xvdb/tree/ && sync'
guest1 "$copy" &
one=$!
guest2 "$copy" &
other=$!
wait "$one" || fail 'guest1 could not write'
wait "$other" || fail 'guest2 could not write'
expect_equal 'both read the same' "$(sums guest1 /mnt/xvdb/tree)" "$(sums guest2 /mnt/xvdb/tree)"
await_stats 'it is stored once' '.dedupRatio > 1.5'
expect_equal 'both disks are in use' "$(dedupdisk stats --json | jq '[.disks[] | select(.attached)] | length')" 2
unmount_in guest1 xvdb
unmount_in guest2 xvdb
disconnect "$first"
disconnect "$second"
no_nodes
quiet_kernel guest1
quiet_kernel guest2
sound_store
