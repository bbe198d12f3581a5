//! Plans on literal layouts.

use std::path::Path;

use super::testing::{GIB, blank, disk, empty, gpt, raid_node};
use super::*;

fn keep(name: &str) -> KeptDisk {
    KeptDisk { name: name.into(), why: "holds the backup".into() }
}

pub(super) fn auto() -> Answers {
    Answers { auto: true, ..Answers::default() }
}

pub(super) fn refused(recorded: &Layout, present: &Layout, answers: &Answers) -> String {
    plan(recorded, present, answers).unwrap_err().to_string()
}

fn pairs(plan: &Plan) -> Vec<(&str, &str, &str)> {
    plan.disks.iter().map(|m| (m.old.name.as_str(), m.new.name.as_str(), m.why.as_str())).collect()
}

/// Two lost disks without identity.
fn lost_twins() -> (Layout, Layout) {
    let recorded = raid_node();
    let mut present = empty();
    present.disk = vec![disk("vdb", 20 * GIB), disk("vda", 20 * GIB)];
    (recorded, present)
}

#[test]
fn a_node_is_planned_onto_its_own_disks() {
    let recorded = raid_node();
    let plan = plan(&recorded, &recorded, &Answers::default()).unwrap();
    assert_eq!(
        pairs(&plan),
        [("sda", "sda", "the same serial number"), ("sdb", "sdb", "the same serial number")]
    );
    assert!(plan.identity_changes().is_empty());
    let steps: Vec<_> = plan.steps.iter().map(Step::describe).collect();
    assert_eq!(
        steps,
        [
            "release sda, sdb",
            "erase sda",
            "erase sdb",
            "write GPT with 3 partitions to sda",
            "write GPT with 3 partitions to sdb",
            "create md0 (raid1) on sda2, sdb2",
            "create md1 (raid1) on sda3, sdb3",
            "restore volume group vg0 on md1",
            "make ext4 on /dev/vg0/root",
            "make ext4 on /dev/md0",
            "make swap on /dev/vg0/swap",
            "mount /dev/vg0/root at /",
            "mount /dev/md0 at /boot",
        ]
    );
}

#[test]
fn the_disk_with_the_backup_is_not_needed_and_not_touched() {
    let recorded = raid_node();
    let answers = Answers { keep: vec![keep("sdc")], ..auto() };
    let plan = plan(&recorded, &recorded, &answers).unwrap();
    assert!(plan.erases().iter().all(|d| d.name != "sdc"));
    assert!(plan.layout.mount.iter().all(|m| !m.target));
    assert!(plan.render_text().contains("sdc      holds the backup"), "{}", plan.render_text());
}

#[test]
fn a_disk_is_found_by_its_serial_number_wherever_it_is() {
    let recorded = raid_node();
    let mut present = blank(&recorded);
    present.disk[0].serial = Some("SER1".into());
    present.disk[1].serial = Some("SER0".into());
    let plan = plan(&recorded, &present, &auto()).unwrap();
    assert_eq!(
        pairs(&plan),
        [("sda", "sdb", "the same serial number"), ("sdb", "sda", "the same serial number")]
    );
}

#[test]
fn blank_twins_for_lost_twins_go_by_place() {
    let (recorded, mut present) = lost_twins();
    let plan1 = plan(&recorded, &present, &auto()).unwrap();
    assert_eq!(
        pairs(&plan1),
        [
            ("sda", "vda", "the same size; twins go by place"),
            ("sdb", "vdb", "the same size; twins go by place")
        ]
    );
    present.disk[0].path = Some("pci-0000:00:09.0".into());
    present.disk[1].path = Some("pci-0000:00:10.0".into());
    let plan2 = plan(&recorded, &present, &auto()).unwrap();
    assert_eq!(pairs(&plan2)[0].1, "vdb");
}

#[test]
fn three_blank_disks_for_two_lost_ones_are_refused() {
    let (recorded, mut present) = lost_twins();
    present.disk.push(disk("vdc", 20 * GIB));
    let text = refused(&recorded, &present, &auto());
    assert!(text.contains("--map sda=vda"), "{text}");
    let answers = Answers {
        map: vec![("sda".into(), "/dev/vdc".into()), ("SER1".into(), "vda".into())],
        ..auto()
    };
    let plan = plan(&recorded, &present, &answers).unwrap();
    assert_eq!(pairs(&plan)[0], ("sda", "vdc", "you said so"));
    assert_eq!(pairs(&plan)[1], ("sdb", "vda", "you said so"));
}

#[test]
fn a_strangers_disk_needs_consent_even_in_the_right_place() {
    let recorded = raid_node();
    let mut present = blank(&recorded);
    present.disk[1].serial = Some("STRANGER".into());
    gpt(&mut present.disk[1], 99);
    let text = refused(&recorded, &present, &auto());
    assert!(text.contains("rr.erase=STRANGER") && text.contains("GPT with 0 partitions"), "{text}");
    let answers = Answers { erase: vec!["STRANGER".into()], ..auto() };
    let plan = plan(&recorded, &present, &answers).unwrap();
    assert_eq!(pairs(&plan)[1], ("sdb", "sdb", "in the same place"));
}

#[test]
fn a_disk_that_was_there_and_not_in_use_is_no_spare() {
    let mut recorded = raid_node();
    let mut raw = disk("sdd", 20 * GIB);
    (raw.serial, raw.unused) = (Some("RAWDATA".into()), true);
    recorded.disk.push(raw);
    let mut present = blank(&recorded);
    present.disk.retain(|d| !["sdb", "sdc"].contains(&d.name.as_str()));
    let text = refused(&recorded, &present, &auto());
    assert!(text.contains("not in use: it is no spare"), "{text}");
    // In the place of the lost one, too.
    let place = recorded.disk[1].path.clone();
    present.disk.iter_mut().filter(|d| d.name == "sdd").for_each(|d| d.path.clone_from(&place));
    let text = refused(&recorded, &present, &auto());
    assert!(text.contains("was in the node when it was backed up"), "{text}");
    let answers = Answers { map: vec![("sdb".into(), "sdd".into())], ..auto() };
    assert_eq!(pairs(&plan(&recorded, &present, &answers).unwrap())[1].1, "sdd");
}

#[test]
fn an_old_disk_that_stays_beside_the_new_one_is_refused() {
    let recorded = raid_node();
    let mut present = raid_node();
    present.disk.extend([disk("vda", 20 * GIB), disk("vdb", 20 * GIB)]);
    let map = [("sda", "vda"), ("sdb", "vdb")].map(|(old, new)| (old.into(), new.into()));
    let answers = Answers { map: map.into(), ..auto() };
    let text = refused(&recorded, &present, &answers);
    assert!(text.contains("sda (") && text.contains("stays, and carries"), "{text}");
    // The disk with the backup carries nothing that is made anew.
    assert!(!text.contains("sdc ("), "{text}");
}

#[test]
fn a_half_done_disk_without_serial_is_known_by_its_table() {
    let recorded = raid_node();
    let mut present = raid_node();
    for disk in &mut present.disk[..2] {
        (disk.serial, disk.path, disk.model) = (None, None, None);
    }
    let plan = plan(&recorded, &present, &auto()).unwrap();
    assert_eq!(pairs(&plan)[0], ("sda", "sda", "it carries this node's data"));
}

#[test]
fn a_kept_disk_is_no_candidate() {
    let (recorded, mut present) = lost_twins();
    present.disk[0].serial = Some("SER1".into());
    let answers = Answers { keep: vec![keep("vdb")], ..auto() };
    let text = refused(&recorded, &present, &answers);
    assert!(text.contains("kept, it holds the backup"), "{text}");
    let answers = Answers {
        keep: vec![keep("vdb")],
        erase: vec!["SER1".into()],
        map: vec![("sda".into(), "vdb".into())],
        ..auto()
    };
    let text = refused(&recorded, &present, &answers);
    assert!(text.contains("SER1 may not be erased") && text.contains("--map sda=vdb"), "{text}");
}

#[test]
fn a_small_disk_is_refused_with_the_arithmetic() {
    let recorded = raid_node();
    let mut present = blank(&recorded);
    present.disk[0].size_bytes = 10 * GIB;
    let text = refused(&recorded, &present, &auto());
    assert!(
        text.contains("sda is too small for recorded sda: it has 10.0 GiB (10737418240 bytes)")
            && text.contains("the layout needs 19.0 GiB")
            && text.contains("and 12.0 GiB (12897501696 bytes) as small as its files allow")
            && text.contains("2.0 GiB (2160083456 bytes) are missing"),
        "{text}"
    );
}

#[test]
fn a_larger_disk_gets_its_second_header_at_its_end() {
    let recorded = raid_node();
    let mut present = blank(&recorded);
    present.disk[0].size_bytes = 30 * GIB;
    let plan = plan(&recorded, &present, &auto()).unwrap();
    let Some(Step::WriteTable(step)) = plan.steps.iter().find(|s| matches!(s, Step::WriteTable(_)))
    else {
        panic!("no table");
    };
    let crate::layout::Table::Gpt { last_usable_lba, .. } = step.table else { panic!("no GPT") };
    assert_eq!(last_usable_lba, 30 * GIB / 512 - 34);
}

#[test]
fn bind_mounts_are_left_to_the_node() {
    let mut recorded = raid_node();
    let mut bound = recorded.mount[1].clone();
    (bound.path, bound.root) = ("/bound".into(), Some("/srv".into()));
    recorded.mount.push(bound);
    let plan = plan(&recorded, &recorded, &auto()).unwrap();
    let paths: Vec<_> = plan.mounts().map(|mount| mount.path.to_string()).collect();
    assert_eq!(paths, ["/", "/boot"]);
}

#[test]
fn a_group_that_spans_a_disk_that_stays_is_refused() {
    let recorded = raid_node();
    let mut present = raid_node();
    let mut pv = present.vg[0].pv[0].clone();
    pv.on = Id::disk("sdc");
    present.vg[0].pv.push(pv);
    let text = refused(&recorded, &present, &auto());
    assert!(
        text.contains("volume group vg0 lies on a disk to be erased and also on sdc"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let mut recorded = raid_node();
    recorded.lv[0].kind = "vdo".into();
    recorded.fs[1].kind = "zfs_member".into();
    recorded.md[0].level = "container".into();
    let text = refused(&recorded, &recorded, &auto());
    for part in ["vg0/root has the type vdo", "/boot on /dev/md0 is a zfs", "level container"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn damaged_layouts_are_refused() {
    let mut recorded = raid_node();
    recorded.partition[1].start_bytes -= 512;
    recorded.partition[2].number = 2;
    recorded.fs[0].size_bytes = 11 * GIB;
    let text = refused(&recorded, &recorded, &auto());
    for part in ["sda1 and sda2 overlap", "number 2 is used twice", "does not fit on /dev/vg0/root"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn only_what_an_edited_layout_settles_asks_for_one() {
    let node = raid_node();
    let refusal = |recorded: &Layout, present: &Layout| {
        plan(recorded, present, &Answers::default()).unwrap_err()
    };
    let mut rootless = node.clone();
    rootless.mount.retain(|mount| mount.path.as_path() != Path::new("/"));
    let mut damaged = node.clone();
    damaged.partition[1].start_bytes = damaged.partition[0].start_bytes;
    for recorded in [rootless, damaged] {
        let refusal = refusal(&recorded, &node);
        assert!(refusal.is_of_layout() && refusal.to_string().contains("--layout"), "{refusal}");
    }
    let refusal = refusal(&node, &empty());
    assert!(!refusal.is_of_layout() && !refusal.to_string().contains("--layout"), "{refusal}");
}

#[test]
fn a_disk_to_erase_that_is_not_here_is_told_and_stops_nothing() {
    let node = raid_node();
    let answers = Answers { erase: vec!["sda".into(), "nope".into()], ..Answers::default() };
    let told = "--erase nope: no disk here has this name or number.";
    let text = plan(&node, &node, &answers).unwrap().render_text();
    assert!(text.contains(told) && !text.contains("--erase sda"), "{text}");
    let text = refused(&node, &empty(), &answers);
    assert!(text.contains(told) && text.contains("hint: the disks here: none"), "{text}");
}

#[test]
fn a_place_that_is_not_here_is_told_with_those_that_are() {
    let node = raid_node();
    let answers = Answers { map: vec![("sda".into(), "zz".into())], ..Answers::default() };
    let text = refused(&node, &node, &answers);
    assert!(text.contains("hint: free disks: sdc, sda, sdb"), "{text}");
    let text = refused(&node, &empty(), &answers);
    assert!(text.contains("hint: free disks: none"), "{text}");
}

#[test]
fn a_disk_of_backups_or_of_what_is_left_out_is_told() {
    let recorded = raid_node();
    let text = plan(&recorded, &recorded, &auto()).unwrap().render_text();
    assert!(text.contains("sdc is left alone: /backup on it holds the backups, or"), "{text}");
    assert!(text.contains("do NOT come back"), "{text}");
}

#[test]
fn a_machine_without_a_root_is_refused() {
    let mut recorded = raid_node();
    recorded.mount.retain(|m| m.path.as_path() != std::path::Path::new("/"));
    let text = refused(&recorded, &recorded, &auto());
    assert!(text.contains("the recorded layout mounts nothing at /"), "{text}");
    let mut recorded = raid_node();
    recorded.mount.iter_mut().for_each(|m| m.target = true);
    let text = refused(&recorded, &recorded, &auto());
    assert!(text.contains("marked as the backup's own"), "{text}");
}

#[test]
fn an_xfs_that_is_made_no_more_is_made_all_the_same() {
    let mut recorded = raid_node();
    let fs = &mut recorded.fs[0];
    let xfs = crate::layout::XfsOptions {
        block_bytes: 4096,
        blocks: 40_000,
        agcount: 4,
        log_blocks: 1368,
        ..crate::layout::XfsOptions::default()
    };
    (fs.kind, fs.size_bytes, fs.xfs) = ("xfs".into(), 40_000 * 4096, Some(xfs));
    let script = plan(&recorded, &recorded, &auto()).unwrap().render_script();
    let line = script.lines().find(|l| l.starts_with("mkfs.xfs")).unwrap();
    let (new, old) = line.split_once(" || ").unwrap();
    assert!(new.contains(" --unsupported ") && new.contains("-l size=1368b"), "{line}");
    assert_eq!(new.replace(" --unsupported", ""), old);
}

#[test]
fn the_log_of_an_xfs_comes_back_on_its_own_device_or_is_refused() {
    let mut recorded = raid_node();
    let xfs = crate::layout::XfsOptions {
        block_bytes: 4096,
        blocks: 400_000,
        agcount: 4,
        log_blocks: 20_000,
        log_on: Some(recorded.swap[0].on.clone()),
        ..crate::layout::XfsOptions::default()
    };
    recorded.swap.clear();
    let fs = &mut recorded.fs[0];
    (fs.kind, fs.size_bytes, fs.xfs) = ("xfs".into(), 400_000 * 4096, Some(xfs));
    let root = recorded.mount.iter_mut().find(|m| m.fs == fs.id).unwrap();
    root.options = "rw,relatime,nouuid,inode64,logdev=/dev/dm-1".into();
    let with_log = plan(&recorded, &recorded, &auto()).unwrap();
    let script = with_log.render_script();
    let line = script.lines().find(|l| l.starts_with("mkfs.xfs")).unwrap();
    assert!(line.contains(" -l logdev=/dev/vg0/swap,size=20000b "), "{line}");
    let root = with_log.mounts().next().unwrap();
    // A clone keeps its source's UUID.
    assert_eq!(root.data_options(), "nouuid,logdev=/dev/vg0/swap");
    recorded.fs[0].xfs.as_mut().unwrap().log_on = None;
    let text = refused(&recorded, &recorded, &auto());
    assert!(text.contains("/ has a part on a device of its own"), "{text}");
    assert!(text.contains("remove its [[mount]] and [[fs]]"), "{text}");
    let fs = &recorded.fs[0].id;
    recorded.mount.iter_mut().find(|m| m.fs == *fs).unwrap().options = "rw,rtdev=/dev/sdx".into();
    let text = refused(&recorded, &recorded, &auto());
    assert!(text.contains("(rw,rtdev=/dev/sdx)"), "{text}");
    // What no system needs to start.
    recorded.mount.iter_mut().find(|m| m.fs == *fs).unwrap().path = "/srv".into();
    let boot = recorded.mount.iter_mut().find(|m| m.path.as_path() == Path::new("/boot"));
    boot.unwrap().path = "/".into();
    let notes = plan(&recorded, &recorded, &auto()).unwrap().notes.join("\n");
    assert!(notes.contains("/srv has a part on a device of its own"), "{notes}");
    assert!(notes.contains("take the option out of /etc/fstab"), "{notes}");
}

#[test]
fn an_f2fs_is_made_as_it_was_and_one_that_could_not_be_read_is_refused() {
    let mut recorded = raid_node();
    let fs = &mut recorded.fs[0];
    let f2fs = crate::layout::F2fsOptions {
        blocks: 40_000,
        features: vec!["extra_attr".into(), "compression".into()],
        casefold: Some("utf8:strict".into()),
        segments_per_section: 2,
        sections_per_zone: 1,
        more_inodes: true,
    };
    (fs.kind, fs.label, fs.size_bytes) = ("f2fs".into(), "a b".into(), 40_000 * 4096);
    fs.f2fs = Some(Box::new(f2fs));
    let uuid = fs.uuid.clone();
    let script = plan(&recorded, &recorded, &auto()).unwrap().render_script();
    let line = script.lines().find(|l| l.starts_with("mkfs.f2fs")).unwrap();
    let expected = format!(
        "mkfs.f2fs -q -f -U {uuid} -l 'a b' -O extra_attr,compression -C utf8:strict -s 2 -z 1 -i \
         -w 4096 /dev/vg0/root 40000"
    );
    assert_eq!(line, expected);
    recorded.fs[0].f2fs = None;
    let text = refused(&recorded, &recorded, &auto());
    assert!(
        text.contains("/ on /dev/vg0/root is a f2fs filesystem, which rr can't make"),
        "{text}"
    );
}

#[test]
fn a_btrfs_comes_back_on_all_its_devices_with_its_subvolumes() {
    let text = include_str!("../../tests/fixtures/layout/btrfs.toml");
    let mut recorded = crate::layout::schema::parse(text).unwrap();
    let plan1 = plan(&recorded, &recorded, &auto()).unwrap();
    let steps: Vec<_> = plan1.steps.iter().map(Step::describe).collect();
    assert_eq!(
        steps,
        [
            "release ubdb, ubdc",
            "erase ubdb",
            "erase ubdc",
            "make btrfs on /dev/ubdb, /dev/ubdc",
            "create 4 subvolumes on /dev/ubdb",
            "mount @ of /dev/ubdb at /",
            "mount @home of /dev/ubdb at /home",
            "mount /dev/ubdb at /top",
        ]
    );
    let script = plan1.render_script();
    for line in [
        "mkfs.btrfs --quiet --force --uuid 8688a2e6-d668-4877-a7ef-1cf3381415e2 --label data --nodesize 16384 --sectorsize 4096 --data raid1 --metadata raid1c3 --features 'extref,skinny-metadata,^no-holes' -R free-space-tree /dev/ubdb /dev/ubdc || mkfs.btrfs --quiet --force --uuid 8688a2e6-d668-4877-a7ef-1cf3381415e2 --label data --nodesize 16384 --sectorsize 4096 --data raid1 --metadata raid1c3 --features 'extref,skinny-metadata,^no-holes' /dev/ubdb /dev/ubdc",
        "btrfs subvolume create \"$TOP\"/@/var/lib/ports",
        "btrfs subvolume set-default \"$TOP\"/@",
        "mount -t btrfs -o compress=zstd:3,subvol=/@home,device=/dev/ubdc /dev/ubdb \"$ROOT\"/home",
    ] {
        assert!(script.lines().any(|l| l == line), "{line}\n{script}");
    }
    let mut hashed = recorded.clone();
    hashed.fs[0].btrfs.as_mut().unwrap().checksum = "xxhash".into();
    let script = plan(&hashed, &hashed, &auto()).unwrap().render_script();
    let line = script.lines().find(|line| line.starts_with("mkfs.btrfs")).unwrap();
    assert_eq!(line.matches(" --checksum xxhash ").count(), 2, "{line}");
    // On one of its disks it is not to be had, nor when the other stays.
    let mut present = recorded.clone();
    present.disk[1].serial = Some("OTHER".into());
    present.fs[0].uuid = "another".into();
    let text = refused(&recorded, &present, &auto());
    assert!(text.contains("ubdc (") && text.contains("holds btrfs"), "{text}");
    recorded.fs[0].btrfs.as_mut().unwrap().device.pop();
    assert!(refused(&recorded, &recorded, &auto()).contains("lacks 1 of its devices"));
}

#[test]
fn encrypted_volumes_are_made_below_what_is_on_them_and_the_secret_is_no_part_of_the_plan() {
    let mut recorded = raid_node();
    let luks = crate::layout::Luks {
        id: Id::luks("crypt"),
        on: Id::md("md1"),
        name: "crypt".into(),
        version: 2,
        uuid: "167038de-ba2f-4e0e-a54d-b3d763d9ffa2".into(),
        label: "data".into(),
        subsystem: String::new(),
        cipher: "aes-xts-plain64".into(),
        key_bits: 512,
        hash: "sha256".into(),
        sector_bytes: 4096,
        data_offset_bytes: 16 << 20,
        size_bytes: 18 * GIB - (18 << 20),
        metadata_bytes: Some(16_384),
        keyslots_bytes: Some(16_744_448),
        pbkdf: crate::layout::Pbkdf {
            kind: "argon2id".into(),
            iterations: 4,
            memory_kib: Some(65_536),
            threads: Some(2),
        },
        keyslots: vec![0, 1],
        tokens: Vec::new(),
        flags: vec!["allow-discards".into()],
    };
    let locked = crate::layout::Luks { name: String::new(), id: Id::luks("x"), ..luks.clone() };
    recorded.vg[0].pv[0].on = luks.id.clone();
    recorded.vg[0].pv[0].size_bytes = luks.size_bytes;
    recorded.lv.iter_mut().flat_map(|lv| &mut lv.segment).for_each(|s| {
        s.on.iter_mut().for_each(|on| *on = on.replace("md:md1", "luks:crypt"));
    });
    recorded.luks = vec![luks, locked];
    let plan = plan(&recorded, &recorded, &auto()).unwrap();
    assert!(plan.needs_passphrase() && plan.layout.luks.len() == 1);
    let steps: Vec<_> = plan.steps.iter().map(Step::describe).collect();
    let at =
        |text: &str| steps.iter().position(|s| s == text).unwrap_or_else(|| panic!("{steps:?}"));
    let made = at("make LUKS2 on /dev/md1 and open it as crypt");
    assert!(at("create md1 (raid1) on sda3, sdb3") < made);
    assert!(made < at("restore volume group vg0 on mapper/crypt"));
    let argv = plan.steps[made].commands("");
    assert!(argv.iter().all(|a| a.windows(2).any(|pair| pair == ["--key-file", "-"])), "{argv:?}");
    let script = plan.render_script();
    for line in [
        "cryptsetup luksFormat --batch-mode --type luks2 --uuid 167038de-ba2f-4e0e-a54d-b3d763d9ffa2 --cipher aes-xts-plain64 --key-size 512 --hash sha256 --offset 32768 --sector-size 4096 --pbkdf argon2id --luks2-metadata-size 16384 --luks2-keyslots-size 16744448 --pbkdf-memory 65536 --pbkdf-parallel 2 --label data --pbkdf-force-iterations 4 /dev/md1",
        "cryptsetup open --type luks2 --allow-discards --persistent /dev/md1 crypt",
    ] {
        assert!(script.lines().any(|l| l == line), "{line}\n{script}");
    }
    let text = plan.render_text();
    assert!(
        text.contains("recover.luks_passphrase_file") && text.contains("was not open"),
        "{text}"
    );
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    // A random key's cost is none for a passphrase.
    recorded.luks[0].pbkdf =
        crate::layout::Pbkdf { kind: "pbkdf2".into(), iterations: 1000, ..Default::default() };
    let script = super::plan(&recorded, &recorded, &auto()).unwrap().render_script();
    let line = script.lines().find(|l| l.starts_with("cryptsetup luksFormat")).unwrap();
    assert!(line.contains("--pbkdf pbkdf2") && !line.contains("iterations"), "{line}");
}

#[test]
fn without_metadata_volumes_are_created_anew_and_the_change_is_told() {
    let mut recorded = raid_node();
    recorded.vg[0].metadata = String::new();
    let plan = plan(&recorded, &recorded, &auto()).unwrap();
    assert_eq!(plan.identity_changes().len(), 3);
    let script = plan.render_script();
    assert!(
        script.contains("lvm lvcreate --yes --wipesignatures y --zero y --activate y --name root --type linear --extents 2560 vg0 /dev/md1:0-2559"),
        "{script}"
    );
}

#[test]
fn a_plan_survives_json_and_fits_80_columns() {
    let (recorded, present) = lost_twins();
    let plan = plan(&recorded, &present, &auto()).unwrap();
    let back: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(back, plan);
    let text = plan.render_text();
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    assert!(text.starts_with("These disks will be ERASED:"), "{text}");
}

#[test]
fn a_made_up_serial_number_is_no_identity() {
    let mut recorded = raid_node();
    let mut present = raid_node();
    gpt(&mut present.disk[0], 99);
    for filler in
        ["(null)", "0000000000", "", "unknown", "drive-scsi0", "drive-scsi0-0-0-0", "QM00001"]
    {
        recorded.disk[0].serial = Some(filler.into());
        present.disk[0].serial = Some(filler.into());
        present.md.clear();
        present.vg.clear();
        let text = refused(&recorded, &present, &auto());
        assert!(text.contains("sda (ACME 20, serial none, 20.0 GiB) would take"), "{text}");
        assert!(text.contains("rr.erase=sda"), "{text}");
    }
    // Nor is one that two disks share.
    for disk in recorded.disk.iter_mut().chain(&mut present.disk) {
        disk.serial = Some("QM00001".into());
    }
    assert!(refused(&recorded, &present, &auto()).contains("that is not this node's"));
}

#[test]
fn every_member_of_an_array_has_room_for_what_mdadm_is_told() {
    let mut recorded = raid_node();
    // A spare that was added later, with less before its data than the members have.
    let spare = crate::layout::MdMember { on: Id::partition("sdb1"), slot: None };
    recorded.md[0].member.push(spare);
    let text = refused(&recorded, &recorded, &auto());
    assert!(
        text.contains("a member of md0 takes 1072693248 bytes, /dev/sdb1 has 1048576"),
        "{text}"
    );
    recorded.md[0].member.pop();
    recorded.md[0].data_offset_bytes = Some(3 << 20);
    let text = refused(&recorded, &recorded, &auto());
    assert!(text.contains("/dev/sda2 has 1073741824 (1.0 GiB)"), "{text}");
}
