//! A disk that is plugged in for backups, as a directory: what `rr format` made, or any other with an
//! ext4 filesystem.
//!
//! It is found by its filesystem's label and mounted in a mount namespace that ends at once, as an
//! export is ([`super::nfs`]): nobody else sees it, nothing has to be unmounted, and when rr has
//! ended it can be unplugged. The nodes' trees are in the directory [`DIR`], beside what boots.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::Access;
use crate::config::Stick;
use crate::sys::run::Cmd;
use crate::sys::{blkid, mount};

/// The directory that is the target.
pub const DIR: &str = "backup";
/// The one kind of filesystem: it keeps big files whole over a power cut, every rescue system
/// knows it, and GRUB reads it.
pub const KIND: &str = "ext4";
/// What `rr format` calls the partition.
pub const PARTITION: &str = "rr-backup";

/// Where only this process sees it, see [`mount::held`].
pub const MOUNT_POINT: &str = "/run/rr/target";
const OPTIONS: &str = "nosuid,nodev,noexec,noatime";

/// The filesystem of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub device: PathBuf,
    pub uuid: String,
}

/// Finds the filesystem.
///
/// # Errors
/// Also where there are several: they are named.
pub fn find(stick: &Stick) -> Result<Found> {
    let device = match stick {
        Stick::Label(label) => by_label(label)?,
        Stick::Device(path) => by_path(path)?,
    };
    let kind = blkid::tag(&device, "TYPE")?;
    if kind != KIND {
        let what = if kind.is_empty() { "no filesystem" } else { &kind };
        bail!(
            "{} holds {what}, and not {KIND}\nhint: rr format makes a disk for backups",
            device.display()
        );
    }
    let uuid = blkid::tag(&device, "UUID")?;
    Ok(Found { device, uuid })
}

fn by_label(label: &str) -> Result<PathBuf> {
    let mut found = blkid::devices_with("LABEL", label)?;
    match found.len() {
        0 => bail!(
            "no filesystem with the label {label} is here\nhint: plug the disk in; rr format /dev/DISK makes one"
        ),
        1 => Ok(found.remove(0)),
        _ => {
            let named = |device: &PathBuf| -> Result<String> {
                let uuid = blkid::tag(device, "UUID")?;
                Ok(format!("{} (/dev/disk/by-uuid/{uuid})", device.display()))
            };
            let named: Vec<String> = found.iter().map(named).collect::<Result<_>>()?;
            bail!(
                "{} filesystems have the label {label}: {}\nhint: unplug all but one, or name one: usb:///dev/disk/by-uuid/...",
                named.len(),
                named.join(", ")
            )
        }
    }
}

/// The device itself, or the partition for backups of a disk.
fn by_path(path: &Path) -> Result<PathBuf> {
    let device = path.canonicalize().map_err(|error| {
        anyhow!(
            "looking for {}: {error}\nhint: plug the disk in; ls /dev/disk/by-id",
            path.display()
        )
    })?;
    if blkid::tag(&device, "PTTYPE")?.is_empty() || !blkid::tag(&device, "TYPE")?.is_empty() {
        return Ok(device);
    }
    let name = device.file_name().context("a device without a name")?.to_owned();
    let of_disk = |partition: &PathBuf| {
        let class = Path::new("/sys/class/block").join(partition.file_name().unwrap_or_default());
        class.canonicalize().is_ok_and(|dir| {
            dir.parent().and_then(Path::file_name).is_some_and(|disk| disk == name)
        })
    };
    let mut found = blkid::devices_with("PARTLABEL", PARTITION)?;
    found.retain(of_disk);
    match found.len() {
        1 => Ok(found.remove(0)),
        count => bail!(
            "{} has {count} partitions named {PARTITION}\nhint: name the partition itself, or make the disk: rr format",
            path.display()
        ),
    }
}

/// Finds the filesystem, mounts it and opens the directory for backups, which is made for writing.
pub fn open(stick: &Stick, access: Access) -> Result<OwnedFd> {
    let Found { device, .. } = find(stick)?;
    mount::held(
        Path::new(MOUNT_POINT),
        || mount(&device, access),
        |()| open_dir(access).with_context(|| format!("opening {DIR} on {}", device.display())),
    )
}

fn mount(device: &Path, access: Access) -> Result<()> {
    let mount = |options: &str| {
        Cmd::new("mount").args(["-t", KIND, "-o", options]).arg(device).arg(MOUNT_POINT).run()
    };
    if access == Access::Read {
        match mount(&format!("ro,{OPTIONS}")) {
            Ok(()) => return Ok(()),
            // Somebody else has it mounted for writing, and so it can't be had otherwise.
            Err(error) => log::info!("mounting {} read-only: {error:#}", device.display()),
        }
    }
    mount(OPTIONS)
}

fn open_dir(access: Access) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = nix::fcntl::open(MOUNT_POINT, flags, Mode::empty())?;
    if access == Access::Write {
        match mkdirat(&top, DIR, Mode::S_IRWXU) {
            Ok(()) => nix::unistd::fsync(&top)?,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match openat(&top, DIR, flags, Mode::empty()) {
        Err(Errno::ENOENT) => bail!("there is no backup on it\nhint: is it the right disk?"),
        other => Ok(other?),
    }
}
