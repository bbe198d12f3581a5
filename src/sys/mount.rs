//! Mounting, and undoing it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::run::Cmd;

/// Filesystems that live in memory only.
pub const IN_MEMORY: &[&str] = &[
    "autofs",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// A mount that is undone when this is dropped.
#[derive(Debug)]
pub struct MountGuard {
    path: Option<PathBuf>,
}

impl MountGuard {
    /// Runs `mount(8)` with these arguments, the last of which is the mount point `path`.
    pub fn mount<S: AsRef<OsStr>>(args: &[S], path: &Path) -> Result<MountGuard> {
        Cmd::new("mount").args(args).arg(path).run()?;
        Ok(MountGuard { path: Some(path.to_owned()) })
    }

    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Unmounts, and says so when it can't.
    pub fn close(mut self) -> Result<()> {
        match self.path.take() {
            Some(path) => unmount(&path),
            None => Ok(()),
        }
    }

    /// Leaves it mounted for good.
    pub fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = unmount(&path)
        {
            log::warn!("{error:#}");
        }
    }
}

/// A filesystem mounted on a new directory in /tmp.
///
/// Unlike a [`tempfile::TempDir`] with something mounted on it, this deletes nothing when the
/// filesystem can't be unmounted: it removes the directory, which must be empty then.
#[derive(Debug)]
pub struct TempMount {
    mounted: Option<MountGuard>,
    dir: PathBuf,
}

impl TempMount {
    /// Runs `mount(8)` with these arguments and a new directory.
    pub fn mount(args: &[&str]) -> Result<TempMount> {
        let dir = tempfile::tempdir().context("making a directory to mount on")?.keep();
        let mut made = TempMount { mounted: None, dir };
        made.mounted = Some(MountGuard::mount(args, &made.dir)?);
        Ok(made)
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Unmounts, and says so when it can't.
    pub fn close(mut self) -> Result<()> {
        self.mounted.take().map_or(Ok(()), MountGuard::close)
    }
}

impl Drop for TempMount {
    fn drop(&mut self) {
        self.mounted = None;
        if let Err(error) = std::fs::remove_dir(&self.dir) {
            log::warn!("{} is left behind: {error}", self.dir.display());
        }
    }
}

/// Runs `body` in a thread with a mount namespace of its own: what it mounts is seen by it and its
/// children only, and is unmounted when it ends, killed or not. What it has opened stays open.
/// Mounts and unmounts of the system still reach the namespace, so that it keeps none of them busy.
pub fn in_private_namespace<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let enter = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .context("making a mount namespace\nhint: run as root")?;
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_SLAVE;
        match nix::mount::mount(none, "/", none, flags, none) {
            // In a chroot whose root is no mount point.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => Ok(()),
            Err(errno) => Err(errno).context("keeping mounts from the system"),
        }
    };
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter()?;
                body()
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the thread with a mount namespace panicked"))?
    })
}

/// Mounts something at `point` where nobody else sees it, and opens what is wanted of it: the mount
/// lives for as long as what was opened, killed or not, and nothing has to be unmounted. `open` gets
/// what `mount` gave.
pub fn held<M, T: Send>(
    point: &Path,
    mount: impl FnOnce() -> Result<M> + Send,
    open: impl FnOnce(M) -> Result<T> + Send,
) -> Result<T> {
    std::fs::create_dir_all(point).with_context(|| format!("creating {}", point.display()))?;
    in_private_namespace(|| {
        let opened = open(mount()?);
        // Its end comes with the namespace; where that is shared with the system's (in a chroot),
        // this ends it for the system as well.
        detach(point)?;
        opened
    })
}

/// Whether it failed because this process may not mount, as in a container.
pub fn is_forbidden(error: &anyhow::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.chain().find_map(|cause| cause.downcast_ref::<Errno>());
    // mount(8) says it in words.
    let said = || format!("{error:#}").to_lowercase();
    matches!(errno, Some(Errno::EPERM | Errno::EACCES))
        || ["permission denied", "not permitted"].iter().any(|words| said().contains(words))
}

/// What is mounted on `dir` or below, as this process sees it.
pub fn below(dir: &Path) -> Result<Vec<MountInfo>> {
    let dir = dir.canonicalize().with_context(|| format!("looking for {}", dir.display()))?;
    let mut all = mounts()?;
    all.retain(|mount| mount.path.starts_with(&dir));
    Ok(all)
}

/// Removes a directory with all that is in it, but never what is mounted there.
pub fn remove_tree(dir: &Path) -> Result<()> {
    let removing = || format!("removing {}", dir.display());
    if let Some(mount) = below(dir).with_context(removing)?.first() {
        anyhow::bail!("{} stays: {} is mounted", dir.display(), mount.path.display());
    }
    std::fs::remove_dir_all(dir).with_context(removing)
}

/// Takes a mount out of the tree of mounts; it ends when the last file on it is closed.
pub fn detach(path: &Path) -> Result<()> {
    let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
    nix::mount::umount2(path, flags).with_context(|| format!("detaching {}", path.display()))
}

/// Unmounts `path`. A busy mount is tried again for some seconds: udev and others let go late.
pub fn unmount(path: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        match nix::mount::umount2(path, nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(nix::errno::Errno::EBUSY) if tries < 20 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            Err(errno) => {
                return Err(errno).with_context(|| format!("unmounting {}", path.display()));
            }
        }
    }
}

/// A mount as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Device number of the filesystem: of its block device where it has one.
    pub device: (u32, u32),
    /// What of the filesystem is mounted.
    pub root: PathBuf,
    pub path: PathBuf,
    /// The options of the mount and of the superblock, each once.
    pub options: String,
    pub kind: String,
    pub source: PathBuf,
}

/// Every mount of this process's namespace, in the order in which they were made.
pub fn mounts() -> Result<Vec<MountInfo>> {
    let text = std::fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(parse(&text))
}

/// As [`mounts`], without those that no path leads to any more: something was mounted over them, or
/// over a directory that leads there.
pub fn visible_mounts() -> Result<Vec<MountInfo>> {
    let text = std::fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(visible(&text))
}

/// Goes the way to each mount point as the kernel does, from mount to mount: over each of them only
/// the mounts upon it count.
fn visible(text: &[u8]) -> Vec<MountInfo> {
    let number = |field: Option<&[u8]>| std::str::from_utf8(field?).ok()?.parse().ok();
    let numbered = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ');
        Some((number(fields.next())?, number(fields.next())?, parse_line(line)?))
    };
    let all: Vec<(u64, u64, MountInfo)> =
        text.split(|b| *b == b'\n').filter_map(numbered).collect();
    let ids: HashSet<u64> = all.iter().map(|(id, ..)| *id).collect();
    let mut upon: HashMap<Option<u64>, Vec<(u64, &Path)>> = HashMap::new();
    for (id, parent, mount) in &all {
        // What is around the root of a namespace is not told.
        let parent = Some(*parent).filter(|parent| parent != id && ids.contains(parent));
        upon.entry(parent).or_default().push((*id, &mount.path));
    }
    let leads_to = |path: &Path| {
        let mut at = None;
        loop {
            let ahead = upon.get(&at).into_iter().flatten().rev();
            let ahead = ahead.filter(|(_, mount)| path.starts_with(mount));
            match ahead.min_by_key(|(_, mount)| mount.components().count()) {
                Some((id, _)) => at = Some(*id),
                None => return at,
            }
        }
    };
    let seen = all.iter().filter(|(id, _, mount)| leads_to(&mount.path) == Some(*id));
    seen.map(|(.., mount)| mount.clone()).collect()
}

/// Parses mountinfo, see proc(5); lines that are not understood are skipped.
pub fn parse(text: &[u8]) -> Vec<MountInfo> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAG...] - KIND SOURCE SUPER_OPTIONS`
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape_octal(field)).into_owned();
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescape_octal(field)));
    let (major, minor) = std::str::from_utf8(fields[2]).ok()?.split_once(':')?;
    let options = text(fields[5]);
    let super_options = text(fields.get(dash + 3)?);
    Some(MountInfo {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: path(fields[3]),
        path: path(fields[4]),
        options: join_options(&options, &super_options),
        kind: text(fields.get(dash + 1)?),
        source: path(fields.get(dash + 2)?),
    })
}

/// `ro` or `rw` is the mount's; of the superblock's options those are added that are new.
fn join_options(mount: &str, superblock: &str) -> String {
    let mut joined: Vec<&str> = mount.split(',').collect();
    for option in superblock.split(',') {
        if !matches!(option, "rw" | "ro") && !joined.contains(&option) {
            joined.push(option);
        }
    }
    joined.join(",")
}

/// The kernel writes blank, tab, newline and backslash as `\NNN`.
pub fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_that_no_path_leads_to_are_left_out() {
        let line = |(id, parent, path, source): (u32, u32, &str, &str)| {
            format!("{id} {parent} 8:1 / {path} rw - ext4 {source} rw\n")
        };
        // systemd mounts /proc and the like before it goes over to the root, and moves them then.
        let text: String = [
            (22, 30, "/proc", "proc"),
            (30, 1, "/", "root"),
            (40, 30, "/srv/data", "hidden"),
            (41, 40, "/srv/data/deep", "hidden-too"),
            (42, 30, "/srv", "over"),
            (43, 42, "/srv/new", "upon-it"),
            (44, 30, "/mnt", "first"),
            (45, 44, "/mnt", "second"),
            (46, 44, "/mnt/x", "on-the-first"),
            (47, 45, "/mnt/x", "on-the-second"),
            (48, 30, "/srvx", "beside"),
        ]
        .map(line)
        .concat();
        let seen = visible(text.as_bytes());
        let seen: Vec<_> = seen.iter().map(|mount| mount.source.to_str().unwrap()).collect();
        assert_eq!(seen, ["proc", "root", "over", "upon-it", "second", "on-the-second", "beside"]);
        assert!(visible_mounts().unwrap().iter().any(|m| m.path == Path::new("/")));
    }

    #[test]
    fn lines_of_mountinfo_are_read() {
        let line = br"36 35 98:0 / /mnt/a\040b\134 rw,noatime shared:1 - ext4 /dev/ubda rw";
        let found = parse_line(line).unwrap();
        assert_eq!(
            (found.device, found.path, found.source),
            ((98, 0), PathBuf::from(r"/mnt/a b\"), PathBuf::from("/dev/ubda"))
        );
        assert!(mounts().unwrap().iter().any(|m| m.path == Path::new("/")));
    }
}
