//! Where a `file://` target lies: on a filesystem of its own, or among what it protects.
//!
//! A target on disks that nothing else of the machine is on (a stick, a backup disk) is left alone
//! by backup and recovery: its filesystem is neither archived nor recreated. A target on a disk
//! that the machine itself needs is only passed by, and warned about: with that disk the backup is
//! lost as well, and no recovery can rebuild a disk that holds the backup it reads.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use crate::layout::{BytesPath, Disk, Id, Layout, Unprotected};
use crate::probe::fstab::Entry;
use crate::probe::mounts::MountInfo;
use crate::rescue::TargetDevice;
use crate::rescue::pxe::tree::AT_TARGET;
use crate::store::name::OWNER;
use crate::store::usb;

/// A target directory on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory, without symbolic links.
    pub dir: PathBuf,
    /// Where else it shows: its filesystem, or a part of it, may be mounted more than once.
    pub also: Vec<PathBuf>,
    /// Where the filesystem that holds it is mounted.
    pub mount: PathBuf,
    pub device: (u32, u32),
    /// How the rescue system finds it; None where the layout does not know the filesystem.
    pub target_device: Option<TargetDevice>,
    pub kind: PlaceKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceKind {
    /// On disks of its own, which these are.
    Own,
    /// On a disk that the machine needs: these mount points are on the same disks.
    Shared { with: Vec<PathBuf> },
    /// On no local disk: in memory, or on another machine.
    Elsewhere { fs: String },
}

/// Finds the place of `dir`, which is absolute and has no symbolic links. None: no mount holds it.
pub fn find(dir: &Path, mounts: &[MountInfo], layout: Option<&Layout>) -> Option<Place> {
    let mount = holder(dir, mounts.iter())?;
    let subdir = in_filesystem(dir, mount);
    let fs = layout.and_then(|layout| {
        let found = layout.mount.iter().find(|m| m.path.as_path() == mount.path)?;
        layout.fs.iter().find(|fs| fs.id == found.fs)
    });
    let target_device = fs.filter(|fs| !fs.uuid.is_empty()).map(|fs| TargetDevice {
        fs_uuid: fs.uuid.clone(),
        fs_kind: fs.kind.clone(),
        subdir: subdir.into(),
    });
    let kind = if mount.is_local() {
        let with = match (layout, fs) {
            (Some(layout), Some(fs)) => neighbours(layout, &fs.id),
            // Without a layout only the filesystem itself is known.
            _ if mount.path == Path::new("/") => vec![mount.path.clone()],
            _ => Vec::new(),
        };
        if with.is_empty() { PlaceKind::Own } else { PlaceKind::Shared { with } }
    } else {
        PlaceKind::Elsewhere { fs: mount.kind.clone() }
    };
    Some(Place {
        dir: dir.to_owned(),
        also: elsewhere(dir, mounts),
        mount: mount.path.clone(),
        device: mount.device,
        target_device,
        kind,
    })
}

/// The mount that `dir` is on.
pub fn holder<'a>(
    dir: &Path,
    mounts: impl Iterator<Item = &'a MountInfo>,
) -> Option<&'a MountInfo> {
    mounts.filter(|m| dir.starts_with(&m.path)).max_by_key(|m| m.path.components().count())
}

/// The path of `dir` in the filesystem that `mount` shows it of.
pub fn in_filesystem(dir: &Path, mount: &MountInfo) -> PathBuf {
    mount.root.join(dir.strip_prefix(&mount.path).unwrap_or(Path::new("")))
}

/// The other paths at which the files in `dir` show: by bind mounts, and where a filesystem is mounted
/// a second time. Not where another filesystem lies over them that may be backed up; one that is not,
/// of another machine, hides nothing from a backup.
fn elsewhere(dir: &Path, mounts: &[MountInfo]) -> Vec<PathBuf> {
    let Some(mount) = holder(dir, mounts.iter()) else { return Vec::new() };
    let subdir = in_filesystem(dir, mount);
    let shown_by = |other: &MountInfo| {
        let path = other.path.join(subdir.strip_prefix(&other.root).ok()?);
        let seen = holder(&path, mounts.iter().filter(|m| m.is_local() || *m == other));
        (seen == Some(other) && path != dir).then_some(path)
    };
    mounts.iter().filter(|other| other.device == mount.device).filter_map(shown_by).collect()
}

/// The place of a `usb://` target, which rr mounts for itself alone. Where somebody has it mounted as
/// well, that is where its files must not be archived from.
pub fn of_stick(
    found: &usb::Found,
    mounts: &[MountInfo],
    layout: Option<&Layout>,
) -> Option<Place> {
    let number = std::fs::metadata(&found.device).ok()?.rdev();
    let device = (u32::try_from(major(number)).ok()?, u32::try_from(minor(number)).ok()?);
    let target_device = Some(TargetDevice {
        fs_uuid: found.uuid.clone(),
        fs_kind: usb::KIND.to_owned(),
        subdir: Path::new("/").join(usb::DIR).into(),
    });
    let mounted = mounts.iter().find(|m| m.device == device);
    let place = mounted.and_then(|mount| find(&mount.path, mounts, layout));
    let (mount, kind) = match place {
        Some(place) => (place.mount, place.kind),
        // Nothing that the machine has is there.
        None => (PathBuf::from(usb::MOUNT_POINT), PlaceKind::Own),
    };
    let dir = mount.join(usb::DIR);
    let also = elsewhere(&dir, mounts);
    Some(Place { dir, also, mount, device, target_device, kind })
}

/// The mount points that make a filesystem part of the machine: those of other filesystems on its
/// disks, and its own where it is the root or a directory that the system itself has.
fn neighbours(layout: &Layout, fs: &Id) -> Vec<PathBuf> {
    const SYSTEM: &[&str] =
        &["/", "/boot", "/boot/efi", "/efi", "/home", "/opt", "/root", "/usr", "/var"];
    let disks = layout.disks_below(fs);
    let shares = |other: &Id| !disks.is_disjoint(&layout.disks_below(other));
    let mounted = layout.mount.iter().filter(|m| {
        if m.fs == *fs {
            SYSTEM.iter().any(|path| m.path.as_path() == Path::new(path))
        } else {
            shares(&m.fs)
        }
    });
    let found: BTreeSet<PathBuf> = mounted.map(|m| m.path.as_path().to_owned()).collect();
    found.into_iter().collect()
}

impl Place {
    /// Marks the filesystem in the layout as the target's, where it is its own.
    pub fn mark(&self, layout: &mut Layout) {
        if self.kind != PlaceKind::Own {
            return;
        }
        let fs = layout.mount.iter().find(|m| m.path.as_path() == self.mount).map(|m| m.fs.clone());
        for mount in layout.mount.iter_mut().filter(|m| Some(&m.fs) == fs.as_ref()) {
            mount.target = true;
        }
        // That nothing backs up the disk of the backup is no news.
        let uuid = self.target_device.as_ref().map(|device| &device.fs_uuid);
        let target = layout.fs.iter().find(|fs| Some(&fs.uuid) == uuid);
        let disks = target.map(|fs| layout.disks_on(&fs.id)).unwrap_or_default();
        let disks: Vec<String> = disks.into_iter().map(Disk::dev).collect();
        let mount = BytesPath(self.mount.clone()).to_string();
        let is_news =
            |note: &Unprotected| note.what != mount && !disks.iter().any(|disk| note.is_of(disk));
        layout.unprotected.retain(is_news);
    }

    /// The block devices of its filesystem; those of a btrfs as far as they are told.
    pub fn devices(&self, mounts: &[MountInfo]) -> Vec<(u32, u32)> {
        let own = mounts.iter().filter(|mount| mount.device == self.device);
        let numbers = own.filter_map(|mount| {
            let number = std::fs::metadata(&mount.source).ok()?.rdev();
            Some((u32::try_from(major(number)).ok()?, u32::try_from(minor(number)).ok()?))
        });
        numbers.chain([self.device]).collect()
    }

    /// What an admin has to know about it.
    pub fn warning(&self) -> Option<String> {
        let dir = self.dir.display();
        match &self.kind {
            PlaceKind::Own if self.target_device.is_some() => None,
            PlaceKind::Own => Some(format!(
                "the filesystem at {} that holds the target {dir} has no UUID that is known: a rescue system will not find the backup by itself",
                self.mount.display()
            )),
            PlaceKind::Shared { with } => Some(format!(
                "the target {dir} is on a disk that it protects, the one with {}: with that disk the backup is lost, and a recovery from it can't rebuild that disk\nhint: use another disk, or nfs://server/export",
                with.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
            )),
            PlaceKind::Elsewhere { fs } => Some(format!(
                "the target {dir} is on a filesystem of the kind {fs}, which a rescue system will not find by itself\nhint: for NFS give its URL: nfs://server/export"
            )),
        }
    }

    /// The exclude patterns that keep the backup out of itself. The directory stays, so that it is
    /// there after a recovery.
    pub fn exclude(&self) -> Vec<String> {
        let pattern = |dir: &PathBuf| {
            Some(format!("{}/*", globset::escape(dir.to_str()?).trim_end_matches('/')))
        };
        self.dirs().filter_map(pattern).collect()
    }

    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.dir).chain(&self.also)
    }

    /// Whether [`Place::exclude`] leaves nothing of what is at `path`.
    pub fn holds(&self, path: &Path) -> bool {
        self.dirs().any(|dir| path.starts_with(dir))
    }

    /// Some of what is in the directory and is no backup: it is left out all the same.
    pub fn others(&self, node: &str) -> Vec<String> {
        const NAMED: usize = 5;
        let is_ours = |name: &str| {
            let dir = self.dir.join(name);
            // A node that has only just begun has an empty one.
            let is_empty = || std::fs::read_dir(&dir).is_ok_and(|mut all| all.next().is_none());
            [node, AT_TARGET, "lost+found"].contains(&name)
                || ["generations", OWNER].iter().any(|file| dir.join(file).exists())
                || is_empty()
        };
        let found = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = found.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let others = names.filter(|name| !is_ours(name));
        let others: BTreeSet<_> = others.map(|name| BytesPath::from(name).to_string()).collect();
        others.into_iter().take(NAMED).collect()
    }
}

/// The mount point of fstab(5) that `dir` is below and that is not mounted: what is written there
/// would go to the filesystem that is to be hidden by it.
pub fn missing_mount(dir: &Path, fstab: &[Entry], mounts: &[MountInfo]) -> Option<PathBuf> {
    fstab
        .iter()
        .map(|entry| &entry.path)
        .filter(|path| path.is_absolute() && dir.starts_with(path))
        .find(|path| !mounts.iter().any(|m| m.path == **path))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::testing;
    use crate::probe::fstab;

    fn mounts() -> Vec<MountInfo> {
        testing::mounts(&[
            ("8:1", "/", "/", "ext4"),
            ("8:2", "/", "/srv", "xfs"),
            ("8:17", "/", "/mnt/usb", "ext4"),
            ("0:30", "/", "/run", "tmpfs"),
        ])
    }

    #[test]
    fn a_disk_of_its_own_is_left_alone() {
        let mut layout = testing::layout();
        let place = find(Path::new("/mnt/usb/a/b"), &mounts(), Some(&layout)).unwrap();
        assert_eq!(place.kind, PlaceKind::Own);
        let device = place.target_device.clone().unwrap();
        assert_eq!(
            (device.fs_uuid.as_str(), device.subdir.as_path()),
            ("uuid-sdb1", Path::new("/a/b"))
        );
        assert_eq!(place.warning(), None);
        for what in ["/mnt/usb", "/srv"] {
            let why = "can be unplugged".into();
            layout.unprotected.push(crate::layout::Unprotected { what: what.into(), why });
        }
        place.mark(&mut layout);
        assert!(layout.unprotected.len() == 1 && layout.unprotected[0].what == "/srv");
        let marked: Vec<_> = layout.mount.iter().filter(|m| m.target).collect();
        assert_eq!(marked.len(), 1);
        assert_eq!(marked[0].path.as_path(), Path::new("/mnt/usb"));
    }

    #[test]
    fn a_target_among_what_it_protects_is_warned_about() {
        let mut layout = testing::layout();
        for (dir, with) in [("/backup", "/, /srv"), ("/srv/backup", "/")] {
            let place = find(Path::new(dir), &mounts(), Some(&layout)).unwrap();
            let text = place.warning().unwrap();
            assert!(text.contains(&format!("the one with {with}:")), "{text}");
            assert!(place.target_device.is_some());
            place.mark(&mut layout);
            assert!(layout.mount.iter().all(|m| !m.target));
        }
        // Without a layout: what is on the root filesystem is known to be shared.
        let place = find(Path::new("/backup"), &mounts(), None).unwrap();
        assert!(matches!(place.kind, PlaceKind::Shared { .. }));
        assert_eq!(find(Path::new("/mnt/usb"), &mounts(), None).unwrap().kind, PlaceKind::Own);
        let place = find(Path::new("/run/x"), &mounts(), None).unwrap();
        assert_eq!(place.kind, PlaceKind::Elsewhere { fs: "tmpfs".into() });
    }

    #[test]
    fn the_backup_is_kept_out_of_itself() {
        let place = find(Path::new("/back[1]up"), &mounts(), None).unwrap();
        assert_eq!(place.exclude(), ["/back[[]1[]]up/*"]);
    }

    #[test]
    fn what_is_no_backup_is_known_in_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for made in ["node001", "node002/generations", "node003", "pxe", "www/a", "mail/b"] {
            std::fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let place = find(dir.path(), &mounts(), None).unwrap();
        assert_eq!(place.others("node001"), ["mail", "www"]);
        assert!(place.holds(&dir.path().join("www/a")) && place.holds(dir.path()));
        assert!(!place.holds(dir.path().parent().unwrap()));
    }

    #[test]
    fn the_backup_is_kept_out_of_itself_wherever_it_shows() {
        let mounts = testing::mounts(&[
            ("8:1", "/", "/", "ext4"),
            ("8:2", "/", "/srv", "xfs"),
            ("8:2", "/backup", "/export/backup", "xfs"),
            ("8:2", "/", "/second", "xfs"),
            ("8:2", "/elsewhere", "/mnt", "xfs"),
            // This hides it, and is backed up itself.
            ("8:3", "/", "/second/backup", "ext4"),
            // This is not, so what is below it is seen.
            ("0:50", "/", "/srv/backup", "nfs4"),
        ]);
        let excluded = |dir: &str| find(Path::new(dir), &mounts, None).unwrap().exclude();
        assert_eq!(excluded("/export/backup"), ["/export/backup/*", "/srv/backup/*"]);
        assert_eq!(excluded("/export/backup/a"), ["/export/backup/a/*", "/srv/backup/a/*"]);
        assert_eq!(excluded("/srv/x"), ["/srv/x/*", "/second/x/*"]);
        assert_eq!(excluded("/backup"), ["/backup/*"]);
        // Of btrfs, all subvolumes are seen below the top one.
        let line = |id: u32, root: &str, path: &str| {
            format!("1 1 0:41 {root} {path} rw - btrfs /dev/sdb2 rw,subvolid={id},subvol={root}\n")
        };
        let text = [line(256, "/@", "/"), line(257, "/@home", "/home"), line(5, "/", "/top")];
        let mounts = crate::sys::mount::parse(text.concat().as_bytes());
        let place = find(Path::new("/backup"), &mounts, None).unwrap();
        assert_eq!(place.exclude(), ["/backup/*", "/top/@/backup/*"]);
    }

    #[test]
    fn an_unmounted_disk_is_noticed() {
        let fstab = b"# a comment /mnt\nUUID=1 / ext4 defaults 0 1\n/dev/sdc1\t/mnt/disk\\0401 ext4 noauto 0 2\nUUID=3 none swap sw 0 0\nUUID=4 /mnt/usb ext4\n";
        let found = |dir: &str| missing_mount(Path::new(dir), &fstab::parse(fstab), &mounts());
        assert_eq!(found("/mnt/disk 1/rr"), Some(PathBuf::from("/mnt/disk 1")));
        assert_eq!(found("/mnt/usb/rr"), None);
        assert_eq!(found("/mnt/disk"), None);
    }
}
