//! Which mount is where, and which holds what.

use std::path::Path;

use anyhow::Result;

use crate::sys::mount::{MountInfo, mounts, unmount};

/// What is mounted on `path` itself: the topmost.
pub fn at<'a>(all: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    all.iter().rfind(|mount| mount.path == path)
}

/// The mount that a file at `path` is on.
pub fn holding<'a>(all: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    all.iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.components().count())
}

/// Unmounts everything at and below `root`, what was mounted last first.
pub fn unmount_all(root: &Path) -> Result<()> {
    for mount in mounts()?.iter().rev().filter(|mount| mount.path.starts_with(root)) {
        unmount(&mount.path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_point_and_by_what_lies_on_them() {
        let all: Vec<_> = [
            ("/", "rootfs"),
            ("/mnt/rr", "/dev/vda1"),
            ("/mnt/rr/data", "/dev/vda2"),
            ("/mnt/rr/data", "/dev/vda3"),
            ("/mnt/rrr", "tmpfs"),
        ]
        .map(|(path, source)| MountInfo {
            device: (8, 1),
            root: "/".into(),
            path: path.into(),
            options: "rw".into(),
            kind: "ext4".into(),
            source: source.into(),
        })
        .into();
        assert_eq!(at(&all, Path::new("/mnt/rr/data")).unwrap().source, Path::new("/dev/vda3"));
        assert_eq!(at(&all, Path::new("/mnt")), None);
        let held = |path| holding(&all, Path::new(path)).unwrap().source.to_str().unwrap();
        assert_eq!(held("/mnt/rr/data/x"), "/dev/vda3");
        assert_eq!(held("/mnt/rr/dat"), "/dev/vda1");
        assert_eq!(held("/mnt/rrx"), "rootfs");
    }
}
