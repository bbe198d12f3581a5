# An NVMe disk with sectors of 4096 bytes: ESP, Btrfs with Ubuntu's subvolumes and one more inside of
# the root's, and swap; a second NVMe disk for backups.
mounts="UUID=0b10a11e-0006-4000-8000-000000000001 / btrfs defaults,subvol=@
UUID=0b10a11e-0006-4000-8000-000000000001 /home btrfs defaults,subvol=@home
UUID=0B10-0006 /boot/efi vfat umask=0077
UUID=0b10a11e-0006-4000-8000-0000000000bb /backup ext4 defaults,nofail"
swaps=UUID=0b10a11e-0006-4000-8000-000000000005
disks=/dev/loop0
disks_4kn=/dev/ubda
nested=/var/lib/data

make_disks() {
	# With such sectors FAT32 begins at 256 MiB.
	sfdisk --quiet /dev/loop0 <<-EOF
		label: gpt
		size=300MiB, type=uefi
		size=2200MiB, type=linux, name="root"
		size=200MiB, type=swap
	EOF
	mkfs.vfat -F 32 -i 0B100006 /dev/loop0p1 >/dev/null
	mkfs.btrfs -q -L root -U 0b10a11e-0006-4000-8000-000000000001 /dev/loop0p2
	mkdir /mnt/top
	mount /dev/loop0p2 /mnt/top
	for name in @ @home; do btrfs subvolume create /mnt/top/$name; done
	mkdir -p /mnt/top/@/var/lib
	btrfs subvolume create /mnt/top/@$nested
	mkdir /mnt/top/@$nested/tables
	chattr +C /mnt/top/@$nested/tables
	echo row >/mnt/top/@$nested/tables/rows
	umount /mnt/top
	mkswap >/dev/null --uuid 0b10a11e-0006-4000-8000-000000000005 /dev/loop0p3
	echo 'type=linux' | sfdisk --quiet --label gpt /dev/ubdb
	mkfs.ext4 -q -L backup -U 0b10a11e-0006-4000-8000-0000000000bb /dev/ubdb1
}
