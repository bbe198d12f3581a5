//! Where two layouts of one machine differ, for people and for `rr checklayout`.
//!
//! Devices are the same by their identity (WWN, serial number, UUID), not by the names that the
//! kernel gave them this time. What changes from day to day (bytes in use, an address from DHCP,
//! the kernel) is no difference, nor is what happens to disks that the machine does not use.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::units::size;
use super::{Disk, Id, Layout};

/// Fields that say nothing about how the machine is built.
const VOLATILE: &[&str] = &[
    "id",
    "name",
    "used_bytes",
    "snapshot",
    "signatures",
    "read_only",
    "target",
    "recorded",
    "kernel",
    "kernel_cmdline",
    "os",
];

/// What differs between the layout that was recorded and the one that is present, one line each.
/// Empty: they describe the same machine.
pub fn differences(recorded: &Layout, present: &Layout) -> Vec<String> {
    let present = with_names_of(present, recorded);
    let unused = |layout: &Layout| -> BTreeSet<Id> {
        layout.disk.iter().filter(|d| d.unused).map(|d| d.id.clone()).collect()
    };
    let known = |layout: &Layout, id: &Id| layout.disk.iter().any(|d| d.id == *id);
    let in_use = |layout: &Layout, id: &Id| known(layout, id) && !unused(layout).contains(id);
    // A disk counts when one of the two uses it.
    let counts = |id: &Id| in_use(recorded, id) || in_use(&present, id);
    let (before, after) = (in_use_only(recorded, &counts), in_use_only(&present, &counts));
    let mut out = Vec::new();
    compare(&mut out, "disk", &before.disk, &after.disk, |d| d.name.clone());
    compare(&mut out, "partition", &before.partition, &after.partition, |p| p.name.clone());
    compare(&mut out, "array", &before.md, &after.md, |md| md.name.clone());
    compare(&mut out, "LUKS", &before.luks, &after.luks, |luks| luks.uuid.clone());
    compare(&mut out, "volume group", &before.vg, &after.vg, |vg| vg.name.clone());
    compare(&mut out, "logical volume", &before.lv, &after.lv, |lv| lv.id.0.clone());
    compare(&mut out, "filesystem", &before.fs, &after.fs, |fs| place(&before, &fs.on));
    compare(&mut out, "swap", &before.swap, &after.swap, |swap| place(&before, &swap.on));
    compare(&mut out, "mount", &before.mount, &after.mount, |mount| mount.path.to_string());
    compare(&mut out, "network interface", &before.net.nic, &after.net.nic, |n| n.name.clone());
    compare(&mut out, "network interface", &before.net.link, &after.net.link, |n| n.name.clone());
    compare(&mut out, "route", &before.net.route, &after.net.route, |r| {
        format!("{}/{}", r.to, r.nic)
    });
    fields(&mut out, "boot", &value(&before.boot), &value(&after.boot));
    fields(&mut out, "node", &value(&before.node), &value(&after.node));
    out
}

fn place(layout: &Layout, on: &Id) -> String {
    layout.dev(on).unwrap_or_else(|| on.to_string())
}

/// `present` with the names that `recorded` has for the same things.
fn with_names_of(present: &Layout, recorded: &Layout) -> Layout {
    let mut ids: BTreeMap<Id, Id> = BTreeMap::new();
    let mut names: BTreeMap<Id, String> = BTreeMap::new();
    for disk in &present.disk {
        if let Some(same) = same_disk(disk, present, recorded) {
            ids.insert(disk.id.clone(), same.id.clone());
            names.insert(disk.id.clone(), same.name.clone());
        }
    }
    for md in &present.md {
        if let Some(same) = recorded.md.iter().find(|m| m.uuid == md.uuid) {
            ids.insert(md.id.clone(), same.id.clone());
            names.insert(md.id.clone(), same.name.clone());
        }
    }
    for partition in &present.partition {
        let disk = ids.get(&partition.disk).unwrap_or(&partition.disk);
        let same =
            recorded.partition.iter().find(|p| p.disk == *disk && p.number == partition.number);
        if let Some(same) = same {
            ids.insert(partition.id.clone(), same.id.clone());
            names.insert(partition.id.clone(), same.name.clone());
        }
    }
    let mut layout = present.clone();
    rename(&mut layout, &ids, &names);
    layout
}

/// By WWN, by serial number, by place, and only then by name. What two disks share says nothing.
fn same_disk<'a>(disk: &Disk, among: &Layout, recorded: &'a Layout) -> Option<&'a Disk> {
    let identities: [fn(&Disk) -> Option<&String>; 3] =
        [|d| d.wwn.as_ref(), |d| d.serial.as_ref(), |d| d.path.as_ref()];
    for identity in identities {
        let Some(value) = identity(disk) else { continue };
        let count =
            |layout: &Layout| layout.disk.iter().filter(|d| identity(d) == Some(value)).count();
        let comparable = recorded.disk.iter().any(|d| identity(d).is_some());
        if comparable && count(among) == 1 && count(recorded) <= 1 {
            return recorded.disk.iter().find(|d| identity(d) == Some(value));
        }
    }
    recorded.disk.iter().find(|d| d.name == disk.name)
}

fn rename(layout: &mut Layout, ids: &BTreeMap<Id, Id>, names: &BTreeMap<Id, String>) {
    let new_name = |id: &Id, name: &mut String| {
        if let Some(new) = names.get(id) {
            name.clone_from(new);
        }
    };
    let set = |id: &mut Id| {
        if let Some(new) = ids.get(id) {
            *id = new.clone();
        }
    };
    for disk in &mut layout.disk {
        new_name(&disk.id, &mut disk.name);
        set(&mut disk.id);
    }
    for partition in &mut layout.partition {
        new_name(&partition.id, &mut partition.name);
        set(&mut partition.id);
        set(&mut partition.disk);
    }
    for md in &mut layout.md {
        new_name(&md.id, &mut md.name);
        set(&mut md.id);
        md.member.iter_mut().for_each(|member| set(&mut member.on));
    }
    layout.luks.iter_mut().for_each(|luks| set(&mut luks.on));
    layout.vg.iter_mut().flat_map(|vg| &mut vg.pv).for_each(|pv| set(&mut pv.on));
    for range in layout.lv.iter_mut().flat_map(|lv| &mut lv.segment).flat_map(|s| &mut s.on) {
        if let Some((device, extents)) = range.rsplit_once(':')
            && let Some(new) = ids.get(&Id(device.to_owned()))
        {
            *range = format!("{new}:{extents}");
        }
    }
    let mut contents = BTreeMap::new();
    for fs in &mut layout.fs {
        set(&mut fs.on);
        let devices = fs.btrfs.iter_mut().flat_map(|btrfs| &mut btrfs.device);
        devices.for_each(|device| set(&mut device.on));
        fs.xfs.iter_mut().filter_map(|xfs| xfs.log_on.as_mut()).for_each(set);
        contents.insert(std::mem::take(&mut fs.id), Id::content("fs", &fs.on));
        fs.id = Id::content("fs", &fs.on);
    }
    for swap in &mut layout.swap {
        set(&mut swap.on);
        swap.id = Id::content("swap", &swap.on);
    }
    let esp = layout.boot.esp.iter_mut();
    for id in layout.mount.iter_mut().map(|mount| &mut mount.fs).chain(esp) {
        if let Some(new) = contents.get(id) {
            *id = new.clone();
        }
    }
    layout.boot.grub_disk.iter_mut().for_each(set);
}

/// The layout without the disks that do not count and without what stands on them alone.
fn in_use_only(layout: &Layout, counts: &dyn Fn(&Id) -> bool) -> Layout {
    let stays = |id: &Id| {
        let below = layout.disks_below(id);
        below.is_empty() || below.iter().any(counts)
    };
    let mut kept = layout.clone();
    kept.retain(stays);
    // The text carries times and the host that wrote it; all else of a group is compared.
    kept.vg.iter_mut().for_each(|vg| vg.metadata.clear());
    let by_dhcp = kept.net.nic.iter_mut().filter(|nic| nic.dhcp);
    by_dhcp.for_each(|nic| nic.address.clear());
    let by_dhcp = kept.net.link.iter_mut().filter(|link| link.dhcp);
    by_dhcp.for_each(|link| link.address.clear());
    kept
}

fn compare<T: Serialize>(
    out: &mut Vec<String>,
    kind: &str,
    before: &[T],
    after: &[T],
    key: impl Fn(&T) -> String,
) {
    let map = |items: &[T]| -> BTreeMap<String, Value> {
        items.iter().map(|item| (key(item), value(item))).collect()
    };
    let (before, after) = (map(before), map(after));
    for (name, old) in &before {
        match after.get(name) {
            Some(new) => fields(out, &format!("{kind} {name}"), old, new),
            None => out.push(format!("{kind} {name} is gone")),
        }
    }
    for name in after.keys().filter(|name| !before.contains_key(*name)) {
        out.push(format!("{kind} {name} is new"));
    }
}

fn value<T: Serialize>(item: &T) -> Value {
    // A layout is plain data: this can't fail, and null would compare equal to null.
    serde_json::to_value(item).unwrap_or_default()
}

/// Compares field by field, however deep they are.
fn fields(out: &mut Vec<String>, what: &str, before: &Value, after: &Value) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys.into_iter().filter(|key| !VOLATILE.contains(&key.as_str())) {
                let (old, new) = (old.get(key), new.get(key));
                let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                fields(out, &format!("{what}: {key}"), old, new);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (old, new) in old.iter().zip(new) {
                fields(out, what, old, new);
            }
        }
        (old, new) if old != new => {
            out.push(format!("{what} was {}, is {}", text(what, old), text(what, new)));
        }
        _ => {}
    }
}

fn text(what: &str, value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Number(n) if what.ends_with("_bytes") => match n.as_u64() {
            Some(bytes) if bytes >= 1024 => format!("{bytes} ({})", size(bytes)),
            _ => n.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| text(what, item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("{key} {}", text(key, value));
            fields.iter().map(field).collect::<Vec<_>>().join(" ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::schema::parse;

    const NODE: &str = include_str!("../../tests/fixtures/layout/node.toml");

    fn node() -> Layout {
        parse(NODE).unwrap()
    }

    #[test]
    fn a_machine_does_not_differ_from_itself() {
        assert!(differences(&node(), &node()).is_empty());
        let mut later = node();
        later.node.kernel = "6.99".into();
        later.fs.iter_mut().for_each(|fs| fs.used_bytes += 1);
        later.vg.iter_mut().for_each(|vg| vg.metadata.push('#'));
        assert_eq!(differences(&node(), &later), Vec::<String>::new());
    }

    #[test]
    fn names_that_the_kernel_swapped_are_no_difference() {
        let swapped = NODE.replace("ubdb", "sdx").replace("ubdc", "ubdb").replace("sdx", "ubdc");
        let swapped = swapped.replace("md1\"", "md126\"").replace("md:md1:", "md:md126:");
        let swapped = parse(&swapped).unwrap();
        assert_ne!(swapped, node());
        assert_eq!(differences(&node(), &swapped), Vec::<String>::new());
    }

    #[test]
    fn the_log_of_an_xfs_is_on_the_disk_that_has_another_name_now() {
        let mut recorded = node();
        let log_on = Some(recorded.disk[0].id.clone());
        let xfs = super::super::XfsOptions { log_on, ..Default::default() };
        recorded.fs[0].xfs = Some(xfs);
        let mut present = recorded.clone();
        let other = Id::disk("other");
        let was = std::mem::replace(&mut present.disk[0].id, other.clone());
        present.disk[0].name = "other".into();
        present.partition.iter_mut().filter(|p| p.disk == was).for_each(|p| p.disk = other.clone());
        present.fs[0].xfs.as_mut().unwrap().log_on = Some(other);
        assert_eq!(differences(&recorded, &present), Vec::<String>::new());
    }

    #[test]
    fn what_is_in_use_is_compared_and_the_rest_is_not() {
        let mut present = node();
        let unused = present.disk.iter().find(|d| d.unused).unwrap().id.clone();
        present.disk.retain(|d| d.id != unused);
        present.partition.retain(|p| p.disk != unused);
        assert_eq!(differences(&node(), &present), Vec::<String>::new());
        present.fs.iter_mut().find(|fs| fs.label == "srv").unwrap().label = "other".into();
        present.md.iter_mut().find(|md| md.name == "md1").unwrap().member.pop();
        present.partition.retain(|p| p.name != "ubdd1");
        present.lv.iter_mut().find(|lv| lv.name == "root").unwrap().size_bytes = 1 << 30;
        let said = differences(&node(), &present);
        for expected in [
            "partition ubdd1 is gone",
            "filesystem /dev/ubdd6: label was srv, is other",
            "logical volume lv:vg0/root: size_bytes was 125829120 (120.0 MiB), is 1073741824 (1.0 GiB)",
            "array md1: member was [on part:ubdb7 slot 0, on part:ubdc7 slot 1], is [on part:ubdb7 slot 0]",
        ] {
            assert!(said.iter().any(|line| line == expected), "{expected}\n{said:#?}");
        }
        assert_eq!(said.len(), 4, "{said:#?}");
        assert_eq!(differences(&present, &node()).len(), 4);
    }
}
