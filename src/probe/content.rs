//! Filesystems and swap, where they are mounted, and what is recognised without being supported.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::blkid::Content;
use super::block::{Device, Kind};
use super::mounts::MountInfo;
use super::{Machine, Reader, btrfs, ext, f2fs, vfat, xfs};
use crate::layout::{BtrfsDevice, BtrfsOptions, F2fsOptions, Fs, Id, Layout, Mount, Swap};

/// Kinds that rr can make again.
const SUPPORTED: &[&str] = &["ext2", "ext3", "ext4", "xfs", "vfat", "f2fs"];

/// The log of an xfs, as blkid calls it.
const XFS_LOG: &str = "xfs_external_log";

/// The kernel makes an extended partition this small, so that nothing overwrites it.
const EXTENDED_BYTES: u64 = 4096;

/// Fills in `fs`, `swap` and `mount`.
pub(crate) fn read(reader: &mut Reader<'_>, machine: &Machine) {
    for device in &machine.devices {
        let Some(id) = machine.id(&device.name) else { continue };
        // The hidden parts of a mirrored or thin volume show its contents as well.
        let is_volume = matches!(device.kind, Kind::Dm { .. });
        let known = reader.layout.lv.iter().any(|lv| lv.id == id)
            || reader.layout.luks.iter().any(|luks| luks.id == id);
        if is_volume && !known {
            continue;
        }
        // The further devices of a filesystem that has several.
        if fs_on(reader.layout, &id).is_some() {
            continue;
        }
        // The whole filesystem rather than a part of it that is bound to another place.
        let mut mounts: Vec<&MountInfo> =
            machine.mounts.iter().filter(|m| is_on(m, device)).collect();
        mounts.sort_by_key(|m| m.root != Path::new("/"));
        let mount = mounts.first().copied();
        let content = match machine.contents.get(&device.name) {
            Some(content) => content.clone(),
            // Where blkid may not look, the kernel still knows what it has mounted.
            None => mount.map(content_of_mount).unwrap_or_default(),
        };
        read_content(reader, machine, device, &id, &content, mount);
    }
    // Told with what it belongs to.
    let logs: Vec<Id> = reader.layout.fs.iter().filter_map(|fs| fs.log_on().cloned()).collect();
    reader.contents.retain(|(on, _)| !logs.contains(on));
    read_mounts(reader, machine);
}

fn read_content(
    reader: &mut Reader<'_>,
    machine: &Machine,
    device: &Device,
    id: &Id,
    content: &Content,
    mount: Option<&MountInfo>,
) {
    match content.kind.as_str() {
        // Of a stick, for one: no rescue system has to have what it takes for that alone.
        "f2fs" if mount.is_none() => {
            let why = "f2fs comes back only where it is mounted".to_owned();
            reader.unprotected_content(id, device, why);
        }
        kind if SUPPORTED.contains(&kind) => read_fs(reader, machine, device, id, content, mount),
        "btrfs" => read_btrfs(reader, machine, device, id, content),
        "swap" => reader.layout.swap.push(Swap {
            id: Id::content("swap", id),
            on: id.clone(),
            uuid: content.uuid.clone(),
            label: content.label.clone(),
            size_bytes: device.size_bytes,
        }),
        // Told elsewhere.
        "crypto_LUKS" => {}
        "linux_raid_member" | "LVM2_member" => read_member(reader, device, id, content),
        "" if device_divides(device, content) => {}
        "" if content.pttype.is_empty() => {}
        "" => {
            let why = format!("a {} partition table inside a partition or volume", content.pttype);
            reader.unprotected_content(id, device, why);
        }
        kind => {
            reader.unprotected_content(id, device, format!("{kind} is not supported yet"));
            // A plan has to know that something mounted can't be made again.
            if mount.is_some() {
                reader.layout.fs.push(new_fs(device, id, content));
            }
        }
    }
}

/// The table of a disk or an array is told elsewhere; an extended partition holds the chain of its
/// logical ones.
fn device_divides(device: &Device, content: &Content) -> bool {
    match device.kind {
        Kind::Disk | Kind::Md => true,
        Kind::Partition { .. } => content.pttype == "dos" && device.size_bytes <= EXTENDED_BYTES,
        Kind::Dm { .. } | Kind::Other => false,
    }
}

fn content_of_mount(mount: &MountInfo) -> Content {
    Content { kind: mount.kind.clone(), ..Content::default() }
}

/// A member of an array or a group has to be one of an array or group that was read.
fn read_member(reader: &mut Reader<'_>, device: &Device, id: &Id, content: &Content) {
    let layout = &reader.layout;
    let known = layout.md.iter().any(|md| md.member.iter().any(|m| m.on == *id))
        || layout.vg.iter().any(|vg| vg.pv.iter().any(|pv| pv.on == *id));
    // A physical volume without a group has been named already.
    if !known && content.kind == "linux_raid_member" {
        let why = "a member of an array that does not run".to_owned();
        reader.unprotected_content(id, device, why);
    }
}

fn read_fs(
    reader: &mut Reader<'_>,
    machine: &Machine,
    device: &Device,
    id: &Id,
    content: &Content,
    mount: Option<&MountInfo>,
) {
    let mut fs = new_fs(device, id, content);
    let mounted_at = mount.map(|m| m.path.as_path());
    if let Err(error) = read_options(&mut fs, machine, &device.dev(), mounted_at) {
        let what = format!("features of the {} on {}", fs.kind, device.dev());
        reader.tolerate(&what, &error);
    }
    fs.used_bytes = mounted_at.and_then(used_bytes).unwrap_or_default();
    reader.layout.fs.push(fs);
}

/// The filesystem that has a part on this device.
fn fs_on(layout: &Layout, id: &Id) -> Option<Id> {
    layout.fs.iter().find(|fs| fs.devices().contains(id)).map(|fs| fs.id.clone())
}

/// Once for all its devices, whichever of them comes first.
fn read_btrfs(
    reader: &mut Reader<'_>,
    machine: &Machine,
    device: &Device,
    id: &Id,
    content: &Content,
) {
    let uuid = &content.uuid;
    let same = |d: &&Device| machine.contents.get(&d.name).is_some_and(|c| c.uuid == *uuid);
    let members: Vec<&Device> = machine.devices.iter().filter(same).collect();
    let of_it = |m: &&MountInfo| m.kind == "btrfs" && members.iter().any(|d| is_on(m, d));
    let mounts: Vec<&MountInfo> = machine.mounts.iter().filter(of_it).collect();
    let path = mounts.first().map(|mount| mount.path.as_path());
    let mut fs = new_fs(device, id, content);
    match btrfs::read(&device.dev(), path).and_then(|found| with_devices(found, machine)) {
        Ok(mut found) => {
            let is_mounted = |path: &Path| {
                mounts.iter().any(|m| m.root.strip_prefix("/").is_ok_and(|root| root == path))
            };
            btrfs::keep_lived_in(&mut found, &is_mounted);
            if has_quota_groups(Path::new("/sys/fs/btrfs"), uuid) {
                let what = format!("the quota groups of the btrfs on {}", device.dev());
                reader.unprotected(
                    what,
                    "a recovery makes none: btrfs quota enable, and their limits, by hand",
                );
            }
            if let Some(first) = found.device.first() {
                fs.on = first.on.clone();
                fs.id = Id::content("fs", &fs.on);
            }
            fs.size_bytes = found.device.iter().map(|d| d.size_bytes).sum();
            fs.btrfs = Some(Box::new(found));
        }
        // Of one that is not in use, it is enough to know that it is there.
        Err(error) if path.is_none() => log::info!("the btrfs on {}: {error:#}", device.dev()),
        Err(error) => reader.tolerate(&format!("the btrfs on {}", device.dev()), &error),
    }
    fs.used_bytes = path.and_then(used_bytes).unwrap_or_default();
    reader.layout.fs.push(fs);
}

/// Of a filesystem that is mounted, since Linux 5.9.
fn has_quota_groups(sys: &Path, uuid: &str) -> bool {
    !uuid.is_empty() && sys.join(uuid).join("qgroups").is_dir()
}

fn with_devices(found: btrfs::Found, machine: &Machine) -> Result<BtrfsOptions> {
    let mut options = found.options;
    for (path, size_bytes) in found.devices {
        let on = machine.id_of_path(&path);
        let on = on.with_context(|| format!("its device {path} is on what rr does not know"))?;
        options.device.push(BtrfsDevice { on, size_bytes });
    }
    Ok(options)
}

fn used_bytes(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let free = stat.blocks().saturating_sub(stat.blocks_free());
    Some(free.saturating_mul(stat.fragment_size()))
}

fn new_fs(device: &Device, id: &Id, content: &Content) -> Fs {
    Fs {
        id: Id::content("fs", id),
        on: id.clone(),
        kind: content.kind.clone(),
        uuid: content.uuid.clone(),
        label: content.label.clone(),
        size_bytes: device.size_bytes,
        used_bytes: 0,
        ext: None,
        xfs: None,
        vfat: None,
        btrfs: None,
        f2fs: None,
    }
}

fn read_options(
    fs: &mut Fs,
    machine: &Machine,
    device: &str,
    mounted_at: Option<&Path>,
) -> Result<()> {
    match fs.kind.as_str() {
        "xfs" => {
            let (mut found, log) = xfs::read(device, mounted_at)?;
            if let xfs::Log::Outside(path) = log {
                found.log_on = Some(log_device(machine, path.as_deref(), &fs.uuid)?);
            }
            fs.size_bytes = found.block_bytes.saturating_mul(found.blocks);
            fs.xfs = Some(found);
        }
        "vfat" => {
            let found = vfat::read(device)?;
            fs.size_bytes = found.size_bytes;
            fs.vfat = Some(found.options);
        }
        "f2fs" => {
            let found = f2fs::read(device)?;
            fs.size_bytes = found.blocks.saturating_mul(F2fsOptions::BLOCK_BYTES);
            fs.f2fs = Some(Box::new(found));
        }
        _ => {
            let found = ext::read(device)?;
            fs.size_bytes = found.block_bytes.saturating_mul(found.blocks);
            fs.ext = Some(found);
        }
    }
    Ok(())
}

/// Where the log of an xfs is: as the kernel says, or on the device that carries the filesystem's UUID.
fn log_device(machine: &Machine, path: Option<&str>, uuid: &str) -> Result<Id> {
    let of_it =
        |content: &Content| content.kind == XFS_LOG && content.uuid == uuid && !uuid.is_empty();
    let carrier = || {
        let (name, _) = machine.contents.iter().find(|(_, content)| of_it(content))?;
        machine.id(name)
    };
    let found = path.and_then(|path| machine.id_of_path(path)).or_else(carrier);
    found.context("its log is on a device of its own that rr does not know")
}

/// By device number, or by the source where a filesystem has a number of its own (btrfs).
fn is_on(mount: &MountInfo, device: &Device) -> bool {
    const NO_DEVICE: u32 = 0;
    mount.device == device.number
        || (mount.device.0 == NO_DEVICE
            && mount.is_local()
            && mount.source.starts_with("/dev")
            && mount.source.canonicalize().is_ok_and(|path| path == Path::new(&device.dev())))
}

fn read_mounts(reader: &mut Reader<'_>, machine: &Machine) {
    for mount in machine.mounts.iter().filter(|m| m.is_local()) {
        let device = machine.devices.iter().find(|device| is_on(mount, device));
        let fs = device
            .and_then(|device| machine.id(&device.name))
            .and_then(|on| fs_on(reader.layout, &on));
        let Some(fs) = fs else {
            // Loop devices hold files of filesystems that are in the backup themselves.
            if device.is_none_or(|d| !d.name.starts_with("loop")) {
                let why = match device {
                    Some(device) => {
                        format!("{} on {} is not supported yet", mount.kind, device.dev())
                    }
                    None => format!("{} is not supported yet", mount.kind),
                };
                reader.unprotected(mount.path.display().to_string(), why);
            }
            continue;
        };
        reader.layout.mount.push(Mount {
            path: mount.path.clone().into(),
            fs,
            options: mount.options.clone(),
            root: Some(mount.root.clone()).filter(|root| root != Path::new("/")).map(PathBuf::into),
            target: false,
        });
    }
    // Parents before children, and the whole filesystem before parts of it.
    reader.layout.mount.sort_by(|a, b| a.path.cmp(&b.path));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Node;
    use crate::ui::{Style, Ui};

    /// As libblkid names them (libblkid/src/superblocks), with the array's members that are in no array
    /// here, and what is no partition's to hold.
    #[test]
    fn what_is_not_supported_is_named() {
        let (ui, mut layout) = (Ui::new(Style::Plain), Layout::of(Node::default()));
        let device = |name: &str| Device {
            name: name.to_owned(),
            number: (8, 1),
            size_bytes: 1 << 30,
            kind: Kind::Partition { parent: "sda".into(), number: 1 },
            holders: Vec::new(),
        };
        let kinds = [
            "bcache",
            "bcachefs",
            "stratis",
            "zfs_member",
            "DM_integrity",
            "DM_verity_hash",
            "VDO",
            "BitLocker",
            "jbd",
            "xfs_external_log",
            "isw_raid_member",
            "ddf_raid_member",
            "mpath_member",
            "ntfs",
            "jfs",
            "nilfs2",
            "drbd",
            "f2fs",
            "linux_raid_member",
        ];
        let mut reader = Reader { ui: &ui, layout: &mut layout, contents: Vec::new() };
        for kind in kinds {
            let (device, content) =
                (device(kind), Content { kind: kind.into(), ..Content::default() });
            let id = Id::partition(kind);
            read_content(&mut reader, &Machine::default(), &device, &id, &content, None);
            let (on, told) = reader.contents.last().unwrap();
            assert_eq!((on, told.what.as_str()), (&id, device.dev().as_str()), "{kind}");
        }
        let table = Content { pttype: "gpt".into(), ..Content::default() };
        let (device, id) = (device("nested"), Id::partition("nested"));
        read_content(&mut reader, &Machine::default(), &device, &id, &table, None);
        assert_eq!(reader.contents.len(), kinds.len() + 1);
        assert!(layout.fs.is_empty() && layout.unprotected.is_empty());
    }
}
