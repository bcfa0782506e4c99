#!/bin/bash
# Promise: kill -9 of the backend loses no acknowledged write and gives the guest no I/O error: the same command again
# takes over the live ring, and the guest's work goes on where it stood.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 64M
expect 'a pattern that names each block' guest1 \
    'seq -f "%063.0f" 0 262143 | dd of=/tmp/pattern bs=1M count=16 iflag=fullblock status=none && [ $(wc -c </tmp/pattern) = 16777216 ]'
completed() { # how many requests the guest's driver has seen answered
    guest1 "awk '{ print \$1 + \$5 }' /sys/block/xvdb/stat"
}
progress() {
    [ "$(completed)" -ge $((before + 50)) ]
}

step 'the guest writes and reads, past the page cache, until it is told to stop'
guest1 'until [ -e /tmp/stop ]; do for part in 1 2 3; do
    dd if=/tmp/pattern of=/dev/xvdb bs=64k oflag=direct seek=$((part * 256)) conv=notrunc status=none || exit 1
    dd if=/dev/xvdb bs=64k count=256 iflag=direct skip=$((part * 256)) status=none | cmp - /tmp/pattern || exit 2
done; done' >"$work/guest" 2>&1 &
writer=$!
for round in 1 2 3 4; do
    before=$(completed)
    eventually "requests are answered, round $round" progress
    kill -9 "$backend"
    await_end "$backend"
    start_backend guest1 --device xvdb --size 64M
done
before=$(completed)
eventually 'requests are answered after four times kill -9' progress
guest1 'touch /tmp/stop'
status=0
wait "$writer" || status=$?
expect_equal 'the guest saw nothing of it' "$status $(cat "$work/guest")" '0 '
expect 'all of it is there' guest1 'for part in 1 2 3; do
    dd if=/dev/xvdb bs=64k count=256 iflag=direct skip=$((part * 256)) status=none | cmp - /tmp/pattern || exit 2; done'
quiet_kernel guest1
disconnect
no_nodes

step 'kill -9 between an acknowledged write and any flush'
connect guest1 xvdb
expect 'the guest writes, unflushed' guest1 'dd if=/dev/urandom of=/tmp/new bs=64k count=16 status=none &&
    dd if=/tmp/new of=/dev/xvdb bs=64k oflag=direct status=none'
kill -9 "$backend"
await_end "$backend"
start_backend guest1 --device xvdb
expect 'it is there' guest1 'dd if=/dev/xvdb bs=64k count=16 iflag=direct status=none | cmp - /tmp/new'
disconnect
no_nodes
quiet_kernel guest1
sound_store
