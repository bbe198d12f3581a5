//! From a layout and its disks to steps, each after what it stands on.

use std::collections::BTreeSet;

use super::map::{DiskMatch, gpt_tail_bytes};
use super::step::{
    CreateMd, MakeFs, MakeLuks, MakeSubvolumes, MakeSwap, MountFs, Release, Step, Wipe, WriteTable,
};
use super::{Answers, IdentityChange, Problem, fscmd, groups};
use crate::layout::{BytesPath, Firmware, Fs, Id, Layout, Md, Mount, Table, partition_name};

#[derive(Debug)]
pub struct Built {
    /// The layout with the names that its devices have here.
    pub layout: Layout,
    pub steps: Vec<Step>,
    pub identity_changes: Vec<IdentityChange>,
    pub notes: Vec<String>,
}

pub fn build(
    scope: &Layout,
    present: &Layout,
    disks: &[DiskMatch],
    answers: &Answers,
    problems: &mut Vec<Problem>,
) -> Built {
    let mut identity_changes = Vec::new();
    let layout = translate(scope, present, disks, &mut identity_changes);
    let mut steps = vec![Step::Release(release(present, disks))];
    steps.extend(disks.iter().map(|m| Step::Wipe(wipe(&layout, present, m))));
    let mut todo = Vec::new();
    tables(&layout, &mut todo);
    arrays(&layout, &mut todo);
    encrypted(&layout, &mut todo);
    let mut notes = Vec::new();
    for vg in &layout.vg {
        let group = groups::group(&layout, vg, &answers.lacks, problems);
        identity_changes.extend(group.identity_changes);
        notes.extend(group.notes);
        todo.push(Todo {
            what: format!("volume group {}", vg.name),
            needs: vg.pv.iter().map(|pv| pv.on.clone()).collect(),
            gives: group.gives,
            steps: group.steps,
        });
    }
    content(&layout, &mut todo);
    notes.extend(layout.fs.iter().filter_map(|fs| lost_label(&layout, fs)));
    let done: BTreeSet<Id> = layout.disk.iter().map(|d| d.id.clone()).collect();
    sort(todo, done, &mut steps, problems);
    steps.extend(mounts(&layout).into_iter().map(Step::Mount));
    Built { layout, steps, identity_changes, notes }
}

/// Gives disks, partitions and arrays the names that they will have here.
fn translate(
    scope: &Layout,
    present: &Layout,
    disks: &[DiskMatch],
    changes: &mut Vec<IdentityChange>,
) -> Layout {
    let mut layout = scope.clone();
    for disk in &mut layout.disk {
        let Some(found) = disks.iter().find(|m| m.old.id == disk.id) else { continue };
        let (id, table) = (disk.id.clone(), fit_table(disk.table.take(), &found.new, &found.old));
        *disk = found.new.clone();
        (disk.id, disk.table, disk.unused, disk.signatures) = (id, table, false, Vec::new());
    }
    let erased: BTreeSet<Id> = disks.iter().map(|m| m.new.id.clone()).collect();
    let mut taken: BTreeSet<String> = present
        .md
        .iter()
        .filter(|m| present.disks_below(&m.id).is_disjoint(&erased))
        .map(|m| m.name.clone())
        .collect();
    for md in &mut layout.md {
        if taken.contains(&md.name) {
            let new = (0..=127)
                .rev()
                .map(|n| format!("md{n}"))
                .find(|n| !taken.contains(n) && !scope.md.iter().any(|other| other.name == *n));
            if let Some(new) = new {
                changes.push(IdentityChange {
                    what: format!("device name of array {}", md.uuid),
                    old: md.name.clone(),
                    new: new.clone(),
                });
                md.name = new;
            }
        }
        taken.insert(md.name.clone());
    }
    let names: Vec<(Id, String)> = layout
        .disk
        .iter()
        .map(|d| (d.id.clone(), d.name.clone()))
        .chain(layout.md.iter().map(|m| (m.id.clone(), m.name.clone())))
        .collect();
    for partition in &mut layout.partition {
        if let Some((_, name)) = names.iter().find(|(id, _)| *id == partition.disk) {
            partition.name = partition_name(name, partition.number);
        }
    }
    layout
}

/// The table for a disk of perhaps another size: the second GPT header moves to its end.
fn fit_table(
    table: Option<Table>,
    new: &crate::layout::Disk,
    old: &crate::layout::Disk,
) -> Option<Table> {
    match table? {
        Table::Gpt { guid, entries, first_usable_lba, last_usable_lba, hybrid } => {
            let tail = gpt_tail_bytes(entries, new.sector_bytes);
            let sector = u64::from(new.sector_bytes.max(512));
            let last = (new.size_bytes / sector).saturating_sub(tail / sector).saturating_sub(1);
            let same = new.size_bytes == old.size_bytes;
            let last_usable_lba = if same { last_usable_lba.min(last) } else { last };
            Some(Table::Gpt { guid, entries, first_usable_lba, last_usable_lba, hybrid })
        }
        mbr @ Table::Mbr { .. } => Some(mbr),
    }
}

fn release(present: &Layout, disks: &[DiskMatch]) -> Release {
    let erased: BTreeSet<Id> = disks.iter().map(|m| m.new.id.clone()).collect();
    let on = |id: &Id| !present.disks_below(id).is_disjoint(&erased);
    let dev = |id: &Id| present.dev(id).unwrap_or_default();
    let mut mounts: Vec<_> =
        present.mount.iter().filter(|m| on(&m.fs)).map(|m| m.path.clone()).collect();
    mounts.sort_by_key(|path| std::cmp::Reverse(path.clone()));
    Release {
        disks: disks.iter().map(|m| m.new.name.clone()).collect(),
        mounts,
        swaps: present.swap.iter().filter(|s| on(&s.on)).map(|s| dev(&s.on)).collect(),
        vgs: present.vg.iter().filter(|v| on(&v.id)).map(|v| v.name.clone()).collect(),
        mds: present.md.iter().filter(|m| on(&m.id)).map(|m| m.name.clone()).collect(),
    }
}

fn wipe(layout: &Layout, present: &Layout, found: &DiskMatch) -> Wipe {
    let at = |l: &Layout, id: &Id| -> Vec<_> {
        l.partition.iter().filter(|p| p.disk == *id).cloned().collect()
    };
    Wipe {
        disk: found.new.clone(),
        partitions: at(present, &found.new.id).into_iter().map(|p| p.name).collect(),
        areas: at(layout, &found.old.id).iter().map(|p| (p.start_bytes, p.size_bytes)).collect(),
    }
}

/// Steps, what they need and what is there after them.
struct Todo {
    steps: Vec<Step>,
    what: String,
    needs: Vec<Id>,
    gives: Vec<Id>,
}

fn tables(layout: &Layout, todo: &mut Vec<Todo>) {
    let disks = layout
        .disk
        .iter()
        .map(|d| (&d.id, d.name.clone(), d.size_bytes, d.sector_bytes, d.table.as_ref()));
    let arrays = layout.md.iter().map(|m| {
        (&m.id, m.name.clone(), m.size_bytes, md_sector_bytes(layout, m), m.table.as_ref())
    });
    for (id, name, size_bytes, sector_bytes, table) in disks.chain(arrays) {
        let Some(table) = table.cloned() else { continue };
        let partitions: Vec<_> =
            layout.partition.iter().filter(|p| p.disk == *id).cloned().collect();
        todo.push(Todo {
            what: format!("the partition table of {name}"),
            needs: vec![id.clone()],
            gives: partitions.iter().map(|p| p.id.clone()).collect(),
            steps: vec![Step::WriteTable(WriteTable {
                name,
                size_bytes,
                sector_bytes,
                table,
                partitions,
                bios_boots: layout.boot.firmware == Firmware::Bios
                    && layout.boot.grub_disk.contains(id),
            })],
        });
    }
}

/// An array's sectors are as large as the largest of its members'.
fn md_sector_bytes(layout: &Layout, md: &Md) -> u32 {
    layout.disks_on(&md.id).into_iter().map(|d| d.sector_bytes).max().unwrap_or(512)
}

fn arrays(layout: &Layout, todo: &mut Vec<Todo>) {
    for md in &layout.md {
        let at_slot = |slot: u32| {
            md.member.iter().find(|m| m.slot == Some(slot)).and_then(|m| layout.dev(&m.on))
        };
        let members: Vec<_> =
            (0..md.raid_devices).map(|n| at_slot(n).unwrap_or_else(|| "missing".into())).collect();
        let mut spares: Vec<_> = md
            .member
            .iter()
            .filter(|m| m.slot.is_none_or(|slot| slot >= md.raid_devices))
            .filter_map(|m| layout.dev(&m.on))
            .collect();
        // A spare stands in for a member that was missing: it was being rebuilt.
        let members = members
            .into_iter()
            .map(|m| if m == "missing" && !spares.is_empty() { spares.remove(0) } else { m })
            .collect();
        todo.push(Todo {
            what: format!("array {}", md.name),
            needs: md.member.iter().map(|m| m.on.clone()).collect(),
            gives: vec![md.id.clone()],
            steps: vec![Step::CreateMd(CreateMd { md: md.clone(), members, spares })],
        });
    }
}

fn encrypted(layout: &Layout, todo: &mut Vec<Todo>) {
    for luks in &layout.luks {
        let dev = layout.dev(&luks.on).unwrap_or_default();
        todo.push(Todo {
            what: format!("LUKS on {dev}"),
            needs: vec![luks.on.clone()],
            gives: vec![luks.id.clone()],
            steps: vec![Step::MakeLuks(MakeLuks { dev, luks: luks.clone() })],
        });
    }
}

fn content(layout: &Layout, todo: &mut Vec<Todo>) {
    for fs in &layout.fs {
        let dev = layout.dev(&fs.on).unwrap_or_default();
        todo.push(Todo {
            what: format!("{} on {dev}", fs.kind),
            needs: fs.devices(),
            gives: vec![fs.id.clone()],
            steps: vec![Step::MakeFs(MakeFs {
                dev: dev.clone(),
                more_devs: more_devs(layout, fs),
                fs: Box::new(fs.clone()),
            })],
        });
        todo.extend(subvolumes(layout, fs, dev));
    }
    for swap in &layout.swap {
        let dev = layout.dev(&swap.on).unwrap_or_default();
        todo.push(Todo {
            what: format!("swap on {dev}"),
            needs: vec![swap.on.clone()],
            gives: vec![swap.id.clone()],
            steps: vec![Step::MakeSwap(MakeSwap { dev, swap: swap.clone() })],
        });
    }
}

fn lost_label(layout: &Layout, fs: &Fs) -> Option<String> {
    (fscmd::label(fs) != fs.label).then(|| {
        let dev = layout.dev(&fs.on).unwrap_or_default();
        let (kind, label) = (&fs.kind, &fs.label);
        format!("The {kind} on {dev} was called {label}: its label is not made again.")
    })
}

fn more_devs(layout: &Layout, fs: &Fs) -> Vec<String> {
    fs.devices().iter().skip(1).filter_map(|id| layout.dev(id)).collect()
}

fn subvolumes(layout: &Layout, fs: &Fs, dev: String) -> Option<Todo> {
    let btrfs = fs.btrfs.as_ref().filter(|btrfs| !btrfs.subvolume.is_empty())?;
    Some(Todo {
        what: format!("the subvolumes on {dev}"),
        needs: vec![fs.id.clone()],
        gives: Vec::new(),
        steps: vec![Step::MakeSubvolumes(MakeSubvolumes {
            more_devs: more_devs(layout, fs),
            paths: btrfs.subvolume.iter().map(|s| s.path.clone()).collect(),
            default: btrfs.default_subvolume.clone(),
            dev,
        })],
    })
}

/// Moves what has all it needs to `steps`, until nothing is left.
fn sort(
    mut todo: Vec<Todo>,
    mut done: BTreeSet<Id>,
    steps: &mut Vec<Step>,
    problems: &mut Vec<Problem>,
) {
    while let Some(next) = todo.iter().position(|t| t.needs.iter().all(|id| done.contains(id))) {
        let next = todo.remove(next);
        done.extend(next.gives);
        steps.extend(next.steps);
    }
    for Todo { what, needs, .. } in todo {
        let missing: Vec<_> =
            needs.iter().filter(|id| !done.contains(id)).map(|id| id.0.as_str()).collect();
        problems.push(Problem::damaged(format!(
            "{what} stands on {}, which the layout does not make",
            missing.join(", ")
        )));
    }
}

/// All mounts of whole filesystems and subvolumes, parents first.
fn mounts(layout: &Layout) -> Vec<MountFs> {
    let whole = |fs: &Fs, m: &Mount| {
        let is_top = |root: &BytesPath| root.as_path() == std::path::Path::new("/");
        m.root.as_ref().is_none_or(is_top) || fs.subvolume_of(m).is_some()
    };
    let mut mounts: Vec<_> = layout
        .mount
        .iter()
        .filter_map(|m| {
            let fs = layout.fs.iter().find(|f| f.id == m.fs).filter(|fs| whole(fs, m))?;
            let subvolume = || BytesPath::from(fs.subvolume_of(m).unwrap_or("".as_ref()));
            Some(MountFs {
                dev: layout.dev(&fs.on)?,
                kind: fs.kind.clone(),
                path: m.path.clone(),
                options: m.options.clone(),
                subvolume: fs.btrfs.is_some().then(subvolume),
                more_devs: more_devs(layout, fs),
            })
        })
        .collect();
    mounts.sort_by_key(|m| (m.path.as_path().components().count(), m.path.clone()));
    mounts
}

#[cfg(test)]
mod tests {
    use crate::plan::{Answers, plan, testing::raid_node};

    #[test]
    fn a_label_that_is_not_made_again_is_told() {
        let mut node = raid_node();
        (node.fs[1].kind, node.fs[1].label) = ("vfat".into(), "W\u{f6}rter".into());
        let (dev, answers) = ("/dev/md0", Answers { auto: true, ..Answers::default() });
        let made = plan(&node, &node, &answers).unwrap();
        let told =
            format!("The vfat on {dev} was called W\u{f6}rter: its label is not made again.");
        assert!(made.notes.contains(&told), "{:?}", made.notes);
        assert!(!made.render_script().contains("rter"), "{}", made.render_script());
        node.fs[1].label = "WORTE".into();
        let made = plan(&node, &node, &answers).unwrap();
        assert!(made.render_script().contains("-n WORTE"));
        assert!(made.notes.iter().all(|note| !note.contains("label")), "{:?}", made.notes);
    }
}
