//! The machine that is here, as a [`Layout`].
//!
//! On a running node this records what a backup has to bring back; in the rescue system it tells
//! what disks there are now. So nothing here changes the machine, and a tool is only asked for when
//! something on the machine needs it: no xfs, no `xfs_info`.
//!
//! ```text
//! block: sysfs, udev ─┬─> disks ──────> table: GPT, MBR ──> partitions
//!                     ├─> md: sysfs, mdadm
//!                     └─> lvm: fullreport
//! blkid: every device ──> content: ext, xfs, vfat, f2fs, swap <── mounts, swaps
//! boot, esp, net, node
//! menu, kernels: what a system's boot loader starts
//! devices, fstab, crypttab: what a system waits for when it starts, and whether it is there
//! coverage: what is in use, and what would not come back
//! ```
//!
//! Each file has pure `parse` functions, tested on real output, and the reading beside them.
//! What can't be read (a damaged table, a tool that is missing) is a warning and is named in
//! [`Layout::unprotected`]: the rest of the machine is still worth a backup.

pub mod blkid;
pub mod block;
pub mod boot;
pub mod btrfs;
pub mod content;
pub mod coverage;
pub mod crypttab;
pub mod devices;
pub mod esp;
pub mod ext;
pub mod f2fs;
pub mod fstab;
pub mod kernels;
pub mod luks;
pub mod lvm;
pub mod md;
pub mod menu;
pub mod mounts;
pub mod net;
pub mod node;
pub mod swaps;
pub mod table;
pub mod vfat;
pub mod xfs;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::layout::{Disk, Id, Layout, Partition, Table, Unprotected};
use crate::ui::Ui;
use blkid::Content;
use block::{Device, Kind};
use mounts::MountInfo;
use table::TableFound;

/// What the kernel and libblkid say of this machine, from which a layout is put together.
#[derive(Debug, Default)]
pub struct Machine {
    pub devices: Vec<Device>,
    /// By the device's kernel name.
    pub contents: BTreeMap<String, Content>,
    pub mounts: Vec<MountInfo>,
    /// Where fstab(5) has something mounted when the node starts.
    pub fstab: Vec<PathBuf>,
    pub swaps: Vec<swaps::Active>,
}

impl Machine {
    /// The id of the device with this kernel name, where a layout can have it.
    pub fn id(&self, name: &str) -> Option<Id> {
        let device = self.devices.iter().find(|d| d.name == name)?;
        match &device.kind {
            Kind::Disk => Some(Id::disk(name)),
            Kind::Partition { .. } => Some(Id::partition(name)),
            Kind::Md => Some(Id::md(name)),
            Kind::Dm { name, uuid } if uuid.starts_with("LVM-") => {
                lvm::split_dm_name(name).map(|(vg, lv)| Id::lv(&vg, &lv))
            }
            Kind::Dm { name, uuid } if uuid.starts_with("CRYPT-LUKS") => Some(Id::luks(name)),
            Kind::Dm { .. } | Kind::Other => None,
        }
    }

    /// The id of the device at this path, whatever link to it that is.
    pub fn id_of_path(&self, path: &str) -> Option<Id> {
        let real = Path::new(path).canonicalize().ok();
        let real = real.as_deref().unwrap_or(Path::new(path));
        self.id(real.strip_prefix("/dev").ok()?.to_str()?)
    }

    fn content(&self, name: &str) -> Content {
        self.contents.get(name).cloned().unwrap_or_default()
    }
}

/// Reads the machine that is here.
///
/// # Errors
/// Only where nothing useful can be said: no sysfs, no mount table.
pub fn read(ui: &Ui) -> Result<Layout> {
    let mut layout = Layout::of(node::read());
    let mut reader = Reader { ui, layout: &mut layout, contents: Vec::new() };
    let machine = reader.read_machine()?;
    let udev = udev_properties(&machine);
    for device in &machine.devices {
        match &device.kind {
            Kind::Disk => reader.read_disk(device, &machine, &udev),
            Kind::Md => reader.read_array(device, &machine),
            Kind::Partition { .. } | Kind::Dm { .. } | Kind::Other => {}
        }
    }
    reader.read_encrypted(&machine);
    reader.read_volumes(&machine);
    content::read(&mut reader, &machine);
    reader.read_net(&udev);
    let contents = reader.contents;
    layout.boot = boot::read();
    let has_grub = |disk: &Disk| boot::has_grub(&disk.dev()).unwrap_or(false);
    coverage::complete(&mut layout, &machine, contents, &has_grub);
    Ok(layout)
}

fn udev_properties(machine: &Machine) -> BTreeMap<String, block::Properties> {
    let disks = machine.devices.iter().filter(|d| d.kind == Kind::Disk);
    let paths = disks
        .map(|disk| format!("/sys/class/block/{}", disk.name.replace('/', "!")))
        .chain(net::physical().into_iter().map(|nic| format!("/sys/class/net/{nic}")));
    block::udev_properties(&paths.collect::<Vec<_>>())
}

/// A layout in the making.
pub(crate) struct Reader<'a> {
    pub ui: &'a Ui,
    pub layout: &'a mut Layout,
    /// What is on a device without being supported. It is left out where the whole disk turns out
    /// not to be in use.
    pub contents: Vec<(Id, Unprotected)>,
}

impl Reader<'_> {
    pub fn unprotected(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.layout.unprotected.push(Unprotected { what: what.into(), why: why.into() });
    }

    pub fn unprotected_content(&mut self, on: &Id, device: &Device, why: String) {
        self.contents.push((on.clone(), Unprotected { what: device.dev(), why }));
    }

    /// Goes on without what failed, and says so.
    pub fn tolerate(&mut self, what: &str, error: &anyhow::Error) {
        let error = format!("{error:#}");
        self.ui.warn(format!("{what}: {error}"));
        self.unprotected(what, error.lines().collect::<Vec<_>>().join("; "));
    }

    fn read_machine(&mut self) -> Result<Machine> {
        let mut machine = Machine {
            devices: block::read()?,
            contents: BTreeMap::new(),
            mounts: mounts::read()?,
            fstab: fstab::expected(&fstab::read()).map(Path::to_owned).collect(),
            swaps: swaps::read(),
        };
        for device in machine.devices.iter().filter(|d| d.kind != Kind::Other) {
            match blkid::read(&device.dev()) {
                Ok(content) => {
                    machine.contents.insert(device.name.clone(), content);
                }
                Err(error) => self.ui.warn(format!("{error:#}")),
            }
        }
        Ok(machine)
    }

    fn read_disk(
        &mut self,
        device: &Device,
        machine: &Machine,
        udev: &BTreeMap<String, block::Properties>,
    ) {
        let nothing = block::Properties::new();
        let mut disk = block::disk(device, udev.get(&device.name).unwrap_or(&nothing));
        disk.signatures = blkid::signatures(&device.dev()).unwrap_or_else(|error| {
            // Not known is not blank.
            log::warn!("{error:#}");
            vec!["unknown".to_owned()]
        });
        let (id, sector_bytes) = (disk.id.clone(), disk.sector_bytes);
        disk.table = self.read_table(device, &id, sector_bytes, machine);
        self.layout.disk.push(disk);
    }

    fn read_array(&mut self, device: &Device, machine: &Machine) {
        match md::read(&device.name, device.size_bytes, &|name| machine.id(name)) {
            Ok(Some(mut md)) => {
                let sector_bytes = block::sector_bytes(&device.name);
                md.table = self.read_table(device, &md.id, sector_bytes, machine);
                self.layout.md.push(md);
            }
            Ok(None) => {}
            Err(error) => self.tolerate(&device.dev(), &error),
        }
    }

    /// The table on a whole device; its partitions go into the layout.
    fn read_table(
        &mut self,
        device: &Device,
        id: &Id,
        sector_bytes: u32,
        machine: &Machine,
    ) -> Option<Table> {
        let content = machine.content(&device.name);
        // A filesystem on the whole device that looks like a table too (an ISO image on a stick)
        // is still a table to the kernel.
        if content.pttype.is_empty() {
            return None;
        }
        match open_table(device, &content.pttype, sector_bytes) {
            Ok(found) => {
                for note in found.notes {
                    self.unprotected(device.dev(), note);
                }
                for mut partition in found.partitions {
                    partition.disk = id.clone();
                    name_as_kernel(&mut partition, &device.name, machine);
                    self.layout.partition.push(partition);
                }
                Some(found.table)
            }
            Err(error) => {
                self.tolerate(&format!("partition table of {}", device.dev()), &error);
                None
            }
        }
    }

    fn read_encrypted(&mut self, machine: &Machine) {
        for device in &machine.devices {
            let content = machine.content(&device.name);
            let Some(on) = machine.id(&device.name).filter(|_| content.kind == "crypto_LUKS")
            else {
                continue;
            };
            match luks::read(&device.dev(), &on) {
                Ok(mut found) => {
                    let open = machine.devices.iter().find(|d| {
                        matches!(&d.kind, Kind::Dm { uuid, .. } if uuid.starts_with("CRYPT-LUKS"))
                            && device.holders.contains(&d.name)
                    });
                    if let Some((Kind::Dm { name, .. }, bytes)) =
                        open.map(|open| (&open.kind, open.size_bytes))
                    {
                        found.id = Id::luks(name);
                        found.name.clone_from(name);
                        found.size_bytes = bytes;
                    } else {
                        let why = "encrypted and not open: what is in it does not come back";
                        self.unprotected_content(&on, device, why.to_owned());
                    }
                    self.layout.luks.push(found);
                }
                // Of a volume that nobody uses, it is enough to know that it is there.
                Err(error) => {
                    log::info!("the LUKS on {}: {error:#}", device.dev());
                    let why = format!("LUKS that could not be read: {error:#}");
                    self.unprotected_content(&on, device, why);
                }
            }
        }
    }

    fn read_volumes(&mut self, machine: &Machine) {
        let is_lvm = |content: &Content| content.kind == "LVM2_member";
        let is_volume =
            |d: &Device| matches!(&d.kind, Kind::Dm { uuid, .. } if uuid.starts_with("LVM-"));
        if !machine.contents.values().any(is_lvm) && !machine.devices.iter().any(is_volume) {
            return;
        }
        match lvm::read(&|path| machine.id_of_path(path)) {
            Ok(found) => {
                self.layout.vg = found.vg;
                self.layout.lv = found.lv;
                for (what, why) in found.notes {
                    self.unprotected(what, why);
                }
            }
            Err(error) => self.tolerate("LVM", &error),
        }
    }

    fn read_net(&mut self, udev: &BTreeMap<String, block::Properties>) {
        match net::read(udev) {
            Ok(found) => {
                self.layout.net = found.net;
                for (what, why) in found.notes {
                    self.ui.warn(format!("{what}: {why}"));
                    self.unprotected(what, why);
                }
            }
            Err(error) => self.ui.warn(format!("reading the network: {error:#}")),
        }
    }
}

fn open_table(device: &Device, pttype: &str, sector_bytes: u32) -> Result<TableFound> {
    let mut file = File::open(device.dev()).with_context(|| format!("opening {}", device.dev()))?;
    table::read(&mut file, pttype, &device.name, sector_bytes)
}

/// The kernel's own name for a partition, where it has one.
fn name_as_kernel(partition: &mut Partition, disk: &str, machine: &Machine) {
    let known = machine.devices.iter().find(|d| {
        matches!(&d.kind, Kind::Partition { parent, number }
            if parent == disk && *number == partition.number)
    });
    if let Some(known) = known {
        partition.name.clone_from(&known.name);
        partition.id = Id::partition(&known.name);
    }
}

/// A disk as people know it: `/dev/sda (ACME Disk, 12345)`.
pub(crate) fn describe(disk: &Disk) -> String {
    let details: Vec<&str> =
        [disk.model.as_deref(), disk.serial.as_deref()].into_iter().flatten().collect();
    if details.is_empty() { disk.dev() } else { format!("{} ({})", disk.dev(), details.join(", ")) }
}

#[cfg(test)]
mod loop_tests;
#[cfg(test)]
mod tests;
