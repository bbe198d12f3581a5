//! A layout for disks of other sizes than the recorded ones.
//!
//! What is too long for its disk is made shorter from the ground up: partitions, arrays, LUKS, volume
//! groups and their volumes, filesystems. Each gives in proportion to what it can spare ([`spare`]).
//! On a larger disk, when that is asked for, each is made longer in proportion to its size; else the
//! rest of the disk stays unused. `/boot`, the ESP, swap, FAT and everything whose use is not known
//! keep their sizes, and so does everything on disks that are large enough.

mod place;
pub mod sectors;
mod spare;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::Problem;
use super::map::{self, DiskMatch};
use super::validate::device_bytes;
use crate::layout::units::size;
use crate::layout::{
    Disk, F2fsOptions, Fs, Id, Layout, Lv, LvSegment, Partition, PartitionKind, Table, Vg,
};
use spare::Share;

pub use spare::least_bytes;

/// Partitions start at multiples of this, as all partitioning programs make them since 2009.
const ALIGNMENT_BYTES: u64 = 1 << 20;
/// mkfs.xfs(8): the largest allocation group.
const XFS_GROUP_BYTES: u64 = 1 << 40;

/// MBR has 32 bits for the first sector and for the number of sectors.
const MBR_SECTORS: u64 = u32::MAX as u64;
/// Unused room that is worth a word.
const NOTABLE_BYTES: u64 = 1 << 30;

/// The layout that fits, and what has another size, in words. Unchanged if everything fits, or if
/// nothing can make it fit. With `grow`, what is on larger disks becomes larger.
pub fn fit(
    scope: &Layout,
    disks: &[DiskMatch],
    grow: bool,
    problems: &mut Vec<Problem>,
) -> (Layout, Vec<String>) {
    let (layout, changed) = (scope.clone(), Vec::new());
    let mut fitter = Fitter { was: scope, layout, changed, problems };
    let mut notes = Vec::new();
    for DiskMatch { old, new, .. } in disks {
        let need = map::need(scope, old);
        let too_long = need.saturating_sub(new.size_bytes);
        if too_long > 0 && !fitter.shorten(old, too_long) {
            return (scope.clone(), Vec::new());
        }
        let room = new.size_bytes.saturating_sub(need);
        if grow {
            fitter.lengthen(old, room);
        } else if new.size_bytes.saturating_sub(old.size_bytes) >= NOTABLE_BYTES {
            let more = size(new.size_bytes - old.size_bytes);
            notes.push(format!(
                "{} has {more} more than {} had, which stay unused: --grow uses them.",
                new.name, old.name
            ));
        }
    }
    fitter.settle();
    notes.extend(told(scope, &fitter.layout));
    (fitter.layout, notes)
}

struct Fitter<'a> {
    was: &'a Layout,
    layout: Layout,
    /// Devices that have another size now, and what stands on them does not know it yet.
    changed: Vec<(Id, u64)>,
    problems: &'a mut Vec<Problem>,
}

impl Fitter<'_> {
    /// Takes `bytes` away from what is on the disk. False: there is not so much to take.
    fn shorten(&mut self, disk: &Disk, bytes: u64) -> bool {
        let spare = Share::to_give(self.was);
        if disk.table.is_none() {
            let rest = map::need(self.was, disk).saturating_sub(bytes);
            self.resize_disk(disk, disk.size_bytes.saturating_sub(bytes), rest);
            return spare.on(&disk.id) >= bytes;
        }
        let Some(cuts) = share(bytes, &self.partitions(disk, &spare), ALIGNMENT_BYTES) else {
            return false;
        };
        self.resize_partitions(disk, &cuts, |start, bytes| start - bytes);
        true
    }

    /// Gives `bytes` to what is on the disk.
    fn lengthen(&mut self, disk: &Disk, bytes: u64) {
        let size = Share::to_take(self.was);
        let need = map::need(self.was, disk);
        if disk.table.is_none() {
            if size.on(&disk.id) > 0 && bytes > 0 {
                let all = need.saturating_add(bytes);
                self.resize_disk(disk, disk.size_bytes.saturating_add(bytes), all);
            }
            return;
        }
        let most = match disk.table {
            Some(Table::Mbr { .. }) => {
                MBR_SECTORS.saturating_mul(disk.sector_bytes.into()).saturating_sub(need)
            }
            _ => u64::MAX,
        };
        let gains = share_out(bytes.min(most), &self.partitions(disk, &size), ALIGNMENT_BYTES);
        self.resize_partitions(disk, &gains, |start, bytes| start + bytes);
    }

    /// Of a disk without a table: its content has `bytes` now. The disk's own size, which may be more,
    /// is what an array's members are compared by.
    fn resize_disk(&mut self, disk: &Disk, disk_bytes: u64, bytes: u64) {
        for here in self.layout.disk.iter_mut().filter(|d| d.id == disk.id) {
            here.size_bytes = disk_bytes;
        }
        self.changed.push((disk.id.clone(), bytes));
    }

    /// What each partition of the disk has to give or to take.
    fn partitions(&self, disk: &Disk, share: &Share<'_>) -> BTreeMap<Id, u64> {
        let on_disk = self.was.partition.iter().filter(|p| p.disk == disk.id);
        on_disk.map(|p| (p.id.clone(), round_down(share.on(&p.id)))).collect()
    }

    /// What is behind a partition that became shorter, or longer, moves with its end. `moved` takes
    /// the bytes of `by` away from a place or a size, or adds them.
    fn resize_partitions(
        &mut self,
        disk: &Disk,
        by: &BTreeMap<Id, u64>,
        moved: impl Fn(u64, u64) -> u64,
    ) {
        let was: Vec<&Partition> =
            self.was.partition.iter().filter(|p| p.disk == disk.id).collect();
        let change = |p: &Partition| by.get(&p.id).copied().unwrap_or(0);
        let end = |p: &Partition| p.start_bytes.saturating_add(p.size_bytes);
        let change_before = |at: u64| -> u64 {
            let before = |p: &&&Partition| p.kind != PartitionKind::Extended && end(p) <= at;
            was.iter().filter(before).map(|p| change(p)).sum()
        };
        for part in self.layout.partition.iter_mut().filter(|p| p.disk == disk.id) {
            let inside = |p: &&&Partition| p.kind == PartitionKind::Logical;
            let change = match part.kind {
                PartitionKind::Extended => was.iter().filter(inside).map(|p| change(p)).sum(),
                _ => change(part),
            };
            part.start_bytes = moved(part.start_bytes, change_before(part.start_bytes));
            part.ebr_bytes = part.ebr_bytes.map(|ebr| moved(ebr, change_before(ebr)));
            part.size_bytes = moved(part.size_bytes, change);
            if change > 0 && part.kind != PartitionKind::Extended {
                self.changed.push((part.id.clone(), part.size_bytes));
            }
        }
    }

    /// Tells everything above the changed devices.
    fn settle(&mut self) {
        let mut arrays = BTreeSet::new();
        let mut groups = BTreeSet::new();
        loop {
            while let Some((id, size_bytes)) = self.changed.pop() {
                self.fit_content(&id, size_bytes);
                let on_it = |m: &&crate::layout::Md| m.member.iter().any(|m| m.on == id);
                arrays.extend(self.was.md.iter().filter(on_it).map(|m| m.id.clone()));
                let on_it = |v: &&Vg| v.pv.iter().any(|pv| pv.on == id);
                groups.extend(self.was.vg.iter().filter(on_it).map(|v| v.id.clone()));
            }
            // An array's members are all known when nothing below it changes any more; so are a
            // group's physical volumes.
            if let Some(id) = arrays.pop_first() {
                self.fit_array(&id);
            } else if let Some(id) = groups.pop_first() {
                self.fit_group(&id);
            } else {
                return;
            }
        }
    }

    fn fit_content(&mut self, on: &Id, size_bytes: u64) {
        for luks in self.layout.luks.iter_mut().filter(|l| l.on == *on) {
            luks.size_bytes = size_bytes.saturating_sub(luks.data_offset_bytes);
            self.changed.push((luks.id.clone(), luks.size_bytes));
        }
        for vg in &mut self.layout.vg {
            let extent_bytes = vg.extent_bytes.max(1);
            for pv in vg.pv.iter_mut().filter(|pv| pv.on == *on) {
                let lost = pv.size_bytes.saturating_sub(size_bytes).div_ceil(extent_bytes);
                let gained = size_bytes.saturating_sub(pv.size_bytes) / extent_bytes;
                pv.extents = pv.extents.saturating_sub(lost).saturating_add(gained);
                pv.size_bytes = size_bytes;
            }
        }
        let gained = size_bytes.saturating_sub(device_bytes(self.was, on).unwrap_or(size_bytes));
        for fs in self.layout.fs.iter_mut().filter(|f| f.devices().contains(on)) {
            let gained = if spare::grows(fs) { gained } else { 0 };
            if fs.devices().len() > 1 {
                fit_device(fs, on, gained, size_bytes);
            } else {
                fit_fs(fs, fs.size_bytes.saturating_add(gained).min(size_bytes));
            }
        }
    }

    /// All members give as much as the one that gives most, and take as much as the one that takes
    /// least.
    fn fit_array(&mut self, id: &Id) {
        let Some(was) = self.was.md.iter().find(|m| m.id == *id) else { return };
        let Some(before) = was.member_size_bytes else { return };
        let bytes = |layout: &Layout, on| device_bytes(layout, on).map(u64::cast_signed);
        let change = |on| Some(bytes(&self.layout, on)?.saturating_sub(bytes(self.was, on)?));
        let change = was.member.iter().filter_map(|m| change(&m.on)).min().unwrap_or(0);
        if change == 0 {
            return;
        }
        let now = round_down(before.saturating_add_signed(change));
        let Some(md) = self.layout.md.iter_mut().find(|m| m.id == *id) else { return };
        md.member_size_bytes = Some(now);
        md.size_bytes = round_down(scale(was.size_bytes, now, before));
        self.changed.push((md.id.clone(), md.size_bytes));
    }

    /// The group is made anew, as its metadata speaks of other sizes; volumes lie where LVM puts
    /// them.
    fn fit_group(&mut self, id: &Id) {
        let Some(was) = self.was.vg.iter().find(|v| v.id == *id) else { return };
        let Some(vg) = self.layout.vg.iter_mut().find(|v| v.id == *id) else { return };
        vg.metadata.clear();
        let extents = |vg: &Vg| vg.pv.iter().map(|pv| pv.extents).sum::<u64>();
        let (had, has) = (extents(was), extents(vg));
        let extent_bytes = vg.extent_bytes.max(1);
        let volumes = || self.was.lv.iter().filter(|lv| lv.vg == *id);
        let needs: u64 = volumes().map(|lv| spare::extents(lv, extent_bytes)).sum();
        let in_each = |share: Share<'_>| -> BTreeMap<Id, u64> {
            volumes().map(|lv| (lv.id.clone(), share.in_volume(lv, extent_bytes))).collect()
        };
        let (to_give, to_take) =
            (in_each(Share::to_give(self.was)), in_each(Share::to_take(self.was)));
        let striped = volumes().any(place::is_striped);
        let (cuts, gains, mut places) = if striped {
            let lvs: Vec<&Lv> = volumes().collect();
            let (least, most) = (needs.saturating_sub(has), has.saturating_sub(had));
            let Some(found) = striped_changes(vg, &lvs, least, most, &to_give, &to_take) else {
                self.problems.push(Problem::new(
                    format!("the striped volumes of {} don't fit on disks of these sizes", vg.name),
                    "use disks that are to one another as the recorded ones were",
                ));
                return;
            };
            found
        } else {
            // That there is enough to share was asked before anything was cut.
            let cuts = share(needs.saturating_sub(has), &to_give, 1).unwrap_or_default();
            (cuts, share_out(has.saturating_sub(had), &to_take, 1), BTreeMap::new())
        };
        for lv in self.layout.lv.iter_mut().filter(|lv| lv.vg == *id) {
            let of = |changes: &BTreeMap<Id, u64>| changes.get(&lv.id).copied().unwrap_or(0);
            let (cut, gain) = (of(&cuts), of(&gains));
            match places.remove(&lv.id) {
                Some(segments) => lv.segment = segments,
                None => place_anywhere(lv, cut, gain),
            }
            if cut != gain {
                let size_bytes = lv.size_bytes.saturating_add(gain.saturating_mul(extent_bytes));
                lv.size_bytes = size_bytes.saturating_sub(cut.saturating_mul(extent_bytes));
                self.changed.push((lv.id.clone(), lv.size_bytes));
            }
        }
    }
}

type Changes = BTreeMap<Id, u64>;

/// What each volume gives and takes, in whole stripes, and where they lie then: as little less and as
/// much more as there is room for.
fn striped_changes(
    vg: &Vg,
    volumes: &[&Lv],
    least_cut: u64,
    most_gain: u64,
    to_give: &Changes,
    to_take: &Changes,
) -> Option<(Changes, Changes, BTreeMap<Id, Vec<LvSegment>>)> {
    let extents = |lv: &Lv| lv.segment.iter().map(|s| s.extents).sum::<u64>();
    let of = |changes: &Changes, lv: &Lv| changes.get(&lv.id).copied().unwrap_or(0);
    let attempt = |cut: u64, gain: u64| {
        let mut cuts = share(cut, to_give, 1)?;
        let mut gains = share_out(gain, to_take, 1);
        for lv in volumes {
            let stripes = place::stripes(lv);
            cuts.entry(lv.id.clone()).and_modify(|n| *n = n.next_multiple_of(stripes));
            gains.entry(lv.id.clone()).and_modify(|n| *n -= *n % stripes);
        }
        let sizes = |lv: &&Lv| extents(lv) + of(&gains, lv) - of(&cuts, lv);
        let wanted: Vec<_> = volumes.iter().map(|lv| (*lv, sizes(lv))).collect();
        let placed = place::place(vg, &wanted)?;
        let ids = volumes.iter().map(|lv| lv.id.clone());
        Some((cuts, gains, ids.zip(placed).collect()))
    };
    if most_gain > 0 {
        // Tried in sixteenths: what is left is unused, as on disks of which one alone is larger.
        let tried = (1..=16).rev().map(|n| most_gain / 16 * n).chain([0]);
        return tried.into_iter().find_map(|gain| attempt(0, gain));
    }
    let all: u64 = to_give.values().sum();
    let step = (all.saturating_sub(least_cut) / 64).max(1);
    let mut cut = least_cut;
    while cut <= all {
        if let Some(found) = attempt(cut, 0) {
            return Some(found);
        }
        cut += step;
    }
    None
}

/// One segment with fewer or more extents, wherever there is room.
fn place_anywhere(lv: &mut Lv, cut_extents: u64, more_extents: u64) {
    let extents: u64 = lv.segment.iter().map(|s| s.extents).sum();
    lv.segment.truncate(1);
    if let Some(segment) = lv.segment.first_mut() {
        segment.extents = extents.saturating_add(more_extents).saturating_sub(cut_extents);
        segment.on.clear();
    }
}

fn fit_fs(fs: &mut Fs, bytes: u64) {
    if let Some(ext) = &mut fs.ext {
        let before = ext.blocks;
        ext.blocks = bytes / ext.block_bytes.max(1);
        if !ext.features.iter().any(|feature| feature == "64bit") {
            ext.blocks = ext.blocks.min(u32::MAX.into());
        }
        ext.reserved_blocks = scale(ext.reserved_blocks, ext.blocks, before);
        // As many for each GiB, or a larger one would run out of them.
        ext.inodes = ext.inodes.max(scale(ext.inodes, ext.blocks, before).min(u32::MAX.into()));
    }
    if let Some(xfs) = &mut fs.xfs {
        xfs.blocks = bytes / xfs.block_bytes.max(1);
        // A log must fit into a group, and a group has a TiB at most.
        let most = (xfs.blocks / xfs.log_blocks.max(1).saturating_mul(2)).max(1);
        let least = bytes.div_ceil(XFS_GROUP_BYTES);
        (xfs.ag_blocks, xfs.agcount) = (None, xfs.agcount.min(most).max(least));
    }
    if let Some(btrfs) = &mut fs.btrfs
        && let [only] = &mut btrfs.device[..]
    {
        only.size_bytes = bytes - bytes % btrfs.sector_bytes.max(1);
    }
    fs.size_bytes = bytes;
    if let Some(f2fs) = &mut fs.f2fs {
        f2fs.blocks = bytes / F2fsOptions::BLOCK_BYTES;
        fs.size_bytes = f2fs.blocks * F2fsOptions::BLOCK_BYTES;
    }
}

/// Of a filesystem on several devices.
fn fit_device(fs: &mut Fs, on: &Id, gained: u64, size_bytes: u64) {
    let Some(btrfs) = &mut fs.btrfs else { return };
    let sector = btrfs.sector_bytes.max(1);
    for device in btrfs.device.iter_mut().filter(|device| device.on == *on) {
        let bytes = device.size_bytes.saturating_add(gained).min(size_bytes);
        device.size_bytes = bytes - bytes % sector;
    }
    fs.size_bytes = btrfs.device.iter().map(|device| device.size_bytes).sum();
}

/// Shares `bytes` out in proportion to what each can spare, in units. None: it is not enough.
fn share(bytes: u64, spares: &BTreeMap<Id, u64>, unit: u64) -> Option<BTreeMap<Id, u64>> {
    let all: u64 = spares.values().sum();
    let cut = |spare: u64| {
        // Rounded up, and never more than there is: `bytes` is at most `all`, and what each can
        // spare a number of whole units.
        let part = (u128::from(bytes) * u128::from(spare)).div_ceil(u128::from(all.max(1)));
        u64::try_from(part).unwrap_or(u64::MAX).div_ceil(unit).saturating_mul(unit).min(spare)
    };
    (bytes <= all).then(|| spares.iter().map(|(id, &spare)| (id.clone(), cut(spare))).collect())
}

/// Shares `bytes` out in proportion to the size of each, in units; what is left of the last ones is
/// nobody's.
fn share_out(bytes: u64, sizes: &BTreeMap<Id, u64>, unit: u64) -> BTreeMap<Id, u64> {
    let all: u64 = sizes.values().sum();
    let gain = |size: u64| scale(bytes, size, all) / unit * unit;
    sizes.iter().map(|(id, &size)| (id.clone(), gain(size))).collect()
}

/// `amount * part / whole`, without an overflow, rounded down.
fn scale(amount: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn round_down(bytes: u64) -> u64 {
    bytes - bytes % ALIGNMENT_BYTES
}

/// What has another size.
fn told(was: &Layout, is: &Layout) -> Vec<String> {
    let mut notes = Vec::new();
    let mut tell = |name: String, was: u64, is: u64| {
        let how = match is.cmp(&was) {
            Ordering::Less => "smaller",
            Ordering::Equal => return,
            Ordering::Greater => "larger",
        };
        notes.push(format!("{name} becomes {how}: {} instead of {}.", size(is), size(was)));
    };
    for (was, is) in was.partition.iter().zip(&is.partition) {
        tell(is.name.clone(), was.size_bytes, is.size_bytes);
    }
    for (was, is) in was.md.iter().zip(&is.md) {
        tell(is.name.clone(), was.size_bytes, is.size_bytes);
    }
    for (lv, now) in was.lv.iter().zip(&is.lv) {
        tell(is.dev(&now.id).unwrap_or_default(), lv.size_bytes, now.size_bytes);
    }
    notes
}
