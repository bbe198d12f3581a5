# Two GPT disks that mirror each other, the ESP too: its array has the metadata at the end, so that
# firmware sees a FAT on each; a third disk for backups.
mounts="UUID=0b10a11e-0007-4000-8000-000000000001 / ext4 errors=remount-ro
UUID=0B10-0007 /boot/efi vfat umask=0077
UUID=0b10a11e-0007-4000-8000-0000000000bb /backup ext4 defaults,nofail"
swaps=
disks="/dev/ubda /dev/ubdb"
arrays="ARRAY /dev/md0 metadata=1.0 name=node001:esp UUID=0b10a11e:00074000:80000000:000000b0
ARRAY /dev/md1 metadata=1.2 name=node001:root UUID=0b10a11e:00074000:80000000:000000b1"

make_disks() {
	for disk in $disks; do
		sfdisk --quiet $disk <<-EOF
			label: gpt
			size=64MiB, type=uefi, name="esp"
			size=1800MiB, type=raid, name="root"
		EOF
	done
	udevadm settle
	create="mdadm --create --run --quiet --level=1 --raid-devices=2 --assume-clean --homehost=node001"
	$create --metadata=1.0 --name=esp --uuid=0b10a11e:00074000:80000000:000000b0 /dev/md0 /dev/ubda1 /dev/ubdb1
	$create --metadata=1.2 --name=root --uuid=0b10a11e:00074000:80000000:000000b1 /dev/md1 /dev/ubda2 /dev/ubdb2
	mkfs.vfat -F 32 -i 0B100007 /dev/md0 >/dev/null
	mkfs.ext4 -q -L root -U 0b10a11e-0007-4000-8000-000000000001 /dev/md1
	echo 'type=linux' | sfdisk --quiet --label gpt /dev/ubdc
	mkfs.ext4 -q -L backup -U 0b10a11e-0007-4000-8000-0000000000bb /dev/ubdc1
}

# What another machine left on the disks: an array with a volume group on it where the ESP will be and
# the root begin, and a volume group on the disks' other partitions.
make_remains() {
	for disk in $disks; do
		printf 'size=500MiB, type=raid\ntype=lvm\n' | sfdisk --quiet --label gpt $disk
	done
	udevadm settle
	mdadm --create --run --quiet --level=1 --raid-devices=2 --assume-clean --homehost=other \
		--name=data /dev/md7 /dev/ubda1 /dev/ubdb1
	pvcreate --quiet /dev/md7 /dev/ubda2 /dev/ubdb2
	vgcreate --quiet stranger /dev/md7
	vgcreate --quiet leftover /dev/ubda2 /dev/ubdb2
	lvcreate --quiet --yes --name data --size 300m stranger
	lvcreate --quiet --yes --name data --size 900m --stripes 2 leftover
	mkfs.ext4 -q -L precious /dev/stranger/data
	mkfs.xfs -q -L old /dev/leftover/data
	close_disks
}
