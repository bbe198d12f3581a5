//! Filesystems none of whose files are in the backup, as the admin's patterns say.
//!
//! A recovery that made them anew would erase what nobody has a copy of. Where all that is on their
//! disks is such, those are left alone, as the disk of a target is. Where they share a disk with what
//! comes back, that can't be, and is said.

use std::collections::BTreeSet;
use std::path::Path;

use crate::layout::{BytesPath, Fs, Id, Layout, Mount, Unprotected};
use crate::plan::leave;

/// Made anew and empty, they are as good as before.
const SCRATCH: [&str; 2] = ["/tmp", "/var/tmp"];

/// What became of the trees that patterns leave nothing of.
#[derive(Debug, Default)]
pub struct Marked {
    /// What is to be said of each.
    pub notes: Vec<Unprotected>,
    /// Those that are left alone. They are not archived, so that no recovery looks for a place for them.
    pub left: Vec<String>,
    /// What is on the disks that are left alone, of which it was said that it is made anew.
    pub devices: Vec<String>,
}

impl Marked {
    /// Whether a note speaks of what is left alone.
    pub fn is_moot(&self, note: &Unprotected) -> bool {
        self.devices.iter().any(|device| note.is_of(device))
    }
}

/// Marks the filesystems of `emptied` trees that a recovery leaves alone.
pub fn mark(layout: &mut Layout, emptied: Vec<Unprotected>) -> Marked {
    let is_emptied =
        |path: &Path| emptied.iter().any(|t| t.what == BytesPath(path.to_owned()).to_string());
    let without = |fs: &&Fs| is_without_files(layout, fs, is_emptied);
    let emptied_fs: BTreeSet<Id> =
        layout.fs.iter().filter(without).map(|fs| fs.id.clone()).collect();
    let spared = alone(layout, &emptied_fs);
    for mount in layout.mount.iter_mut().filter(|mount| spared.contains(&mount.fs)) {
        mount.target = true;
    }
    let mut marked = Marked { devices: devices_on(layout, &spared), ..Marked::default() };
    layout.unprotected.retain(|note| !marked.is_moot(note));
    for mut tree in emptied {
        let mounted = layout.mount.iter().find(|mount| mount.path.to_string() == tree.what);
        // A tree may be a subvolume that is not mounted by itself.
        let place = |fs: &&Fs| {
            let mut places = layout.subvolume_places(fs).into_iter().filter_map(|(_, place)| place);
            places.any(|place| BytesPath(place).to_string() == tree.what)
        };
        let inner = || layout.fs.iter().find(place).map(|fs| &fs.id);
        if let Some(fs) = mounted.map(|mount| &mount.fs).or_else(inner) {
            let disks = names_of(layout, fs);
            if spared.contains(fs) {
                tree.why = format!(
                    "{}: a recovery leaves it alone, on {disks}, and makes it nowhere else",
                    tree.why
                );
                marked.left.push(tree.what.clone());
            } else if emptied_fs.contains(fs) {
                tree.why = format!(
                    "{}, as {}, and {disks} has more on it that comes back",
                    Unprotected::ERASED,
                    tree.why
                );
                layout.unprotected.push(tree.clone());
            }
        }
        marked.notes.push(tree);
    }
    marked
}

/// All that is on the disks of these filesystems.
fn devices_on(layout: &Layout, spared: &BTreeSet<Id>) -> Vec<String> {
    let idle: BTreeSet<Id> = spared.iter().flat_map(|fs| layout.disks_below(fs)).collect();
    let parts =
        layout.partition.iter().map(|part| &part.id).chain(layout.lv.iter().map(|lv| &lv.id));
    let more = layout.md.iter().map(|md| &md.id).chain(layout.luks.iter().map(|luks| &luks.id));
    let on_idle = |id: &&Id| {
        let below = layout.disks_below(id);
        !below.is_empty() && below.is_subset(&idle)
    };
    let all = parts.chain(more).chain(&idle).filter(on_idle);
    all.filter_map(|id| layout.dev(id)).collect()
}

/// Whether none of its files are in the backup, and a machine starts without it.
fn is_without_files(layout: &Layout, fs: &Fs, is_emptied: impl Fn(&Path) -> bool) -> bool {
    let scratch =
        |path: &BytesPath| SCRATCH.iter().any(|scratch| path.as_path() == Path::new(scratch));
    let mounts: Vec<&Mount> = layout.mount.iter().filter(|mount| mount.fs == fs.id).collect();
    // Of places that show the same only one is a tree.
    let is_covered = |mount: &&Mount| {
        let mut over = mounts.iter().filter(|other| mount.shows().starts_with(other.shows()));
        over.any(|other| is_emptied(other.path.as_path()))
    };
    let mut places = layout.subvolume_places(fs).into_iter().filter_map(|(_, place)| place);
    !mounts.is_empty()
        && mounts.iter().all(|m| !m.target && leave::can_be_missed(m) && !scratch(&m.path))
        && mounts.iter().all(is_covered)
        && places.all(|place| is_emptied(&place))
}

/// Those of `emptied` on whose disks there is nothing else.
fn alone(layout: &Layout, emptied: &BTreeSet<Id>) -> BTreeSet<Id> {
    let (mut spared, mut idle): (BTreeSet<Id>, BTreeSet<Id>) = Default::default();
    idle.extend(emptied.iter().flat_map(|fs| layout.disks_below(fs)));
    spared.extend(emptied.iter().filter(|fs| !layout.disks_below(fs).is_empty()).cloned());
    let boot = || layout.boot.esp.iter().chain(&layout.boot.grub_disk);
    loop {
        let mounted = layout.mount.iter().filter(|m| !m.target && !spared.contains(&m.fs));
        let used = mounted.map(|m| &m.fs).chain(layout.swap.iter().map(|s| &s.on)).chain(boot());
        let mut used: BTreeSet<Id> = used.flat_map(|id| layout.disks_below(id)).collect();
        // What can only be made as a whole.
        let joined = layout.md.iter().map(|md| &md.id).chain(layout.vg.iter().map(|vg| &vg.id));
        for disks in joined.map(|id| layout.disks_below(id)) {
            if !disks.is_subset(&idle) {
                used.extend(disks);
            }
        }
        let before = idle.len();
        idle.retain(|disk| !used.contains(disk));
        spared.retain(|fs| layout.disks_below(fs).is_subset(&idle));
        if idle.len() == before {
            return spared;
        }
    }
}

fn names_of(layout: &Layout, fs: &Id) -> String {
    let disks = layout.disks_on(fs);
    disks.into_iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::testing;
    use crate::plan::{Answers, plan, testing as disks};

    fn emptied(paths: &[&str]) -> Vec<Unprotected> {
        let tree = |path: &&str| Unprotected { what: (*path).into(), why: "exclude".into() };
        paths.iter().map(tree).collect()
    }

    fn marked(layout: &Layout, paths: &[&str]) -> (Vec<String>, Vec<Unprotected>) {
        let mut layout = layout.clone();
        let found = mark(&mut layout, emptied(paths));
        let marked = layout.mount.iter().filter(|mount| mount.target);
        let marked: Vec<_> = marked.map(|mount| mount.path.to_string()).collect();
        assert_eq!(marked, found.left);
        (marked, found.notes)
    }

    #[test]
    fn disks_with_what_is_not_in_the_backup_are_left_alone() {
        let layout = testing::layout();
        let (left, notes) = marked(&layout, &["/mnt/usb"]);
        assert_eq!(left, ["/mnt/usb"]);
        assert_eq!(
            notes[0].why,
            "exclude: a recovery leaves it alone, on sdb, and makes it nowhere else"
        );
        // What was said of that disk is true no more.
        let mut told = layout.clone();
        for what in ["/dev/sda2 (ext4)", "/dev/sdb1 (ext4)"] {
            told.unprotected.push(Unprotected { what: what.into(), why: "made anew".into() });
        }
        mark(&mut told, emptied(&["/mnt/usb"]));
        assert!(told.unprotected.len() == 1 && told.unprotected[0].what.starts_with("/dev/sda2"));
        // Beside what comes back.
        let (left, notes) = marked(&layout, &["/srv"]);
        assert!(left.is_empty());
        let why = "erased by a recovery and NOT in the backup, as exclude, and sda has more";
        assert!(notes[0].why.starts_with(why), "{notes:?}");
        // What a machine needs, and what is as good when it is empty.
        for path in ["/var", "/", "/tmp"] {
            let mut other = layout.clone();
            other.mount[2].path = path.into();
            assert_eq!(marked(&other, &[path]), (Vec::new(), emptied(&[path])));
        }
        let mut swapped = layout.clone();
        let swap = "id = \"swap\"\non = \"disk:sdb\"";
        swapped.swap.push(toml::from_str(swap).unwrap());
        assert!(marked(&swapped, &["/mnt/usb"]).0.is_empty());
        let mut boots = layout.clone();
        boots.boot.grub_disk.push(Id::disk("sdb"));
        assert!(marked(&boots, &["/mnt/usb"]).0.is_empty());
        // Of two on one disk.
        let mut both = layout.clone();
        both.partition[1].disk = Id::disk("sdb");
        assert!(marked(&both, &["/mnt/usb"]).0.is_empty());
        assert_eq!(marked(&both, &["/srv", "/mnt/usb"]).0, ["/srv", "/mnt/usb"]);
    }

    #[test]
    fn what_is_joined_is_left_alone_as_a_whole() {
        let mut layout = testing::layout();
        layout.disk.push(disks::disk("sdc", 1000));
        layout.vg.push(toml::from_str("id = \"vg:d\"\nname = \"d\"\nuuid = \"u\"\nextent_bytes = 1\n[[pv]]\non = \"part:sdb1\"\nuuid = \"1\"\nsize_bytes = 1\npe_start_bytes = 0\nextents = 1\n[[pv]]\non = \"disk:sdc\"\nuuid = \"2\"\nsize_bytes = 1\npe_start_bytes = 0\nextents = 1").unwrap());
        // The other disk is of no use otherwise, and is none of those that could be left alone.
        assert!(marked(&layout, &["/mnt/usb"]).0.is_empty());
        layout.fs[2].on = Id::vg("d");
        assert_eq!(marked(&layout, &["/mnt/usb"]).0, ["/mnt/usb"]);
    }

    #[test]
    fn what_is_left_alone_is_no_part_of_a_plan_and_what_is_erased_is_told() {
        let mut node = disks::raid_node();
        let mut data = disks::disk("sdd", 20 * disks::GIB);
        data.serial = Some("DATA".into());
        node.disk.push(data);
        node.fs.push(disks::fs(&Id::disk("sdd"), "ext4", disks::GIB));
        node.mount.push(disks::mount("/data", &node.fs.last().unwrap().id));
        let answers = Answers { auto: true, ..Answers::default() };
        let erased = |node: &Layout, here: &Layout| {
            let plan = plan(node, here, &answers).unwrap();
            let erased = plan.erases().into_iter().map(|disk| disk.name).collect::<Vec<_>>();
            (erased, plan.notes.join("\n"))
        };
        assert_eq!(erased(&node, &node).0, ["sda", "sdb", "sdd"]);
        let mut marked = node.clone();
        mark(&mut marked, emptied(&["/data"]));
        let (disks, notes) = erased(&marked, &node);
        assert_eq!(disks, ["sda", "sdb"]);
        assert!(
            notes.contains(
                "sdd is left alone: /data on it holds the backups, or is left out of them"
            ),
            "{notes}"
        );
        // It is no spare for a disk that is lost, though one of the node's.
        let mut here = node.clone();
        here.disk.retain(|disk| disk.name != "sda");
        let refused = plan(&marked, &here, &answers).unwrap_err().to_string();
        assert!(refused.contains("no disk for recorded sda"), "{refused}");
        let mut shared = node.clone();
        mark(&mut shared, emptied(&["/boot", "/data"]));
        shared.mount[0].path = "/srv".into();
        shared.mount.iter_mut().for_each(|mount| mount.target &= mount.path == "/backup".into());
        mark(&mut shared, emptied(&["/srv"]));
        let notes = erased(&shared, &node).1;
        assert!(notes.contains("/srv is erased by a recovery and NOT in the backup"), "{notes}");
    }
}
