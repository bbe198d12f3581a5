//! Disks that are plugged in for backups: made by `rr format`, found by their label. The disks are
//! loop devices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rr::config::Config;
use rr::layout::Firmware;
use rr::prove::Machine;
use rr::rescue::{RescueInfo, menu};
use rr::sys::mount::{self, MountGuard, TempMount};
use rr::sys::run::{Cmd, Output};

use crate::is_root;
use crate::node::{Node, noise, said};

/// A loop device on a sparse file; it goes when this is dropped.
struct Disk {
    device: String,
}

impl Disk {
    /// None, with the reason said, where this machine lets nobody make one.
    fn new(dir: &Path, name: &str) -> Option<Disk> {
        let file = dir.join(name);
        std::fs::File::create(&file).unwrap().set_len(700 << 20).unwrap();
        match Cmd::new("losetup").args(["--find", "--show", "--partscan"]).arg(file).text() {
            Ok(device) => Some(Disk { device: device.trim().to_owned() }),
            Err(error) => {
                eprintln!("skipped: no loop devices here: {error:#}");
                None
            }
        }
    }

    fn name(&self) -> &str {
        self.device.trim_start_matches("/dev/")
    }

    fn format(&self, more: &[&str]) -> Output {
        rr(&[&["format", &self.device], more].concat())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Cmd::new("losetup").args(["--detach", &self.device]).run();
    }
}

fn rr(args: &[&str]) -> Output {
    Cmd::new(env!("CARGO_BIN_EXE_rr")).args(["--config", "/dev/null"]).args(args).output().unwrap()
}

fn done(args: &[&str]) -> String {
    let output = rr(args);
    assert!(output.success(), "{args:?}: {}", said(&output));
    output.text()
}

fn refused(output: &Output, text: &str) {
    assert_eq!(output.code(), Some(1), "{}", said(output));
    assert!(said(output).contains(text) && said(output).contains("hint: "), "{}", said(output));
}

#[test]
fn loop_a_disk_is_made_once_and_holds_the_backups_of_two_nodes() {
    const NAME: &str = "loop_a_disk_is_made_once_and_holds_the_backups_of_two_nodes";
    if !is_root(NAME) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), "disk") else { return };
    let label = format!("RR{}", std::process::id());
    let url = format!("usb://{label}");
    // A loop device can't be unplugged.
    refused(&disk.format(&["--label", &label]), &format!("--erase {}", disk.name()));
    let consent = ["--label", &label, "--erase", disk.name()];
    let dry = disk.format(&[&consent[..], &["--dry-run"]].concat());
    assert!(dry.success(), "{}", said(&dry));
    assert!(Cmd::new("wipefs").args(["--no-act", &disk.device]).text().unwrap().is_empty());
    let output = disk.format(&consent);
    assert!(output.success(), "{}", said(&output));
    check_disk(&disk, &label);

    let trees: Vec<PathBuf> =
        (0..2).map(|number| dir.path().join(format!("tree{number}"))).collect();
    for (number, tree) in trees.iter().enumerate() {
        std::fs::create_dir(tree).unwrap();
        std::fs::write(tree.join("file"), noise(&number.to_string(), 1 << 20)).unwrap();
        let node = format!("node00{number}");
        let args = ["--target", &url, "--node", &node, "mkbackuponly", "--include"];
        done(&[&args[..], &[tree.to_str().unwrap()]].concat());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(disk.name()), "nothing stays mounted: {mounts}");
    // By the disk's path, too; each node has its own.
    for (url, number) in [(url.clone(), 0), (format!("usb://{}", disk.device), 1)] {
        let node = format!("node00{number}");
        let target = ["--target", &url, "--node", &node];
        assert_eq!(done(&[&target[..], &["list"]].concat()).lines().count(), 2);
        done(&[&target[..], &["verify"]].concat());
        let to = dir.path().join("back").join(&node);
        done(&[&target[..], &["restore", "--to", to.to_str().unwrap()]].concat());
        let back = to.join(trees[number].strip_prefix("/").unwrap()).join("file");
        assert!(std::fs::read(back).unwrap() == noise(&number.to_string(), 1 << 20));
    }
    refused(&disk.format(&["--label", &label]), "holds data");

    // A second one of that name: both are named, and neither is touched.
    let Some(twin) = Disk::new(dir.path(), "twin") else { return };
    assert!(twin.format(&["--label", &label, "--erase", twin.name()]).success());
    let output = rr(&["--target", &url, "--node", "node000", "list"]);
    refused(&output, &format!("2 filesystems have the label {label}"));
    for disk in [&disk, &twin] {
        assert!(said(&output).contains(&format!("{}p3", disk.device)), "{}", said(&output));
    }
    let url = format!("usb://{}", disk.device);
    done(&["--target", &url, "--node", "node000", "verify"]);
    refused(
        &rr(&["--target", "usb://RR-NONE", "--node", "n", "list"]),
        "no filesystem with the label",
    );
}

#[test]
fn loop_a_disk_in_use_is_never_erased() {
    if !is_root("loop_a_disk_in_use_is_never_erased") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), "disk") else { return };
    Cmd::new("sfdisk").args(["--quiet", &disk.device]).stdin("type=linux\n").run().unwrap();
    Cmd::new("partx").args(["--update", &disk.device]).run().unwrap();
    let partition = format!("{}p1", disk.device);
    Cmd::new("mkfs.ext4").args(["-q", &partition]).run().unwrap();
    let consent = ["--erase", disk.name()];
    refused(&rr(&["format", &partition, "--erase", disk.name()]), "is a partition");
    let mnt = dir.path().join("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let mounted = MountGuard::mount(&[&partition], &mnt).unwrap();
    refused(&disk.format(&consent), "is mounted at");
    mounted.close().unwrap();
    // Mounted where this process does not see it.
    let hidden = mount::in_private_namespace(|| {
        Cmd::new("mount").args([&partition]).arg(&mnt).run()?;
        let opened = std::fs::File::open(&mnt)?;
        mount::detach(&mnt)?;
        Ok(opened)
    });
    refused(&disk.format(&consent), "is in use");
    drop(hidden.unwrap());
    assert_eq!(
        Cmd::new("blkid").args(["-p", "-s", "TYPE", "-o", "value", &partition]).text().unwrap(),
        "ext4\n"
    );
}

/// What other programs say of the disk.
fn check_disk(disk: &Disk, label: &str) {
    let table = Cmd::new("sfdisk").args(["--dump", &disk.device]).text().unwrap();
    for part in ["label: gpt", "name=\"rr-bios\"", "name=\"rr-esp\"", "name=\"rr-backup\""] {
        assert!(table.contains(part), "{table}");
    }
    let esp = format!("{}p2", disk.device);
    let files = Cmd::new("mdir").args(["-b", "-i", &esp, "::/EFI/BOOT"]).text().unwrap();
    assert!(files.contains("::/EFI/BOOT/BOOTX64.EFI"), "{files}");
    let signed = rr::rescue::signed::find(rr::rescue::signed::Origin::Cd);
    assert_eq!(files.contains("grubx64.efi"), signed.is_some(), "{files}");
    let mut sector = [0; 512];
    std::io::Read::read_exact(&mut std::fs::File::open(&disk.device).unwrap(), &mut sector)
        .unwrap();
    assert!(sector.windows(4).any(|bytes| bytes == b"GRUB") && sector[510..] == [0x55, 0xaa]);
    let mnt = TempMount::mount(&["-o", "ro", &format!("LABEL={label}")]).unwrap();
    for file in ["boot/grub/i386-pc/normal.mod", "boot/grub/grub.cfg", "rr/theme.txt", "README.txt"]
    {
        assert!(mnt.path().join(file).is_file(), "{file}");
    }
    let menu = mnt.path().join("boot/grub/grub.cfg");
    Cmd::new("grub-script-check").arg(menu).run().unwrap();
    mnt.close().unwrap();
}

#[test]
fn what_is_pruned_leaves_the_menu() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    node.backed_up();
    let shown = node.target.join("node001/menu.cfg");
    let text = "version = 1\nnode = \"node001\"\ntarget = \"usb://RR\"\nrr = \"test\"\n";
    let info: RescueInfo = toml::from_str(text).unwrap();
    let of =
        |generations: &[String]| menu::of_node(&Config::default(), &info, generations, ("", 80));
    node.change(1, 1000);
    let second = node.backed_up();
    std::fs::write(&shown, of(&node.generations())).unwrap();
    let output = node.rr(&["prune", "--keep-last", "1"]).output().unwrap();
    assert!(output.success(), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(shown).unwrap(), of(&[second]));
}

/// A machine with nothing but the disk: BIOS with two nodes on it, UEFI with one.
#[test]
fn vm_a_disk_shows_its_nodes_on_bios_and_uefi() {
    const NAME: &str = "vm_a_disk_shows_its_nodes_on_bios_and_uefi";
    if !is_root(NAME) || rr::sys::tools::find("qemu-system-x86_64".as_ref()).is_none() {
        eprintln!("{NAME} is skipped: no QEMU here, or this is not root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(dir.path(), "disk") else { return };
    let output = disk.format(&["--label", "RR-BOOTS", "--erase", disk.name()]);
    assert!(output.success(), "{}", said(&output));
    let data = TempMount::mount(&[&format!("{}p3", disk.device)]).unwrap();
    for node in ["node001", "node002"] {
        let info: RescueInfo = toml::from_str(&format!(
            "version = 1\nnode = \"{node}\"\ntarget = \"usb://RR-BOOTS\"\nrr = \"test\"\n"
        ))
        .unwrap();
        let generations = ["20261121T013500Z".to_owned()];
        let text = menu::of_node(&Config::default(), &info, &generations, ("", 80));
        std::fs::create_dir(data.path().join("backup").join(node)).unwrap();
        std::fs::write(data.path().join("backup").join(node).join("menu.cfg"), text).unwrap();
    }
    data.close().unwrap();
    boot(dir.path(), Firmware::Bios, &["node002"], &["Rescue shell of node001"]);
    let data = TempMount::mount(&[&format!("{}p3", disk.device)]).unwrap();
    std::fs::remove_dir_all(data.path().join("backup/node001")).unwrap();
    data.close().unwrap();
    let shown = ["Automatic Recover", "as it was earlier", "Boot from the first disk"];
    boot(dir.path(), Firmware::Uefi, &shown, &[]);
}

/// Boots from the disk, waits for what the menu shows, then for what its first entry shows.
fn boot(dir: &Path, firmware: Firmware, shown: &[&str], inside: &[&str]) {
    let patience = std::env::var("RR_LAB_PATIENCE").ok().and_then(|text| text.parse().ok());
    let timeout = Duration::from_secs(120) * patience.unwrap_or(1);
    let mut machine = Machine::new(firmware, &dir.join("logs"));
    machine.stick = Some(dir.join("disk"));
    let mut vm = machine.start().unwrap();
    for text in shown {
        vm.wait_console(text, timeout).unwrap();
    }
    if !inside.is_empty() {
        vm.press("home").unwrap();
        vm.press("ret").unwrap();
    }
    for text in inside {
        vm.wait_console(text, timeout).unwrap();
    }
}
