//! udev's links in `/dev/disk` that name a disk by its WWN, serial number or place, and multipath's
//! WWIDs: they name disks that are no more.

use std::path::Path;

use super::identity;
use crate::layout::{Disk, Fs, Id, Layout, Partition, Table};
use crate::plan::consent::{serial, wwn};
use crate::plan::{DiskMatch, Plan, join};

const BY_ID: &str = "/dev/disk/by-id/";
/// What stands on disks, whatever its name ends with.
const NO_DISK: &[&str] = &["dm-", "md-", "lvm-"];
const BY_PATH: &str = "/dev/disk/by-path/";

/// What the links in the tree's files become.
pub fn changes(root: &Path, plan: &Plan, recorded: &Layout) -> Vec<(String, String)> {
    let mut changes: Vec<(String, String)> = wwids(plan);
    for text in identity::texts(root) {
        for link in links(&text) {
            if changes.iter().all(|(old, _)| old != link)
                && let Some(new) = now(link, plan, recorded)
            {
                changes.push((link.to_owned(), new));
            }
        }
    }
    changes
}

/// The links that a text names.
fn links(text: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
    let mut found = Vec::new();
    for start in [BY_ID, BY_PATH] {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(text[at..at + start.len() + end].trim_end_matches(['.', ':']));
        }
    }
    found
}

/// The name of the same thing here. None where the link stays true, or is not known.
fn now(link: &str, plan: &Plan, recorded: &Layout) -> Option<String> {
    let (disk, number) = match link.rsplit_once("-part") {
        Some((disk, number)) => (disk, Some(number.parse::<u32>().ok()?)),
        None => (link, None),
    };
    if disk.strip_prefix(BY_ID).is_some_and(|name| NO_DISK.iter().any(|of| name.starts_with(of))) {
        return None;
    }
    let named = |old: &&Disk| match (disk.strip_prefix(BY_ID), disk.strip_prefix(BY_PATH)) {
        (Some(name), _) => {
            serial(old).is_some_and(|serial| ends_with(name, serial))
                || wwn(old).is_some_and(|wwn| ends_with(name, wwn.trim_start_matches("0x")))
        }
        (_, Some(place)) => old.path.as_deref() == Some(place),
        _ => false,
    };
    let mut all = recorded.disk.iter().filter(|disk| !disk.unused).filter(named);
    let (old, None) = (all.next()?, all.next()) else { return None };
    let found = plan.disks.iter().find(|found| found.old.id == old.id);
    let stays = found.is_some_and(|found| match link.starts_with(BY_ID) {
        true => wwn(old) == wwn(&found.new) && serial(old) == serial(&found.new),
        false => old.path == found.new.path,
    });
    let Some(number) = number else {
        let whole = plan.layout.partition.iter().find(|p| p.id == join::whole(&old.id));
        return match whole {
            Some(whole) => partition(whole, plan),
            None if stays => None,
            None => by_uuid(&old.id, &plan.layout).or_else(|| Some(whole_disk(found?))),
        };
    };
    let was = recorded.partition.iter().find(|p| p.disk == old.id && p.number == number)?;
    let is = plan.layout.partition.iter().find(|p| p.id == was.id)?;
    if stays && (&is.disk, is.number) == (&was.disk, was.number) {
        return None;
    }
    partition(is, plan)
}

/// What is on the whole disk, by its own name where no other has it.
fn by_uuid(disk: &Id, layout: &Layout) -> Option<String> {
    let all = || {
        let luks = layout.luks.iter().map(|luks| (vec![luks.on.clone()], &luks.uuid));
        let swap = layout.swap.iter().map(|swap| (vec![swap.on.clone()], &swap.uuid));
        // The log of an xfs carries the UUID as well, but udev does not call it by that.
        let named = |fs: &Fs| -> Vec<Id> {
            fs.devices().into_iter().filter(|id| fs.log_on() != Some(id)).collect()
        };
        let fs = layout.fs.iter().map(move |fs| (named(fs), &fs.uuid));
        fs.chain(swap).chain(luks).filter(|(_, uuid)| !uuid.is_empty())
    };
    let (_, own) = all().find(|(on, _)| on.contains(disk))?;
    let alone = all().filter(|(_, uuid)| *uuid == own).count() == 1;
    alone.then(|| format!("/dev/disk/by-uuid/{own}"))
}

/// `ata-ACME_20_SERIAL`, `scsi-3WWN`, `wwn-0xWWN`; udev writes what is no name's letter as `_`, and may
/// have the number of an NVMe namespace behind it.
fn ends_with(name: &str, identity: &str) -> bool {
    let letters = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let (name, identity): (String, String) =
        (name.chars().map(letters).collect(), identity.chars().map(letters).collect());
    let is_whole = |before: &str| ["_", "_0x", "_2", "_3"].iter().any(|end| before.ends_with(end));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let without = name.rsplit_once('_').filter(|(_, number)| is_number(number));
    let names = [Some(name.as_str()), without.map(|(name, _)| name)];
    names.into_iter().flatten().any(|name| name.strip_suffix(&identity).is_some_and(is_whole))
}

/// By what comes back with the table, where no other partition has it: two disks may be copies of one.
fn partition(part: &Partition, plan: &Plan) -> Option<String> {
    let own = partuuid(part, plan);
    if own.is_some() {
        let is_it = |p: &&Partition| partuuid(p, plan) == own;
        if plan.layout.partition.iter().filter(is_it).count() == 1 {
            return own.map(|uuid| format!("/dev/disk/by-partuuid/{uuid}"));
        }
    }
    let found = plan.disks.iter().find(|found| found.old.id == part.disk)?;
    let disk = by_wwn(&found.new)
        .or_else(|| found.new.path.as_ref().map(|path| format!("{BY_PATH}{path}")));
    match disk {
        Some(disk) => Some(format!("{disk}-part{}", part.number)),
        None if own.is_none() => Some(part.dev()),
        // The link names nothing then, and the check tells: no name is better than another's.
        None => None,
    }
}

fn partuuid(part: &Partition, plan: &Plan) -> Option<String> {
    match plan.layout.disk.iter().find(|disk| disk.id == part.disk)?.table.as_ref()? {
        Table::Gpt { .. } => part.uuid.map(|uuid| uuid.to_string()),
        Table::Mbr { signature: 0 } => None,
        Table::Mbr { signature } => Some(format!("{signature:08x}-{:02x}", part.number)),
    }
}

fn whole_disk(found: &DiskMatch) -> String {
    by_wwn(&found.new).unwrap_or_else(|| found.new.dev())
}

fn by_wwn(disk: &Disk) -> Option<String> {
    match wwn(disk)? {
        wwn if wwn.starts_with("0x") => Some(format!("{BY_ID}wwn-{wwn}")),
        wwn if wwn.starts_with("eui.") || wwn.starts_with("uuid.") => {
            Some(format!("{BY_ID}nvme-{wwn}"))
        }
        _ => None,
    }
}

/// What multipath knows disks by: SCSI's have a 3 before the number that is a WWN (type NAA).
fn wwids(plan: &Plan) -> Vec<(String, String)> {
    let wwid = |disk: &Disk| {
        let wwn = wwn(disk)?;
        Some(wwn.strip_prefix("0x").map_or_else(|| wwn.to_owned(), |naa| format!("3{naa}")))
    };
    let changed = |found: &DiskMatch| Some((wwid(&found.old)?, wwid(&found.new)?));
    plan.disks.iter().filter_map(changed).filter(|(old, new)| old != new).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fstab::replace_words;
    use super::*;
    use crate::plan::testing::{blank, raid_node};
    use crate::plan::{self, Answers};

    fn node() -> Layout {
        let mut node = raid_node();
        node.disk[0].wwn = Some("0x600508b400105df70000e00000ac0000".into());
        node.disk[1].wwn = Some("0x5000c500a1b2c3d4".into());
        node
    }

    fn planned(node: &Layout, change: impl Fn(&mut Disk)) -> Plan {
        let mut present = blank(node);
        present.disk.truncate(2);
        present.disk.iter_mut().for_each(change);
        plan::plan(node, &present, &Answers::default()).unwrap()
    }

    #[test]
    fn links_to_disks_that_are_no_more_become_what_came_back() {
        let node = node();
        let plan = planned(&node, |disk| {
            disk.wwn = (disk.name == "sda").then(|| "0x5000cca2ffff0001".to_owned());
            disk.serial = Some(format!("NEW{}", disk.name));
            disk.path = None;
        });
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc/multipath")).unwrap();
        let a3 = node.partition[2].uuid.unwrap();
        let b2 = node.partition[4].uuid.unwrap();
        let fstab = "/dev/disk/by-id/wwn-0x600508b400105df70000e00000ac0000-part3 /a ext4 defaults 0 2\n\
             /dev/disk/by-id/ata-ACME_20_SER1-part2 /b ext4 defaults 0 2\n\
             /dev/disk/by-path/pci-0000:00:1f.2-ata-2-part2 /c ext4 defaults 0 2\n\
             /dev/disk/by-id/ata-OTHER_9-part1 /d ext4 nofail 0 2\n";
        std::fs::write(root.join("etc/fstab"), fstab).unwrap();
        let grub = "GRUB_DEVICE=\"/dev/disk/by-id/scsi-3600508b400105df70000e00000ac0000\"\n\
             B=/dev/disk/by-id/ata-ACME_20_SER1\n";
        std::fs::create_dir_all(root.join("etc/default")).unwrap();
        std::fs::write(root.join("etc/default/grub"), grub).unwrap();
        let wwids = "# Multipath wwids\n/3600508b400105df70000e00000ac0000/\n/3600ffff/\n";
        std::fs::write(root.join("etc/multipath/wwids"), wwids).unwrap();
        let bindings = "mpatha 3600508b400105df70000e00000ac0000\n";
        std::fs::write(root.join("etc/multipath/bindings"), bindings).unwrap();
        // Of SLES and of Debian: where the next update of GRUB goes.
        let sles = "/dev/disk/by-id/ata-ACME_20_SER1\nactivate\ngeneric_mbr\n";
        std::fs::write(root.join("etc/default/grub_installdevice"), sles).unwrap();
        std::fs::create_dir_all(root.join("var/cache/debconf")).unwrap();
        let debian = "Name: grub-pc/install_devices\nTemplate: grub-pc/install_devices\n\
             Value: /dev/disk/by-id/wwn-0x600508b400105df70000e00000ac0000, \
             /dev/disk/by-id/ata-ACME_20_SER1\nOwners: grub-pc\n";
        std::fs::write(root.join("var/cache/debconf/config.dat"), debian).unwrap();
        let changes = changes(root, &plan, &node);
        let rewritten = identity::rewrite(root, &changes).unwrap();
        assert_eq!(rewritten.len(), 6);
        assert!(identity::in_initramfs(&rewritten));
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(
            read("etc/fstab"),
            format!(
                "/dev/disk/by-partuuid/{a3} /a ext4 defaults 0 2\n\
                 /dev/disk/by-partuuid/{b2} /b ext4 defaults 0 2\n\
                 /dev/disk/by-partuuid/{b2} /c ext4 defaults 0 2\n\
                 /dev/disk/by-id/ata-OTHER_9-part1 /d ext4 nofail 0 2\n"
            )
        );
        assert_eq!(
            read("etc/default/grub"),
            "GRUB_DEVICE=\"/dev/disk/by-id/wwn-0x5000cca2ffff0001\"\nB=/dev/sdb\n"
        );
        assert_eq!(
            read("etc/multipath/wwids"),
            "# Multipath wwids\n/35000cca2ffff0001/\n/3600ffff/\n"
        );
        assert_eq!(read("etc/multipath/bindings"), "mpatha 35000cca2ffff0001\n");
        assert_eq!(read("etc/default/grub_installdevice"), "/dev/sdb\nactivate\ngeneric_mbr\n");
        assert_eq!(
            read("var/cache/debconf/config.dat").lines().nth(2),
            Some("Value: /dev/disk/by-id/wwn-0x5000cca2ffff0001, /dev/sdb")
        );
    }

    #[test]
    fn a_link_names_the_disk_with_the_whole_of_its_number() {
        for (name, identity, is_it) in [
            ("ata-ACME_20_SER1", "SER1", true),
            ("ata-ACME_20_XSER1", "SER1", false),
            ("virtio-SER1", "SER1", true),
            ("wwn-0x5000c500a1b2c3d4", "5000c500a1b2c3d4", true),
            ("scsi-35000c500a1b2c3d4", "5000c500a1b2c3d4", true),
            ("nvme-eui.0025388b710116a1", "eui.0025388b710116a1", true),
            ("nvme-ACME_SSD_S4EV-N1_1", "S4EV-N1", true),
            ("nvme-ACME_SSD_S4EV-N11", "S4EV-N1", false),
        ] {
            assert_eq!(ends_with(name, identity), is_it, "{name}");
        }
    }

    #[test]
    fn links_to_disks_that_are_still_there_stay() {
        let node = node();
        let plan = planned(&node, |_| {});
        let text =
            "/dev/disk/by-id/ata-ACME_20_SER1-part2 /dev/disk/by-path/pci-0000:00:1f.2-ata-2";
        let named: Vec<_> = links(text).into_iter().map(|l| now(l, &plan, &node)).collect();
        assert_eq!(named, [None, None]);
        assert!(wwids(&plan).is_empty());
        assert_eq!(replace_words(text, &[]), None);
    }

    #[test]
    fn a_partuuid_that_two_partitions_have_names_none_of_them() {
        let mut node = node();
        let copied = node.partition[1].uuid;
        node.partition[4].uuid = copied;
        let plan = planned(&node, |disk| {
            disk.wwn = (disk.name == "sda").then(|| "0x5000cca2ffff0001".to_owned());
            disk.serial = Some(format!("NEW{}", disk.name));
            disk.path = (disk.name == "sdb").then(|| "pci-0000:07:00.0".to_owned());
        });
        let of = |link: &str| now(link, &plan, &node);
        assert_eq!(
            of("/dev/disk/by-id/ata-ACME_20_SER0-part2").unwrap(),
            "/dev/disk/by-id/wwn-0x5000cca2ffff0001-part2"
        );
        assert_eq!(
            of("/dev/disk/by-id/ata-ACME_20_SER1-part2").unwrap(),
            "/dev/disk/by-path/pci-0000:07:00.0-part2"
        );
        assert!(of("/dev/disk/by-id/ata-ACME_20_SER1-part3").unwrap().contains("by-partuuid"));
        let bare = planned(&node, |disk| {
            (disk.wwn, disk.path) = (None, None);
            disk.serial = Some(format!("NEW{}", disk.name));
        });
        assert_eq!(now("/dev/disk/by-id/ata-ACME_20_SER1-part2", &bare, &node), None);
    }

    #[test]
    fn what_stands_on_disks_is_none_though_its_name_ends_like_ones_serial() {
        let mut node = node();
        node.disk[0].serial = Some("data".into());
        let plan = planned(&node, |disk| disk.serial = Some(format!("NEW{}", disk.name)));
        for name in ["dm-name-vg0_data", "md-name-node_data", "lvm-pv-uuid-_data"] {
            assert_eq!(now(&format!("{BY_ID}{name}"), &plan, &node), None, "{name}");
        }
        assert!(now("/dev/disk/by-id/virtio-data", &plan, &node).is_some());
    }

    #[test]
    fn a_disk_that_stays_keeps_its_links_where_others_are_joined() {
        use crate::plan::testing::{GIB, MIB, disk, empty, fs, gpt, mount, partition};
        let mut recorded = empty();
        for name in ["sda", "sdb", "sdc", "sdd"] {
            let mut disk = disk(name, 10 * GIB);
            disk.serial = Some(format!("SER-{name}"));
            let mut on = disk.id.clone();
            if name != "sdd" {
                gpt(&mut disk, name.as_bytes()[2]);
                recorded.partition.push(partition(name, 1, MIB, GIB));
                on = recorded.partition.last().unwrap().id.clone();
            }
            let fs = fs(&on, "ext4", GIB);
            let path = if name == "sda" { "/".to_owned() } else { format!("/{name}") };
            recorded.mount.push(mount(&path, &fs.id));
            recorded.fs.push(fs);
            recorded.disk.push(disk);
        }
        let map = ["sda", "sdb"].map(|old| (old.to_owned(), "sda".to_owned())).to_vec();
        let answers = Answers { map, auto: true, ..Answers::default() };
        let mut present = blank(&recorded);
        let of = |plan: &Plan, name: &str| now(&format!("{BY_ID}ata-ACME_{name}"), plan, &recorded);
        let plan = plan::plan(&recorded, &present, &answers).unwrap();
        for name in ["SER-sda", "SER-sda-part1", "SER-sdc", "SER-sdc-part1", "SER-sdd"] {
            assert_eq!(of(&plan, name), None, "{name}");
        }
        let second = recorded.partition[1].uuid.unwrap();
        let link = format!("/dev/disk/by-partuuid/{second}");
        assert_eq!(of(&plan, "SER-sdb-part1"), Some(link));
        // A new disk without a WWN is known by what is on all of it.
        present.disk[3].serial = Some("NEW".into());
        let mut answers = answers;
        answers.map.push(("sdd".into(), "sdd".into()));
        let plan = plan::plan(&recorded, &present, &answers).unwrap();
        let link = format!("/dev/disk/by-uuid/{}", recorded.fs[3].uuid);
        assert_eq!(of(&plan, "SER-sdd"), Some(link));
    }
}
