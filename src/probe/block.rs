//! Block devices: sysfs, and udev for what identifies a disk.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::Path;

use anyhow::{Context, Result};

use crate::layout::{Disk, Id};
use crate::sys::run::Cmd;

const CLASS_BLOCK: &str = "/sys/class/block";

/// sysfs counts in these, whatever the device's sectors are.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// A block device that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Without `/dev/`.
    pub name: String,
    /// Major and minor.
    pub number: (u32, u32),
    pub size_bytes: u64,
    pub kind: Kind,
    /// Names of the devices that stand on it.
    pub holders: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Disk,
    Partition {
        parent: String,
        number: u32,
    },
    Md,
    /// A device-mapper device with its name and its uuid (`LVM-...`, `CRYPT-...`, `mpath-...`).
    Dm {
        name: String,
        uuid: String,
    },
    /// Nothing that a recovery could make: loop, ram, optical, network block devices ...
    Other,
}

impl Device {
    pub fn dev(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

/// All block devices, those without a medium left out.
pub fn read() -> Result<Vec<Device>> {
    let mut devices = Vec::new();
    for entry in std::fs::read_dir(CLASS_BLOCK).with_context(|| format!("listing {CLASS_BLOCK}"))? {
        let entry = entry.with_context(|| format!("listing {CLASS_BLOCK}"))?;
        // A device may go away while it is looked at.
        devices.extend(read_device(&entry.path(), &entry.file_name().to_string_lossy()));
    }
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(devices)
}

fn read_device(sys: &Path, name: &str) -> Option<Device> {
    let attribute = |key: &str| read_trimmed(&sys.join(key));
    let size: u64 = attribute("size")?.parse().ok()?;
    // nvme paths below a multipath device are hidden: they have no node.
    if size == 0 || attribute("hidden").as_deref() == Some("1") {
        return None;
    }
    let dev = attribute("dev")?;
    let (major, minor) = dev.split_once(':')?;
    let kind = if let Some(number) = attribute("partition") {
        let parent = sys.canonicalize().ok()?.parent()?.file_name()?.to_string_lossy().into_owned();
        Kind::Partition { parent, number: number.parse().ok()? }
    } else if let Some(uuid) = attribute("dm/uuid") {
        Kind::Dm { name: attribute("dm/name").unwrap_or_default(), uuid }
    } else if sys.join("md").is_dir() {
        Kind::Md
    } else if is_disk_name(name) {
        Kind::Disk
    } else {
        Kind::Other
    };
    Some(Device {
        name: name.replace('!', "/"),
        number: (major.parse().ok()?, minor.parse().ok()?),
        size_bytes: size.checked_mul(SYSFS_SECTOR_BYTES)?,
        kind,
        holders: names_in(&sys.join("holders")),
    })
}

/// Whether a device of this name is a piece of hardware, or looks like one to this machine.
fn is_disk_name(name: &str) -> bool {
    const NEVER: &[&str] = &[
        "loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "rbd", "zd", "mtdblock", "drbd",
        "bcache",
    ];
    // "sdr" is a disk, "sr0" is not: what follows a prefix must be a number.
    let is = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let emmc_part = name.starts_with("mmcblk") && (name.contains("boot") || name.ends_with("rpmb"));
    !NEVER.iter().any(|prefix| is(prefix)) && !emmc_part
}

/// The disk that `device` is, with everything but its contents.
pub fn disk(device: &Device, udev: &Properties) -> Disk {
    let sys = Path::new(CLASS_BLOCK).join(device.name.replace('/', "!"));
    let attribute = |key: &str| read_trimmed(&sys.join(key)).filter(|value| !value.is_empty());
    let number = |key: &str| attribute(key).and_then(|value| value.parse::<u32>().ok());
    let flag = |key: &str| attribute(key).as_deref() == Some("1");
    let property = |key: &str| udev.get(key).filter(|value| !value.is_empty()).cloned();
    let serial = || {
        property("ID_SERIAL_SHORT")
            // udev's name for the serial number of a virtio disk.
            .or_else(|| property("ID_SERIAL").filter(|_| device.name.starts_with("vd")))
            .or_else(|| attribute("serial"))
            .or_else(|| attribute("device/serial"))
            .or_else(|| serial_of_vpd(&std::fs::read(sys.join("device/vpd_pg80")).ok()?))
    };
    Disk {
        id: Id::disk(&device.name),
        name: device.name.clone(),
        size_bytes: device.size_bytes,
        sector_bytes: sector_bytes(&device.name),
        physical_sector_bytes: number("queue/physical_block_size").unwrap_or(512),
        wwn: property("ID_WWN_WITH_EXTENSION").or_else(|| property("ID_WWN")).or_else(|| {
            attribute("wwid").or_else(|| attribute("device/wwid")).and_then(wwn_of_wwid)
        }),
        serial: serial().filter(|serial| is_serial(serial)),
        path: property("ID_PATH"),
        model: property("ID_MODEL")
            .map(|model| model.replace('_', " ").trim().to_owned())
            .or_else(|| attribute("device/model")),
        rotational: flag("queue/rotational"),
        removable: flag("removable"),
        read_only: flag("ro"),
        table: None,
        signatures: Vec::new(),
        unused: false,
    }
}

/// The logical sector size of a whole device.
pub fn sector_bytes(name: &str) -> u32 {
    let sys = Path::new(CLASS_BLOCK).join(name.replace('/', "!"));
    let text = read_trimmed(&sys.join("queue/logical_block_size"));
    text.and_then(|text| text.parse().ok()).unwrap_or(512)
}

/// sysfs writes `naa.5000c500...` where udev writes `0x5000c500...`.
fn wwn_of_wwid(wwid: String) -> Option<String> {
    match wwid.split_once('.') {
        Some(("naa", number)) => Some(format!("0x{number}")),
        Some(("eui", _)) => Some(wwid),
        _ => None,
    }
}

/// Firmware that has no serial number says so in many ways. What many disks share is no identity.
fn is_serial(serial: &str) -> bool {
    let nothing = |c: char| matches!(c, '0' | ' ' | '-' | '.');
    !serial.chars().all(nothing) && !serial.starts_with('(') && !serial.eq_ignore_ascii_case("none")
}

/// The unit serial number page of a SCSI disk: four bytes of header, then text (SPC-4, 7.8.18).
fn serial_of_vpd(page: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(page.get(4..)?).trim_matches([' ', '\0']).to_owned();
    Some(text).filter(|text| !text.is_empty())
}

/// What udev knows of a device: `ID_SERIAL_SHORT` ...
pub type Properties = BTreeMap<String, String>;

/// Asks udev about all of these sysfs paths at once; the answer is by the device's name. Empty
/// where there is no udev.
pub fn udev_properties(sys_paths: &[String]) -> BTreeMap<String, Properties> {
    if sys_paths.is_empty() {
        return BTreeMap::new();
    }
    match Cmd::new("udevadm").args(["info", "--query=property"]).args(sys_paths).output() {
        Ok(output) => parse_udev(&output.text()),
        Err(error) => {
            log::warn!("identifying devices without udev: {error:#}");
            BTreeMap::new()
        }
    }
}

/// Parses `udevadm info --query=property DEVICE...`: each device starts with its `DEVPATH`, whose
/// last part is its name.
pub fn parse_udev(text: &str) -> BTreeMap<String, Properties> {
    let mut found: BTreeMap<String, Properties> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        if key == "DEVPATH" {
            name = value.rsplit('/').next().unwrap_or_default().replace('!', "/");
        }
        found.entry(name.clone()).or_default().insert(key.to_owned(), value.to_owned());
    }
    found
}

pub(super) fn read_trimmed(path: &Path) -> Option<String> {
    read_to_string(path).ok().map(|text| text.trim_matches([' ', '\n', '\0']).to_owned())
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_from_what_only_looks_like_one() {
        for disk in
            ["sda", "sdr", "vda", "nvme0n1", "mmcblk0", "xvda", "ubdb", "cciss!c0d0", "pmem0"]
        {
            assert!(is_disk_name(disk), "{disk}");
        }
        for other in [
            "loop0",
            "ram1",
            "zram0",
            "sr0",
            "fd0",
            "dm-3",
            "md127",
            "nbd0",
            "mmcblk0boot0",
            "mmcblk0rpmb",
        ] {
            assert!(!is_disk_name(other), "{other}");
        }
    }

    #[test]
    fn sysfs_identities_read_as_udev_writes_them() {
        assert_eq!(wwn_of_wwid("naa.5000c5001".into()).as_deref(), Some("0x5000c5001"));
        assert_eq!(wwn_of_wwid("eui.00253".into()).as_deref(), Some("eui.00253"));
        assert_eq!(wwn_of_wwid("t10.ATA QEMU".into()), None);
        assert_eq!(serial_of_vpd(b"\0\x80\0\x08  WD-1234").as_deref(), Some("WD-1234"));
        assert_eq!(serial_of_vpd(b"\0\x80\0\0"), None);
        for nothing in ["", "(null)", "0000000000", "None", "   "] {
            assert!(!is_serial(nothing), "{nothing:?}");
        }
        assert!(is_serial("S45RNE0M") && is_serial("0001"));
    }
}
