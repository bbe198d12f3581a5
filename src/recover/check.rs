//! Does it boot? What can be known of that without booting it.
//!
//! A recovery succeeds only if all of this holds: "Success!" is not printed above a machine that
//! stops in the firmware, in GRUB or in an emergency shell.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::fixup::{Tree, initramfs};
use super::report::Check;
use crate::layout::Boot;
use crate::probe::boot::{has_boot_code, has_grub};
use crate::probe::devices::Devices;
use crate::probe::esp::{self, Esp};
use crate::probe::fstab;
use crate::probe::kernels::kernels;
use crate::sys::inside;

/// Kernel, initramfs and root device of what boots by default.
pub fn check_kernel(root: &Path, devices: &Devices) -> Vec<Check> {
    let kernels = kernels(root);
    let Some(first) = kernels.first() else {
        return vec![Check::new("a kernel", Some("no kernel was found in /boot".into()))];
    };
    let entry = &first.entry;
    let missing = |file: &Option<PathBuf>| file.is_none().then(|| "the file is not there".into());
    let mut checks = vec![Check::new(format!("kernel {}", entry.kernel), missing(&first.kernel))];
    for (name, file) in &first.initrds {
        let problem = missing(file).or_else(|| unreadable(root, file.as_deref()?));
        checks.push(Check::new(format!("initramfs {name}"), problem));
    }
    if let Some(device) = entry.root() {
        checks.push(Check::new(format!("root={device}"), unresolved(devices, device)));
    }
    for uuid in &entry.searched_uuids {
        let what = format!("the boot loader's filesystem {uuid}");
        if checks.iter().all(|check| check.what != what) {
            checks.push(Check::new(what, unresolved(devices, &format!("UUID={uuid}"))));
        }
    }
    checks
}

fn unreadable(root: &Path, initrd: &Path) -> Option<String> {
    let mut head = [0; 16];
    let file = inside::find(root, initrd)?;
    match std::fs::File::open(&file).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) if initramfs::is_initramfs(&head) => None,
        Ok(()) => Some("it does not start as an initramfs does".into()),
        Err(error) => Some(format!("it can't be read: {error}")),
    }
}

fn unresolved(devices: &Devices, spec: &str) -> Option<String> {
    devices.lacks(spec).then(|| "no such device is there".into())
}

/// Every device that the system waits for when it boots is there.
pub fn check_fstab(root: &Path, devices: &Devices) -> Vec<Check> {
    let Some(text) = inside::read(root, "/etc/fstab") else {
        return Vec::new();
    };
    let crypttab = inside::read(root, "/etc/crypttab").unwrap_or_default();
    fstab::awaited(fstab::parse(text.as_bytes()), &crypttab)
        .into_iter()
        .map(|entry| {
            let what = format!("{} on {} in /etc/fstab", entry.spec, entry.path.display());
            Check::new(what, unresolved(devices, &entry.spec))
        })
        .collect()
}

/// The first program of the system is there, and what it is started with.
pub fn check_init(root: &Path) -> Check {
    let names = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
    let found =
        names.iter().any(|name| inside::find(root, name).is_some_and(|file| file.is_file()));
    Check::new("/sbin/init", (!found).then(|| "the restored tree has no init".into()))
}

/// The first sectors of the disks that a BIOS boots from: it starts nothing else.
pub fn check_boot_sectors(tree: &Tree<'_>) -> Vec<Check> {
    let disks = tree.start_disks().into_iter().map(|disk| format!("/dev/{disk}"));
    let disks: Vec<String> = disks.collect();
    if disks.is_empty() || tree.recorded.boot.grub_disk.is_empty() {
        return vec![check_boot_code(&disks)];
    }
    disks.iter().map(|disk| check_boot_sector(disk)).collect()
}

/// Of a node that had GRUB in no first sector: a recovery leaves these empty, so what is in one was
/// put there afterwards, by rr or by hand.
fn check_boot_code(disks: &[String]) -> Check {
    let found = disks.iter().any(|disk| has_boot_code(disk).unwrap_or(false));
    let problem = "there is no code that the BIOS could start: what started the node (extlinux, LILO, \
                   a boot loader in a partition, another disk, the network) is in no backup, and GRUB \
                   could not be installed";
    let what = format!("boot sector of {}", disks.join(", "));
    Check::new(what, (!found).then(|| problem.to_owned()))
}

/// The first sector of a disk that the BIOS boots from.
fn check_boot_sector(disk: &str) -> Check {
    let problem = match has_grub(disk) {
        Ok(true) => None,
        Ok(false) => Some("it holds no boot code of GRUB".into()),
        Err(error) => Some(format!("{error:#}")),
    };
    Check::new(format!("boot sector of {disk}"), problem)
}

/// A loader that the firmware's entries name, and the one that it tries by itself.
pub fn check_loaders(tree: &Tree<'_>) -> Vec<Check> {
    let boot = &tree.recorded.boot;
    let esps = Esp::all(&tree.plan.layout, tree.root);
    let mut checks = Vec::new();
    if esps.is_empty() {
        let problem = "the node boots by UEFI, but no EFI system partition is mounted".to_owned();
        checks.push(Check::new("the EFI system partition", Some(problem)));
    }
    checks.extend(check_esps(&esps, boot, &tree.recorded.node.arch));
    checks
}

/// Each one that the firmware knows by an entry; the others may be copies for a bad day, or hold the
/// only loader of the machine. Where the files of all entries are gone, it starts the fallback.
fn check_esps(esps: &[Esp], boot: &Boot, arch: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    for esp in esps.iter().filter(|esp| esp.has_entries(boot)) {
        let entries = esp.entries(boot);
        let path = entries.first().map_or("", |entry| entry.path.as_str());
        checks.push(check_loader(&[esp], esp::fallback_path(path, arch)));
    }
    if checks.is_empty() && !esps.is_empty() {
        let esps: Vec<&Esp> = esps.iter().collect();
        checks.push(check_loader(&esps, esp::fallback_path("", arch)));
    }
    checks
}

/// A loader on one of these EFI system partitions.
fn check_loader(esps: &[&Esp], path: &str) -> Check {
    let found = esps.iter().any(|esp| esp::file(&esp.dir, path).is_some());
    Check::new(format!("loader {path}"), (!found).then(|| "the file is not there".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::EfiEntry;
    use crate::plan::Answers;
    use crate::plan::testing::raid_node;
    use std::fs;

    const GRUB: &str = include_str!("../../tests/fixtures/grub/debian12.cfg");
    const BLKID: &str = "DEVNAME=/dev/vda2\nUUID=f0a965ad-b00f-4da8-80e5-7c775973c04d\nTYPE=ext4\n\n\
                         DEVNAME=/dev/vda3\nUUID=6ad5d04d-4f6c-473c-9729-b6e713bff224\nTYPE=ext4\n";

    fn tree() -> tempfile::TempDir {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        for dir in ["boot/grub", "etc", "usr/lib/systemd", "usr/sbin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::create_dir_all(tmp.path().join("dev/mapper")).unwrap();
        fs::write(tmp.path().join("dev/mapper/vg0-root"), "").unwrap();
        fs::write(root.join("boot/grub/grub.cfg"), GRUB).unwrap();
        fs::write(root.join("boot/vmlinuz-6.1.0-28-amd64"), "kernel").unwrap();
        fs::write(root.join("boot/initrd.img-6.1.0-28-amd64"), "0707010000000000000000").unwrap();
        fs::write(root.join("usr/lib/systemd/systemd"), "").unwrap();
        std::os::unix::fs::symlink("usr/sbin", root.join("sbin")).unwrap();
        std::os::unix::fs::symlink("/usr/lib/systemd/systemd", root.join("usr/sbin/init")).unwrap();
        tmp
    }

    fn problems(checks: &[Check]) -> Vec<String> {
        checks.iter().filter_map(|c| Some(format!("{}: {}", c.what, c.problem.as_ref()?))).collect()
    }

    #[test]
    fn a_whole_tree_passes() {
        let tmp = tree();
        let root = tmp.path().join("root");
        let devices = Devices::new(BLKID, &tmp.path().join("dev"));
        let checks = check_kernel(&root, &devices);
        assert_eq!(problems(&checks), [""; 0]);
        assert_eq!(checks.len(), 4, "{checks:?}");
        assert_eq!(check_init(&root).problem, None);
        fs::write(
            root.join("etc/fstab"),
            "/dev/mapper/vg0-root / ext4 defaults 0 1\nUUID=lost /x ext4 nofail\ntmpfs /tmp tmpfs\n",
        )
        .unwrap();
        assert_eq!(problems(&check_fstab(&root, &devices)), [""; 0]);
    }

    #[test]
    fn whatever_stops_a_boot_is_a_problem() {
        let tmp = tree();
        let root = tmp.path().join("root");
        let empty = Devices::new("", &tmp.path().join("none"));
        fs::remove_file(root.join("boot/vmlinuz-6.1.0-28-amd64")).unwrap();
        fs::write(root.join("boot/initrd.img-6.1.0-28-amd64"), "x".repeat(99)).unwrap();
        fs::remove_file(root.join("usr/lib/systemd/systemd")).unwrap();
        fs::write(root.join("etc/fstab"), "UUID=lost /srv ext4 defaults 0 2\n").unwrap();
        assert_eq!(
            problems(&check_kernel(&root, &empty)),
            [
                "kernel /vmlinuz-6.1.0-28-amd64: the file is not there",
                "initramfs /initrd.img-6.1.0-28-amd64: it does not start as an initramfs does",
                "root=UUID=6ad5d04d-4f6c-473c-9729-b6e713bff224: no such device is there",
                "the boot loader's filesystem f0a965ad-b00f-4da8-80e5-7c775973c04d: no such device is there",
            ]
        );
        assert_eq!(
            problems(&check_fstab(&root, &empty)),
            ["UUID=lost on /srv in /etc/fstab: no such device is there"]
        );
        assert!(check_init(&root).problem.is_some());
        fs::remove_dir_all(root.join("boot")).unwrap();
        assert_eq!(problems(&check_kernel(&root, &empty)).len(), 1);
    }

    #[test]
    fn a_bios_needs_code_in_a_first_sector() {
        let tmp = tempfile::tempdir().unwrap();
        let disk = |name: &str, code: &[u8]| {
            let mut sector = [0; 512];
            // The signature and the table are no code.
            sector[440..].fill(0xaa);
            sector[..code.len()].copy_from_slice(code);
            let file = tmp.path().join(name);
            fs::write(&file, sector).unwrap();
            file.display().to_string()
        };
        let (empty, other, grub) = (disk("1", b""), disk("2", b"\xebSYS"), disk("3", b"\xebGRUB "));
        let boots = |disks: &[&String]| {
            let disks: Vec<String> = disks.iter().copied().cloned().collect();
            check_boot_code(&disks).problem.is_none()
        };
        assert!(!boots(&[]) && !boots(&[&empty]));
        assert!(boots(&[&empty, &other]) && boots(&[&grub]));
        assert!(check_boot_sector(&grub).problem.is_none());
        assert!(check_boot_sector(&other).problem.is_some());
        assert!(check_boot_sector("/none").problem.is_some());
    }

    #[test]
    fn a_node_whose_start_is_not_known_does_not_boot() {
        let mut recorded = raid_node();
        for (disk, name) in recorded.disk.iter_mut().zip(["nosuch1", "nosuch2", "nosuch3"]) {
            disk.name = name.to_owned();
        }
        let plan = crate::plan::plan(&recorded, &recorded, &Answers::default()).unwrap();
        let devices = Devices::default();
        let root = Path::new("/none");
        let (devices, recorded, plan) = (&devices, &recorded, &plan);
        let mounted = &recorded.mount;
        let tree = Tree { root, recorded, mounted, plan, devices, passphrase: None };
        let [check] = &check_boot_sectors(&tree)[..] else { panic!("not one check") };
        assert_eq!(check.what, "boot sector of /dev/nosuch1, /dev/nosuch2");
        assert!(check.problem.as_ref().unwrap().contains("extlinux"), "{check:?}");
    }

    #[test]
    fn an_esp_without_entries_needs_no_loader_where_another_one_has_all() {
        let tmp = tempfile::tempdir().unwrap();
        let esp = |name: &str, partition: u128, files: &[&str]| {
            let dir = tmp.path().join(name);
            for file in files {
                let file = dir.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            Esp { dir, partitions: [uuid::Uuid::from_u128(partition)].into() }
        };
        let (vendor, fallback) = ("EFI/debian/shimx64.efi", "EFI/BOOT/BOOTX64.EFI");
        let whole = esp("whole", 1, &[vendor, fallback]);
        let copy = esp("copy", 2, &[vendor]);
        let entry = |number: u128| EfiEntry {
            number: 1,
            label: String::new(),
            partition: uuid::Uuid::from_u128(number),
            path: r"\EFI\debian\shimx64.efi".into(),
            active: true,
        };
        let of = |esps: &[&Esp], entries: &[u128]| {
            let esps: Vec<Esp> = esps.iter().copied().cloned().collect();
            let efi_entry = entries.iter().copied().map(entry).collect();
            let boot = Boot { efi_entry, ..Boot::default() };
            problems(&check_esps(&esps, &boot, "x86_64")).len()
        };
        assert_eq!(of(&[&whole, &copy], &[1]), 0, "a copy for a bad day");
        assert_eq!(of(&[&whole, &copy], &[1, 2]), 1, "the firmware knows both");
        assert_eq!(of(&[&copy, &whole], &[]), 0, "by the fallback of one");
        assert_eq!(of(&[&copy], &[]), 1);
        assert_eq!(of(&[&esp("lost", 3, &[])], &[3]), 1, "neither file");
        assert_eq!(of(&[&esp("stale", 4, &[fallback])], &[4]), 0, "as it started before");
    }
}
