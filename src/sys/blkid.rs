//! Asking libblkid, past its cache, what is on which device.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::run::Cmd;

/// blkid's exit status where it found nothing.
const NOTHING: i32 = 2;

/// A tag of what is on a device (`TYPE`, `UUID`, `LABEL`, `PTTYPE`); empty where it has none.
pub fn tag(device: impl AsRef<Path>, tag: &str) -> Result<String> {
    let cmd = Cmd::new("blkid").args(["--probe", "--output", "value", "--match-tag", tag]);
    ask(&cmd.arg(device.as_ref())).map(|text| text.trim_end_matches('\n').to_owned())
}

/// All devices with this value of a tag, by name.
pub fn devices_with(tag: &str, value: &str) -> Result<Vec<PathBuf>> {
    let cmd = Cmd::new("blkid").args(["--cache-file", "/dev/null", "--output", "device"]);
    let text = ask(&cmd.args(["--match-token", &format!("{tag}={value}")]))?;
    let mut devices: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    devices.sort();
    devices.dedup();
    Ok(devices)
}

fn ask(cmd: &Cmd) -> Result<String> {
    let output = cmd.output()?;
    match output.code() {
        Some(0 | NOTHING) => Ok(output.text()),
        _ => bail!(
            "{} failed ({}): {}",
            cmd.to_shell(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}
