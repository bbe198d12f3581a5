//! Which programs and files of the node the rescue system has, besides what a plan asks for.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};

use super::tree::Tree;
use crate::config::Drivers;
use crate::layout::{Firmware, Layout};
use crate::sys::tools;

/// Programs that are started by these very names, wherever else they are: the kernel loads modules
/// with the one (`/proc/sys/kernel/modprobe`), mount(8) finds its helpers as the others.
const BY_PATH: &[&str] = &["/sbin/modprobe", "/sbin/mount.nfs", "/sbin/mount.nfs4"];

/// Programs without which no rescue system works.
const REQUIRED: &str = "blkid chroot ip modprobe mount sh udevadm umount wipefs";

/// What makes a shell useful. Taken as far as the node has it.
const HANDY: &str = "\
    awk basename bash blockdev cat chmod chown clear cmp cp cut date dd df diff dirname dmesg \
    dmsetup du dumpe2fs e2fsck echo egrep env fdisk file find findmnt getent fsck fsck.ext4 \
    fsck.vfat grep gzip head hexdump hostname id kill ldd less ln losetup ls lsblk lsmod lsscsi \
    lvm mdadm mkdir modinfo mke2fs mkfs.ext2 mkfs.ext3 mkfs.ext4 mkfs.vfat mknod mkswap more mv \
    nano nc od partprobe printf pwd readlink rm rmdir rmmod sed sfdisk sleep sort stat stty \
    swapoff swapon sync tail tar tee test touch tr true tty tune2fs uname uniq wc which zcat";

/// The same with `drivers = "all"`: for machines, disks and servers of any kind. With `this-node` the
/// plan of this node brings what it needs of them.
const HANDY_ANYWHERE: &str = "\
    btrfs ethtool expr free gdisk lspci lsusb lvs mkfs.btrfs mkfs.xfs mount.nfs mount.nfs4 nvme \
    parted ping pkill ps pvs sgdisk showmount smartctl ss top umount.nfs umount.nfs4 vgchange vgs \
    vi vim xfs_admin xfs_info xfs_repair xxd zstd";

/// Programs that are scripts, and what these call.
const CALLED: &[(&str, &[&str])] =
    &[("xfs_admin", &["xfs_db", "xfs_io"]), ("xfs_info", &["xfs_spaceman", "xfs_db"])];

/// Libraries that programs open by name at run time without a note of it in their files.
const DLOPENED: &[&str] = &[
    // pthread_exit() and pthread_cancel() load it.
    "libgcc_s.so.1",
    // Name service; newer glibcs have both inside.
    "libnss_files.so.2",
    "libnss_dns.so.2",
];

/// Files that programs read, taken as far as the node has them.
const DATA: &[&str] = &[
    // mount.nfs looks up "tcp" and "udp", the port of the portmapper, and transports.
    "/etc/protocols",
    "/etc/services",
    "/etc/rpc",
    "/etc/netconfig",
    "/etc/nfs.conf",
    "/etc/nfsmount.conf",
    "/etc/idmapd.conf",
    "/etc/mke2fs.conf",
    "/etc/udev/udev.conf",
    "/etc/os-release",
    "/etc/localtime",
    // udev rules name groups.
    "/etc/group",
    // Interface names as the node's udev chooses them.
    "/lib/systemd/network/99-default.link",
    "/usr/lib/systemd/network/99-default.link",
    "/usr/lib/systemd/network/73-usb-net-by-mac.link",
];

/// Descriptions of terminals, where Debian and where others have them.
const TERMINALS: &[&str] =
    &["l/linux", "v/vt100", "v/vt102", "v/vt220", "x/xterm", "x/xterm-256color", "s/screen"];

/// Everything that must be there to build and run a rescue system for `layout`.
pub fn required(layout: &Layout, nfs: bool) -> Vec<&'static str> {
    let mut names = REQUIRED.split_whitespace().collect::<Vec<_>>();
    if layout.boot.firmware == Firmware::Uefi {
        names.push("efibootmgr");
    }
    if !layout.md.is_empty() {
        names.push("mdadm");
    }
    if !layout.luks.is_empty() {
        names.extend(["cryptsetup", "dmsetup"]);
    }
    if !layout.vg.is_empty() {
        names.extend(["lvm", "dmsetup"]);
    }
    // LVM starts it when a cached volume is activated, and does without where it is missing.
    let cached = layout.lv.iter().any(|lv| lv.kind == "cache");
    if cached && tools::find(OsStr::new("cache_check")).is_some() {
        names.push("cache_check");
    }
    if nfs {
        names.extend(["mount.nfs", "getent"]);
    }
    names
}

/// Adds `programs`, which must all be there, and everything else of this module.
pub fn add(tree: &mut Tree, programs: &[&str], drivers: Drivers) -> Result<()> {
    tools::require(programs)?;
    for name in programs {
        add_program(tree, name).with_context(|| format!("adding {name}"))?;
    }
    let anywhere = match drivers {
        Drivers::All => HANDY_ANYWHERE,
        // A layout is to be edited with something.
        Drivers::ThisNode if tools::find("nano".as_ref()).is_none() => "vi",
        Drivers::ThisNode => "",
    };
    for name in HANDY.split_whitespace().chain(anywhere.split_whitespace()) {
        if tools::find(OsStr::new(name)).is_some()
            && let Err(error) = add_program(tree, name)
        {
            // Nothing of rr runs it.
            log::info!("{name} is not in the rescue system: {error:#}");
        }
    }
    let nfs = drivers == Drivers::All || programs.contains(&"mount.nfs");
    for program in BY_PATH.iter().map(Path::new).filter(|path| path.exists()) {
        if !nfs && program.starts_with("/sbin/mount.nfs") {
            continue;
        }
        tree.add_program(program)?;
    }
    for soname in DLOPENED {
        tree.add_dlopened(soname)?;
    }
    for path in DATA.iter().map(Path::new).filter(|path| path.exists()) {
        tree.add(path)?;
    }
    for dir in ["/lib/terminfo", "/usr/share/terminfo"] {
        for name in TERMINALS {
            let path = Path::new(dir).join(name);
            if path.exists() {
                tree.add(&path)?;
            }
        }
    }
    add_udev(tree)
}

/// A program under every name that it has in the node's directories of programs.
fn add_program(tree: &mut Tree, name: &str) -> Result<()> {
    let Some(path) = tools::find(OsStr::new(name)) else { return Ok(()) };
    if is_interpreted(&path) {
        log::info!("{name} is a script for an interpreter that is left out");
        return Ok(());
    }
    let called = CALLED.iter().filter(|(caller, _)| *caller == name);
    for program in called.flat_map(|(_, called)| *called) {
        add_program(tree, program)?;
    }
    tree.add_program(&path)
}

/// A script of a language that would bring half a system along.
fn is_interpreted(path: &Path) -> bool {
    // Some devices are read for ever.
    if !path.is_file() {
        return false;
    }
    let Ok(bytes) = std::fs::read(path) else { return false };
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.starts_with("#!") && (line.contains("perl") || line.contains("python"))
}

/// Rules that act on disks by themselves. Nothing on the disks that are there may be assembled,
/// activated or checked behind a plan's back.
fn is_harmful_rule(name: &str) -> bool {
    ["64-md-raid", "65-md", "66-md"].iter().any(|prefix| name.starts_with(prefix))
        || (name.starts_with("69-") && (name.contains("lvm") || name.contains("md-")))
        || ["70-uaccess", "71-seat", "73-seat", "85-lvm2", "90-iscsi", "96-e2scrub", "99-systemd"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || ["bcache", "multipath", "zfs", "sound", "snap"].iter().any(|part| name.contains(part))
}

fn add_udev(tree: &mut Tree) -> Result<()> {
    for path in ["/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/sbin/udevd"] {
        if Path::new(path).exists() {
            tree.add_program(Path::new(path))?;
            break;
        }
    }
    let wanted = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let in_dir = |dir: &str| path.components().any(|part| part.as_os_str() == dir);
        if in_dir("hwdb.d") || name == "hwdb.bin" {
            return false;
        }
        let harmful = in_dir("rules.d") && is_harmful_rule(&name);
        !harmful && !is_interpreted(path)
    };
    for dir in ["/usr/lib/udev", "/lib/udev", "/etc/udev/rules.d"] {
        let path = Path::new(dir);
        // On a merged /usr both names lead to the same place.
        if path.is_dir() && (dir != "/lib/udev" || !same(path, Path::new("/usr/lib/udev"))) {
            tree.add_below(path, &wanted)?;
        }
    }
    let links = Path::new("/etc/systemd/network");
    if links.is_dir() {
        tree.add_below(links, &is_link_setting)?;
    }
    if Path::new("/lib").is_symlink() {
        tree.add(Path::new("/lib/udev"))?;
    }
    Ok(())
}

/// What udev reads of systemd-networkd's settings, see systemd.link(5). The others hold secret keys, of
/// WireGuard and MACsec.
fn is_link_setting(path: &Path) -> bool {
    let ends = |path: &Path, end: &str| path.to_string_lossy().ends_with(end);
    let is_drop_in = path.parent().is_some_and(|dir| ends(dir, ".link.d")) && ends(path, ".conf");
    is_drop_in || ends(path, ".link")
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_keys_of_networkd_stay_out() {
        let dir = tempfile::tempdir().unwrap();
        let files =
            ["10-eth.link", "10-eth.link.d/mac.conf", "wg0.netdev", "wg0.netdev.d/key.conf"];
        for name in files.iter().chain(&["wg0.key", "20-wg.network", "10-eth.link.d/old.link~"]) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "PrivateKey=x\n").unwrap();
        }
        std::os::unix::fs::symlink("/dev/null", dir.path().join("99-default.link")).unwrap();
        let mut tree = Tree::new();
        tree.add_below(dir.path(), &is_link_setting).unwrap();
        let top = dir.path().strip_prefix("/").unwrap();
        let taken: Vec<_> = tree
            .iter()
            .filter(|(_, node)| !matches!(node, crate::rescue::tree::Node::Dir { .. }))
            .map(|(path, _)| path.strip_prefix(top).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(taken, ["10-eth.link", "10-eth.link.d/mac.conf", "99-default.link"]);
    }

    #[test]
    fn rules_that_assemble_or_activate_stay_out_and_those_that_name_devices_come() {
        for name in [
            "64-md-raid-assembly.rules",
            "69-lvm.rules",
            "69-lvm-metad.rules",
            "69-dm-lvm.rules",
            "69-md-clustered-confirm-device.rules",
            "96-e2scrub.rules",
        ] {
            assert!(is_harmful_rule(name), "{name}");
        }
        for name in [
            "10-dm.rules",
            "11-dm-lvm.rules",
            "13-dm-disk.rules",
            "55-dm.rules",
            "56-lvm.rules",
            "60-persistent-storage.rules",
            "60-persistent-storage-dm.rules",
            "63-md-raid-arrays.rules",
            "80-drivers.rules",
            "95-dm-notify.rules",
        ] {
            assert!(!is_harmful_rule(name), "{name}");
        }
    }
}
