//! Directories by descriptor: how paths of any length are reached without following a symbolic
//! link anywhere on the way.
//!
//! Each part of a path is opened by itself, relative to its parent, or is where the [`View`] has a
//! filesystem. The descriptors of the last path are kept, so that going through a tree in its order
//! opens each directory about once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::ground::Ground;
use super::view::View;
use crate::sys::fs;

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

    /// The directory at `path`.
    pub fn get(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        self.reach(path, None)
    }

    /// As [`Dirs::get`], but makes what is missing, and replaces what is no directory. What is
    /// there becomes ground to put files into.
    pub fn get_or_make(&mut self, path: &[u8], ground: &Ground) -> io::Result<BorrowedFd<'_>> {
        self.reach(path, Some(ground))
    }

    fn reach(&mut self, path: &[u8], ground: Option<&Ground>) -> io::Result<BorrowedFd<'_>> {
        if self.path != path {
            self.leave_to(path);
            self.enter(path, ground)?;
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

    fn enter(&mut self, path: &[u8], ground: Option<&Ground>) -> io::Result<()> {
        let from = self.open.len();
        for part in parts(path).skip(from) {
            let path = join(&self.path, part);
            let parent = self.open.last().and_then(Option::as_ref);
            let parent = parent.map_or(self.view.root(), AsFd::as_fd);
            let fd = match self.view.mount(&path) {
                Some(mount) => mount.try_clone_to_owned()?,
                None => open_part(parent, part, &path, ground)?,
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

fn open_part(
    parent: BorrowedFd<'_>,
    part: &[u8],
    path: &[u8],
    ground: Option<&Ground>,
) -> io::Result<OwnedFd> {
    let mut made = false;
    loop {
        let errno = match openat(parent, part, flags(), Mode::empty()) {
            Ok(fd) => {
                match ground {
                    Some(ground) if made => ground.enter(path, fd.as_fd()),
                    Some(ground) => ground.enter_old(path, fd.as_fd()),
                    None => {}
                }
                return Ok(fd);
            }
            Err(errno) => errno,
        };
        match errno {
            Errno::ENOENT if ground.is_some() => {}
            Errno::ENOTDIR | Errno::ELOOP if ground.is_some() => {
                unlinkat(parent, part, UnlinkatFlags::NoRemoveDir)?;
            }
            _ => return Err(errno.into()),
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
    use super::*;

    #[test]
    fn deep_paths_and_detours_are_reached() {
        let tmp = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::plain(tmp.path()).unwrap();
        let deep = vec!["d".repeat(200); 100].join("/").into_bytes();
        let ground = Ground::new(tmp.path()).unwrap();
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
    fn symbolic_links_are_replaced_and_never_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), tmp.path().join("a")).unwrap();
        let mut dirs = Dirs::plain(tmp.path()).unwrap();
        assert!(dirs.get(b"a").is_err());
        dirs.get_or_make(b"a/b", &Ground::new(tmp.path()).unwrap()).unwrap();
        assert!(tmp.path().join("a").symlink_metadata().unwrap().is_dir());
        assert!(!outside.path().join("b").exists());
    }
}
