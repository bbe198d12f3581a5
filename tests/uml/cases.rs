//! The stacks that are rebuilt; those with LVM and LUKS in [`volumes`], and in [`elsewhere`] those
//! that are rebuilt on other disks than they had.

use crate::{elsewhere, volumes};

/// A machine, and the disks that it is rebuilt on.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// Sizes in MiB of the disks `ubdb`, `ubdc` ...
    pub disks: &'static [u64],
    /// Builds it, and mounts it below `/node`.
    pub build: &'static str,
    pub target: Target,
    pub erase: &'static [&'static str],
    /// Lines with this are not compared.
    pub ignore: &'static str,
    pub expect: Expect,
}

/// The disks that it is rebuilt on.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Its own, as they are.
    Same,
    /// Its own, the last one in the place of the first.
    Swapped,
    Blank(&'static [u64]),
    /// Blank ones that are called `sda` ...: with sectors of so many bytes, how many, of how many MiB.
    Scsi(u64, u64, u64),
    /// Others, on which the script has left something.
    Dirty(&'static [u64], &'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Same,
    /// On other disks: what the plan says, with all identities as they were, and each size "smaller"
    /// or "larger".
    Resized(&'static str),
    /// With sectors of 4096 bytes: all identities as they were.
    Sectors,
    /// Without this disk.
    Without(&'static str),
    /// All on one disk: what is called by the first name then was called by the second one.
    Joined(&'static [(&'static str, &'static str)]),
    Refused(&'static str),
}

/// Rebuilt on blank disks of the same sizes.
pub const fn blank(name: &'static str, disks: &'static [u64], build: &'static str) -> Case {
    let target = Target::Blank(disks);
    Case { name, disks, build, target, erase: &[], ignore: "\0", expect: Expect::Same }
}

pub const fn on(case: Case, name: &'static str, target: Target) -> Case {
    Case { name, target, ..case }
}

pub const GPT_EXT4: Case = blank(
    "gpt_ext4",
    &[200],
    r#"
sfdisk /dev/ubdb <<'END'
label: gpt
label-id: 11111111-2222-4333-8444-555555555555
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name="bios \x22boot\x22"
size=200000, type=L, uuid=AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE, name="Wurzel ☃", attrs="LegacyBIOSBootable GUID:63"
size=100000, type=L
END
udevadm settle
mke2fs -q -t ext4 -L root /dev/ubdb2
mke2fs -q -t ext4 -O ^metadata_csum,^64bit -m 1 -N 4000 -E stride=4,stripe_width=8 /dev/ubdb3
tune2fs -c 30 -i 5d -e remount-ro -o journal_data_writeback /dev/ubdb3
mount /dev/ubdb2 /node
mkdir /node/home
mount /dev/ubdb3 /node/home
"#,
);

pub const MD1_LVM: Case = blank(
    "md1_boot_md1_lvm",
    &[400, 400],
    r#"
for disk in ubdb ubdc; do sfdisk /dev/$disk <<'END'
label: gpt
size=2048, type=21686148-6449-6E6F-744E-656564454649
size=100M, type=A19D880F-05FC-4D3B-A006-743F0F84911E
type=A19D880F-05FC-4D3B-A006-743F0F84911E
END
done
udevadm settle
mdadm --create /dev/md0 --run --metadata=1.0 --level=1 --raid-devices=2 --homehost=node001 --name=boot /dev/ubdb2 /dev/ubdc2
mdadm --create /dev/md1 --run --level=1 --raid-devices=2 --bitmap=internal --homehost=node001 --name=1 /dev/ubdb3 /dev/ubdc3
lvm pvcreate /dev/md1
lvm vgcreate --addtag node vg0 /dev/md1
lvm lvcreate -y -n root -L 120M vg0
lvm lvcreate -y -n swap -L 64M vg0
lvm lvextend -l +5 vg0/root
mke2fs -q -t ext3 /dev/md0
mke2fs -q -t ext4 -L root /dev/vg0/root
mkswap -L swapspace /dev/vg0/swap
mount /dev/vg0/root /node
mkdir /node/boot
mount /dev/md0 /node/boot
swapon /dev/vg0/swap
mdadm --wait /dev/md0 /dev/md1 || true
"#,
);

pub const LVM_TWO: Case = blank(
    "lvm_two_pvs_striped",
    &[200, 200],
    r#"
printf 'label: gpt\ntype=lvm\n' | sfdisk /dev/ubdb
udevadm settle
lvm pvcreate --dataalignment 4m /dev/ubdb1
lvm pvcreate /dev/ubdc
lvm vgcreate -s 2m "vg-a" /dev/ubdb1 /dev/ubdc
lvm lvcreate -y -n linear -L 90M vg-a
lvm lvcreate -y -n striped -i 2 -I 64k -L 100M vg-a
lvm lvextend -l +20 vg-a/linear
mke2fs -q -t ext4 /dev/vg-a/linear
mke2fs -q -t ext2 /dev/vg-a/striped
mount /dev/vg-a/linear /node
mkdir /node/data
mount /dev/vg-a/striped /node/data
"#,
);

/// An array over disks ubdb ... with one ext4 on it.
macro_rules! md {
    ($name:literal, $disks:expr, $args:literal) => {
        blank(
            $name,
            $disks,
            concat!(
                "for disk in /dev/ubd[b-z]; do printf 'label: gpt\\ntype=raid\\n' | sfdisk $disk; done\n",
                "udevadm settle\n",
                "mdadm --create /dev/md7 --run --homehost=node001 --name=data ", $args, "\n",
                "mke2fs -q -t ext4 /dev/md7\n",
                "mount /dev/md7 /node\n",
                "mdadm --wait /dev/md7 || true\n",
            ),
        )
    };
}

pub const MBR: Case = blank(
    "mbr_logicals",
    &[400],
    r#"
sfdisk /dev/ubdb <<'END'
label: dos
label-id: 0xdeadbeef
/dev/ubdb1 : start=2048, size=60000, type=83, bootable
/dev/ubdb2 : start=70000, size=600000, type=f
/dev/ubdb3 : start=700000, size=40000, type=82
/dev/ubdb5 : start=72048, size=100000, type=83
/dev/ubdb6 : start=180000, size=100000, type=83
/dev/ubdb7 : start=300000, size=80000, type=c
END
udevadm settle
mke2fs -q -t ext4 /dev/ubdb1
mke2fs -q -t ext2 -b 1024 -I 128 /dev/ubdb5
mke2fs -q -t ext3 /dev/ubdb6
mkfs.vfat -n "DATA" /dev/ubdb7
mkswap /dev/ubdb3
mount /dev/ubdb1 /node
mkdir /node/a /node/b /node/c
mount /dev/ubdb5 /node/a
mount /dev/ubdb6 /node/b
mount /dev/ubdb7 /node/c
swapon /dev/ubdb3
"#,
);

/// As programs of the last century made them.
pub const MBR_TRACKS: Case = blank(
    "mbr_tracks",
    &[100],
    r#"
sfdisk /dev/ubdb <<'END'
label: dos
grain: 512
/dev/ubdb1 : start=63, size=16002, type=7, bootable
/dev/ubdb2 : start=16065, size=160650, type=5
/dev/ubdb3 : start=176715, size=16065, type=da
/dev/ubdb5 : start=16128, size=80262, type=83
END
udevadm settle
mke2fs -q /dev/ubdb5
mount /dev/ubdb5 /node
"#,
);

pub fn all() -> Vec<Case> {
    let mut cases = vec![GPT_EXT4, MD1_LVM, LVM_TWO, MBR, MBR_TRACKS];
    cases.extend(filesystems());
    cases.extend(volumes::volumes());
    cases.extend(volumes::encrypted());
    cases.extend(arrays());
    cases.extend(elsewhere::elsewhere());
    cases
}

const BTRFS_SNAPPER: &str = r#"
printf 'label: gpt\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
mkfs.btrfs -q /dev/ubdb1
mount /dev/ubdb1 /mnt
btrfs subvolume create /mnt/@
btrfs subvolume create /mnt/@/var
btrfs subvolume create "/mnt/@/with blank"
btrfs subvolume create /mnt/@/.snapshots
mkdir /mnt/@/.snapshots/1
btrfs subvolume create /mnt/@/.snapshots/1/snapshot
mkdir /mnt/@/.snapshots/1/snapshot/var /mnt/@/.snapshots/1/snapshot/.snapshots
# NOT protected: btrfs snapshots @/.snapshots/2
btrfs subvolume snapshot -r /mnt/@/var /mnt/@/.snapshots/2
# NOT protected: the quota groups of the btrfs on /dev/ubdb1
btrfs quota enable /mnt
btrfs subvolume set-default /mnt/@/.snapshots/1/snapshot
umount /mnt
mount /dev/ubdb1 /node
mount -o subvol=@/var /dev/ubdb1 /node/var
mount -o subvol=@/.snapshots /dev/ubdb1 /node/.snapshots
"#;

pub const XFS_GROWN: Case = blank(
    "xfs_grown_f2fs",
    &[1200],
    r#"
lvm pvcreate /dev/ubdb
lvm vgcreate vg /dev/ubdb
lvm lvcreate -y -n root -L 400M vg
mkfs.xfs -q /dev/vg/root
lvm lvcreate -y -n f2 -L 300M vg
mkfs.f2fs -q -l "zwei Wörter" -O extra_attr,project_quota,inode_checksum,flexible_inline_xattr,quota,inode_crtime,verity,sb_checksum,compression -i -w 4096 /dev/vg/f2 70000
mount /dev/vg/root /node
lvm lvextend -L 724M vg/root
xfs_growfs /node
mkdir /node/f
mount /dev/vg/f2 /node/f
"#,
);

fn filesystems() -> Vec<Case> {
    vec![
        blank(
            "gpt_slots_with_gaps_esp_hybrid",
            &[300],
            r#"
sfdisk /dev/ubdb <<'END'
label: gpt
first-lba: 34
table-length: 128
/dev/ubdb1 : start=300000, size=200000, type=L
/dev/ubdb14 : start=34, size=2000, type=21686148-6449-6E6F-744E-656564454649
/dev/ubdb15 : start=4096, size=140000, type=U, name="EFI system"
END
udevadm settle
# A hybrid MBR, which shows two of them.
sfdisk --label-nested dos --force --no-reread /dev/ubdb <<'END'
label: dos
label-id: 0xcafe1234
unit: sectors
/dev/ubdb1 : start=1, size=4095, type=ee
/dev/ubdb2 : start=300000, size=200000, type=83, bootable
/dev/ubdb4 : start=4096, size=140000, type=c
END
udevadm settle
mke2fs -q -t ext4 -b 1024 /dev/ubdb1
mkfs.vfat -F 32 -n ESP -i 12345678 /dev/ubdb15
mount /dev/ubdb1 /node
mkdir -p /node/boot/efi
mount /dev/ubdb15 /node/boot/efi
"#,
        ),
        blank(
            "xfs",
            &[800, 400, 500],
            r#"
printf 'label: gpt\nsize=400M\ntype=linux\n' | sfdisk /dev/ubdb
printf 'label: gpt\nsize=100M\ntype=linux\n' | sfdisk /dev/ubdd
udevadm settle
mkfs.xfs -q -L system /dev/ubdb1
mkfs.xfs -q -m rmapbt=1,reflink=0,bigtime=0 -i size=1024 -d agcount=6 -n size=8192 /dev/ubdb2
mkfs.xfs -q -d agcount=2,sunit=128,swidth=512 -l size=64m /dev/ubdc
mkfs.xfs -q -l logdev=/dev/ubdd1,size=70m /dev/ubdd2
mount /dev/ubdb1 /node
mkdir /node/a /node/b /node/c
mount /dev/ubdb2 /node/a
mount /dev/ubdc /node/b
mount -o logdev=/dev/ubdd1 /dev/ubdd2 /node/c
"#,
        ),
        blank(
            "xfs_made_no_more",
            &[800],
            r#"
printf 'label: gpt\nsize=200M\nsize=100M\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
mkfs.xfs -q --unsupported -L boot /dev/ubdb1
mkfs.xfs -q --unsupported -d agcount=1 -l size=8m /dev/ubdb2
mkfs.xfs -q --unsupported -l size=10m /dev/ubdb3
mount /dev/ubdb3 /node
mkdir /node/boot /node/a
mount /dev/ubdb1 /node/boot
mount /dev/ubdb2 /node/a
"#,
        ),
        XFS_GROWN,
        blank(
            "xfs_and_its_clone",
            &[400, 400],
            r#"
for disk in ubdb ubdc; do
    printf 'label: gpt\ntype=linux\n' | sfdisk /dev/$disk
    udevadm settle
    mkfs.xfs -q -m uuid=5f0d1e0c-77aa-4a3f-9d6e-0a7b2f6f0003 /dev/${disk}1
done
mount /dev/ubdb1 /node
mkdir /node/old
mount -o nouuid /dev/ubdc1 /node/old
"#,
        ),
        blank(
            "ext_whole_disk_and_grown",
            &[100, 300],
            r#"
mke2fs -q -t ext4 -O inline_data,ea_inode -I 512 /dev/ubdb
printf 'label: gpt\ntype=linux\n' | sfdisk /dev/ubdc
udevadm settle
mke2fs -q -t ext4 -J size=8 /dev/ubdc1 100M
resize2fs /dev/ubdc1
mount /dev/ubdb /node
mkdir /node/a
mount /dev/ubdc1 /node/a
"#,
        ),
        blank(
            "ext_features",
            &[400],
            r#"
printf 'label: gpt\nsize=100M\nsize=100M\nsize=64M\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
mke2fs -q -t ext4 -O project,large_dir,metadata_csum_seed /dev/ubdb1
mke2fs -q -t ext4 -O meta_bg,^resize_inode,uninit_bg,^metadata_csum /dev/ubdb2
mke2fs -q -t ext4 -O sparse_super2,^has_journal,dir_nlink -G 4 -m 0 /dev/ubdb3
mke2fs -q -t ext3 -O dir_index -E hash_seed=11111111-2222-4333-8444-555555555555 -L "two words" /dev/ubdb4
tune2fs -o acl,nobarrier /dev/ubdb2
mount /dev/ubdb1 /node
mkdir /node/a /node/b /node/c
mount /dev/ubdb2 /node/a
mount /dev/ubdb3 /node/b
mount /dev/ubdb4 /node/c
"#,
        ),
        // What dm-integrity is on does not come back.
        Case {
            ignore: "/dev/ubdb3 ",
            ..blank(
                "several_mount_points",
                &[300],
                r#"
printf 'label: gpt\nsize=100M\nsize=160M\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
# NOT protected: /dev/ubdb3: DM_integrity is not supported yet
integritysetup format --batch-mode /dev/ubdb3
mke2fs -q -t ext4 /dev/ubdb1
mkfs.btrfs -q --mixed /dev/ubdb2
mount /dev/ubdb1 /node
mkdir -p /node/data /node/again /node/bound /node/top /node/srv/deep
mount /dev/ubdb2 /node/top
btrfs subvolume create /node/top/data
mount -o subvol=data,noatime,nodev /dev/ubdb2 /node/data
mount -o subvol=data /dev/ubdb2 /node/again
mount --bind /node/srv /node/bound
"#,
            )
        },
        blank(
            "btrfs_ubuntu",
            &[700],
            r#"
printf 'label: gpt\nsize=2048,type=21686148-6449-6E6F-744E-656564454649\nsize=400M\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
mkfs.btrfs -q -L root /dev/ubdb2
mkfs.btrfs -q --mixed -O ^no-holes -R ^free-space-tree --checksum xxhash -n 4096 /dev/ubdb3
mount /dev/ubdb2 /mnt
btrfs subvolume create /mnt/@
btrfs subvolume create /mnt/@home
umount /mnt
mount -o subvol=@,compress=zstd:1 /dev/ubdb2 /node
mkdir -p /node/home /node/srv /node/var/lib
mount -o subvol=@home /dev/ubdb2 /node/home
mount /dev/ubdb3 /node/srv
btrfs subvolume create /node/var/lib/ports
"#,
        ),
        // Snapshots do not come back.
        Case {
            ignore: ".snapshots/2",
            ..blank("btrfs_snapper_default_subvolume", &[400], BTRFS_SNAPPER)
        },
        blank(
            "btrfs_raid1_two_disks",
            &[300, 300],
            r#"
mkfs.btrfs -q -L pool -d raid1 -m raid1 /dev/ubdb /dev/ubdc
mount /dev/ubdc /node
btrfs subvolume create /node/a
"#,
        ),
        blank(
            "btrfs_raid10_on_partitions",
            &[200, 200, 200, 200],
            r#"
for disk in /dev/ubd[bcde]; do printf 'label: gpt\ntype=linux\n' | sfdisk $disk; done
udevadm settle
mkfs.btrfs -q -d raid0 -m raid10 /dev/ubd[bcde]1
mount /dev/ubdb1 /node
"#,
        ),
        blank(
            "vfat_kinds",
            &[300],
            r#"
printf 'label: gpt\nsize=8M\nsize=64M\nsize=100M\ntype=linux\n' | sfdisk /dev/ubdb
udevadm settle
mkfs.vfat -F 12 /dev/ubdb1
mkfs.vfat -F 16 -s 8 -n SIXTEEN /dev/ubdb2
mkfs.vfat -F 32 -s 1 -R 38 -f 1 -a /dev/ubdb3
mke2fs -q -t ext4 /dev/ubdb4
mount /dev/ubdb4 /node
mkdir /node/a /node/b /node/c
mount /dev/ubdb1 /node/a
mount /dev/ubdb2 /node/b
mount /dev/ubdb3 /node/c
"#,
        ),
    ]
}

fn arrays() -> Vec<Case> {
    vec![
        md!("md0", &[100, 120], "--level=0 --chunk=64 --raid-devices=2 /dev/ubd[bc]1"),
        md!("md1_090", &[100, 100], "--metadata=0.90 --level=1 --raid-devices=2 /dev/ubd[bc]1"),
        md!(
            "md1_11_no_bitmap",
            &[100, 100],
            "--metadata=1.1 --bitmap=none --level=1 --raid-devices=2 /dev/ubd[bc]1"
        ),
        md!(
            "md5_spare",
            &[100, 100, 100, 100],
            "--level=5 --layout=right-asymmetric --raid-devices=3 --spare-devices=1 /dev/ubd[bcde]1"
        ),
        md!("md6", &[100, 100, 100, 100], "--level=6 --chunk=128 --raid-devices=4 /dev/ubd[bcde]1"),
        md!(
            "md10_far",
            &[100, 100, 100],
            "--level=10 --layout=f2 --data-offset=4M --raid-devices=3 /dev/ubd[bcd]1"
        ),
        md!(
            "md10_degraded",
            &[100, 100],
            "--level=10 --raid-devices=3 /dev/ubdb1 missing /dev/ubdc1"
        ),
        blank(
            "md0_of_md1",
            &[100, 100, 100, 100],
            r#"
for disk in /dev/ubd[b-e]; do printf 'label: gpt\ntype=raid\n' | sfdisk $disk; done
udevadm settle
mdadm --create /dev/md1 --run --level=1 --raid-devices=2 --homehost=node001 --name=1 /dev/ubd[bc]1
mdadm --create /dev/md2 --run --level=1 --raid-devices=2 --homehost=node001 --name=2 /dev/ubd[de]1
mdadm --create /dev/md3 --run --level=0 --raid-devices=2 --homehost=node001 --name=3 /dev/md1 /dev/md2
mke2fs -q -t ext4 /dev/md3
mount /dev/md3 /node
mdadm --wait /dev/md1 /dev/md2 || true
"#,
        ),
        md!("md_linear", &[100, 120], "--level=linear --raid-devices=2 /dev/ubd[bc]1"),
        blank(
            "esp_on_md1_10_and_degraded_root",
            &[200, 200],
            r#"
for disk in ubdb ubdc; do sfdisk /dev/$disk <<'END'
label: gpt
table-length: 256
/dev/ubdb1 : start=2048, size=140000, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI\u00a0système", attrs="RequiredPartition GUID:62"
/dev/ubdb200 : size=100000, type=A19D880F-05FC-4D3B-A006-743F0F84911E
END
done
udevadm settle
mdadm --create /dev/md0 --run --metadata=1.0 --level=1 --raid-devices=2 --homehost=any --name=esp /dev/ubdb1 /dev/ubdc1
mdadm --create /dev/md1 --run --level=1 --raid-devices=2 --bitmap=internal --homehost=node001 --name=root /dev/ubdb200 missing
mkfs.vfat -F 32 -n ESP /dev/md0
mke2fs -q -t ext4 /dev/md1
mke2fs -q -t ext4 /dev/ubdc200
mount /dev/md1 /node
mkdir -p /node/boot/efi /node/srv
mount /dev/md0 /node/boot/efi
mount /dev/ubdc200 /node/srv
mdadm --wait /dev/md0 || true
"#,
        ),
        blank(
            "md1_whole_disks_mbr",
            &[200, 200],
            r#"
mdadm --create /dev/md5 --run --metadata=0.90 --level=1 --raid-devices=2 /dev/ubdb /dev/ubdc
printf 'label: dos\nlabel-id: 0x12345678\nstart=2048,size=60M,type=83,bootable\nsize=40M,type=82\ntype=83\n' | sfdisk /dev/md5
udevadm settle
mke2fs -q -t ext4 /dev/md5p1
mkswap /dev/md5p2
mke2fs -q -t ext2 /dev/md5p3
mount /dev/md5p1 /node
mkdir /node/home
mount /dev/md5p3 /node/home
swapon /dev/md5p2
mdadm --wait /dev/md5 || true
"#,
        ),
        blank(
            "md1_whole_disks_partitioned",
            &[200, 200],
            r#"
mdadm --create /dev/md126 --run --level=1 --raid-devices=2 --homehost=any --name=os /dev/ubdb /dev/ubdc
printf 'label: gpt\nsize=100M\ntype=linux\n' | sfdisk /dev/md126
udevadm settle
mke2fs -q -t ext4 /dev/md126p1
mke2fs -q -t ext4 /dev/md126p2
mount /dev/md126p1 /node
mkdir /node/home
mount /dev/md126p2 /node/home
mdadm --wait /dev/md126 || true
"#,
        ),
    ]
}
