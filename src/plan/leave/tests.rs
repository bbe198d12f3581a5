//! Plans without some of the recorded disks.

use super::super::testing::{self, GIB, blank, disk, raid_node};
use super::super::tests::{auto, refused};
use super::super::{Step, plan};
use super::*;

fn without(disks: &[&str]) -> Answers {
    let none = |disk: &&str| ((*disk).to_owned(), NONE.to_owned());
    Answers { map: disks.iter().map(none).collect(), ..auto() }
}

#[test]
fn an_array_comes_back_on_the_disk_that_is_left() {
    let recorded = raid_node();
    let mut present = blank(&recorded);
    present.disk.retain(|disk| disk.name == "sda");
    let text = plan(&recorded, &present, &auto()).unwrap_err().to_string();
    assert!(text.contains("of at least 12.0 GiB, or do without it: --map sdb=none"), "{text}");
    let plan = super::super::plan(&recorded, &present, &without(&["sdb"])).unwrap();
    let erased: Vec<_> = plan.erases().into_iter().map(|d| d.name).collect();
    assert_eq!(erased, ["sda"]);
    let members = plan.steps.iter().filter_map(|step| match step {
        Step::CreateMd(step) => Some(step.members.clone()),
        _ => None,
    });
    let members: Vec<_> = members.collect();
    assert_eq!(members, [["/dev/sda2", "missing"], ["/dev/sda3", "missing"]]);
    let told = "md1 comes back with 1 of 2 members: mdadm --add gives it the others.";
    assert!(plan.notes.iter().any(|note| note == told), "{:?}", plan.notes);
    assert!(plan.layout.boot.grub_disk.iter().all(|disk| *disk == Id::disk("sda")));
}

#[test]
fn what_is_on_a_disk_that_is_left_out_is_named() {
    let refused = |recorded: &Layout, disks: &[&str]| {
        plan(recorded, &blank(recorded), &without(disks)).unwrap_err().to_string()
    };
    let mut recorded = raid_node();
    let text = refused(&recorded, &["sda", "sdb"]);
    assert!(text.contains("/ is on sda, sdb, which --map leaves out"), "{text}");
    let text = refused(&recorded, &["sdz"]);
    assert!(text.contains("--map sdz=none: sdz is not one recorded disk"), "{text}");
    recorded.md[1].level = "raid0".into();
    let text = refused(&recorded, &["sdb"]);
    assert!(text.contains("md1 (raid0) does not work without sdb"), "{text}");
}

/// The node with `/srv` on a disk of its own, and `/data` in a group on two more.
fn node_with_data() -> Layout {
    let mut node = raid_node();
    for name in ["sdd", "sde", "sdf"] {
        let mut data = disk(name, 20 * GIB);
        data.serial = Some(format!("DATA-{name}"));
        node.disk.push(data);
    }
    let srv = Id::disk("sdd");
    node.fs.push(testing::fs(&srv, "ext4", 20 * GIB));
    node.mount.push(testing::mount("/srv", &Id::content("fs", &srv)));
    let mut group = node.vg[0].clone();
    (group.id, group.name, group.uuid) = (Id::vg("data"), "data".into(), "VG-DATA".into());
    group.metadata = String::new();
    let pv = group.pv[0].clone();
    group.pv = ["sde", "sdf"]
        .map(|name| (name, pv.clone()))
        .map(|(name, mut pv)| {
            (pv.on, pv.uuid) = (Id::disk(name), format!("PV-{name}"));
            pv
        })
        .into();
    node.vg.push(group);
    let mut volume = node.lv[0].clone();
    (volume.id, volume.vg, volume.name) = (Id::lv("data", "all"), Id::vg("data"), "all".into());
    node.fs.push(testing::fs(&volume.id, "ext4", GIB));
    node.mount.push(testing::mount("/data", &Id::content("fs", &volume.id)));
    node.lv.push(volume);
    node
}

#[test]
fn a_data_disk_can_be_left_out_and_what_was_on_it_is_told() {
    let recorded = node_with_data();
    let mut present = blank(&recorded);
    present.disk.retain(|disk| disk.name != "sdd");
    let text = refused(&recorded, &present, &auto());
    assert!(text.contains("or do without it and /srv: --map sdd=none"), "{text}");
    let plan = super::super::plan(&recorded, &present, &without(&["sdd"])).unwrap();
    let mounts: Vec<_> = plan.mounts().map(|mount| mount.path.to_string()).collect();
    assert_eq!(mounts, ["/", "/boot", "/data"]);
    let told = "/srv does NOT come back, nor do its files: it was on sdd, which --map leaves out.";
    assert!(plan.notes.iter().any(|note| note.starts_with(told)), "{:?}", plan.notes);
    // Also a stick with what rr can't make.
    let mut stick = recorded.clone();
    stick
        .fs
        .iter_mut()
        .filter(|fs| fs.on == Id::disk("sdd"))
        .for_each(|fs| fs.kind = "ntfs".into());
    let text = refused(&stick, &stick, &auto());
    assert!(
        text.contains("hint: do without it and /srv: --map sdd=none; or leave out its"),
        "{text}"
    );
    assert!(super::super::plan(&stick, &stick, &without(&["sdd"])).is_ok());
    // A disk without which there is no system can't be.
    let mut var = recorded.clone();
    var.mount.iter_mut().filter(|m| m.path == "/srv".into()).for_each(|m| m.path = "/var".into());
    let text = refused(&var, &present, &without(&["sdd"]));
    assert!(text.contains("/var is on sdd, which --map leaves out"), "{text}");
    assert!(!refused(&var, &present, &auto()).contains("sdd=none"));
}

#[test]
fn what_is_left_of_a_group_that_lost_a_disk_is_not_erased() {
    let recorded = node_with_data();
    let mut present = recorded.clone();
    present.vg.retain(|vg| vg.name != "data");
    present.lv.retain(|lv| lv.vg != Id::vg("data"));
    present.disk.retain(|disk| disk.name != "sdf");
    let plan = super::super::plan(&recorded, &present, &without(&["sdf"])).unwrap();
    let erased: Vec<_> = plan.erases().into_iter().map(|d| d.name).collect();
    assert_eq!(erased, ["sda", "sdb", "sdd"]);
    let told = "sde is left alone: nothing that was on it comes back.";
    assert!(plan.notes.iter().any(|note| note == told), "{:?}", plan.notes);
    // Nor is it taken for a disk that is lost, nor is one that was left out and is here.
    present.disk.retain(|disk| disk.name != "sdb");
    for out in ["sdf", "sdd"] {
        let text = refused(&recorded, &present, &without(&["sdf", out]));
        assert!(text.contains("no disk for recorded sdb"), "{text}");
    }
}
