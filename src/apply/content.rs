//! Filesystems and swap: made, and checked to be what was asked for.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::stack::{modprobe, run_all, wait_for};
use crate::plan::Step;
use crate::plan::step::{MakeFs, MakeSubvolumes, MakeSwap};
use crate::sys::mount::TempMount;
use crate::sys::run::Cmd;
use crate::sys::{blkid, udev};

pub fn make_fs(step: &Step, make: &MakeFs) -> Result<()> {
    for dev in &make.more_devs {
        wait_for(Path::new(dev))?;
        Cmd::new("wipefs").args(["--all", "--force", dev]).run()?;
    }
    make_on(step, &make.dev)?;
    verify(&make.dev, &make.fs.kind, &make.fs.uuid, &make.fs.label)
}

/// Creates the subvolumes below the top of the filesystem, which is mounted for that alone.
pub fn make_subvolumes(make: &MakeSubvolumes) -> Result<()> {
    modprobe("btrfs");
    let options = make.mount_options();
    let top = TempMount::mount(&["-t", "btrfs", "-o", &options, &make.dev])?;
    for path in &make.paths {
        let path = top.path().join(path.as_path());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("creating {}", parent.display()))?;
        }
        Cmd::new("btrfs").args(["subvolume", "create"]).arg(&path).run()?;
    }
    if let Some(path) = &make.default {
        let path = top.path().join(path.as_path());
        Cmd::new("btrfs").args(["subvolume", "set-default"]).arg(path).run()?;
    }
    top.close()
}

pub fn make_swap(step: &Step, make: &MakeSwap) -> Result<()> {
    make_on(step, &make.dev)?;
    verify(&make.dev, "swap", &make.swap.uuid, &make.swap.label)
}

fn make_on(step: &Step, dev: &str) -> Result<()> {
    wait_for(Path::new(dev))?;
    Cmd::new("wipefs").args(["--all", "--force", dev]).run()?;
    run_all(&step.commands(""))?;
    udev::settle()
}

/// Asks libblkid, past its cache, what is there now.
fn verify(dev: &str, kind: &str, uuid: &str, label: &str) -> Result<()> {
    for (tag, wanted) in [("TYPE", kind), ("UUID", uuid), ("LABEL", label)] {
        if wanted.is_empty() {
            continue;
        }
        let found = blkid::tag(dev, tag)?;
        if found != wanted {
            bail!("{dev} has {tag} {found:?} and not {wanted:?}");
        }
    }
    Ok(())
}
