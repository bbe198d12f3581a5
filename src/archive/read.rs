//! Reads one entry from the filesystem into the stream: its attributes, then exactly as many bytes
//! as its head announces, whatever happens to the file meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::dirs::Dirs;
use super::entry::{Entry, Extra, Kind, Time, shown};
use super::flags;
use super::warnings::Warnings;
use crate::sys::fs::{self, Stat, XattrOf};

const EVM: &[u8] = b"security.evm";
const EVM_LOST: &str =
    "files were signed for this machine alone (security.evm), the backup has no such signatures";

/// Of one file, with their names. Anybody can give a file of XFS or btrfs hundreds of MiB of them,
/// and a head must fit in memory, here and in a rescue system. They come sorted by their names:
/// what the system needs (`security`, `system`) before what users may set.
const XATTRS_MAX_BYTES: usize = 4 << 20;
const XATTRS_LOST: &str =
    "files have more than 4 MiB of extended attributes, the backup has only the first of them";
/// Their names alone are more than 64 KiB, which no kernel gives, or their disk is broken.
const XATTRS_UNREAD: &str =
    "files have extended attributes that can't be read, the backup lacks these (the log says why)";
const FLAGS_UNREAD: &str =
    "files have inode flags that can't be read, the backup has none of them (the log says why)";

/// How many ranges of data the map of a sparse file may have: in a head these are some 5 MiB.
const MAP_MAX: usize = 128 << 10;

/// Between two looks at a file that somebody holds a lease on.
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// Opens a file or directory for reading, without touching its access time where that is allowed.
/// Who holds a lease on the file, as Samba and the NFS server do for their clients, is given the time
/// that the kernel gives it.
pub fn open(dirs: &mut Dirs, path: &[u8]) -> io::Result<File> {
    open_within(dirs, path, lease_patience)
}

/// For how long the NFS server waits for a client that does not answer, in seconds.
const NFS_LEASE: u64 = 90;

/// When the kernel takes a lease back by force, or the NFS server a delegation, and some seconds.
fn lease_patience() -> Duration {
    // 0: it never does.
    let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap_or_default();
    let seconds = text.trim().parse().unwrap_or(0).max(NFS_LEASE);
    Duration::from_secs(seconds.saturating_add(5))
}

fn open_within(
    dirs: &mut Dirs,
    path: &[u8],
    patience: impl FnOnce() -> Duration,
) -> io::Result<File> {
    let (dir, name) = dirs.at(path)?;
    let errno = match open_now(dir, name) {
        Err(errno) => errno,
        Ok(file) => return Ok(file),
    };
    let is_file = |stat: Stat| Kind::of_mode(stat.mode) == Some(Kind::File);
    if errno != Errno::EAGAIN || !fs::stat_at(dir, &fs::c_name(name)?).is_ok_and(is_file) {
        return Err(errno.into());
    }
    // This first attempt has told the holder to give it back.
    let (start, patience) = (Instant::now(), patience());
    log::info!("{} is leased to another program: waiting for it", shown(path));
    loop {
        std::thread::sleep(LEASE_PAUSE);
        match open_now(dir, name) {
            Err(Errno::EAGAIN) if start.elapsed() < patience => {}
            opened => return Ok(opened?),
        }
    }
}

fn open_now(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<File> {
    // NONBLOCK: it may have become a fifo meanwhile, which nobody writes to.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = match openat(dir, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => openat(dir, name, flags, Mode::empty())?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// As [`extra_of_file`], and looks then: when it is not what the walk saw, the entry is forgotten.
pub fn extra(
    file: &File,
    entry: &mut Entry,
    blocks: u64,
    warnings: &Warnings,
) -> io::Result<Extra> {
    let extra = extra_of_file(file, entry, blocks, warnings)?;
    if !fs::stat_at(file.as_fd(), c"").is_ok_and(|now| is_as_seen(&now, entry)) {
        entry.forget();
    }
    Ok(extra)
}

/// Attributes and flags, and the holes of a file that has fewer blocks than its size needs. Names
/// the flags that no archive can keep, and what the file does not give: its data is worth more.
/// Then the entry is forgotten. [`check_unchanged`] tells whether all this was of one file.
pub fn extra_of_file(
    file: &File,
    entry: &mut Entry,
    blocks: u64,
    warnings: &Warnings,
) -> io::Result<Extra> {
    let fd = file.as_fd();
    let all = fs::inode_flags(fd).unwrap_or_else(|error| {
        not_read(FLAGS_UNREAD, entry, &error, warnings);
        0
    });
    flags::not_kept(all).for_each(|what| warnings.lose(what, entry.shown()));
    let xattrs = xattrs(XattrOf::Fd(fd), entry, warnings);
    let mut extra = Extra { xattrs, flags: flags::settable(all), ..Extra::default() };
    if entry.kind == Kind::File && blocks.saturating_mul(512) < entry.size_bytes {
        let whole = [(0, entry.size_bytes)];
        let map = fs::data_ranges(fd, entry.size_bytes)?.map(|map| joined(map, MAP_MAX));
        extra.sparse = map.filter(|map| *map != whole);
    }
    Ok(extra)
}

/// The map with the smallest holes filled, until it has no more than `max` ranges.
fn joined(mut map: Vec<(u64, u64)>, max: usize) -> Vec<(u64, u64)> {
    let mut hole_bytes = 4096;
    while map.len() > max {
        map.dedup_by(|next, before| {
            let near = next.0 - (before.0 + before.1) <= hole_bytes;
            if near {
                before.1 = next.0 + next.1 - before.0;
            }
            near
        });
        hole_bytes = hole_bytes.saturating_mul(2);
    }
    map
}

/// As [`extra`], for what can't be opened.
pub fn extra_of_special(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &mut Entry,
    warnings: &Warnings,
) -> io::Result<Extra> {
    let name = fs::c_name(name)?;
    let before = fs::stat_at(dir, &name)?;
    let xattrs = xattrs(XattrOf::At(dir, &name), entry, warnings);
    // Each call looks the name up anew.
    let after = fs::stat_at(dir, &name)?;
    if after != before || !is_as_seen(&after, entry) {
        entry.forget();
    }
    Ok(Extra { xattrs, ..Extra::default() })
}

/// Whether this still is the file that the walk saw, unchanged. What is forgotten need not be.
fn is_as_seen(now: &Stat, entry: &Entry) -> bool {
    entry.is_forgotten() || (now.ino, Time::from(now.ctime)) == (entry.ino, entry.ctime)
}

fn not_read(what: &'static str, entry: &mut Entry, error: &io::Error, warnings: &Warnings) {
    log::warn!("{}: {error}", entry.shown());
    warnings.lose(what, entry.shown());
    entry.forget();
}

fn xattrs(of: XattrOf<'_>, entry: &mut Entry, warnings: &Warnings) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = XATTRS_MAX_BYTES;
    let keys = fs::list_xattrs(of).unwrap_or_else(|error| {
        not_read(XATTRS_UNREAD, entry, &error, warnings);
        Vec::new()
    });
    for key in keys {
        if key.to_bytes() == EVM {
            warnings.lose(EVM_LOST, entry.shown());
            continue;
        }
        let value = fs::get_xattr(of, &key).unwrap_or_else(|error| {
            not_read(XATTRS_UNREAD, entry, &error, warnings);
            None
        });
        if let Some(value) = value {
            let bytes = key.count_bytes() + value.len();
            if bytes > left {
                warnings.lose(XATTRS_LOST, entry.shown());
                break;
            }
            left -= bytes;
            found.push((key.into_bytes(), value));
        }
    }
    found
}

/// Appends `len` bytes from `offset`. What the file no longer has, or does not give, is zeros.
/// False when it did not give all of them: no later backup may take these zeros for the file's own.
pub fn append_data(
    file: &File,
    shown: impl Fn() -> String,
    (offset, len): (u64, u64),
    out: &mut Vec<u8>,
    warnings: &Warnings,
) -> io::Result<bool> {
    let start = out.len();
    let mut whole = true;
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    out.reserve(len);
    loop {
        let done = out.len() - start;
        if done == len {
            return Ok(whole);
        }
        match fs::append_at(file.as_fd(), out, len - done, offset + done as u64) {
            Ok(0) => {
                warnings
                    .add(format!("{} shrank while it was read: zeros stand for its end", shown()));
                break;
            }
            Ok(_) => {}
            Err(error) => {
                let (path, at) = (shown(), offset + done as u64);
                let text = format!("{path} can't be read at byte {at}, zeros stand there: {error}");
                warnings.unread(&path, text);
                whole = false;
                break;
            }
        }
    }
    out.resize(start + len, 0);
    Ok(whole)
}

/// Warns when a file is not what the walk saw. False when no later backup may take it for that.
pub fn check_unchanged(file: &File, entry: &Entry, warnings: &Warnings) -> bool {
    let Ok(now) = fs::stat_at(file.as_fd(), c"") else { return false };
    if now.ino != entry.ino {
        warnings.add(format!("{} was replaced while it was read", entry.shown()));
    } else if now.size_bytes > entry.size_bytes {
        warnings.add(format!("{} grew while it was read: its new end is missing", entry.shown()));
    } else if entry.mtime != now.mtime.into() || now.size_bytes != entry.size_bytes {
        warnings.add(format!("{} changed while it was read", entry.shown()));
    }
    is_as_seen(&now, entry)
}

/// A file that stays open while jobs for it are on their way.
#[derive(Debug)]
pub struct Held {
    pub file: File,
    /// How much of it is read at most; zeros stand for the rest.
    pub limit_bytes: u64,
    _count: Option<Arc<()>>,
}

impl Held {
    /// `count` has one more owner for as long as this lives.
    pub fn new(file: File, count: Option<&Arc<()>>) -> Held {
        Held { file, limit_bytes: u64::MAX, _count: count.map(Arc::clone) }
    }

    /// As a swap file: its header takes a page, of which the end says what it is (mkswap(8)).
    pub fn swap_header(file: File) -> Held {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let page = page.and_then(|bytes| u64::try_from(bytes).ok());
        Held { limit_bytes: page.unwrap_or(4096), ..Held::new(file, None) }
    }
}

/// An entry on its way into a run.
#[derive(Debug)]
pub struct Item {
    pub entry: Entry,
    pub blocks: u64,
    /// Held open since the walk saw it, where it has other names and can be opened.
    pub open: Option<Arc<Held>>,
    /// Other names of the file refer to this one, so it must be in the archive.
    pub has_links: bool,
    pub head: Option<Prepared>,
}

/// The head of a big file, whose data comes in slices.
#[derive(Debug)]
pub struct Prepared {
    pub bytes: Vec<u8>,
    pub data_bytes: u64,
    pub slices: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run::Cmd;

    /// Nobody gives it back, and the kernel takes it only after a long time.
    #[test]
    fn a_lease_that_stays_is_waited_for_no_longer_than_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "0").unwrap();
        let script = "import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(sys.argv[1] + '.held', 'w').close()
while not os.path.exists(sys.argv[1] + '.end'):
    time.sleep(0.05)";
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| Cmd::new("python3").args(["-c", script]).arg(&file).run());
            while !dir.path().join("file.held").exists() {
                if holder.is_finished() {
                    eprintln!("skipped: no leases here");
                    return;
                }
                std::thread::sleep(LEASE_PAUSE);
            }
            let mut dirs = Dirs::plain(dir.path()).unwrap();
            let (start, patience) = (Instant::now(), Duration::from_millis(300));
            let opened = open_within(&mut dirs, b"file", || patience);
            let waited = start.elapsed();
            std::fs::write(dir.path().join("file.end"), "").unwrap();
            assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
            assert!(waited >= patience && waited < patience * 20, "{waited:?}");
        });
    }

    #[test]
    fn a_lease_is_waited_for_longer_than_the_kernel_grants_it() {
        let granted = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap();
        let granted = granted.trim().parse().unwrap();
        assert!(lease_patience() > Duration::from_secs(NFS_LEASE.max(granted)));
    }

    #[test]
    fn a_map_without_measure_loses_its_smallest_holes() {
        let map: Vec<_> = (0..1000).map(|n| (n * 8192, 4096)).chain([(1 << 40, 7)]).collect();
        assert_eq!(joined(map.clone(), 1001), map);
        assert_eq!(joined(map, 1000), [(0, 999 * 8192 + 4096), (1 << 40, 7)]);
        let growing: Vec<_> = (1..60).map(|n| (1 << n, 1)).collect();
        let few = joined(growing, 20);
        assert!((10..=20).contains(&few.len()), "{few:?}");
        assert_eq!(few.last(), Some(&(1 << 59, 1)));
    }
}
