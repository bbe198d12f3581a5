//! Directories by descriptor: how paths of any length are reached without following a symbolic
//! link anywhere on the way.
//!
//! Each part of a path is opened by itself, relative to its parent, or is where the [`View`] has a
//! filesystem. The descriptors of the last path are kept, so that going through a tree in its order
//! opens each directory about once.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::entry::Kind;
use super::ground::Ground;
use super::pick::is_at_or_below;
use super::view::View;
use crate::sys::fs;
use crate::sys::mount::visible_mounts;

/// How many descriptors are kept. Deeper paths are walked again from the last one kept.
const KEPT: usize = 64;

#[derive(Debug)]
pub struct Dirs {
    view: Arc<View>,
    /// The path whose directories are open below.
    path: Vec<u8>,
    /// One for each part of `path`.
    open: Vec<Option<OwnedFd>>,
}

/// Parent and name of a path. None for the root itself.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    })
}

/// The path of `name` in `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Refuses to go through what is no directory, before anything is written: only what is at and below
/// `tops` may take the place of what is there.
pub fn check_way(root: &Path, tops: &[Vec<u8>]) -> Result<()> {
    let opening = || format!("opening {}", root.display());
    let mut dirs = Dirs::plain(root).with_context(opening)?;
    for top in tops {
        let slashes = top.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (end, _) in slashes {
            let above = &top[..end];
            if tops.iter().any(|top| is_at_or_below(above, top)) {
                break; // the archive has it, and what is below
            }
            let Ok(stat) = dirs.stat(above) else { break };
            if Kind::of_mode(stat.mode) != Some(Kind::Dir) {
                let here = |path: &[u8]| root.join(OsStr::from_bytes(path)).display().to_string();
                bail!(
                    "{} is {} here, and {} would be behind it\nhint: restore to another --to DIR, or remove it",
                    here(above),
                    no_dir(stat.mode),
                    here(top)
                );
            }
        }
    }
    Ok(())
}

fn no_dir(mode: u32) -> &'static str {
    match Kind::of_mode(mode) {
        Some(Kind::Symlink) => "a symbolic link",
        _ => "no directory",
    }
}

fn flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

impl Dirs {
    pub fn new(view: Arc<View>) -> Dirs {
        Dirs { view, path: Vec::new(), open: Vec::new() }
    }

    /// In the tree below `root` as everybody sees it.
    pub fn plain(root: &Path) -> io::Result<Dirs> {
        Ok(Dirs::new(Arc::new(View::plain(root)?)))
    }

    /// A directory, and the name in it by which `path` is reached; `.` for the root of a filesystem.
    pub fn at<'p>(&mut self, path: &'p [u8]) -> io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let Some((parent, name)) = split(path).filter(|_| self.view.mount(path).is_none()) else {
            return Ok((self.get(path)?, b"."));
        };
        Ok((self.get(parent)?, name))
    }

    pub fn stat(&mut self, path: &[u8]) -> io::Result<fs::Stat> {
        let (dir, name) = self.at(path)?;
        fs::stat_at(dir, &fs::c_name(name)?)
    }

    /// Whether a directory with this status is where a filesystem is mounted.
    pub fn is_mount(&self, path: &[u8], stat: &fs::Stat, parent_dev: (u32, u32)) -> bool {
        self.view.is_mount(path, stat, parent_dev)
    }

    /// As [`Dirs::is_mount`], of what gives no status. What answers for it may be dead: it is not
    /// asked.
    pub fn is_silent_mount(&mut self, path: &[u8]) -> bool {
        // In a view of our own nothing is mounted but what was chosen.
        if self.view.has_mount(path).is_some() {
            return false;
        }
        let Ok((dir, name)) = self.at(path) else { return false };
        let dir = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let Ok(place) = dir.map(|dir| dir.join(OsStr::from_bytes(name))) else { return false };
        visible_mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.path == place))
    }

    /// The directory at `path`.
    pub fn get(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        self.reach(path, None)
    }

    /// As [`Dirs::get`], but makes what is missing, and replaces what is no directory where the
    /// archive has one. What is there becomes ground to put files into.
    pub fn get_or_make(&mut self, path: &[u8], ground: &Ground) -> io::Result<BorrowedFd<'_>> {
        self.reach(path, Some((ground, false)))
    }

    /// As [`Dirs::get_or_make`], of a directory that the archive itself has come to.
    pub fn make(&mut self, path: &[u8], ground: &Ground) -> io::Result<BorrowedFd<'_>> {
        self.reach(path, Some((ground, true)))
    }

    fn reach(&mut self, path: &[u8], made: Option<(&Ground, bool)>) -> io::Result<BorrowedFd<'_>> {
        if self.path != path {
            self.leave_to(path);
            self.enter(path, made)?;
        }
        // The last one is never let go: the gaps are further up.
        let last = self.open.last().and_then(Option::as_ref);
        Ok(last.map_or(self.view.root(), AsFd::as_fd))
    }

    /// Keeps only what `path` has in common with the path that is open.
    fn leave_to(&mut self, path: &[u8]) {
        let goes_on = path.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest[0] == b'/');
        if goes_on && matches!(self.open.last(), Some(Some(_))) {
            return; // the usual way: down
        }
        let same = parts(&self.path).zip(parts(path)).take_while(|(a, b)| a == b).count();
        let len: usize = parts(path).take(same).map(|part| part.len() + 1).sum();
        self.path.truncate(len.saturating_sub(1));
        self.open.truncate(same);
        // Above a gap there is nothing to start from.
        while matches!(self.open.last(), Some(None)) {
            self.open.pop();
            self.path.truncate(self.path.iter().rposition(|&b| b == b'/').unwrap_or(0));
        }
    }

    fn enter(&mut self, whole: &[u8], made: Option<(&Ground, bool)>) -> io::Result<()> {
        let from = self.open.len();
        for part in parts(whole).skip(from) {
            let path = join(&self.path, part);
            let making = made.map(|(ground, is_entry)| {
                let is_entry = is_entry && path.len() == whole.len();
                Making { ground, is_brought: ground.is_brought(&path, is_entry) }
            });
            let parent = self.open.last().and_then(Option::as_ref);
            let parent = parent.map_or(self.view.root(), AsFd::as_fd);
            let fd = match self.view.mount(&path) {
                Some(mount) => mount.try_clone_to_owned()?,
                None => open_part(parent, part, &path, making)?,
            };
            self.path = path;
            self.open.push(Some(fd));
            if let Some(old) = self.open.len().checked_sub(KEPT + 1) {
                self.open[old] = None;
            }
        }
        Ok(())
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty())
}

/// How a directory is made.
#[derive(Clone, Copy)]
struct Making<'a> {
    ground: &'a Ground,
    /// It comes with the archive, and is not only on the way to what does.
    is_brought: bool,
}

fn open_part(
    parent: BorrowedFd<'_>,
    part: &[u8],
    path: &[u8],
    making: Option<Making<'_>>,
) -> io::Result<OwnedFd> {
    let mut made = false;
    loop {
        let errno = match openat(parent, part, flags(), Mode::empty()) {
            Ok(fd) => {
                match making {
                    Some(making) if made => {
                        making.ground.enter_new(path, fd.as_fd(), making.is_brought);
                    }
                    Some(making) => making.ground.enter_old(path, fd.as_fd()),
                    None => {}
                }
                return Ok(fd);
            }
            Err(errno) => errno,
        };
        let Some(making) = making else { return Err(errno.into()) };
        match errno {
            Errno::ENOENT => {}
            Errno::ENOTDIR | Errno::ELOOP if making.is_brought => {
                let target = readlinkat(parent, part).ok();
                match unlinkat(parent, part, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) => making.ground.has_replaced(path, target),
                    // Another thread was faster.
                    Err(Errno::ENOENT | Errno::EISDIR) => continue,
                    Err(errno) => return Err(errno.into()),
                }
            }
            Errno::ENOTDIR | Errno::ELOOP => {
                let there = fs::stat_at(parent, &fs::c_name(part)?)?;
                return Err(making.ground.in_the_way(path, no_dir(there.mode)));
            }
            errno => return Err(errno.into()),
        }
        match mkdirat(parent, part, Mode::from_bits_truncate(0o700)) {
            Ok(()) => made = true,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ground::Brought;
    use super::*;

    fn ground(root: &Path) -> Ground {
        Ground::new(root, Brought::Members, false).unwrap()
    }

    #[test]
    fn deep_paths_and_detours_are_reached() {
        let tmp = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::plain(tmp.path()).unwrap();
        let deep = vec!["d".repeat(200); 100].join("/").into_bytes();
        let ground = ground(tmp.path());
        dirs.get_or_make(&deep, &ground).unwrap();
        dirs.get_or_make(&join(&deep, b"x"), &ground).unwrap();
        // Up to a directory whose descriptor was let go, then down again.
        let up = &deep[..200 * 20 + 19];
        let stat = |dirs: &mut Dirs, path: &[u8]| {
            let fd = dirs.get(path).unwrap();
            crate::sys::fs::stat_at(fd, c"").unwrap().ino
        };
        let (a, b) = (stat(&mut dirs, up), stat(&mut dirs, &deep));
        let mut fresh = Dirs::plain(tmp.path()).unwrap();
        assert_eq!((a, b), (stat(&mut fresh, up), stat(&mut fresh, &deep)));
        assert_ne!(a, b);
        assert!(dirs.get(b"missing").is_err());
        assert_eq!(stat(&mut dirs, b""), stat(&mut fresh, b""));
    }

    #[test]
    fn symbolic_links_are_replaced_only_by_what_the_archive_has_and_never_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let link = tmp.path().join("a");
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        let mut dirs = Dirs::plain(tmp.path()).unwrap();
        let ground = ground(tmp.path());
        assert!(dirs.get(b"a").is_err());
        let error = dirs.make(b"a/b", &ground).unwrap_err().to_string();
        assert!(error.contains("a is a symbolic link here"), "{error}");
        assert!(link.symlink_metadata().unwrap().is_symlink());
        dirs.make(b"a", &ground).unwrap();
        dirs.get_or_make(b"a/b", &ground).unwrap();
        assert!(link.symlink_metadata().unwrap().is_dir());
        assert!(!outside.path().join("b").exists());
    }
}
