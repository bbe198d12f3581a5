//! Snapshots: files that stand still while they are read.
//!
//! Of a btrfs subvolume it is a read-only one within itself, named `.rr-snapshot-GENERATION`. It is
//! deleted when the files are read, and also when rr is killed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sys::at_end::AtEnd;
use crate::sys::fs;
use crate::sys::run::Cmd;
use crate::ui::Ui;

/// The inode number of every subvolume's root.
const SUBVOLUME_INO: u64 = 256;

#[derive(Debug)]
pub(super) struct Snapshots {
    /// A tree, where its snapshot is, and what deletes that.
    taken: Vec<(PathBuf, PathBuf, AtEnd)>,
}

impl Snapshots {
    /// Takes a snapshot of each tree that can have one.
    ///
    /// # Errors
    /// One that should work does not.
    pub fn take(trees: &[PathBuf], generation: &str, ui: &Ui) -> Result<Snapshots> {
        let mut snapshots = Snapshots { taken: Vec::new() };
        for tree in trees {
            if !is_subvolume(tree) {
                ui.warn(format!(
                    "{} is read as it is: rr takes snapshots of mounted btrfs subvolumes only",
                    tree.display()
                ));
                continue;
            }
            let taken = take_one(tree, generation)
                .with_context(|| format!("taking a snapshot of {}", tree.display()))?;
            snapshots.taken.push(taken);
        }
        Ok(snapshots)
    }

    pub fn stand_ins(&self) -> Vec<(PathBuf, PathBuf)> {
        self.taken.iter().map(|(tree, dir, _)| (tree.clone(), dir.clone())).collect()
    }

    pub fn remove(self, ui: &Ui) {
        for (_, dir, deletion) in self.taken {
            if let Err(error) = deletion.run("done") {
                ui.warn(format!("the snapshot {} is still there: {error:#}", dir.display()));
            }
        }
    }
}

/// Whether a btrfs subvolume is mounted at `tree`.
fn is_subvolume(tree: &Path) -> bool {
    let mounted = fs::is_btrfs(tree) && fs::is_mount_root(tree);
    mounted && std::fs::metadata(tree).is_ok_and(|meta| meta.ino() == SUBVOLUME_INO)
}

fn take_one(tree: &Path, generation: &str) -> Result<(PathBuf, PathBuf, AtEnd)> {
    let dir = tree.join(format!(".rr-snapshot-{generation}"));
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
    Ok((tree.to_owned(), dir, deletion))
}
