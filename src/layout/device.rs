//! Disks and what divides and joins them: partitions, md arrays, volume groups.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Id;

/// A whole disk (or what looks like one to the kernel: a hardware RAID volume, a virtual disk).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    pub id: Id,
    /// The kernel's name without `/dev/`: `sda`, `nvme0n1`, `vda`.
    pub name: String,
    pub size_bytes: u64,
    /// Logical sector size: 512 or 4096.
    pub sector_bytes: u32,
    #[serde(default)]
    pub physical_sector_bytes: u32,
    /// World wide name, as udev's `ID_WWN_WITH_EXTENSION` (`ID_WWN` where that is missing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// As udev's `ID_SERIAL_SHORT`, or sysfs where there is no udev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// As udev's `ID_PATH`: where the disk is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(default)]
    pub rotational: bool,
    #[serde(default)]
    pub removable: bool,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// What libblkid finds on the bare disk (`gpt`, `dos`, `LVM2_member`, `ext4` ...), and of an
    /// unused disk what its partitions hold and no object here tells. Empty: the disk is blank.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<String>,
    /// Nothing that the node mounts, swaps to or boots from is on it. Such a disk is recorded and
    /// neither recreated nor touched by a recovery.
    #[serde(default)]
    pub unused: bool,
}

impl Disk {
    /// `/dev/NAME`.
    pub fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

/// A partition table's own identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Table {
    /// UEFI specification 2.10, section 5.3.
    Gpt {
        guid: Uuid,
        /// Size of the partition entry array; 128 unless somebody chose otherwise.
        entries: u32,
        first_usable_lba: u64,
        last_usable_lba: u64,
        /// Where the MBR before it shows partitions, and does not only protect them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hybrid: Option<Box<HybridMbr>>,
    },
    Mbr {
        /// The disk signature at byte 440.
        signature: u32,
    },
}

/// An MBR that shows partitions of a GPT to systems that know none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HybridMbr {
    /// The disk signature at byte 440.
    #[serde(default)]
    pub signature: u32,
    pub entry: Vec<HybridEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HybridEntry {
    /// 1 to 4.
    pub slot: u32,
    /// The type byte as `0x83`; `0xee` protects what no entry shows.
    #[serde(rename = "type")]
    pub type_code: String,
    #[serde(default)]
    pub active: bool,
    /// The number of the partition that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    pub start_bytes: u64,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionKind {
    Gpt,
    Primary,
    Extended,
    Logical,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    pub id: Id,
    pub disk: Id,
    /// The slot in the table; logical partitions count from 5.
    pub number: u32,
    /// The kernel's name without `/dev/`: `sda1`, `nvme0n1p1`.
    pub name: String,
    pub kind: PartitionKind,
    pub start_bytes: u64,
    pub size_bytes: u64,
    /// GPT: the type GUID, lower case. MBR: the type byte as `0x83`.
    #[serde(rename = "type")]
    pub type_code: String,
    /// GPT: the unique partition GUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// GPT: the partition's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// GPT: the attribute bits.
    #[serde(default)]
    pub attributes: u64,
    /// MBR: the active flag.
    #[serde(default)]
    pub active: bool,
    /// Logical partitions: where the EBR that describes it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebr_bytes: Option<u64>,
}

impl Partition {
    /// `/dev/NAME`.
    pub fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

/// The kernel's name of a partition, by the kernel's rule: a `p` between two digits.
pub fn partition_name(disk: &str, number: u32) -> String {
    let p = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{p}{number}")
}

/// A Linux software RAID array, see md(4) and mdadm(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Md {
    pub id: Id,
    /// The kernel's name without `/dev/`: `md0`, `md127`.
    pub name: String,
    /// `raid0`, `raid1`, `raid4`, `raid5`, `raid6`, `raid10`, `linear`.
    pub level: String,
    /// Superblock version: `0.90`, `1.0`, `1.1`, `1.2`.
    pub metadata: String,
    /// As mdadm prints it: `6d4c5a1e:...` in four groups.
    pub uuid: String,
    /// The name in a version 1 superblock, with its homehost: `node001:0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_name: Option<String>,
    /// Size of the array that stands on the members.
    pub size_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_bytes: Option<u64>,
    /// `left-symmetric`, `near=2` ... as mdadm's `--layout` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// `internal` or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitmap: Option<String>,
    /// How many active members a whole array has.
    pub raid_devices: u32,
    /// Where data starts on a member (version 1 superblocks).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_offset_bytes: Option<u64>,
    /// What is used of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_size_bytes: Option<u64>,
    pub member: Vec<MdMember>,
    /// Partitions on the array itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
}

impl Md {
    /// `/dev/NAME`.
    pub fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdMember {
    pub on: Id,
    /// The place in the array; none for a spare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

/// A LUKS volume, see cryptsetup(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Luks {
    pub id: Id,
    pub on: Id,
    /// The name that it is open by, in `/dev/mapper`. Empty: it is not open.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// 1 or 2.
    pub version: u32,
    pub uuid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subsystem: String,
    /// As cryptsetup takes it: `aes-xts-plain64`.
    pub cipher: String,
    pub key_bits: u32,
    pub hash: String,
    pub sector_bytes: u32,
    /// Where the data starts on the device below.
    pub data_offset_bytes: u64,
    /// Size of the open volume; 0 where it is not open.
    #[serde(default)]
    pub size_bytes: u64,
    /// LUKS2: what the header's two areas take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyslots_bytes: Option<u64>,
    /// How the first key slot's key is made of the passphrase.
    pub pbkdf: Pbkdf,
    /// Key slots in use, and the kinds of tokens: one passphrase comes back, the others have to be
    /// enrolled again.
    pub keyslots: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<String>,
    /// LUKS2: options of every opening, kept in the header: `allow-discards`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

impl Luks {
    /// `/dev/mapper/NAME`.
    pub fn dev(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }
}

/// A function that makes guessing slow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Pbkdf {
    /// `pbkdf2`, `argon2i`, `argon2id`.
    pub kind: String,
    /// Iterations, or argon2's cost in time.
    pub iterations: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
}

impl Pbkdf {
    /// With fewer rounds of pbkdf2 than this a passphrase is soon guessed: they are those of a random key.
    pub const LEAST_ROUNDS: u64 = 100_000;

    /// Whether this is too quick for a passphrase.
    pub fn is_weak(&self) -> bool {
        self.kind == "pbkdf2" && self.iterations < Pbkdf::LEAST_ROUNDS
    }
}

/// An LVM volume group, see lvm(8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vg {
    pub id: Id,
    pub name: String,
    pub uuid: String,
    pub extent_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    pub pv: Vec<Pv>,
    /// The text of `vgcfgbackup`: recreates the group to the last identity where every PV fits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// An LVM physical volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pv {
    pub on: Id,
    pub uuid: String,
    /// Size of the device below.
    pub size_bytes: u64,
    /// Where the first extent starts.
    pub pe_start_bytes: u64,
    pub extents: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// An LVM logical volume that users see (not the hidden parts of one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lv {
    pub id: Id,
    pub vg: Id,
    pub name: String,
    pub uuid: String,
    pub size_bytes: u64,
    /// The segment type: `linear`, `striped`, `raid1`, `thin-pool`, `thin` ...
    pub kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segment: Vec<LvSegment>,
    /// Thin volumes: the name of their pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pool: String,
    /// Snapshots: the name of the volume that they are of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thin_pool: Option<ThinPool>,
}

/// What is particular to a thin pool, see lvmthin(7). Its segments are those of its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThinPool {
    pub metadata_bytes: u64,
    pub chunk_bytes: u64,
    /// `passdown`, `nopassdown`, `ignore`.
    pub discards: String,
    /// New blocks are zeroed.
    pub zero: bool,
    /// The group holds room to repair the metadata in.
    #[serde(default)]
    pub spare: bool,
}

impl Lv {
    /// A copy of another volume as it once was.
    pub fn is_snapshot(&self) -> bool {
        self.kind == "snapshot" || !self.origin.is_empty()
    }
}

impl Lv {
    /// `/dev/VG/LV`.
    pub fn dev(&self, vg_name: &str) -> String {
        format!("/dev/{vg_name}/{}", self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LvSegment {
    pub kind: String,
    pub extents: u64,
    #[serde(default)]
    pub stripes: u32,
    #[serde(default)]
    pub stripe_bytes: u64,
    /// `pv-device:first-last` extents as `lvs -o seg_pe_ranges` prints them, device as an [`Id`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
}
