//! What `/etc/fstab` has mounted, and is not: nothing fails, and its files are in no backup. Night by
//! night the retention would take those that have them.
//!
//! * What systemd mounts when somebody looks there is looked at first.
//! * What is still not mounted is a problem: the run has failed, and the newest generation without a
//!   problem is kept.
//! * A disk that need not be there (`nofail`, `x-systemd.automount`), and is not, may be a stick in a
//!   drawer or a disk that died tonight. It is a problem where an earlier generation has its files,
//!   and else a note.
//! * `noauto`, or a pattern that leaves out all that is in it, says that it is not wanted. Who names a
//!   tree there wants it all the same.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};

use super::place;
use crate::layout::mount::unescape;
use crate::layout::{BytesPath, Unprotected};
use crate::probe::fstab::{self, Entry};
use crate::probe::mounts::MountInfo;

/// systemd waits a minute and a half for a device; a filesystem may have to be checked as well.
const PATIENCE: Duration = Duration::from_secs(150);

/// Floppies and optical drives: what is in them comes and goes, and is no part of the machine.
const DRIVES: [u32; 2] = [2, 11];

/// The lines of fstab(5), the links on the way to their mount points followed.
#[derive(Debug, Default)]
pub struct Fstab(Vec<Entry>);

/// The block device that fstab(5) names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Is((u32, u32)),
    Gone,
    /// Nothing tells.
    Unknown,
}

/// A mount point without its filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub path: PathBuf,
    /// Its device is not there, and need not be.
    pub is_away: bool,
}

impl Fstab {
    /// Of none where it is another system's: in a container systemd takes no devices from it.
    pub fn read(mounts: &[MountInfo]) -> Fstab {
        if Path::new("/run/systemd/container").exists() {
            return Fstab::default();
        }
        let text = std::fs::read("/etc/fstab").unwrap_or_default();
        let follow = |path: &Path| std::fs::read_link(path).ok();
        Fstab::parse(&text, mounts, follow)
    }

    /// Where the root is in memory or put together of other filesystems, it is that of another system
    /// as well: of the host, of what an image was made from.
    fn parse(
        text: &[u8],
        mounts: &[MountInfo],
        follow: impl Fn(&Path) -> Option<PathBuf>,
    ) -> Fstab {
        let root = mounts.iter().find(|mount| mount.path == Path::new("/"));
        if root.is_none_or(MountInfo::is_made_up) {
            return Fstab::default();
        }
        let mut entries = fstab::parse(text);
        entries.retain(Entry::has_files);
        for entry in &mut entries {
            entry.path = real(&entry.path, mounts, &follow);
        }
        Fstab(entries)
    }

    /// Has systemd mount what it mounts when somebody looks there: of the local filesystems, and of
    /// what `include` names.
    pub fn wake(&self, include: &[PathBuf], mounts: &[MountInfo]) {
        let paths = self.asleep(include, mounts, device_of);
        let look = |path: PathBuf| {
            move || {
                let _ = std::fs::read_dir(path.join("."));
            }
        };
        within(PATIENCE, paths.into_iter().map(look).collect());
    }

    fn asleep(
        &self,
        include: &[PathBuf],
        mounts: &[MountInfo],
        device: impl Fn(&str) -> Device,
    ) -> BTreeSet<PathBuf> {
        let waiting = |path: &Path| mounts.iter().any(|m| m.is_waiting() && m.path == path);
        // Looking there must not ask a dead server on the way.
        let in_reach = |path: &Path| {
            let above = path.parent().and_then(|dir| place::holder(dir, mounts.iter()));
            above.is_some_and(|mount| !mount.is_far())
        };
        // Of a volume that opening makes there is no device until then. For any other, systemd would
        // wait in vain.
        let can_come = |entry: &Entry| {
            entry.spec.starts_with("/dev/mapper/") || device(&entry.spec) != Device::Gone
        };
        let below =
            |path: &Path| include.is_empty() || include.iter().any(|tree| path.starts_with(tree));
        let own = self.0.iter().filter(|entry| {
            entry.is_local() && below(&entry.path) && in_reach(&entry.path) && can_come(entry)
        });
        let named = include.iter().filter_map(|tree| self.around(tree));
        let paths = own.map(|entry| &entry.path).chain(named).filter(|path| waiting(path));
        paths.cloned().collect()
    }

    /// The mount point that `tree` is on, or is.
    fn around(&self, tree: &Path) -> Option<&PathBuf> {
        let paths = self.0.iter().map(|entry| &entry.path).filter(|path| tree.starts_with(path));
        paths.max_by_key(|path| path.components().count())
    }

    /// What of the machine's own filesystems is not mounted, each place once. `target` are the devices
    /// of a filesystem that is no part of the backup anyway.
    pub fn missing(
        &self,
        mounts: &[MountInfo],
        target: &[(u32, u32)],
        device: impl Fn(&str) -> Device,
    ) -> Vec<Missing> {
        let mounted = |path: &Path| mounts.iter().any(|m| m.path == path && !m.is_waiting());
        // The same files, at another place. All subvolumes of a btrfs have one device.
        let elsewhere = |number: (u32, u32)| {
            let whole = |m: &&MountInfo| m.root == Path::new("/") && m.kind != "btrfs";
            mounts.iter().filter(whole).any(|m| m.is_local() && m.device == number)
        };
        let mut missing: Vec<Missing> = Vec::new();
        let wanted = self.0.iter().filter(|entry| entry.is_local() && entry.is_expected());
        for entry in wanted.filter(|entry| !mounted(&entry.path)) {
            let device = device(&entry.spec);
            if let Device::Is(number) = device
                && (target.contains(&number) || DRIVES.contains(&number.0) || elsewhere(number))
            {
                continue;
            }
            let is_away = device == Device::Gone && entry.may_be_absent();
            match missing.iter_mut().find(|other| other.path == entry.path) {
                // Two disks that take turns.
                Some(other) => other.is_away &= is_away,
                None => missing.push(Missing { path: entry.path.clone(), is_away }),
            }
        }
        missing
    }

    /// The trees of `--include` that a filesystem is missing around, and where: what is read is what it
    /// would hide.
    pub fn around_trees<'a>(
        &'a self,
        include: &'a [PathBuf],
        mounts: &[MountInfo],
    ) -> Vec<(&'a Path, &'a Path)> {
        let mut found: Vec<(&Path, &Path)> = Vec::new();
        for tree in include {
            let Some(path) = self.around(tree) else { continue };
            let holder = place::holder(tree, mounts.iter().filter(|mount| !mount.is_waiting()));
            let mounted = holder.is_some_and(|mount| mount.path.starts_with(path));
            if !mounted && found.iter().all(|(_, other)| other != path) {
                found.push((tree, path));
            }
        }
        found
    }
}

impl Missing {
    /// What is said where it fails the run.
    pub fn problem(&self) -> String {
        let path = self.path.display();
        let device = match self.is_away {
            true => "; its device is not there, and an earlier backup has it",
            false => "",
        };
        let hint = globset::escape(&self.path.to_string_lossy());
        format!(
            "{path} is in /etc/fstab and is not mounted: it is not in the backup{device}\nhint: mount {path}, and back up again; what need not be there gets noauto in /etc/fstab, what need not be in a backup exclude = [{:?}] in rr.toml",
            format!("{hint}/*")
        )
    }

    /// What is said where the machine never had it in a backup.
    pub fn note(&self) -> Unprotected {
        let why = "in /etc/fstab, and not mounted, as its device is not there".to_owned();
        Unprotected { what: BytesPath(self.path.clone()).to_string(), why }
    }
}

/// What is said of a tree that was named.
pub fn problem_of_tree(tree: &Path, path: &Path) -> String {
    let (tree, path) = (tree.display(), path.display());
    format!(
        "{path} is in /etc/fstab and is not mounted: what the backup has of {tree} is what lies below\nhint: mount {path}, and back up again"
    )
}

/// Whether a problem says that this is not mounted: one of these, or that of a boot partition.
pub fn is_about(problem: &str, path: &Path) -> bool {
    let rest = problem.strip_prefix(&path.display().to_string());
    rest.is_some_and(|rest| rest.starts_with(" is ") && rest.contains("is not mounted"))
}

/// Follows the links on the way to `path`, as systemd does, and asks no server about them.
fn real(path: &Path, mounts: &[MountInfo], follow: impl Fn(&Path) -> Option<PathBuf>) -> PathBuf {
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let mut ways: Vec<&Path> = path.ancestors().collect();
        ways.reverse();
        let on = |way: &&Path| place::holder(way, mounts.iter());
        let safe = |way: &&Path| on(way).is_none_or(|mount| !mount.is_far());
        let link = ways.into_iter().take_while(safe).find_map(|way| Some((way, follow(way)?)));
        let Some((link, to)) = link else { break };
        let rest = path.strip_prefix(link).unwrap_or(Path::new(""));
        path = lexical(&link.parent().unwrap_or(link).join(to).join(rest));
    }
    path
}

/// Without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

/// Runs all of them at once, and waits for no longer than that.
fn within(patience: Duration, jobs: Vec<impl FnOnce() + Send + 'static>) {
    let (done, ends) = mpsc::channel();
    let count = jobs.len();
    for job in jobs {
        let done = done.clone();
        std::thread::spawn(move || {
            job();
            let _ = done.send(());
        });
    }
    let until = Instant::now() + patience;
    for _ in 0..count {
        if ends.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
            return;
        }
    }
}

/// Looks for what fstab(5) names, as udev has it.
pub fn device_of(spec: &str) -> Device {
    let path = match spec.split_once('=') {
        Some((tag, value)) if !spec.starts_with('/') => {
            let dir = Path::new("/dev/disk").join(format!("by-{}", tag.to_lowercase()));
            let links = match std::fs::read_dir(&dir) {
                Ok(links) => links,
                // It goes with its last link.
                Err(_) if !dir.exists() && Path::new("/dev/disk").is_dir() => return Device::Gone,
                Err(_) => return Device::Unknown,
            };
            let value = value.trim_matches('"').as_bytes();
            let is_it =
                |name: &str| unescape(name).is_some_and(|name| name.eq_ignore_ascii_case(value));
            let mut names = links.flatten().map(|link| link.file_name());
            match names.find(|name| name.to_str().is_some_and(is_it)) {
                Some(name) => dir.join(name),
                None => return Device::Gone,
            }
        }
        _ if spec.starts_with("/dev/") => PathBuf::from(spec),
        _ => return Device::Unknown,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => {
            let number = (u32::try_from(major(found.rdev())), u32::try_from(minor(found.rdev())));
            if let (Ok(major), Ok(minor)) = number {
                Device::Is((major, minor))
            } else {
                Device::Unknown
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Device::Gone,
        _ => Device::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::testing;

    const MOUNTS: [(&str, &str, &str, &str); 7] = [
        ("8:1", "/", "/", "ext4"),
        ("0:30", "/", "/auto", "autofs"),
        ("0:31", "/", "/net", "autofs"),
        ("0:40", "/", "/mnt/nfs", "nfs4"),
        ("8:5", "/", "/mnt/other", "xfs"),
        ("0:41", "/@", "/pool", "btrfs"),
        ("0:42", "/", "/scratch", "tmpfs"),
    ];

    fn fstab(text: &str) -> Fstab {
        let follow = |path: &Path| match path.to_str()? {
            "/link" => Some("srv/here".into()),
            "/mnt/nfs/link" => panic!("a server was asked"),
            _ => None,
        };
        Fstab::parse(text.as_bytes(), &testing::mounts(&MOUNTS), follow)
    }

    fn device(spec: &str) -> Device {
        match spec {
            "/dev/sda5" => Device::Is((8, 5)),
            "/dev/sr0" => Device::Is((11, 0)),
            "LABEL=target" => Device::Is((8, 17)),
            "UUID=gone" | "/dev/mapper/closed" => Device::Gone,
            spec if spec.starts_with("/dev/sd") => Device::Is((8, 99)),
            _ => Device::Unknown,
        }
    }

    /// Mount points; with a `?` those whose device is away.
    fn missing(text: &str) -> Vec<String> {
        let found = fstab(text).missing(&testing::mounts(&MOUNTS), &[(8, 17)], device);
        let shown =
            |m: Missing| format!("{}{}", m.path.display(), if m.is_away { "?" } else { "" });
        found.into_iter().map(shown).collect()
    }

    #[test]
    fn a_filesystem_that_should_be_mounted_is_missed() {
        assert_eq!(missing("UUID=1 / ext4 defaults 0 1\n# UUID=2 /data ext4\n"), [""; 0]);
        for line in [
            "UUID=2 /data ext4 defaults 0 2",
            "LABEL=a\\040b /data/ xfs",
            "/dev/sdb1 /data auto nofail,x-systemd.device-timeout=5 0 2",
            "UUID=2 /data ext4 noauto,x-systemd.automount 0 2",
            "UUID=gone /data ext4 defaults 0 2",
            "UUID=1 /data btrfs subvol=@data 0 0",
            "/dev/sdb1 /data iso9660,ext4",
            "tank/data /data zfs defaults 0 0",
            "UUID=gone /data ext4 nofail\nUUID=2 /data ext4 nofail",
        ] {
            assert_eq!(missing(line), ["/data"], "{line}");
        }
        assert_eq!(missing("UUID=2 /auto ext4 x-systemd.automount"), ["/auto"]);
        assert_eq!(missing("UUID=2 /my\\040data ext4"), ["/my data"]);
        assert_eq!(missing("UUID=2 /link/x ext4"), ["/srv/here/x"]);
        assert_eq!(missing("UUID=2 /mnt/nfs/link ext4"), ["/mnt/nfs/link"]);
        let away = "UUID=gone /data ext4 nofail\nUUID=gone /b xfs x-systemd.automount";
        assert_eq!(missing(away), ["/data?", "/b?"]);
    }

    #[test]
    fn what_is_in_no_backup_anyway_is_not_missed() {
        for line in [
            "UUID=2 none swap sw 0 0",
            "/dev/zram0 swap swap defaults",
            "UUID=2 /data ext4 noauto,user 0 0",
            "server:/export /data nfs defaults 0 0",
            "server:/export /data auto defaults 0 0",
            "//server/share /data cifs nofail 0 0",
            "me@server: /data fuse.sshfs x-systemd.automount",
            "tmpfs /tmp2 tmpfs size=1g",
            "/dev/sdb1 /data gfs2 defaults",
            "/dev/sr0 /media/cdrom auto nofail",
            "/dev/sdb1 /media/cdrom udf,iso9660 user",
            "/srv/x /data none bind 0 0",
            "/dev/sdb1 /data none rbind 0 0",
            "/srv/image /data ext4 loop 0 0",
            "overlay /data overlay lowerdir=/a,upperdir=/b,workdir=/c",
            // Mounted at another place, by hand; something else at its place.
            "/dev/sda5 /data xfs defaults 0 0",
            "UUID=2 /scratch ext4 nofail",
            "LABEL=target /data ext4 nofail",
        ] {
            assert_eq!(missing(line), [""; 0], "{line}");
        }
        // Whatever is in there is not of this system.
        let mounts = testing::mounts(&[("0:40", "/", "/", "overlay")]);
        assert!(Fstab::parse(b"UUID=2 /data ext4", &mounts, |_| None).0.is_empty());
    }

    #[test]
    fn a_named_tree_is_missed_where_its_filesystem_is() {
        let text = "UUID=1 / ext4\nUUID=2 /srv ext4 noauto\nserver:/x /data nfs\n/dev/sda5 /mnt xfs\n\
                    tmpfs /tmp tmpfs\nUUID=3 /auto ext4 x-systemd.automount\n";
        let fstab = fstab(text);
        let around = |trees: &[&str]| {
            let trees: Vec<PathBuf> = trees.iter().map(PathBuf::from).collect();
            let found = fstab.around_trees(&trees, &testing::mounts(&MOUNTS));
            let shown = found.into_iter().map(|(a, b)| format!("{} {}", a.display(), b.display()));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(around(&["/srv/a", "/srv", "/data"]), ["/srv/a /srv", "/data /data"]);
        assert_eq!(around(&["/auto/x"]), ["/auto/x /auto"]);
        // On a filesystem that is mounted there without a line of its own.
        assert_eq!(around(&["/mnt/other/x", "/", "/home", "/srvx", "/tmp/x"]), [""; 0]);
        let text = problem_of_tree(Path::new("/srv/a"), Path::new("/srv"));
        assert!(text.starts_with("/srv is in /etc/fstab and is not mounted: what"), "{text}");
    }

    #[test]
    fn what_is_mounted_on_demand_is_looked_at_and_no_server_is() {
        let asleep = |text: &str, include: &[&str]| {
            let include: Vec<PathBuf> = include.iter().map(PathBuf::from).collect();
            let found = fstab(text).asleep(&include, &testing::mounts(&MOUNTS), device);
            found.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        let local = "/dev/sdb1 /auto ext4 x-systemd.automount\n";
        assert_eq!(asleep(local, &[]), ["/auto"]);
        assert_eq!(asleep(local, &["/auto/x"]), ["/auto"]);
        assert_eq!(asleep(local, &["/"]), ["/auto"]);
        assert_eq!(asleep(local, &["/srv"]), [""; 0]);
        let server = "server:/x /net nfs x-systemd.automount\n/dev/sdb1 /net/disk ext4\n";
        assert_eq!(asleep(server, &[]), [""; 0]);
        assert_eq!(asleep(server, &["/net"]), ["/net"], "it is asked for");
        assert_eq!(asleep("UUID=gone /auto ext4 x-systemd.automount", &[]), [""; 0]);
        assert_eq!(
            asleep("/dev/mapper/closed /auto ext4 noauto,x-systemd.automount", &[]),
            ["/auto"]
        );
    }

    #[test]
    fn a_disk_that_never_answers_is_not_waited_for() {
        let started = Instant::now();
        let job = |millis| move || std::thread::sleep(Duration::from_millis(millis));
        within(Duration::from_millis(100), vec![job(1), job(60_000), job(1)]);
        assert!(started.elapsed() < Duration::from_secs(30));
        within(Duration::from_secs(60), vec![job(1)]);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn devices_are_found_as_udev_names_them() {
        assert_eq!(device_of("/dev/there/is/none"), Device::Gone);
        assert_eq!(device_of("/dev/null"), Device::Unknown);
        assert_eq!(device_of("tank/data"), Device::Unknown);
        let has_udev = Path::new("/dev/disk").is_dir();
        for spec in ["UUID=there-is-none", "PARTLABEL=there-is-none", "TAG=of-no-device"] {
            let expected = if has_udev { Device::Gone } else { Device::Unknown };
            assert_eq!(device_of(spec), expected, "{spec}");
        }
    }
}
