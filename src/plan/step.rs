//! The steps of a plan.

use serde::{Deserialize, Serialize};

use super::{fscmd, stackcmd};
use crate::layout::units::size;
use crate::layout::{BytesPath, Disk, Fs, Lv, Md, Partition, Swap, Table, Vg};

/// A command line; the first word is the program.
pub type Argv = Vec<String>;

/// One thing that is done. Everything a step needs is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    Release(Release),
    Wipe(Wipe),
    WriteTable(WriteTable),
    CreateMd(CreateMd),
    CreateVg(CreateVg),
    CreateLv(CreateLv),
    MakeFs(MakeFs),
    MakeSwap(MakeSwap),
    Mount(MountFs),
}

/// Takes down what stands on the disks to erase: mounts, swap, volume groups, arrays. The lists are
/// what the machine showed when the plan was made; whatever else holds a disk is found when the
/// step is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The disks' names.
    pub disks: Vec<String>,
    /// Deepest first.
    pub mounts: Vec<BytesPath>,
    pub swaps: Vec<String>,
    pub vgs: Vec<String>,
    pub mds: Vec<String>,
}

/// Erases every signature on a disk and its partitions, and where the new partitions will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wipe {
    /// The disk as it was when the plan was made; checked again before it is erased.
    pub disk: Disk,
    /// The partitions that are on it now, by name.
    pub partitions: Vec<String>,
    /// Start and size of what will be there.
    pub areas: Vec<(u64, u64)>,
}

/// Writes a partition table, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriteTable {
    /// The disk's or array's name.
    pub name: String,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    pub table: Table,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateMd {
    pub md: Md,
    /// `/dev/...` or `missing`, by slot.
    pub members: Vec<String>,
    pub spares: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateVg {
    pub vg: Vg,
    /// The devices of `vg.pv`, in that order.
    pub devices: Vec<String>,
    /// The group and its volumes come back from the recorded metadata with all their UUIDs.
    pub restore: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateLv {
    pub vg: String,
    pub lv: Lv,
    /// For each segment: the physical volumes and extents, as lvcreate takes them.
    pub places: Vec<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MakeFs {
    pub dev: String,
    pub fs: Fs,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MakeSwap {
    pub dev: String,
    pub swap: Swap,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountFs {
    pub dev: String,
    pub kind: String,
    /// As it was on the node; it is mounted at the same path below the root of the recovery.
    pub path: BytesPath,
    pub options: String,
}

impl Step {
    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Step::Release(s) => format!("release {}", s.disks.join(", ")),
            Step::Wipe(s) => format!("erase {}", s.disk.name),
            Step::WriteTable(s) => {
                let kind = match s.table {
                    Table::Gpt { .. } => "GPT",
                    Table::Mbr { .. } => "MBR",
                };
                format!("write {kind} with {} partitions to {}", s.partitions.len(), s.name)
            }
            Step::CreateMd(s) => format!(
                "create {} ({}) on {}",
                s.md.name,
                s.md.level,
                short_devs(s.members.iter().chain(&s.spares))
            ),
            Step::CreateVg(s) => format!(
                "{} volume group {} on {}",
                if s.restore { "restore" } else { "create" },
                s.vg.name,
                short_devs(&s.devices)
            ),
            Step::CreateLv(s) => {
                format!("create volume {}/{} ({})", s.vg, s.lv.name, size(s.lv.size_bytes))
            }
            Step::MakeFs(s) => format!("make {} on {}", s.fs.kind, s.dev),
            Step::MakeSwap(s) => format!("make swap on {}", s.dev),
            Step::Mount(s) => format!("mount {} at {}", s.dev, s.path),
        }
    }

    /// The external programs that the step runs.
    pub fn tools(&self) -> Vec<&'static str> {
        match self {
            Step::Release(_) => vec!["lvm", "dmsetup", "mdadm", "udevadm"],
            Step::Wipe(_) | Step::WriteTable(_) => vec!["wipefs", "udevadm"],
            Step::CreateMd(_) => vec!["mdadm", "wipefs", "udevadm"],
            Step::CreateVg(_) | Step::CreateLv(_) => vec!["lvm", "udevadm"],
            Step::MakeFs(s) => {
                let mut tools = vec!["wipefs", "blkid"];
                tools.extend(fscmd::tools(&s.fs.kind));
                tools
            }
            Step::MakeSwap(_) => vec!["wipefs", "mkswap", "blkid"],
            Step::Mount(_) => vec!["modprobe", "mount", "umount"],
        }
    }

    /// The command lines that do the step, where programs do it. `metadata` is the file that holds
    /// a volume group's recorded metadata.
    pub fn commands(&self, metadata: &str) -> Vec<Argv> {
        match self {
            Step::CreateMd(s) => vec![stackcmd::mdadm_create(s)],
            Step::CreateVg(s) => stackcmd::create_vg(s, metadata),
            Step::CreateLv(s) => stackcmd::create_lv(s),
            Step::MakeFs(s) => fscmd::make_fs(&s.dev, &s.fs),
            Step::MakeSwap(s) => vec![fscmd::make_swap(&s.dev, &s.swap)],
            Step::Release(_) | Step::Wipe(_) | Step::WriteTable(_) | Step::Mount(_) => Vec::new(),
        }
    }
}

fn short_devs<'a>(devs: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> =
        devs.into_iter().map(|d| d.strip_prefix("/dev/").unwrap_or(d.as_str())).collect();
    names.join(", ")
}
