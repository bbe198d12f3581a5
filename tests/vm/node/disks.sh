# Making, opening and reading a node's disks in user-mode Linux. The disks are /dev/ubda, /dev/ubdb
# ...; the node's own file has defined make_disks, mounts (lines of: source directory type options),
# swaps, arrays (lines of mdadm.conf), volumes (lines of: LUKS device, its name when it is open) with
# their passphrase, and disks_4kn: those of 4096-byte sectors, which /dev/loop0 ... stand for.

open_disks() {
	attach_disks
	if test -n "${arrays-}"; then
		echo "$arrays" >/run/arrays.conf
		mdadm --quiet --assemble --scan --run --config /run/arrays.conf
	fi
	each_volume open_volume
	vgchange --quiet --activate y
	udevadm settle
}

attach_disks() {
	for disk in ${disks_4kn-}; do losetup --find --partscan --sector-size 4096 $disk; done
	udevadm settle
}

# each_volume COMMAND: runs it with device and name.
each_volume() {
	echo "${volumes-}" | while read -r device name; do
		test -z "$device" || "$1" "$(findfs $device)" $name
	done
}

open_volume() {
	printf %s "$passphrase" | cryptsetup open --key-file - $1 $2
}

close_volume() {
	cryptsetup close $2
}

close_disks() {
	! mountpoint -q /mnt/node || umount --recursive /mnt/node
	vgchange --quiet --activate n
	each_volume close_volume
	for array in /dev/md[0-9]*; do test ! -b "$array" || mdadm --quiet --stop "$array"; done
	losetup --detach-all
}

# mount_all OPTIONS
mount_all() {
	mkdir -p /mnt/node
	echo "$mounts" | while read -r source directory kind options; do
		mkdir -p "/mnt/node$directory"
		mount -t "$kind" -o "$1,$options" "$(findfs "$source")" "/mnt/node$directory"
	done
}

write_fstab() {
	echo "# <file system> <mount point> <type> <options> <dump> <pass>"
	echo "$mounts" | while read -r source directory kind options; do
		echo "$source $directory $kind $options 0 $(test "$directory" = / && echo 1 || echo 2)"
	done
	for source in $swaps; do echo "$source none swap sw 0 0"; done
}

# One that asks for the passphrase; left in the shared directory, too, for the first boot.
write_crypttab() {
	echo "${volumes-}" | while read -r device name; do
		test -z "$device" || echo "$name $device none luks,initramfs"
	done >/mnt/node/etc/crypttab
	for dir in dev proc sys run; do mount --bind /$dir /mnt/node/$dir; done
	chroot /mnt/node update-initramfs -u
	for dir in dev proc sys run; do umount /mnt/node/$dir; done
	cp /mnt/node/boot/initrd.img-* first-initrd
}

build() {
	attach_disks
	make_disks
	udevadm settle
	mount_all defaults
	tar -C /mnt/node -xpf tree.tar
	write_fstab >/mnt/node/etc/fstab
	sh ./nasty.sh /mnt/node/srv/nasty
	if test -n "${arrays-}"; then
		echo "$arrays" >>/mnt/node/etc/mdadm/mdadm.conf
		cp initrd.img /mnt/node/boot/initrd.img-*
	fi
	if test -n "${volumes-}"; then write_crypttab; fi
	close_disks
}
