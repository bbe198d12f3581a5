//! The restored tree as a place to run its own programs in.
//!
//! Boot loader and initramfs are built by the programs of the recovered system, which must see the
//! same devices, the same kernel and udev's database, else they hang or guess.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys::mount::MountGuard;
use crate::sys::run::{Cmd, Output};

/// What is bound into the tree, where it is there outside: below first.
const BINDS: &[&str] = &["/dev", "/dev/pts", "/sys", "/sys/firmware/efi/efivars", "/run"];

/// A tree with /dev, /proc, /sys and /run in it as long as this lives.
#[derive(Debug)]
pub struct Chroot {
    root: PathBuf,
    /// In the order they were mounted.
    mounts: Vec<MountGuard>,
}

impl Chroot {
    pub fn enter(root: &Path) -> Result<Chroot> {
        let mut chroot = Chroot { root: root.to_owned(), mounts: Vec::new() };
        chroot.mount(&["-t", "proc", "proc"], Path::new("/proc"))?;
        for bind in BINDS {
            let outside = Path::new(bind);
            if outside.is_dir() {
                chroot.mount(&["--bind", bind], outside)?;
            }
        }
        Ok(chroot)
    }

    fn mount(&mut self, args: &[&str], path: &Path) -> Result<()> {
        let inside = self.root.join(path.strip_prefix("/").unwrap_or(path));
        if !inside.is_dir() {
            std::fs::create_dir_all(&inside)
                .with_context(|| format!("creating {}", inside.display()))?;
        }
        let guard = MountGuard::mount(args, &inside)
            .with_context(|| format!("preparing {} to run programs in it", self.root.display()))?;
        self.mounts.push(guard);
        Ok(())
    }

    /// Runs a program of the tree to its end, whatever its exit status.
    pub fn output(&self, cmd: &Cmd, timeout: Duration) -> Result<Output> {
        self.prepare(cmd, timeout).output()
    }

    /// Runs a program of the tree that must succeed.
    pub fn run(&self, cmd: &Cmd, timeout: Duration) -> Result<()> {
        self.prepare(cmd, timeout).run()
    }

    fn prepare(&self, cmd: &Cmd, timeout: Duration) -> Cmd {
        cmd.clone()
            .chroot(&self.root)
            .dir("/")
            .timeout(timeout)
            // os-prober mounts every filesystem it finds, and has hung on some of them.
            .env("GRUB_DISABLE_OS_PROBER", "true")
            .env("DEBIAN_FRONTEND", "noninteractive")
    }

    /// Takes everything out of the tree again.
    pub fn close(mut self) -> Result<()> {
        while let Some(mount) = self.mounts.pop() {
            mount.close()?;
        }
        Ok(())
    }
}

impl Drop for Chroot {
    fn drop(&mut self) {
        // Vec drops front to back; what was mounted last must go first.
        while self.mounts.pop().is_some() {}
    }
}
