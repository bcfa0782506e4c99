#!/bin/bash
# Promise: --discard is a disk that accepts all and keeps nothing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --size 64M --discard
expect 'it accepts all' guest1 'dd if=/dev/urandom of=/dev/xvdb bs=1M oflag=direct count=64 conv=fsync status=none'
expect_equal 'and reads as zeros' "$(guest1 'dd if=/dev/xvdb bs=1M iflag=direct status=none | tr -d "\0" | wc -c')" 0
quiet_kernel guest1
disconnect
no_nodes
expect 'the store was not touched' [ ! -e "$DEDUPDISK_STORE" ]
