//! Which kernel modules go into the rescue system, read from the files that depmod(8) writes.
//!
//! `drivers = "all"` takes whole directories of the kernel's tree: what stores, what connects, and
//! what is needed to use it. `this-node` takes what is loaded now, and what the layout and the target
//! need. Both take what any rescue system needs, and everything that a taken module depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::tree::Tree;
use crate::config::{Config, Drivers, TargetUrl};
use crate::layout::{Layout, LinkKind};
use crate::plan::groups;
use crate::probe::block;
use crate::sys::run::Cmd;

/// Directories below `kernel/` that are taken with `drivers = "all"`.
const DIRS: &[&str] = &[
    "arch/x86/crypto",
    "block",
    "crypto",
    "drivers/acpi",
    "drivers/ata",
    "drivers/block",
    "drivers/cdrom",
    "drivers/char/hw_random",
    "drivers/hid/hid",
    "drivers/hid/usbhid",
    "drivers/hv",
    "drivers/input/keyboard",
    "drivers/input/serio",
    "drivers/md",
    "drivers/message",
    "drivers/mmc",
    "drivers/net/bonding",
    "drivers/net/ethernet",
    "drivers/net/fjes",
    "drivers/net/hyperv",
    "drivers/net/mdio",
    "drivers/net/pcs",
    "drivers/net/phy",
    "drivers/net/team",
    "drivers/net/usb",
    "drivers/net/virtio_net",
    "drivers/net/vmxnet3",
    "drivers/net/xen-netfront",
    "drivers/nvdimm",
    "drivers/nvme",
    "drivers/pci",
    "drivers/phy",
    "drivers/scsi",
    "drivers/tty/serial",
    "drivers/ufs",
    "drivers/usb/common",
    "drivers/usb/core",
    "drivers/usb/host",
    "drivers/usb/storage",
    "drivers/virtio",
    "drivers/xen",
    "fs",
    "lib",
    "net/802",
    "net/8021q",
    "net/bridge",
    "net/core",
    "net/ipv6",
    "net/llc",
    "net/packet",
    "net/sunrpc",
];

/// Parts of [`DIRS`] that no recovery needs and that would bring much along. What the node has
/// loaded is taken all the same.
const NOT_DIRS: &[&str] = &[
    "drivers/acpi/acpi_video",
    "drivers/block/drbd",
    "drivers/block/rbd",
    "drivers/block/rnbd",
    "drivers/hid/hid-prodikeys",
    "drivers/md/bcache",
    "drivers/md/md-cluster",
    "drivers/net/ethernet/mellanox/mlxsw",
    "drivers/nvme/host/nvme-rdma",
    "drivers/nvme/target",
    "drivers/scsi/cxlflash",
    "drivers/scsi/elx",
    "drivers/scsi/pcmcia",
    "drivers/scsi/qla2xxx/tcm_qla2xxx",
    "drivers/xen/xen-scsiback",
    "fs/9p",
    "fs/adfs",
    "fs/af",
    "fs/autofs",
    "fs/be",
    "fs/bfs",
    "fs/cachefiles",
    "fs/ceph",
    "fs/cifs",
    "fs/coda",
    "fs/dlm",
    "fs/ecryptfs",
    "fs/efs",
    "fs/erofs",
    "fs/f2fs",
    "fs/freevxfs",
    "fs/fuse",
    "fs/gfs2",
    "fs/hfs",
    "fs/hpfs",
    "fs/jffs2",
    "fs/jfs",
    "fs/ksmbd",
    "fs/minix",
    "fs/nilfs2",
    "fs/nfsd",
    "fs/ocfs2",
    "fs/omfs",
    "fs/orangefs",
    "fs/qnx",
    "fs/reiserfs",
    "fs/romfs",
    "fs/smb",
    "fs/sysv",
    "fs/ubifs",
    "fs/ufs",
    "fs/vboxsf",
    "fs/zonefs",
    "lib/test",
    "net/bridge/netfilter",
    "net/ipv6/netfilter",
    "net/sunrpc/xprtrdma",
];

/// Always taken where the kernel has them, by module name: what any medium and screen needs, and any
/// disk that rr formats.
const ALWAYS: &str = "\
    ahci ata_piix cdrom crc32c_generic crc32c_intel dm_mod efivarfs ext4 fat hid_generic isofs \
    libcrc32c loop nls_ascii nls_cp437 nls_iso8859_1 nls_utf8 nvme sd_mod sr_mod uas usb_storage \
    usbhid vfat virtio_blk virtio_console virtio_net virtio_pci virtio_scsi xhci_pci";

/// Modules that others load when they run, without a note of it in depmod's files.
const LOADED_LATER: &[(&str, &[&str])] = &[
    ("nfs", &["nfsv3", "nfsv4"]),
    ("dm_crypt", &["aesni_intel", "xts"]),
    ("f2fs", &["crc32_generic", "crc32_pclmul"]),
];

/// What depmod wrote about a kernel's modules.
#[derive(Debug, Default)]
pub struct Index {
    /// A module's file below `/lib/modules/RELEASE` and the files that it depends on.
    dep: BTreeMap<String, Vec<String>>,
    /// From a module's name to its file.
    by_name: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
    soft: BTreeMap<String, Vec<String>>,
}

impl Index {
    pub fn read(kernel: &Kernel) -> Result<Index> {
        let read = |name: &str| {
            let path = kernel.modules.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        Ok(Index::parse(
            &read("modules.dep")?,
            &read("modules.builtin")?,
            &read("modules.softdep").unwrap_or_default(),
        ))
    }

    pub fn parse(dep: &str, builtin: &str, softdep: &str) -> Index {
        let mut index = Index::default();
        for line in dep.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            index.by_name.insert(module_name(file), file.to_owned());
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            index.dep.insert(file.to_owned(), needs);
        }
        index.builtin = builtin.lines().map(module_name).collect();
        // `softdep NAME pre: A B post: C`
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") {
                continue;
            }
            let Some(name) = words.next() else { continue };
            let soft = words.filter(|word| !word.ends_with(':')).map(module_name);
            index.soft.entry(module_name(name)).or_default().extend(soft);
        }
        index
    }

    /// Whether the kernel has the module, as a file or built in.
    pub fn has(&self, name: &str) -> bool {
        let name = module_name(name);
        self.by_name.contains_key(&name) || self.builtin.contains(&name)
    }

    /// The files to take: by directory and by name, with all that they depend on. `needed` has the
    /// modules that this recovery can't do without, and what is loaded.
    pub fn select(&self, drivers: Drivers, needed: &[String]) -> BTreeSet<String> {
        let mut todo: Vec<String> = Vec::new();
        if drivers == Drivers::All {
            todo.extend(self.dep.keys().filter(|file| is_wanted(file)).cloned());
        }
        let mut names: Vec<&str> = ALWAYS.split_whitespace().collect();
        names.extend(needed.iter().map(String::as_str));
        for (name, later) in LOADED_LATER {
            if names.contains(name) {
                names.extend(*later);
            }
        }
        todo.extend(names.iter().filter_map(|name| self.by_name.get(&module_name(name)).cloned()));
        let mut taken = BTreeSet::new();
        while let Some(file) = todo.pop() {
            if taken.contains(&file) {
                continue;
            }
            let soft = self.soft.get(&module_name(&file)).into_iter().flatten();
            todo.extend(soft.filter_map(|name| self.by_name.get(name).cloned()));
            todo.extend(self.dep.get(&file).into_iter().flatten().cloned());
            taken.insert(file);
        }
        taken
    }
}

fn is_wanted(file: &str) -> bool {
    let Some(path) = file.strip_prefix("kernel/") else { return false };
    DIRS.iter().any(|dir| is_part(path, dir)) && !NOT_DIRS.iter().any(|part| path.starts_with(part))
}

/// `drivers/block` takes `drivers/block/x.ko`, and `drivers/hid/hid` takes `drivers/hid/hid.ko` and
/// `drivers/hid/hid-cherry.ko`: keyboards that hid-generic leaves to a driver of their own.
fn is_part(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.starts_with(['/', '.', '-']))
}

/// `kernel/fs/nls/nls_iso8859-1.ko.xz` is `nls_iso8859_1`.
pub fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// The names in /proc/modules.
pub fn loaded() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The index files that modprobe and udev read; depmod(8) writes some as text as well, megabytes
/// that nobody reads then. They are taken whole: an alias for a module that was not taken is an alias
/// for a file that is not there, which loads nothing and hurts nobody.
const INDEX_FILES: &[&str] = &[
    "modules.alias.bin",
    "modules.builtin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.builtin.modinfo",
    "modules.dep.bin",
    "modules.devname",
    "modules.softdep",
    "modules.weakdep",
];

/// Adds the selected modules, the index, the node's modprobe configuration and firmware.
pub fn add(
    tree: &mut Tree,
    kernel: &Kernel,
    index: &Index,
    drivers: Drivers,
    needed: &[&str],
) -> Result<()> {
    let mut names = loaded();
    names.extend(needed.iter().map(|name| (*name).to_owned()));
    let files = index.select(drivers, &names);
    for file in &files {
        tree.add(&kernel.modules.join(file))?;
    }
    for name in INDEX_FILES {
        let path = kernel.modules.join(name);
        if path.exists() {
            tree.add(&path)?;
        }
    }
    for dir in ["/lib/modprobe.d", "/usr/lib/modprobe.d", "/etc/modprobe.d"] {
        add_settings(tree, Path::new(dir))?;
    }
    log::info!("{} kernel modules of {}", files.len(), kernel.release);
    add_firmware(tree, kernel, &files)
}

/// Adds what modprobe.d(5) has in a directory.
fn add_settings(tree: &mut Tree, dir: &Path) -> Result<()> {
    let is_setting = |path: &Path| path.extension() == Some("conf".as_ref());
    if !dir.is_dir() {
        return Ok(());
    }
    tree.add_below(dir, &is_setting)?;
    for name in block::names_in(dir) {
        if !is_setting(Path::new(&name)) {
            continue;
        }
        let Ok(file) = dir.join(name).canonicalize() else { continue };
        if !file.is_file() {
            continue;
        }
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let text = allowing(&String::from_utf8_lossy(&bytes));
        if let (Some(text), Some(path)) = (text, file.to_str()) {
            tree.text(path, 0o644, text);
        }
    }
    Ok(())
}

/// The text without what keeps modules from being loaded that any rescue system needs. None where nothing
/// does.
fn allowing(text: &str) -> Option<String> {
    let lines = text.split_inclusive('\n').filter(|line| !forbids(line));
    let left: String = lines.collect();
    (left != text).then_some(left)
}

/// Guides to hardening have USB disks forbidden, and FAT: a management board's virtual drive is such a
/// disk.
fn forbids(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (Some(verb), Some(name)) = (words.next(), words.next()) else { return false };
    let name = module_name(name);
    // Without uas, usb-storage takes its disks: so it is where these don't work with it.
    if name == "uas" || !ALWAYS.split_whitespace().any(|always| always == name) {
        return false;
    }
    let does_nothing = |program: &str| {
        matches!(program.trim_end_matches(';').rsplit('/').next(), Some("true" | "false"))
    };
    verb == "blacklist" || (verb == "install" && words.next().is_some_and(does_nothing))
}

/// Adds the firmware files that the taken drivers name, as far as the node has them.
fn add_firmware(tree: &mut Tree, kernel: &Kernel, files: &BTreeSet<String>) -> Result<()> {
    let dir = Path::new("/lib/firmware");
    if std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none()) {
        return Ok(());
    }
    let drivers: Vec<_> = files
        .iter()
        .filter(|file| may_want_firmware(file))
        .map(|file| kernel.modules.join(file))
        .collect();
    let mut wanted = BTreeSet::new();
    // Few enough at a time for the length of a command line.
    for some in drivers.chunks(500) {
        let text = Cmd::new("modinfo").args(["-F", "firmware"]).args(some).text()?;
        wanted.extend(text.lines().map(str::to_owned));
    }
    for path in wanted.iter().flat_map(|name| firmware_files(dir, &kernel.release, name)) {
        tree.add(&path)?;
    }
    Ok(())
}

/// What does not come with the kernel (`extra/`, `updates/dkms/`, `weak-updates/`) may be anything.
fn may_want_firmware(file: &str) -> bool {
    !file.starts_with("kernel/") || file.contains("/drivers/")
}

/// The files of a firmware that are there, of all places where the kernel looks.
fn firmware_files(dir: &Path, release: &str, name: &str) -> Vec<PathBuf> {
    let updates = dir.join("updates");
    let dirs = [updates.join(release), updates, dir.join(release), dir.to_owned()];
    let files = dirs
        .iter()
        .flat_map(|dir| ["", ".xz", ".zst"].map(|suffix| dir.join(format!("{name}{suffix}"))));
    // A name may be a pattern; the driver asks for a file that fits.
    files.filter(|path| path.is_file()).collect()
}

/// Modules that the layout can't be recovered without and that the kernel has not, and why.
pub fn missing(index: &Index, layout: &Layout, config: &Config, release: &str) -> Vec<String> {
    needed(layout, config)
        .iter()
        .filter(|(module, _)| !index.has(module) && !does_without(layout, module))
        .map(|(module, why)| {
            format!("the kernel {release} has no module {module}, needed for {why}")
        })
        .collect()
}

/// What is cached comes back without its cache; but an array below it only with the cache.
fn does_without(layout: &Layout, module: &str) -> bool {
    let kind = match module {
        "dm_cache" => "cache",
        "dm_writecache" => "writecache",
        _ => return false,
    };
    layout.lv.iter().filter(|lv| lv.kind == kind).all(groups::is_on_plain)
}

/// Modules that a recovery of the layout is to have, and why.
pub fn needed<'a>(layout: &'a Layout, config: &Config) -> BTreeMap<&'a str, String> {
    let mut needed: BTreeMap<&str, String> = BTreeMap::new();
    for fs in &layout.fs {
        let module = match fs.kind.as_str() {
            "ext2" | "ext3" | "ext4" => "ext4",
            other => other,
        };
        needed.insert(module, format!("the filesystem on {}", fs.on));
    }
    for md in &layout.md {
        let module = match md.level.as_str() {
            "raid4" | "raid5" | "raid6" => "raid456",
            other => other,
        };
        needed.insert(module, format!("the array {}", md.name));
    }
    if let Some(luks) = layout.luks.first() {
        needed.insert("dm_crypt", format!("the LUKS volume {}", luks.uuid));
    }
    if let Some(vg) = layout.vg.first() {
        needed.insert("dm_mod", format!("the volume group {}", vg.name));
    }
    for lv in &layout.lv {
        // A cached volume may be an array below.
        let kinds = lv.segment.iter().map(|segment| segment.kind.as_str());
        for kind in kinds.chain([lv.kind.as_str()]) {
            let module = match kind {
                "thin-pool" => "dm_thin_pool",
                "mirror" => "dm_mirror",
                "cache" => "dm_cache",
                "writecache" => "dm_writecache",
                kind if kind.starts_with("raid") => "dm_raid",
                _ => continue,
            };
            needed.insert(module, format!("the volume {}", lv.id));
        }
    }
    for link in &layout.net.link {
        let module = match link.kind {
            LinkKind::Bond => "bonding",
            LinkKind::Vlan => "8021q",
            LinkKind::Bridge => "bridge",
        };
        needed.insert(module, format!("the network interface {}", link.name));
    }
    let of_target = match config.target_url() {
        Ok(TargetUrl::Nfs { .. }) => "nfs",
        Ok(TargetUrl::Usb(_)) => "ext4",
        Ok(TargetUrl::Iso(_)) => "isofs",
        _ => return needed,
    };
    needed.insert(of_target, "the target".to_owned());
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescue::tree::Node;

    const DEP: &str = "\
kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/drivers/net/wireless/iwl.ko: kernel/net/mac80211.ko
kernel/net/mac80211.ko:
kernel/drivers/net/ethernet/intel/ice/ice.ko.xz: kernel/drivers/gnss/gnss.ko.xz
kernel/drivers/gnss/gnss.ko.xz:
kernel/drivers/md/raid456.ko: kernel/drivers/md/md-mod.ko
kernel/drivers/md/md-mod.ko:
kernel/fs/nfs/nfs.ko:
kernel/fs/nfs/nfsv4.ko: kernel/fs/nfs/nfs.ko
kernel/fs/ocfs2/ocfs2.ko:
kernel/crypto/crc32c_generic.ko:
";

    fn index() -> Index {
        Index::parse(DEP, "kernel/fs/ext4/ext4.ko\n", "softdep libcrc32c pre: crc32c-generic\n")
    }

    #[test]
    fn what_any_rescue_system_needs_is_not_forbidden_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        // As CIS's guides have it, and OpenSCAP on RHEL.
        file("usb-storage.conf", "install usb-storage /bin/true\nblacklist usb-storage\n");
        let other = "# install vfat /bin/true\ninstall dccp /bin/false\nblacklist uas\n\
                     blacklist qla2xxx\noptions usb-storage quirks=0781:5580:u\n\
                     install nvme /sbin/modprobe --ignore-install nvme\n";
        file("cis.conf", &format!("install vfat /bin/false\n{other}"));
        file("plain.conf", other);
        // A link to another name, letters of another system, and a shell's end of a command.
        let odd = b"# f\xfcr USB\ninstall usb_storage /bin/false;\n";
        std::fs::write(dir.path().join("usb.other"), odd).unwrap();
        std::os::unix::fs::symlink("usb.other", dir.path().join("usb.conf")).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("masked.conf")).unwrap();
        let pipe = dir.path().join("pipe.conf");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut tree = Tree::new();
        add_settings(&mut tree, dir.path()).unwrap();
        assert!(tree.contains(dir.path().join("masked.conf").to_str().unwrap()));
        assert!(!tree.contains(pipe.to_str().unwrap()));
        let text = |name: &str| {
            let path = dir.path().join(name).canonicalize().unwrap();
            let node = tree.iter().find(|(at, _)| Path::new("/").join(at) == path);
            match node.unwrap().1 {
                Node::Text { bytes, .. } => Some(String::from_utf8(bytes.clone()).unwrap()),
                _ => None,
            }
        };
        assert_eq!(text("usb-storage.conf").as_deref(), Some(""));
        assert_eq!(text("cis.conf").as_deref(), Some(other));
        assert_eq!(text("plain.conf"), None);
        assert_eq!(text("usb.other").as_deref(), Some("# f\u{fffd}r USB\n"));
    }

    #[test]
    fn servers_drivers_come_with_their_dependencies_and_no_others() {
        let files: Vec<String> = index().select(Drivers::All, &[]).into_iter().collect();
        let names: Vec<String> = files.iter().map(|file| module_name(file)).collect();
        for name in ["xfs", "libcrc32c", "ice", "gnss", "raid456", "md_mod", "crc32c_generic"] {
            assert!(names.contains(&name.to_owned()), "{name} not in {names:?}");
        }
        for name in ["iwl", "mac80211", "ocfs2"] {
            assert!(!names.contains(&name.to_owned()), "{name} in {names:?}");
        }
    }

    #[test]
    fn this_node_takes_what_is_loaded_or_needed() {
        let files = index().select(Drivers::ThisNode, &["iwl".to_owned(), "nfs".to_owned()]);
        assert!(files.contains("kernel/net/mac80211.ko"));
        assert!(files.contains("kernel/fs/nfs/nfsv4.ko"));
        for none in ["kernel/drivers/net/ethernet/intel/ice/ice.ko.xz", "kernel/fs/xfs/xfs.ko"] {
            assert!(!files.contains(none), "{none}");
        }
    }

    #[test]
    fn a_module_is_known_by_file_or_built_in() {
        let index = index();
        assert!(index.has("md-mod") && index.has("ext4") && !index.has("zfs"));
    }

    #[test]
    fn drivers_from_elsewhere_come_with_firmware_from_all_places() {
        for file in ["extra/ice.ko", "updates/dkms/x.ko.zst", "kernel/drivers/scsi/y.ko"] {
            assert!(may_want_firmware(file), "{file}");
        }
        assert!(!may_want_firmware("kernel/fs/xfs/xfs.ko"));
        let dir = tempfile::tempdir().unwrap();
        let names = ["updates/6.1/a/b.bin", "updates/a/b.bin.xz", "6.1/a/b.bin", "a/b.bin.zst"];
        for name in names.into_iter().chain(["6.2/a/b.bin", "a/c.bin"]) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = firmware_files(dir.path(), "6.1", "a/b.bin");
        assert_eq!(found, names.map(|name| dir.path().join(name)));
    }

    #[test]
    fn directories_end_where_names_end() {
        assert!(is_wanted("kernel/drivers/net/virtio_net.ko"));
        assert!(is_wanted("kernel/drivers/hid/hid-generic.ko"));
        assert!(!is_wanted("kernel/libfoo/x.ko"));
        assert!(!is_wanted("kernel/drivers/net/wireless/x.ko"));
    }

    #[test]
    fn a_kernel_without_what_the_layout_needs_is_told_by_module() {
        let index = Index::parse("kernel/fs/xfs/xfs.ko:\n", "kernel/fs/ext4/ext4.ko\n", "");
        let config = Config { target: Some("nfs://s/x".into()), ..Config::default() };
        let problems = missing(&index, &super::super::tests::layout(), &config, "6.1");
        assert_eq!(
            problems,
            [
                "the kernel 6.1 has no module dm_mod, needed for the volume group vg0",
                "the kernel 6.1 has no module nfs, needed for the target",
                "the kernel 6.1 has no module raid1, needed for the array md0",
            ]
        );
    }

    #[test]
    fn a_kernel_without_caches_will_do_where_volumes_can_be_made_without_theirs() {
        let mut layout = crate::plan::testing::raid_node();
        let (root, swap) = ("cache", "writecache");
        (layout.lv[0].kind, layout.lv[1].kind) = (root.into(), swap.into());
        let config = Config::default();
        let index = Index::parse("", "ext4.ko\ndm-mod.ko\nraid1.ko\ndm-mirror.ko\n", "");
        let needed = needed(&layout, &config);
        assert!(needed.contains_key("dm_cache") && needed.contains_key("dm_writecache"));
        assert!(missing(&index, &layout, &config, "6.1").is_empty());
        layout.lv[1].segment[0].kind = "mirror".into();
        let text = missing(&index, &layout, &config, "6.1").join("\n");
        assert!(text.contains("no module dm_writecache") && !text.contains("dm_cache"), "{text}");
    }
}
