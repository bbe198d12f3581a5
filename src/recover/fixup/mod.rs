//! What a restored tree needs to boot on these disks, and no more: files stay as they came back
//! unless a name or UUID in them changed.
//!
//! * [`identity`] changed names and UUIDs, in fstab and the like
//! * [`links`] udev's names of disks that are no more, and multipath's
//! * [`initramfs`] rebuilt where it can't reach the disks
//! * [`grub`] BIOS: boot sectors    [`efi`] UEFI: firmware entries, the fallback loader
//! * [`lvm`] LVM's list of devices
//! * [`crypttab`] key files open their volumes again
//! * [`nics`] network cards that are gone
//! * [`fstab`] rewriting the restored system's own files

pub mod crypttab;
pub mod efi;
pub mod fstab;
pub mod grub;
pub mod identity;
pub mod initramfs;
pub mod links;
pub mod lvm;
pub mod nics;

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use super::chroot::Chroot;
use super::report::Check;
use super::sysfs::Sysfs;
use crate::layout::{Disk, Firmware, Id, Layout, Mount};
use crate::plan::{Plan, leave};
use crate::probe::boot;
use crate::probe::devices::Devices;
use crate::probe::fstab::{Entry, parse};
use crate::probe::kernels::{self, Kernel, kernels};
use crate::sys::inside;
use crate::sys::secret::Secret;
use crate::ui::Ui;

/// Directories that every system has, though an archive need not, and their modes.
const DIRECTORIES: &[(&str, u32)] = &[
    ("proc", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("mnt", 0o755),
];

/// The restored tree, and what there is to know about it.
#[derive(Debug)]
pub struct Tree<'a> {
    pub root: &'a Path,
    pub recorded: &'a Layout,
    /// What the node mounted, also where the admin has taken it out of what is to come back.
    pub mounted: &'a [Mount],
    pub plan: &'a Plan,
    pub devices: &'a Devices,
    /// Of the plan's encrypted volumes, where it has some.
    pub passphrase: Option<&'a Secret>,
}

impl Tree<'_> {
    /// The kernel's names of the disks that the recorded node booted from by GRUB, as they are
    /// here. Where all of those are left out (`--map sda=none`), and where something else started
    /// the node: the disks that hold /boot.
    pub fn grub_disks(&self) -> Vec<&str> {
        let recorded = &self.recorded.boot.grub_disk;
        let here = |id: &Id| self.plan.disks.iter().find(|d| d.old.id == *id);
        let disks: Vec<&str> =
            recorded.iter().filter_map(here).map(|d| d.new.name.as_str()).collect();
        if !disks.is_empty() {
            return disks;
        }
        names(self.plan.layout.boot_disks())
    }

    /// Those of [`Tree::grub_disks`] without which the machine does not start: they hold a part of /boot
    /// or of /. Where none does, all.
    pub fn start_disks(&self) -> Vec<&str> {
        let mut own = names(self.plan.layout.disks_of("/boot"));
        own.extend(self.root_disks());
        let disks = self.grub_disks();
        let needed: Vec<&str> = disks.iter().copied().filter(|disk| own.contains(disk)).collect();
        if needed.is_empty() { disks } else { needed }
    }

    /// The disks that must be reached before `/` can be mounted.
    fn root_disks(&self) -> Vec<&str> {
        names(self.plan.layout.disks_of("/"))
    }
}

fn names(disks: Vec<&Disk>) -> Vec<&str> {
    disks.into_iter().map(|disk| disk.name.as_str()).collect()
}

/// What became of the tree.
#[derive(Debug, Default)]
pub struct Fixed {
    /// In words.
    pub changed: Vec<String>,
    /// What could not be done and has to be for a boot.
    pub checks: Vec<Check>,
}

/// Makes the tree bootable.
pub fn fix(tree: &Tree<'_>, ui: &Ui) -> Result<Fixed> {
    let mut fixed = Fixed::default();
    let changed = &mut fixed.changed;
    make_directories(tree.root)?;
    let mut changes = identity::changes(tree.plan, tree.recorded);
    changes.extend(links::changes(tree.root, tree.plan, tree.recorded));
    let mut rewritten = identity::rewrite(tree.root, &changes)?;
    for file in &rewritten {
        changed.push(format!("{} names devices as they are here", file.display()));
    }
    changed.extend(unwaited(tree)?);
    changed.extend(crypttab::enroll(tree)?);
    relabel(tree.root, changed)?;
    let chroot = Chroot::enter(tree.root)?;
    // What is built next may ask LVM.
    if let Some((file, said)) = lvm::renew(tree, &chroot)? {
        changed.push(said);
        rewritten.push(file);
    }
    if tree.recorded.boot.firmware == Firmware::Bios {
        install_grub(tree, &chroot, changed, ui)?;
    }
    fix_initramfs(tree, &chroot, &rewritten, &mut fixed, ui)?;
    chroot.close()?;
    if tree.recorded.boot.firmware == Firmware::Uefi {
        efi::fix(tree, &mut fixed.changed, ui)?;
    }
    if let Some(gone) = nics::told(tree.root, &tree.recorded.net, &nics::here()) {
        ui.warn(gone);
    }
    for line in &fixed.changed {
        ui.info(line);
    }
    Ok(fixed)
}

/// What does not come back need not be here either: a disk that holds nothing but backups, one that the
/// admin left out. The system must not wait for it.
fn unwaited(tree: &Tree<'_>) -> Result<Option<String>> {
    const FSTAB: &str = "/etc/fstab";
    let (Some(file), Some(text)) = (inside::find(tree.root, FSTAB), inside::read(tree.root, FSTAB))
    else {
        return Ok(None);
    };
    let is_here = |spec: &str| {
        tree.devices.resolve(spec).is_some()
            || (!spec.starts_with("/dev/") && inside::find(tree.root, spec).is_some())
    };
    let planned = &tree.plan.layout.mount;
    let Some((text, hanging)) = without_waiting(&text, tree.mounted, planned, is_here) else {
        return Ok(None);
    };
    std::fs::write(&file, text).with_context(|| format!("rewriting {}", file.display()))?;
    let hanging = match hanging.as_slice() {
        [] => String::new(),
        paths => format!(
            "; {} will not be mounted until the lines of these are gone, as systemd mounts nothing \
             that hangs on what is missing",
            paths.join(", ")
        ),
    };
    let what = "no longer waits for what does not come back and is not here";
    Ok(Some(format!("{FSTAB} {what}{hanging}")))
}

/// fstab(5) for a machine on which some of the recorded mounts are not made, and what comes back and
/// still is not mounted: it lies below one of them, or is bound from there. What they are of may be
/// here all the same, as `is_here` says. Where a machine needs it, its absence is for the checks.
fn without_waiting(
    fstab: &str,
    recorded: &[Mount],
    planned: &[Mount],
    is_here: impl Fn(&str) -> bool,
) -> Option<(String, Vec<String>)> {
    let is_left = |path: &Path| {
        let at = |mount: &&Mount| mount.path.as_path() == path;
        recorded.iter().find(at).is_some_and(leave::can_be_missed)
            && !planned.iter().any(|m| at(&m))
    };
    let is_gone = |entry: &Entry| {
        // What is bound to a place is of a directory.
        let is_local = entry.on_a_device() || entry.spec.starts_with('/');
        is_local && is_left(&entry.path) && !is_here(&entry.spec)
    };
    let entries = parse(fstab.as_bytes());
    let gone: Vec<&Path> =
        entries.iter().filter(|e| is_gone(e)).map(|entry| entry.path.as_path()).collect();
    // systemd.mount(5): a mount requires those that its place and its source are below.
    let hangs = |entry: &Entry| {
        let below = |path: &Path| gone.iter().any(|at| path.starts_with(at));
        let path = entry.path.as_path();
        !gone.contains(&path) && (below(path) || below(Path::new(&entry.spec)))
    };
    let hanging = entries.iter().filter(|entry| entry.needed_at_boot() && hangs(entry));
    let hanging = hanging.map(|entry| entry.path.display().to_string()).collect();
    let text = fstab::with_nofail(fstab, |entry| is_gone(entry) || hangs(entry))?;
    Some((text, hanging))
}

fn make_directories(root: &Path) -> Result<()> {
    for (dir, mode) in DIRECTORIES {
        let path = root.join(dir);
        if inside::find(root, dir).is_some() {
            continue;
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode)))
            .with_context(|| format!("creating {}", path.display()))?;
    }
    Ok(())
}

/// SELinux must label all files if the archive held no labels, else nothing can start.
fn relabel(root: &Path, changed: &mut Vec<String>) -> Result<()> {
    let config = inside::read(root, "/etc/selinux/config").unwrap_or_default();
    let active = config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SELINUX="))
        .any(|mode| matches!(mode.trim(), "enforcing" | "permissive"));
    let labelled = |path| {
        inside::find(root, path)
            .and_then(|file| xattr::get(file, "security.selinux").ok().flatten())
            .is_some()
    };
    if active && !labelled("/etc/passwd") && !labelled("/sbin/init") {
        std::fs::write(root.join(".autorelabel"), "").context("creating /.autorelabel")?;
        changed.push("SELinux labels every file at the first boot (/.autorelabel)".into());
    }
    Ok(())
}

fn fix_initramfs(
    tree: &Tree<'_>,
    chroot: &Chroot,
    rewritten: &[PathBuf],
    fixed: &mut Fixed,
    ui: &Ui,
) -> Result<()> {
    let sysfs = Sysfs::default();
    let mut drivers = BTreeSet::new();
    for disk in tree.root_disks() {
        drivers.extend(sysfs.drivers(disk)?);
    }
    let found = kernels(tree.root);
    let is_named = identity::in_initramfs(rewritten);
    let lacking =
        |initrd: &Path, version| initramfs::lacking(chroot, tree.root, initrd, version, &drivers);
    fixed.checks.extend(check_unknown(tree.root, &found, is_named, |initrd| lacking(initrd, None)));
    let mut own = with_modules(tree.root, &found).into_iter();
    let Some((initrd, version)) = own.next() else {
        // Whether that is a machine that boots is for the check to say.
        return Ok(());
    };
    let reason = match &lacking(initrd, Some(version))? {
        _ if is_named => NAMES_CHANGED.to_owned(),
        None => {
            ui.info("the node has no program that lists its initramfs: it stays as it is");
            return Ok(());
        }
        Some(lacking) if lacking.is_empty() => return Ok(()),
        Some(lacking) => lacks(lacking),
    };
    let rebuild = |(initrd, version): (&Path, &str)| {
        let before = stamp(tree.root, initrd);
        ui.step(&format!("Building the initramfs of {version} anew: {reason}"), || {
            initramfs::rebuild(chroot, tree.root, initrd, version, &drivers)
        })?;
        ensure!(
            stamp(tree.root, initrd) != before,
            "building the initramfs of {version} went through, but {} is as it was",
            initrd.display()
        );
        anyhow::Ok(format!("the initramfs of {version} was built anew: {reason}"))
    };
    match rebuild((initrd, version)) {
        Ok(said) => fixed.changed.push(said),
        Err(error) => {
            let what = format!("initramfs {}", initrd.display());
            fixed.checks.push(Check::new(what, Some(format!("{reason}: {error:#}"))));
            return Ok(());
        }
    }
    let mut done = BTreeSet::from([version]);
    for (initrd, version) in own.filter(|(_, version)| done.insert(*version)) {
        // The machine boots without it.
        match rebuild((initrd, version)) {
            Ok(said) => fixed.changed.push(said),
            Err(error) => ui.warn(format!("{version} may not boot here: {error:#}")),
        }
    }
    let left = lacking(initrd, Some(version))?;
    if let Some(left) = left.filter(|left| !left.is_empty()) {
        let names: Vec<_> = left.into_iter().collect();
        anyhow::bail!("the new initramfs of {version} still lacks {}", names.join(", "));
    }
    Ok(())
}

const NAMES_CHANGED: &str = "it holds names that changed";

fn lacks(drivers: &BTreeSet<String>) -> String {
    let names: Vec<_> = drivers.iter().map(String::as_str).collect();
    format!("it lacks {}", names.join(", "))
}

/// What tells that a file was written anew.
fn stamp(root: &Path, file: &Path) -> Option<(u64, u64, SystemTime)> {
    let meta = inside::find(root, file)?.metadata().ok()?;
    Some((meta.ino(), meta.len(), meta.modified().ok()?))
}

/// The initramfs that is started by default, where it should be built anew and can't be: nothing tells
/// which modules are its kernel's.
fn check_unknown(
    root: &Path,
    kernels: &[Kernel],
    is_named: bool,
    lacking: impl Fn(&Path) -> Result<Option<BTreeSet<String>>>,
) -> Option<Check> {
    let kernel = kernels.first().filter(|kernel| version(root, kernel).is_none())?;
    let initrd = initrd(kernel)?;
    let reason = if is_named {
        NAMES_CHANGED.to_owned()
    } else {
        // Whether it is damaged is for the check to say.
        let found = lacking(initrd).ok().flatten()?;
        if found.is_empty() {
            return None;
        }
        lacks(&found)
    };
    let problem = format!(
        "{reason}, and can't be built anew: the tree has no modules of the kernel {}",
        kernel.entry.kernel
    );
    Some(Check::new(format!("initramfs {}", initrd.display()), Some(problem)))
}

/// The kernels whose initramfs can be built. Red Hat's rescue entry (`0-rescue-MACHINE`) has no modules
/// of its own, and stays as it is.
fn with_modules<'a>(root: &Path, kernels: &'a [Kernel]) -> Vec<(&'a Path, &'a str)> {
    kernels.iter().filter_map(|kernel| Some((initrd(kernel)?, version(root, kernel)?))).collect()
}

/// The initramfs of a kernel that is there.
fn initrd(kernel: &Kernel) -> Option<&Path> {
    // Early ones hold microcode; the last holds the system.
    kernel.initrds.last()?.1.as_deref()
}

/// The version of a kernel whose modules are there: by its name, by its entry, or by its directory, as
/// systemd-boot has it (`/MACHINE/6.1.0-28-amd64/linux`).
fn version<'a>(root: &Path, kernel: &'a Kernel) -> Option<&'a str> {
    let Kernel { entry, .. } = kernel;
    let dir = entry.kernel.rsplit('/').nth(1);
    [kernels::version(&entry.kernel), entry.version.as_deref(), dir]
        .into_iter()
        .flatten()
        .find(|version| initramfs::has_modules(root, version))
}

fn install_grub(
    tree: &Tree<'_>,
    chroot: &Chroot,
    changed: &mut Vec<String>,
    ui: &Ui,
) -> Result<()> {
    let disks = tree.grub_disks();
    let is_recorded = !tree.recorded.boot.grub_disk.is_empty();
    if !is_recorded && !boot::has_bios_grub(tree.root) {
        ui.warn("no disk of the node held GRUB: what started it is not known, and not installed");
        return Ok(());
    }
    // Of a node that had GRUB in a partition the images are for that one. The one image of several
    // disks was made for the last of them; on a mirror it fits all.
    let as_recorded = tree.plan.identity_changes().is_empty()
        && !identity::is_joined(tree.plan, tree.recorded)
        && tree.plan.disks.iter().any(|d| tree.recorded.boot.grub_disk.contains(&d.old.id))
        && (disks.len() == 1 || tree.root_disks().len() > 1);
    let install = |disk: &str| {
        ui.step(&format!("Installing GRUB on /dev/{disk}"), || {
            grub::install(chroot, tree.root, &format!("/dev/{disk}"), as_recorded, ui)
        })
    };
    if is_recorded {
        return grub::install_all(&tree.start_disks(), &disks, install, changed, ui);
    }
    // What the check finds on none of them can be put there by hand.
    for disk in disks {
        match install(disk) {
            Ok(()) => changed.push(format!(
                "GRUB is on /dev/{disk}: the node had it elsewhere, perhaps in a partition"
            )),
            Err(error) => ui.warn(format!("/dev/{disk} gets no GRUB: {error:#}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Answers;
    use crate::plan::testing::raid_node;
    use std::fs;

    #[test]
    fn what_does_not_come_back_is_not_waited_for() {
        let mut recorded = crate::plan::testing::raid_node();
        let root = recorded.mount[0].fs.clone();
        for path in ["/srv", "/srv/db", "/var", "/export"] {
            recorded.mount.push(crate::plan::testing::mount(path, &root));
        }
        let is_left =
            |mount: &Mount| ["/srv", "/var", "/export"].map(Into::into).contains(&mount.path);
        let planned: Vec<Mount> = recorded.mount.iter().filter(|m| !is_left(m)).cloned().collect();
        let fstab = "UUID=1 / ext4 defaults\nUUID=2 /srv ext4 defaults\nUUID=3 /backup ext4 ro\n\
                     UUID=4 /srv/db xfs noatime\nUUID=5 /var ext4 defaults\n\
                     /srv/x /export none bind\n/srv /mnt/srv none bind\n";
        let waits = |here: &[&str]| {
            without_waiting(fstab, &recorded.mount, &planned, |s| here.contains(&s))
        };
        // What systemd would not mount either, and stop for, is not waited for any more than the rest.
        let mended = fstab
            .replace("/srv ext4 defaults", "/srv ext4 defaults,nofail")
            .replace("noatime", "noatime,nofail")
            .replace("none bind", "none bind,nofail");
        let hanging = ["/srv/db", "/mnt/srv"].map(str::to_owned).to_vec();
        assert_eq!(waits(&["/srv"]), Some((mended, hanging)));
        // A place below it may be there. And without /var it is no system.
        assert_eq!(waits(&["UUID=2", "/srv/x"]), None);
    }

    #[test]
    fn a_bios_starts_the_disks_that_hold_boot_where_none_is_known() {
        let mut recorded = raid_node();
        let plan = crate::plan::plan(&recorded, &recorded, &Answers::default()).unwrap();
        let devices = Devices::default();
        let root = Path::new("/none");
        let start = |recorded: &Layout| {
            let (plan, devices, mounted) = (&plan, &devices, &recorded.mount);
            let tree = Tree { root, recorded, mounted, plan, devices, passphrase: None };
            assert_eq!(tree.start_disks(), tree.grub_disks());
            tree.start_disks().join(" ")
        };
        assert_eq!(start(&recorded), "sda sdb");
        recorded.boot.grub_disk = vec![Id::disk("sdb")];
        assert_eq!(start(&recorded), "sdb");
    }

    #[test]
    fn a_kernel_without_modules_keeps_its_initramfs() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        let loader = root.join("boot/loader/entries");
        fs::create_dir_all(&loader).unwrap();
        for version in ["0-rescue-4f1c", "5.14.0-503.el9.x86_64"] {
            let text = format!("linux /vmlinuz-{version}\ninitrd /initramfs-{version}.img\n");
            fs::write(loader.join(format!("m-{version}.conf")), text).unwrap();
            fs::write(root.join(format!("boot/vmlinuz-{version}")), "kernel").unwrap();
            fs::write(root.join(format!("boot/initramfs-{version}.img")), "070701").unwrap();
        }
        fs::create_dir_all(root.join("usr/lib/modules/5.14.0-503.el9.x86_64")).unwrap();
        let found = kernels(root);
        assert_eq!(found.len(), 2);
        let versions: Vec<_> = with_modules(root, &found).into_iter().map(|(_, v)| v).collect();
        assert_eq!(versions, ["5.14.0-503.el9.x86_64"]);
    }

    /// As kernel-install lays it out for systemd-boot, and as openSUSE's sdbootutil does.
    fn systemd_boot(root: &Path) -> Vec<Kernel> {
        let loader = root.join("boot/efi/loader/entries");
        fs::create_dir_all(&loader).unwrap();
        for (name, dir, kernel, version) in [
            ("b", "4f1c/6.1.0-28-amd64", "linux", "6.1.0-28-amd64"),
            ("a", "opensuse-tumbleweed/6.9.1-1-default", "linux-5f0d1e0c77aa", "5@6.9.1-1-default"),
        ] {
            let files = root.join("boot/efi").join(dir);
            fs::create_dir_all(&files).unwrap();
            fs::write(files.join(kernel), "kernel").unwrap();
            fs::write(files.join("initrd"), "070701").unwrap();
            let text = format!("version {version}\nlinux /{dir}/{kernel}\ninitrd /{dir}/initrd\n");
            fs::write(loader.join(format!("{name}.conf")), text).unwrap();
        }
        kernels(root)
    }

    #[test]
    fn systemd_boots_entries_say_the_versions_of_their_kernels() {
        let tmp = tempfile::tempdir().unwrap();
        let found = systemd_boot(tmp.path());
        for version in ["6.1.0-28-amd64", "6.9.1-1-default"] {
            fs::create_dir_all(tmp.path().join("usr/lib/modules").join(version)).unwrap();
        }
        let initrd = |dir: &str| Path::new("/boot/efi").join(dir).join("initrd");
        assert_eq!(
            with_modules(tmp.path(), &found),
            [
                (&*initrd("4f1c/6.1.0-28-amd64"), "6.1.0-28-amd64"),
                (&*initrd("opensuse-tumbleweed/6.9.1-1-default"), "6.9.1-1-default")
            ]
        );
        // The entry alone says it.
        let mut entry = found[0].clone();
        entry.entry.kernel = "/linux".into();
        assert_eq!(with_modules(tmp.path(), &[entry])[0].1, "6.1.0-28-amd64");
    }

    #[test]
    fn an_initramfs_of_an_unknown_kernel_that_has_to_be_built_anew_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let found = systemd_boot(tmp.path());
        let told = |is_named, lacking: Option<&[&str]>| {
            let lacking = lacking.map(|names| names.iter().map(|&n| n.to_owned()).collect());
            let check = check_unknown(tmp.path(), &found, is_named, |_| Ok(lacking.clone()))?;
            assert_eq!(check.what, "initramfs /boot/efi/4f1c/6.1.0-28-amd64/initrd");
            check.problem
        };
        assert_eq!(told(false, None), None);
        assert_eq!(told(false, Some(&[])), None);
        assert!(told(false, Some(&["nvme", "ahci"])).unwrap().starts_with("it lacks ahci, nvme"));
        assert!(told(true, Some(&[])).unwrap().starts_with(NAMES_CHANGED));
        fs::create_dir_all(tmp.path().join("lib/modules/6.1.0-28-amd64")).unwrap();
        assert_eq!(told(true, Some(&["nvme"])), None, "it can be built");
    }

    #[test]
    fn a_file_that_was_written_anew_is_told_from_one_that_was_not() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, initrd) = (tmp.path(), Path::new("/initrd"));
        fs::write(root.join("initrd"), "old").unwrap();
        let before = stamp(root, initrd);
        assert!(before.is_some() && stamp(root, initrd) == before);
        fs::write(root.join("new"), "new").unwrap();
        fs::rename(root.join("new"), root.join("initrd")).unwrap();
        assert_ne!(stamp(root, initrd), before);
    }
}
