//! What an archive sees of a machine: each chosen filesystem whole, and nothing that is mounted over
//! it. What lies below `/dev` or below a dead NFS mount is seen as it is on the disk, and the mount is
//! never asked anything.
//!
//! Every chosen filesystem is a mount of its own ([`fs::without_mounts`]) that only we have. That
//! needs Linux 5.2 and `CAP_SYS_ADMIN`; without them the tree is seen as everybody sees it, and what
//! is below foreign mounts stays hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::dirs::{Dirs, split};
use crate::sys::fs;

#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    /// Filesystems that are in the view besides the root's: the chosen ones, and those on the way to
    /// them. By path, as in [`super::entry::Entry::path`].
    mounts: BTreeMap<Vec<u8>, OwnedFd>,
    /// Those of them that are a part of the filesystem around them: subvolumes below a subvolume.
    parts: BTreeSet<Vec<u8>>,
    is_clean: bool,
}

impl View {
    /// The tree below `root` as everybody sees it.
    pub fn plain(root: &Path) -> io::Result<View> {
        // The root itself may be reached through symbolic links: the caller named it.
        let root = fs::open_path(root)?;
        Ok(View { root, mounts: BTreeMap::new(), parts: BTreeSet::new(), is_clean: false })
    }

    /// The filesystem of `root`, and those mounted at one of `trees` or on the way there.
    ///
    /// `stand_ins` are snapshots: by the path of a filesystem, what is seen there instead. Nothing may
    /// be mounted below them. Those of no tree are what lacks in a snapshot around them.
    pub fn of_trees<'a>(
        root: &Path,
        trees: impl IntoIterator<Item = &'a [u8]>,
        stand_ins: &BTreeMap<Vec<u8>, Arc<OwnedFd>>,
    ) -> io::Result<View> {
        let plain = View::plain(root)?;
        let stand_in = |path: &[u8]| stand_ins.get(path).map(|root| root.try_clone()).transpose();
        let clean = match stand_in(b"")?.map_or_else(|| fs::without_mounts(plain.root.as_fd()), Ok)
        {
            Ok(clean) => clean,
            Err(error) if is_not_ours_to_do(&error) && stand_ins.is_empty() => {
                log::info!("what is below other filesystems' mount points is not seen: {error}");
                return Ok(plain);
            }
            Err(error) => return Err(error),
        };
        let mut dirs = Dirs::new(Arc::new(plain));
        let mut mounts = BTreeMap::new();
        for path in trees.into_iter().flat_map(prefixes) {
            if !mounts.contains_key(path)
                && let Some(mount) = mount_at(&mut dirs, path)?
            {
                mounts.insert(path.to_vec(), stand_in(path)?.unwrap_or(mount));
            }
        }
        let mut parts = BTreeSet::new();
        for (path, root) in stand_ins {
            if !path.is_empty() && !mounts.contains_key(path) {
                mounts.insert(path.clone(), root.try_clone()?);
                parts.insert(path.clone());
            }
        }
        Ok(View { root: clean, mounts, parts, is_clean: true })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The root of the filesystem that is mounted at `path` in this view.
    pub fn mount(&self, path: &[u8]) -> Option<BorrowedFd<'_>> {
        self.mounts.get(path).map(AsFd::as_fd)
    }

    /// Whether a filesystem is mounted at `path` in this view. None where it can't say: where the tree
    /// is seen as everybody sees it.
    pub fn has_mount(&self, path: &[u8]) -> Option<bool> {
        self.is_clean.then(|| self.mounts.contains_key(path))
    }

    /// Whether a directory with this status is where a filesystem is mounted, in this view.
    pub fn is_mount(&self, path: &[u8], stat: &fs::Stat, parent_dev: (u32, u32)) -> bool {
        if self.is_clean {
            return self.mounts.contains_key(path) && !self.parts.contains(path);
        }
        stat.mount_root.unwrap_or(stat.dev != parent_dev)
    }
}

/// An old kernel, a user who may not, a sandbox.
fn is_not_ours_to_do(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EPERM | Errno::ENOSYS | Errno::EINVAL))
}

/// `a`, `a/b` and `a/b/c` of `a/b/c`.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
    slashes.chain([path.len()]).map(move |end| &path[..end]).filter(|path| !path.is_empty())
}

/// A mount of our own of the filesystem that is mounted at `path`. None when there is none: a tree
/// may be any directory or file, or missing.
fn mount_at(dirs: &mut Dirs, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let parent = split(path).map_or(&b""[..], |(parent, _)| parent);
    let Ok(parent) = dirs.get(parent).and_then(|dir| fs::stat_at(dir, c"")) else {
        return Ok(None);
    };
    let Ok(dir) = dirs.get(path) else { return Ok(None) };
    let stat = fs::stat_at(dir, c"")?;
    if !stat.mount_root.unwrap_or(stat.dev != parent.dev) {
        return Ok(None);
    }
    fs::without_mounts(dir).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_filesystems_on_the_way_are_thought_of() {
        let found: Vec<_> = prefixes(b"run/media/disk").collect();
        assert_eq!(found, [&b"run"[..], b"run/media", b"run/media/disk"]);
        assert_eq!(prefixes(b"").count(), 0);
    }
}
