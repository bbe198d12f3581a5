//! A layout for disks that are smaller than the recorded ones.
//!
//! What is too long for its disk is made shorter from the ground up: partitions, arrays, LUKS, volume
//! groups and their volumes, filesystems. Each gives in proportion to what it can spare ([`spare`]).
//! `/boot`, the ESP, swap, FAT and everything whose use is not known keep their sizes, and so does
//! everything on disks that are large enough.

mod spare;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::map::{self, DiskMatch};
use super::validate::device_bytes;
use crate::layout::units::size;
use crate::layout::{Disk, Fs, Id, Layout, Lv, Partition, PartitionKind, Vg};
use spare::Spare;

pub use spare::least_bytes;

/// Partitions start at multiples of this, as all partitioning programs make them since 2009.
const ALIGNMENT_BYTES: u64 = 1 << 20;

/// The layout that fits, and what became smaller, in words. As it was where nothing is too long, and
/// where a disk is too small all the same.
pub fn fit(scope: &Layout, disks: &[DiskMatch]) -> (Layout, Vec<String>) {
    let mut fitter = Fitter { was: scope, layout: scope.clone(), changed: Vec::new() };
    for DiskMatch { old, new, .. } in disks {
        let too_long = map::need(scope, old).saturating_sub(new.size_bytes);
        if too_long > 0 && !fitter.shorten(old, too_long) {
            return (scope.clone(), Vec::new());
        }
    }
    fitter.settle();
    let notes = told(scope, &fitter.layout);
    (fitter.layout, notes)
}

struct Fitter<'a> {
    was: &'a Layout,
    layout: Layout,
    /// Devices that are smaller now, and what stands on them does not know it yet.
    changed: Vec<(Id, u64)>,
}

impl Fitter<'_> {
    /// Takes `bytes` away from what is on the disk. False: there is not so much to take.
    fn shorten(&mut self, disk: &Disk, bytes: u64) -> bool {
        let spare = Spare::of(self.was);
        if disk.table.is_none() {
            let size_bytes = map::need(self.was, disk).saturating_sub(bytes);
            self.changed.push((disk.id.clone(), size_bytes));
            return spare.on(&disk.id) >= bytes;
        }
        let on_disk = self.was.partition.iter().filter(|p| p.disk == disk.id);
        let spares = on_disk.map(|p| (p.id.clone(), round_down(spare.on(&p.id))));
        let Some(cuts) = share(bytes, &spares.collect(), ALIGNMENT_BYTES) else { return false };
        self.cut_partitions(disk, &cuts);
        true
    }

    /// What is behind a partition that became shorter moves towards the start of the disk.
    fn cut_partitions(&mut self, disk: &Disk, cuts: &BTreeMap<Id, u64>) {
        let was: Vec<&Partition> =
            self.was.partition.iter().filter(|p| p.disk == disk.id).collect();
        let cut = |p: &Partition| cuts.get(&p.id).copied().unwrap_or(0);
        let end = |p: &Partition| p.start_bytes.saturating_add(p.size_bytes);
        let cut_before = |at: u64| -> u64 {
            let before = |p: &&&Partition| p.kind != PartitionKind::Extended && end(p) <= at;
            was.iter().filter(before).map(|p| cut(p)).sum()
        };
        for part in self.layout.partition.iter_mut().filter(|p| p.disk == disk.id) {
            let inside = |p: &&&Partition| p.kind == PartitionKind::Logical;
            let cut = match part.kind {
                PartitionKind::Extended => was.iter().filter(inside).map(|p| cut(p)).sum(),
                _ => cut(part),
            };
            part.start_bytes -= cut_before(part.start_bytes);
            part.ebr_bytes = part.ebr_bytes.map(|ebr| ebr - cut_before(ebr));
            part.size_bytes -= cut;
            if cut > 0 && part.kind != PartitionKind::Extended {
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
                let lost = pv.size_bytes.saturating_sub(size_bytes);
                pv.extents = pv.extents.saturating_sub(lost.div_ceil(extent_bytes));
                pv.size_bytes = size_bytes;
            }
        }
        for fs in self.layout.fs.iter_mut().filter(|f| f.on == *on) {
            fit_fs(fs, size_bytes);
        }
        let members = self.layout.md.iter_mut().filter(|m| m.member.iter().any(|m| m.on == *on));
        for md in members {
            let was = self.was.md.iter().find(|m| m.id == md.id);
            let (Some(was_bytes), Some(member_bytes)) =
                (device_bytes(self.was, on), was.and_then(|m| m.member_size_bytes))
            else {
                continue;
            };
            let lost = was_bytes.saturating_sub(size_bytes);
            let now = round_down(member_bytes.saturating_sub(lost));
            md.member_size_bytes = md.member_size_bytes.map(|bytes| bytes.min(now));
        }
    }

    fn fit_array(&mut self, id: &Id) {
        let Some(was) = self.was.md.iter().find(|m| m.id == *id) else { return };
        let Some(md) = self.layout.md.iter_mut().find(|m| m.id == *id) else { return };
        let (Some(before), Some(now)) = (was.member_size_bytes, md.member_size_bytes) else {
            return;
        };
        md.size_bytes = round_down(scale(was.size_bytes, now, before));
        self.changed.push((md.id.clone(), md.size_bytes));
    }

    /// The group is made anew, as its metadata speaks of other sizes; volumes lie where LVM puts
    /// them.
    fn fit_group(&mut self, id: &Id) {
        let spare = Spare::of(self.was);
        let Some(vg) = self.layout.vg.iter_mut().find(|v| v.id == *id) else { return };
        vg.metadata.clear();
        let has: u64 = vg.pv.iter().map(|pv| pv.extents).sum();
        let extent_bytes = vg.extent_bytes.max(1);
        let volumes = self.was.lv.iter().filter(|lv| lv.vg == *id);
        let needs: u64 = volumes.clone().map(|lv| spare::extents(lv, extent_bytes)).sum();
        let spares = volumes.map(|lv| (lv.id.clone(), spare.on(&lv.id) / extent_bytes));
        // That there is enough to share was asked before anything was cut.
        let cuts = share(needs.saturating_sub(has), &spares.collect(), 1).unwrap_or_default();
        for lv in self.layout.lv.iter_mut().filter(|lv| lv.vg == *id) {
            let cut = cuts.get(&lv.id).copied().unwrap_or(0);
            place_anywhere(lv, cut);
            if cut > 0 {
                lv.size_bytes = lv.size_bytes.saturating_sub(cut.saturating_mul(extent_bytes));
                self.changed.push((lv.id.clone(), lv.size_bytes));
            }
        }
    }
}

/// One segment with fewer extents, wherever there is room.
fn place_anywhere(lv: &mut Lv, cut_extents: u64) {
    let extents: u64 = lv.segment.iter().map(|s| s.extents).sum();
    lv.segment.truncate(1);
    if let Some(segment) = lv.segment.first_mut() {
        segment.extents = extents.saturating_sub(cut_extents);
        segment.on.clear();
    }
}

fn fit_fs(fs: &mut Fs, device_bytes: u64) {
    let bytes = fs.size_bytes.min(device_bytes);
    if let Some(ext) = &mut fs.ext {
        let before = ext.blocks;
        ext.blocks = bytes / ext.block_bytes.max(1);
        ext.reserved_blocks = scale(ext.reserved_blocks, ext.blocks, before);
    }
    if let Some(xfs) = &mut fs.xfs {
        xfs.blocks = bytes / xfs.block_bytes.max(1);
        // A log must fit into a group.
        let most = (xfs.blocks / xfs.log_blocks.max(1).saturating_mul(2)).max(1);
        (xfs.ag_blocks, xfs.agcount) = (None, xfs.agcount.min(most));
    }
    if let Some(btrfs) = &mut fs.btrfs
        && let [only] = &mut btrfs.device[..]
    {
        only.size_bytes = bytes - bytes % btrfs.sector_bytes.max(1);
    }
    fs.size_bytes = bytes;
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

/// `amount * part / whole`, without an overflow, rounded down.
fn scale(amount: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn round_down(bytes: u64) -> u64 {
    bytes - bytes % ALIGNMENT_BYTES
}

/// What became smaller.
fn told(was: &Layout, is: &Layout) -> Vec<String> {
    let mut notes = Vec::new();
    let mut tell = |name: String, was: u64, is: u64| {
        if was != is {
            notes.push(format!("{name} becomes smaller: {} instead of {}.", size(is), size(was)));
        }
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
