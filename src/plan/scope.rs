//! Which parts of the recorded layout come back.
//!
//! A disk comes back when the node used it, and not only for the backup or for what is not in it; what
//! stands on such disks alone comes back with it.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Answers, Problem, leave};
use crate::layout::{Disk, Fs, Id, Layout, Mount, Vg};

/// The filesystems that can be made.
const KINDS: &[&str] = &["ext2", "ext3", "ext4", "xfs", "vfat", "btrfs", "f2fs"];
const MD_LEVELS: &[&str] = &["raid0", "raid1", "raid4", "raid5", "raid6", "raid10", "linear"];
const LV_KINDS: &[&str] =
    &["linear", "striped", "mirror", "thin-pool", "thin", "cache", "writecache"];

#[derive(Debug)]
pub struct Scope {
    /// The recorded layout without what does not come back.
    pub layout: Layout,
    pub notes: Vec<String>,
}

/// Narrows the layout to what comes back.
pub fn narrow(recorded: &Layout, problems: &mut Vec<Problem>) -> Scope {
    let mut layout = recorded.clone();
    let mut notes = Vec::new();
    let used: BTreeSet<Id> =
        recorded.disk.iter().filter(|d| is_used(recorded, d)).map(|d| d.id.clone()).collect();
    for disk in recorded.disk.iter().filter(|d| !d.unused && !used.contains(&d.id)) {
        let on_it = |m: &&Mount| recorded.disks_below(&m.fs).contains(&disk.id);
        let mounts = recorded.mount.iter().filter(on_it).map(|m| m.path.to_string());
        // What patterns leave out is marked as the target is.
        notes.push(format!(
            "{} is left alone: {} on it holds the backups, or is left out of them. Where that disk is \
             gone, its files do NOT come back, nor do its filesystems.",
            disk.name,
            mounts.collect::<Vec<_>>().join(", ")
        ));
    }
    if used.is_empty() {
        problems.push(Problem::of_layout(
            "the recorded layout names no disk that this node used",
            "a disk with `unused = true` is not recreated: ",
        ));
    }
    let stays = |id: &Id| {
        let below = recorded.disks_below(id);
        !below.is_empty() && below.is_subset(&used)
    };
    let skipped = |what: String, id: &Id| {
        let below = recorded.disks_below(id);
        let others: Vec<_> = below.difference(&used).map(|d| d.0.as_str()).collect();
        (!below.is_disjoint(&used) && !others.is_empty()).then(|| {
            format!(
                "{what} does not come back: it also stood on {}, which is left alone.",
                others.join(", ")
            )
        })
    };
    notes.extend(recorded.md.iter().filter_map(|md| skipped(md.name.clone(), &md.id)));
    let closed = recorded.luks.iter().filter(|luks| luks.name.is_empty() && stays(&luks.id));
    notes.extend(closed.map(|luks| {
        format!("LUKS {} was not open when this was recorded and does not come back.", luks.uuid)
    }));
    layout.retain(stays);
    layout.luks.retain(|luks| !luks.name.is_empty());
    layout.mount.retain(|mount| !mount.target);
    if !layout.luks.is_empty() {
        let names: Vec<_> = layout.luks.iter().map(|l| l.name.as_str()).collect();
        notes.push(format!(
            "The passphrase for {} is asked for before anything is erased; an automatic recovery \
             takes it from the file that recover.luks_passphrase_file names.",
            names.join(", ")
        ));
    }
    let group = |vg: &Vg| skipped(format!("volume group {}", vg.name), &vg.id);
    notes.extend(recorded.vg.iter().filter_map(group));
    drop_snapshots(&mut layout, &mut notes);
    let comes = |what: &String| layout.mount.iter().any(|m| m.path.to_string() == *what);
    let erased = recorded.unprotected.iter().filter(|u| u.is_erased());
    let erased = erased.filter(|u| comes(&u.what));
    notes.extend(erased.map(|u| format!("{} is {}.", u.what, u.why)));
    check_root(recorded, &layout, problems);
    check_needed(recorded, &layout, problems);
    drop_unknown_filesystems(recorded, &mut layout, &mut notes, problems);
    check_outside_sections(&layout, &mut notes, problems);
    check_kinds(&layout, problems);
    Scope { layout, notes }
}

/// Without these a machine does not start as it did, and what they are on does not come back.
fn check_needed(recorded: &Layout, scope: &Layout, problems: &mut Vec<Problem>) {
    let comes = |mount: &Mount| scope.mount.iter().any(|other| other.path == mount.path);
    let is_root = |mount: &Mount| mount.path.as_path() == Path::new("/");
    for mount in recorded.mount.iter().filter(|m| !leave::can_be_missed(m) && !is_root(m)) {
        if !comes(mount) {
            problems.push(Problem::of_layout(
                format!("what {} is on does not come back, and the system needs it", mount.path),
                "",
            ));
        }
    }
}

/// A snapshot shows what another volume was; nothing archives it. A thin one that is mounted is a
/// volume like any other.
fn drop_snapshots(layout: &mut Layout, notes: &mut Vec<String>) {
    let mounted = |id: &Id| layout.mount.iter().any(|m| layout.stands_on(&m.fs, id));
    let dropped: BTreeSet<Id> = layout
        .lv
        .iter()
        .filter(|lv| lv.kind == "snapshot" || (lv.is_snapshot() && !mounted(&lv.id)))
        .map(|lv| lv.id.clone())
        .collect();
    for lv in layout.lv.iter().filter(|lv| dropped.contains(&lv.id)) {
        notes.push(format!("{} does not come back: it is a snapshot of {}.", lv.name, lv.origin));
    }
    layout.lv.retain(|lv| !dropped.contains(&lv.id));
    layout.fs.retain(|fs| !dropped.contains(&fs.on));
    layout.swap.retain(|swap| !dropped.contains(&swap.on));
    let kept: BTreeSet<Id> = layout.fs.iter().map(|fs| fs.id.clone()).collect();
    layout.mount.retain(|m| kept.contains(&m.fs) || m.target);
}

/// Files that are restored to a place where nothing is mounted would land in the rescue system.
fn check_root(recorded: &Layout, scope: &Layout, problems: &mut Vec<Problem>) {
    let is_root = |m: &&Mount| m.path.as_path() == Path::new("/");
    if scope.mount.iter().any(|m| is_root(&m)) {
        return;
    }
    let why = match recorded.mount.iter().find(is_root) {
        Some(mount) if mount.target => "the filesystem of / is marked as the backup's own",
        Some(_) => "what / is on does not come back",
        None => "the recorded layout mounts nothing at /",
    };
    problems.push(Problem::of_layout(
        format!("{why}: there is no machine to rebuild"),
        "restore files alone with rr restore --to DIR, or ",
    ));
}

/// Used by the node, and not only for mounts that are left alone.
fn is_used(layout: &Layout, disk: &Disk) -> bool {
    if disk.unused {
        return false;
    }
    let on_it = |id: &Id| layout.disks_below(id).contains(&disk.id);
    let mounts: Vec<&Mount> = layout.mount.iter().filter(|m| on_it(&m.fs)).collect();
    let only_target = !mounts.is_empty() && mounts.iter().all(|m| m.target);
    !only_target
        || layout.swap.iter().any(|s| on_it(&s.on))
        || layout.boot.esp.iter().any(on_it)
        || layout.boot.grub_disk.contains(&disk.id)
}

fn drop_unknown_filesystems(
    recorded: &Layout,
    layout: &mut Layout,
    notes: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) {
    let dev = |id: &Id| layout.dev(id).unwrap_or_else(|| id.0.clone());
    for fs in layout.fs.iter().filter(|fs| !can_be_made(fs)) {
        match layout.mount.iter().find(|m| m.fs == fs.id) {
            Some(mount) => {
                let mut how =
                    "leave out its [[mount]] and [[fs]], and restore it by hand: ".to_owned();
                // On a disk of its own, a stick perhaps.
                let mut disks = layout.disk.iter().filter(|d| layout.stands_on(&fs.id, &d.id));
                if let (Some(disk), None) = (disks.next(), disks.next())
                    && let Some(without) = leave::hint(recorded, &Answers::default(), disk)
                {
                    how = format!("{without}; or {how}");
                }
                problems.push(Problem::of_layout(
                    format!(
                        "{} on {} is a {} filesystem, which rr can't make",
                        mount.path,
                        dev(&fs.on),
                        fs.kind
                    ),
                    how,
                ));
            }
            None => notes.push(format!(
                "{} on {} does not come back: it is not mounted and rr can't make it.",
                fs.kind,
                dev(&fs.on)
            )),
        }
    }
    layout.fs.retain(can_be_made);
}

/// An f2fs that could not be read is one of those that mkfs.f2fs makes only with more than a device.
fn can_be_made(fs: &Fs) -> bool {
    KINDS.contains(&fs.kind.as_str()) && (fs.kind != "f2fs" || fs.f2fs.is_some())
}

/// The options of a mount that has to find such a device say so, where nothing else does.
fn check_outside_sections(layout: &Layout, notes: &mut Vec<String>, problems: &mut Vec<Problem>) {
    for mount in &layout.mount {
        let Some(fs) = layout.fs.iter().find(|fs| fs.id == mount.fs) else { continue };
        let outside = |option: &str| mount.options.split(',').any(|word| word.starts_with(option));
        if !outside("rtdev=") && (!outside("logdev=") || fs.log_on().is_some()) {
            continue;
        }
        let what = format!("{} has a part on a device of its own ({})", mount.path, mount.options);
        if !leave::can_be_missed(mount) {
            problems.push(Problem::of_layout(
                what,
                "take the option out of its [[mount]] to have it without that device, or \
                 remove its [[mount]] and [[fs]] and restore it by hand: ",
            ));
        } else {
            notes.push(format!(
                "{what}. It comes back without it: take the option out of /etc/fstab then."
            ));
        }
    }
}

fn check_kinds(layout: &Layout, problems: &mut Vec<Problem>) {
    for fs in &layout.fs {
        let Some(btrfs) = &fs.btrfs else { continue };
        let known = u64::try_from(btrfs.device.len()).unwrap_or(u64::MAX);
        if known < btrfs.devices {
            problems.push(Problem::new(
                format!(
                    "the {} {} lacks {} of its devices",
                    fs.kind,
                    fs.uuid,
                    btrfs.devices - known
                ),
                "replace them on the node (btrfs replace, btrfs device remove), and back up again",
            ));
        }
    }
    for md in layout.md.iter().filter(|m| !MD_LEVELS.contains(&m.level.as_str())) {
        problems.push(Problem::new(
            format!("{} is an md array of level {}, which rr can't make", md.name, md.level),
            format!("rr makes {}", MD_LEVELS.join(", ")),
        ));
    }
    for lv in &layout.lv {
        let odd = std::iter::once(lv.kind.as_str())
            .chain(lv.segment.iter().map(|s| s.kind.as_str()))
            .find(|kind| !LV_KINDS.contains(kind) && !kind.starts_with("raid"));
        if let Some(kind) = odd {
            let vg = layout.vg.iter().find(|v| v.id == lv.vg).map_or("?", |v| v.name.as_str());
            problems.push(Problem::new(
                format!("logical volume {vg}/{} has the type {kind}, which rr can't make", lv.name),
                "rr makes linear, striped, mirrored, RAID and thin volumes",
            ));
        }
    }
}
