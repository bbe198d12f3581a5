//! The recorded machine without the disks that the admin leaves out, `--map OLD=none`: arrays come back
//! with a member missing, if they work so. What would be lost is a problem, named.

use std::collections::BTreeSet;

use super::{Answers, Problem, is_called, lvmtext};
use crate::layout::{Disk, Id, Layout, Lv, Md, Pv};

/// The word for no disk.
pub const NONE: &str = "none";

/// What comes back without the disks that are left out, and what does not, in words.
pub fn out(
    recorded: &Layout,
    answers: &Answers,
    problems: &mut Vec<Problem>,
) -> (Layout, Vec<String>) {
    let left: Vec<&str> =
        answers.map.iter().filter(|(_, new)| new == NONE).map(|(old, _)| old.as_str()).collect();
    let mut out = BTreeSet::new();
    for name in &left {
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
    let mut layout = recorded.clone();
    if out.is_empty() {
        return (layout, Vec::new());
    }
    let mut notes = Vec::new();
    for md in &mut layout.md {
        let is_out = |id: &Id| {
            let below = recorded.disks_below(id);
            !below.is_empty() && below.is_subset(&out)
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
        } else if !rest.member.is_empty() {
            problems.push(Problem::new(
                format!("{} ({}) does not work without {}", md.name, md.level, left.join(", ")),
                "give each of them a disk: --map OLD=NEW",
            ));
        }
    }
    without_caches(&mut layout, &out, &mut notes);
    let rest = layout.clone();
    let is_lost = |id: &Id| !rest.disks_below(id).is_disjoint(&out);
    let mut lose = |what: String| {
        problems.push(Problem::new(
            format!("{what} is on {}, which --map leaves out", left.join(", ")),
            "give it a disk: --map OLD=NEW",
        ));
    };
    for mount in layout.mount.iter().filter(|m| !m.target && is_lost(&m.fs)) {
        lose(mount.path.to_string());
    }
    for vg in layout.vg.iter().filter(|vg| vg.pv.iter().any(|pv| is_lost(&pv.on))) {
        lose(format!("a part of volume group {}", vg.name));
    }
    for swap in layout.swap.iter().filter(|swap| is_lost(&swap.on)) {
        let dev = recorded.dev(&swap.on).unwrap_or_default();
        notes.push(format!("The swap space on {dev} does not come back: take it out of fstab."));
    }
    layout.disk.retain(|d| !out.contains(&d.id));
    layout.partition.retain(|p| !is_lost(&p.id));
    layout.luks.retain(|l| !is_lost(&l.id));
    layout.swap.retain(|s| !is_lost(&s.on));
    layout.fs.retain(|f| !is_lost(&f.id));
    layout.boot.grub_disk.retain(|disk| !out.contains(disk));
    layout.boot.esp.retain(|fs| !is_lost(fs));
    let here: BTreeSet<_> = layout.partition.iter().filter_map(|p| p.uuid).collect();
    layout.boot.efi_entry.retain(|entry| here.contains(&entry.partition));
    (layout, notes)
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

/// Whether nothing would be lost without `disk` as well.
pub fn can_do_without(recorded: &Layout, answers: &Answers, disk: &Disk) -> bool {
    let mut answers = answers.clone();
    answers.map.push((disk.name.clone(), NONE.to_owned()));
    let mut problems = Vec::new();
    out(recorded, &answers, &mut problems);
    problems.is_empty()
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
