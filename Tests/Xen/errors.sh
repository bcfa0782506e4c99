#!/bin/bash
# Promise: what cannot be done is said in one line with exit status 1, and disturbs nothing that works.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

refused 'a VM that does not exist' dedupdisk connect nobody --size 64M
refused 'a domain id that does not exist' dedupdisk connect 4711 --size 64M
xl destroy guest2
refused 'a VM that does not run any more' dedupdisk connect guest2 --size 64M

connect guest1 xvdb --disk data --size 64M
expect 'the guest writes' guest1 'dd if=/dev/urandom of=/tmp/new bs=64k count=16 status=none &&
    dd if=/tmp/new of=/dev/xvdb bs=64k oflag=direct status=none'
refused 'a disk that is in use' dedupdisk connect guest1 --disk data --device xvdc
refused 'a device that is in use' dedupdisk connect guest1 --disk other --size 64M --device xvdb
wrong_usage 'a device name that is none' dedupdisk connect guest1 --disk other --size 64M --device floppy
refused 'a file that does not exist' dedupdisk connect guest1 --path /store/nothing --device xvdc
expect 'the guest has but one disk' guest1 '[ "$(cd /dev && echo xvd*)" = xvdb ]'
expect 'which works as before' guest1 'dd if=/dev/xvdb bs=64k count=16 iflag=direct status=none | cmp - /tmp/new'
disconnect
no_nodes
quiet_kernel guest1
