# A SCSI disk: ESP, /boot, and LVM with a thin pool that promises more than it has: root and
# /home; a second disk for backups.
mounts="UUID=0b10a11e-0008-4000-8000-000000000001 / ext4 defaults,discard
UUID=0b10a11e-0008-4000-8000-000000000002 /boot ext4 defaults
UUID=0B10-0008 /boot/efi vfat umask=0077
/dev/mapper/system-home /home ext4 defaults,nodev
UUID=0b10a11e-0008-4000-8000-0000000000bb /backup ext4 defaults,nofail"
swaps=
disks=/dev/ubda

make_disks() {
	sfdisk --quiet /dev/ubda <<-EOF
		label: gpt
		size=64MiB, type=uefi
		size=256MiB, type=linux, name="boot"
		size=2400MiB, type=lvm
	EOF
	udevadm settle
	mkfs.vfat -F 32 -i 0B100008 /dev/ubda1 >/dev/null
	mkfs.ext4 -q -L boot -U 0b10a11e-0008-4000-8000-000000000002 /dev/ubda2
	pvcreate --quiet /dev/ubda3
	vgcreate --quiet system /dev/ubda3
	lvcreate --quiet --yes --type thin-pool --name pool --size 2000m --chunksize 128k system
	lvcreate --quiet --yes --thin --name root --virtualsize 1900m system/pool
	lvcreate --quiet --yes --thin --name home --virtualsize 500m system/pool
	mkfs.ext4 -q -L root -U 0b10a11e-0008-4000-8000-000000000001 /dev/system/root
	mkfs.ext4 -q -L home -U 0b10a11e-0008-4000-8000-000000000003 /dev/system/home
	echo 'type=linux' | sfdisk --quiet --label gpt /dev/ubdb
	mkfs.ext4 -q -L backup -U 0b10a11e-0008-4000-8000-0000000000bb /dev/ubdb1
}
