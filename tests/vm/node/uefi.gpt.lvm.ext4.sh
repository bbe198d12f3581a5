# One GPT disk: ESP, /boot, and LVM with root, /home and swap.
mounts="UUID=0b10a11e-0003-4000-8000-000000000001 / ext4 defaults
UUID=0b10a11e-0003-4000-8000-000000000002 /boot ext4 defaults
UUID=0B10-0003 /boot/efi vfat umask=0077
/dev/mapper/system-home /home ext4 defaults,nodev"
swaps=/dev/mapper/system-swap
disks=/dev/ubda

make_disks() {
	sfdisk --quiet /dev/ubda <<-EOF
		label: gpt
		size=64MiB, type=uefi, name="EFI system"
		size=256MiB, type=linux, name="boot"
		size=2400MiB, type=lvm
	EOF
	mkfs.vfat -F 32 -i 0B100003 -n ESP /dev/ubda1 >/dev/null
	mkfs.ext4 -q -L boot -U 0b10a11e-0003-4000-8000-000000000002 /dev/ubda2
	pvcreate --quiet /dev/ubda3
	vgcreate --quiet --physicalextentsize 8m system /dev/ubda3
	lvcreate --quiet --yes --name root --size 1600m system
	lvcreate --quiet --yes --name home --size 200m system
	lvcreate --quiet --yes --name swap --size 200m system
	mkfs.ext4 -q -L root -U 0b10a11e-0003-4000-8000-000000000001 /dev/system/root
	mkfs.ext4 -q -O ^has_journal -U 0b10a11e-0003-4000-8000-000000000003 /dev/system/home
	mkswap >/dev/null --uuid 0b10a11e-0003-4000-8000-000000000005 /dev/system/swap
}
