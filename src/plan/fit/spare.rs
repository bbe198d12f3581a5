//! How much smaller things could be, and what of them may become larger.

use super::{ALIGNMENT_BYTES, place, round_down, scale};
use crate::layout::{Disk, Fs, Id, Layout, Lv, Md, Vg};
use crate::plan::map;

/// The arrays of which every member holds as much.
const LEVELS: &[&str] = &["raid1", "raid4", "raid5", "raid6", "raid10"];
const MIB: u64 = 1 << 20;
/// Less than this of a device mkfs.btrfs does not take for all profiles.
const BTRFS_DEVICE_BYTES: u64 = 256 * MIB;
/// With fewer zones, of 2 MiB where nothing else was asked for, most of an f2fs is not for files.
const F2FS_ZONES: u64 = 64;

/// How small a disk may be for what is on `disk`.
pub fn least_bytes(layout: &Layout, disk: &Disk) -> u64 {
    let spare = Share::to_give(layout);
    let bytes = match disk.table {
        None => spare.on(&disk.id),
        Some(_) => {
            let on_disk = layout.partition.iter().filter(|p| p.disk == disk.id);
            on_disk.map(|p| round_down(spare.on(&p.id))).sum()
        }
    };
    map::need(layout, disk).saturating_sub(bytes)
}

/// What everything has part in that is given or taken.
pub(super) struct Share<'a> {
    layout: &'a Layout,
    gives: bool,
}

impl Share<'_> {
    /// How many bytes a device could do without.
    pub(super) fn to_give(layout: &Layout) -> Share<'_> {
        Share { layout, gives: true }
    }

    /// How many bytes of a device may become more.
    pub(super) fn to_take(layout: &Layout) -> Share<'_> {
        Share { layout, gives: false }
    }

    pub(super) fn on(&self, id: &Id) -> u64 {
        if let Some(fs) = self.layout.fs.iter().find(|f| f.devices().contains(id)) {
            let (has, least) = on_device(fs, id);
            return match self.gives {
                _ if self.keeps_its_size(fs) => 0,
                true if !shares_evenly(fs) => 0,
                true => has.saturating_sub(least),
                false if grows(fs) => has,
                false => 0,
            };
        }
        if let Some(luks) = self.layout.luks.iter().find(|l| l.on == *id) {
            return self.on(&luks.id);
        }
        if let Some(md) = self.layout.md.iter().find(|m| m.member.iter().any(|m| m.on == *id)) {
            return self.in_member(md);
        }
        self.layout.vg.iter().find_map(|vg| self.in_group(vg, id)).unwrap_or(0)
    }

    /// What firmware and boot loader read; what was not mounted, so that its use is not known.
    fn keeps_its_size(&self, fs: &Fs) -> bool {
        let boots =
            |m: &&crate::layout::Mount| m.fs == fs.id && m.path.as_path().starts_with("/boot");
        // What is on two devices would have to fit on both.
        let two = fs.log_on().is_some();
        two || fs.used_bytes == 0 || self.layout.mount.iter().find(boots).is_some()
    }

    fn in_member(&self, md: &Md) -> u64 {
        let Some(member_bytes) = md.member_size_bytes else { return 0 };
        if md.table.is_some() || !LEVELS.contains(&md.level.as_str()) {
            return 0;
        }
        // Both the array and its members end at whole units.
        let array = self.on(&md.id).saturating_sub(ALIGNMENT_BYTES);
        scale(array, member_bytes, md.size_bytes).saturating_sub(ALIGNMENT_BYTES)
    }

    /// A physical volume's part of what its group could do without, or could grow.
    fn in_group(&self, vg: &Vg, id: &Id) -> Option<u64> {
        let pv = vg.pv.iter().find(|pv| pv.on == *id)?;
        let volumes: Vec<_> = self.layout.lv.iter().filter(|lv| lv.vg == vg.id).collect();
        if vg.extent_bytes == 0 || !can_change(&volumes) {
            return Some(0);
        }
        let has: u64 = vg.pv.iter().map(|pv| pv.extents).sum();
        let needs = volumes.iter().map(|lv| extents(lv, vg.extent_bytes)).sum();
        let in_volumes: u64 = volumes.iter().map(|lv| self.in_volume(lv, vg.extent_bytes)).sum();
        let free = if self.gives { has.saturating_sub(needs) } else { 0 };
        let share = free.saturating_add(in_volumes);
        let extents = scale(share, pv.extents, has).min(pv.extents.saturating_sub(1));
        Some(extents.saturating_mul(vg.extent_bytes))
    }

    /// In whole stripes.
    pub(super) fn in_volume(&self, lv: &Lv, extent_bytes: u64) -> u64 {
        let extents = self.on(&lv.id) / extent_bytes.max(1);
        extents - extents % place::stripes(lv)
    }
}

/// Volumes that can be made with fewer or more extents.
fn can_change(volumes: &[&Lv]) -> bool {
    volumes.iter().all(|lv| is_plain(lv))
        || volumes.iter().all(|lv| place::is_striped(lv) || (is_plain(lv) && lv.kind == "linear"))
}

/// What a filesystem has of a device, and needs of it.
fn on_device(fs: &Fs, id: &Id) -> (u64, u64) {
    let devices = fs.btrfs.as_ref().map_or(&[][..], |btrfs| &btrfs.device);
    match devices.iter().find(|device| devices.len() > 1 && device.on == *id) {
        Some(device) => {
            let part = scale(least(fs), device.size_bytes, fs.size_bytes);
            (device.size_bytes, part.max(BTRFS_DEVICE_BYTES))
        }
        None => (fs.size_bytes, least(fs)),
    }
}

/// Whether each device needs the same part of what it has. Copies are on two devices or more: of
/// devices that differ by more than [`least`] has to spare, a small one may hold one copy of all.
fn shares_evenly(fs: &Fs) -> bool {
    let Some(btrfs) = &fs.btrfs else { return true };
    let sizes = || btrfs.device.iter().map(|device| device.size_bytes);
    let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    btrfs.data_profile == "single" || least >= most - most / 10
}

/// How many copies of the files there are; of parity the room depends on how many devices have some.
fn copies(profile: &str) -> Option<u64> {
    match profile {
        "single" | "raid0" => Some(1),
        "raid1" | "raid10" | "dup" => Some(2),
        "raid1c3" => Some(3),
        "raid1c4" => Some(4),
        _ => None,
    }
}

/// Is what [`super::fit_fs`] says enough to make it larger?
pub(super) fn grows(fs: &Fs) -> bool {
    let btrfs = fs
        .btrfs
        .as_ref()
        .is_some_and(|btrfs| btrfs.device.len() == 1 || copies(&btrfs.data_profile).is_some());
    fs.ext.is_some() || fs.xfs.is_some() || fs.f2fs.is_some() || btrfs
}

/// Can LVM place it anywhere? What is striped or mirrored needs as much room on several devices.
fn is_plain(lv: &Lv) -> bool {
    let linear = lv.segment.iter().all(|s| s.stripes < 2);
    matches!(lv.kind.as_str(), "linear" | "thin-pool") && linear || lv.kind == "thin"
}

/// What a volume takes of its group.
pub(super) fn extents(lv: &Lv, extent_bytes: u64) -> u64 {
    if lv.kind == "thin" {
        return 0;
    }
    let metadata = lv.thin_pool.as_ref().map_or(0, |pool| {
        pool.metadata_bytes.div_ceil(extent_bytes).saturating_mul(1 + u64::from(pool.spare))
    });
    lv.segment.iter().map(|s| s.extents).sum::<u64>().saturating_add(metadata)
}

/// The smallest filesystem that holds what was in use, with a tenth to spare and with what it needs
/// for itself, which "used" does not count.
fn least(fs: &Fs) -> u64 {
    let files = fs.used_bytes.saturating_add(fs.used_bytes / 10);
    if let Some(ext) = &fs.ext {
        let inodes = ext.inodes.saturating_mul(ext.inode_bytes);
        let journal = ext.journal_bytes.unwrap_or(0);
        // Bitmaps, group descriptors and room for more of these.
        let groups = fs.size_bytes / 512;
        return [inodes, journal, groups, 16 * MIB].iter().fold(files, |a, b| a.saturating_add(*b));
    }
    if let Some(xfs) = &fs.xfs {
        // mkfs.xfs makes none of less than 300 MiB.
        let log = xfs.log_blocks.saturating_mul(xfs.block_bytes);
        return files.saturating_add(log).saturating_add(64 * MIB).max(320 * MIB);
    }
    if let Some(f2fs) = &fs.f2fs {
        // What it keeps free for itself counts as used, and grows with the size.
        let zone = f2fs.segments_per_section.saturating_mul(f2fs.sections_per_zone);
        let zones = zone.saturating_mul(2 * MIB).saturating_mul(F2FS_ZONES);
        return files.max(zones);
    }
    match &fs.btrfs {
        // Data and metadata are allotted in pieces of up to a GiB.
        Some(btrfs) if btrfs.device.len() == 1 => files.saturating_add(files / 10 + 512 * MIB),
        Some(btrfs) => match copies(&btrfs.data_profile) {
            Some(copies) => {
                let files = files.saturating_add(files / 10).saturating_mul(copies);
                files.saturating_add(512 * MIB)
            }
            None => fs.size_bytes,
        },
        None => fs.size_bytes,
    }
}
