//! Stacks with logical and encrypted volumes.

use crate::cases::{Case, Target, blank, on};

pub fn volumes() -> Vec<Case> {
    vec![
        LVM_RAID,
        on(LVM_RAID, "same_disks_lvm_raid", Target::Same),
        blank("lvm_raid6_tags", &[100, 100, 100, 100, 100], LVM_RAID6),
        Case { ignore: "snap", ..blank("lvm_thin", &[300, 200], LVM_THIN) },
        on(blank("lvm_cache", CACHE_DISKS, LVM_CACHE), "lvm_cache", NO_CACHE),
        blank(
            "lvm_raid_on_luks_thin_striped",
            &[200, 200],
            r#"
for disk in ubdb1 ubdc1; do
    printf 'label: gpt\ntype=linux\n' | sfdisk /dev/${disk%1}
    udevadm settle
    printf 'pass phrase' | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 100000 --key-file - /dev/$disk
    printf 'pass phrase' | cryptsetup open --key-file - /dev/$disk $disk-crypt
done
lvm vgcreate vg /dev/mapper/ubdb1-crypt /dev/mapper/ubdc1-crypt
lvm lvcreate -y --type raid1 -m 1 -n root -L 60M vg
lvm lvcreate -y --type thin-pool -i 2 -I 64k -n pool -L 48M vg
lvm lvcreate -y --type thin -V 200M --thinpool vg/pool -n data
mke2fs -q -t ext4 /dev/vg/root
mke2fs -q -t ext4 /dev/vg/data
mount /dev/vg/root /node
mkdir /node/data
mount /dev/vg/data /node/data
"#,
        ),
    ]
}

const LVM_RAID: Case = blank(
    "lvm_raid_and_mirror",
    &[200, 200, 200, 200],
    r#"
lvm vgcreate --dataalignment 2m -s 1m vg0 /dev/ubdb /dev/ubdc /dev/ubdd /dev/ubde
lvm lvcreate -y -n plain -L 10M vg0 /dev/ubde
lvm lvcreate -y --type raid1 -m 2 -n r1 -L 40M vg0
lvm lvcreate -y --type raid5 -i 3 -I 16k -n r5 -L 30M vg0
lvm lvcreate -y --type raid10 -m 1 -i 2 -n r10 -L 30M vg0
lvm lvcreate -y --type mirror -m 1 -n mir -L 20M vg0
lvm lvcreate -y --type raid0 -i 2 -n r0 -L 20M vg0
mke2fs -q -t ext4 /dev/vg0/r1
mkfs.xfs -q --unsupported /dev/vg0/r5
mke2fs -q -t ext4 /dev/vg0/r10
mke2fs -q -t ext4 /dev/vg0/mir
mke2fs -q -t ext4 /dev/vg0/r0
mkswap /dev/vg0/plain
mount /dev/vg0/r1 /node
mkdir /node/r5 /node/r10 /node/mir /node/r0
mount /dev/vg0/r10 /node/r10
mount /dev/vg0/mir /node/mir
mount /dev/vg0/r0 /node/r0
"#,
);

const LVM_RAID6: &str = r#"
lvm pvcreate --metadatasize 2m /dev/ubdb
lvm vgcreate --addtag site=a --addtag @web vg.6 /dev/ubd[bcdef]
lvm pvchange --addtag slow /dev/ubdc
lvm lvcreate -y --type raid6 -i 3 -I 64k -n r6 -L 60M --addtag data vg.6
lvm lvcreate -y --type raid4 -i 2 -n r4 -L 40M vg.6
lvm lvcreate -y --type raid10 -m 1 -i 2 -n r10-with-dash -L 40M vg.6
mke2fs -q -t ext4 /dev/vg.6/r6
mke2fs -q -t ext4 /dev/vg.6/r4
mke2fs -q -t ext4 /dev/vg.6/r10-with-dash
mount /dev/vg.6/r6 /node
mkdir /node/r4 /node/r10
mount /dev/vg.6/r4 /node/r4
mount /dev/vg.6/r10-with-dash /node/r10
"#;

const LVM_THIN: &str = r#"
printf 'label: gpt\ntype=lvm\n' | sfdisk /dev/ubdb
udevadm settle
lvm vgcreate --addtag node vg-t /dev/ubdb1 /dev/ubdc
lvm lvcreate -y -n boot -L 40M vg-t /dev/ubdc
lvm lvcreate -y --type thin-pool -n pool -L 200M --chunksize 128k --discards nopassdown --zero n vg-t
lvm lvcreate -y --type thin -V 500M --thinpool vg-t/pool -n root --addtag web
lvm lvcreate -y --type thin -V 100M --thinpool vg-t/pool -n var
mke2fs -q -t ext4 -L root /dev/vg-t/root
mkfs.xfs -q --unsupported /dev/vg-t/var
mke2fs -q -t ext4 /dev/vg-t/boot
lvm lvcreate -y -s -n rootsnap vg-t/root
lvm lvcreate -y -s -L 12M -n bootsnap vg-t/boot
mount /dev/vg-t/root /node
mkdir /node/boot /node/var
mount /dev/vg-t/boot /node/boot
mount /dev/vg-t/var /node/var
"#;

const CACHE_DISKS: &[u64] = &[200, 100, 100];

/// What is no cache's metadata where that is to be.
const NO_CACHE: Target = Target::Dirty(CACHE_DISKS, "head -c 100M /dev/urandom >/dev/ubdc");

const LVM_CACHE: &str = r#"
lvm vgcreate -s 1m vg /dev/ubdb /dev/ubdc /dev/ubdd
lvm lvcreate -y -n slow -L 40M vg /dev/ubdb
lvm lvcreate -y -n other -L 20M vg /dev/ubdb
lvm lvcreate -y --type cache --cachemode writethrough --chunksize 64k -L 24M -n fast vg/slow /dev/ubdc
lvm lvcreate -y --type raid1 -m 1 -n slow2 -L 40M vg /dev/ubdb /dev/ubdd
lvm lvcreate -y -n fast2 -L 16M vg /dev/ubdc
lvm lvconvert -y --type cache --cachevol fast2 --cachemode writeback --chunksize 128k --cachesettings migration_threshold=4096 vg/slow2
lvm lvcreate -y -n slow3 -L 40M vg /dev/ubdb
lvm lvcreate -y -n fast3 -L 16M vg /dev/ubdc
lvm lvchange -an vg/fast3
lvm lvconvert -y --type writecache --cachevol fast3 --cachesettings high_watermark=60 vg/slow3
mke2fs -q -t ext4 /dev/vg/slow
mke2fs -q -t ext4 /dev/vg/slow2
mke2fs -q -t ext4 -b 4096 /dev/vg/slow3
mount /dev/vg/slow /node
mkdir /node/2 /node/3
mount /dev/vg/slow2 /node/2
mount /dev/vg/slow3 /node/3
"#;

pub const LUKS2_LVM: Case = blank(
    "luks2_lvm",
    &[300],
    r#"
printf 'label: gpt\nsize=64M\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
mke2fs -q -t ext4 /dev/ubdb1
printf 'pass phrase' | cryptsetup luksFormat -q --type luks2 --label crypt --iter-time 50 --pbkdf-memory 32768 --key-file - /dev/ubdb2
printf 'pass phrase' | cryptsetup open --allow-discards --persistent --key-file - /dev/ubdb2 ubdb2_crypt
lvm pvcreate /dev/mapper/ubdb2_crypt
lvm vgcreate vg0 /dev/mapper/ubdb2_crypt
lvm lvcreate -y -n root -L 100M vg0
lvm lvcreate -y -n swap -L 32M vg0
mke2fs -q -t ext4 /dev/vg0/root
mkswap /dev/vg0/swap
mount /dev/vg0/root /node
mkdir /node/boot
mount /dev/ubdb1 /node/boot
swapon /dev/vg0/swap
"#,
);

/// LUKS is on partitions here: the kernel of user-mode Linux takes one in 256 random first sectors
/// for a partition table of Acorn's.
pub fn encrypted() -> Vec<Case> {
    vec![
        LUKS2_LVM,
        blank(
            "luks1_and_2_on_md_and_lv",
            &[200, 200, 200],
            r#"
printf 'label: gpt\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
printf 'pass phrase' | cryptsetup luksFormat -q --type luks1 --hash sha512 --cipher aes-cbc-essiv:sha256 --key-size 256 --pbkdf-force-iterations 100000 --key-file - /dev/ubdb1
printf 'pass phrase' | cryptsetup open --key-file - /dev/ubdb1 disk
mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --homehost=node001 --name=0 /dev/ubdc /dev/ubdd
printf 'pass phrase' | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 100000 --sector-size 4096 --offset 16384 --key-file - /dev/md0
printf 'pass phrase' | cryptsetup open --key-file - /dev/md0 on-md
lvm pvcreate /dev/mapper/on-md
lvm vgcreate vg /dev/mapper/on-md
lvm lvcreate -y -n inner -L 80M vg
lvm lvcreate -y -n plain -L 30M vg
printf 'pass phrase' | cryptsetup luksFormat -q --type luks2 --pbkdf argon2i --iter-time 50 --pbkdf-memory 32768 --luks2-keyslots-size 8m --key-file - /dev/vg/inner
printf 'pass phrase' | cryptsetup open --key-file - /dev/vg/inner in-lv
mke2fs -q -t ext4 /dev/mapper/disk
mke2fs -q -t ext4 /dev/mapper/in-lv
mkswap /dev/vg/plain
mount /dev/mapper/disk /node
mkdir /node/data
mount /dev/mapper/in-lv /node/data
swapon /dev/vg/plain
mdadm --wait /dev/md0 || true
"#,
        ),
    ]
}
