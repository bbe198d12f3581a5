//! A read-only snapshot of a btrfs subvolume within itself, named `.rr-snapshot-GENERATION`.
//!
//! Subvolumes below it are empty directories in the snapshot, so each gets one of its own.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::Snapshot;
use crate::probe::swaps::Active;
use crate::sys::at_end::AtEnd;
use crate::sys::run::Cmd;
use crate::sys::{fs, mount};
use crate::ui::Ui;

/// The inode number of every subvolume's root.
const SUBVOLUME_INO: u64 = 256;
const PREFIX: &str = ".rr-snapshot-";

/// Whether a btrfs subvolume is mounted at `tree`.
pub(super) fn is_subvolume(tree: &Path) -> bool {
    let mounted = fs::is_btrfs(tree) && fs::is_mount_root(tree);
    mounted && is_subvolume_root(tree)
}

/// Whether `dir` is a subvolume that lies in another one, not mounted by itself.
pub(super) fn is_nested(dir: &Path) -> bool {
    fs::is_btrfs(dir) && !fs::is_mount_root(dir) && is_subvolume_root(dir)
}

fn is_subvolume_root(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.ino() == SUBVOLUME_INO)
}

/// Why there can be no snapshot of the subvolume at `dir`: the kernel makes none of one that is
/// swapped to (ETXTBSY).
pub(super) fn refusal(dir: &Path, swaps: &[Active]) -> Option<String> {
    // Each subvolume has a device number of its own. The file may have got its path by another mount.
    let device = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.dev());
    let own = device(dir)?;
    let mut files = swaps.iter().filter(|swap| swap.file);
    let file = files.find(|swap| device(&swap.path) == Some(own))?;
    Some(format!(
        "it has the active swap file {}\nhint: with the swap file in a subvolume of its own there can be a snapshot of the rest",
        file.path.display()
    ))
}

pub(super) fn take(tree: &Path, generation: &str) -> Result<Snapshot> {
    let dir = tree.join(format!("{PREFIX}{generation}"));
    // The directory that it is made in must look as if nothing had happened.
    let times = std::fs::metadata(tree)?;
    let (sec, nsec) = (times.mtime(), times.mtime_nsec());
    let delete = format!(
        r#"[ ! -d "$DIR" ] || {{ btrfs subvolume delete "$DIR" >/dev/null && touch -m -d @{sec}.{nsec:09} "$TREE"; }}"#
    );
    let env = [("DIR", dir.as_os_str()), ("TREE", tree.as_os_str())];
    // First, as somebody may kill us in the middle of it.
    let deletion = AtEnd::new(&format!("the removal of {}", dir.display()), &[delete], &env, None)?;
    Cmd::new("btrfs").args(["subvolume", "snapshot", "-r"]).arg(tree).arg(&dir).run()?;
    let root = fs::without_mounts(fs::open_path(&dir)?.as_fd())?;
    Ok(Snapshot { root, name: dir.display().to_string(), fills: None, deletion: Some(deletion) })
}

/// As [`take`], of a subvolume below that of a tree. What can't be written to needs no snapshot, and
/// where there can be none, it is read as it is.
pub(super) fn take_nested(
    dir: &Path,
    swaps: &[Active],
    generation: &str,
    ui: &Ui,
) -> Result<Snapshot> {
    if access(dir, AccessFlags::W_OK) != Err(Errno::EROFS) {
        let refusal = refusal(dir, swaps).map(|why| anyhow!(why));
        match refusal.map_or_else(|| take(dir, generation), Err) {
            Ok(snapshot) => return Ok(snapshot),
            Err(error) => ui.warn(format!("{} is read as it is: {error:#}", dir.display())),
        }
    }
    let root = fs::without_mounts(fs::open_path(dir)?.as_fd())?;
    Ok(Snapshot { root, name: dir.display().to_string(), fills: None, deletion: None })
}

/// The subvolumes below the one that is mounted at `tree`, without those that are mounted over.
pub(super) fn nested(tree: &Path) -> Result<Vec<PathBuf>> {
    let mounts = mount::mounts()?;
    let own = mounts.iter().rfind(|mount| mount.path == tree);
    let own = own.with_context(|| format!("{} is not mounted", tree.display()))?;
    let mut found = Vec::new();
    let mut left = vec![tree.to_owned()];
    while let Some(dir) = left.pop() {
        // Only those directly below, and these by their paths from the filesystem's own root.
        let list = match Cmd::new("btrfs").args(["subvolume", "list", "-o"]).arg(&dir).stdout() {
            Err(_) if !dir.exists() => continue,
            list => list?,
        };
        for path in listed(&list, &own.root) {
            let path = tree.join(path);
            if is_subvolume_root(&path) && !fs::is_mount_root(&path) {
                found.push(path.clone());
                left.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What `btrfs subvolume list` says, as paths below the subvolume `root`. Without our snapshots.
fn listed<'a>(list: &'a [u8], root: &'a Path) -> impl Iterator<Item = &'a Path> {
    const PATH: &[u8] = b" path ";
    let root = root.strip_prefix("/").unwrap_or(root);
    list.split(|&byte| byte == b'\n').filter_map(move |line| {
        let at = line.windows(PATH.len()).position(|part| part == PATH)?;
        let path = Path::new(OsStr::from_bytes(&line[at + PATH.len()..]));
        let ours = path.file_name()?.as_bytes().starts_with(PREFIX.as_bytes());
        path.strip_prefix(root).ok().filter(|_| !ours)
    })
}

/// Deletes what a run left that a power cut ended.
pub(super) fn delete_left(trees: &[PathBuf], ui: &Ui) {
    let trees = trees.iter().filter(|tree| is_subvolume(tree));
    let all = trees.flat_map(|tree| {
        let nested = nested(tree).unwrap_or_else(|error| {
            log::warn!("looking for subvolumes below {}: {error:#}", tree.display());
            Vec::new()
        });
        std::iter::once(tree.clone()).chain(nested)
    });
    for tree in all {
        let Ok(names) = std::fs::read_dir(&tree) else { continue };
        for name in names.flatten().map(|entry| entry.file_name()) {
            let dir = tree.join(&name);
            if !name.to_string_lossy().starts_with(PREFIX) || !is_subvolume_root(&dir) {
                continue;
            }
            let deleted = Cmd::new("btrfs").args(["subvolume", "delete"]).arg(&dir).run();
            match deleted.with_context(|| format!("deleting {}", dir.display())) {
                Ok(()) => ui.info(format!("{} of an earlier run is deleted", dir.display())),
                Err(error) => ui.warn(format!("{error:#}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subvolume_that_is_swapped_to_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &Path, file| Active { path: path.to_owned(), file };
        let (own, below) = (dir.path().join("swap file"), dir.path().join("d"));
        std::fs::write(&own, "").unwrap();
        std::fs::create_dir(&below).unwrap();
        let elsewhere = at(Path::new("/proc/version"), true);
        let others = [elsewhere, at(&dir.path().join("gone"), true), at(&own, false)];
        assert_eq!(refusal(dir.path(), &others), None);
        // Wherever in it.
        let swaps = [&others[..], &[at(&own, true)]].concat();
        let why = refusal(&below, &swaps).unwrap();
        let named = format!("it has the active swap file {}\nhint: ", own.display());
        assert!(why.starts_with(&named), "{why}");
        assert_eq!(refusal(Path::new("/proc"), &[at(&own, true)]), None);
    }

    #[test]
    fn subvolumes_are_named_from_the_one_that_is_mounted() {
        // btrfs-progs v6.2, of a filesystem mounted with subvol=@.
        let list = b"ID 257 gen 10 top level 256 path @/srv/a path b
ID 259 gen 10 top level 256 path @/ro
ID 260 gen 11 top level 256 path @/.rr-snapshot-20261121T013500Z
ID 261 gen 12 top level 5 path @home
";
        let found: Vec<_> = listed(list, Path::new("/@")).collect();
        assert_eq!(found, [Path::new("srv/a path b"), Path::new("ro")]);
        let found: Vec<_> =
            listed(b"ID 256 gen 7 top level 5 path sub\n", Path::new("/")).collect();
        assert_eq!(found, [Path::new("sub")]);
    }
}
