#!/bin/bash
# node_init.sh HOME NAME PROGRAMS: the first process of a node, in new namespaces. Lays a root over this machine's, so that
# nothing that is written inside is seen outside, but for HOME; then waits, and reaps.
set -euo pipefail
home=$1 name=$2 programs=$3 node=$1/$2
hostname "$name"
mount --make-rprivate /
root=$node/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$node/upper,workdir=$node/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
# The kubelet sets these for the whole machine. It may think that it has.
for one in vm/overcommit_memory kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    fake=$root/run/sysctl/$one
    mkdir -p "${fake%/*}"
    cat "/proc/sys/$one" > "$fake"
    mount --bind "$fake" "$root/proc/sys/$one"
done
mount --bind "$home" "$root$home"
# It may be on a file system of its own.
mount --bind "$programs" "$root$programs"
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l /.old
mount --make-rshared /
touch "$node/ready"
trap 'exit 0' TERM
while :; do sleep infinity & wait $! || true; done
