//! What is on a device: filesystems and swap.

use serde::{Deserialize, Serialize};

use super::{BtrfsOptions, Id};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fs {
    pub id: Id,
    pub on: Id,
    /// As blkid's `TYPE`: `ext4`, `xfs`, `vfat`.
    pub kind: String,
    /// As blkid prints it (vfat: `ABCD-1234`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// Size of the filesystem and what of it was in use.
    #[serde(default)]
    pub size_bytes: u64,
    #[serde(default)]
    pub used_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<ExtOptions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xfs: Option<XfsOptions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfat: Option<VfatOptions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub btrfs: Option<Box<BtrfsOptions>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f2fs: Option<Box<F2fsOptions>>,
}

/// What `dumpe2fs -h` tells and mke2fs(8) and tune2fs(8) take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ExtOptions {
    pub block_bytes: u64,
    pub blocks: u64,
    pub inode_bytes: u64,
    pub inodes: u64,
    pub features: Vec<String>,
    pub reserved_blocks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_width: Option<u64>,
    /// With the feature `bigalloc`: where it is not what mke2fs makes of the size of the blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_bytes: Option<u64>,
    /// Who may use the reserved blocks besides root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_uid: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved_gid: Option<u64>,
    /// Default mount options that are more than a flag (`tune2fs -E mount_opts=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_mount_options: Option<String>,
    /// How many block groups keep their metadata together, with the feature `flex_bg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flex_groups: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_seed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_options: Vec<String>,
    #[serde(default)]
    pub max_mount_count: i64,
    #[serde(default)]
    pub check_interval_seconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<String>,
}

/// What `xfs_info` tells and mkfs.xfs(8) takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct XfsOptions {
    pub block_bytes: u64,
    pub blocks: u64,
    pub inode_bytes: u64,
    pub sector_bytes: u64,
    pub agcount: u64,
    /// Not the size divided by `agcount` where the filesystem was grown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ag_blocks: Option<u64>,
    #[serde(default)]
    pub sunit_blocks: u64,
    #[serde(default)]
    pub swidth_blocks: u64,
    pub log_blocks: u64,
    /// The device that the log is on, where it is not within.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_on: Option<Id>,
    #[serde(default)]
    pub imaxpct: u64,
    #[serde(default)]
    pub dir_block_bytes: u64,
    /// The 0/1 flags by mkfs.xfs's names: `crc`, `finobt`, `sparse`, `rmapbt`, `reflink`,
    /// `bigtime`, `inobtcount`, `nrext64`, `ftype`, `lazy-count`, `attr`, `projid32bit` ...
    #[serde(default)]
    pub flags: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct VfatOptions {
    /// 12, 16 or 32.
    pub fat_bits: u32,
    pub cluster_bytes: u64,
    pub sector_bytes: u64,
    pub reserved_sectors: u64,
    pub fats: u32,
    /// Of FAT12 and FAT16: how many the root directory has, where mkfs.fat(8) makes
    /// another number by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_entries: Option<u64>,
}

/// What mkfs.f2fs(8) takes. Its sectors are those of its device. Left to mkfs.f2fs are what it keeps
/// free for itself (by the size), and which names of files mean much or little written data: hints
/// that the kernel may be told otherwise at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct F2fsOptions {
    pub blocks: u64,
    /// By mkfs.f2fs's names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// How it compares names regardless of case, where it can: `utf8`, `utf8:strict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub casefold: Option<String>,
    pub segments_per_section: u64,
    pub sections_per_zone: u64,
    /// With an extended bitmap of nodes.
    #[serde(default)]
    pub more_inodes: bool,
}

impl F2fsOptions {
    /// Of all that are made and read here. It is what mkfs.f2fs counts in (`-w`), too: sectors it would
    /// take from the device.
    pub const BLOCK_BYTES: u64 = 4096;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    pub id: Id,
    pub on: Id,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    #[serde(default)]
    pub size_bytes: u64,
}
