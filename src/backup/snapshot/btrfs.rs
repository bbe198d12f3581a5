//! A read-only snapshot of a btrfs subvolume within itself, named `.rr-snapshot-GENERATION`.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Snapshot;
use crate::sys::at_end::AtEnd;
use crate::sys::fs;
use crate::sys::run::Cmd;
use crate::ui::Ui;

/// The inode number of every subvolume's root.
const SUBVOLUME_INO: u64 = 256;
const PREFIX: &str = ".rr-snapshot-";

/// Whether a btrfs subvolume is mounted at `tree`.
pub(super) fn is_subvolume(tree: &Path) -> bool {
    let mounted = fs::is_btrfs(tree) && fs::is_mount_root(tree);
    mounted && is_subvolume_root(tree)
}

fn is_subvolume_root(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.ino() == SUBVOLUME_INO)
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
    let deletion = AtEnd::new(&[delete], &env, None)?;
    Cmd::new("btrfs").args(["subvolume", "snapshot", "-r"]).arg(tree).arg(&dir).run()?;
    let root = fs::without_mounts(fs::open_path(&dir)?.as_fd())?;
    Ok(Snapshot { root, name: dir.display().to_string(), fills: None, deletion })
}

/// Deletes what a run left that a power cut ended.
pub(super) fn delete_left(trees: &[PathBuf], ui: &Ui) {
    for tree in trees.iter().filter(|tree| is_subvolume(tree)) {
        let Ok(names) = std::fs::read_dir(tree) else { continue };
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
