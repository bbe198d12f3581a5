//! Which disks may be erased: blank ones, the node's own, and those that the admin named.

use std::collections::{BTreeMap, BTreeSet};

use super::map::DiskMatch;
use super::{Answers, Problem, is_called};
use crate::layout::units::size;
use crate::layout::{Disk, Fs, Id, Layout, Table};

/// Refuses matches that would erase what nobody agreed to.
pub fn check(
    recorded: &Layout,
    present: &Layout,
    answers: &Answers,
    disks: &[DiskMatch],
    problems: &mut Vec<Problem>,
) {
    let content = Content::of(recorded, present);
    for DiskMatch { old, new, holds, .. } in disks {
        let named = answers.erase.iter().any(|name| is_called(new, name));
        let own = is_recorded(recorded, present, new);
        let looks_own = content.is_own(new);
        let doubt = answers.doubt(new);
        let own = own || (looks_own && doubt.is_none());
        let mapped = answers.map.iter().any(|(_, name)| is_called(new, name));
        let alone = was_left_alone(recorded, new) && !mapped;
        if named || own || (is_blank(present, new) && !alone) {
            continue;
        }
        let serial = serial(new).unwrap_or(&new.name);
        let switch = if answers.auto {
            format!("rr.erase={serial} on the kernel command line, or --erase {serial}")
        } else {
            format!("--erase {serial}")
        };
        let mut hint = format!("if it may be erased, say so: {switch}");
        let but = match doubt {
            Some(why) if looks_own => {
                hint += ". After a new mainboard that is right. A clone of the node looks the same: of \
                         its disks, none may be erased";
                format!(
                    "holds data that only looks like this node's, for {why}: {}",
                    holds.join(", ")
                )
            }
            _ if holds.is_empty() => {
                "was in the node when it was backed up, not in use by anything that rr knows"
                    .to_owned()
            }
            _ => format!("holds data that is not this node's: {}", holds.join(", ")),
        };
        problems.push(Problem::new(
            format!("{} ({}) would take the place of {}, but {but}", new.name, name(new), old.name),
            hint,
        ));
    }
    check_spans(present, disks, problems);
    check_collisions(recorded, present, disks, problems);
    check_copies(present, &content, answers, disks, problems);
}

/// The names that were said of disks to erase, and that no disk here has. That is no reason to stop: the
/// command line of a whole rack may name each node's.
pub fn absent(present: &Layout, answers: &Answers) -> Vec<String> {
    let absent =
        answers.erase.iter().filter(|name| present.disk.iter().all(|d| !is_called(d, name)));
    absent.map(|name| format!("--erase {name}: no disk here has this name or number.")).collect()
}

/// A disk that was in the node and that nothing was recorded of: blank to libblkid, and perhaps full
/// of what it does not know, a raw volume of a database or plain dm-crypt. It is no spare.
pub fn was_left_alone(recorded: &Layout, disk: &Disk) -> bool {
    let same = |other: &Disk| match (wwn(disk), serial(disk)) {
        (None, None) => {
            wwn(other).or(serial(other)).is_none()
                && disk.path.is_some()
                && (&other.path, &other.model, other.size_bytes)
                    == (&disk.path, &disk.model, disk.size_bytes)
        }
        (wwn_here, serial_here) => {
            (wwn_here.is_some() && wwn_here == wwn(other))
                || (serial_here.is_some() && serial_here == serial(other))
        }
    };
    recorded.disk.iter().any(|other| other.unused && same(other))
        && !recorded.disk.iter().any(|other| !other.unused && same(other))
}

/// One of the node's disks, by a WWN or serial number that no other disk has, then or now; perhaps
/// mapped to the place of another.
fn is_recorded(recorded: &Layout, present: &Layout, new: &Disk) -> bool {
    let keys: [fn(&Disk) -> Option<&str>; 2] = [wwn, serial];
    keys.into_iter().any(|key| {
        let Some(wanted) = key(new) else { return false };
        let carriers = |layout: &Layout| -> usize {
            layout.disk.iter().filter(|d| key(d) == Some(wanted)).count()
        };
        let used = recorded.disk.iter().any(|d| !d.unused && key(d) == Some(wanted));
        used && carriers(recorded) == 1 && carriers(present) == 1
    })
}

/// The WWN, where it is one.
pub fn wwn(disk: &Disk) -> Option<&str> {
    meaningful(disk.wwn.as_deref())
}

/// The serial number, where it is one.
pub fn serial(disk: &Disk) -> Option<&str> {
    meaningful(disk.serial.as_deref())
}

/// Drivers and cheap controllers make up for a number that they do not have.
fn meaningful(text: Option<&str>) -> Option<&str> {
    const FILLERS: &[&str] = &["(null)", "none", "null", "n/a", "unknown", "default string"];
    let text = text.map(str::trim).filter(|t| t.chars().count() > 2)?;
    let mut chars = text.chars().filter(|c| c.is_alphanumeric());
    let first = chars.next()?;
    let one_letter = chars.all(|c| c == first);
    let filler = FILLERS.contains(&text.to_ascii_lowercase().as_str()) || is_qemus(text);
    (!one_letter && !filler).then_some(text)
}

/// QEMU's own number for a disk that was given none, which the disk in this place has in every virtual
/// machine: `drive-scsi0-0-0-0` as Proxmox and libvirt name it, `QM00001` on IDE and SATA.
fn is_qemus(serial: &str) -> bool {
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    serial.starts_with("drive-") || serial.strip_prefix("QM").is_some_and(digits)
}

pub fn is_blank(present: &Layout, disk: &Disk) -> bool {
    holds(present, disk).is_empty()
}

/// What people call a disk.
pub fn name(disk: &Disk) -> String {
    let model = disk.model.as_deref().unwrap_or("unknown model");
    let serial = serial(disk).unwrap_or("none");
    format!("{model}, serial {serial}, {}", size(disk.size_bytes))
}

/// What is on a disk, in words.
pub fn holds(present: &Layout, disk: &Disk) -> Vec<String> {
    let mut words = Vec::new();
    let table = match &disk.table {
        Some(Table::Gpt { .. }) => Some("GPT"),
        Some(Table::Mbr { .. }) => Some("MBR"),
        None => None,
    };
    let partitions: Vec<_> = present.partition.iter().filter(|p| p.disk == disk.id).collect();
    if let Some(table) = table {
        words.push(format!("{table} with {} partitions", partitions.len()));
    }
    for signature in &disk.signatures {
        if !matches!(signature.as_str(), "gpt" | "dos" | "PMBR") {
            words.push(signature.clone());
        }
    }
    if table.is_none() && words.is_empty() && !disk.signatures.is_empty() {
        words.push(disk.signatures.join(", "));
    }
    let on_it = |id: &Id| present.disks_below(id).contains(&disk.id);
    for vg in present.vg.iter().filter(|v| on_it(&v.id)) {
        words.push(format!("volume group {}", vg.name));
    }
    for md in present.md.iter().filter(|m| on_it(&m.id)) {
        words.push(format!("array {}", md.array_name.as_deref().unwrap_or(&md.name)));
    }
    let luks = present.luks.iter().filter(|l| on_it(&l.id) && l.on != disk.id);
    words.extend(luks.map(|l| format!("LUKS {}", l.label).trim_end().to_owned()));
    for fs in present.fs.iter().filter(|f| on_it(&f.id)) {
        let label = if fs.label.is_empty() { String::new() } else { format!(" {:?}", fs.label) };
        words.push(format!("{}{label}", fs.kind));
    }
    if present.swap.iter().any(|s| on_it(&s.on)) {
        words.push("swap".into());
    }
    words.dedup();
    words
}

/// The identifiers that data carries: which disks here hold something that the node recorded.
#[derive(Debug)]
pub struct Content {
    /// Disk here -> the identifiers on it that were recorded.
    own: BTreeMap<Id, BTreeSet<String>>,
    /// Recorded disk -> the identifiers that are its alone.
    recorded: BTreeMap<Id, BTreeSet<String>>,
}

impl Content {
    pub fn of(recorded: &Layout, present: &Layout) -> Content {
        let recorded_marks: BTreeMap<_, _> = recorded
            .disk
            .iter()
            .filter(|d| !d.unused)
            .map(|d| (d.id.clone(), marks(recorded, d)))
            .collect();
        let all: BTreeSet<&String> = recorded_marks.values().flatten().collect();
        let mut own: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
        for disk in &present.disk {
            let mut found = marks(present, disk);
            found.retain(|m| all.contains(m));
            own.insert(disk.id.clone(), found);
        }
        Content { own, recorded: recorded_marks }
    }

    pub fn is_own(&self, disk: &Disk) -> bool {
        self.own.get(&disk.id).is_some_and(|marks| {
            // A mark that several disks carry is a copy's, unless it is one of an array or group.
            marks.iter().any(|mark| is_shared(mark) || self.carriers(mark).len() == 1)
        })
    }

    /// The only disk here that carries what only `old` carried.
    pub fn only_carrier(&self, old: &Disk) -> Option<Id> {
        let marks = self.recorded.get(&old.id)?;
        let mut carriers: Vec<&Id> =
            marks.iter().filter(|m| !is_shared(m)).flat_map(|mark| self.carriers(mark)).collect();
        carriers.sort();
        carriers.dedup();
        match carriers[..] {
            [one] => Some(one.clone()),
            _ => None,
        }
    }

    fn carriers(&self, mark: &str) -> Vec<&Id> {
        self.own.iter().filter(|(_, marks)| marks.contains(mark)).map(|(id, _)| id).collect()
    }
}

/// Marks of arrays are on all of their members, and of filesystems on all of their devices.
fn is_shared(mark: &str) -> bool {
    mark.starts_with("md ") || mark.starts_with("multi ")
}

/// The identifiers on a disk that are as good as unique in the world.
fn marks(layout: &Layout, disk: &Disk) -> BTreeSet<String> {
    let mut marks = BTreeSet::new();
    match &disk.table {
        Some(Table::Gpt { guid, .. }) => drop(marks.insert(format!("gpt {guid}"))),
        Some(Table::Mbr { signature }) if *signature != 0 => {
            // 32 bits alone are few: with where the partitions are, they are enough.
            let mut starts: Vec<_> = layout
                .partition
                .iter()
                .filter(|p| p.disk == disk.id)
                .map(|p| format!("{}:{}+{}", p.number, p.start_bytes, p.size_bytes))
                .collect();
            starts.sort();
            marks.insert(format!("mbr {signature:08x} {}", starts.join(" ")));
        }
        Some(Table::Mbr { .. }) | None => {}
    }
    let on_it = |id: &Id| layout.disks_below(id).contains(&disk.id);
    for pv in layout.vg.iter().flat_map(|v| &v.pv).filter(|pv| on_it(&pv.on)) {
        // On an array, the volume is on all the members.
        if layout.disks_below(&pv.on).len() == 1 {
            marks.insert(format!("pv {}", pv.uuid));
        }
    }
    for luks in layout.luks.iter().filter(|l| on_it(&l.on)) {
        if layout.disks_below(&luks.on).len() == 1 {
            marks.insert(format!("luks {}", luks.uuid));
        }
    }
    for md in layout.md.iter().filter(|m| on_it(&m.id)) {
        marks.insert(format!("md {}", md.uuid));
    }
    // An MBR that was fitted to a smaller disk has other partitions, with the same filesystems.
    let has_mbr = matches!(disk.table, Some(Table::Mbr { .. }));
    let parts = layout.partition.iter().filter(|p| has_mbr && p.disk == disk.id).map(|p| &p.id);
    let places: BTreeSet<&Id> = parts.chain([&disk.id]).collect();
    let on_it = |fs: &&Fs| fs.devices().iter().any(|id| places.contains(id));
    for fs in layout.fs.iter().filter(on_it) {
        let kind = if fs.devices().len() > 1 { "multi" } else { "fs" };
        if fs.uuid.len() > 16 {
            marks.insert(format!("{kind} {}", fs.uuid));
        } else if !fs.uuid.is_empty() && fs.on == disk.id {
            // The few bits of FAT: of a whole disk of that size, they are enough.
            marks.insert(format!("{kind} {} of {}", fs.uuid, disk.size_bytes));
        }
    }
    let swap = layout.swap.iter().filter(|swap| places.contains(&swap.on));
    marks.extend(swap.filter(|swap| !swap.uuid.is_empty()).map(|s| format!("swap {}", s.uuid)));
    marks
}

/// An array or volume group that lies on an erased disk and on another one as well would be torn.
fn check_spans(present: &Layout, disks: &[DiskMatch], problems: &mut Vec<Problem>) {
    let erased: BTreeSet<Id> = disks.iter().map(|m| m.new.id.clone()).collect();
    let vgs = present.vg.iter().map(|v| (&v.id, format!("volume group {}", v.name)));
    let mds = present.md.iter().map(|m| (&m.id, format!("array {}", m.name)));
    let several = present.fs.iter().filter(|f| f.devices().len() > 1);
    let fs = several.map(|f| (&f.id, format!("{} {:?} {}", f.kind, f.label, f.uuid)));
    for (id, what) in vgs.chain(mds).chain(fs) {
        let below = present.disks_below(id);
        let others: Vec<_> = below.difference(&erased).map(|id| disk_name(present, id)).collect();
        if below.is_disjoint(&erased) || others.is_empty() {
            continue;
        }
        problems.push(Problem::new(
            format!(
                "{what} lies on a disk to be erased and also on {}, which is not to be erased",
                others.join(", ")
            ),
            format!("unplug {} or wipe it by hand (wipefs -a)", others.join(", ")),
        ));
    }
}

/// A volume group on a disk that stays must not have the name of one that comes back.
fn check_collisions(
    recorded: &Layout,
    present: &Layout,
    disks: &[DiskMatch],
    problems: &mut Vec<Problem>,
) {
    let erased: BTreeSet<Id> = disks.iter().map(|m| m.new.id.clone()).collect();
    for vg in &present.vg {
        let below = present.disks_below(&vg.id);
        let comes_back = recorded
            .vg
            .iter()
            .filter(|r| r.name == vg.name || r.uuid == vg.uuid)
            .any(|r| disks.iter().any(|m| recorded.disks_below(&r.id).contains(&m.old.id)));
        if comes_back && below.is_disjoint(&erased) {
            let on: Vec<_> = below.iter().map(|id| disk_name(present, id)).collect();
            problems.push(Problem::new(
                format!(
                    "{} stays and holds a volume group {}, which is to be created elsewhere",
                    on.join(", "),
                    vg.name
                ),
                format!("unplug {} or rename the group (vgrename)", on.join(", ")),
            ));
        }
    }
}

/// A disk that stays must not carry what comes back on another one: the old disk that is still in its
/// bay, a copy of it. Whatever starts next would mix them up.
fn check_copies(
    present: &Layout,
    content: &Content,
    answers: &Answers,
    disks: &[DiskMatch],
    problems: &mut Vec<Problem>,
) {
    let erased: BTreeSet<&Id> = disks.iter().map(|m| &m.new.id).collect();
    let made = disks.iter().filter_map(|m| content.recorded.get(&m.old.id));
    let made: BTreeSet<&String> = made.flatten().collect();
    let stays =
        |d: &&Disk| !erased.contains(&d.id) && !answers.keep.iter().any(|kept| kept.name == d.name);
    for disk in present.disk.iter().filter(stays) {
        let own = content.own.get(&disk.id).into_iter().flatten();
        let marks: Vec<&str> = own.filter(|mark| made.contains(mark)).map(String::as_str).collect();
        if marks.is_empty() {
            continue;
        }
        problems.push(Problem::new(
            format!(
                "{} ({}) stays, and carries what identifies this node's own disks: {}",
                disk.name,
                name(disk),
                marks.join(", ")
            ),
            format!("unplug {} or wipe it by hand (wipefs -a, partitions first)", disk.name),
        ));
    }
}

fn disk_name(layout: &Layout, id: &Id) -> String {
    layout.disk.iter().find(|d| d.id == *id).map_or_else(|| id.0.clone(), |d| d.name.clone())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{blank, raid_node};
    use super::super::{KeptDisk, plan};
    use super::*;

    fn auto() -> Answers {
        Answers { auto: true, ..Answers::default() }
    }

    #[test]
    fn a_whole_disk_of_swap_or_fat_is_known_by_what_is_on_it() {
        let mut node = raid_node();
        for name in ["sdx", "sdy"] {
            let mut disk = node.disk[0].clone();
            (disk.id, disk.name) = (Id::disk(name), name.to_owned());
            (disk.table, disk.wwn, disk.path) = (None, None, Some(format!("pci-{name}")));
            disk.serial = Some("drive-scsi1".to_owned());
            disk.signatures = vec!["x".to_owned()];
            node.disk.push(disk);
        }
        let swap =
            "id = \"swap:sdx\"\non = \"disk:sdx\"\nuuid = \"0b10a11e-0004-4000-8000-000000000001\"";
        node.swap.push(toml::from_str(swap).unwrap());
        let fat = "id = \"fs:sdy\"\non = \"disk:sdy\"\nkind = \"vfat\"\nuuid = \"ABCD-0001\"";
        node.fs.push(toml::from_str(fat).unwrap());
        let content = Content::of(&node, &node);
        let own: Vec<bool> = node.disk.iter().map(|disk| content.is_own(disk)).collect();
        assert!(own.iter().all(|own| *own), "{own:?}");
        let other = |change: fn(&mut Layout)| {
            let mut here = node.clone();
            change(&mut here);
            let content = Content::of(&node, &here);
            here.disk[node.disk.len() - 2..].iter().map(|d| content.is_own(d)).collect::<Vec<_>>()
        };
        let renumbered =
            |here: &mut Layout| here.swap.last_mut().unwrap().uuid.replace_range(..1, "1");
        assert_eq!(other(renumbered), [false, true]);
        let smaller = |here: &mut Layout| here.disk.last_mut().unwrap().size_bytes -= 512;
        assert_eq!(other(smaller), [true, false]);
    }

    #[test]
    fn a_clone_of_the_node_is_not_erased_unasked() {
        let recorded = raid_node();
        // Its disks differ from the node's in their numbers alone.
        let mut clone = raid_node();
        clone.disk.iter_mut().for_each(|disk| disk.serial = Some(format!("OTHER-{}", disk.name)));
        let own = plan(&recorded, &clone, &auto()).unwrap();
        assert_eq!(own.erases().len(), 2);
        let keep = vec![KeptDisk { name: "sdc".into(), why: "holds the backup".into() }];
        let elsewhere = Some("the UUID of this machine is another".to_owned());
        let other = Answers { elsewhere, keep, ..auto() };
        let text = plan(&recorded, &clone, &other).unwrap_err().to_string();
        assert!(text.contains("for the UUID of this machine is another: GPT"), "{text}");
        assert!(text.contains("rr.erase=OTHER-sda") && text.contains("mainboard"), "{text}");
        // Who is asked, what was named, what a run before this one made, blank disks, known numbers.
        let begun = vec!["sda".into(), "sdb".into()];
        let erase = vec!["OTHER-sda".into(), "OTHER-sdb".into()];
        for answers in [
            Answers { auto: false, ..other.clone() },
            Answers { erase, ..other.clone() },
            Answers { begun, ..other.clone() },
        ] {
            assert_eq!(plan(&recorded, &clone, &answers).unwrap().erases().len(), 2);
        }
        assert_eq!(plan(&recorded, &blank(&clone), &other).unwrap().erases().len(), 2);
        assert_eq!(plan(&recorded, &recorded, &other).unwrap().erases().len(), 2);
    }
}
