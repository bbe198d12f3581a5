//! The directory that a rescue image is built in.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys::lock::{self, Lock};
use crate::sys::mount;

/// How directories to build in are called.
const WORK: &str = "rr-rescue-";
/// A directory is there for a moment before it is locked.
const WORK_IS_NEW: Duration = Duration::from_secs(600);

/// A directory to build in, which goes with this, but not with what is mounted there. The image may hold
/// a login: nobody else looks into it.
pub(super) struct WorkDir {
    pub path: PathBuf,
    /// Says that a run is at work there, however that ends. None where directories can't be locked, as
    /// on NFS: there nothing is taken for litter either.
    _lock: Option<Lock>,
}

impl WorkDir {
    /// In /var/tmp: an image is big, and /tmp often lies in memory.
    pub fn make() -> Result<WorkDir> {
        let (first, second) = (Path::new("/var/tmp"), std::env::temp_dir());
        for dir in [first, &second] {
            remove_litter(dir);
        }
        let made = WorkDir::make_in(first).or_else(|_| WorkDir::make_in(&second));
        made.context("creating a directory to build the rescue image in")
    }

    fn make_in(dir: &Path) -> Result<WorkDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(WORK).permissions(Permissions::from_mode(0o700));
        let made = builder.tempdir_in(dir)?;
        // systemd-tmpfiles(8) may hold it for a moment.
        let lock = lock::wait_for_dir(made.path()).unwrap_or_else(|error| {
            log::info!("{error:#}");
            None
        });
        Ok(WorkDir { path: made.keep(), _lock: lock })
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = mount::remove_tree(&self.path) {
            log::warn!("{error:#}");
        }
    }
}

/// Removes what runs that were killed have left, by the names and the modes that they give.
fn remove_litter(parent: &Path) {
    let own = nix::unistd::Uid::effective().as_raw();
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        let age = meta.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        let name = entry.file_name();
        let is_random =
            |rest: &str| rest.len() == 6 && rest.bytes().all(|b| b.is_ascii_alphanumeric());
        let is_ours = name.to_str().and_then(|name| name.strip_prefix(WORK)).is_some_and(is_random)
            && meta.mode() & 0o777 == 0o700;
        if !is_ours || !meta.is_dir() || meta.uid() != own || age < WORK_IS_NEW {
            continue;
        }
        let removed = match lock::take_dir(&path) {
            Ok(None) => continue, // A run is at work there.
            Ok(Some(_lock)) => mount::remove_tree(&path),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => log::info!("removed {}, which a killed run had left", path.display()),
            Err(error) => log::warn!("{error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn nobody_else_looks_into_an_image_that_is_built_and_a_killed_run_leaves_none() {
        let parent = tempfile::tempdir().unwrap();
        let dir = |name: &str, age_seconds: u64| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
            std::fs::write(path.join("initrd"), "password").unwrap();
            let time = std::time::SystemTime::now() - Duration::from_secs(age_seconds);
            File::open(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let old = dir("rr-rescue-Old123", 7200);
        let (new, other) = (dir("rr-rescue-New123", 1), dir("rr-rescue-by-hand", 7200));
        let open = dir("rr-rescue-Unpack", 7200);
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        let link = parent.path().join("rr-rescue-Link12");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let running = WorkDir::make_in(parent.path()).unwrap();
        let mode = running.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let time = std::time::SystemTime::now() - Duration::from_secs(7200);
        File::open(&running.path).unwrap().set_modified(time).unwrap();

        remove_litter(parent.path());
        assert!(!old.exists());
        let kept = [&running.path, &new, &other, &open, &link];
        assert!(kept.iter().all(|path| path.exists()), "{kept:?}");
        let path = running.path.clone();
        drop(running);
        assert!(!path.exists());
    }
}
