//! Several recorded disks on one, `--map OLD=NEW --map OLD2=NEW`: the partitions of the second one
//! follow those of the first, and what was on a whole disk gets a partition.
//!
//! The result is the layout of a machine with one larger disk, which is then fitted as any other.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use uuid::Uuid;

use super::map::{self, DiskMatch, gpt_tail_bytes};
use super::validate::mbr_type;
use super::{Answers, IdentityChange, Problem, hybrid, is_called, leave};
use crate::layout::{Disk, Firmware, Id, Layout, Md, Partition, PartitionKind, Table};

const ALIGNMENT_BYTES: u64 = 1 << 20;
const ENTRIES: u32 = 128;
const LINUX: u8 = 0x83;
const SWAP: u8 = 0x82;
const LVM: u8 = 0x8e;
const RAID: u8 = 0xfd;

/// What a partition's type is called in the other kind of table.
const TYPES: &[(u8, &str)] = &[
    (LINUX, "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    (SWAP, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
    (LVM, "e6d6d379-f507-44c2-a23c-238f2a3df928"),
    (RAID, "a19d880f-05fc-4d3b-a006-743f0f84911e"),
    (0xef, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    (0x0c, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
    (0x06, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
    (0x07, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
    (0x0b, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
    (0x0e, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"),
];

/// What comes of the answers.
#[derive(Debug)]
pub struct Joined {
    pub layout: Layout,
    /// With one place for the disks that are one now.
    pub answers: Answers,
    /// The recorded disk that the others are on now, and one of these.
    pub pairs: Vec<(Id, Disk)>,
    pub identity_changes: Vec<IdentityChange>,
    pub notes: Vec<String>,
}

/// The partition that holds what was on the whole disk `disk`.
pub fn whole(disk: &Id) -> Id {
    Id(format!("whole:{}", disk.0))
}

/// Makes one disk of those that have the same place in the answers.
pub fn join(
    scope: &Layout,
    present: &Layout,
    answers: &Answers,
    problems: &mut Vec<Problem>,
) -> Joined {
    let mut joined = Joined::of(scope, answers.clone());
    for disks in together(scope, present, answers) {
        let (first, others) = first_of(scope, disks);
        joined.answers.map.retain(|(old, _)| !others.iter().any(|disk| is_called(disk, old)));
        match check(scope, first, &others) {
            Ok(()) => joined.onto(first, &others, problems),
            Err(problem) => problems.push(problem),
        }
    }
    joined.keep_clear_names(scope, problems);
    joined
}

/// How small the disk for both may be, where they can share one.
pub fn least_bytes(scope: &Layout, a: &Disk, b: &Disk) -> Option<u64> {
    let (first, others) = first_of(scope, vec![a, b]);
    check(scope, first, &others).ok()?;
    let mut problems = Vec::new();
    let mut joined = Joined::of(scope, Answers::default());
    joined.onto(first, &others, &mut problems);
    let disk = joined.layout.disk.iter().find(|disk| disk.id == first.id)?;
    problems.is_empty().then(|| super::fit::least_bytes(&joined.layout, disk))
}

/// The recorded disks with the same place, where there are several.
fn together<'a>(scope: &'a Layout, present: &Layout, answers: &Answers) -> Vec<Vec<&'a Disk>> {
    let mut groups: Vec<(&Id, Vec<&Disk>)> = Vec::new();
    for (old, new) in answers.map.iter().filter(|(_, new)| new != leave::NONE) {
        // What is named wrongly is told where the disks are matched.
        let old = map::only(scope.disk.iter().filter(|disk| is_called(disk, old)));
        let new = map::only(present.disk.iter().filter(|disk| is_called(disk, new)));
        let (Some(old), Some(new)) = (old, new) else { continue };
        if answers.map.iter().filter(|(name, _)| is_called(old, name)).count() > 1 {
            continue;
        }
        match groups.iter_mut().find(|(id, _)| *id == &new.id) {
            Some((_, group)) => group.push(old),
            None => groups.push((&new.id, vec![old])),
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).collect()
}

/// The disk whose table all get: the one that the BIOS starts from, else one with a GPT, else with
/// any table.
fn first_of<'a>(scope: &Layout, mut disks: Vec<&'a Disk>) -> (&'a Disk, Vec<&'a Disk>) {
    let rank = |disk: &Disk| match disk.table {
        _ if starts(scope, disk) => 0,
        Some(Table::Gpt { .. }) => 1,
        Some(Table::Mbr { .. }) => 2,
        None => 3,
    };
    let ranks = disks.iter().map(|disk| rank(disk)).enumerate();
    let first = ranks.min_by_key(|(_, rank)| *rank).map_or(0, |(at, _)| at);
    (disks.remove(first), disks)
}

fn starts(scope: &Layout, disk: &Disk) -> bool {
    scope.boot.firmware == Firmware::Bios && scope.boot.grub_disk.contains(&disk.id)
}

/// Why they can't be one disk.
fn check(scope: &Layout, first: &Disk, others: &[&Disk]) -> Result<(), Problem> {
    let own = |disk: &Disk| format!("give {0} a disk of its own: --map {0}=NEW", disk.name);
    if let Some(other) = others.iter().find(|other| other.sector_bytes != first.sector_bytes) {
        let what = format!(
            "{} can't be on one disk with {}: they have sectors of {} and of {} bytes",
            other.name, first.name, other.sector_bytes, first.sector_bytes
        );
        return Err(Problem::new(what, own(other)));
    }
    if first.table.is_none() && starts(scope, first) {
        let what = format!("{} has no partition table, and the BIOS starts it", first.name);
        return Err(Problem::new(what, own(first)));
    }
    let all: Vec<&Disk> = std::iter::once(first).chain(others.iter().copied()).collect();
    for md in scope.md.iter().filter(|md| !matches!(md.level.as_str(), "raid0" | "linear")) {
        let mut with = all.iter().filter(|disk| has_member(scope, md, disk));
        if let (Some(one), Some(two)) = (with.next(), with.next()) {
            let what = format!(
                "{} ({}) would have the members of {} and {} on one disk",
                md.name, md.level, one.name, two.name
            );
            let hint = format!("leave one of them out: --map {}={}", two.name, leave::NONE);
            return Err(Problem::new(what, hint));
        }
    }
    Ok(())
}

fn has_member(scope: &Layout, md: &Md, disk: &Disk) -> bool {
    md.member.iter().any(|member| scope.disks_below(&member.on).contains(&disk.id))
}

impl Joined {
    fn of(scope: &Layout, answers: Answers) -> Joined {
        Joined {
            layout: scope.clone(),
            answers,
            pairs: Vec::new(),
            identity_changes: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The disks, with those that share one as well: whose data it is that is made again.
    pub fn claims(&self, disks: &[DiskMatch]) -> Vec<DiskMatch> {
        let mut claims = disks.to_vec();
        for (first, other) in &self.pairs {
            let shared = disks.iter().find(|found| found.old.id == *first);
            claims.extend(shared.map(|found| DiskMatch { old: other.clone(), ..found.clone() }));
        }
        claims
    }

    /// Says which disks are shared.
    pub fn tell(&self, disks: &mut [DiskMatch]) {
        for (first, other) in &self.pairs {
            for found in disks.iter_mut().filter(|found| found.old.id == *first) {
                found.why = format!("{}; with {}", found.why, other.name);
            }
        }
    }

    fn onto(&mut self, first: &Disk, others: &[&Disk], problems: &mut Vec<Problem>) {
        if first.table.is_none() {
            self.give_table(first);
        }
        for other in others {
            if other.table.as_ref().is_some_and(|table| hybrid::of(table).is_some()) {
                self.notes.push(format!("The hybrid MBR of {} does not come back.", other.name));
            }
            if let Err(problem) = self.append(first, other) {
                problems.push(problem);
            }
        }
        let gone: BTreeSet<&Id> = others.iter().map(|disk| &disk.id).collect();
        self.layout.disk.retain(|disk| !gone.contains(&disk.id));
        self.layout.boot.grub_disk.retain(|disk| !gone.contains(disk));
        let more: u64 = others.iter().map(|disk| disk.size_bytes).sum();
        for disk in self.layout.disk.iter_mut().filter(|disk| disk.id == first.id) {
            disk.size_bytes = disk.size_bytes.saturating_add(more);
            if let Some(Table::Gpt { last_usable_lba, .. }) = &mut disk.table {
                // As far as the disk goes that it gets.
                *last_usable_lba = u64::MAX;
            }
        }
        let names: Vec<_> = others.iter().map(|disk| disk.name.as_str()).collect();
        self.notes.push(format!(
            "What was on {} comes back behind what was on {}, on one disk.",
            names.join(", "),
            first.name
        ));
        self.tell_of_copies(first);
        self.pairs.extend(others.iter().map(|disk| (first.id.clone(), (*disk).clone())));
    }

    /// Files can't be changed by a name that several partitions had: whose it was is not known.
    fn keep_clear_names(&mut self, scope: &Layout, problems: &mut Vec<Problem>) {
        let names = |layout: &Layout, part: &Partition| {
            let disk = layout.disk.iter().find(|disk| disk.id == part.disk);
            let table = disk.and_then(|disk| disk.table.as_ref());
            [partuuid(part, table), partlabel(part, table)]
        };
        for change in std::mem::take(&mut self.identity_changes) {
            let is_it = |name: &Option<String>| name.as_ref() == Some(&change.old);
            let had = scope.partition.iter().filter(|p| names(scope, p).iter().any(is_it));
            let had: Vec<&Partition> = had.collect();
            let kept = |p: &&Partition| {
                had.iter().any(|was| was.id == p.id) && names(&self.layout, p).iter().any(is_it)
            };
            let IdentityChange { what, old, new } = &change;
            if had.len() < 2 {
                self.identity_changes.push(change);
            } else if let Some(kept) = self.layout.partition.iter().find(kept) {
                self.notes.push(format!(
                    "{what} is {new} now. It was {old} as that of {}, which stays: files are not \
                     changed.",
                    kept.name
                ));
            } else if old.starts_with("PARTLABEL=") {
                // Such as "primary", by which nothing is known.
                self.notes.push(format!("{what} does not come back: {old} was of several."));
            } else {
                let names: Vec<_> = had.iter().map(|p| p.name.as_str()).collect();
                problems.push(Problem::new(
                    format!("{old} was the name of {}, and will be of none", names.join(" and ")),
                    "give one of their disks a disk of its own: --map OLD=NEW",
                ));
            }
        }
    }

    /// Copies on several disks are on one now.
    fn tell_of_copies(&mut self, first: &Disk) {
        let layout = &self.layout;
        let here = |id: &&Id| layout.disks_below(id).contains(&first.id);
        let copies = |kind: &str| kind.starts_with("raid") || kind == "mirror";
        let mut told = Vec::new();
        for vg in &layout.vg {
            let several = vg.pv.iter().map(|pv| &pv.on).filter(here).count() > 1;
            let volumes = layout.lv.iter().filter(|lv| several && lv.vg == vg.id);
            let volumes = volumes.filter(|lv| copies(&lv.kind));
            told.extend(volumes.map(|lv| format!("{}/{} ({})", vg.name, lv.name, lv.kind)));
        }
        for fs in layout.fs.iter().filter(|fs| fs.devices().iter().filter(here).count() > 1) {
            if fs.btrfs.as_ref().is_some_and(|btrfs| copies(&btrfs.data_profile)) {
                told.push(format!("{} {}", fs.kind, fs.uuid));
            }
        }
        let notes = told.iter().map(|what| format!("{what} may have its copies on one disk."));
        self.notes.extend(notes);
    }

    /// A table for a disk that had none, with one partition.
    fn give_table(&mut self, disk: &Disk) {
        let sector = disk.sector_bytes.max(512);
        let first_usable_lba = gpt_tail_bytes(ENTRIES, sector) / u64::from(sector) + 1;
        let guid = made_from(&format!("table {}", disk.id));
        let bytes = map::need(&self.layout, disk).next_multiple_of(ALIGNMENT_BYTES);
        for here in self.layout.disk.iter_mut().filter(|here| here.id == disk.id) {
            here.table = Some(Table::Gpt {
                guid,
                entries: ENTRIES,
                first_usable_lba,
                last_usable_lba: u64::MAX,
                hybrid: None,
            });
        }
        let part = whole_partition(&self.layout, disk, bytes);
        let part =
            Partition { disk: disk.id.clone(), number: 1, start_bytes: ALIGNMENT_BYTES, ..part };
        move_content(&mut self.layout, &disk.id, &part.id);
        self.layout.partition.push(part);
    }

    fn append(&mut self, first: &Disk, other: &Disk) -> Result<(), Problem> {
        let here = self.layout.disk.iter().find(|disk| disk.id == first.id);
        let Some(table) = here.and_then(|disk| disk.table.clone()) else { return Ok(()) };
        let mut parts = self.take_partitions(other);
        let on_first: Vec<&Partition> =
            self.layout.partition.iter().filter(|p| p.disk == first.id).collect();
        let end = on_first.iter().map(|p| p.start_bytes.saturating_add(p.size_bytes)).max();
        let free = end.unwrap_or(ALIGNMENT_BYTES).next_multiple_of(ALIGNMENT_BYTES);
        let mut numbers: BTreeSet<u32> = on_first.iter().map(|p| p.number).collect();
        let uuids: BTreeSet<Uuid> = on_first.iter().filter_map(|p| p.uuid).collect();
        // All by the same way, so that gaps and alignment stay.
        let start = parts.iter().map(|p| p.start_bytes).min().unwrap_or(0);
        let start = start - start % ALIGNMENT_BYTES;
        for part in &mut parts {
            let was = partuuid(part, other.table.as_ref());
            let label = partlabel(part, other.table.as_ref());
            let number =
                free_number(&table, &numbers).ok_or_else(|| no_slot(part, first, other))?;
            numbers.insert(number);
            part.type_code = type_in(&table, part).ok_or_else(|| no_type(part, first, other))?;
            (part.disk, part.number) = (first.id.clone(), number);
            part.start_bytes = (part.start_bytes - start).saturating_add(free);
            (part.ebr_bytes, part.active) = (None, false);
            (part.kind, part.uuid) = match &table {
                Table::Gpt { .. } => {
                    // Two disks may be copies of one.
                    let own = part.uuid.filter(|uuid| !uuids.contains(uuid));
                    let made = || made_from(&format!("partition {}", part.id));
                    (PartitionKind::Gpt, Some(own.unwrap_or_else(made)))
                }
                Table::Mbr { .. } => (PartitionKind::Primary, None),
            };
            if let (Some(old), Some(new)) = (was, partuuid(part, Some(&table)))
                && old != new
            {
                let what = format!("PARTUUID of {}", part.name);
                self.identity_changes.push(IdentityChange { what, old, new });
            }
            if let (Some(old), Table::Mbr { .. }) = (label, &table) {
                // An MBR has no names.
                part.label.clear();
                let what = format!("PARTLABEL of {}", part.name);
                let new = partuuid(part, Some(&table)).unwrap_or_default();
                let new = format!("PARTUUID={new}");
                self.identity_changes.push(IdentityChange { what, old, new });
            }
        }
        self.layout.partition.extend(parts);
        Ok(())
    }

    /// What is on the disk, as partitions.
    fn take_partitions(&mut self, disk: &Disk) -> Vec<Partition> {
        if disk.table.is_some() {
            let own = self.layout.partition.extract_if(.., |p| p.disk == disk.id);
            return own.filter(|p| p.kind != PartitionKind::Extended).collect();
        }
        let bytes = map::need(&self.layout, disk).next_multiple_of(ALIGNMENT_BYTES);
        if bytes == 0 {
            return Vec::new();
        }
        let part = whole_partition(&self.layout, disk, bytes);
        move_content(&mut self.layout, &disk.id, &part.id);
        vec![part]
    }
}

/// As the kernel names it, in either kind of table.
fn partuuid(part: &Partition, table: Option<&Table>) -> Option<String> {
    match table? {
        Table::Gpt { .. } => part.uuid.map(|uuid| uuid.to_string()),
        Table::Mbr { signature } => Some(format!("{signature:08x}-{:02x}", part.number)),
    }
}

/// As fstab has it, of a partition that has a name.
fn partlabel(part: &Partition, table: Option<&Table>) -> Option<String> {
    matches!(table, Some(Table::Gpt { .. }) if !part.label.is_empty())
        .then(|| format!("PARTLABEL={}", part.label))
}

fn free_number(table: &Table, taken: &BTreeSet<u32>) -> Option<u32> {
    match table {
        Table::Gpt { entries, .. } => {
            Some(taken.last().map_or(1, |last| last + 1)).filter(|number| number <= entries)
        }
        Table::Mbr { .. } => (1..=4).find(|number| !taken.contains(number)),
    }
}

fn no_slot(part: &Partition, first: &Disk, other: &Disk) -> Problem {
    Problem::new(
        format!("the partition table of {} has no place for {}", first.name, part.name),
        format!("give {0} a disk of its own: --map {0}=NEW", other.name),
    )
}

fn no_type(part: &Partition, first: &Disk, other: &Disk) -> Problem {
    Problem::new(
        format!(
            "{} has the type {}, which the partition table of {} can't have",
            part.name, part.type_code, first.name
        ),
        format!("give {0} a disk of its own: --map {0}=NEW", other.name),
    )
}

/// The partition's type as `table` has it.
fn type_in(table: &Table, part: &Partition) -> Option<String> {
    match (table, part.kind) {
        (Table::Gpt { .. }, PartitionKind::Gpt) => Some(part.type_code.clone()),
        (Table::Gpt { .. }, _) => {
            let byte = mbr_type(&part.type_code)?;
            TYPES.iter().find(|(mbr, _)| *mbr == byte).map(|(_, guid)| (*guid).to_owned())
        }
        (Table::Mbr { .. }, PartitionKind::Gpt) => {
            let of = |guid: &str| guid.eq_ignore_ascii_case(&part.type_code);
            TYPES.iter().find(|(_, guid)| of(guid)).map(|(mbr, _)| format!("{mbr:#04x}"))
        }
        (Table::Mbr { .. }, _) => Some(part.type_code.clone()),
    }
}

/// A partition for what is on the whole disk.
fn whole_partition(layout: &Layout, disk: &Disk, size_bytes: u64) -> Partition {
    let byte = if layout.vg.iter().flat_map(|vg| &vg.pv).any(|pv| pv.on == disk.id) {
        LVM
    } else if layout.md.iter().flat_map(|md| &md.member).any(|member| member.on == disk.id) {
        RAID
    } else if layout.swap.iter().any(|swap| swap.on == disk.id) {
        SWAP
    } else {
        LINUX
    };
    let id = whole(&disk.id);
    let guid = TYPES.iter().find(|(mbr, _)| *mbr == byte).map_or("", |(_, guid)| guid);
    Partition {
        uuid: Some(made_from(&format!("partition {id}"))),
        id,
        disk: disk.id.clone(),
        number: 1,
        name: disk.name.clone(),
        kind: PartitionKind::Gpt,
        start_bytes: 0,
        size_bytes,
        type_code: guid.to_owned(),
        label: String::new(),
        attributes: 0,
        active: false,
        ebr_bytes: None,
    }
}

/// The same one whenever it is planned again.
fn made_from(text: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// What stands on `from` stands on `to`.
fn move_content(layout: &mut Layout, from: &Id, to: &Id) {
    let fs = layout.fs.iter_mut().flat_map(|fs| {
        let more = fs.btrfs.iter_mut().flat_map(|btrfs| &mut btrfs.device).map(|d| &mut d.on);
        let log = fs.xfs.iter_mut().filter_map(|xfs| xfs.log_on.as_mut());
        std::iter::once(&mut fs.on).chain(more).chain(log)
    });
    let members = layout.md.iter_mut().flat_map(|md| &mut md.member).map(|m| &mut m.on);
    let pvs = layout.vg.iter_mut().flat_map(|vg| &mut vg.pv).map(|pv| &mut pv.on);
    let luks = layout.luks.iter_mut().map(|luks| &mut luks.on);
    let swap = layout.swap.iter_mut().map(|swap| &mut swap.on);
    for on in fs.chain(members).chain(pvs).chain(luks).chain(swap).filter(|on| **on == *from) {
        *on = to.clone();
    }
    let segments = layout.lv.iter_mut().flat_map(|lv| &mut lv.segment);
    for place in segments.flat_map(|segment| &mut segment.on) {
        if let Some((device, range)) = place.rsplit_once(':')
            && device == from.0
        {
            *place = format!("{to}:{range}");
        }
    }
}
