//! The disk that is to be erased.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Result, anyhow, bail};

use crate::layout::Disk;
use crate::layout::units::size;
use crate::plan::is_called;
use crate::probe::block::{self, Device, Kind};
use crate::probe::{blkid, swaps};
use crate::sys;
use crate::sys::mount::mounts;

/// A whole disk and what is on it.
#[derive(Debug)]
pub struct Found {
    pub disk: Disk,
    pub partitions: Vec<Device>,
    /// What is on it, in words; empty for a blank disk.
    holds: Vec<String>,
    /// By what it is in use now, in words.
    uses: Vec<String>,
    /// It is on USB, or its medium can be taken out.
    pluggable: bool,
}

/// Finds the disk at this path.
///
/// # Errors
/// What is there is no disk.
pub fn find(path: &Path) -> Result<Found> {
    let real = path.canonicalize().map_err(|error| {
        anyhow!(
            "looking for {}: {error}\nhint: lsblk shows the disks that are here",
            path.display()
        )
    })?;
    let devices = block::read()?;
    let Some(device) = devices.iter().find(|device| Path::new(&device.dev()) == real) else {
        bail!("{} is no block device\nhint: lsblk shows the disks that are here", path.display());
    };
    match &device.kind {
        Kind::Disk => {}
        Kind::Other if device.name.starts_with("loop") => {}
        Kind::Partition { parent, .. } => bail!(
            "{} is a partition\nhint: rr format takes the whole disk: /dev/{parent}",
            path.display()
        ),
        _ => bail!("{} is no disk\nhint: lsblk shows the disks that are here", path.display()),
    }
    let sysfs = format!("/sys/class/block/{}", device.name.replace('/', "!"));
    let udev = block::udev_properties(std::slice::from_ref(&sysfs));
    let disk = block::disk(device, udev.get(&device.name).unwrap_or(&block::Properties::new()));
    let on_usb = Path::new(&sysfs).canonicalize().is_ok_and(|dir| {
        dir.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"usb"))
    });
    let of_disk = |other: &&Device| matches!(&other.kind, Kind::Partition { parent, .. } if *parent == device.name);
    let partitions: Vec<Device> = devices.iter().filter(of_disk).cloned().collect();
    let all: Vec<&Device> = std::iter::once(device).chain(&partitions).collect();
    Ok(Found {
        holds: holds(&all)?,
        uses: uses(&all)?,
        pluggable: disk.removable || on_usb,
        disk,
        partitions,
    })
}

fn holds(devices: &[&Device]) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for device in devices {
        for signature in blkid::signatures(&device.dev())? {
            // A protective MBR is a part of a GPT.
            if signature != "PMBR" {
                words.push(signature);
            }
        }
        let label = sys::blkid::tag(device.dev(), "LABEL").unwrap_or_default();
        if let Some(last) = words.last_mut().filter(|_| !label.is_empty()) {
            *last += &format!(" {label:?}");
        }
    }
    Ok(words)
}

fn uses(devices: &[&Device]) -> Result<Vec<String>> {
    let mut words = Vec::new();
    for mount in mounts()? {
        if let Some(device) = devices.iter().find(|device| device.number == mount.device) {
            words.push(format!("{} is mounted at {}", device.dev(), mount.path.display()));
        }
    }
    for swap in swaps::read() {
        if let Some(device) = devices.iter().find(|device| Path::new(&device.dev()) == swap.path) {
            words.push(format!("{} is swap", device.dev()));
        }
    }
    for device in devices {
        for holder in &device.holders {
            words.push(format!("{} is a part of {holder}", device.dev()));
        }
        let open = File::options().read(true).custom_flags(nix::libc::O_EXCL).open(device.dev());
        let busy = |e: &std::io::Error| e.raw_os_error() == Some(nix::libc::EBUSY);
        if words.is_empty() && open.as_ref().is_err_and(busy) {
            words.push(format!("{} is in use", device.dev()));
        }
    }
    Ok(words)
}

impl Found {
    /// What people know the disk by, and what is on it.
    pub fn describe(&self) -> String {
        let Found { disk, .. } = self;
        let holds = if self.holds.is_empty() { "blank".to_owned() } else { self.holds.join(", ") };
        format!(
            "{}: {}, serial {}, {}, {}: {holds}",
            disk.dev(),
            disk.model.as_deref().unwrap_or("unknown model"),
            disk.serial.as_deref().unwrap_or("none"),
            size(disk.size_bytes),
            if self.pluggable { "removable" } else { "NOT removable" },
        )
    }

    /// Fails where the disk may not be erased. `erase` is what the admin agreed to.
    pub fn refuse(&self, erase: &[String]) -> Result<()> {
        let Found { disk, .. } = self;
        let dev = disk.dev();
        if disk.read_only {
            bail!("{dev} is write-protected");
        }
        if !self.uses.is_empty() {
            bail!(
                "{dev} is in use: {}\nhint: nothing that is in use is erased",
                self.uses.join(", ")
            );
        }
        let why = match (self.pluggable, self.holds.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => "holds data",
            (false, true) => "can't be unplugged, so it may be one of this machine's own",
            (false, false) => {
                "can't be unplugged, so it may be one of this machine's own, and holds data"
            }
        };
        if erase.iter().any(|name| is_called(disk, name)) {
            return Ok(());
        }
        let name = disk.serial.as_deref().unwrap_or(&disk.name);
        bail!("{dev} {why}\nhint: if it may be erased, say so: --erase {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pluggable: bool, holds: &[&str], uses: &[&str]) -> Found {
        let words = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect();
        let disk = "id = \"disk:sdx\"\nname = \"sdx\"\nsize_bytes = 8000000000\nsector_bytes = 512\n\
                    serial = \"S123\"";
        Found {
            disk: toml::from_str(disk).unwrap(),
            partitions: Vec::new(),
            holds: words(holds),
            uses: words(uses),
            pluggable,
        }
    }

    #[test]
    fn only_a_blank_stick_is_erased_unasked() {
        let said = |found: &Found, erase: &[&str]| {
            let erase: Vec<String> = erase.iter().map(|&name| name.to_owned()).collect();
            found.refuse(&erase).map_err(|error| error.to_string())
        };
        assert_eq!(said(&found(true, &[], &[]), &[]), Ok(()));
        for stranger in
            [found(true, &["ext4"], &[]), found(false, &[], &[]), found(false, &["gpt"], &[])]
        {
            let refusal = said(&stranger, &["S124", "sdy"]).unwrap_err();
            assert!(
                refusal.ends_with("\nhint: if it may be erased, say so: --erase S123"),
                "{refusal}"
            );
            for name in ["S123", "sdx", "/dev/sdx"] {
                assert_eq!(said(&stranger, &[name]), Ok(()));
            }
        }
        let mounted = found(true, &["ext4"], &["/dev/sdx1 is mounted at /srv"]);
        assert!(said(&mounted, &["S123"]).unwrap_err().contains("mounted at /srv"));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        for (path, text) in [("/dev/null", "is no block device"), ("/dev/rr-none", "No such file")]
        {
            let error = find(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("\nhint: "), "{error}");
        }
    }
}
