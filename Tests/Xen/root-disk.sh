#!/bin/bash
# Promise: a guest whose configuration names a disk of ours as its root boots from it with plain `xl create`, reboots and
# shuts down; the toolstack says why when the disk is not there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

connect guest1 xvdb --disk root --size 512M
make_filesystem guest1 xvdb
expect 'a root filesystem' guest1 'cd /mnt/xvdb && cp -a /bin /etc /lib /lib64 /sbin /usr . && mkdir dev proc sys tmp run mnt root &&
    printf "%s\n" "#!/bin/bash" "mount -t tmpfs tmpfs /tmp" "mount -t tmpfs tmpfs /run" \
        "date +boot >>/boots" "sync" "agent serve &" "while :; do sleep 3600; done" >/tmp/init &&
    rm -f usr/sbin/init && install -m 755 /tmp/init usr/sbin/init && sync'
unmount_in guest1 xvdb
disconnect
xl destroy guest2

# xl runs the script once the daemon has taken the device. The kernel's backend would take it first.
rmmod xen_blkback
expect 'the script is where xl looks' test -x /etc/xen/scripts/block-dedupdisk
set -m
dedupdisk backend >"$work/daemon" 2>&1 </dev/null &
backend=$!
set +m
log_of[$backend]=$work/daemon

sed '/^name/s/.*/name = "rooted"/; s/^extra = "/&root=\/dev\/xvda /' /run/guest2.cfg >/run/rooted.cfg
echo 'disk = ["format=raw,vdev=xvda,access=rw,script=block-dedupdisk,target=root"]' >>/run/rooted.cfg
rooted() { guest-exec -t "$limit" rooted "$@"; }
expect 'xl create' xl create /run/rooted.cfg
id=$(xl domid rooted)
expect_equal 'its root is the disk' "$(rooted 'awk "\$2 == \"/\" { print \$1 }" /proc/mounts | tail -1')" /dev/xvda
expect_equal 'it booted once' "$(rooted 'wc -l </boots')" 1
expect 'it writes' rooted 'dd if=/dev/urandom of=/data bs=64k count=64 status=none && sha256sum /data >/sum && sync'

step 'it reboots'
rooted '(sleep 0.5; reboot -f) >/dev/null 2>&1 &'
renewed() {
    local now
    now=$(xl domid rooted 2>/dev/null) && [ "$now" != "$id" ] && guest-exec rooted true
}
eventually 'it is there again' renewed
expect_equal 'it booted twice' "$(rooted 'wc -l </boots')" 2
expect 'what it wrote is there' rooted 'sha256sum -c /sum'
quiet_kernel rooted

step 'it shuts down'
id=$(xl domid rooted)
rooted '(sync; sleep 0.5; poweroff -f) >/dev/null 2>&1 &'
eventually 'the domain is gone for good' domain_gone "$id"
no_nodes

sed -i 's/target=root/target=nothing/; s/"rooted"/"unrooted"/' /run/rooted.cfg
step 'a disk that does not exist'
if xl create /run/rooted.cfg >"$work/create" 2>&1; then fail 'xl create succeeded'; fi
expect 'xl says why' grep 'disk nothing' "$work/create"
no_nodes
kill -TERM "$backend"
await_end "$backend"
expect_equal 'the daemon ends with status 0' "$ended" 0
sound_store
