//! Reads one entry from the filesystem into the stream: its attributes, then exactly as many bytes
//! as its head announces, whatever happens to the file meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::dirs::Dirs;
use super::entry::{Entry, Extra, Kind};
use super::flags;
use super::warnings::Warnings;
use crate::sys::fs::{self, XattrOf};

const EVM: &[u8] = b"security.evm";
const EVM_LOST: &str =
    "files were signed for this machine alone (security.evm), the backup has no such signatures";

/// Opens a file or directory for reading, without touching its access time where that is allowed.
pub fn open(dirs: &mut Dirs, path: &[u8]) -> io::Result<File> {
    let (dir, name) = dirs.at(path)?;
    // NONBLOCK: it may have become a fifo meanwhile, which nobody writes to.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let fd = match openat(dir, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(nix::errno::Errno::EPERM) => openat(dir, name, flags, Mode::empty())?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// Attributes and flags, and the holes of a file that has fewer blocks than its size needs. Names
/// the flags that no archive can keep.
pub fn extra(file: &File, entry: &Entry, blocks: u64, warnings: &Warnings) -> io::Result<Extra> {
    let fd = file.as_fd();
    let all = fs::inode_flags(fd)?;
    flags::not_kept(all).for_each(|what| warnings.lose(what, entry.shown()));
    let xattrs = xattrs(XattrOf::Fd(fd), entry, warnings)?;
    let mut extra = Extra { xattrs, flags: flags::settable(all), sparse: None };
    if entry.kind == Kind::File && blocks.saturating_mul(512) < entry.size_bytes {
        let whole = [(0, entry.size_bytes)];
        extra.sparse = fs::data_ranges(fd, entry.size_bytes)?.filter(|map| *map != whole);
    }
    Ok(extra)
}

/// As [`extra`], for what can't be opened.
pub fn extra_of_special(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    warnings: &Warnings,
) -> io::Result<Extra> {
    let name = fs::c_name(name)?;
    Ok(Extra { xattrs: xattrs(XattrOf::At(dir, &name), entry, warnings)?, ..Extra::default() })
}

fn xattrs(
    of: XattrOf<'_>,
    entry: &Entry,
    warnings: &Warnings,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for key in fs::list_xattrs(of)? {
        if key.to_bytes() == EVM {
            warnings.lose(EVM_LOST, entry.shown());
            continue;
        }
        if let Some(value) = fs::get_xattr(of, &key)? {
            found.push((key.into_bytes(), value));
        }
    }
    Ok(found)
}

/// Appends `len` bytes from `offset`. What the file no longer has, or does not give, is zeros.
pub fn append_data(
    file: &File,
    shown: impl Fn() -> String,
    (offset, len): (u64, u64),
    out: &mut Vec<u8>,
    warnings: &Warnings,
) -> io::Result<()> {
    let start = out.len();
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    out.reserve(len);
    loop {
        let done = out.len() - start;
        if done == len {
            return Ok(());
        }
        match fs::append_at(file.as_fd(), out, len - done, offset + done as u64) {
            Ok(0) => {
                warnings
                    .add(format!("{} shrank while it was read: zeros stand for its end", shown()));
                break;
            }
            Ok(_) => {}
            Err(error) => {
                warnings.add(format!(
                    "{} can't be read at byte {}, zeros stand there: {error}",
                    shown(),
                    offset + done as u64
                ));
                break;
            }
        }
    }
    out.resize(start + len, 0);
    Ok(())
}

/// Warns when a file is not what the walk saw.
pub fn check_unchanged(file: &File, entry: &Entry, warnings: &Warnings) {
    let Ok(now) = fs::stat_at(file.as_fd(), c"") else { return };
    if now.ino != entry.ino {
        warnings.add(format!("{} was replaced while it was read", entry.shown()));
    } else if now.size_bytes > entry.size_bytes {
        warnings.add(format!("{} grew while it was read: its new end is missing", entry.shown()));
    } else if entry.mtime != now.mtime.into() || now.size_bytes != entry.size_bytes {
        warnings.add(format!("{} changed while it was read", entry.shown()));
    }
}

/// A file that stays open while jobs for it are on their way.
#[derive(Debug)]
pub struct Held {
    pub file: File,
    _count: Option<Arc<()>>,
}

impl Held {
    /// `count` has one more owner for as long as this lives.
    pub fn new(file: File, count: Option<&Arc<()>>) -> Held {
        Held { file, _count: count.map(Arc::clone) }
    }
}

/// An entry on its way into a run.
#[derive(Debug)]
pub struct Item {
    pub entry: Entry,
    pub blocks: u64,
    /// Held open since the walk saw it: other names of the file refer to this one.
    pub open: Option<Arc<Held>>,
    pub head: Option<Prepared>,
}

/// The head of a big file, whose data comes in slices.
#[derive(Debug)]
pub struct Prepared {
    pub bytes: Vec<u8>,
    pub data_bytes: u64,
    pub slices: u32,
}
