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

# What the disks are, in words that do not change by themselves.
describe() {
	for disk in $disks; do
		echo "== sfdisk $disk" && sfdisk --dump $disk
	done
	echo "== blkid" && lsblk --noheadings --raw --paths --output NAME | sort --unique |
		while read -r device; do blkid --probe --output full "$device" || true; done
	echo "== lsblk" && lsblk --output NAME,SIZE,TYPE,FSTYPE,LABEL,UUID,PARTUUID,PARTLABEL,PARTTYPE $disks
	for array in $(lsblk --noheadings --list --paths --output NAME,TYPE $disks | awk '$2 ~ /^raid/ {print $1}' | sort --unique); do
		echo "== mdadm $array" && mdadm --detail $array |
			grep -E 'Version|Raid Level|Array Size|Used Dev Size|Raid Devices|Layout|Chunk Size|Bitmap|Name|UUID|/dev/ubd'
	done
	echo "== lvm" && pvs --options pv_name,pv_uuid,pv_size,pe_start,vg_name
	vgs --options vg_name,vg_uuid,vg_extent_size,vg_extent_count
	lvs --segments --options vg_name,lv_name,lv_uuid,lv_size,segtype,seg_le_ranges,stripes,stripe_size
	lsblk --noheadings --raw --paths --output NAME,FSTYPE $disks | sort --unique | while read -r device kind; do
		case $kind in
		ext*) echo "== $kind $device" && dumpe2fs -h $device 2>/dev/null |
			grep -E 'volume name|UUID|Filesystem features|mount options|[Bb]lock count|Inode count|[Bb]lock size|Inode size|per group|Hash' ;;
		xfs) echo "== xfs $device" && xfs_db -r -c 'version' -c 'info' -c 'uuid' -c 'label' $device ;;
		esac
	done
}

# put FILE PATH: copies a file of the shared directory into the node.
put() {
	mkdir -p "$(dirname "/mnt/node$2")"
	cp "$1" "/mnt/node$2"
}
