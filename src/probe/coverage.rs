//! What of the machine is in use, and what would not come back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Machine, describe};
use crate::layout::{
    Disk, Firmware, Fs, Id, Layout, Luks, Lv, Mount, PartitionKind, Table, Unprotected,
};

/// The partition type of an EFI system partition, on GPT and on MBR.
const ESP_TYPES: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// The partition type of a BIOS boot partition, which holds the rest of GRUB on GPT.
const BIOS_BOOT_TYPE: &str = "21686148-6449-6e6f-744e-656564454649";

/// How much room before the first partition of an MBR GRUB needs at least: 63 sectors.
const MBR_GAP_BYTES: u64 = 63 * 512;

/// What LVM volumes can be made again, besides arrays.
const LV_KINDS: [&str; 7] =
    ["linear", "striped", "mirror", "thin-pool", "thin", "cache", "writecache"];

/// Where people mount what they plug in and take away again.
const PLUGGED: [&str; 3] = ["/media", "/run/media", "/mnt"];

/// Where a disk belongs to the node wherever it is.
const NEEDED: [&str; 6] = ["/", "/boot", "/boot/efi", "/efi", "/usr", "/var"];

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
    let (idle, contents): (Vec<_>, Vec<_>) =
        contents.into_iter().partition(|(on, _)| all_unused(on));
    for (on, _) in &idle {
        name_content(layout, machine, on);
    }
    let mut notes: Vec<Unprotected> = contents.into_iter().map(|(_, note)| note).collect();
    notes.extend(unmounted(layout));
    notes.extend(lost_subvolumes(layout));
    notes.extend(lost_keys(layout));
    notes.extend(baseless(layout));
    notes.extend(unsupported_volumes(layout));
    notes.extend(passing(layout, machine));
    notes.extend(unused_with_data(layout, machine));
    let scrambled = below_swap(machine);
    notes.extend(unknown(layout, &notes).into_iter().filter(|n| !scrambled.contains(&n.what)));
    layout.unprotected.extend(notes);
    let mut seen = BTreeSet::new();
    layout.unprotected.retain(|u| seen.insert((u.what.clone(), u.why.clone())));
}

/// What is on a partition of a disk that nothing uses, and is no object of the layout: a member of an
/// array that does not run, a ZFS. Whoever confirms erasing it must see this.
fn name_content(layout: &mut Layout, machine: &Machine, on: &Id) {
    let Some(partition) = layout.partition.iter().find(|partition| partition.id == *on) else {
        return;
    };
    let content = machine.content(&partition.name);
    let label = if content.label.is_empty() { "" } else { &format!(" {:?}", content.label) };
    let words = format!("{}{label} on {}", content.kind, partition.name);
    let mut disks = layout.disk.iter_mut();
    if let Some(disk) = disks.find(|disk| disk.id == partition.disk && !content.kind.is_empty()) {
        disk.signatures.push(words);
    }
}

/// The disks that something mounted or swapped to is on. An array or volume group that has a part
/// on such a disk brings its other disks in: it can only be made as a whole.
fn used_disks(layout: &Layout, machine: &Machine) -> BTreeSet<Id> {
    let swapped = machine.swaps.iter().filter(|swap| !swap.file);
    let swapped = swapped.filter_map(|swap| machine.id_of_path(swap.path.to_str()?));
    let mut used = BTreeSet::new();
    let mounted = layout.mount.iter().filter(|mount| !is_passing(layout, machine, mount));
    for id in mounted.map(|mount| mount.fs.clone()).chain(swapped) {
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

/// The partition types of what holds no data of its own: a BIOS boot partition, an EFI system partition,
/// Microsoft's reserved one, PReP, and an MBR's extended partition.
const NO_DATA_TYPES: [&str; 9] = [
    BIOS_BOOT_TYPE,
    ESP_TYPES[0],
    ESP_TYPES[1],
    "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
    "0x41",
    "0x05",
    "0x0f",
    "0x85",
];

/// What a recovery makes anew and knows nothing of: a database's own volume, the disk of a virtual
/// machine. Of what is not told in `notes` already.
fn unknown(layout: &Layout, notes: &[Unprotected]) -> Vec<Unprotected> {
    let mut taken: BTreeSet<&Id> = layout.partition.iter().map(|part| &part.disk).collect();
    taken.extend(layout.md.iter().flat_map(|md| &md.member).map(|member| &member.on));
    taken.extend(layout.vg.iter().flat_map(|vg| &vg.pv).map(|pv| &pv.on));
    taken.extend(layout.luks.iter().map(|luks| &luks.on));
    taken.extend(layout.swap.iter().map(|swap| &swap.on));
    let filesystems: Vec<Id> = layout.fs.iter().flat_map(Fs::devices).collect();
    let parts = layout.partition.iter().filter(|part| {
        part.kind != PartitionKind::Extended && !NO_DATA_TYPES.contains(&part.type_code.as_str())
    });
    let volumes = layout.lv.iter().filter(|lv| lv.kind != "thin-pool").map(|lv| &lv.id);
    let open = layout.luks.iter().filter(|luks| !luks.name.is_empty()).map(|luks| &luks.id);
    let devices = parts.map(|part| &part.id).chain(layout.md.iter().map(|md| &md.id));
    let used = |id: &Id| layout.disks_on(id).iter().any(|disk| !disk.unused);
    let note = |id: &Id| {
        let what = layout.dev(id)?;
        let told = notes.iter().chain(&layout.unprotected).any(|note| note.is_of(&what));
        let why = "rr knows nothing of what is on it: that is NOT in the backup, and a recovery makes it \
                   anew and empty";
        (!told).then(|| Unprotected { what, why: why.to_owned() })
    };
    devices
        .chain(volumes)
        .chain(open)
        .filter(|id| used(id) && !taken.contains(id) && !filesystems.contains(id))
        .filter_map(note)
        .collect()
}

/// What swap space stands on that has another key at each start: there is nothing to be known of it.
fn below_swap(machine: &Machine) -> Vec<String> {
    let swaps = machine.swaps.iter().filter(|swap| !swap.file);
    let swaps: Vec<PathBuf> = swaps.filter_map(|swap| swap.path.canonicalize().ok()).collect();
    let is_swap = |holder: &String| swaps.contains(&Path::new("/dev").join(holder));
    let below = machine.devices.iter().filter(|device| device.holders.iter().any(is_swap));
    below.map(super::block::Device::dev).collect()
}

/// Whether a mount is of what is no part of the node.
fn is_passing(layout: &Layout, machine: &Machine, mount: &Mount) -> bool {
    is_plugged(layout, machine, mount) || is_on_network(layout, mount)
}

/// Whether all of it is on LUNs of the network, which another machine keeps, and the node starts
/// without it. FibreChannel's look like disks of the node: some have no others.
fn is_on_network(layout: &Layout, mount: &Mount) -> bool {
    let is_needed = |mount: &&Mount| NEEDED.iter().any(|at| mount.path.as_path() == Path::new(at));
    // Who starts from LUNs may have no others.
    let mut needed = layout.mount.iter().filter(is_needed);
    if needed.any(|mount| layout.disks_on(&mount.fs).into_iter().any(is_iscsi)) {
        return false;
    }
    let disks = layout.disks_on(&mount.fs);
    !disks.is_empty() && disks.into_iter().all(is_iscsi)
}

fn is_iscsi(disk: &Disk) -> bool {
    disk.path.as_deref().is_some_and(|path| path.contains("-iscsi-"))
}

/// Whether a mount is of a disk that somebody plugged in, and has in no line of fstab(5): it need not be
/// there tomorrow.
fn is_plugged(layout: &Layout, machine: &Machine, mount: &Mount) -> bool {
    let comes_and_goes = |disk: &Disk| {
        let path = disk.path.as_deref().unwrap_or_default();
        disk.removable || path.split('-').any(|part| part.starts_with("usb"))
    };
    let path = mount.path.as_path();
    let disks = layout.disks_on(&mount.fs);
    !disks.is_empty()
        && PLUGGED.iter().any(|dir| path.starts_with(dir))
        && machine.fstab.iter().all(|own| own != path)
        && disks.into_iter().all(comes_and_goes)
}

/// What is mounted of disks that are no part of the node, and that nothing else uses.
fn passing(layout: &Layout, machine: &Machine) -> Vec<Unprotected> {
    let idle = |mount: &Mount| layout.disks_on(&mount.fs).into_iter().find(|disk| disk.unused);
    let mounts = layout.mount.iter().filter(|mount| is_passing(layout, machine, mount));
    let note = |mount: &Mount| {
        let disk = idle(mount)?;
        let reason = match is_iscsi(disk) {
            true => "which is on the network (iSCSI)",
            false => "which can be unplugged and is not in /etc/fstab",
        };
        let why = format!(
            "on {}, {reason}: a recovery leaves it alone, and restores none of its files",
            describe(disk)
        );
        Some(Unprotected { what: mount.path.to_string(), why })
    };
    mounts.filter_map(note).collect()
}

fn complete_boot(layout: &mut Layout, has_grub: &dyn Fn(&Disk) -> bool) {
    let used: BTreeSet<Id> =
        layout.disk.iter().filter(|d| !d.unused).map(|d| d.id.clone()).collect();
    if layout.boot.firmware == Firmware::Bios {
        let disks = layout.disk.iter().filter(|d| !d.unused && has_grub(d));
        let disks = disks.filter(|d| may_boot(layout, d));
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

/// Whether GRUB's code in the first sector can be of use: there is room for the rest of it, or what it
/// would boot is on the disk. A data disk keeps that of a system which it once held.
fn may_boot(layout: &Layout, disk: &Disk) -> bool {
    let boots = |mount: &&Mount| ["/", "/boot"].map(Path::new).contains(&mount.path.as_path());
    has_room_for_grub(layout, disk)
        || layout
            .mount
            .iter()
            .filter(boots)
            .any(|mount| layout.disks_below(&mount.fs).contains(&disk.id))
}

/// Whether there is room for what GRUB's code in the first sector starts.
pub fn has_room_for_grub(layout: &Layout, disk: &Disk) -> bool {
    let mut parts = layout.partition.iter().filter(|p| p.disk == disk.id);
    match &disk.table {
        Some(Table::Gpt { .. }) => parts.any(|p| p.type_code == BIOS_BOOT_TYPE),
        Some(Table::Mbr { .. }) => parts.all(|p| p.start_bytes >= MBR_GAP_BYTES),
        None => false,
    }
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

/// Subvolumes of mounted filesystems that no archive comes to.
fn lost_subvolumes(layout: &Layout) -> Vec<Unprotected> {
    let mut notes = Vec::new();
    for fs in layout.fs.iter().filter(|fs| layout.mount.iter().any(|m| m.fs == fs.id)) {
        let Some(btrfs) = &fs.btrfs else { continue };
        let device = layout.dev(&fs.on).unwrap_or_else(|| fs.on.to_string());
        for (subvolume, place) in layout.subvolume_places(fs) {
            if place.is_none() {
                notes.push(Unprotected {
                    what: format!("{device} (btrfs subvolume {})", subvolume.path),
                    why: "not mounted: a recovery makes it anew and empty".to_owned(),
                });
            }
        }
        if !btrfs.snapshot.is_empty() {
            const NAMED: usize = 5;
            let names = btrfs.snapshot.iter().take(NAMED).map(|s| s.path.to_string());
            let names: Vec<String> = names.collect();
            let more = btrfs.snapshot.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            notes.push(Unprotected {
                what: format!("{device} (btrfs snapshots {}{more})", names.join(", ")),
                why: "snapshots are not in the backup, and a recovery does not make them"
                    .to_owned(),
            });
        }
    }
    notes
}

/// Of several keys of a volume, the passphrase alone comes back.
fn lost_keys(layout: &Layout) -> Vec<Unprotected> {
    let unused = |id: &Id| layout.disk.iter().any(|d| d.unused && d.id == *id);
    let in_use =
        |luks: &&Luks| !luks.name.is_empty() && !layout.disks_below(&luks.id).iter().all(unused);
    let mut notes = Vec::new();
    for luks in layout.luks.iter().filter(in_use) {
        let slots = luks.keyslots.iter().skip(1).map(|slot| format!("key slot {slot}"));
        let tokens = luks.tokens.iter().map(|kind| format!("token {kind}"));
        let lost: Vec<String> = slots.chain(tokens).collect();
        if !lost.is_empty() {
            notes.push(Unprotected {
                what: format!("{} of {}", lost.join(", "), luks.dev()),
                why: "after a recovery the passphrase and the key files of /etc/crypttab open the volume; enroll the others again"
                    .to_owned(),
            });
        }
    }
    notes
}

fn unsupported_volumes(layout: &Layout) -> Vec<Unprotected> {
    let known = |kind: &str| LV_KINDS.contains(&kind) || kind.starts_with("raid");
    let mounted = |lv: &Lv| layout.mount.iter().any(|m| layout.below(&m.fs).contains(&lv.id));
    let why = |lv: &Lv| -> Option<String> {
        if lv.kind == "snapshot" || (lv.is_snapshot() && !mounted(lv)) {
            return Some(format!("a snapshot of {}: a recovery does not make it", lv.origin));
        }
        if matches!(lv.kind.as_str(), "cache" | "writecache") {
            return Some("its cache: the volume comes back without one".to_owned());
        }
        let kinds = std::iter::once(lv.kind.as_str());
        let mut kinds = kinds.chain(lv.segment.iter().map(|s| s.kind.as_str()));
        let odd = kinds.find(|kind| !known(kind))?;
        Some(format!("a logical volume of the kind {odd} is not supported yet"))
    };
    let named = |lv: &Lv| {
        let what = layout.dev(&lv.id).unwrap_or_else(|| lv.id.to_string());
        Some(Unprotected { what, why: why(lv)? })
    };
    layout.lv.iter().filter_map(named).collect()
}

fn unused_with_data(layout: &Layout, machine: &Machine) -> Vec<Unprotected> {
    let mounted = |disk: &Disk| {
        let mut mounts = layout.mount.iter().filter(|mount| is_passing(layout, machine, mount));
        mounts.any(|mount| layout.disks_below(&mount.fs).contains(&disk.id))
    };
    let disks = layout.disk.iter().filter(|d| d.unused && !d.signatures.is_empty());
    disks
        .filter(|disk| !mounted(disk))
        .map(|disk| Unprotected {
            what: describe(disk),
            why: "nothing on it is in use: it is not in the backup, and a recovery leaves it alone"
                .to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{EfiEntry, schema};
    use crate::probe::blkid::Content;

    /// Two disks with md RAID 1, one of them below LVM, and a group over both; one disk of MBR
    /// partitions, one not in use, one filesystem on a whole disk, one blank disk.
    fn node() -> Layout {
        let text = include_str!("../../tests/fixtures/layout/node.toml");
        let mut layout = schema::parse(text).unwrap();
        layout.unprotected.clear();
        layout
    }

    fn finish(layout: &mut Layout) -> (Vec<String>, Vec<String>) {
        complete(layout, &Machine::default(), Vec::new(), &|disk| disk.name != "ubdc");
        let used = layout.disk.iter().filter(|d| !d.unused).map(|d| d.name.clone()).collect();
        (used, layout.unprotected.iter().map(|u| format!("{}: {}", u.what, u.why)).collect())
    }

    #[test]
    fn a_disk_is_in_use_when_something_mounted_stands_on_it() {
        let mut layout = node();
        let (used, notes) = finish(&mut layout);
        assert_eq!(used, ["ubdb", "ubdc", "ubdd"]);
        assert_eq!(notes.len(), 5, "{notes:#?}");
        assert!(notes[0].starts_with("/dev/ubdd1 (ext2 \"old\"): not mounted"), "{}", notes[0]);
        assert!(notes[1].starts_with("/dev/ubde (S45RNE0M3): nothing on it"), "{}", notes[1]);
        let mut idle = node();
        idle.mount.clear();
        assert!(finish(&mut idle).0.is_empty());
    }

    #[test]
    fn an_array_or_group_brings_its_other_disks_in() {
        let mut layout = node();
        layout.mount.retain(|m| m.path.as_path() == Path::new("/mnt/efi"));
        // Only a partition of ubdb is mounted; md0, md1 and vg-data reach over to ubdc.
        let (used, notes) = finish(&mut layout);
        assert_eq!(used, ["ubdb", "ubdc"]);
        let what = "/dev/vg0/root (ext4 \"root\"): not mounted";
        assert!(notes.iter().any(|note| note.starts_with(what)), "{notes:#?}");
    }

    #[test]
    fn what_nothing_is_known_of_is_named_where_it_is_made_anew() {
        let mut layout = node();
        layout.disk.iter_mut().for_each(|disk| disk.unused = disk.name == "ubde");
        let raw = |layout: &Layout| {
            unknown(layout, &[]).into_iter().map(|note| note.what).collect::<Vec<_>>()
        };
        assert_eq!(raw(&layout), ["/dev/ubdd5", "/dev/vg-data/lin"]);
        layout.partition.retain(|part| part.name != "ubdd5");
        layout.lv.retain(|lv| lv.name != "lin");
        assert_eq!(raw(&layout), [""; 0]);
        // A volume and a partition of a database.
        let volume = layout.fs.iter().find(|fs| fs.on.0.starts_with("lv:")).unwrap().on.clone();
        layout.fs.retain(|fs| fs.on != volume && fs.on != Id::partition("ubdd1"));
        let volume = layout.dev(&volume).unwrap();
        assert_eq!(raw(&layout), ["/dev/ubdd1", &volume]);
        let told = Unprotected { what: format!("{volume} (x)"), why: "ZFS".to_owned() };
        assert_eq!(unknown(&layout, &[told]).len(), 1);
        layout.disk.iter_mut().filter(|d| d.name == "ubdd").for_each(|disk| disk.unused = true);
        assert_eq!(raw(&layout), [volume]);
    }

    #[test]
    fn what_somebody_plugged_in_is_no_part_of_the_node() {
        let mut node = node();
        node.partition.retain(|part| part.disk != Id::disk("ubde"));
        let mut fs = node.fs[0].clone();
        (fs.id, fs.on) = (Id("fs:disk:ubde".to_owned()), Id::disk("ubde"));
        let id = fs.id.clone();
        node.fs.push(fs);
        let mut stick = node.mount[0].clone();
        (stick.fs, stick.root) = (id, None);
        node.mount.push(stick);
        let found = |change: fn(&mut Disk), at: &str, fstab: &[&str]| {
            let mut layout = node.clone();
            layout.disk.iter_mut().filter(|disk| disk.name == "ubde").for_each(change);
            layout.mount.last_mut().unwrap().path = at.into();
            let fstab = fstab.iter().map(Into::into).collect();
            let machine = Machine { fstab, ..Machine::default() };
            complete(&mut layout, &machine, Vec::new(), &|_| false);
            let used = layout.disk.iter().any(|disk| disk.name == "ubde" && !disk.unused);
            let about = |note: &Unprotected| note.what == at || note.what.contains("ubde");
            layout.unprotected.retain(about);
            (used, layout.unprotected)
        };
        let removable = |disk: &mut Disk| disk.removable = true;
        let usb = |disk: &mut Disk| disk.path = Some("pci-0000:00:14.0-usb-0:3:1.0-scsi-0".into());
        let at = "/media/joe/STICK";
        for change in [removable, usb] {
            let (used, notes) = found(change, at, &["/", "/media"]);
            let [note] = &notes[..] else { panic!("{notes:?}") };
            assert!(!used && note.what == at && note.why.contains("leaves it alone"), "{note:?}");
        }
        // A LUN stays where it is when the node dies; one that the node starts from is a part of it.
        let lun =
            |disk: &mut Disk| disk.path = Some("ip-10.1.2.3:3260-iscsi-iqn.2001:x-lun-1".into());
        let (used, notes) = found(lun, "/srv", &["/", "/srv"]);
        let [note] = &notes[..] else { panic!("{notes:?}") };
        assert!(!used && note.what == "/srv" && note.why.contains("iSCSI"), "{note:?}");
        assert_eq!(found(lun, "/var", &["/var"]), (true, Vec::new()));
        let mut all = node.clone();
        all.disk.iter_mut().for_each(lun);
        all.mount[0].path = "/".into();
        all.mount.last_mut().unwrap().path = "/srv".into();
        assert!(!is_on_network(&all, all.mount.last().unwrap()), "it starts from another one");
        all.disk.iter_mut().filter(|disk| disk.name != "ubde").for_each(|disk| disk.path = None);
        assert!(is_on_network(&all, all.mount.last().unwrap()));
        // What is built in, is there whenever the node starts, or is where a program has its data.
        assert_eq!(found(|_| (), at, &[]), (true, Vec::new()));
        assert_eq!(found(usb, at, &[at]), (true, Vec::new()));
        assert_eq!(found(removable, "/srv", &[]), (true, Vec::new()));
    }

    #[test]
    fn what_is_on_disks_in_use_is_named_and_the_rest_goes_with_its_disk() {
        let mut layout = node();
        let note = |device: &str| Unprotected { what: device.to_owned(), why: "LUKS".to_owned() };
        let contents = vec![
            (Id::partition("ubdd5"), note("/dev/ubdd5")),
            (Id::partition("ubde5"), note("/dev/ubde5")),
        ];
        complete(&mut layout, &Machine::default(), contents, &|_| false);
        let named = |what: &str| layout.unprotected.iter().any(|u| u.what == what);
        assert!(named("/dev/ubdd5") && !named("/dev/ubde5"));
    }

    #[test]
    fn what_is_on_partitions_of_unused_disks_is_named_with_the_disk() {
        let mut layout = node();
        let mut partition = layout.partition[0].clone();
        (partition.id, partition.name) = (Id::partition("ubde1"), "ubde1".to_owned());
        partition.disk = Id::disk("ubde");
        layout.partition.push(partition);
        let member =
            Content { kind: "zfs_member".into(), label: "tank".into(), ..Content::default() };
        let contents = [("ubde1".to_owned(), member)].into();
        let machine = Machine { contents, ..Machine::default() };
        let note = Unprotected { what: "/dev/ubde1".to_owned(), why: "ZFS".to_owned() };
        complete(&mut layout, &machine, vec![(Id::partition("ubde1"), note)], &|_| false);
        let ubde = layout.disk.iter().find(|disk| disk.name == "ubde").unwrap();
        assert_eq!(ubde.signatures.last().unwrap(), "zfs_member \"tank\" on ubde1");
    }

    #[test]
    fn what_cannot_be_made_again_is_named() {
        let mut layout = node();
        layout.lv[0].kind = "vdo".to_owned();
        layout.mount[0].fs = Id("fs:md:md126".to_owned());
        let device = layout.dev(&layout.lv[0].id).unwrap();
        let mount = layout.mount[0].path.to_string();
        let (_, notes) = finish(&mut layout);
        assert!(notes.iter().any(|n| n.starts_with(&device) && n.contains("vdo")), "{notes:#?}");
        assert!(notes.iter().any(|n| n.starts_with(&mount)), "{notes:#?}");
    }

    #[test]
    fn old_boot_code_on_a_data_disk_is_no_boot_loader() {
        let grub = |layout: &Layout| {
            let mut layout = layout.clone();
            complete(&mut layout, &Machine::default(), Vec::new(), &|_| true);
            layout.boot.grub_disk.iter().map(|id| id.0.clone()).collect::<Vec<_>>()
        };
        let mut layout = node();
        assert_eq!(grub(&layout), ["disk:ubdb", "disk:ubdc", "disk:ubdd"]);
        // Without room for the rest of GRUB: on GPT, and on an MBR.
        let ubdc = Id::disk("ubdc");
        layout.partition.retain(|p| p.disk != ubdc || p.type_code != BIOS_BOOT_TYPE);
        assert_eq!(grub(&layout), ["disk:ubdb", "disk:ubdd"]);
        layout.partition.iter_mut().filter(|p| p.name == "ubdd1").for_each(|p| p.start_bytes = 512);
        assert_eq!(grub(&layout), ["disk:ubdb"]);
        // With what GRUB would boot on it.
        let below = |mount: &Mount| layout.disks_below(&mount.fs).contains(&ubdc);
        let at = layout.mount.iter().position(below).unwrap();
        layout.mount[at].path = "/boot".into();
        assert!(grub(&layout).contains(&ubdc.0));
    }

    #[test]
    fn booting_is_recorded_of_disks_in_use_alone() {
        let mut layout = node();
        finish(&mut layout);
        let grub: Vec<&str> = layout.boot.grub_disk.iter().map(|id| id.0.as_str()).collect();
        assert_eq!(grub, ["disk:ubdb", "disk:ubdd"], "neither one without GRUB nor one unused");
        assert_eq!(layout.boot.esp, [Id("fs:part:ubdb2".to_owned())], "by its type");
        let mut uefi = node();
        uefi.boot.firmware = Firmware::Uefi;
        let own = uefi.partition.iter().find(|p| p.name == "ubdb2").unwrap().uuid.unwrap();
        let entry = |partition| EfiEntry {
            number: 1,
            label: "debian".to_owned(),
            partition,
            path: "\\EFI\\debian\\shimx64.efi".to_owned(),
            active: true,
        };
        uefi.boot.efi_entry = vec![entry(uuid::Uuid::nil()), entry(own)];
        finish(&mut uefi);
        assert!(uefi.boot.grub_disk.is_empty());
        assert_eq!(uefi.boot.efi_entry, [entry(own)], "not those of other disks");
    }
}
