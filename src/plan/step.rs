//! The steps of a plan.

use serde::{Deserialize, Serialize};

use super::{fscmd, stackcmd};
use crate::layout::units::size;
use crate::layout::{BytesPath, Disk, Fs, Luks, Lv, Md, Partition, Swap, Table, Vg};

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
    MakeLuks(MakeLuks),
    CreateVg(CreateVg),
    CreateLv(CreateLv),
    KeepUuids(KeepUuids),
    MakeFs(MakeFs),
    MakeSubvolumes(MakeSubvolumes),
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
    /// A BIOS boots from it: some skip a disk where no partition of the protective MBR is active.
    #[serde(default)]
    pub bios_boots: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateMd {
    pub md: Md,
    /// `/dev/...` or `missing`, by slot.
    pub members: Vec<String>,
    pub spares: Vec<String>,
}

/// Makes a LUKS volume and opens it. The passphrase is not a part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MakeLuks {
    pub dev: String,
    pub luks: Luks,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateVg {
    pub vg: Vg,
    /// The devices of `vg.pv`, in that order.
    pub devices: Vec<String>,
    /// The group comes back from the recorded metadata with all UUIDs, and so do the volumes that
    /// are in it.
    pub restore: bool,
    /// Device, first byte and size of what arrays and caches of an earlier life left behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<(String, u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateLv {
    pub vg: String,
    pub lv: Lv,
    /// For each segment: the physical volumes and extents, as lvcreate takes them.
    pub places: Vec<Vec<String>>,
}

/// Gives volumes that were created anew the UUIDs that they had. Nothing is on them yet.
///
/// This is vgcfgrestore(8) with the metadata that LVM has just written itself, where nothing but UUIDs
/// of volumes is another: places, the pools' transactions and the numbers of thin volumes stay those
/// of the pools that are on the disks. A pool's own metadata knows its volumes by number, not by UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeepUuids {
    pub vg: String,
    /// Names and UUIDs, also of hidden parts of volumes.
    pub uuids: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MakeFs {
    pub dev: String,
    /// The further devices of a btrfs that has several; where the log of an xfs is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_devs: Vec<String>,
    pub fs: Box<Fs>,
}

/// Creates the subvolumes of a btrfs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MakeSubvolumes {
    pub dev: String,
    pub more_devs: Vec<String>,
    /// From the top, parents first.
    pub paths: Vec<BytesPath>,
    pub default: Option<BytesPath>,
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
    /// btrfs: the subvolume, and the devices besides `dev`. xfs: where the log is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<BytesPath>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_devs: Vec<String>,
}

/// The options that change what is seen, and how it is written: as they were when it was archived.
const VIEW_OPTIONS: &[(&str, &[&str])] = &[
    (
        "vfat",
        &[
            "codepage=",
            "iocharset=",
            "shortname=",
            "utf8",
            "uid=",
            "gid=",
            "fmask=",
            "dmask=",
            "umask=",
        ],
    ),
    ("btrfs", &["compress=", "compress-force="]),
    // Two of one UUID, a clone and its source, come back with it, and one can't be mounted without.
    ("xfs", &["nouuid"]),
];

impl MountFs {
    /// What mount(8) takes after `-o`. Nothing that the node's own options forbid (noexec, ro, quota)
    /// may stand in the way of the restore.
    pub fn data_options(&self) -> String {
        let known = VIEW_OPTIONS.iter().filter(|(kind, _)| *kind == self.kind);
        let known: Vec<&str> = known.flat_map(|(_, options)| options.iter().copied()).collect();
        let recorded = self.options.split(',');
        let mut options: Vec<String> = recorded
            .filter(|option| known.iter().any(|known| option.starts_with(known)))
            .map(str::to_owned)
            .collect();
        options.dedup();
        if let Some(name) = &self.subvolume {
            options.push(format!("subvol=/{}", name.as_path().display()));
        }
        options.extend(device_options(&self.kind, &self.more_devs));
        options.join(",")
    }
}

impl MakeSubvolumes {
    /// Mounts the top, whatever the default is.
    pub fn mount_options(&self) -> String {
        let top = std::iter::once("subvolid=5".to_owned());
        top.chain(device_options("btrfs", &self.more_devs)).collect::<Vec<_>>().join(",")
    }
}

/// Tells the kernel of the devices that nobody may have scanned yet.
fn device_options(kind: &str, more_devs: &[String]) -> impl Iterator<Item = String> {
    let option = if kind == "xfs" { "logdev" } else { "device" };
    more_devs.iter().map(move |dev| format!("{option}={dev}"))
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
            Step::MakeLuks(s) => {
                format!("make LUKS{} on {} and open it as {}", s.luks.version, s.dev, s.luks.name)
            }
            Step::CreateVg(s) => format!(
                "{} volume group {} on {}",
                if s.restore { "restore" } else { "create" },
                s.vg.name,
                short_devs(&s.devices)
            ),
            Step::CreateLv(s) => {
                format!("create volume {}/{} ({})", s.vg, s.lv.name, size(s.lv.size_bytes))
            }
            Step::KeepUuids(s) => format!("give volumes of {} their UUIDs", s.vg),
            Step::MakeFs(s) => format!(
                "make {} on {}",
                s.fs.kind,
                [std::slice::from_ref(&s.dev), &s.more_devs].concat().join(", ")
            ),
            Step::MakeSubvolumes(s) => {
                format!("create {} subvolumes on {}", s.paths.len(), s.dev)
            }
            Step::MakeSwap(s) => format!("make swap on {}", s.dev),
            Step::Mount(s) => match &s.subvolume {
                Some(name) if *name != BytesPath::default() => {
                    format!("mount {name} of {} at {}", s.dev, s.path)
                }
                _ => format!("mount {} at {}", s.dev, s.path),
            },
        }
    }

    /// The external programs that the step runs.
    pub fn tools(&self) -> Vec<&'static str> {
        match self {
            Step::Release(_) => vec!["lvm", "dmsetup", "mdadm", "udevadm"],
            Step::Wipe(_) | Step::WriteTable(_) => vec!["wipefs", "udevadm"],
            Step::CreateMd(_) => vec!["mdadm", "wipefs", "udevadm"],
            Step::MakeLuks(_) => vec!["wipefs", "cryptsetup", "udevadm"],
            // Activating a pool runs thin_check.
            Step::CreateLv(s) if s.lv.kind == "thin-pool" => vec!["lvm", "udevadm", "thin_check"],
            Step::CreateVg(_) | Step::CreateLv(_) | Step::KeepUuids(_) => vec!["lvm", "udevadm"],
            Step::MakeFs(s) => {
                let mut tools = vec!["wipefs", "blkid"];
                tools.extend(fscmd::tools(&s.fs.kind));
                tools
            }
            Step::MakeSubvolumes(_) => vec!["btrfs", "udevadm"],
            Step::MakeSwap(_) => vec!["wipefs", "mkswap", "blkid"],
            Step::Mount(_) => vec!["modprobe", "mount", "umount"],
        }
    }

    /// The command lines that do the step, where programs do it. `metadata` is the file that holds
    /// a volume group's metadata.
    pub fn commands(&self, metadata: &str) -> Vec<Argv> {
        match self {
            Step::CreateMd(s) => vec![stackcmd::mdadm_create(s)],
            Step::MakeLuks(s) => vec![stackcmd::luks_format(s), stackcmd::luks_open(s)],
            Step::CreateVg(s) => stackcmd::create_vg(s, metadata),
            Step::CreateLv(s) => stackcmd::create_lv(s),
            Step::KeepUuids(s) => stackcmd::keep_uuids(s, metadata),
            Step::MakeFs(s) => fscmd::make_fs(s),
            Step::MakeSwap(s) => vec![fscmd::make_swap(&s.dev, &s.swap)],
            Step::Release(_)
            | Step::Wipe(_)
            | Step::WriteTable(_)
            | Step::MakeSubvolumes(_)
            | Step::Mount(_) => Vec::new(),
        }
    }
}

fn short_devs<'a>(devs: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> =
        devs.into_iter().map(|d| d.strip_prefix("/dev/").unwrap_or(d.as_str())).collect();
    names.join(", ")
}
