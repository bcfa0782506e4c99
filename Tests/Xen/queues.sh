#!/bin/bash
# Promise: a guest with two processors uses two rings, each served by a thread; kill -9 of the backend, and its end for a
# successor, cost neither a write nor an error on either.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

xl destroy guest2
sed 's/guest2/smp/; s/vcpus = 1/vcpus = 2/' /run/guest2.cfg >/run/smp.cfg
sed -i '/^name/s/.*/name = "smp"/' /run/smp.cfg
expect 'a guest with two processors' xl -f create /run/smp.cfg
expect 'answers' guest-exec -t "$limit" smp true
smp() { guest-exec -t "$limit" smp "$@"; }

truncate -s 64M /store/raw.img
connect smp xvdb --path /store/raw.img --queues 4
frontend=/local/domain/$(xl domid smp)/device/vbd/51728
expect_equal 'it uses two of four queues' "$(xenstore-read "$frontend/multi-queue-num-queues")" 2
expect 'a pattern that names each block' smp \
    'seq -f "%063.0f" 0 131071 | dd of=/tmp/pattern bs=1M count=8 iflag=fullblock status=none && [ $(wc -c </tmp/pattern) = 8388608 ]'
completed() {
    smp "awk '{ print \$1 + \$5 }' /sys/block/xvdb/stat"
}
progress() {
    [ "$(completed)" -ge $((before + 50)) ]
}

step 'both processors write and read, past the page cache, until they are told to stop'
for cpu in 0 1; do
    smp "until [ -e /tmp/stop ]; do for part in 1 2; do
        taskset $((1 << cpu)) dd if=/tmp/pattern of=/dev/xvdb bs=64k oflag=direct seek=\$((part * 128 + $cpu * 512)) conv=notrunc status=none || exit 1
        taskset $((1 << cpu)) dd if=/dev/xvdb bs=64k count=128 iflag=direct skip=\$((part * 128 + $cpu * 512)) status=none | cmp - /tmp/pattern || exit 2
        done; done" >"$work/guest$cpu" 2>&1 &
    writers[cpu]=$!
done
for round in 1 2 3 4 5; do
    before=$(completed)
    eventually "requests are answered, round $round" progress
    signal=KILL
    [ $((round % 2)) = 1 ] || signal=HUP
    kill -$signal "$backend"
    await_end "$backend"
    expect_equal "SIG$signal ends it, and nothing is unplugged" "$(xenstore-read "$frontend/state")" 4
    start_backend smp --device xvdb --path /store/raw.img --queues 4
done
before=$(completed)
eventually 'requests are answered after the last of them' progress
smp 'touch /tmp/stop'
for cpu in 0 1; do
    status=0
    wait "${writers[cpu]}" || status=$?
    expect_equal "processor $cpu saw nothing of it" "$status $(cat "$work/guest$cpu")" '0 '
done
quiet_kernel smp
disconnect
no_nodes
