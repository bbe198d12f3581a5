# One GPT disk: ESP, /boot, and LUKS2 with LVM in it, as Debian's installer makes it; a second disk
# for backups.
mounts="UUID=0b10a11e-0005-4000-8000-000000000001 / ext4 errors=remount-ro
UUID=0b10a11e-0005-4000-8000-000000000002 /boot ext4 defaults
UUID=0B10-0005 /boot/efi vfat umask=0077
UUID=0b10a11e-0005-4000-8000-0000000000bb /backup ext4 defaults,nofail"
swaps=/dev/mapper/system-swap
disks=/dev/ubda
volumes="UUID=0b10a11e-0005-4000-8000-0000000000cc vda3_crypt"
passphrase="correct horse"

make_disks() {
	sfdisk --quiet /dev/ubda <<-EOF
		label: gpt
		size=64MiB, type=uefi
		size=256MiB, type=linux
		size=2400MiB, type=linux, name="crypt"
	EOF
	mkfs.vfat -F 32 -i 0B100005 /dev/ubda1 >/dev/null
	mkfs.ext4 -q -U 0b10a11e-0005-4000-8000-000000000002 /dev/ubda2
	# Little work for a machine that is emulated.
	printf %s "$passphrase" | cryptsetup luksFormat --batch-mode --type luks2 --pbkdf argon2id \
		--pbkdf-force-iterations 4 --pbkdf-memory 65536 --pbkdf-parallel 1 \
		--uuid 0b10a11e-0005-4000-8000-0000000000cc --key-file - /dev/ubda3
	each_volume open_volume
	pvcreate --quiet /dev/mapper/vda3_crypt
	vgcreate --quiet system /dev/mapper/vda3_crypt
	lvcreate --quiet --yes --name root --size 1700m system
	lvcreate --quiet --yes --name swap --size 200m system
	mkfs.ext4 -q -L root -U 0b10a11e-0005-4000-8000-000000000001 /dev/system/root
	mkswap >/dev/null --uuid 0b10a11e-0005-4000-8000-000000000005 /dev/system/swap
	echo 'type=linux' | sfdisk --quiet --label gpt /dev/ubdb
	mkfs.ext4 -q -L backup -U 0b10a11e-0005-4000-8000-0000000000bb /dev/ubdb1
}
