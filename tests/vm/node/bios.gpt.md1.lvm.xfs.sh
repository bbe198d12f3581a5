# Two GPT disks that mirror each other: /boot on md, LVM with an XFS root on md.
mounts="UUID=0b10a11e-0002-4000-8000-000000000001 / xfs defaults
UUID=0b10a11e-0002-4000-8000-000000000002 /boot ext4 defaults"
swaps=/dev/mapper/vg0-swap
disks="/dev/ubda /dev/ubdb"
arrays="ARRAY /dev/md0 metadata=1.2 name=node001:boot UUID=0b10a11e:00024000:80000000:000000b0
ARRAY /dev/md1 metadata=1.2 name=node001:system UUID=0b10a11e:00024000:80000000:000000b1"

make_disks() {
	for disk in $disks; do
		sfdisk --quiet $disk <<-EOF
			label: gpt
			size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name="bios"
			size=256MiB, type=raid, name="boot"
			size=2400MiB, type=raid, name="system"
		EOF
	done
	udevadm settle
	create="mdadm --create --run --quiet --level=1 --raid-devices=2 --metadata=1.2 --assume-clean --homehost=node001"
	$create --name=boot --uuid=0b10a11e:00024000:80000000:000000b0 /dev/md0 /dev/ubda2 /dev/ubdb2
	$create --name=system --uuid=0b10a11e:00024000:80000000:000000b1 /dev/md1 /dev/ubda3 /dev/ubdb3
	mkfs.ext4 -q -L boot -U 0b10a11e-0002-4000-8000-000000000002 /dev/md0
	pvcreate --quiet /dev/md1
	vgcreate --quiet vg0 /dev/md1
	lvcreate --quiet --yes --name root --size 1700m vg0
	lvcreate --quiet --yes --name swap --size 200m vg0
	mkfs.xfs -q -L root -m uuid=0b10a11e-0002-4000-8000-000000000001 /dev/vg0/root
	mkswap >/dev/null --uuid 0b10a11e-0002-4000-8000-000000000005 /dev/vg0/swap
}
