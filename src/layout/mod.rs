//! What the machine is: disks, what is stacked on them, what is mounted where, and how it boots.
//!
//! Pure data with no I/O. A *device* (disk, partition, md array, logical volume) and the *content*
//! on it (filesystem, swap, membership of an array or volume group) are two things: content names
//! the device it is `on` by that device's [`Id`].
//!
//! The same type describes the machine as it was (`layout.toml` of a generation) and the machine
//! that is here now (what [`crate::probe`] reads in the rescue system), so that a plan is a
//! function of two layouts.
//!
//! * [`device`] disks, partitions, md arrays, volume groups
//! * [`content`] filesystems and swap, [`btrfs`] what only that one has
//! * [`mount`] where filesystems are mounted
//! * [`boot`] firmware and boot loader
//! * [`net`] network interfaces
//! * [`graph`] who sits on whom
//! * [`show`] a layout as a tree for people; [`diff`] where two layouts differ
//! * [`schema`] reading and writing `layout.toml`, versions
//! * [`units`] sizes as people read them

pub mod boot;
pub mod btrfs;
pub mod content;
pub mod device;
pub mod diff;
pub mod graph;
pub mod mount;
pub mod net;
pub mod schema;
pub mod show;
pub mod units;

use serde::{Deserialize, Serialize};

pub use boot::{Boot, EfiEntry, Firmware};
pub use btrfs::{BtrfsDevice, BtrfsOptions, Subvolume};
pub use content::{ExtOptions, F2fsOptions, Fs, Swap, VfatOptions, XfsOptions};
pub use device::{
    Disk, HybridEntry, HybridMbr, Luks, Lv, LvSegment, Md, MdMember, Partition, PartitionKind,
    Pbkdf, Pv, Table, ThinPool, Vg, partition_name,
};
pub use diff::differences;
pub use mount::{BytesPath, Mount};
pub use net::{Link, LinkKind, Net, Nic, Route};
pub use show::render_tree;

/// The version of `layout.toml` that this program writes.
pub const VERSION: u32 = 1;

/// Ties the parts of a layout together: `disk:sda`, `part:sda1`, `md:md0`, `vg:vg0`, `lv:vg0/root`,
/// `fs:...`. The text is for people; only equality means something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Id(pub String);

impl Id {
    pub fn disk(name: &str) -> Id {
        Id(format!("disk:{name}"))
    }
    pub fn partition(name: &str) -> Id {
        Id(format!("part:{name}"))
    }
    pub fn md(name: &str) -> Id {
        Id(format!("md:{name}"))
    }
    pub fn vg(name: &str) -> Id {
        Id(format!("vg:{name}"))
    }
    pub fn lv(vg: &str, lv: &str) -> Id {
        Id(format!("lv:{vg}/{lv}"))
    }
    pub fn luks(name: &str) -> Id {
        Id(format!("luks:{name}"))
    }
    /// The content `kind` (`fs`, `swap`) on the device `on`.
    pub fn content(kind: &str, on: &Id) -> Id {
        Id(format!("{kind}:{}", on.0))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// See [`VERSION`].
    pub version: u32,
    pub node: Node,
    pub boot: Boot,
    #[serde(default)]
    pub net: Net,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<Disk>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<Partition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub md: Vec<Md>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub luks: Vec<Luks>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vg: Vec<Vg>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lv: Vec<Lv>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fs: Vec<Fs>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swap: Vec<Swap>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount: Vec<Mount>,
    /// What is on the machine and would not come back, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unprotected: Vec<Unprotected>,
}

impl Layout {
    /// A machine of which nothing else is known.
    pub fn of(node: Node) -> Layout {
        Layout {
            version: VERSION,
            node,
            boot: Boot::default(),
            net: Net::default(),
            disk: Vec::new(),
            partition: Vec::new(),
            md: Vec::new(),
            luks: Vec::new(),
            vg: Vec::new(),
            lv: Vec::new(),
            fs: Vec::new(),
            swap: Vec::new(),
            mount: Vec::new(),
            unprotected: Vec::new(),
        }
    }
}

/// Which machine it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub hostname: String,
    /// As `uname -m` says.
    pub arch: String,
    /// As `uname -r` says: the kernel that ran when this was recorded.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release(5).
    #[serde(default)]
    pub os: String,
    /// DMI system vendor and product.
    #[serde(default)]
    pub vendor: String,
    #[serde(default)]
    pub product: String,
    /// RFC 3339, UTC.
    #[serde(default)]
    pub recorded: String,
}

/// Something that a recovery would not bring back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unprotected {
    /// A device, a mount point or a file.
    pub what: String,
    pub why: String,
}

impl Unprotected {
    /// What a reason begins with where nobody else has the files: a plan says it once more.
    pub const ERASED: &str = "erased by a recovery and NOT in the backup";

    /// Whether a recovery takes it from where it still is. The words are all that the file has of it.
    pub fn is_erased(&self) -> bool {
        self.why.starts_with(Self::ERASED)
    }

    /// Whether it is of this device: `/dev/sda1 (ext4)`.
    pub fn is_of(&self, device: &str) -> bool {
        self.what.split([' ', ',']).any(|word| word == device)
    }
}
