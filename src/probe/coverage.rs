//! What of the machine is in use, and what would not come back.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Machine, describe};
use crate::layout::{Disk, Firmware, Id, Layout, Unprotected};

/// The partition type of an EFI system partition, on GPT and on MBR.
const ESP_TYPES: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// What LVM volumes can be made again.
const LV_KINDS: [&str; 2] = ["linear", "striped"];

/// Marks the disks that are not in use, completes what is known of booting, and names what would
/// not come back, `contents` among it. `has_grub` looks at a disk's first sector.
pub fn complete(
    layout: &mut Layout,
    machine: &Machine,
    contents: Vec<(Id, Unprotected)>,
    has_grub: &dyn Fn(&Disk) -> bool,
) {
    let used = used_disks(layout, machine);
    for disk in &mut layout.disk {
        disk.unused = !used.contains(&disk.id);
    }
    complete_boot(layout, has_grub);
    let all_unused = |id: &Id| {
        let disks = layout.disks_below(id);
        !disks.is_empty() && disks.is_disjoint(&used)
    };
    let contents = contents.into_iter().filter(|(on, _)| !all_unused(on));
    let mut notes: Vec<Unprotected> = contents.map(|(_, note)| note).collect();
    notes.extend(unmounted(layout));
    notes.extend(baseless(layout));
    notes.extend(unsupported_volumes(layout));
    notes.extend(unused_with_data(layout));
    layout.unprotected.extend(notes);
    let mut seen = BTreeSet::new();
    layout.unprotected.retain(|u| seen.insert((u.what.clone(), u.why.clone())));
}

/// The disks that something mounted or swapped to is on. An array or volume group that has a part
/// on such a disk brings its other disks in: it can only be made as a whole.
fn used_disks(layout: &Layout, machine: &Machine) -> BTreeSet<Id> {
    let swapped = machine.swaps.iter().filter(|swap| !swap.file);
    let swapped = swapped.filter_map(|swap| machine.id_of_path(swap.path.to_str()?));
    let mut used = BTreeSet::new();
    for id in layout.mount.iter().map(|mount| mount.fs.clone()).chain(swapped) {
        used.extend(layout.disks_below(&id));
    }
    let joined = layout.md.iter().map(|md| &md.id).chain(layout.vg.iter().map(|vg| &vg.id));
    let joined: Vec<BTreeSet<Id>> = joined.map(|id| layout.disks_below(id)).collect();
    loop {
        let before = used.len();
        for disks in &joined {
            if !disks.is_disjoint(&used) {
                used.extend(disks.iter().cloned());
            }
        }
        if used.len() == before {
            return used;
        }
    }
}

fn complete_boot(layout: &mut Layout, has_grub: &dyn Fn(&Disk) -> bool) {
    let used: BTreeSet<Id> =
        layout.disk.iter().filter(|d| !d.unused).map(|d| d.id.clone()).collect();
    if layout.boot.firmware == Firmware::Bios {
        let disks = layout.disk.iter().filter(|d| !d.unused && has_grub(d));
        layout.boot.grub_disk = disks.map(|d| d.id.clone()).collect();
    }
    let mounted_as_esp = |fs: &Id| {
        let paths = ["/boot/efi", "/efi"].map(Path::new);
        layout.mount.iter().any(|m| m.fs == *fs && paths.contains(&m.path.as_path()))
    };
    let has_esp_type = |on: &Id| {
        layout.partition.iter().any(|p| p.id == *on && ESP_TYPES.contains(&p.type_code.as_str()))
    };
    let on_used = |id: &Id| layout.disks_below(id).iter().any(|disk| used.contains(disk));
    let vfat = layout.fs.iter().filter(|fs| fs.kind == "vfat" && on_used(&fs.id));
    let mut esp: Vec<Id> = vfat
        .filter(|fs| mounted_as_esp(&fs.id) || has_esp_type(&fs.on))
        .map(|fs| fs.id.clone())
        .collect();
    // The one that the system writes to comes first.
    esp.sort_by_key(|id| !mounted_as_esp(id));
    let own = |uuid| layout.partition.iter().any(|p| p.uuid == Some(uuid) && on_used(&p.id));
    let entries = layout.boot.efi_entry.iter().filter(|entry| own(entry.partition));
    let entries = entries.cloned().collect();
    layout.boot.efi_entry = entries;
    layout.boot.esp = esp;
}

/// Mounted filesystems on something that could not be read: firmware RAID, a damaged group.
fn baseless(layout: &Layout) -> Vec<Unprotected> {
    let mounts = layout.mount.iter().filter(|mount| layout.disks_below(&mount.fs).is_empty());
    mounts
        .map(|mount| Unprotected {
            what: mount.path.to_string(),
            why: "what its filesystem stands on could not be read".to_owned(),
        })
        .collect()
}

/// Filesystems on disks that a recovery makes anew, which nothing archives.
fn unmounted(layout: &Layout) -> Vec<Unprotected> {
    let unused = |id: &Id| layout.disk.iter().any(|d| d.unused && d.id == *id);
    let mut notes = Vec::new();
    for fs in &layout.fs {
        let disks = layout.disks_below(&fs.id);
        if layout.mount.iter().any(|m| m.fs == fs.id) || disks.iter().all(unused) {
            continue;
        }
        let device = layout.dev(&fs.on).unwrap_or_else(|| fs.on.to_string());
        let label = if fs.label.is_empty() { String::new() } else { format!(" {:?}", fs.label) };
        notes.push(Unprotected {
            what: format!("{device} ({}{label})", fs.kind),
            why: "not mounted: a recovery makes it anew and empty".to_owned(),
        });
    }
    notes
}

fn unsupported_volumes(layout: &Layout) -> Vec<Unprotected> {
    let volumes = layout.lv.iter().filter(|lv| {
        !LV_KINDS.contains(&lv.kind.as_str())
            || lv.segment.iter().any(|s| !LV_KINDS.contains(&s.kind.as_str()))
    });
    volumes
        .map(|lv| Unprotected {
            what: layout.dev(&lv.id).unwrap_or_else(|| lv.id.to_string()),
            why: format!("a logical volume of the kind {} is not supported yet", lv.kind),
        })
        .collect()
}

fn unused_with_data(layout: &Layout) -> Vec<Unprotected> {
    let disks = layout.disk.iter().filter(|d| d.unused && !d.signatures.is_empty());
    disks
        .map(|disk| Unprotected {
            what: describe(disk),
            why: "nothing on it is in use: it is not in the backup, and a recovery leaves it alone"
                .to_owned(),
        })
        .collect()
}
