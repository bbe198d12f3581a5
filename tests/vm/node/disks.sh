# Making, opening and reading a node's disks in user-mode Linux. The disks are /dev/ubda, /dev/ubdb
# ...; the node's own file has defined make_disks, mounts (lines of: source directory type options),
# swaps, and arrays (lines of mdadm.conf).

open_disks() {
	if test -n "${arrays-}"; then
		echo "$arrays" >/run/arrays.conf
		mdadm --quiet --assemble --scan --config /run/arrays.conf
	fi
	vgchange --quiet --activate y
	udevadm settle
}

close_disks() {
	umount --recursive /mnt/node
	vgchange --quiet --activate n
	for array in /dev/md[0-9]*; do test ! -b "$array" || mdadm --quiet --stop "$array"; done
}

# mount_all OPTIONS
mount_all() {
	mkdir -p /mnt/node
	echo "$mounts" | while read -r source directory kind options; do
		mkdir -p "/mnt/node$directory"
		mount -t "$kind" -o "$1" "$(findfs "$source")" "/mnt/node$directory"
	done
}

write_fstab() {
	echo "# <file system> <mount point> <type> <options> <dump> <pass>"
	echo "$mounts" | while read -r source directory kind options; do
		echo "$source $directory $kind $options 0 $(test "$directory" = / && echo 1 || echo 2)"
	done
	for source in $swaps; do echo "$source none swap sw 0 0"; done
}

build() {
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
	close_disks
}
