//! Block devices as the kernel stacks them, read from sysfs.
//!
//! Names of disks and numbers of partitions are never cut out of device names: `nvme0n1p1` and
//! `md127p1` have shown why.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The kernel's name of the disk.
    pub disk: String,
    pub number: u32,
}

/// sysfs, or a directory that looks like it.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Sysfs { root: PathBuf::from("/sys") }
    }
}

impl Sysfs {
    #[cfg(test)]
    pub fn at(root: &Path) -> Sysfs {
        Sysfs { root: root.to_owned() }
    }

    /// Where the device with the kernel's name `name` is.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let link = self.root.join("class/block").join(name);
        link.canonicalize().with_context(|| format!("looking for {}", link.display()))
    }

    /// The disks at the bottom of the device with this kernel name, itself where it is a disk.
    pub fn disks_below(&self, name: &str) -> Result<BTreeSet<String>> {
        let mut disks = BTreeSet::new();
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            if let Some(slot) = self.slot(&name)? {
                todo.push(slot.disk);
                continue;
            }
            let slaves = entries(&self.dir(&name)?.join("slaves"));
            if slaves.is_empty() {
                disks.insert(name);
            }
            todo.extend(slaves);
        }
        Ok(disks)
    }

    /// Disk and number of the partition with this kernel name; None where it is no partition.
    pub fn slot(&self, name: &str) -> Result<Option<Slot>> {
        let dir = self.dir(name)?;
        let file = dir.join("partition");
        if !file.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        let number = text
            .trim()
            .parse()
            .with_context(|| format!("reading a number in {}", file.display()))?;
        let disk = dir
            .parent()
            .and_then(Path::file_name)
            .with_context(|| format!("looking for the disk of {name}"))?;
        Ok(Some(Slot { disk: disk.to_string_lossy().into_owned(), number }))
    }

    /// The kernel modules that drive the disk and what it is plugged into: `virtio_blk`,
    /// `virtio_pci`. What is built into the kernel is not among them.
    pub fn drivers(&self, disk: &str) -> Result<BTreeSet<String>> {
        let dir = self.dir(disk)?;
        let mut drivers = self.drivers_above(&dir);
        // An NVMe namespace hangs on a virtual subsystem, beside links to its controllers.
        if let Some(subsystem) = dir.parent().filter(|d| {
            d.file_name().is_some_and(|n| n.to_string_lossy().starts_with("nvme-subsys"))
        }) {
            for name in entries(subsystem).iter().filter(|name| name.starts_with("nvme")) {
                if let Ok(controller) = subsystem.join(name).canonicalize() {
                    drivers.extend(self.drivers_above(&controller));
                }
            }
        }
        Ok(drivers)
    }

    fn drivers_above(&self, dir: &Path) -> BTreeSet<String> {
        dir.ancestors()
            .take_while(|dir| dir.starts_with(&self.root) && *dir != self.root)
            .filter_map(|dir| dir.join("driver/module").canonicalize().ok())
            // Only what was loaded has a state; sysfs shows some of what is built in, too.
            .filter(|module| module.join("initstate").exists())
            .filter_map(|module| Some(module.file_name()?.to_string_lossy().into_owned()))
            .collect()
    }
}

/// The kernel's name of a device node or of a link to one: `dm-0` for `/dev/mapper/vg0-root`.
pub fn kernel_name(dev: &Path) -> Result<String> {
    let rdev = dev.metadata().with_context(|| format!("looking for {}", dev.display()))?.rdev();
    let link =
        format!("/sys/dev/block/{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let dir = Path::new(&link)
        .canonicalize()
        .with_context(|| format!("looking for {} in sysfs", dev.display()))?;
    let name = dir.file_name().with_context(|| format!("naming {}", dir.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn dir(root: &Path, path: &str) -> PathBuf {
        let dir = root.join(path);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Two virtio disks, a mirror of their second partitions with a volume on it, and an NVMe disk
    /// under a virtual subsystem; shaped as on Linux 6.1.
    fn machine(root: &Path) -> Sysfs {
        let class = dir(root, "class/block");
        for module in ["virtio_blk", "virtio_pci", "nvme"] {
            let module = dir(root, &format!("module/{module}"));
            std::fs::write(module.join("initstate"), "live\n").unwrap();
        }
        // Built into the kernel.
        dir(root, "module/pcieport");
        dir(root, "devices/pci0000:00/driver");
        symlink(root.join("module/pcieport"), root.join("devices/pci0000:00/driver/module"))
            .unwrap();
        for (disk, pci) in [("vda", "0000:00:04.0"), ("vdb", "0000:00:05.0")] {
            let pci = format!("devices/pci0000:00/{pci}");
            let bus = format!("{pci}/virtio{disk}");
            for (at, module) in [(&pci, "virtio_pci"), (&bus, "virtio_blk")] {
                dir(root, &format!("{at}/driver"));
                symlink(root.join("module").join(module), root.join(at).join("driver/module"))
                    .unwrap();
            }
            let part = dir(root, &format!("{bus}/block/{disk}/{disk}2"));
            std::fs::write(part.join("partition"), "2\n").unwrap();
            symlink(part.parent().unwrap(), class.join(disk)).unwrap();
            symlink(&part, class.join(format!("{disk}2"))).unwrap();
        }
        for (name, slaves) in [("md0", vec!["vda2", "vdb2"]), ("dm-0", vec!["md0"])] {
            let at = dir(root, &format!("devices/virtual/block/{name}/slaves"));
            for slave in slaves {
                symlink(class.join(slave), at.join(slave)).unwrap();
            }
            symlink(at.parent().unwrap(), class.join(name)).unwrap();
        }
        let controller = dir(root, "devices/pci0000:00/0000:00:06.0/nvme/nvme0");
        dir(root, "devices/pci0000:00/0000:00:06.0/driver");
        symlink(
            root.join("module/nvme"),
            root.join("devices/pci0000:00/0000:00:06.0/driver/module"),
        )
        .unwrap();
        let namespace = dir(root, "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
        symlink(controller, namespace.parent().unwrap().join("nvme0")).unwrap();
        symlink(&namespace, class.join("nvme0n1")).unwrap();
        let part = dir(&namespace, "nvme0n1p1");
        std::fs::write(part.join("partition"), "1\n").unwrap();
        symlink(&part, class.join("nvme0n1p1")).unwrap();
        Sysfs::at(root)
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn stacks_are_walked_down_to_the_disks() {
        let tmp = tempfile::tempdir().unwrap();
        let sysfs = machine(&tmp.path().canonicalize().unwrap());
        assert_eq!(sysfs.disks_below("dm-0").unwrap(), set(&["vda", "vdb"]));
        assert_eq!(sysfs.disks_below("vda2").unwrap(), set(&["vda"]));
        assert_eq!(sysfs.disks_below("vdb").unwrap(), set(&["vdb"]));
        assert_eq!(sysfs.slot("vda").unwrap(), None);
        let slot = sysfs.slot("nvme0n1p1").unwrap();
        assert_eq!(slot, Some(Slot { disk: "nvme0n1".into(), number: 1 }));
        assert!(sysfs.slot("vdz").is_err());
    }

    #[test]
    fn drivers_are_those_of_the_disk_and_of_its_controllers() {
        let tmp = tempfile::tempdir().unwrap();
        let sysfs = machine(&tmp.path().canonicalize().unwrap());
        assert_eq!(sysfs.drivers("vda").unwrap(), set(&["virtio_blk", "virtio_pci"]));
        assert_eq!(sysfs.drivers("nvme0n1").unwrap(), set(&["nvme"]));
    }
}
