//! btrfs: its devices, profiles and subvolumes, and where these can be seen.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BytesPath, Fs, Id, Layout, Mount};

/// What `btrfs` tells and mkfs.btrfs(8) takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct BtrfsOptions {
    pub node_bytes: u64,
    pub sector_bytes: u64,
    /// `crc32c`, `xxhash`, `sha256`, `blake2`.
    pub checksum: String,
    /// `single`, `dup`, `raid1` ...; data and metadata are mixed where the features say so.
    pub data_profile: String,
    pub metadata_profile: String,
    /// By the names that the superblock has, in small letters: `no_holes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// How many devices it has, with those that are missing.
    pub devices: u64,
    /// In the order of their numbers; the first is what the filesystem is `on`.
    pub device: Vec<BtrfsDevice>,
    /// What is mounted where no subvolume is named; none is the top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_subvolume: Option<BytesPath>,
    /// Parents before children; what is below is made again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subvolume: Vec<Subvolume>,
    /// Copies of other subvolumes: neither archived nor made again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshot: Vec<Subvolume>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BtrfsDevice {
    pub on: Id,
    /// What the filesystem uses of the device.
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subvolume {
    /// From the top of the filesystem: `@/var`, without a slash at its start.
    pub path: BytesPath,
    /// `subvolid=` of a mount; a subvolume that is made again gets another.
    pub id: u64,
}

impl Fs {
    /// The devices that the filesystem is on: several with btrfs, and two where the log of an xfs is
    /// on one of its own.
    pub fn devices(&self) -> Vec<Id> {
        match &self.btrfs {
            Some(btrfs) if !btrfs.device.is_empty() => {
                btrfs.device.iter().map(|device| device.on.clone()).collect()
            }
            _ => std::iter::once(&self.on).chain(self.log_on()).cloned().collect(),
        }
    }

    pub fn log_on(&self) -> Option<&Id> {
        self.xfs.as_ref()?.log_on.as_ref()
    }

    /// The subvolume that a mount shows the whole of; an empty path is the top.
    pub fn subvolume_of<'a>(&self, mount: &'a Mount) -> Option<&'a Path> {
        let btrfs = self.btrfs.as_ref()?;
        let root = mounted(mount);
        let known = btrfs.subvolume.iter().any(|s| s.path.as_path() == root);
        (known || root == Path::new("")).then_some(root)
    }
}

/// What of the filesystem a mount shows, without a slash at its start.
fn mounted(mount: &Mount) -> &Path {
    let root = mount.shows();
    root.strip_prefix("/").unwrap_or(root)
}

impl Layout {
    /// Where each subvolume's files are found, once each: the place where it is mounted, else the
    /// first place where it shows below another one.
    pub fn subvolume_places(&self, fs: &Fs) -> Vec<(Subvolume, Option<PathBuf>)> {
        let subvolumes = fs.btrfs.iter().flat_map(|btrfs| &btrfs.subvolume);
        let place = |subvolume: &Subvolume| self.shown_at(fs, subvolume).into_iter().next();
        subvolumes.map(|subvolume| (subvolume.clone(), place(subvolume))).collect()
    }

    /// Paths where snapshots show, and subvolumes for a second time: what an archive leaves out.
    pub fn shown_again(&self, fs: &Fs) -> Vec<PathBuf> {
        let Some(btrfs) = &fs.btrfs else { return Vec::new() };
        let mut again = Vec::new();
        for subvolume in &btrfs.subvolume {
            let mounted_there = |place: &PathBuf| {
                self.mount.iter().any(|m| m.fs == fs.id && m.path.as_path() == place)
            };
            let others = self.shown_at(fs, subvolume).into_iter().skip(1);
            again.extend(others.filter(|place| !mounted_there(place)));
        }
        again.extend(btrfs.snapshot.iter().flat_map(|snapshot| self.shown_at(fs, snapshot)));
        again
    }

    /// All paths at which a subvolume shows, those where it is mounted first.
    fn shown_at(&self, fs: &Fs, subvolume: &Subvolume) -> Vec<PathBuf> {
        let mounts = self.mount.iter().filter(|m| m.fs == fs.id);
        let mut places: Vec<PathBuf> = mounts
            .filter_map(|mount| {
                let below = subvolume.path.as_path().strip_prefix(mounted(mount)).ok()?;
                let place = if below.as_os_str().is_empty() {
                    mount.path.as_path().to_owned()
                } else {
                    mount.path.as_path().join(below)
                };
                // Another mount on the way hides it.
                let hidden = self.mount.iter().any(|other| {
                    other.path != mount.path
                        && other.path.as_path().starts_with(mount.path.as_path())
                        && place.starts_with(other.path.as_path())
                });
                (!hidden).then_some(place)
            })
            .collect();
        let is_mounted = |place: &PathBuf| {
            self.mount.iter().any(|m| {
                m.fs == fs.id && m.path.as_path() == place && mounted(m) == subvolume.path.as_path()
            })
        };
        places.sort_by_key(|place| (!is_mounted(place), place.components().count(), place.clone()));
        places
    }
}
