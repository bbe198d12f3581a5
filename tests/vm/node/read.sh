# Reading a node's disks and putting files on them; see disks.sh.

# What the disks are, in words that do not change by themselves.
describe() {
	for disk in $disks; do
		echo "== sfdisk $disk" && { sfdisk --dump $disk || echo none; }
	done
	echo "== blkid" && lsblk --noheadings --raw --paths --output NAME | sort --unique |
		while read -r device; do blkid --probe --output full "$device" || true; done |
		# mdadm and mkfs.btrfs make up the number of a member anew, and nothing refers to it.
		sed -E '/TYPE="(linux_raid_member|btrfs)"/s/ UUID_SUB="[^"]*"//'
	echo "== lsblk" && lsblk --list --output NAME,SIZE,TYPE,FSTYPE,LABEL,UUID,PARTUUID,PARTLABEL,PARTTYPE $disks
	for array in $(lsblk --noheadings --list --paths --output NAME,TYPE $disks | awk '$2 ~ /^raid/ {print $1}' | sort --unique); do
		echo "== mdadm $array" && mdadm --detail $array |
			grep -E 'Version|Raid Level|Array Size|Used Dev Size|Raid Devices|Layout|Chunk Size|Bitmap|Name|UUID|/dev/ubd'
	done
	echo "== lvm" && pvs --options pv_name,pv_uuid,pv_size,pe_start,vg_name
	vgs --options vg_name,vg_uuid,vg_extent_size,vg_extent_count
	# A recovery makes thin pools and what is in them anew, and says that their numbers are new ones.
	lvs --segments --options vg_name,lv_name,lv_uuid,lv_size,segtype,seg_le_ranges,stripes,stripe_size |
		sed -E '/ thin(-pool)? /s/ [[:alnum:]]{6}(-[[:alnum:]]{4}){5}-[[:alnum:]]{6} / new /'
	lsblk --noheadings --raw --paths --output NAME,FSTYPE $disks | sort --unique | while read -r device kind; do
		case $kind in
		ext*) echo "== $kind $device" && dumpe2fs -h $device 2>/dev/null |
			grep -E 'volume name|UUID|Filesystem features|mount options|[Bb]lock count|Inode count|[Bb]lock size|Inode size|per group|Hash' ;;
		crypto_LUKS) echo "== luks $device" && cryptsetup luksDump $device | sed '/^Digests/,$d' |
			grep -E 'Version|UUID|Label|Flags|offset|cipher|sector|Cipher|Key|PBKDF|Time|Memory|Threads|Hash' ;;
		btrfs) echo "== btrfs $device" && describe_btrfs $device ;;
		xfs) echo "== xfs $device" && xfs_db -r -c 'version' -c 'info' -c 'uuid' -c 'label' $device ;;
		esac
	done
}

describe_btrfs() {
	btrfs inspect-internal dump-super $1 |
		grep -E '^(csum_type|fsid|label|total_bytes|sectorsize|nodesize|num_devices|compat|incompat)'
	mkdir -p /mnt/top
	mount -o ro,subvolid=5 $1 /mnt/top
	btrfs filesystem df /mnt/top | sed 's/: .*//'
	btrfs subvolume list /mnt/top | sed 's/.* path //' | sort
	btrfs subvolume get-default /mnt/top | sed 's/^ID .* path //'
	umount /mnt/top
}

# put FILE PATH: copies a file of the shared directory into the node.
put() {
	mkdir -p "$(dirname "/mnt/node$2")"
	cp "$1" "/mnt/node$2"
}
