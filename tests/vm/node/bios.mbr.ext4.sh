# One MBR disk with a primary root and logical swap and /home; a second disk for backups.
mounts="UUID=0b10a11e-0001-4000-8000-000000000001 / ext4 errors=remount-ro
UUID=0b10a11e-0001-4000-8000-000000000006 /home ext4 defaults,nodev
UUID=0b10a11e-0001-4000-8000-0000000000bb /backup ext4 defaults,nofail"
swaps=UUID=0b10a11e-0001-4000-8000-000000000005
disks="/dev/ubda"

make_disks() {
	sfdisk --quiet /dev/ubda <<-EOF
		label: dos
		label-id: 0x0b10a11e
		/dev/ubda1 : start=2048, size=3276800, type=83, bootable
		/dev/ubda2 : start=3512320, type=5
		/dev/ubda5 : start=3514368, size=409600, type=82
		/dev/ubda6 : start=3926016, size=614400, type=83
	EOF
	mkfs.ext4 -q -L root -U 0b10a11e-0001-4000-8000-000000000001 /dev/ubda1
	mkswap >/dev/null --label swap --uuid 0b10a11e-0001-4000-8000-000000000005 /dev/ubda5
	mkfs.ext4 -q -m 1 -I 512 -U 0b10a11e-0001-4000-8000-000000000006 /dev/ubda6
	echo 'type=linux' | sfdisk --quiet --label gpt /dev/ubdb
	mkfs.ext4 -q -L backup -U 0b10a11e-0001-4000-8000-0000000000bb /dev/ubdb1
}
