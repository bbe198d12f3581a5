//! A recovery is rehearsed on the day of the backup, as far as it only reads: the image's own
//! programs, in a chroot, find and mount the target, fetch the newest generation and check a part of
//! it. What that needs and the image lacks (a library of mount.nfs, a certificate, a login) would
//! otherwise be found on the day of the disaster.
//!
//! All mounts are made in a mount namespace of its own, which ends with the programs in it: whatever
//! happens, nothing is left mounted. What is the system's (`/dev`, `/sys`) is bound read-only.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::selftest;
use crate::sys::mount;
use crate::sys::run::Cmd;

/// The hidden verb that the image's rr is run with.
pub const VERB: &str = "rehearse";
/// Besides the time that a target is waited for. A target that takes longer for so little is no target.
const LIMIT: Duration = Duration::from_secs(600);
const RESOLVER: &str = "/etc/resolv.conf";
const HINT: &str = "hint: rr mkrescue tries again; where only the rescue system's own network reaches the target: rehearse = false in [rescue] of rr.toml";

/// What the image's rr says that it has done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rehearsed {
    /// The generation that was opened; None where there is none of the machine yet.
    pub generation: Option<String>,
    /// How much of its data was read and checked.
    pub checked_bytes: u64,
    /// Why no more could be read, where that is no fault of the image.
    pub left_out: Option<String>,
    /// What is wrong with the backup at the target. The image is none the worse for it.
    pub problem: Option<String>,
}

impl Rehearsed {
    /// For people.
    pub fn shown(&self) -> String {
        if let Some(problem) = &self.problem {
            return format!(
                "the rescue system itself reached the target, and can't read the newest backup: {problem}"
            );
        }
        match (&self.left_out, &self.generation) {
            (Some(why), _) => format!("not all of a recovery was rehearsed: {why}"),
            (None, Some(generation)) => format!(
                "the rescue system itself fetched {generation}, and checked {} MiB of it",
                self.checked_bytes.div_ceil(1 << 20)
            ),
            (None, None) => {
                "the rescue system itself reached the target; there is no backup of the machine to read yet".to_owned()
            }
        }
    }
}

/// Rehearses with the image that is unpacked below `root`. A target is waited for as long as `patience`.
///
/// # Errors
/// What a recovery would begin with can't be done with this image.
pub fn run(root: &Path, patience: Duration) -> Result<Rehearsed> {
    let root = root.canonicalize().with_context(|| format!("looking for {}", root.display()))?;
    // Its network writes it at every start; here it is the node's.
    if let Ok(text) = std::fs::read(RESOLVER) {
        let file = root.join(RESOLVER.trim_start_matches('/'));
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    let rehearse = Cmd::new("/usr/bin/rr").arg(VERB).chroot(&root).timeout(patience + LIMIT);
    let output = selftest::in_own_mount(&root, || match mount_below(&root) {
        Err(error) if mount::is_forbidden(&error) => Ok(None),
        Err(error) => Err(error),
        Ok(()) => rehearse.output().map(Some),
    });
    let output = output.map_err(|error| {
        anyhow!("rehearsing a recovery inside the rescue system: {error:#}\n{HINT}")
    })?;
    let Some(output) = output.flatten() else {
        let why = "nothing may be mounted here, as in a container".to_owned();
        return Ok(Rehearsed { left_out: Some(why), ..Rehearsed::default() });
    };
    if !output.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("with this rescue image no recovery would begin:\n{}\n{HINT}", said.trim());
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| anyhow!("rr inside the rescue system says {:?}: {error}", output.text()))
}

/// What PID 1 of the rescue system mounts, as far as reading a target needs it.
fn mount_below(root: &Path) -> Result<()> {
    let mount =
        |args: &[&str], point: &str| Cmd::new("mount").args(args).arg(root.join(point)).run();
    mount(&["-t", "proc", "proc"], "proc")?;
    mount(&["-o", "bind,ro", "/dev"], "dev")?;
    mount(&["-o", "bind,ro", "/sys"], "sys")?;
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], "run")
}
