//! Plans with several recorded disks on one.

use super::*;
use crate::plan::testing::{GIB, MIB, blank, disk, empty, fs, gpt, mount, partition, raid_node};
use crate::plan::{Plan, Step, plan};

/// The system on a GPT, a group on a whole disk, and an MBR with a logical partition.
fn node() -> Layout {
    let mut layout = empty();
    let mut system = disk("sda", 10 * GIB);
    gpt(&mut system, 1);
    let group = disk("sdb", 8 * GIB);
    let mut old = disk("sdc", 4 * GIB);
    old.table = Some(Table::Mbr { signature: 0xdead_beef });
    for (n, mut disk) in [system, group, old].into_iter().enumerate() {
        disk.serial = Some(format!("SER{n}"));
        layout.disk.push(disk);
    }
    layout.partition.push(partition("sda", 1, MIB, 2 * GIB));
    layout.partition.push(partition("sda", 5, 4 * GIB, 2 * GIB));
    for (number, kind, start, bytes, ebr) in [
        (1, PartitionKind::Primary, MIB, GIB, None),
        (2, PartitionKind::Extended, 2 * GIB, GIB, None),
        (5, PartitionKind::Logical, 2 * GIB + MIB, GIB - MIB, Some(2 * GIB)),
    ] {
        let part = partition("sdc", number, start, bytes);
        let type_code = if kind == PartitionKind::Extended { "0x05" } else { "0x83" };
        layout.partition.push(Partition {
            kind,
            type_code: type_code.into(),
            uuid: None,
            ebr_bytes: ebr,
            ..part
        });
    }
    let group = raid_node();
    let mut vg = group.vg[0].clone();
    vg.pv[0].on = Id::disk("sdb");
    vg.pv[0].size_bytes = 8 * GIB;
    vg.pv[0].extents = 2047;
    layout.vg.push(vg);
    let mut lv = group.lv[1].clone();
    lv.segment[0].on = vec!["disk:sdb:2560-2815".into()];
    layout.lv.push(lv);
    let volume = layout.lv[0].id.clone();
    for (path, on) in
        [("/", Id::partition("sda1")), ("/srv", volume), ("/old", Id::partition("sdc5"))]
    {
        let fs = fs(&on, "ext4", GIB / 2);
        layout.mount.push(mount(path, &fs.id));
        layout.fs.push(fs);
    }
    layout
}

fn all_on(new: &str) -> Answers {
    let map = ["sda", "sdb", "sdc"].map(|old| (old.to_owned(), new.to_owned()));
    Answers { auto: true, map: map.to_vec(), ..Answers::default() }
}

fn planned(size_bytes: u64) -> Result<Plan, crate::plan::Refusal> {
    let mut present = empty();
    present.disk.push(disk("vda", size_bytes));
    plan(&node(), &present, &all_on("/dev/vda"))
}

fn node_without_volumes() -> Layout {
    let mut node = node();
    node.vg.clear();
    node.lv.clear();
    node.fs.retain(|fs| !fs.on.0.starts_with("lv:"));
    node.mount.retain(|m| m.path.as_path() != std::path::Path::new("/srv"));
    node
}

#[test]
fn what_was_on_several_disks_is_behind_each_other_on_one() {
    let plan = planned(30 * GIB).unwrap();
    assert_eq!(plan.erases().len(), 1);
    assert_eq!(plan.disks[0].why, "you said so; with sdb; with sdc");
    let parts: Vec<_> = plan
        .layout
        .partition
        .iter()
        .map(|p| (p.name.as_str(), p.start_bytes / MIB, p.size_bytes / MIB, p.type_code.get(..8)))
        .collect();
    let (linux, lvm) = (Some("0fc63daf"), Some("e6d6d379"));
    assert_eq!(
        parts,
        [
            ("vda1", 1, 2048, linux),
            ("vda5", 4096, 2048, linux),
            ("vda6", 6144, 8192, lvm),
            ("vda7", 14336, 1024, linux),
            ("vda8", 16384, 1023, linux),
        ]
    );
    // All that had an identity keeps it; what an MBR had none of gets one, and it is told.
    let was = node();
    assert_eq!(plan.layout.partition[0].uuid, was.partition[0].uuid);
    let changes: Vec<_> = plan.identity_changes().iter().map(|c| (&*c.what, &*c.old)).collect();
    assert_eq!(changes, [("PARTUUID of sdc1", "deadbeef-01"), ("PARTUUID of sdc5", "deadbeef-05")]);
    assert_eq!(plan, planned(30 * GIB).unwrap());
    let restored = plan.steps.iter().any(|step| match step {
        Step::CreateVg(step) => step.restore && step.devices == ["/dev/vda6"],
        _ => false,
    });
    assert!(restored, "{}", plan.render_text());
    assert!(plan.render_text().contains("becomes:   sda (you said so; with sdb; with sdc)"));
}

#[test]
fn they_need_the_room_of_all_and_no_one_else_may_carry_their_data() {
    let text = planned(9 * GIB).unwrap_err().to_string();
    assert!(text.contains("vda is too small for recorded sda"), "{text}");
    // The old disk of the group is still there.
    let mut present = blank(&node());
    present.disk.push(disk("vda", 30 * GIB));
    present.disk[1].signatures = vec!["LVM2_member".into()];
    present.vg = node().vg;
    let text = plan(&node(), &present, &all_on("vda")).unwrap_err().to_string();
    assert!(text.contains("sdb stays and holds a volume group vg0"), "{text}");
}

#[test]
fn where_no_disk_is_left_the_answer_is_named() {
    let mut present = empty();
    present.disk = vec![disk("vda", 20 * GIB), disk("vdb", 5 * GIB)];
    let given = ["sda=vda", "sdc=vdb"].map(|pair| pair.split_once('=').unwrap());
    let map = given.map(|(old, new)| (old.to_owned(), new.to_owned())).to_vec();
    let text = plan(&node(), &present, &Answers { map, ..Answers::default() });
    let text = text.unwrap_err().to_string();
    let hint =
        "attach a disk of at least 1.0 GiB, or have both on one: --map sda=vda --map sdb=vda";
    assert!(text.contains(hint), "{text}");
}

#[test]
fn members_of_one_array_and_a_table_without_room_are_refused_by_name() {
    let map = ["sda", "sdb"].map(|old| (old.to_owned(), "sda".to_owned())).to_vec();
    let node = raid_node();
    let text = plan(&node, &node, &Answers { map: map.clone(), ..Answers::default() });
    let text = text.unwrap_err().to_string();
    assert!(text.contains("md0 (raid1) would have the members of sda and sdb"), "{text}");
    assert!(text.contains("hint: leave one of them out: --map sdb=none"), "{text}");
    // Four primary partitions, and no more.
    let mut node = self::node();
    node.boot.grub_disk = vec![Id::disk("sdc")];
    for number in [3, 4] {
        let start = 3 * GIB + u64::from(number) * 100 * MIB;
        let part = partition("sdc", number, start, 100 * MIB);
        let (kind, uuid) = (PartitionKind::Primary, None);
        node.partition.push(Partition { kind, uuid, type_code: "0x83".into(), ..part });
    }
    let map = ["sdc", "sdb"].map(|old| (old.to_owned(), "vda".to_owned())).to_vec();
    let mut present = blank(&node);
    present.disk.push(disk("vda", 20 * GIB));
    let text = plan(&node, &present, &Answers { map, ..Answers::default() });
    let text = text.unwrap_err().to_string();
    assert!(text.contains("the partition table of sdc has no place for sdb"), "{text}");
    node.partition.retain(|p| p.number < 3 || p.disk != Id::disk("sdc"));
    let map = ["sdc", "sdb"].map(|old| (old.to_owned(), "vda".to_owned())).to_vec();
    node.partition.retain(|p| p.kind != PartitionKind::Logical);
    node.fs.retain(|fs| fs.on != Id::partition("sdc5"));
    node.mount.retain(|m| m.path.as_path() != std::path::Path::new("/old"));
    let plan = plan(&node, &present, &Answers { map, ..Answers::default() }).unwrap();
    let group = plan.layout.partition.iter().find(|p| p.id == whole(&Id::disk("sdb"))).unwrap();
    assert_eq!((group.name.as_str(), group.type_code.as_str()), ("vda3", "0x8e"));
}

#[test]
fn partitions_of_two_disks_that_are_copies_get_an_identity_each() {
    let mut node = node();
    let gone = |id: &Id| id.0.starts_with("part:sdc");
    node.partition.retain(|p| !gone(&p.id));
    node.fs.retain(|fs| !gone(&fs.on));
    node.mount.retain(|m| m.path.as_path() != std::path::Path::new("/old"));
    let uuid = node.partition[0].uuid;
    node.partition.push(Partition { uuid, ..partition("sdc", 1, MIB, GIB) });
    gpt(&mut node.disk[2], 3);
    let mut present = empty();
    present.disk.push(disk("vda", 30 * GIB));
    let made = plan(&node, &present, &all_on("vda")).unwrap();
    let uuids: BTreeSet<_> = made.layout.partition.iter().filter_map(|p| p.uuid).collect();
    assert_eq!(uuids.len(), made.layout.partition.len());
    assert!(uuids.contains(&uuid.unwrap()));
    // The name is still that of sda1: root=PARTUUID= of it must not become sdc1's.
    assert!(made.identity_changes().is_empty(), "{:?}", made.identity_changes());
    let told = made.notes.iter().find(|note| note.starts_with("PARTUUID of sdc1 is ")).unwrap();
    assert!(told.contains(&uuid.unwrap().to_string()), "{told}");
    assert!(told.contains("as that of sda1, which stays"), "{told}");
}

#[test]
fn a_name_that_two_had_and_none_keeps_is_refused() {
    let mut node = empty();
    for name in ["sda", "sdb", "sdc"] {
        let mut disk = disk(name, 2 * GIB);
        disk.table = Some(Table::Mbr { signature: if name == "sda" { 1 } else { 2 } });
        disk.serial = Some(format!("SER-{name}"));
        node.disk.push(disk);
        let part = partition(name, 1, MIB, GIB);
        let (kind, uuid) = (PartitionKind::Primary, None);
        let fs = fs(&part.id, "ext4", GIB);
        node.mount.push(mount(&format!("/{name}"), &fs.id));
        node.fs.push(fs);
        node.partition.push(Partition { kind, uuid, type_code: "0x83".into(), ..part });
    }
    node.mount[0].path = "/".into();
    let mut present = empty();
    present.disk.push(disk("vda", 10 * GIB));
    let text = plan(&node, &present, &all_on("vda")).unwrap_err().to_string();
    assert!(text.contains("00000002-01 was the name of sdb1 and sdc1"), "{text}");
}

#[test]
fn a_whole_disk_of_a_raid0_keeps_its_size_as_a_partition() {
    let mut node = node_without_volumes();
    let mut md = raid_node().md.remove(0);
    md.level = "raid0".into();
    (md.size_bytes, md.member_size_bytes, md.raid_devices) = (10 * GIB - MIB, None, 2);
    md.member[0].on = Id::disk("sdb");
    md.member[1].on = Id::partition("sda5");
    let fs = fs(&md.id, "ext4", 9 * GIB);
    node.mount.push(mount("/srv", &fs.id));
    (node.md, node.boot) = (vec![md], crate::layout::Boot::default());
    node.fs.push(fs);
    let mut present = empty();
    present.disk.push(disk("vda", 30 * GIB));
    let plan = plan(&node, &present, &all_on("vda")).unwrap();
    let part = plan.layout.partition.iter().find(|p| p.id == whole(&Id::disk("sdb"))).unwrap();
    assert_eq!(part.size_bytes, 8 * GIB);
}

#[test]
fn the_log_of_an_xfs_on_a_whole_disk_gets_a_partition() {
    let mut node = node_without_volumes();
    let (blocks, log_blocks, log_on) = (400_000, 20_000, Some(Id::disk("sdb")));
    let xfs = crate::layout::XfsOptions {
        block_bytes: 4096,
        blocks,
        agcount: 4,
        log_blocks,
        log_on,
        ..crate::layout::XfsOptions::default()
    };
    let fs = &mut node.fs[0];
    (fs.kind, fs.size_bytes, fs.xfs) = ("xfs".into(), blocks * 4096, Some(xfs));
    node.boot = crate::layout::Boot::default();
    let mut present = empty();
    present.disk.push(disk("vda", 30 * GIB));
    let plan = plan(&node, &present, &all_on("vda")).unwrap();
    let part = plan.layout.partition.iter().find(|p| p.id == whole(&Id::disk("sdb"))).unwrap();
    assert_eq!(part.size_bytes, (log_blocks * 4096_u64).next_multiple_of(MIB));
    let script = plan.render_script();
    assert!(script.contains(&format!("-l logdev=/dev/{},", part.name)), "{script}");
}

#[test]
fn a_whole_disk_of_an_array_gets_a_partition_with_room_for_a_superblock_behind_the_data() {
    const KIB: u64 = 1 << 10;
    let mut node = node_without_volumes();
    let mut md = raid_node().md.remove(0);
    md.data_offset_bytes = None;
    md.member.truncate(1);
    md.member[0].on = Id::disk("sdb");
    let fs = fs(&md.id, "ext4", GIB);
    node.mount.push(mount("/srv", &fs.id));
    (node.md, node.boot) = (vec![md], crate::layout::Boot::default());
    node.fs.push(fs);
    let mut present = empty();
    present.disk.push(disk("vda", 30 * GIB));
    // As on all of a disk of 8 GiB, and as with mdadm --size.
    for (metadata, member_bytes) in [
        ("0.90", 8 * GIB - 64 * KIB),
        ("1.0", 8 * GIB - 140 * KIB),
        ("0.90", 4 * GIB),
        ("1.0", 4 * GIB),
    ] {
        let md = &mut node.md[0];
        md.metadata = metadata.into();
        (md.size_bytes, md.member_size_bytes) = (member_bytes, Some(member_bytes));
        let plan = plan(&node, &present, &all_on("vda")).unwrap();
        let part = plan.layout.partition.iter().find(|p| p.id == whole(&Id::disk("sdb"))).unwrap();
        // The block before the last whole one of 64 KiB; 8 KiB, aligned, and the bitmap before it.
        let room = match metadata {
            "0.90" => part.size_bytes / (64 * KIB) * (64 * KIB) - 64 * KIB,
            _ => part.size_bytes - 12 * KIB - 128 * KIB,
        };
        assert!(
            room >= member_bytes,
            "{metadata}: {room} of {} for {member_bytes}",
            part.size_bytes
        );
        assert!(part.size_bytes <= 8 * GIB);
    }
}

#[test]
fn a_name_that_an_mbr_can_not_have_is_told_and_becomes_its_number() {
    let mut node = node();
    node.boot.grub_disk = vec![Id::disk("sdc")];
    node.partition[0].label = "system".into();
    node.partition[1].label = "primary".into();
    node.partition.push(Partition { label: "primary".into(), ..partition("sda", 6, 6 * GIB, GIB) });
    node.partition.retain(|p| p.disk != Id::disk("sdc") || p.kind == PartitionKind::Primary);
    node.fs.retain(|fs| fs.on != Id::partition("sdc5"));
    node.mount.retain(|m| m.path.as_path() != std::path::Path::new("/old"));
    let map = ["sda", "sdc"].map(|old| (old.to_owned(), "vda".to_owned())).to_vec();
    let mut present = empty();
    present.disk = vec![disk("vda", 20 * GIB), disk("vdb", 8 * GIB)];
    let answers = Answers { map, auto: true, ..Answers::default() };
    let plan = plan(&node, &present, &answers).unwrap();
    let names: Vec<_> = plan
        .identity_changes()
        .iter()
        .filter(|c| c.what.starts_with("PARTLABEL"))
        .map(|c| (c.old.as_str(), c.new.as_str()))
        .collect();
    assert_eq!(names, [("PARTLABEL=system", "PARTUUID=deadbeef-02")]);
    assert!(plan.layout.partition.iter().all(|p| p.label.is_empty()));
}

#[test]
fn the_hint_names_all_that_share_a_disk() {
    let mut present = empty();
    present.disk.push(disk("vda", 30 * GIB));
    let map = ["sda", "sdc"].map(|old| (old.to_owned(), "vda".to_owned())).to_vec();
    let text = plan(&node(), &present, &Answers { map, ..Answers::default() });
    let text = text.unwrap_err().to_string();
    let hint = "or have all on one: --map sda=vda --map sdc=vda --map sdb=vda";
    assert!(text.contains(hint), "{text}");
}

#[test]
fn what_shows_no_partition_is_refused_where_partitions_move() {
    let mut node = node();
    node.disk.truncate(1);
    node.partition.truncate(2);
    (node.vg, node.lv) = (Vec::new(), Vec::new());
    node.fs.truncate(1);
    node.mount.truncate(1);
    (node.fs[0].used_bytes, node.fs[0].size_bytes) = (GIB / 4, 2 * GIB);
    node.fs[0].kind = "btrfs".into();
    node.fs[0].btrfs = Some(Box::new(crate::layout::BtrfsOptions {
        sector_bytes: 4096,
        data_profile: "single".into(),
        ..crate::layout::BtrfsOptions::default()
    }));
    let Some(Table::Gpt { hybrid, .. }) = &mut node.disk[0].table else { unreachable!() };
    let entry = |slot, kind: &str, partition, start_bytes, size_bytes| crate::layout::HybridEntry {
        slot,
        type_code: kind.into(),
        active: false,
        partition,
        start_bytes,
        size_bytes,
    };
    let mbr = crate::layout::HybridMbr {
        signature: 1,
        entry: vec![entry(1, "0x83", Some(1), MIB, 2 * GIB), entry(2, "0x0c", None, 4 * GIB, GIB)],
    };
    *hybrid = Some(Box::new(mbr));
    let mut present = empty();
    let of = |node: &Layout, present: &Layout| plan(node, present, &Answers::default());
    present.disk.push(disk("vda", 10 * GIB));
    of(&node, &present).unwrap();
    present.disk[0].size_bytes = 5 * GIB;
    let answers = Answers { auto: true, ..Answers::default() };
    let text = plan(&node, &present, &answers).unwrap_err().to_string();
    assert!(text.contains("entry 2 of the hybrid MBR of sda is none of its partitions"), "{text}");
    assert!(text.contains("on which no partition moves"), "{text}");
}
