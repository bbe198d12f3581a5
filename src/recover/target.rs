//! Where the backup is: for `file://` and `usb://` targets, the filesystem that holds it is found by its UUID
//! and mounted, for `iso://` the medium that this was started from, and the disks below it are kept
//! from being erased.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::mounts;
use super::sysfs::{Sysfs, kernel_name};
use crate::config::{TargetOptions, TargetUrl};
use crate::probe::devices::Devices;
use crate::rescue::info::{RescueInfo, TargetDevice};
use crate::store::iso::{self, Source};
use crate::store::{self, Access, Store, usb};
use crate::sys::mount::MountGuard;
use crate::sys::run::Cmd;
use crate::ui::Ui;

/// Where a filesystem with a target is mounted.
const MOUNT_POINT: &str = "/run/rr/target";

/// A target that can be opened.
#[derive(Debug)]
pub struct Target {
    pub url: TargetUrl,
    /// The kernel's names of the disks that the backup is on; none for a target on the network.
    pub disks: BTreeSet<String>,
    /// What the URL was before the filesystem was mounted elsewhere.
    shown: String,
    /// Can't be written to, ever.
    is_iso: bool,
    mount: Option<MountGuard>,
}

impl Target {
    /// Finds the target. `info` is what the rescue image knows, where it was made for this target.
    pub fn locate(url: &TargetUrl, info: Option<&RescueInfo>, ui: &Ui) -> Result<Target> {
        let looking = || format!("looking for the filesystem that holds {url}");
        let known = info.and_then(|info| info.target_device.as_ref());
        let device = match (url, known) {
            (TargetUrl::Iso(iso), _) => {
                let set = info.and_then(|info| info.medium.as_deref());
                let find = || Source::find(iso, set);
                let mut target = Target::of_iso(url, &patiently(ui, MEDIUM_PATIENCE, find)?)?;
                // The disk with the earlier backups is no more to be erased than this one.
                if let Some(device) = known
                    && let Some(dev) = look(device)?
                {
                    target.disks.extend(Sysfs::default().disks_below(&kernel_name(&dev)?)?);
                }
                return Ok(target);
            }
            (TargetUrl::File { .. } | TargetUrl::Usb(_), Some(device)) => device.clone(),
            (TargetUrl::Usb(stick), None) => TargetDevice {
                fs_uuid: patiently(ui, PATIENCE, || usb::find(stick)).with_context(looking)?.uuid,
                fs_kind: usb::KIND.to_owned(),
                subdir: Path::new("/").join(usb::DIR).into(),
            },
            (TargetUrl::File { dir }, None) => {
                let disks = disks_of_dir(dir)?;
                return Ok(Target::of(url, disks));
            }
            _ => return Ok(Target::of(url, BTreeSet::new())),
        };
        let dev = match url {
            TargetUrl::Usb(_) => {
                patiently(ui, PATIENCE, || look(&device)?.with_context(|| absent(&device)))
            }
            _ => find(&device, ui),
        };
        let dev = dev.with_context(looking)?;
        let disks = Sysfs::default().disks_below(&kernel_name(&dev)?)?;
        let point = mount_point()?;
        let source = dev.to_string_lossy();
        let mount = mount_read_only(&source, &device.fs_kind, point)?;
        let subdir = device.subdir.as_path();
        let dir = point.join(subdir.strip_prefix("/").unwrap_or(subdir));
        let target = TargetUrl::File { dir };
        Ok(Target { url: target, mount: Some(mount), ..Target::of(url, disks) })
    }

    /// One that can be opened as it is.
    fn of(url: &TargetUrl, disks: BTreeSet<String>) -> Target {
        Target { url: url.clone(), disks, shown: url.to_string(), is_iso: false, mount: None }
    }

    /// The medium stays mounted for as long as the recovery reads it.
    fn of_iso(url: &TargetUrl, source: &Source) -> Result<Target> {
        let disks = match source {
            Source::Dir(dir) => disks_of_dir(dir)?,
            Source::Image(image) => disks_of_dir(image.parent().unwrap_or(image))?,
            Source::Device(device) => Sysfs::default().disks_below(&kernel_name(device)?)?,
        };
        let (Some(args), Source::Image(path) | Source::Device(path)) =
            (source.mount_args(), source)
        else {
            return Ok(Target::of(url, disks));
        };
        let point = mount_point()?;
        let mount = Some(MountGuard::mount(&args, point)?);
        let dir = point.join(iso::DIR);
        ensure!(dir.is_dir(), iso::no_backup(path));
        Ok(Target { url: TargetUrl::File { dir }, is_iso: true, mount, ..Target::of(url, disks) })
    }

    pub fn open(&self, node: &str, options: &TargetOptions) -> Result<Box<dyn Store>> {
        store::open(&self.url, node, Access::Read, options)
    }

    /// Opens the target for writing as long as `body` runs. Only after a recovery: until then
    /// nothing must write to where the backup is.
    pub fn write(
        &self,
        node: &str,
        options: &TargetOptions,
        body: impl FnOnce(&dyn Store) -> Result<()>,
    ) -> Result<()> {
        if self.is_iso {
            return Err(iso::denied(&self.shown).into());
        }
        self.remount("rw")?;
        let written = store::open(&self.url, node, Access::Write, options)
            .and_then(|store| body(store.as_ref()));
        self.remount("ro")?;
        written
    }

    fn remount(&self, mode: &str) -> Result<()> {
        match &self.mount {
            None => Ok(()),
            Some(mount) => {
                Cmd::new("mount").args(["-o", &format!("remount,{mode}")]).arg(mount.path()).run()
            }
        }
    }

    /// The target's URL as it was given.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

/// Where nothing is mounted any more.
fn mount_point() -> Result<&'static Path> {
    let point = Path::new(MOUNT_POINT);
    mounts::unmount_all(point)?;
    std::fs::create_dir_all(point).with_context(|| format!("creating {MOUNT_POINT}"))?;
    Ok(point)
}

/// Fails where the device is not here, without bringing anything up.
pub(super) fn expect(device: &TargetDevice) -> Result<()> {
    look(device)?.with_context(|| absent(device)).map(drop)
}

/// A filesystem that somebody has mounted for writing can't be mounted read-only beside: then it is
/// this one mount that can't be written to.
fn mount_read_only(source: &str, kind: &str, point: &Path) -> Result<MountGuard> {
    match MountGuard::mount(&["-o", "ro", "-t", kind, source], point) {
        Err(error) if is_mounted_elsewhere(&error.to_string()) => {
            log::info!("{error:#}");
            let mount = MountGuard::mount(&["-t", kind, source], point)?;
            Cmd::new("mount").args(["-o", "remount,bind,ro"]).arg(point).run()?;
            Ok(mount)
        }
        mounted => mounted,
    }
}

/// As mount(8) says it: "already mounted or mount point busy", and "already mounted on /." where that
/// mount is seen here.
fn is_mounted_elsewhere(said: &str) -> bool {
    said.contains("already mounted") || said.contains("busy")
}

/// A disk on USB answers some seconds after it was found; nothing tells when all are there.
const PATIENCE: Duration = Duration::from_secs(20);
/// A management board plugs its virtual drive in anew when the firmware has let go of it.
const MEDIUM_PATIENCE: Duration = Duration::from_secs(60);

fn patiently<T>(ui: &Ui, patience: Duration, look: impl Fn() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut said = false;
    loop {
        match look() {
            Err(_) if started.elapsed() < patience => {
                if !said {
                    ui.info(format!("waiting up to {} s for the disk", patience.as_secs()));
                    said = true;
                }
                std::thread::sleep(Duration::from_millis(500));
            }
            found => return found,
        }
    }
}

/// What brings up arrays and volumes. The rescue system's mdadm.conf forbids mdadm to assemble what it
/// finds, so this one reads none.
const ASSEMBLE: [(&str, &[&str]); 2] = [
    ("mdadm", &["--assemble", "--scan", "--config=partitions", "--readonly", "--no-degraded"]),
    ("lvm", &["vgchange", "--activate", "y"]),
];

/// The device of the filesystem, after assembling arrays and activating volumes if it is not there
/// without.
fn find(device: &TargetDevice, ui: &Ui) -> Result<PathBuf> {
    for (program, args) in ASSEMBLE {
        if let Some(dev) = look(device)? {
            return Ok(dev);
        }
        if crate::sys::tools::find(program.as_ref()).is_some() {
            ui.info(format!("the target's filesystem is not there yet: trying {program}"));
            // It fails where one of several arrays or groups is not whole; what counts is whether
            // the filesystem is there afterwards.
            Cmd::new(program).args(args).output()?;
            crate::sys::udev::settle()?;
        }
    }
    if let Some(dev) = look(device)? {
        return Ok(dev);
    }
    bail!(absent(device))
}

fn look(device: &TargetDevice) -> Result<Option<PathBuf>> {
    Ok(Devices::read()?.by_tag("UUID", &device.fs_uuid).map(Path::to_owned))
}

fn absent(device: &TargetDevice) -> String {
    format!(
        "no {} with the UUID {} is here
hint: plug in the disk that holds the backup, then: rr recover",
        device.fs_kind, device.fs_uuid
    )
}

/// The disks below a directory of the running system; none where it is in memory or on a network.
fn disks_of_dir(dir: &Path) -> Result<BTreeSet<String>> {
    // A directory that is not there is said better by the store.
    let Ok(dir) = dir.canonicalize() else { return Ok(BTreeSet::new()) };
    let all = crate::sys::mount::mounts()?;
    let source = mounts::holding(&all, &dir).map(|mount| mount.source.clone());
    match source {
        Some(dev) if dev.starts_with("/dev") && dev.exists() => {
            Sysfs::default().disks_below(&kernel_name(&dev)?)
        }
        _ => Ok(BTreeSet::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mdadm_assembles_although_the_rescue_systems_configuration_forbids_it() {
        let config = include_str!("../../rescue/etc/mdadm.conf");
        assert!(config.contains("AUTO -all"));
        let (_, args) = ASSEMBLE.iter().find(|(program, _)| *program == "mdadm").unwrap();
        assert!(args.contains(&"--config=partitions"));
    }
}
