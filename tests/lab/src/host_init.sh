#!/bin/sh
# Process 1 of a lab's host. Its end is the host's sudden death: the kernel kills all that runs in its namespaces.
# HOST: its name. DIR: its private files. SHARED: the directory that all hosts share.
set -eu
echo "$HOST" > /proc/sys/kernel/hostname
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
own() { mkdir -p "$DIR/$1" "$2"; mount --bind "$DIR/$1" "$2"; }
own libvirt/lib /var/lib/libvirt
own libvirt/etc /etc/libvirt
own libvirt/log /var/log/libvirt
own libvirt/cache /var/cache/libvirt
own whimbrel /var/lib/whimbrel
mkdir -p /var/lib/whimbrel/state /var/lib/whimbrel/local /var/lib/whimbrel/shared
mount --bind "$SHARED" /var/lib/whimbrel/shared
mount --bind "$DIR/hosts" /etc/hosts
# libvirtd does not start without the user and group that only a package makes which the lab needs nothing else of.
cp /etc/passwd /etc/group "$DIR/"
grep -q '^libvirt-qemu:' "$DIR/passwd" || echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >> "$DIR/passwd"
grep -q '^libvirt-qemu:' "$DIR/group" || echo 'libvirt-qemu:x:64055:' >> "$DIR/group"
grep -q '^kvm:' "$DIR/group" || echo 'kvm:x:64056:' >> "$DIR/group"
mount --bind "$DIR/passwd" /etc/passwd
mount --bind "$DIR/group" /etc/group
ip link set lo up
ip link add brt type bridge stp_state 0 forward_delay 0
ip link set brt up
: > "$DIR/ready"
# Reap what is left to process 1.
while :; do
    sleep infinity &
    wait $! || true
done
