use proptest::prelude::*;

use super::*;
use crate::layout::{ExtOptions, Table};
use crate::plan::testing::{GIB, MIB, blank, disk, empty, fs, gpt, mount, partition, raid_node};
use crate::plan::{Answers, Plan, Step, plan};

fn auto() -> Answers {
    Answers { auto: true, ..Answers::default() }
}

/// The node's disks, blank, with so many bytes each.
fn on_disks_of(recorded: &Layout, size_bytes: u64) -> Layout {
    let mut present = blank(recorded);
    present.disk.iter_mut().for_each(|disk| disk.size_bytes = disk.size_bytes.min(size_bytes));
    present
}

fn make_ext4(fs: &mut Fs, used_bytes: u64) {
    fs.used_bytes = used_bytes;
    fs.ext = Some(ExtOptions {
        block_bytes: 4096,
        blocks: fs.size_bytes / 4096,
        inode_bytes: 256,
        inodes: fs.size_bytes / 16384,
        reserved_blocks: fs.size_bytes / 4096 / 20,
        journal_bytes: Some(16 * MIB),
        ..ExtOptions::default()
    });
}

fn planned(recorded: &Layout, present: &Layout) -> Plan {
    plan(recorded, present, &auto()).unwrap()
}

fn bytes_of(layout: &Layout, id: &Id) -> u64 {
    device_bytes(layout, id).unwrap()
}

#[test]
fn what_a_group_has_free_goes_first() {
    let recorded = raid_node();
    let plan = planned(&recorded, &on_disks_of(&recorded, 15 * GIB));
    let is = &plan.layout;
    assert_eq!(is.lv.iter().map(|l| l.size_bytes).collect::<Vec<_>>(), [10 * GIB, GIB]);
    for part in ["sda3", "sdb3"].map(Id::partition) {
        let lost = bytes_of(&recorded, &part) - bytes_of(is, &part);
        // 19 GiB and 2 MiB of partitions, and the table.
        assert_eq!(lost, 4 * GIB + 3 * MIB, "{part:?}");
    }
    let md = &is.md[1];
    assert!(md.member_size_bytes.unwrap() + MIB <= bytes_of(is, &Id::partition("sda3")));
    let pv = &is.vg[0].pv[0];
    assert!(pv.pe_start_bytes + pv.extents * 4 * MIB <= md.size_bytes && pv.extents >= 2816);
    assert!(is.vg[0].metadata.is_empty(), "the old metadata speaks of a larger group");
    assert!(plan.notes.iter().any(|n| n.starts_with("sda3 becomes smaller: 14.0 GiB instead")));
    assert!(plan.identity_changes().iter().any(|c| c.what == "UUID of volume group vg0"));
    let text = plan.render_text();
    assert!(text.contains("md1 becomes smaller"), "{text}");
    assert_eq!(recorded.md[0], is.md[0], "/boot stays");
}

#[test]
fn volumes_and_filesystems_give_what_their_files_can_spare() {
    let mut recorded = raid_node();
    make_ext4(&mut recorded.fs[0], 2 * GIB);
    let plan = planned(&recorded, &on_disks_of(&recorded, 10 * GIB));
    let is = &plan.layout;
    assert_eq!(is.lv[1].size_bytes, GIB, "swap stays");
    let root = &is.lv[0];
    assert_eq!(root.size_bytes, root.segment[0].extents * 4 * MIB);
    assert!(root.size_bytes < 8 * GIB && root.size_bytes > 7 * GIB, "{root:?}");
    assert!(root.segment[0].on.is_empty());
    let ext = is.fs[0].ext.as_ref().unwrap();
    assert_eq!(ext.blocks * 4096, root.size_bytes);
    assert_eq!(ext.reserved_blocks, ext.blocks / 20);
    let Some(Step::CreateLv(step)) = plan.steps.iter().find(|s| matches!(s, Step::CreateLv(_)))
    else {
        panic!("no volume is made");
    };
    assert_eq!(step.lv.segment[0].extents, root.segment[0].extents);
    // 2.2 GiB of files cannot be had on less.
    let refusal = crate::plan::plan(&recorded, &on_disks_of(&recorded, 4 * GIB), &auto());
    let text = refusal.unwrap_err().to_string();
    assert!(text.contains("as small as its files allow"), "{text}");
}

/// The node's disks, blank, with so many more bytes each.
fn on_larger_disks(recorded: &Layout, more_bytes: &[u64]) -> Layout {
    let mut present = blank(recorded);
    for (disk, more) in present.disk.iter_mut().zip(more_bytes) {
        disk.size_bytes += more;
    }
    present
}

#[test]
fn larger_disks_are_used_when_that_is_asked_for() {
    let mut recorded = raid_node();
    make_ext4(&mut recorded.fs[0], 2 * GIB);
    let present = on_larger_disks(&recorded, &[10 * GIB, 5 * GIB]);
    assert_eq!(planned(&recorded, &present).layout.partition, recorded.partition);
    let plan = plan(&recorded, &present, &Answers { grow: true, ..auto() }).unwrap();
    let is = &plan.layout;
    let gained = |id: &Id| bytes_of(is, id) - bytes_of(&recorded, id);
    let (a, b) = (gained(&Id::partition("sda3")), gained(&Id::partition("sdb3")));
    assert!(a >= 10 * GIB && (5 * GIB..6 * GIB).contains(&b), "{a} {b}");
    // The array has what both members have, and the one volume that can grow takes it.
    let md = gained(&recorded.md[1].id);
    assert!(md <= b && md + 2 * MIB > b, "{md} of {b}");
    let root = gained(&recorded.lv[0].id);
    assert!(root <= md && root + 8 * MIB > md, "{root} of {md}");
    assert_eq!(is.lv[1].size_bytes, GIB, "swap stays");
    assert_eq!(recorded.md[0], is.md[0], "/boot stays");
    let ext = is.fs[0].ext.as_ref().unwrap();
    assert_eq!(ext.blocks * 4096, is.lv[0].size_bytes);
    assert_eq!(ext.inodes, ext.blocks / 4, "as many inodes for each GiB");
    assert!(plan.render_text().contains("md1 becomes larger"));
}

#[test]
fn an_array_on_whole_disks_goes_with_them() {
    let mut recorded = raid_node();
    make_ext4(&mut recorded.fs[0], 2 * GIB);
    // Its second array, on disks of their own that have some bytes more than it takes.
    let md = &mut recorded.md[1];
    for (member, name) in md.member.iter_mut().zip(["sdx", "sdy"]) {
        let serial = Some(name.to_owned());
        recorded.disk.push(Disk { serial, ..disk(name, 18 * GIB + 7 * MIB) });
        member.on = Id::disk(name);
    }
    let before = recorded.md[1].member_size_bytes.unwrap();
    let member_bytes = |bytes: u64| {
        let mut present = blank(&recorded);
        for disk in present.disk.iter_mut().filter(|d| ["sdx", "sdy"].contains(&d.name.as_str())) {
            disk.size_bytes = bytes;
        }
        let plan = plan(&recorded, &present, &Answers { grow: true, ..auto() }).unwrap();
        plan.layout.md[1].member_size_bytes.unwrap()
    };
    let need = map::need(&recorded, &recorded.disk[recorded.disk.len() - 1]);
    assert_eq!(member_bytes(need - 4 * GIB), round_down(before) - 4 * GIB);
    assert_eq!(member_bytes(need), before);
    assert_eq!(member_bytes(need + 4 * GIB), round_down(before + 4 * GIB));
}

/// A node with one MBR disk of 10 GiB: a primary partition and two logical ones.
fn logical_node() -> Layout {
    let mut layout = empty();
    let mut sda = disk("sda", 10 * GIB);
    sda.table = Some(Table::Mbr { signature: 0x1234_5678 });
    sda.signatures = vec!["dos".into()];
    layout.disk.push(sda);
    let mut add = |number, start, size_bytes, kind| {
        let mut part = partition("sda", number, start, size_bytes);
        (part.kind, part.uuid, part.type_code) = (kind, None, "0x83".into());
        if kind == PartitionKind::Logical {
            part.ebr_bytes = Some(start - MIB);
        }
        let id = part.id.clone();
        layout.partition.push(part);
        id
    };
    let root = add(1, MIB, 4 * GIB, PartitionKind::Primary);
    add(2, 4 * GIB + MIB, 5 * GIB, PartitionKind::Extended);
    let var = add(5, 4 * GIB + 2 * MIB, 2 * GIB, PartitionKind::Logical);
    let home = add(6, 6 * GIB + 3 * MIB, 2 * GIB, PartitionKind::Logical);
    layout.partition[1].type_code = "0x05".into();
    for (on, path, used) in [(&root, "/", GIB), (&var, "/var", GIB), (&home, "/home", GIB / 2)] {
        let mut fs = fs(on, "ext4", bytes_of(&layout, on));
        make_ext4(&mut fs, used);
        layout.mount.push(mount(path, &fs.id));
        layout.fs.push(fs);
    }
    layout
}

#[test]
fn logical_partitions_move_with_their_records() {
    let layout = logical_node();
    let gap =
        |e: &Partition, l: &Partition| e.start_bytes + e.size_bytes - l.start_bytes - l.size_bytes;
    let larger = on_larger_disks(&layout, &[90 * GIB]);
    let grown = plan(&layout, &larger, &Answers { grow: true, ..auto() }).unwrap();
    let plan = planned(&layout, &on_disks_of(&layout, 8 * GIB));
    for (plan, size_bytes) in [(&plan, 8 * GIB), (&grown, 100 * GIB)] {
        let [p1, p2, p5, p6] = &plan.layout.partition[..] else { panic!("four partitions") };
        assert_eq!(p2.start_bytes, p1.start_bytes + p1.size_bytes);
        assert_eq!(p5.start_bytes, p2.start_bytes + MIB);
        assert_eq!(p5.ebr_bytes, Some(p2.start_bytes));
        assert_eq!(p6.ebr_bytes, Some(p5.start_bytes + p5.size_bytes));
        assert_eq!(p6.start_bytes, p6.ebr_bytes.unwrap() + MIB);
        let end = p2.start_bytes + p2.size_bytes;
        assert!(end <= size_bytes && end > size_bytes - 2 * GIB, "{end}");
        // The gap behind the last one is part of the extended partition, and stays.
        assert_eq!(gap(p2, p6), gap(&layout.partition[1], &layout.partition[3]));
    }
    // 32 bits for sectors.
    let huge = on_larger_disks(&layout, &[4096 * GIB]);
    let plan = crate::plan::plan(&layout, &huge, &Answers { grow: true, ..auto() }).unwrap();
    let end = |p: &Partition| p.start_bytes + p.size_bytes;
    let last = plan.layout.partition.iter().map(end).max().unwrap();
    assert!(last <= 2048 * GIB && last > 2000 * GIB, "{last}");
}

#[test]
fn a_disk_that_is_large_enough_is_taken_before_a_smaller_one() {
    let mut recorded = empty();
    let mut sda = disk("sda", 10 * GIB);
    gpt(&mut sda, 1);
    recorded.disk.push(sda);
    recorded.partition.push(partition("sda", 1, MIB, 9 * GIB));
    let mut root = fs(&Id::partition("sda1"), "ext4", 9 * GIB);
    make_ext4(&mut root, GIB);
    recorded.mount.push(mount("/", &root.id));
    recorded.fs.push(root);
    let mut present = empty();
    present.disk.extend([disk("vda", 5 * GIB), disk("vdb", 12 * GIB)]);
    let plan = planned(&recorded, &present);
    assert_eq!(plan.disks[0].new.name.as_str(), "vdb");
    let [unused] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
    assert_eq!(unused, "vdb has 2.0 GiB more than sda had, which stay unused: --grow uses them.");
    present.disk.pop();
    let plan = planned(&recorded, &present);
    assert_eq!(plan.disks[0].new.name, "vda");
    assert!(plan.layout.partition[0].size_bytes < 5 * GIB);
}

/// A disk with up to five partitions: length in MiB, the part of it that is used in percent; none
/// for what keeps its size.
fn machine(parts: &[(u64, Option<u64>)]) -> Layout {
    let mut layout = empty();
    let mut at = MIB;
    for ((mib, used), number) in parts.iter().zip(1..) {
        let part = partition("sda", number, at, mib * MIB);
        at += (mib + u64::from(number % 2) * 3) * MIB;
        let mut fs = fs(&part.id, "ext4", part.size_bytes);
        make_ext4(&mut fs, used.map_or(0, |percent| part.size_bytes / 100 * percent));
        let path = if number == 1 { "/".to_owned() } else { format!("/{number}") };
        layout.mount.push(mount(&path, &fs.id));
        layout.fs.push(fs);
        layout.partition.push(part);
    }
    let mut sda = disk("sda", at + 20 * MIB);
    gpt(&mut sda, 1);
    layout.disk.push(sda);
    layout
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_fitted_fits_and_holds_the_files(
        parts in prop::collection::vec((100..4000_u64, prop::option::weighted(0.7, 1..100_u64)), 1..5),
        percent in 20..100_u64,
        few_bytes in 0..2048_u64,
    ) {
        let recorded = machine(&parts);
        let sectors = recorded.disk[0].size_bytes / 100 * percent / 512 + few_bytes;
        let present = on_disks_of(&recorded, sectors * 512);
        let least = least_bytes(&recorded, &recorded.disk[0]);
        let planned = plan(&recorded, &present, &auto());
        prop_assert_eq!(planned.is_ok(), present.disk[0].size_bytes >= least, "{:?}", planned);
        let Ok(plan) = planned else { return Ok(()) };
        let mut end = 0;
        for (was, is) in recorded.partition.iter().zip(&plan.layout.partition) {
            prop_assert!(is.start_bytes >= end && is.start_bytes % MIB == 0 && is.size_bytes > 0);
            prop_assert!(is.size_bytes <= was.size_bytes);
            end = is.start_bytes + is.size_bytes;
            let mut same = is.clone();
            (same.start_bytes, same.size_bytes) = (was.start_bytes, was.size_bytes);
            prop_assert_eq!(&same, was, "all but place and size");
        }
        prop_assert!(end + 33 * 512 <= present.disk[0].size_bytes);
        for ((was, fs), part) in recorded.fs.iter().zip(&plan.layout.fs).zip(&plan.layout.partition) {
            prop_assert!(fs.size_bytes <= part.size_bytes);
            let ext = fs.ext.as_ref().unwrap();
            let metadata = ext.inodes * ext.inode_bytes + ext.journal_bytes.unwrap();
            let holds = ext.blocks * 4096 >= fs.used_bytes + metadata;
            prop_assert!(holds || fs == was, "{:?}", fs);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_grown_fits_and_fills_the_disk(
        parts in prop::collection::vec((100..4000_u64, prop::option::weighted(0.7, 1..100_u64)), 1..5),
        more_sectors in 0..40_000_000_u64,
    ) {
        let recorded = machine(&parts);
        let present = on_larger_disks(&recorded, &[more_sectors * 512]);
        let plan = plan(&recorded, &present, &Answers { grow: true, ..auto() }).unwrap();
        let (was, is) = (&recorded.partition, &plan.layout.partition);
        let grows = parts.iter().map(|(_, used)| used.is_some());
        let mut end = 0;
        for ((was, is), grows) in was.iter().zip(is).zip(grows) {
            prop_assert!(is.start_bytes >= end && is.start_bytes % MIB == 0);
            prop_assert!(is.size_bytes >= was.size_bytes && (grows || is.size_bytes == was.size_bytes));
            end = is.start_bytes + is.size_bytes;
        }
        let size_bytes = present.disk[0].size_bytes;
        prop_assert!(end + 33 * 512 <= size_bytes);
        if parts.iter().any(|(_, used)| used.is_some()) {
            // Less than a unit for each is left, and what the machine had behind the last one.
            prop_assert!(end + 33 * 512 + 5 * MIB + 4 * MIB > size_bytes, "{} of {}", end, size_bytes);
        }
        for (fs, part) in plan.layout.fs.iter().zip(is) {
            prop_assert!(fs.size_bytes == part.size_bytes);
        }
    }
}

/// Two disks with a group on both: one striped volume, one that is not.
fn striped_node() -> Layout {
    let mut layout = empty();
    let mut node = raid_node();
    let mut vg = node.vg.remove(0);
    (vg.pv, vg.metadata) = (Vec::new(), String::new());
    for name in ["sda", "sdb"] {
        let mut disk = disk(name, 20 * GIB);
        gpt(&mut disk, name.as_bytes()[2]);
        disk.serial = Some(name.to_uppercase());
        layout.disk.push(disk);
        let part = partition(name, 1, MIB, 20 * GIB - 2 * MIB);
        vg.pv.push(crate::layout::Pv {
            on: part.id.clone(),
            uuid: format!("PV-{name}"),
            size_bytes: part.size_bytes,
            pe_start_bytes: MIB,
            extents: 5119,
            tags: Vec::new(),
        });
        layout.partition.push(part);
    }
    layout.vg.push(vg);
    for (mut lv, kind, extents) in
        node.lv.drain(..).zip(["striped", "linear"]).map(|(lv, kind)| (lv, kind, 4000))
    {
        let segment = &mut lv.segment[0];
        (segment.kind, segment.extents) = (kind.into(), extents);
        (segment.stripes, segment.stripe_bytes) =
            if kind == "striped" { (2, 65536) } else { (1, 0) };
        segment.on = vec!["part:sda1:0-1".into(), "part:sdb1:0-1".into()];
        (lv.kind, lv.size_bytes) = (kind.into(), extents * 4 * MIB);
        let mut fs = fs(&lv.id, "ext4", lv.size_bytes);
        make_ext4(&mut fs, 2 * GIB);
        let path = if layout.mount.is_empty() { "/" } else { "/data" };
        layout.mount.push(mount(path, &fs.id));
        layout.fs.push(fs);
        layout.lv.push(lv);
    }
    layout
}

fn on_disks_with(recorded: &Layout, gib: [u64; 2]) -> Layout {
    let mut present = blank(recorded);
    for (disk, gib) in present.disk.iter_mut().zip(gib) {
        disk.size_bytes = gib * GIB;
    }
    present
}

/// Every stripe has its own physical volume, and no extent is used twice.
fn lies_well(layout: &Layout) {
    let mut used = BTreeMap::<String, Vec<(u64, u64)>>::new();
    for lv in &layout.lv {
        for segment in &lv.segment {
            let mut sizes = Vec::new();
            for place in &segment.on {
                let (on, range) = place.rsplit_once(':').unwrap();
                let (first, last) = range.split_once('-').unwrap();
                let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
                sizes.push(last + 1 - first);
                used.entry(on.to_owned()).or_default().push((first, last));
            }
            assert!(sizes.iter().all(|size| size * u64::from(segment.stripes) == segment.extents));
        }
        assert_eq!(lv.size_bytes, lv.segment.iter().map(|s| s.extents).sum::<u64>() * 4 * MIB);
    }
    for pv in &layout.vg[0].pv {
        let mut ranges = used.remove(&pv.on.0).unwrap_or_default();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
        assert!(ranges.last().is_none_or(|(_, last)| *last < pv.extents), "{ranges:?} {pv:?}");
    }
    assert!(used.is_empty());
}

#[test]
fn striped_volumes_are_laid_out_anew_on_smaller_and_larger_disks() {
    let recorded = striped_node();
    for (gib, grow) in [([15, 15], false), ([11, 20], false), ([30, 30], true), ([20, 30], true)] {
        let answers = Answers { grow, ..auto() };
        let plan = plan(&recorded, &on_disks_with(&recorded, gib), &answers).unwrap();
        let is = &plan.layout;
        lies_well(is);
        let striped = &is.lv[0].segment;
        assert_eq!((striped.len(), striped[0].on.len()), (1, 2), "{gib:?}");
        let bytes = |n: usize| is.lv[n].size_bytes;
        let (was, all) = (4000 * 4 * MIB, bytes(0) + bytes(1));
        match (grow, gib) {
            (false, _) => assert!(all < 2 * was && bytes(0) < was, "{gib:?}"),
            (true, [30, 30]) => assert!(bytes(0) > was + 8 * GIB && bytes(1) > was + 8 * GIB),
            (true, _) => assert!(bytes(0) >= was && bytes(1) >= was && all > 2 * was, "{gib:?}"),
        }
        let ext = is.fs[0].ext.as_ref().unwrap();
        assert_eq!(ext.blocks * 4096, bytes(0));
    }
}

#[test]
fn stripes_that_have_no_two_disks_to_lie_on_are_refused_by_name() {
    // With all the room that there is on a third disk.
    let mut recorded = striped_node();
    let mut third = disk("sdc", 60 * GIB);
    third.serial = Some("SDC".into());
    recorded.disk.push(third);
    let pv = recorded.vg[0].pv[0].clone();
    let (on, uuid) = (Id::disk("sdc"), "PV-sdc".into());
    recorded.vg[0].pv.push(crate::layout::Pv {
        on,
        uuid,
        size_bytes: 60 * GIB,
        extents: 15359,
        ..pv
    });
    recorded.fs[0].used_bytes = 11 * GIB;
    recorded.lv.truncate(1);
    recorded.fs.truncate(1);
    recorded.mount.truncate(1);
    let text = plan(&recorded, &on_disks_with(&recorded, [5, 5]), &auto()).unwrap_err();
    assert!(text.to_string().contains("vg0 don't fit on disks of these sizes"), "{text}");
}

#[test]
fn the_devices_of_a_btrfs_give_and_take_each_its_part() {
    let mut recorded = striped_node();
    (recorded.vg, recorded.lv, recorded.fs) = (Vec::new(), Vec::new(), Vec::new());
    let device = |name: &str| crate::layout::BtrfsDevice {
        on: Id::partition(name),
        size_bytes: 20 * GIB - 2 * MIB,
    };
    let mut pool = fs(&Id::partition("sda1"), "btrfs", 40 * GIB - 4 * MIB);
    pool.used_bytes = 4 * GIB;
    pool.btrfs = Some(Box::new(crate::layout::BtrfsOptions {
        sector_bytes: 4096,
        data_profile: "raid1".into(),
        metadata_profile: "raid1".into(),
        devices: 2,
        device: vec![device("sda1"), device("sdb1")],
        ..crate::layout::BtrfsOptions::default()
    }));
    recorded.mount = vec![mount("/", &pool.id)];
    recorded.fs.push(pool);
    let sizes = |gib: [u64; 2], grow: bool| {
        let answers = Answers { grow, ..auto() };
        let plan = plan(&recorded, &on_disks_with(&recorded, gib), &answers)?;
        let fs = &plan.layout.fs[0];
        let devices: Vec<_> =
            fs.btrfs.iter().flat_map(|b| &b.device).map(|d| d.size_bytes / GIB).collect();
        assert_eq!(
            fs.size_bytes,
            fs.btrfs.as_ref().unwrap().device.iter().map(|d| d.size_bytes).sum::<u64>()
        );
        Ok::<_, crate::plan::Refusal>(devices)
    };
    assert_eq!(sizes([10, 20], false).unwrap(), [9, 19]);
    assert_eq!(sizes([30, 30], true).unwrap(), [29, 29]);
    assert_eq!(sizes([10, 10], false).unwrap(), [9, 9]);
    // Two copies of 4 GiB of files.
    assert!(sizes([4, 4], false).unwrap_err().to_string().contains("too small"));
    recorded.fs[0].btrfs.as_mut().unwrap().data_profile = "raid5".into();
    let present = on_disks_with(&recorded, [15, 15]);
    assert!(plan(&recorded, &present, &auto()).unwrap_err().to_string().contains("too small"));
}

#[test]
fn of_unequal_devices_a_btrfs_with_copies_gives_nothing() {
    let mut recorded = empty();
    let mut pool = fs(&Id::disk("sda"), "btrfs", 1124 * GIB);
    pool.used_bytes = 90 * GIB;
    let mut btrfs = crate::layout::BtrfsOptions {
        sector_bytes: 4096,
        data_profile: "raid1".into(),
        metadata_profile: "raid1".into(),
        devices: 2,
        ..crate::layout::BtrfsOptions::default()
    };
    for (name, gib) in [("sda", 1024), ("sdb", 100)] {
        let mut disk = disk(name, gib * GIB);
        disk.serial = Some(format!("SER-{name}"));
        recorded.disk.push(disk);
        let on = Id::disk(name);
        btrfs.device.push(crate::layout::BtrfsDevice { on, size_bytes: gib * GIB });
    }
    pool.btrfs = Some(Box::new(btrfs));
    recorded.mount = vec![mount("/", &pool.id)];
    recorded.fs.push(pool);
    let mut present = blank(&recorded);
    present.disk[1].size_bytes = 30 * GIB;
    // All of the second copy is on the small one.
    let text = plan(&recorded, &present, &auto()).unwrap_err().to_string();
    assert!(text.contains("sdb"), "{text}");
    recorded.fs[0].btrfs.as_mut().unwrap().data_profile = "single".into();
    plan(&recorded, &present, &auto()).unwrap();
}
