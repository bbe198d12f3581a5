//! Stacks that are rebuilt on other disks than they had: of other sizes, with other sectors, by other
//! names, with a stranger's data.

use crate::cases::{
    Case, Expect, GPT_EXT4, LVM_TWO, MBR, MBR_TRACKS, MD1_LVM, Target, XFS_GROWN, blank, on,
};
use crate::volumes::LUKS2_LVM;

const fn smaller(case: Case, name: &'static str, disks: &'static [u64]) -> Case {
    Case { expect: Expect::Resized("smaller"), ..on(case, name, Target::Blank(disks)) }
}

const fn larger(case: Case, name: &'static str, disks: &'static [u64]) -> Case {
    Case { expect: Expect::Resized("larger"), ..on(case, name, Target::Blank(disks)) }
}

const OTHER_LVM: &str = r#"
lvm pvcreate /dev/ubdb /dev/ubdc
lvm vgcreate vg0 /dev/ubdb /dev/ubdc
lvm lvcreate -y -n root -L 100M vg0
mke2fs -q /dev/vg0/root
mount /dev/vg0/root /mnt
"#;

const OTHER_MD: &str = r#"
for disk in ubdb ubdc; do printf 'label: gpt\nsize=2048\nsize=100M\ntype=raid\n' | sfdisk /dev/$disk; done
udevadm settle
mdadm --create /dev/md1 --run --level=1 --raid-devices=2 /dev/ubdb3 /dev/ubdc3
lvm pvcreate /dev/md1
lvm vgcreate vg0 /dev/md1
lvm lvcreate -y -n root -L 50M vg0
mkswap /dev/vg0/root
swapon /dev/vg0/root
"#;

/// What a stranger's machine may leave: an encrypted array with a group in it that is open, the labels
/// of a ZFS pool at both ends, and a GPT of which only the copy at the end is left.
const OTHER_NESTED: &str = r#"
printf 'label: gpt\nsize=64M,type=raid\nsize=64M,type=raid\nsize=10M\n' | sfdisk /dev/ubdb
udevadm settle
mdadm --create /dev/md5 --run --metadata=1.0 --level=1 --raid-devices=2 /dev/ubdb1 /dev/ubdb2
printf 'other' | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --iter-time 50 --key-file - /dev/md5
printf 'other' | cryptsetup open --key-file - /dev/md5 other
lvm vgcreate vg0 /dev/mapper/other
lvm lvcreate -y -n root -L 20M vg0
mke2fs -q /dev/vg0/root
mount /dev/vg0/root /mnt
# The first uberblock of a label, which begins with a magic number.
for at in 132096 $((199 * 1048576 + 655360)); do
    printf '\014\261\272\000\000\000\000\000' | dd of=/dev/ubdb bs=1 seek=$at conv=notrunc
done
dd if=/dev/zero of=/dev/ubdb bs=512 count=34 conv=notrunc
"#;

/// Where nothing but the last partition begins and ends at sectors of 4096 bytes.
const SMALL_SECTORS: Case = blank(
    "small_sectors",
    &[300, 300],
    r#"
for disk in ubdb ubdc; do sfdisk /dev/$disk <<'END'
label: gpt
first-lba: 34
start=34, size=2014, type=21686148-6449-6E6F-744E-656564454649
start=2048, size=140001, type=U, name="EFI system"
start=143360, size=61441, type=L
size=150000, type=A19D880F-05FC-4D3B-A006-743F0F84911E
size=100M, type=L
END
done
udevadm settle
mkfs.vfat -F 32 -s 1 -n ESP /dev/ubdb2
mke2fs -q -t ext2 -b 1024 -I 128 -E stride=16 /dev/ubdb3
mke2fs -q -t ext3 -b 2048 /dev/ubdc3
mdadm --create /dev/md1 --run --level=1 --raid-devices=2 --bitmap=internal --homehost=node001 --name=1 /dev/ubdb4 /dev/ubdc4
lvm vgcreate vg0 /dev/md1
lvm lvcreate -y -n root -L 60M vg0
mke2fs -q -t ext4 /dev/vg0/root
mkfs.xfs -q --unsupported -s size=512 -b size=1024 /dev/ubdb5
printf 'pass phrase' | cryptsetup luksFormat -q --type luks2 --sector-size 512 --pbkdf pbkdf2 --pbkdf-force-iterations 100000 --key-file - /dev/ubdc5
printf 'pass phrase' | cryptsetup open --key-file - /dev/ubdc5 crypt
mkfs.xfs -q --unsupported -s size=512 /dev/mapper/crypt
mount /dev/vg0/root /node
mkdir -p /node/a /node/b /node/c /node/d /node/efi
mount /dev/ubdb3 /node/a
mount /dev/ubdc3 /node/b
mount /dev/ubdb5 /node/c
mount /dev/mapper/crypt /node/d
mount /dev/ubdb2 /node/efi
mdadm --wait /dev/md1 || true
"#,
);

/// The system on a GPT, a second group on a whole disk, a third disk with an MBR.
const TWO_GROUPS: Case = blank(
    "two_groups",
    &[200, 160, 150],
    r#"
printf 'label: gpt\nsize=2048,type=21686148-6449-6E6F-744E-656564454649\ntype=lvm\n' | sfdisk /dev/ubdb
printf 'label: dos\nsize=60M,type=82\ntype=5\nsize=80M,type=83\n' | sfdisk /dev/ubdd
udevadm settle
lvm vgcreate vg0 /dev/ubdb2
lvm lvcreate -y -n root -L 100M vg0
lvm vgcreate --dataalignment 2m vg1 /dev/ubdc
lvm lvcreate -y -n srv -L 80M vg1
mke2fs -q -t ext4 -L root /dev/vg0/root
mke2fs -q -t ext4 -L srv /dev/vg1/srv
mke2fs -q -t ext4 -L old /dev/ubdd5
mkswap /dev/ubdd1
mount /dev/vg0/root /node
mkdir /node/srv /node/old
mount /dev/vg1/srv /node/srv
mount /dev/ubdd5 /node/old
swapon /dev/ubdd1
"#,
);

const BTRFS_TWO: Case = blank(
    "btrfs_two",
    &[1000, 600],
    r#"
printf 'label: gpt\nsize=598M,type=linux\ntype=linux\n' | sfdisk /dev/ubdb
printf 'label: gpt\ntype=linux\n' | sfdisk /dev/ubdc
udevadm settle
mkfs.btrfs -q -L pool -d raid1 -m raid1 /dev/ubdb1 /dev/ubdc1
mkfs.f2fs -q -l flash -O encrypt,lost_found -s 2 /dev/ubdb2
mount /dev/ubdb1 /node
btrfs subvolume create /node/a
mkdir /node/f
mount /dev/ubdb2 /node/f
"#,
);

pub fn elsewhere() -> Vec<Case> {
    let both = &["ubdb", "ubdc"];
    vec![
        on(GPT_EXT4, "same_disk", Target::Same),
        on(MD1_LVM, "swapped_disks_md1_lvm", Target::Swapped),
        // The second header moves to the end.
        Case { ignore: "last-lba", ..on(GPT_EXT4, "larger_disk", Target::Blank(&[300])) },
        Case { erase: both, ..on(MD1_LVM, "dirty_lvm", Target::Dirty(&[400, 400], OTHER_LVM)) },
        Case { erase: both, ..on(MD1_LVM, "dirty_md_lvm", Target::Dirty(&[400, 400], OTHER_MD)) },
        Case {
            expect: Expect::Refused("rr.erase=ubdb"),
            ..on(MD1_LVM, "stranger_refused", Target::Dirty(&[400, 400], OTHER_LVM))
        },
        Case {
            expect: Expect::Refused("too small"),
            ..on(GPT_EXT4, "small_disk_refused", Target::Blank(&[32]))
        },
        smaller(GPT_EXT4, "smaller_gpt_ext4", &[130]),
        smaller(MD1_LVM, "smaller_md1_lvm", &[260, 260]),
        smaller(MBR, "smaller_mbr_logicals", &[340]),
        smaller(LVM_TWO, "smaller_lvm_two_pvs_striped", &[150, 170]),
        smaller(BTRFS_TWO, "smaller_btrfs_raid1_f2fs", &[750, 500]),
        Case {
            expect: Expect::Without("ubdc"),
            ..on(MD1_LVM, "one_disk_of_md1_lvm", Target::Blank(&[400]))
        },
        larger(GPT_EXT4, "larger_gpt_ext4", &[300]),
        larger(MD1_LVM, "larger_md1_lvm", &[520, 600]),
        larger(MBR, "larger_mbr_logicals", &[600]),
        Case {
            expect: Expect::Sectors,
            ..on(SMALL_SECTORS, "sectors_4k", Target::Scsi(4096, 2, 300))
        },
        Case {
            expect: Expect::Sectors,
            ..on(MBR, "sectors_4k_mbr_logicals", Target::Scsi(4096, 1, 400))
        },
        Case {
            expect: Expect::Refused("logical ones do not lie on such"),
            ..on(MBR_TRACKS, "sectors_4k_tracks_refused", Target::Scsi(4096, 1, 100))
        },
        Case {
            expect: Expect::Refused("--map ubdb="),
            ..on(MD1_LVM, "three_twins_refused", Target::Blank(&[400, 400, 400]))
        },
        on(GPT_EXT4, "renamed_gpt_ext4", Target::Scsi(512, 1, 200)),
        on(LVM_TWO, "renamed_lvm_two_pvs_striped", Target::Scsi(512, 2, 200)),
        Case { erase: both, ..on(GPT_EXT4, "dirty_nested", Target::Dirty(&[200], OTHER_NESTED)) },
        larger(XFS_GROWN, "larger_xfs_grown_f2fs", &[1500]),
        smaller(LUKS2_LVM, "smaller_luks2_lvm", &[260]),
        larger(LUKS2_LVM, "larger_luks2_lvm", &[400]),
        Case {
            expect: Expect::Joined(&[
                ("/dev/ubdb3", "/dev/ubdc"),
                ("/dev/ubdb4", "/dev/ubdd1"),
                ("/dev/ubdb5", "/dev/ubdd5"),
            ]),
            ..on(TWO_GROUPS, "two_groups_on_one_disk", Target::Blank(&[520]))
        },
    ]
}
