//! The recorded machine without the disks that the admin leaves out, `--map OLD=none`: arrays come back
//! with a member missing, if they work so, and data filesystems that were on them do not come back.
//! What a system does not start without is a problem, named.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;

use super::{Answers, Problem, is_called, lvmtext};
use crate::layout::{BytesPath, Disk, Id, Layout, Lv, Md, Mount, Pv};

/// The word for no disk.
pub const NONE: &str = "none";

/// Without these a system does not start.
const STARTS_WITH: &[&str] = &["/", "/boot", "/boot/efi", "/efi", "/usr", "/var"];

/// What is left.
#[derive(Debug)]
pub struct Left {
    pub layout: Layout,
    /// What comes back otherwise than it was, and what does not.
    pub notes: Vec<String>,
    /// Where filesystems were mounted that do not come back.
    pub lost: Vec<BytesPath>,
}

/// Whether a system starts without what is mounted here.
pub fn can_be_missed(mount: &Mount) -> bool {
    mount.target || STARTS_WITH.iter().all(|path| mount.path.as_path() != Path::new(path))
}

/// What comes back without the disks that are left out, and what does not, in words.
pub fn take_out(recorded: &Layout, answers: &Answers, problems: &mut Vec<Problem>) -> Left {
    let names: Vec<&str> =
        answers.map.iter().filter(|(_, new)| new == NONE).map(|(old, _)| old.as_str()).collect();
    let out = called(recorded, &names, problems);
    let mut layout = recorded.clone();
    let mut notes = Vec::new();
    if out.is_empty() {
        return Left { layout, notes, lost: Vec::new() };
    }
    let names = names.join(", ");
    without_members(recorded, &mut layout, &out, &names, &mut notes, problems);
    without_caches(&mut layout, &out, &mut notes);
    let rest = layout.clone();
    let is_lost = |id: &Id| !rest.disks_below(id).is_disjoint(&out);
    let lost = lost_mounts(recorded, &layout, is_lost, &names, problems);
    for path in &lost {
        notes.push(format!(
            "{path} does NOT come back, nor do its files: it was on {names}, which --map leaves out. \
             Where that is not here, /etc/fstab gets nofail for it."
        ));
    }
    for swap in layout.swap.iter().filter(|swap| is_lost(&swap.id)) {
        let dev = recorded.dev(&swap.on).unwrap_or_default();
        notes.push(format!("The swap space on {dev} does not come back: take it out of fstab."));
    }
    layout.retain(|id| !is_lost(id));
    layout.boot.grub_disk.retain(|disk| !out.contains(disk));
    layout.boot.esp.retain(|fs| !is_lost(fs));
    let here: BTreeSet<_> = layout.partition.iter().filter_map(|p| p.uuid).collect();
    layout.boot.efi_entry.retain(|entry| here.contains(&entry.partition));
    spare_idle(recorded, &mut layout, &mut notes);
    Left { layout, notes, lost }
}

/// The recorded disks of these names.
fn called(recorded: &Layout, names: &[&str], problems: &mut Vec<Problem>) -> BTreeSet<Id> {
    let mut out = BTreeSet::new();
    for name in names {
        let called: Vec<&Disk> =
            recorded.disk.iter().filter(|disk| is_called(disk, name)).collect();
        match called[..] {
            [disk] => {
                out.insert(disk.id.clone());
            }
            _ => problems.push(Problem::new(
                format!("--map {name}={NONE}: {name} is not one recorded disk"),
                "rr layout show --gen latest shows them",
            )),
        }
    }
    out
}

/// Whether something stands on it that a system does not start without.
fn is_needed(recorded: &Layout, id: &Id) -> bool {
    let mut needed = recorded.mount.iter().filter(|mount| !can_be_missed(mount));
    needed.any(|mount| recorded.stands_on(&mount.fs, id))
}

/// Arrays do without the members that are on the disks `out`, if they work so.
fn without_members(
    recorded: &Layout,
    layout: &mut Layout,
    out: &BTreeSet<Id>,
    names: &str,
    notes: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    for md in &mut layout.md {
        let is_out = |id: &Id| {
            let below = recorded.disks_below(id);
            !below.is_empty() && below.is_subset(out)
        };
        let mut rest = md.clone();
        rest.member.retain(|member| !is_out(&member.on));
        if rest.member.len() == md.member.len() {
            continue;
        }
        if works(&rest) {
            notes.push(format!(
                "{} comes back with {} of {} members: mdadm --add gives it the others.",
                rest.name,
                active(&rest),
                rest.raid_devices
            ));
            *md = rest;
        } else if !rest.member.is_empty() && is_needed(recorded, &md.id) {
            problems.push(Problem::new(
                format!("{} ({}) does not work without {names}", md.name, md.level),
                "give each of them a disk: --map OLD=NEW",
            ));
        }
    }
}

/// Where filesystems were mounted that do not come back; a problem where a system does not start
/// without one.
fn lost_mounts(
    recorded: &Layout,
    layout: &Layout,
    is_lost: impl Fn(&Id) -> bool,
    names: &str,
    problems: &mut Vec<Problem>,
) -> Vec<BytesPath> {
    let mut lost = Vec::new();
    let mut lose = |what: String| {
        problems.push(Problem::new(
            format!("{what} is on {names}, which --map leaves out"),
            "give it a disk: --map OLD=NEW",
        ));
    };
    for mount in layout.mount.iter().filter(|m| !m.target && is_lost(&m.fs)) {
        if can_be_missed(mount) {
            lost.push(mount.path.clone());
        } else {
            lose(mount.path.to_string());
        }
    }
    for vg in layout.vg.iter().filter(|vg| is_needed(recorded, &vg.id) && is_lost(&vg.id)) {
        lose(format!("a part of volume group {}", vg.name));
    }
    lost
}

/// What is left of a group, an array or a filesystem that has lost a disk may be of use to somebody:
/// its other disks are not erased for the sake of empty partitions.
fn spare_idle(recorded: &Layout, layout: &mut Layout, notes: &mut Vec<String>) {
    let has_any = |layout: &Layout, disk: &Id| {
        let mounted = layout.mount.iter().filter(|m| !m.target).map(|m| &m.fs);
        let joined = layout.md.iter().map(|m| &m.id).chain(layout.vg.iter().map(|v| &v.id));
        let booted = layout.boot.esp.iter().chain(&layout.boot.grub_disk);
        let swaps = layout.swap.iter().map(|s| &s.on);
        mounted
            .chain(joined)
            .chain(booted)
            .chain(swaps)
            .any(|id| layout.disks_below(id).contains(disk))
    };
    let idle: Vec<Id> = layout
        .disk
        .iter()
        .filter(|d| !d.unused && has_any(recorded, &d.id) && !has_any(layout, &d.id))
        .map(|d| d.id.clone())
        .collect();
    for disk in layout.disk.iter_mut().filter(|d| idle.contains(&d.id)) {
        disk.unused = true;
        notes.push(format!("{} is left alone: nothing that was on it comes back.", disk.name));
    }
    let had = |on: &Id, layout: &Layout| {
        let pv = layout.vg.iter().flat_map(|v| &v.pv).any(|pv| pv.on == *on);
        let member = layout.md.iter().flat_map(|m| &m.member).any(|m| m.on == *on);
        pv || member || layout.fs.iter().any(|f| f.devices().contains(on))
    };
    for part in layout.partition.iter().filter(|p| !idle.contains(&p.disk)) {
        if had(&part.id, recorded) && !had(&part.id, layout) {
            notes
                .push(format!("{} was a part of that: it is erased, and stays empty.", part.dev()));
        }
    }
}

/// Groups do without physical volumes on which there are at most caches.
fn without_caches(layout: &mut Layout, out: &BTreeSet<Id>, notes: &mut Vec<String>) {
    let rest = layout.clone();
    for vg in &mut layout.vg {
        let is_lost = |pv: &Pv| !rest.disks_below(&pv.on).is_disjoint(out);
        let lost: Vec<Pv> = vg.pv.iter().filter(|pv| is_lost(pv)).cloned().collect();
        let stays = |lv: &Lv| {
            lvmtext::data_on(&vg.metadata, &vg.name, &lv.name)
                .is_some_and(|on| lost.iter().all(|pv| !on.contains(&pv.uuid)))
        };
        let mut lvs =
            rest.lv.iter().filter(|lv| lv.vg == vg.id && lv.kind != "snapshot").peekable();
        if lost.is_empty() || lvs.peek().is_none() || !lvs.all(stays) {
            continue;
        }
        vg.pv.retain(|pv| !lost.contains(pv));
        // It speaks of all of them.
        vg.metadata.clear();
        let names: Vec<_> = lost.iter().filter_map(|pv| rest.dev(&pv.on)).collect();
        notes.push(format!(
            "Volume group {} is made anew without {}, where no volume had its data.",
            vg.name,
            names.join(", ")
        ));
    }
}

/// Where filesystems were mounted that would be lost without `disk` as well. None where a system would
/// not start then.
pub fn lost_without(recorded: &Layout, answers: &Answers, disk: &Disk) -> Option<Vec<BytesPath>> {
    let mut problems = Vec::new();
    let before = take_out(recorded, answers, &mut problems).lost;
    let mut answers = answers.clone();
    answers.map.push((disk.name.clone(), NONE.to_owned()));
    problems.clear();
    let mut lost = take_out(recorded, &answers, &mut problems).lost;
    lost.retain(|path| !before.contains(path));
    problems.is_empty().then_some(lost)
}

/// How to do without `disk`, where a system starts without it.
pub fn hint(recorded: &Layout, answers: &Answers, disk: &Disk) -> Option<String> {
    let lost = lost_without(recorded, answers, disk)?;
    let lost: Vec<_> = lost.iter().map(ToString::to_string).collect();
    let and = if lost.is_empty() { String::new() } else { format!(" and {}", lost.join(", ")) };
    Some(format!("do without it{and}: --map {}={NONE}", disk.name))
}

/// How many members it will have; a spare stands in for one that is missing.
fn active(md: &Md) -> u32 {
    u32::try_from(md.member.len()).unwrap_or(u32::MAX).min(md.raid_devices)
}

/// Does the array have all its data? Of RAID 10 that is sure as long as one member is missing.
fn works(md: &Md) -> bool {
    let missing = md.raid_devices - active(md);
    let most = match md.level.as_str() {
        "raid1" => md.raid_devices.saturating_sub(1),
        "raid4" | "raid5" | "raid10" => 1,
        "raid6" => 2,
        _ => 0,
    };
    missing <= most
}
