//! Which disk takes the place of which recorded disk.
//!
//! In this order: what the admin says, WWN, serial number, place (udev's `ID_PATH`), the node's own
//! data on it, model and size, size. Each rule pairs a recorded disk with a present one only where
//! neither could mean another; blank twins for lost twins go by place. What is left over is refused
//! with the answer that would settle it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::consent::{self, Content};
use super::{Answers, KeptDisk, Problem, disk_of, fit, is_called, join, leave};
use crate::layout::units::size;
use crate::layout::{Disk, Id, Layout, Table};

/// A recorded disk and the disk that takes its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskMatch {
    pub old: Disk,
    /// The disk as it is now.
    pub new: Disk,
    pub why: String,
    /// What is on the disk now, in words; empty for a blank disk.
    pub holds: Vec<String>,
}

/// The disks that are kept, each known to be here.
pub fn kept_disks(
    present: &Layout,
    answers: &Answers,
    problems: &mut Vec<Problem>,
) -> Vec<KeptDisk> {
    for name in &answers.erase {
        if let Some(kept) = answers
            .keep
            .iter()
            .find(|k| present.disk.iter().any(|d| d.name == k.name && is_called(d, name)))
        {
            problems.push(Problem::new(
                format!("{name} may not be erased: {} {}", kept.name, kept.why),
                "take it out of --erase",
            ));
        }
    }
    answers.keep.clone()
}

struct Mapper<'a> {
    present: &'a Layout,
    recorded: &'a Layout,
    /// What of it comes back.
    scope: &'a Layout,
    /// What is not matched yet, each list in the order of places.
    lost: Vec<&'a Disk>,
    free: Vec<&'a Disk>,
    pairs: BTreeMap<Id, (&'a Disk, &'a Disk, String)>,
    needs: BTreeMap<Id, u64>,
    content: Content,
    answers: &'a Answers,
    /// Disks that share one already: whose place it is, and another.
    shared: &'a [(Id, Disk)],
    /// Disks with other sectors will do.
    any_sectors: bool,
}

/// Finds a disk for each disk of the scope; the result is in the order of the recorded layout.
pub fn map(
    recorded: &Layout,
    scope: &Layout,
    present: &Layout,
    answers: &Answers,
    shared: &[(Id, Disk)],
    kept: &[KeptDisk],
    problems: &mut Vec<Problem>,
) -> Vec<DiskMatch> {
    let lost = by_place(scope.disk.iter());
    let is_kept = |d: &Disk| kept.iter().any(|k| k.name == d.name);
    let free = by_place(present.disk.iter().filter(|d| !is_kept(d) && !d.read_only));
    let needs = scope.disk.iter().map(|d| (d.id.clone(), need(scope, d))).collect();
    let content = Content::of(recorded, present);
    let (pairs, any_sectors) = (BTreeMap::new(), false);
    let mut mapper = Mapper {
        present,
        recorded,
        scope,
        lost,
        free,
        pairs,
        needs,
        content,
        answers,
        shared,
        any_sectors,
    };
    mapper.by_answer(kept, problems);
    mapper.by_key("the same WWN", consent::wwn);
    mapper.by_key("the same serial number", consent::serial);
    mapper.by_likeness();
    // Where no disk is large enough, one that the files fit on will do.
    let least = |d: &Disk| (d.id.clone(), fit::least_bytes(scope, d));
    mapper.needs = scope.disk.iter().map(least).collect();
    mapper.by_likeness();
    // And where all have other sectors, what can be made with these.
    mapper.any_sectors = true;
    mapper.by_likeness();
    mapper.refuse_rest(kept, problems);
    let mut pairs = mapper.pairs;
    recorded
        .disk
        .iter()
        .filter_map(|d| pairs.remove(&d.id))
        .map(|(old, new, why)| DiskMatch {
            holds: consent::holds(present, new),
            old: old.clone(),
            new: new.clone(),
            why,
        })
        .collect()
}

/// Disks to choose from, as a hint.
pub(super) fn listed(what: &str, disks: &[&Disk]) -> String {
    let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("{what}: {names}")
}

impl<'a> Mapper<'a> {
    fn pair(&mut self, old: &'a Disk, new: &'a Disk, why: &str) {
        self.lost.retain(|d| d.id != old.id);
        self.free.retain(|d| d.id != new.id);
        self.pairs.insert(old.id.clone(), (old, new, why.to_owned()));
    }

    fn by_answer(&mut self, kept: &[KeptDisk], problems: &mut Vec<Problem>) {
        let places = self.answers.map.iter().filter(|(_, new)| new != leave::NONE);
        for (old_name, new_name) in places {
            let answer = format!("--map {old_name}={new_name}");
            let old = self.lost.iter().copied().filter(|d| is_called(d, old_name));
            let Some(old) = only(old) else {
                problems.push(Problem::new(
                    format!("{answer}: {old_name} is not one recorded disk that needs a place"),
                    listed("recorded disks without one", &self.lost),
                ));
                continue;
            };
            if let Some(kept) = kept.iter().find(|k| {
                self.present.disk.iter().any(|d| d.name == k.name && is_called(d, new_name))
            }) {
                problems.push(Problem::new(
                    format!("{answer}: {} {}", kept.name, kept.why),
                    "name another disk",
                ));
                continue;
            }
            let new = self.free.iter().copied().filter(|d| is_called(d, new_name));
            let Some(new) = only(new) else {
                problems.push(Problem::new(
                    format!("{answer}: {new_name} is not one disk that is here and free"),
                    listed("free disks", &self.free),
                ));
                continue;
            };
            self.pair(old, new, "you said so");
        }
    }

    /// Pairs where exactly one disk on each side has the key.
    fn by_key(&mut self, why: &str, key: fn(&Disk) -> Option<&str>) {
        for old in self.lost.clone() {
            let Some(wanted) = key(old) else { continue };
            let has_it = |d: &&Disk| key(d) == Some(wanted);
            // Also among those already matched: a serial number that two disks share means nothing.
            let recorded = self.recorded.disk.iter().filter(has_it).count();
            let present = self.present.disk.iter().filter(has_it).count();
            if let (1, 1, Some(new)) = (recorded, present, self.free.iter().copied().find(has_it)) {
                self.pair(old, new, why);
            }
        }
    }

    /// The rules that take disks only where the layout fits.
    fn by_likeness(&mut self) {
        self.by_place_of();
        self.by_content();
        self.twins("the same model and size", |d| {
            d.model.as_ref().map(|m| format!("{m} {}", d.size_bytes))
        });
        self.twins("the same size", |d| Some(d.size_bytes.to_string()));
        self.last_one();
    }

    fn by_place_of(&mut self) {
        for old in self.lost.clone() {
            let Some(path) = old.path.clone() else { continue };
            let here: Vec<_> =
                self.free.iter().copied().filter(|d| d.path.as_ref() == Some(&path)).collect();
            if let [new] = here[..]
                && self.fits(old, new)
                && !new.removable
            {
                self.pair(old, new, "in the same place");
            }
        }
    }

    fn by_content(&mut self) {
        for old in self.lost.clone() {
            if let Some(new) = self.content.only_carrier(old)
                && let Some(new) = self.free.iter().copied().find(|d| d.id == new)
                && self.fits(old, new)
            {
                self.pair(old, new, "it carries this node's data");
            }
        }
    }

    /// Pairs classes of equal disks, by place, where as many are lost as can be taken.
    fn twins(&mut self, why: &str, key: impl Fn(&Disk) -> Option<String>) {
        let mut classes: BTreeMap<String, Vec<&'a Disk>> = BTreeMap::new();
        for old in &self.lost {
            if let Some(key) = key(old) {
                classes.entry(key).or_default().push(old);
            }
        }
        for (class, lost) in classes {
            let free: Vec<_> = self
                .free
                .iter()
                .copied()
                .filter(|d| key(d).as_ref() == Some(&class) && self.may_take(d))
                .collect();
            if free.len() != lost.len() || !lost.iter().zip(&free).all(|(o, n)| self.fits(o, n)) {
                continue;
            }
            let twins = lost.len() > 1;
            let why = if twins { format!("{why}; twins go by place") } else { why.to_owned() };
            for (old, new) in lost.into_iter().zip(free) {
                self.pair(old, new, &why);
            }
        }
    }

    /// One disk is lost, and one disk could be taken.
    fn last_one(&mut self) {
        let [old] = self.lost[..] else { return };
        let free: Vec<_> = self
            .free
            .iter()
            .copied()
            .filter(|d| self.may_take(d) && !d.removable && self.fits(old, d))
            .collect();
        if let [new] = free[..] {
            self.pair(old, new, "the only disk left that may be erased");
        }
    }

    fn fits(&self, old: &Disk, new: &Disk) -> bool {
        (self.any_sectors || new.sector_bytes == old.sector_bytes)
            && self.needs.get(&old.id).is_some_and(|need| new.size_bytes >= *need)
    }

    /// May this disk be taken without a name being said: blank, the node's own, or said to be erased.
    fn may_take(&self, disk: &Disk) -> bool {
        (consent::is_blank(self.present, disk) && !consent::was_left_alone(self.recorded, disk))
            || self.content.is_own(disk)
            || self.answers.erase.iter().any(|name| is_called(disk, name))
    }

    fn refuse_rest(&self, kept: &[KeptDisk], problems: &mut Vec<Problem>) {
        for old in &self.lost {
            let need = self.needs.get(&old.id).copied().unwrap_or(0);
            let mut lines = vec![format!(
                "no disk for recorded {} ({}): needs {}",
                old.name,
                consent::name(old),
                size_exact(need)
            )];
            for disk in &self.present.disk {
                lines.push(format!(
                    "  {} ({}): {}",
                    disk.name,
                    consent::name(disk),
                    self.why_not(old, disk, kept)
                ));
            }
            let candidate = self.free.iter().find(|d| self.fits(old, d));
            let mut hint = match candidate {
                Some(new) => format!("choose with --map {}={}", old.name, new.name),
                None => format!("attach a disk of at least {}", size(need)),
            };
            if let Some((other, new)) = self.shared(old).filter(|_| candidate.is_none()) {
                let with = self.shared.iter().filter(|(first, _)| *first == other.id);
                let mut all = vec![other.name.as_str()];
                all.extend(with.map(|(_, disk)| disk.name.as_str()));
                let many = if all.len() > 1 { "all" } else { "both" };
                all.push(&old.name);
                let _ = write!(hint, ", or have {many} on one:");
                for name in all {
                    let _ = write!(hint, " --map {name}={}", new.name);
                }
            }
            if let Some(without) = leave::hint(self.recorded, self.answers, old) {
                let _ = write!(hint, ", or {without}");
            }
            problems.push(Problem::new(lines.join("\n"), hint));
        }
    }

    /// The disk that has room for this recorded disk and for the one that it was taken for.
    fn shared(&self, old: &Disk) -> Option<(&Disk, &Disk)> {
        let mut pairs = self.pairs.values().map(|(other, new, _)| (*other, *new));
        pairs.find(|(other, new)| {
            let least = join::least_bytes(self.scope, other, old);
            least.is_some_and(|least| new.size_bytes >= least)
        })
    }

    fn why_not(&self, old: &Disk, disk: &Disk, kept: &[KeptDisk]) -> String {
        if let Some(kept) = kept.iter().find(|k| k.name == disk.name) {
            return format!("kept, it {}", kept.why);
        }
        if let Some((other, _, _)) = self.pairs.values().find(|(_, new, _)| new.id == disk.id) {
            return format!("taken for {}", other.name);
        }
        let need = self.needs.get(&old.id).copied().unwrap_or(0);
        if disk.read_only {
            "read-only".into()
        } else if disk.size_bytes < need {
            format!("{} too small", size_exact(need - disk.size_bytes))
        } else if !self.may_take(disk) && consent::was_left_alone(self.recorded, disk) {
            "was in the node and not in use: it is no spare".into()
        } else if !self.may_take(disk) {
            format!("holds {}", consent::holds(self.present, disk).join(", "))
        } else {
            "could be taken, as others could".into()
        }
    }
}

/// Refuses matches where the layout does not fit.
pub fn check_sizes(
    scope: &Layout,
    present: &Layout,
    disks: &[DiskMatch],
    problems: &mut Vec<Problem>,
) {
    for DiskMatch { old, new, .. } in disks {
        let need = need(scope, old);
        if new.size_bytes < need {
            let least = fit::least_bytes(scope, old);
            let least_said = if least < need {
                format!(", and {} as small as its files allow", size_exact(least))
            } else {
                String::new()
            };
            problems.push(Problem::new(
                format!(
                    "{} is too small for recorded {}: it has {}, the layout needs {}{least_said}, {} are missing",
                    new.name,
                    old.name,
                    size_exact(new.size_bytes),
                    size_exact(need),
                    size_exact(least - new.size_bytes.min(least))
                ),
                format!("use a disk of at least {}, chosen with --map {}=NEW", size(least), old.name),
            ));
        }
        if disk_of(present, &new.id).is_none_or(|d| d.read_only) {
            problems.push(Problem::new(
                format!("{} is read-only", new.name),
                format!("use another disk, chosen with --map {}=NEW", old.name),
            ));
        }
    }
}

fn size_exact(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", size(bytes))
}

/// More than md(4) needs behind a member's data, for a superblock, a bitmap (128 KiB) and a list of
/// bad blocks, each aligned. Where it took less, the whole disk was enough.
const MD_END_BYTES: u64 = 256 << 10;

/// How many bytes of the disk the layout needs.
pub fn need(layout: &Layout, disk: &Disk) -> u64 {
    let end = layout
        .partition
        .iter()
        .filter(|p| p.disk == disk.id)
        .map(|p| p.start_bytes.saturating_add(p.size_bytes))
        .max()
        .unwrap_or(0);
    let table = match &disk.table {
        Some(Table::Gpt { entries, .. }) => gpt_tail_bytes(*entries, disk.sector_bytes),
        Some(Table::Mbr { .. }) | None => 0,
    };
    let pv = layout.vg.iter().flat_map(|v| &v.pv).filter(|p| p.on == disk.id).map(|p| p.size_bytes);
    let on_one = layout.fs.iter().filter(|f| f.on == disk.id && f.btrfs.is_none());
    let btrfs = layout.fs.iter().filter_map(|f| f.btrfs.as_ref()).flat_map(|b| &b.device);
    let btrfs = btrfs.filter(|d| d.on == disk.id).map(|d| d.size_bytes);
    let logs = layout.fs.iter().filter(|f| f.log_on() == Some(&disk.id));
    let logs = logs.filter_map(|f| f.xfs.as_ref());
    let logs = logs.map(|xfs| xfs.log_blocks.saturating_mul(xfs.block_bytes));
    let fs = on_one.map(|f| f.size_bytes).chain(btrfs).chain(logs);
    let swap = layout.swap.iter().filter(|s| s.on == disk.id).map(|s| s.size_bytes);
    let md = layout.md.iter().filter(|m| m.member.iter().any(|m| m.on == disk.id)).map(|m| {
        // RAID0 and linear use all of a member, and the kernel says no size.
        let Some(bytes) = m.member_size_bytes else { return disk.size_bytes };
        let behind = if matches!(m.metadata.as_str(), "0.90" | "1.0") { MD_END_BYTES } else { 0 };
        let bytes = bytes.saturating_add(m.data_offset_bytes.unwrap_or(0)).saturating_add(behind);
        bytes.min(disk.size_bytes)
    });
    let luks = layout.luks.iter().filter(|l| l.on == disk.id);
    let luks = luks.map(|l| l.data_offset_bytes.saturating_add(l.size_bytes));
    let content = luks.chain(pv).chain(fs).chain(swap).chain(md).max().unwrap_or(0);
    content.max(end.saturating_add(table))
}

/// The space that the second header and its entries take at the end of a disk.
pub fn gpt_tail_bytes(entries: u32, sector_bytes: u32) -> u64 {
    let sector = u64::from(sector_bytes.max(512));
    ((u64::from(entries) * 128).div_ceil(sector) + 1) * sector
}

pub fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    if items.next().is_some() { None } else { first }
}

/// Sorted by place, then name, with numbers in them compared as numbers.
fn by_place<'a>(disks: impl Iterator<Item = &'a Disk>) -> Vec<&'a Disk> {
    let mut disks: Vec<_> = disks.collect();
    disks.sort_by_key(|d| {
        (natural(d.path.as_deref().unwrap_or("")), d.name.len(), natural(&d.name))
    });
    disks
}

/// A key under which `ata-2` comes before `ata-10`.
fn natural(text: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word_end);
        let digits_end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(digits_end);
        parts.push((0, word.to_owned()));
        parts.push((digits.parse().unwrap_or(u64::MAX), digits.to_owned()));
        rest = tail;
    }
    parts
}
