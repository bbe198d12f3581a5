# An NVMe disk with an ESP, a root and swap; a second NVMe disk for backups.
mounts="UUID=0b10a11e-0004-4000-8000-000000000001 / ext4 defaults
UUID=0B10-0004 /boot/efi vfat umask=0077
UUID=0b10a11e-0004-4000-8000-0000000000bb /backup ext4 defaults,nofail"
swaps=UUID=0b10a11e-0004-4000-8000-000000000005
disks=/dev/ubda

make_disks() {
	sfdisk --quiet /dev/ubda <<-EOF
		label: gpt
		label-id: 0B10A11E-0004-4000-8000-00000000AAAA
		size=64MiB, type=uefi
		size=1800MiB, type=linux, name="root"
		size=200MiB, type=swap, name="swap"
	EOF
	mkfs.vfat -F 32 -i 0B100004 /dev/ubda1 >/dev/null
	mkfs.ext4 -q -U 0b10a11e-0004-4000-8000-000000000001 /dev/ubda2
	mkswap >/dev/null --uuid 0b10a11e-0004-4000-8000-000000000005 /dev/ubda3
	echo 'type=linux' | sfdisk --quiet --label gpt /dev/ubdb
	mkfs.ext4 -q -L backup -U 0b10a11e-0004-4000-8000-0000000000bb /dev/ubdb1
}
