//! udev, and the drivers that no device asks for.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::sys::run::Cmd;

const UDEVD: &[&str] =
    &["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/sbin/udevd"];

/// Kinds of devices that are many, need no driver, and have nothing to do with a recovery.
const NOT_ASKED: &[&str] = &["mem", "memory", "tty", "vc", "vtconsole", "workqueue"];

/// Starts udev, which loads the drivers of what it finds, and waits until it has seen everything.
pub fn start(layout: &Layout) -> Result<()> {
    let Some(udevd) = UDEVD.iter().find(|path| Path::new(path).exists()) else {
        bail!("there is no systemd-udevd in this rescue system");
    };
    // Its own messages go to the log of the kernel.
    Cmd::new(udevd).arg("--daemon").spawn(Stdio::null(), Stdio::null())?.wait()?;
    load(layout)?;
    let mut trigger = Cmd::new("udevadm").args(["trigger", "--action=add", "--type=devices"]);
    for subsystem in NOT_ASKED {
        trigger = trigger.args(["--subsystem-nomatch", subsystem]);
    }
    trigger.run()?;
    settle()?;
    // Controllers find their disks on their own time.
    settle()
}

fn settle() -> Result<()> {
    let output = Cmd::new("udevadm")
        .args(["settle", "--timeout=120"])
        .timeout(Duration::from_secs(150))
        .output()?;
    if !output.success() {
        log::warn!("udev is still busy after 120 s");
    }
    Ok(())
}

/// Loads what the layout needs. What is missing is found when it is used, and told then.
fn load(layout: &Layout) -> Result<()> {
    let modules = modules(layout);
    let output = Cmd::new("modprobe")
        .args(["--all", "--quiet"])
        .args(&modules)
        .output()
        .context("loading drivers")?;
    if !output.success() {
        log::info!("not all of these drivers are there: {}", modules.join(" "));
    }
    Ok(())
}

fn modules(layout: &Layout) -> Vec<String> {
    let mut names: BTreeSet<&str> = ["dm_mod", "isofs", "loop", "sr_mod"].into();
    if Path::new("/sys/firmware/efi").exists() {
        names.insert("efivarfs");
    }
    names.extend(layout.fs.iter().map(|fs| fs.kind.as_str()));
    if layout.fs.iter().any(|fs| fs.kind == "vfat") {
        names.extend(["nls_cp437", "nls_ascii", "nls_iso8859_1"]);
    }
    if !layout.md.is_empty() {
        names.insert("md_mod");
    }
    for md in &layout.md {
        names.insert(match md.level.as_str() {
            "raid4" | "raid5" | "raid6" => "raid456",
            level => level,
        });
    }
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_layout_is_made_of_is_loaded() {
        let text = include_str!("../../tests/fixtures/rescue/layout.toml");
        let names = modules(&crate::layout::schema::parse(text).unwrap());
        for name in ["xfs", "ext4", "raid1", "md_mod", "dm_mod"] {
            assert!(names.contains(&name.to_owned()), "{name} not in {names:?}");
        }
    }
}
