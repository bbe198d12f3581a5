#!/bin/sh
# PID 1 of the user-mode Linux in which disks are made and read: prepares, runs the job that the
# host has put into the shared directory, leaves its exit code there, and powers off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
for dir in /run /tmp /mnt; do mount -t tmpfs tmpfs $dir; done
# LVM wants to write its history here.
mkdir /run/lvm-etc && cp -a /etc/lvm/. /run/lvm-etc && mount --bind /run/lvm-etc /etc/lvm
# Arrays are assembled by the job, under their own names, and not by udev.
echo 'AUTO -all' >/run/mdadm.conf && mount --bind /run/mdadm.conf /etc/mdadm/mdadm.conf
mkdir /tmp/share /run/lock
mount -t hostfs -o "$lab_share" none /tmp/share
modprobe -a dm-mod md-mod raid0 raid1 raid10 raid456 loop vfat nls_cp437 nls_ascii ext4 xfs dm-crypt
/lib/systemd/systemd-udevd --daemon 2>/dev/null
udevadm trigger --subsystem-match=block
udevadm settle
cd /tmp/share
sh -eu ./job.sh
echo $? >code
sync
umount -a 2>/dev/null
echo o >/proc/sysrq-trigger
sleep 10
