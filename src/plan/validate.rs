//! The checks that a finished plan must pass before anybody sees it.

use std::collections::BTreeSet;

use super::map::gpt_tail_bytes;
use super::step::{Step, WriteTable};
use super::{Plan, Problem, hybrid};
use crate::layout::units::size;
use crate::layout::{Id, Layout, Partition, PartitionKind, Table};

/// Everything that is wrong with a plan; nothing, if it is right.
pub fn validate(plan: &Plan, present: &Layout) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_disks(plan, present, &mut problems);
    for step in &plan.steps {
        if let Step::WriteTable(step) = step {
            check_table(step, &mut problems);
        }
    }
    check_sizes(&plan.layout, &mut problems);
    check_total(plan, &mut problems);
    problems
}

/// Only disks that are listed, here, and not kept are erased, each once.
fn check_disks(plan: &Plan, present: &Layout, problems: &mut Vec<Problem>) {
    let listed: Vec<&str> = plan.disks.iter().map(|m| m.new.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut fail = |what: String| {
        problems.push(Problem::new(what, "this is a fault of rr: please report it"));
    };
    for name in &listed {
        if !seen.insert(*name) {
            fail(format!("{name} would be used twice"));
        }
        if !present.disk.iter().any(|d| d.name == *name) {
            fail(format!("{name} is not here"));
        }
        if let Some(kept) = plan.kept.iter().find(|k| k.name == *name) {
            fail(format!("{name} would be erased, but {}", kept.why));
        }
    }
    for step in &plan.steps {
        let erased = match step {
            Step::Wipe(wipe) => vec![wipe.disk.name.as_str()],
            Step::Release(release) => release.disks.iter().map(String::as_str).collect(),
            _ => continue,
        };
        for name in erased.into_iter().filter(|name| !listed.contains(name)) {
            fail(format!("{name} would be touched without being listed"));
        }
    }
    for disk in &plan.layout.disk {
        if !listed.contains(&disk.name.as_str()) {
            fail(format!("recorded {} has no place", disk.id));
        }
    }
}

fn check_table(step: &WriteTable, problems: &mut Vec<Problem>) {
    let name = &step.name;
    let sector = u64::from(step.sector_bytes);
    if sector < 512 || !sector.is_power_of_two() {
        problems.push(Problem::damaged(format!("{name} has sectors of {sector} bytes")));
        return;
    }
    let (first, end) = match &step.table {
        Table::Gpt { entries, .. } => {
            let tail = gpt_tail_bytes(*entries, step.sector_bytes);
            (tail.saturating_add(sector), step.size_bytes.saturating_sub(tail))
        }
        Table::Mbr { .. } => (sector, step.size_bytes),
    };
    let mut numbers = BTreeSet::new();
    for part in &step.partitions {
        let part_end = part.start_bytes.saturating_add(part.size_bytes);
        let mut wrong = |why: String| {
            problems.push(Problem::damaged(format!("partition {}: {why}", part.name)));
        };
        if part.size_bytes == 0 || part.start_bytes % sector != 0 || part.size_bytes % sector != 0 {
            wrong(format!("does not lie on whole sectors of {sector} bytes"));
        }
        if part.start_bytes < first || part_end > end {
            wrong(format!(
                "bytes {}..{part_end} do not lie between {first} and {end}",
                part.start_bytes
            ));
        }
        if !numbers.insert(part.number) {
            wrong(format!("the number {} is used twice", part.number));
        }
        if let Err(why) = check_entry(step, part) {
            wrong(why);
        }
    }
    if let Err(why) = hybrid::entries(step) {
        problems.push(Problem::new(format!("{name}: {why}"), hybrid::HINT));
    }
    check_overlaps(step, problems);
}

/// What one entry of the table can hold.
fn check_entry(step: &WriteTable, part: &Partition) -> Result<(), String> {
    let number = part.number;
    match &step.table {
        Table::Gpt { entries, .. } => {
            if part.kind != PartitionKind::Gpt || number == 0 || number > *entries {
                return Err(format!("slot {number} of {entries} can't be"));
            }
            if uuid::Uuid::parse_str(&part.type_code).is_err() {
                return Err(format!("{:?} is not a GPT type", part.type_code));
            }
            if part.label.encode_utf16().count() > 36 {
                return Err(format!("the name {:?} is longer than 36 characters", part.label));
            }
        }
        Table::Mbr { .. } => {
            let last = (part.start_bytes + part.size_bytes) / u64::from(step.sector_bytes);
            if last > u64::from(u32::MAX) + 1 {
                return Err("lies beyond what an MBR can address".into());
            }
            if mbr_type(&part.type_code).is_none() {
                return Err(format!("{:?} is not an MBR type", part.type_code));
            }
            match part.kind {
                PartitionKind::Primary | PartitionKind::Extended if !(1..=4).contains(&number) => {
                    return Err(format!("a primary partition can't have the number {number}"));
                }
                PartitionKind::Logical if number < 5 || part.ebr_bytes.is_none() => {
                    return Err("a logical partition has a number from 5 and an EBR".into());
                }
                PartitionKind::Gpt => return Err("is a GPT partition in an MBR".into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The byte in `0x83`.
pub fn mbr_type(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// No two partitions share a byte; logical ones, and their EBRs, lie in the extended one.
fn check_overlaps(step: &WriteTable, problems: &mut Vec<Problem>) {
    let mut spans: Vec<(u64, u64, &str)> = Vec::new();
    let extended = step.partitions.iter().find(|p| p.kind == PartitionKind::Extended);
    for part in &step.partitions {
        let end = part.start_bytes.saturating_add(part.size_bytes);
        match part.kind {
            PartitionKind::Logical => {
                spans.push((part.start_bytes, end, &part.name));
                let ebr = part.ebr_bytes.unwrap_or(0);
                spans.push((ebr, ebr.saturating_add(u64::from(step.sector_bytes)), "its EBR"));
                let inside = extended.is_some_and(|e| {
                    ebr >= e.start_bytes
                        && part.start_bytes > ebr
                        && end <= e.start_bytes.saturating_add(e.size_bytes)
                });
                if !inside {
                    problems.push(Problem::damaged(format!(
                        "logical partition {} is not inside the extended one",
                        part.name
                    )));
                }
            }
            PartitionKind::Extended => {}
            PartitionKind::Gpt | PartitionKind::Primary => {
                spans.push((part.start_bytes, end, &part.name));
            }
        }
    }
    if let Some(e) = extended {
        let e_end = e.start_bytes.saturating_add(e.size_bytes);
        for p in step.partitions.iter().filter(|p| p.kind == PartitionKind::Primary) {
            let end = p.start_bytes.saturating_add(p.size_bytes);
            if p.start_bytes < e_end && e.start_bytes < end {
                problems.push(Problem::damaged(format!("{} and {} overlap", p.name, e.name)));
            }
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if let [(_, end, a), (start, _, b)] = pair
            && start < end
        {
            problems.push(Problem::damaged(format!("{a} and {b} overlap on {}", step.name)));
        }
    }
}

/// Content is not larger than the device it is on.
fn check_sizes(layout: &Layout, problems: &mut Vec<Problem>) {
    let on_one = layout.fs.iter().filter(|f| f.btrfs.is_none());
    let fs = on_one.map(|f| (&f.on, f.size_bytes, f.kind.as_str()));
    let btrfs = layout.fs.iter().filter_map(|f| f.btrfs.as_ref()).flat_map(|b| &b.device);
    let fs = fs.chain(btrfs.map(|d| (&d.on, d.size_bytes, "btrfs")));
    let swap = layout.swap.iter().map(|s| (&s.on, s.size_bytes, "swap"));
    let pv = layout.vg.iter().flat_map(|v| &v.pv).map(|p| (&p.on, p.size_bytes, "LVM"));
    let luks = layout.luks.iter();
    let luks = luks.map(|l| (&l.on, l.data_offset_bytes.saturating_add(l.size_bytes), "LUKS"));
    for (on, content_bytes, kind) in fs.chain(swap).chain(pv).chain(luks) {
        if let Some(device_bytes) = device_bytes(layout, on)
            && content_bytes > device_bytes
        {
            let dev = layout.dev(on).unwrap_or_default();
            problems.push(Problem::damaged(format!(
                    "{kind} of {content_bytes} bytes does not fit on {dev} of {device_bytes} bytes ({})",
                    size(device_bytes)
                )));
        }
    }
    // As large as the data of each is to be, mdadm refuses one that is smaller, spares as well.
    for md in &layout.md {
        let Some(bytes) = md.member_size_bytes else { continue };
        let bytes = bytes.saturating_add(md.data_offset_bytes.unwrap_or(0));
        for member in &md.member {
            if let Some(device_bytes) = device_bytes(layout, &member.on)
                && bytes > device_bytes
            {
                let dev = layout.dev(&member.on).unwrap_or_default();
                problems.push(Problem::damaged(format!(
                    "a member of {} takes {bytes} bytes, {dev} has {device_bytes} ({})",
                    md.name,
                    size(device_bytes)
                )));
            }
        }
    }
    for vg in &layout.vg {
        let there: u64 = vg.pv.iter().map(|pv| pv.extents).fold(0, u64::saturating_add);
        // A thin volume takes no more than its pool does.
        let real = layout.lv.iter().filter(|l| l.vg == vg.id && l.kind != "thin");
        let used = real.flat_map(|l| &l.segment);
        let used = used.map(|s| s.extents).fold(0, u64::saturating_add);
        if used > there {
            problems.push(Problem::damaged(format!(
                "the volumes of {} need {used} extents, it has {there}",
                vg.name
            )));
        }
    }
}

pub fn device_bytes(layout: &Layout, id: &Id) -> Option<u64> {
    let disk = layout.disk.iter().find(|d| d.id == *id).map(|d| d.size_bytes);
    let partition = layout.partition.iter().find(|p| p.id == *id).map(|p| p.size_bytes);
    let md = layout.md.iter().find(|m| m.id == *id).map(|m| m.size_bytes);
    let lv = layout.lv.iter().find(|l| l.id == *id).map(|l| l.size_bytes);
    let luks = layout.luks.iter().find(|l| l.id == *id).map(|l| l.size_bytes);
    disk.or(partition).or(md).or(lv).or(luks)
}

/// Everything of the layout has its step, and every device its name.
fn check_total(plan: &Plan, problems: &mut Vec<Problem>) {
    let count = |wanted: fn(&Step) -> bool| plan.steps.iter().filter(|s| wanted(s)).count();
    let layout = &plan.layout;
    let tables = layout.disk.iter().filter(|d| d.table.is_some()).count()
        + layout.md.iter().filter(|m| m.table.is_some()).count();
    let counts = [
        ("tables", tables, count(|s| matches!(s, Step::WriteTable(_)))),
        ("arrays", layout.md.len(), count(|s| matches!(s, Step::CreateMd(_)))),
        ("LUKS volumes", layout.luks.len(), count(|s| matches!(s, Step::MakeLuks(_)))),
        ("volume groups", layout.vg.len(), count(|s| matches!(s, Step::CreateVg(_)))),
        ("filesystems", layout.fs.len(), count(|s| matches!(s, Step::MakeFs(_)))),
        ("swaps", layout.swap.len(), count(|s| matches!(s, Step::MakeSwap(_)))),
    ];
    for (what, wanted, found) in counts {
        if wanted != found {
            problems.push(Problem::damaged(format!("{found} of {wanted} {what} have a step")));
        }
    }
    for part in &layout.partition {
        let table = layout.disk.iter().any(|d| d.id == part.disk && d.table.is_some())
            || layout.md.iter().any(|m| m.id == part.disk && m.table.is_some());
        if !table {
            problems.push(Problem::damaged(format!(
                "partition {} is on {}, which has no table",
                part.name, part.disk
            )));
        }
    }
    for mount in &layout.mount {
        if !layout.fs.iter().any(|f| f.id == mount.fs) {
            problems.push(Problem::damaged(format!(
                "{} is a mount of {}, which is not recorded",
                mount.path, mount.fs
            )));
        }
    }
}
