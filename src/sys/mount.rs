//! Mounting, and undoing it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::run::Cmd;

/// A mount that is undone when this is dropped.
#[derive(Debug)]
pub struct MountGuard {
    path: Option<PathBuf>,
}

impl MountGuard {
    /// Runs `mount(8)` with these arguments, the last of which is the mount point `path`.
    pub fn mount(args: &[&str], path: &Path) -> Result<MountGuard> {
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
