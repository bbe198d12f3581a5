//! Mounts the recovered filesystems below the root of the recovery.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::MsFlags;

use super::stack::{modprobe, wait_for};
use crate::plan::step::MountFs;
use crate::plan::{Plan, Step};
use crate::sys::mount as sys_mount;

pub fn mount(step: &MountFs, root: &Path) -> Result<()> {
    let path = below(root, step.path.as_path());
    let dev = Path::new(&step.dev);
    wait_for(dev)?;
    if is_mounted(dev, &path)? {
        return Ok(());
    }
    fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    modprobe(&step.kind);
    let options = step.data_options();
    let result = nix::mount::mount(
        Some(dev),
        &path,
        Some(OsStr::new(&step.kind)),
        MsFlags::MS_NOATIME,
        (!options.is_empty()).then_some(OsStr::new(&options)),
    );
    result.with_context(|| format!("mounting {} at {}", step.dev, path.display()))
}

/// Unmounts everything below `root`, the last mounted first.
pub fn unmount_all(plan: &Plan, root: &Path) -> Result<()> {
    let planned = plan.steps.iter().any(|s| matches!(s, Step::Mount(_)));
    if !planned {
        return Ok(());
    }
    for found in sys_mount::mounts()?.into_iter().rev().filter(|m| m.path.starts_with(root)) {
        sys_mount::unmount(&found.path)?;
    }
    Ok(())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(relative) }
}

fn is_mounted(dev: &Path, path: &Path) -> Result<bool> {
    let dev = fs::canonicalize(dev).with_context(|| format!("looking for {}", dev.display()))?;
    let same = |m: &sys_mount::MountInfo| {
        m.path == path && fs::canonicalize(&m.source).is_ok_and(|source| source == dev)
    };
    Ok(sys_mount::mounts()?.iter().any(same))
}
