//! Takes down what stands on the disks to erase: mounts, swap, device-mapper devices, md arrays.
//!
//! What is in the way is found in sysfs when the step is done: udev may have assembled something
//! since the plan was made. A device that also stands on a disk that stays is left alone, and ends
//! the recovery before anything is erased.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layout::Disk;
use crate::plan::step::Release;
use crate::plan::{self, Plan};
use crate::probe::swaps;
use crate::sys::mount::MountInfo;
use crate::sys::run::Cmd;
use crate::sys::{ioctl, mount, udev};

/// The disks to erase, by name, opened so that nobody else can claim them or a partition of them.
pub type Held = BTreeMap<String, File>;

/// How often what comes back is taken down again: udev assembles arrays on its own.
const TRIES: u32 = 10;

/// Takes down what stands on the plan's disks and holds the disks until they are erased.
pub fn release(plan: &Plan, step: &Release) -> Result<Held> {
    let mut tries = 1;
    loop {
        udev::settle()?;
        for name in &step.disks {
            check_below(name, &step.disks)?;
        }
        match take_down(&step.disks).and_then(|()| hold(plan)) {
            Ok(held) => return Ok(held),
            Err(error) if tries < TRIES => log::debug!("try {tries}: {error:#}"),
            Err(error) => return Err(error),
        }
        tries += 1;
        sleep(Duration::from_millis(300));
    }
}

fn take_down(disks: &[String]) -> Result<()> {
    let mut devices = BTreeSet::new();
    for name in disks {
        tower(name, &mut devices)?;
    }
    unmount(&devices)?;
    swap_off(&devices)?;
    disks.iter().try_for_each(|name| stop_above(name))
}

/// Opens every disk before the first is touched: closing one wakes udev, which would look for
/// arrays on the others.
fn hold(plan: &Plan) -> Result<Held> {
    let mut held = Held::new();
    for found in &plan.disks {
        held.insert(found.new.name.clone(), open_exclusive(&found.new)?);
    }
    Ok(held)
}

/// Opens a disk that nobody else may hold, and checks that it is the one that was planned for.
fn open_exclusive(disk: &Disk) -> Result<File> {
    let dev = disk.dev();
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_EXCL | nix::libc::O_CLOEXEC)
        .open(&dev)
        .with_context(|| format!("opening {dev} for erasing (is it still in use?)"))?;
    check_identity(&file, disk)?;
    Ok(file)
}

/// Is this the disk that was planned for?
pub fn check_identity(file: &File, disk: &Disk) -> Result<()> {
    let dev = disk.dev();
    let (size_bytes, sector_bytes) = (ioctl::size_bytes(file)?, ioctl::sector_bytes(file)?);
    if (size_bytes, sector_bytes) != (disk.size_bytes, disk.sector_bytes) {
        bail!(
            "{dev} is not the disk that was planned for: it has {size_bytes} bytes in sectors of \
             {sector_bytes}, the plan says {} in {}\nhint: run the recovery again",
            disk.size_bytes,
            disk.sector_bytes
        );
    }
    let told = Told::of(&disk.name);
    if !told.is_of(disk) {
        bail!(
            "{dev} is not the disk that was planned for: its serial number is {}, the plan \
             says {}\nhint: run the recovery again",
            told.serial.unwrap_or_default(),
            disk.serial.as_deref().unwrap_or_default()
        );
    }
    Ok(())
}

/// The numbers of a disk where the kernel knows them.
#[derive(Debug, Default)]
struct Told {
    serial: Option<String>,
    /// Of a SCSI disk: `naa.5000c500...`
    wwid: Option<String>,
}

impl Told {
    fn of(name: &str) -> Told {
        let dir = sys_block(name);
        let first = |files: &[&str]| {
            let texts = files.iter().filter_map(|file| fs::read_to_string(dir.join(file)).ok());
            texts.map(|text| text.trim().to_owned()).find(|text| !text.is_empty())
        };
        Told { serial: first(&["serial", "device/serial"]), wwid: first(&["device/wwid"]) }
    }

    /// Whether nothing tells that this is another disk. Of a SCSI disk udev's serial number, which was
    /// planned with, is often its name in page 0x83; the kernel's, since 7.1, is that of page 0x80. So
    /// one that differs says nothing there: the name has to differ as well.
    fn is_of(&self, planned: &Disk) -> bool {
        let alike = |a: &str, b: &str| a.contains(b) || b.contains(a);
        let (Some(serial), Some(found)) = (plan::consent::serial(planned), &self.serial) else {
            return true;
        };
        let number = |name: &str| {
            let number = ["0x", "naa.", "eui."].iter().find_map(|kind| name.strip_prefix(kind))?;
            Some(number.to_ascii_lowercase())
        };
        // Such as `t10.ATA     ST4000NM...   ZC1A2B3C`; udev has no blanks.
        let plain = |text: &str| text.replace([' ', '_'], "").to_ascii_lowercase();
        let is_named_so = |wwid: &str| {
            let planned_number = planned.wwn.as_deref().and_then(number);
            match (planned_number, number(wwid)) {
                (Some(planned), Some(found)) => alike(&planned, &found),
                (None, Some(found)) => alike(&plain(serial), &found),
                (_, None) => plain(wwid).contains(&plain(serial)),
            }
        };
        alike(serial, found) || self.wwid.as_deref().is_some_and(is_named_so)
    }
}

/// Everything that stands on `name` must stand on nothing but `disks`.
fn check_below(name: &str, disks: &[String]) -> Result<()> {
    for holder in above(name)? {
        let below = disks_below(&holder)?;
        if let Some(other) = below.iter().find(|d| !disks.contains(d)) {
            bail!(
                "{holder} stands on {name}, which is to be erased, and on {other}, which is not\n\
                 hint: unplug {other}, or take {holder} down by hand"
            );
        }
    }
    Ok(())
}

/// The devices directly above a device and its partitions.
fn above(name: &str) -> Result<Vec<String>> {
    let mut found = names_in(&sys_block(name).join("holders"))?;
    for part in partitions(name)? {
        found.extend(names_in(&sys_block(&part).join("holders"))?);
    }
    Ok(found)
}

/// The whole disks at the bottom of a device.
fn disks_below(name: &str) -> Result<BTreeSet<String>> {
    let dir = sys_block(name);
    if dir.join("partition").exists() {
        let real = fs::canonicalize(&dir).with_context(|| format!("looking at {name} in sysfs"))?;
        let parent = real.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        return disks_below(parent.unwrap_or(name));
    }
    let slaves = names_in(&dir.join("slaves"))?;
    if slaves.is_empty() {
        return Ok(BTreeSet::from([name.to_owned()]));
    }
    let mut disks = BTreeSet::new();
    for slave in slaves {
        disks.extend(disks_below(&slave)?);
    }
    Ok(disks)
}

/// The partitions that the kernel has of a device, by name.
pub fn partitions(name: &str) -> Result<Vec<String>> {
    let dir = sys_block(name);
    let mut names = names_in(&dir)?;
    names.retain(|child| dir.join(child.replace('/', "!")).join("partition").exists());
    names.sort();
    Ok(names)
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        names.push(entry.file_name().to_string_lossy().replace('!', "/"));
    }
    Ok(names)
}

/// A device, its partitions, and all that stands on them.
fn tower(name: &str, found: &mut BTreeSet<String>) -> Result<()> {
    if found.insert(name.to_owned()) {
        for next in partitions(name)?.into_iter().chain(above(name)?) {
            tower(&next, found)?;
        }
    }
    Ok(())
}

/// Unmounts what is on the devices, and what is mounted below that; the last mounted first.
fn unmount(devices: &BTreeSet<String>) -> Result<()> {
    let mut numbers = BTreeSet::new();
    for name in devices {
        let number = fs::read_to_string(sys_block(name).join("dev"))
            .with_context(|| format!("asking for the number of {name}"))?;
        numbers.insert(number.trim().to_owned());
    }
    let mounts = mount::mounts()?;
    // btrfs has a number of its own: its source is one of its devices.
    let is_from = |source: &Path| {
        let real = fs::canonicalize(source).unwrap_or_default();
        let name = real.strip_prefix("/dev").ok().and_then(Path::to_str);
        name.is_some_and(|name| devices.contains(name))
    };
    let on_them = |m: &&MountInfo| {
        numbers.contains(&format!("{}:{}", m.device.0, m.device.1))
            || (m.device.0 == 0 && is_from(&m.source))
    };
    let roots: Vec<_> = mounts.iter().filter(on_them).collect();
    if roots.iter().any(|m| m.path == Path::new("/")) {
        bail!(
            "the running system is on a disk that is to be erased\n\
             hint: a machine is rebuilt from its rescue system"
        );
    }
    for found in mounts.iter().rev() {
        if roots.iter().any(|root| found.path.starts_with(&root.path)) {
            mount::unmount(&found.path)?;
        }
    }
    Ok(())
}

fn swap_off(devices: &BTreeSet<String>) -> Result<()> {
    for swap in swaps::read() {
        let Ok(dev) = fs::canonicalize(&swap.path) else { continue };
        if devices.iter().any(|name| dev == Path::new("/dev").join(name)) {
            Cmd::new("swapoff").arg(&swap.path).run()?;
        }
    }
    Ok(())
}

/// Stops all that is above a device, the topmost first.
fn stop_above(name: &str) -> Result<()> {
    for part in partitions(name)? {
        stop_above(&part)?;
    }
    for holder in names_in(&sys_block(name).join("holders"))? {
        // It may have gone with another one.
        if sys_block(&holder).exists() {
            stop_above(&holder)?;
            stop(&holder)?;
        }
    }
    Ok(())
}

fn stop(name: &str) -> Result<()> {
    let dir = sys_block(name);
    if dir.join("dm").exists() {
        let dm_name = fs::read_to_string(dir.join("dm/name"))
            .with_context(|| format!("asking for the name of {name}"))?;
        return Cmd::new("dmsetup").args(["remove", "--retry", dm_name.trim()]).run();
    }
    if dir.join("md").exists() {
        return Cmd::new("mdadm").args(["--stop", &format!("/dev/{name}")]).run();
    }
    bail!("{name} stands on a disk that is to be erased, and rr does not know how to stop it")
}

/// Where sysfs has a device; a slash in its name is an exclamation mark there.
pub fn sys_block(name: &str) -> PathBuf {
    Path::new("/sys/class/block").join(name.replace('/', "!"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::raid_node;

    #[test]
    fn a_scsi_disk_has_two_serial_numbers_and_is_still_one_disk() {
        let planned = |serial: &str, wwn: Option<&str>| {
            let (serial, wwn) = (Some(serial.to_owned()), wwn.map(str::to_owned));
            Disk { serial, wwn, ..raid_node().disk[0].clone() }
        };
        let same = |disk: &Disk, serial: &str, wwid: &str| {
            let known = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            Told { serial: known(serial), wwid: known(wwid) }.is_of(disk)
        };
        let sas = planned("5000c500a1b2c3d4", Some("0x5000c500a1b2c3d4"));
        assert!(same(&sas, "ZC1A2B3C", "naa.5000c500a1b2c3d4"), "Linux 7.1");
        assert!(!same(&sas, "ZC1A2B3C", "naa.5000c500a1b2c3d5"), "another disk");
        assert!(same(&sas, "", "naa.5000c500a1b2c3d4") && same(&sas, "", ""), "older kernels");
        // A RAID controller's: udev's short name of it ends earlier.
        let lun = planned("600508b1001c0000", Some("0x600508b1001c0000"));
        assert!(same(&lun, "PDNLH0BRH8", "naa.600508b1001c00001234567812345678"));
        // ATA disks, whose serial numbers are of one kind.
        let ata = planned("WD-WCC4N1234567", Some("0x50014ee2b1234567"));
        assert!(same(&ata, "WD-WCC4N1234567", "t10.ATA WDC WD-WCC4N1234567"));
        // NVMe, virtio and MMC have no such name: their serial number decides.
        let nvme = planned("S4EWNX0R1", Some("eui.0025385b"));
        assert!(same(&nvme, "S4EWNX0R1", "") && !same(&nvme, "S4EWNX0R2", ""));
        assert!(!same(&planned("disk-1", None), "disk-2", ""));
        // Names that are no numbers have the serial number in them.
        let disk = planned("disk_1", None);
        assert!(same(&disk, "other", "t10.QEMU    QEMU HARDDISK   disk 1"));
        assert!(!same(&disk, "disk-2", "t10.QEMU    QEMU HARDDISK   disk-2"));
        assert!(!same(&ata, "WD-WCC4N7654321", "t10.ATA WDC WD-WCC4N7654321"));
        let lun = planned("5000c500a1b2c3d4", None);
        assert!(same(&lun, "ZC1A2B3C", "naa.5000c500a1b2c3d4"));
        assert!(!same(&lun, "ZC1A2B3C", "naa.5000c500a1b2c3d5"));
    }
}
