//! What is in a backup: every mounted local filesystem is, or is named as not protected.

use std::path::{Path, PathBuf};

use globset::GlobMatcher;

use super::place::{self, Place, PlaceKind};
use crate::archive::exclude_glob;
use crate::layout::{BytesPath, Firmware, Layout, Unprotected};
use crate::probe::coverage::has_room_for_grub;
use crate::probe::esp::{self, Esp};
use crate::probe::kernels::{Kernel, kernels};
use crate::probe::mounts::MountInfo;

/// The answer for a whole machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Mount points whose filesystems are archived, each filesystem once.
    pub trees: Vec<PathBuf>,
    /// btrfs: paths below the trees where snapshots show, and subvolumes for a second time.
    pub exclude: Vec<String>,
    pub unprotected: Vec<Unprotected>,
}

/// Of a filesystem whose files come back, and which does not.
pub const NOT_IN_LAYOUT: &str = "its files are in the backup, but the layout lacks what it is on: a recovery does not recreate it";

/// Of a directory that is bound to another place, and hidden at its own.
const HIDDEN: &str = "something else is mounted over the directory that is bound there: the files are in the backup, but a recovery does not bring them back by itself: rr restore, when it is mounted";

/// The subvolume that is mounted: all of those of one filesystem have the same device number.
fn subvolume(mount: &MountInfo) -> Option<&str> {
    mount.options.split(',').find(|option| option.starts_with("subvolid="))
}

/// Whether all that `mount` shows is in what `other` would show, were nothing mounted over it.
fn is_part(mount: &MountInfo, other: &MountInfo) -> bool {
    other.device == mount.device
        && subvolume(other) == subvolume(mount)
        && mount.root.starts_with(&other.root)
}

/// Whether it is to be seen there: no other filesystem lies over it that may be backed up.
fn is_seen_in(mount: &MountInfo, other: &MountInfo, local: &[&MountInfo]) -> bool {
    let Ok(rest) = mount.root.strip_prefix(&other.root) else { return false };
    let path = other.path.join(rest);
    // A directory that is bound to its own place hides nothing.
    let holder = place::holder(&path, local.iter().copied().filter(|seen| *seen != mount));
    holder
        .is_some_and(|seen| is_part(mount, seen) && place::in_filesystem(&path, seen) == mount.root)
}

/// The mounts without those that show what others do, in order; and which of them are of a directory
/// that something lies over at its own place.
fn once_each<'a>(local: &[&'a MountInfo]) -> Vec<(&'a MountInfo, bool)> {
    // What shows more comes first; of two that show the same, the one with the shorter path counts,
    // then the first.
    let length = |path: &Path| path.components().count();
    let mut order: Vec<usize> = (0..local.len()).collect();
    order.sort_by_key(|&at| (length(&local[at].root), length(&local[at].path)));
    let mut kept: Vec<(usize, bool)> = Vec::new();
    for at in order {
        let mut above =
            kept.iter().map(|(other, _)| local[*other]).filter(|other| is_part(local[at], other));
        let is_hidden = above.clone().next().is_some();
        if !above.any(|other| is_seen_in(local[at], other, local)) {
            kept.push((at, is_hidden));
        }
    }
    kept.sort_unstable();
    kept.into_iter().map(|(at, is_hidden)| (local[at], is_hidden)).collect()
}

/// Subvolumes that show below others are trees of their own; snapshots are left out.
fn add_subvolumes(coverage: &mut Coverage, layout: &Layout, of_target: impl Fn(&Path) -> bool) {
    for fs in layout.fs.iter().filter(|fs| fs.btrfs.is_some()) {
        if layout.mount.iter().any(|m| m.fs == fs.id && of_target(m.path.as_path())) {
            continue;
        }
        let places = layout.subvolume_places(fs).into_iter().filter_map(|(_, place)| place);
        coverage.trees.extend(places);
        let again = layout.shown_again(fs).into_iter();
        coverage.exclude.extend(again.filter_map(|p| Some(globset::escape(p.to_str()?))));
    }
    coverage.trees.sort();
    coverage.trees.dedup();
}

/// Decides for each mount. `is_dir` says whether a mount point is a directory: a bind mount can be
/// of a single file.
pub fn of_machine(
    mounts: &[MountInfo],
    layout: Option<&Layout>,
    place: Option<&Place>,
    is_dir: impl Fn(&Path) -> bool,
) -> Coverage {
    let mut coverage = Coverage::default();
    if let Some(layout) = layout {
        coverage.unprotected.clone_from(&layout.unprotected);
    }
    let local: Vec<&MountInfo> = mounts.iter().filter(|m| m.is_local()).collect();
    for (mount, is_hidden) in once_each(&local) {
        let mut name = |why: &str| {
            coverage.unprotected.push(Unprotected {
                what: BytesPath(mount.path.clone()).to_string(),
                why: why.to_owned(),
            });
        };
        let target =
            place.filter(|place| place.kind == PlaceKind::Own && place.device == mount.device);
        if target.is_some() {
            name("the backup itself is on it: its files are not in the backup");
        } else if !is_dir(&mount.path) {
            name("a single file is mounted there, of a filesystem that is mounted nowhere else");
        } else {
            let known = layout.is_none_or(|layout| {
                layout.mount.iter().any(|m| m.path.as_path() == mount.path)
                    || layout.unprotected.iter().any(|u| is_about(u, mount))
            });
            if !known {
                name(NOT_IN_LAYOUT);
            } else if is_hidden {
                name(HIDDEN);
            }
            coverage.trees.push(mount.path.clone());
        }
    }
    // A container: its files are worth a backup although there is no machine to recover.
    let root = mounts.iter().find(|m| m.path == Path::new("/"));
    if root.is_some_and(|root| root.kind == "overlay") {
        coverage.trees.push("/".into());
        coverage.unprotected.push(Unprotected {
            what: "/".to_owned(),
            why:
                "its files are in the backup, but it is an overlay: a recovery does not recreate it"
                    .to_owned(),
        });
    }
    coverage.trees.sort();
    if let Some(layout) = layout {
        let of_target = |path: &Path| {
            let place = place.filter(|place| place.kind == PlaceKind::Own);
            local.iter().any(|m| m.path == path && place.is_some_and(|p| p.device == m.device))
        };
        add_subvolumes(&mut coverage, layout, of_target);
    }
    coverage
}

fn is_about(unprotected: &Unprotected, mount: &MountInfo) -> bool {
    let what = unprotected.what.as_str();
    what == BytesPath(mount.path.clone()).to_string() || mount.source.to_str() == Some(what)
}

/// Nobody misses what is mounted below these.
const OF_EVERY_BOOT: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// Just these trees, and the local filesystems that are mounted below them.
pub fn of_trees(include: &[PathBuf], mounts: &[MountInfo]) -> Coverage {
    let below = mounts
        .iter()
        .filter(|m| m.is_local())
        .map(|m| &m.path)
        .filter(|path| include.iter().any(|tree| path.starts_with(tree)));
    let mut trees: Vec<PathBuf> = include.iter().chain(below).cloned().collect();
    trees.sort();
    trees.dedup();
    let is_below = |path: &Path| include.iter().any(|t| path.starts_with(t) && path != t);
    let not_local = mounts.iter().filter(|m| !m.is_local() && is_below(&m.path));
    let left = not_local.filter(|m| !OF_EVERY_BOOT.iter().any(|dir| m.path.starts_with(dir)));
    let mut unprotected: Vec<_> = left
        .map(|mount| Unprotected {
            what: BytesPath(mount.path.clone()).to_string(),
            why: format!("{}, which is on no disk of this machine: name it to have it", mount.kind),
        })
        .collect();
    let named: Vec<_> = include.iter().map(|p| BytesPath(p.clone()).to_string()).collect();
    unprotected.push(Unprotected {
        what: "everything else".to_owned(),
        why: format!("this is a backup of just {}", named.join(", ")),
    });
    Coverage { trees, exclude: Vec::new(), unprotected }
}

/// Those of the trees where a filesystem is mounted. Single files don't count: an archive sees them as
/// they are below what is mounted on them.
pub fn mount_points(
    trees: &[PathBuf],
    mounts: &[MountInfo],
    is_dir: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let mounted = |tree: &&PathBuf| mounts.iter().any(|mount| mount.path == **tree);
    trees.iter().filter(mounted).filter(|tree| is_dir(tree)).cloned().collect()
}

/// How rr's own image in `/boot` is left out, and said to be. None where it is in none of the trees,
/// or named itself.
pub fn of_own_image(
    dir: &Path,
    trees: &[PathBuf],
    include: &[PathBuf],
) -> Option<(String, Unprotected)> {
    let wanted = include.iter().any(|tree| tree.starts_with(dir));
    if wanted || !trees.iter().any(|tree| dir.starts_with(tree)) {
        return None;
    }
    let what = BytesPath(dir.to_owned()).to_string();
    let why =
        "rr's own rescue image: the next one is put there anew (rescue.local_entry)".to_owned();
    Some((format!("{}/*", globset::escape(dir.to_str()?)), Unprotected { what, why }))
}

/// The patterns of `exclude` that would not throw out a tree as a whole: who names a tree wants it.
pub fn excludes_for(include: &[PathBuf], exclude: &[String]) -> Vec<String> {
    let hits_tree = |pattern: &String| {
        exclude_glob(pattern).is_ok_and(|glob| {
            let matcher = glob.compile_matcher();
            include.iter().flat_map(|tree| tree.ancestors()).any(|path| matcher.is_match(path))
        })
    };
    exclude.iter().filter(|pattern| !hits_tree(pattern)).cloned().collect()
}

/// Directories without whose content a machine does not start, or not as what it was.
pub const ESSENTIAL: [&str; 7] = ["/", "/boot", "/boot/efi", "/efi", "/etc", "/usr", "/var"];

/// The patterns, ready to be matched. One that can't be read is told when files are selected.
fn matchers(exclude: &[String]) -> Vec<(&String, GlobMatcher)> {
    exclude
        .iter()
        .filter_map(|pattern| Some((pattern, exclude_glob(pattern).ok()?.compile_matcher())))
        .collect()
}

/// Patterns that leave out every kernel, or every initramfs, of those in `/boot`.
pub fn without_kernels(boot: &[String], exclude: &[String]) -> Vec<String> {
    let globs = matchers(exclude);
    let mut problems = Vec::new();
    for (start, what) in [("vmlinuz", "kernel"), ("init", "initramfs")] {
        let patterns: Vec<_> = boot
            .iter()
            .filter(|name| name.starts_with(start))
            .map(|name| {
                let path = Path::new("/boot").join(name);
                globs.iter().find(|(_, glob)| glob.is_match(&path)).map(|(pattern, _)| *pattern)
            })
            .collect();
        if let Some(Some(pattern)) = patterns.first()
            && patterns.iter().all(Option::is_some)
        {
            problems.push(format!(
                "no {what} of /boot is in the backup, as exclude = {pattern:?} says: a machine that is recovered from it does not start"
            ));
        }
    }
    problems
}

/// What the boot loader needs and is not mounted, and so not in the backup.
pub fn unmounted_boot(layout: &Layout, in_fstab: impl Fn(&Path) -> bool) -> Vec<String> {
    let mounted = |path: &Path| layout.mount.iter().any(|m| m.path.as_path() == path);
    let mut problems: Vec<String> = ["/boot", "/boot/efi", "/efi"]
        .map(Path::new)
        .into_iter()
        .filter(|path| in_fstab(path) && !mounted(path))
        .map(|path| {
            let path = path.display();
            format!("{path} is not mounted: what the machine boots from is not in the backup\nhint: mount {path}, and back up again")
        })
        .collect();
    let esp_mounted = layout.mount.iter().any(|m| layout.boot.esp.contains(&m.fs));
    if problems.is_empty() && layout.boot.firmware == Firmware::Uefi && !esp_mounted {
        problems.push(
            "no EFI system partition is mounted: what the machine boots from is not in the backup\nhint: mount it on /boot/efi, by a line in /etc/fstab, and back up again"
                .to_owned(),
        );
    }
    problems
}

/// A machine that its BIOS starts by what is in no backup: neither GRUB's code in a first sector, nor
/// a GRUB that a recovery can put there (`has_grub`).
pub fn unknown_loader(layout: &Layout, has_grub: bool) -> Option<String> {
    if layout.boot.firmware != Firmware::Bios || !layout.boot.grub_disk.is_empty() {
        return None;
    }
    let disks = layout.boot_disks();
    if has_grub && disks.iter().any(|disk| has_room_for_grub(layout, disk)) {
        return None;
    }
    let names: Vec<String> = disks.iter().map(|disk| disk.dev()).collect();
    Some(format!(
        "GRUB is not in the first sector of {}, and what starts this machine instead (extlinux, LILO, a boot loader in a partition, another disk, the network) is in no backup: a recovery would end as failed, unless that starts it again\nhint: grub-install {}, which needs a gap before the first partition, or on GPT a BIOS boot partition",
        names.join(", "),
        names.join("; grub-install ")
    ))
}

/// The same of a machine with UEFI: what is on its EFI system partitions starts nothing that is known.
pub fn unknown_efi_loader(layout: &Layout, root: &Path) -> Option<String> {
    let (boot, arch) = (&layout.boot, layout.node.arch.as_str());
    let esps = Esp::all(layout, root);
    // That none is mounted is told elsewhere.
    if boot.firmware != Firmware::Uefi || esps.is_empty() || esp::can_start(&esps, boot, arch) {
        return None;
    }
    let dirs: Vec<String> = esps.iter().map(|esp| esp.dir.display().to_string()).collect();
    Some(format!(
        "there is neither a file on {} that a boot entry of the firmware starts nor {}, nor a shim, a GRUB or a systemd-boot: a recovery would end as failed\nhint: grub-install or bootctl install, and back up again",
        dirs.join(", "),
        esp::fallback_path("", arch)
    ))
}

/// What a recovery would only say at its end: it does not know what the boot menu starts.
pub fn unknown_kernel(root: &Path) -> Option<String> {
    let (what, hint) = match kernels(root).first() {
        None => (
            "no kernel is found in the boot menu or in /boot (unified kernel images are not understood)".to_owned(),
            "keep the kernel and its initramfs as files in /boot as well, as vmlinuz-VERSION and initramfs-VERSION.img",
        ),
        Some(Kernel { kernel: None, entry, .. }) => (
            format!("the kernel {} of the boot menu is not found", entry.kernel),
            "make the boot menu anew: update-grub, grub2-mkconfig or kernel-install",
        ),
        Some(_) => return None,
    };
    Some(format!(
        "{what}: whether a recovered machine starts could not be told, and the recovery would end as failed\nhint: {hint}"
    ))
}

/// What patterns leave nothing of: those of `trees` and of the essential directories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Emptied {
    pub trees: Vec<Unprotected>,
    /// What stands against a recovery.
    pub problems: Vec<String>,
}

/// Looks for patterns that leave out all that can be in a directory, whatever its name is.
pub fn emptied(trees: &[PathBuf], exclude: &[String]) -> Emptied {
    // A pattern that takes all of these takes whatever is there.
    const ANY: [&str; 3] = [".a", "zz9", "b.c-d"];
    let globs = matchers(exclude);
    let pattern_of = |dir: &Path| {
        let empties = |glob: &GlobMatcher| {
            dir.ancestors().any(|dir| glob.is_match(dir))
                || ANY.iter().all(|name| glob.is_match(dir.join(name)))
        };
        globs.iter().find(|(_, glob)| empties(glob)).map(|(pattern, _)| *pattern)
    };
    let mut found = Emptied::default();
    for tree in trees {
        if let Some(pattern) = pattern_of(tree) {
            let why = format!("exclude = {pattern:?} leaves out all that is in it");
            found.trees.push(Unprotected { what: BytesPath(tree.clone()).to_string(), why });
        }
    }
    let mut named: Vec<&Path> = Vec::new();
    for dir in ESSENTIAL.map(Path::new) {
        if let Some(pattern) = pattern_of(dir)
            && !named.iter().any(|above| dir.starts_with(above))
        {
            named.push(dir);
            found.problems.push(format!(
                "{} is left out by exclude = {pattern:?}: a machine that is recovered without it does not start",
                dir.display()
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::testing;
    use crate::layout::{Boot, Id, Table};

    fn trees(coverage: &Coverage) -> Vec<&str> {
        coverage.trees.iter().map(|p| p.to_str().unwrap()).collect()
    }

    #[test]
    fn every_local_filesystem_is_in_it_once_or_named() {
        let mounts = testing::mounts(&[
            ("8:1", "/", "/", "ext4"),
            ("0:5", "/", "/proc", "proc"),
            ("0:6", "/", "/run", "tmpfs"),
            ("8:2", "/", "/srv", "xfs"),
            ("8:1", "/var/lib/x", "/mnt/bind", "ext4"),
            ("8:2", "/", "/a/second/time", "xfs"),
            ("8:17", "/", "/mnt/usb", "ext4"),
            ("0:50", "/", "/mnt/nfs", "nfs4"),
            ("8:33", "/@", "/data", "btrfs"),
            ("8:33", "/@home", "/data/home", "btrfs"),
            ("8:49", "/some/hosts", "/etc/hosts", "ext4"),
        ]);
        let mut layout = testing::layout();
        layout.unprotected.push(Unprotected { what: "/dev/sdz".into(), why: "unknown".into() });
        let place = place::find(Path::new("/mnt/usb/rr"), &mounts, Some(&layout)).unwrap();
        let is_dir = |path: &Path| path != Path::new("/etc/hosts");
        let coverage = of_machine(&mounts, Some(&layout), Some(&place), is_dir);
        assert_eq!(trees(&coverage), ["/", "/data", "/data/home", "/srv"]);
        let named: Vec<_> = coverage.unprotected.iter().map(|u| u.what.as_str()).collect();
        assert_eq!(named, ["/dev/sdz", "/mnt/usb", "/data", "/data/home", "/etc/hosts"]);
    }

    #[test]
    fn a_directory_that_is_hidden_at_its_own_place_is_archived_where_it_shows() {
        let of = |lines: &[(&str, &str, &str, &str)], layout: Option<&Layout>| {
            let coverage = of_machine(&testing::mounts(lines), layout, None, |_| true);
            let named = coverage.unprotected.iter().map(|note| note.what.clone());
            (trees(&coverage).join(" "), named.collect::<Vec<_>>().join(" "))
        };
        // Once on the root filesystem, and kept in reach when the disk for it came.
        let mut lines = vec![
            ("8:1", "/", "/", "ext4"),
            ("8:1", "/srv", "/old", "ext4"),
            ("8:1", "/srv", "/older/still", "ext4"),
            ("8:2", "/", "/srv", "xfs"),
        ];
        let mut layout = testing::layout();
        let mut bound = layout.mount[0].clone();
        (bound.path, bound.root) = ("/old".into(), Some("/srv".into()));
        layout.mount.push(bound);
        assert_eq!(of(&lines, Some(&layout)), ("/ /old /srv".into(), "/old".into()));
        // With its own place in reach, and what is hidden further down.
        lines[3].2 = "/srv/new";
        assert_eq!(of(&lines, None), ("/ /srv/new".into(), String::new()));
        lines.push(("8:1", "/srv/new/x", "/x", "ext4"));
        assert_eq!(of(&lines, None).0, "/ /srv/new /x");
        // What is of no disk hides nothing from a backup; nor does a directory over itself.
        let net = ("0:50", "/", "/srv", "nfs4");
        assert_eq!(of(&[lines[0], lines[1], net], None).0, "/");
        let own = ("8:1", "/srv", "/srv", "ext4");
        assert_eq!(of(&[lines[0], own], None).0, "/");
        // Bound to its own place, which is hidden.
        let deep = ("8:1", "/a/b", "/a/b", "ext4");
        assert_eq!(of(&[lines[0], ("8:2", "/", "/a", "xfs"), deep], None).0, "/ /a /a/b");
    }

    #[test]
    fn subvolumes_are_archived_once_and_snapshots_not_at_all() {
        let text = include_str!("../../tests/fixtures/layout/btrfs.toml");
        let layout = crate::layout::schema::parse(text).unwrap();
        let line = |id: u32, root: &str, path: &str| {
            format!("1 1 0:41 {root} {path} rw - btrfs /dev/ubdb2 rw,subvolid={id},subvol={root}\n")
        };
        let text = [line(256, "/@", "/"), line(257, "/@home", "/home"), line(5, "/", "/top")];
        let mounts = crate::sys::mount::parse(text.concat().as_bytes());
        let coverage = of_machine(&mounts, Some(&layout), None, |_| true);
        assert_eq!(trees(&coverage), ["/", "/home", "/top", "/top/@spare", "/var/lib/ports"]);
        assert_eq!(
            coverage.exclude,
            [
                "/top/@",
                "/top/@/var/lib/ports",
                "/top/@home",
                "/.snapshots/1",
                "/top/@/.snapshots/1"
            ]
        );
        assert_eq!(coverage.unprotected, []);
    }

    #[test]
    fn the_own_image_is_left_out_and_named_but_not_where_it_is_asked_for() {
        let own = Path::new("/boot/rr");
        let found = |trees: &[&str], include: &[&str]| {
            let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
            of_own_image(own, &paths(trees), &paths(include))
        };
        let (pattern, gap) = found(&["/", "/boot"], &[]).unwrap();
        assert_eq!((pattern.as_str(), gap.what.as_str()), ("/boot/rr/*", "/boot/rr"));
        assert!(found(&["/boot"], &["/boot"]).is_some());
        assert_eq!(found(&["/etc"], &["/etc"]), None);
        assert_eq!(found(&["/boot/rr"], &["/boot/rr"]), None);
    }

    #[test]
    fn without_a_layout_the_files_are_still_archived() {
        let mounts = testing::mounts(&[("254:0", "/", "/", "ext4"), ("0:5", "/", "/proc", "proc")]);
        let place = place::find(Path::new("/srv/backup"), &mounts, None);
        let coverage = of_machine(&mounts, None, place.as_ref(), |_| true);
        assert_eq!(trees(&coverage), ["/"]);
        assert_eq!(coverage.unprotected, []);
    }

    #[test]
    fn the_root_of_a_container_is_archived() {
        let mounts = testing::mounts(&[
            ("0:40", "/", "/", "overlay"),
            ("254:0", "/docker/hosts", "/etc/hosts", "ext4"),
            ("254:0", "/docker/volume", "/data", "ext4"),
        ]);
        let is_dir = |path: &Path| path != Path::new("/etc/hosts");
        let coverage = of_machine(&mounts, None, None, is_dir);
        assert_eq!(trees(&coverage), ["/", "/data"]);
        let named: Vec<_> = coverage.unprotected.iter().map(|u| u.what.as_str()).collect();
        assert_eq!(named, ["/etc/hosts", "/"]);
    }

    #[test]
    fn named_trees_bring_what_is_mounted_below_them() {
        let mounts = testing::mounts(&[
            ("8:1", "/", "/", "ext4"),
            ("8:2", "/", "/srv/data", "xfs"),
            ("0:50", "/", "/srv/nfs", "nfs4"),
            ("8:3", "/", "/srvx", "xfs"),
            ("0:51", "/", "/srv/scratch", "tmpfs"),
            ("0:52", "/", "/run", "tmpfs"),
        ]);
        let coverage = of_trees(&["/srv".into(), "/etc".into()], &mounts);
        assert_eq!(trees(&coverage), ["/etc", "/srv", "/srv/data"]);
        let named: Vec<_> = coverage.unprotected.iter().map(|u| u.what.as_str()).collect();
        assert_eq!(named, ["/srv/nfs", "/srv/scratch", "everything else"]);
        assert!(coverage.unprotected[2].why.ends_with("just /srv, /etc"));
        let all = of_trees(&["/".into()], &mounts).unprotected;
        assert!(all.iter().all(|note| note.what != "/run"), "{all:?}");
        let is_dir = |path: &Path| path != Path::new("/srvx");
        let found = mount_points(&coverage.trees, &mounts, is_dir);
        assert_eq!(found, [Path::new("/srv/data")]);
        assert_eq!(mount_points(&["/srvx".into()], &mounts, is_dir), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn what_a_pattern_leaves_nothing_of_is_named() {
        let trees = ["/", "/boot", "/srv", "/tmp"].map(PathBuf::from);
        let of = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
            let found = emptied(&trees, &patterns);
            let trees: Vec<_> = found.trees.into_iter().map(|tree| tree.what).collect();
            (trees.join(" "), found.problems.len())
        };
        assert_eq!(of(&["/tmp/*", "/var/tmp/*", "*.iso", "/boot/*.old"]), ("/tmp".into(), 0));
        assert_eq!(of(&["/srv/*"]), ("/srv".into(), 0));
        assert_eq!(of(&["/srv"]), ("/srv".into(), 0));
        // A star of the root matches no slash: what is mounted deeper stays.
        assert_eq!(of(&["/boot/*"]).0, "/boot");
        assert!(of(&["/boot/*"]).1 >= 1);
        assert_eq!(of(&["/usr"]), (String::new(), 1));
        assert_eq!(of(&["/*"]), ("/ /boot /srv /tmp".into(), 1));
    }

    #[test]
    fn what_the_machine_boots_from_has_to_be_there() {
        let boot = ["vmlinuz-5.14", "initramfs-5.14.img", "grub2"].map(String::from);
        let of = |pattern: &str| without_kernels(&boot, &[pattern.to_owned()]);
        assert!(of("*.iso").is_empty());
        assert!(of("*.img")[0].starts_with("no initramfs of /boot"), "{:?}", of("*.img"));
        assert_eq!(of("/boot/*").len(), 2);

        let mut layout = testing::layout();
        assert_eq!(unmounted_boot(&layout, |_| false), [""; 0]);
        let problems = unmounted_boot(&layout, |path| path == Path::new("/boot"));
        assert!(problems[0].starts_with("/boot is not mounted"), "{problems:?}");
        layout.boot.firmware = Firmware::Uefi;
        assert!(unmounted_boot(&layout, |_| false)[0].starts_with("no EFI system partition"));
        layout.boot.esp = vec![layout.mount[0].fs.clone()];
        assert_eq!(unmounted_boot(&layout, |_| false), [""; 0]);
    }

    #[test]
    fn what_a_bios_starts_is_grub_or_a_problem() {
        let mut layout = testing::layout();
        let problem = unknown_loader(&layout, true).unwrap();
        assert!(problem.contains("first sector of /dev/sda,"), "{problem}");
        assert!(problem.contains("\nhint: grub-install /dev/sda, which"), "{problem}");
        // Where a recovery can put GRUB.
        layout.disk[0].table = Some(Table::Mbr { signature: 1 });
        assert!(unknown_loader(&layout, true).is_some(), "no gap");
        layout.partition.iter_mut().for_each(|partition| partition.start_bytes = 1 << 20);
        assert_eq!(unknown_loader(&layout, true), None);
        assert!(unknown_loader(&layout, false).is_some());
        let recorded = |boot: Boot| unknown_loader(&Layout { boot, ..layout.clone() }, false);
        assert_eq!(recorded(Boot { grub_disk: vec![Id::disk("sda")], ..Boot::default() }), None);
        assert_eq!(recorded(Boot { firmware: Firmware::Uefi, ..Boot::default() }), None);
    }

    #[test]
    fn what_a_uefi_starts_is_a_known_loader_or_a_problem() {
        let tmp = tempfile::tempdir().unwrap();
        let mut layout = testing::layout();
        layout.boot.esp = vec![layout.mount[0].fs.clone()];
        let told = |layout: &Layout| unknown_efi_loader(layout, tmp.path());
        assert_eq!(told(&layout), None, "a BIOS");
        layout.boot.firmware = Firmware::Uefi;
        let dir = layout.mount[0].path.as_path().strip_prefix("/").unwrap();
        let dir = tmp.path().join(dir).join("EFI/debian");
        let problem = told(&layout).unwrap();
        assert!(problem.contains(r"nor \EFI\BOOT\BOOTX64.EFI, nor"), "{problem}");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("grubx64.efi"), "").unwrap();
        assert_eq!(told(&layout), None);
        layout.boot.esp.clear();
        assert_eq!(told(&layout), None, "told elsewhere");
    }

    #[test]
    fn a_kernel_that_no_recovery_would_find_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let boot = tmp.path().join("boot");
        std::fs::create_dir_all(boot.join("efi/EFI/Linux")).unwrap();
        std::fs::write(boot.join("efi/EFI/Linux/6.9.1.efi"), "").unwrap();
        let told = || unknown_kernel(tmp.path());
        assert!(told().unwrap().starts_with("no kernel is found"), "{:?}", told());
        std::fs::create_dir_all(boot.join("grub")).unwrap();
        let menu = "menuentry x {\nlinux /vmlinuz-6.1 root=/dev/sda1\n}\n";
        std::fs::write(boot.join("grub/grub.cfg"), menu).unwrap();
        assert!(told().unwrap().starts_with("the kernel /vmlinuz-6.1 of"), "{:?}", told());
        std::fs::write(boot.join("vmlinuz-6.1"), "").unwrap();
        assert_eq!(told(), None);
    }

    #[test]
    fn a_default_exclude_does_not_empty_a_named_tree() {
        let exclude = ["/tmp/*", "/var/tmp/*", "*.iso"].map(String::from);
        assert_eq!(excludes_for(&["/tmp/x/y".into()], &exclude), exclude[1..]);
        assert_eq!(excludes_for(&["/tmp".into()], &exclude), exclude);
        let exclude = ["x", "/tmp/*/", "*.iso"].map(String::from);
        assert_eq!(excludes_for(&["/tmp/x/y".into()], &exclude), exclude[2..]);
    }
}
