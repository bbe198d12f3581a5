//! Carrying changed names and UUIDs into the files that name them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::fstab::replace_words;
use crate::layout::{Id, Layout, Lv, Partition, Subvolume};
use crate::plan::{Plan, Step, join};

use crate::sys::inside;

/// The files that may name a device, an array or a UUID. `*` stands for any name.
const FILES: &[&str] = &[
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/default/grub",
    "/etc/default/grub.d/*",
    "/etc/default/grub_installdevice",
    "/etc/kernel/cmdline",
    "/etc/mdadm/mdadm.conf",
    "/etc/mdadm.conf",
    "/etc/lvm/lvm.conf",
    "/etc/lvm/lvmlocal.conf",
    "/etc/initramfs-tools/conf.d/*",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/loader/entries/*",
    "/boot/grub/custom.cfg",
    "/boot/grub2/custom.cfg",
    "/boot/grub/grubenv",
    "/boot/grub2/grubenv",
    "/boot/efi/EFI/*/grub.cfg",
    "/boot/efi/EFI/*/grubenv",
    "/boot/efi/loader/entries/*",
    "/efi/loader/entries/*",
    "/etc/dracut.conf",
    "/etc/dracut.conf.d/*",
    "/etc/cmdline",
    "/etc/cmdline.d/*",
    "/etc/multipath.conf",
    "/etc/multipath/conf.d/*",
    "/etc/multipath/bindings",
    "/etc/multipath/wwids",
    // Where the next update of GRUB's package puts it.
    "/var/cache/debconf/config.dat",
];

/// GRUB's environment is a block of so many bytes, filled with `#`.
const GRUBENV: &str = "grubenv";
const GRUBENV_BYTES: usize = 1024;

/// What is copied into an initramfs.
const IN_INITRAMFS: &[&str] = &[
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/mdadm",
    "/etc/mdadm.conf",
    "/etc/initramfs-tools",
    "/etc/lvm",
    "/etc/dracut.conf",
    "/etc/dracut.conf.d",
    "/etc/cmdline",
    "/etc/cmdline.d",
    "/etc/multipath.conf",
    "/etc/multipath",
];

/// What the name of a file's copy ends with.
const COPY: &str = ".rr-orig";

/// What a word in a file becomes: devices that have another name here, UUIDs that could not be
/// kept.
pub fn changes(plan: &Plan, recorded: &Layout) -> Vec<(String, String)> {
    let mut changes: Vec<(String, String)> = plan
        .identity_changes()
        .iter()
        .filter(|change| !change.new.is_empty())
        .flat_map(|change| forms(&change.old, &change.new))
        .collect();
    let ids = recorded.disk.iter().map(|d| &d.id).chain(recorded.partition.iter().map(|p| &p.id));
    changes.extend(ids.filter_map(|id| renamed(recorded, &plan.layout, id)));
    changes.extend(subvolume_numbers(recorded));
    changes.extend(volumes_by_uuid(plan, recorded));
    changes.retain(|(old, new)| old != new);
    changes
}

/// A partition's name is written in several ways: in quotes, as fstab and as udev write what is no
/// letter.
fn forms(old: &str, new: &str) -> Vec<(String, String)> {
    let mut forms = vec![(old.to_owned(), new.to_owned())];
    let (Some(label), Some(uuid)) = (old.strip_prefix("PARTLABEL="), new.strip_prefix("PARTUUID="))
    else {
        return forms;
    };
    let octal = label.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    if octal != label {
        forms.push((format!("PARTLABEL={octal}"), new.to_owned()));
    }
    forms.push((format!("PARTLABEL=\"{label}\""), new.to_owned()));
    forms.push((format!("PARTLABEL=\"{octal}\""), new.to_owned()));
    let mut link = String::new();
    for c in label.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) || !c.is_ascii() => {
                link.push(c);
            }
            c => {
                let _ = write!(link, "\\x{:02x}", u32::from(c));
            }
        }
    }
    let link = format!("/dev/disk/by-partlabel/{link}");
    forms.push((link, format!("/dev/disk/by-partuuid/{uuid}")));
    forms
}

/// btrfs numbers its subvolumes itself: a mount by number becomes one by name. A number that
/// means one subvolume here and another there is left alone, and the check will tell.
fn subvolume_numbers(recorded: &Layout) -> Vec<(String, String)> {
    let all: Vec<_> = recorded.fs.iter().filter_map(|fs| fs.btrfs.as_ref()).collect();
    let subvolumes: Vec<_> = all.iter().flat_map(|btrfs| &btrfs.subvolume).collect();
    let meant_once =
        |s: &&&Subvolume| subvolumes.iter().all(|other| other.id != s.id || other.path == s.path);
    let named = |s: &&Subvolume| {
        (format!("subvolid={}", s.id), format!("subvol=/{}", s.path.as_path().display()))
    };
    subvolumes.iter().filter(meant_once).map(named).collect()
}

/// udev's links by the UUIDs of a volume and its group, which Ubuntu's installer writes into fstab:
/// a volume that is made anew has others, and is known by its name. Where LVM refused to give it
/// those that it had, no link tells of them.
fn volumes_by_uuid(plan: &Plan, recorded: &Layout) -> Vec<(String, String)> {
    let bare = |uuid: &str| uuid.replace('-', "");
    let gave = |vg: &str, lv: &Lv| {
        plan.steps.iter().any(|step| match step {
            Step::KeepUuids(keep) => keep.vg == vg && keep.uuids.iter().any(|(n, _)| *n == lv.name),
            _ => false,
        })
    };
    let is_new = |lv: &Lv| {
        plan.identity_changes().iter().any(|change| change.old == lv.uuid && change.new.is_empty())
    };
    let link = |lv: &Lv| {
        let vg = recorded.vg.iter().find(|vg| vg.id == lv.vg)?;
        let old = format!("/dev/disk/by-id/dm-uuid-LVM-{}{}", bare(&vg.uuid), bare(&lv.uuid));
        let is_gone = is_new(lv) || (gave(&vg.name, lv) && !Path::new(&old).exists());
        is_gone.then(|| (old, format!("/dev/{}/{}", vg.name, lv.name)))
    };
    recorded.lv.iter().filter_map(link).collect()
}

fn renamed(recorded: &Layout, planned: &Layout, id: &Id) -> Option<(String, String)> {
    let now = planned.dev(&join::whole(id)).or_else(|| planned.dev(id))?;
    Some((recorded.dev(id)?, now))
}

/// Rewrites every file that names something that changed; a copy `.rr-orig` stays beside it.
/// Returns the files.
pub fn rewrite(root: &Path, changes: &[(String, String)]) -> Result<Vec<PathBuf>> {
    let mut rewritten = Vec::new();
    if changes.is_empty() {
        return Ok(rewritten);
    }
    for (path, file) in files(root) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let new = match path.ends_with(GRUBENV) {
            true => replace_in_block(&text, changes),
            false => replace_words(&text, changes),
        };
        if let Some(new) = new {
            replace(&file, &new)?;
            rewritten.push(path);
        }
    }
    Ok(rewritten)
}

/// The files in the tree, as the system calls them and as they are called here.
fn files(root: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let paths = FILES.iter().flat_map(move |pattern| expand(root, pattern));
    // Once each: Red Hat's /boot/grub2/grubenv is a link to the ESP's, and names that swap would swap
    // back.
    let mut seen = BTreeSet::new();
    paths.filter_map(move |path| {
        let file = inside::find(root, &path).filter(|file| file.is_file())?;
        seen.insert(file.clone()).then_some((path, file))
    })
}

/// What is in them.
pub fn texts(root: &Path) -> Vec<String> {
    files(root).filter_map(|(_, file)| std::fs::read_to_string(file).ok()).collect()
}

/// None also where what it becomes has no room in the block.
fn replace_in_block(text: &str, changes: &[(String, String)]) -> Option<String> {
    let mut new = replace_words(text.trim_end_matches('#'), changes)?;
    let room = GRUBENV_BYTES.checked_sub(new.len())?;
    new.extend(std::iter::repeat_n('#', room));
    Some(new)
}

/// Whether partitions are on the disk of others now, by other numbers.
pub fn is_joined(plan: &Plan, recorded: &Layout) -> bool {
    let was = |p: &Partition| recorded.partition.iter().any(|w| w.id == p.id && w.disk == p.disk);
    plan.layout.partition.iter().any(|partition| !was(partition))
}

/// Whether one of these files is copied into an initramfs.
pub fn in_initramfs(files: &[PathBuf]) -> bool {
    files.iter().any(|file| IN_INITRAMFS.iter().any(|dir| file.starts_with(dir)))
}

fn expand(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let Some((dir, rest)) = pattern.split_once("/*") else { return vec![PathBuf::from(pattern)] };
    let names = inside::names(root, dir)
        .into_iter()
        .filter(|name| !name.trim_end_matches('~').ends_with(COPY));
    names.map(|name| PathBuf::from(format!("{dir}/{name}{rest}"))).collect()
}

/// In place, so that owner, mode, labels and hard links stay; the copy of the first run is kept.
pub fn replace(file: &Path, text: &str) -> Result<()> {
    let copy = beside(file);
    if !copy.exists() {
        std::fs::copy(file, &copy)
            .with_context(|| format!("keeping a copy of {}", file.display()))?;
    }
    std::fs::write(file, text).with_context(|| format!("rewriting {}", file.display()))
}

pub fn beside(file: &Path) -> PathBuf {
    let mut copy = file.as_os_str().to_owned();
    copy.push(COPY);
    // mkinitramfs reads all of these in turn, but for names with other than letters, digits and `._-`.
    if file.parent().is_some_and(|dir| dir.ends_with("initramfs-tools/conf.d")) {
        copy.push("~");
    }
    PathBuf::from(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subvolumes_are_mounted_by_name_and_no_more_by_number() {
        let node = include_str!("../../../tests/fixtures/layout/btrfs.toml");
        let recorded = crate::layout::schema::parse(node).unwrap();
        let changes = subvolume_numbers(&recorded);
        let line =
            "UUID=1 /home btrfs rw,subvolid=257,subvol=/@home 0 0\nUUID=1 /x btrfs subvolid=2570\n";
        let text = replace_words(line, &changes).unwrap();
        assert_eq!(
            text,
            "UUID=1 /home btrfs rw,subvol=/@home,subvol=/@home 0 0\nUUID=1 /x btrfs subvolid=2570\n"
        );
    }

    #[test]
    fn what_is_behind_another_disks_partitions_now_is_named_so() {
        use crate::plan::testing::{GIB, MIB, blank, disk, empty, fs, gpt, mount, partition};
        use crate::plan::{Answers, plan};
        let mut node = empty();
        let mut system = disk("sda", 8 * GIB);
        gpt(&mut system, 1);
        let mut old = disk("sdb", 8 * GIB);
        gpt(&mut old, 2);
        node.disk = vec![system, old, disk("sdc", 2 * GIB)];
        for disk in &mut node.disk {
            disk.serial = Some(format!("SER-{}", disk.name));
        }
        node.partition.push(partition("sda", 1, MIB, GIB));
        node.partition.push(partition("sdb", 1, MIB, GIB));
        for (path, on) in [
            ("/", Id::partition("sda1")),
            ("/old", Id::partition("sdb1")),
            ("/srv", Id::disk("sdc")),
        ] {
            let fs = fs(&on, "ext4", GIB);
            node.mount.push(mount(path, &fs.id));
            node.fs.push(fs);
        }
        let map = ["sda", "sdb", "sdc"].map(|old| (old.to_owned(), "sda".to_owned())).to_vec();
        let joined = plan(&node, &blank(&node), &Answers { map, ..Answers::default() }).unwrap();
        let fstab = "/dev/sda1 / ext4\n/dev/sdb1 /old ext4\n/dev/sdc /srv ext4\n";
        assert_eq!(
            replace_words(fstab, &changes(&joined, &node)).unwrap(),
            "/dev/sda1 / ext4\n/dev/sda2 /old ext4\n/dev/sda3 /srv ext4\n"
        );
        let own = plan(&node, &node, &Answers::default()).unwrap();
        assert!(!is_joined(&own, &node) && is_joined(&joined, &node));
        // The disk is the same one, and yet its partitions are not all that LVM's list has.
        use super::super::lvm::is_stale;
        assert!(!is_stale(&own, &node) && is_stale(&joined, &node));
    }

    #[test]
    fn grubs_environment_keeps_its_size() {
        let changes = [("root=/dev/sda2".to_owned(), "root=/dev/disk/by-partuuid/1".to_owned())];
        let mut text = "# GRUB Environment Block\nkernelopts=root=/dev/sda2 ro\n".to_owned();
        text.push_str(&"#".repeat(GRUBENV_BYTES - text.len()));
        let new = replace_in_block(&text, &changes).unwrap();
        assert!(new.starts_with(
            "# GRUB Environment Block\nkernelopts=root=/dev/disk/by-partuuid/1 ro\n#"
        ));
        assert_eq!(new.len(), GRUBENV_BYTES);
        assert_eq!(replace_in_block(&new, &changes), None);
        let full = format!("x=root=/dev/sda2 {}", "y".repeat(1000));
        assert_eq!(replace_in_block(&full, &changes), None);
    }

    #[test]
    fn files_are_found_by_their_patterns() {
        let dir = tempfile::tempdir().unwrap();
        for vendor in ["debian", "opensuse"] {
            std::fs::create_dir_all(dir.path().join("boot/efi/EFI").join(vendor)).unwrap();
        }
        let found = expand(dir.path(), "/boot/efi/EFI/*/grub.cfg");
        let wanted = ["debian", "opensuse"].map(|v| format!("/boot/efi/EFI/{v}/grub.cfg"));
        assert_eq!(found, wanted.map(PathBuf::from));
    }

    #[test]
    fn a_volume_that_is_made_anew_is_mounted_by_its_name_and_no_more_by_its_uuid() {
        use crate::plan::{self, testing::raid_node};
        let mut node = raid_node();
        node.vg[0].uuid = "6nZbqX-Jm5T-SiLE-3Bto-2gSf-mXEm-f0bTuq".into();
        node.lv[0].uuid = "Ho0Wpp-WRTd-XE2p-2oeQ-4Ykk-3LfR-tVPkdM".into();
        let plan = plan::plan(&node, &node, &plan::Answers::default()).unwrap();
        let text = "/dev/disk/by-id/dm-uuid-LVM-6nZbqXJm5TSiLE3Bto2gSfmXEmf0bTuqHo0WppWRTdXE2p2oeQ4Ykk3LfRtVPkdM / ext4 defaults 0 1\n";
        let new = replace_words(text, &changes(&plan, &node));
        assert_eq!(new.as_deref(), Some("/dev/vg0/root / ext4 defaults 0 1\n"));
    }

    #[test]
    fn a_volume_that_did_not_get_its_uuid_is_mounted_by_its_name() {
        use crate::plan::{self, step::KeepUuids, testing::raid_node};
        let node = raid_node();
        let mut plan = plan::plan(&node, &node, &plan::Answers::default()).unwrap();
        assert!(changes(&plan, &node).is_empty());
        let uuids = vec![("root".to_owned(), node.lv[0].uuid.clone())];
        plan.steps.push(Step::KeepUuids(KeepUuids { vg: "vg0".into(), uuids }));
        let link = "/dev/disk/by-id/dm-uuid-LVM-VGUUID0001LVUUIDroot";
        assert_eq!(changes(&plan, &node), [(link.to_owned(), "/dev/vg0/root".to_owned())]);
    }

    #[test]
    fn only_files_that_name_a_change_are_rewritten_and_the_original_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc/initramfs-tools/conf.d")).unwrap();
        std::fs::write(root.join("etc/fstab"), "/dev/sda1 / ext4\n").unwrap();
        std::fs::write(root.join("etc/crypttab"), "# none\n").unwrap();
        std::fs::create_dir(root.join("etc/lvm")).unwrap();
        let filter =
            "\t# filter = [ \"a|/dev/sda1|\" ]\n\tfilter = [ \"a|^/dev/sda2$|\", \"r|.*|\" ]\n";
        std::fs::write(root.join("etc/lvm/lvm.conf"), filter).unwrap();
        let resume = root.join("etc/initramfs-tools/conf.d/resume");
        std::fs::write(&resume, "RESUME=/dev/sda2\n").unwrap();
        let changes = [("/dev/sda1", "/dev/vda1"), ("/dev/sda2", "/dev/vda2")]
            .map(|(old, new)| (old.to_owned(), new.to_owned()));
        let rewritten = rewrite(root, &changes).unwrap();
        assert_eq!(
            rewritten,
            ["/etc/fstab", "/etc/lvm/lvm.conf", "/etc/initramfs-tools/conf.d/resume"]
                .map(Path::new)
        );
        assert!(in_initramfs(&rewritten));
        assert!(!in_initramfs(&[PathBuf::from("/boot/grub/grub.cfg")]));
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(read("etc/fstab"), "/dev/vda1 / ext4\n");
        assert_eq!(read("etc/lvm/lvm.conf"), filter.replace("sda2", "vda2"));
        assert_eq!(read("etc/fstab.rr-orig"), "/dev/sda1 / ext4\n");
        // mkinitramfs would read `resume.rr-orig` after `resume`.
        let copies = inside::names(root, "/etc/initramfs-tools/conf.d");
        assert_eq!(copies, ["resume", "resume.rr-orig~"]);
        assert!(rewrite(root, &changes).unwrap().is_empty());
        assert_eq!(read("etc/fstab.rr-orig"), "/dev/sda1 / ext4\n");
    }

    #[test]
    fn a_file_with_two_names_is_rewritten_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("boot/efi/EFI/redhat")).unwrap();
        std::fs::create_dir_all(root.join("boot/grub2")).unwrap();
        let mut text = "kernelopts=root=/dev/sda2 resume=/dev/sdb2\n".to_owned();
        text.push_str(&"#".repeat(GRUBENV_BYTES - text.len()));
        let file = root.join("boot/efi/EFI/redhat/grubenv");
        std::fs::write(&file, text).unwrap();
        let link = root.join("boot/grub2/grubenv");
        std::os::unix::fs::symlink("../efi/EFI/redhat/grubenv", link).unwrap();
        let swapped = [("/dev/sda2", "/dev/sdb2"), ("/dev/sdb2", "/dev/sda2")]
            .map(|(old, new)| (old.to_owned(), new.to_owned()));
        assert_eq!(rewrite(root, &swapped).unwrap(), [Path::new("/boot/grub2/grubenv")]);
        let new = std::fs::read_to_string(&file).unwrap();
        assert!(new.starts_with("kernelopts=root=/dev/sdb2 resume=/dev/sda2\n"), "{new}");
    }

    #[test]
    fn a_partitions_name_becomes_its_number_however_it_is_written() {
        let changes = forms("PARTLABEL=my data", "PARTUUID=deadbeef-02");
        let text = "PARTLABEL=my\\040data /a ext4\nPARTLABEL=\"my data\" /b ext4\n\
                    /dev/disk/by-partlabel/my\\x20data /c ext4\n";
        let wanted = "PARTUUID=deadbeef-02 /a ext4\nPARTUUID=deadbeef-02 /b ext4\n\
                      /dev/disk/by-partuuid/deadbeef-02 /c ext4\n";
        assert_eq!(replace_words(text, &changes).as_deref(), Some(wanted));
    }
}
