//! udev: waiting for it, and asking it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::run::Cmd;

/// Waits until udev has handled all events. Does nothing where no udev runs.
pub fn settle() -> Result<()> {
    if !Path::new("/run/udev/control").exists() {
        return Ok(());
    }
    Cmd::new("udevadm").args(["settle", "--timeout=60"]).timeout(Duration::from_secs(90)).run()
}
