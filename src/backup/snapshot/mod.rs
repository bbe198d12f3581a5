//! Snapshots: files that stand still while they are read.
//!
//! * [`btrfs`] of a subvolume, within itself
//! * [`lvm`] of a logical volume, in what its volume group has free
//!
//! A snapshot is deleted when the files are read, and also when rr is killed. What a power cut
//! leaves is deleted by the next run.

mod btrfs;
mod lvm;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::probe::swaps::{self, Active};
use crate::sys::at_end::AtEnd;
use crate::sys::fs;
use crate::sys::lock::{self, Lock};
use crate::ui::Ui;

const NOTHING: &str = "no btrfs subvolume and no logical volume is mounted there";

/// A snapshot that is mounted.
#[derive(Debug)]
struct Snapshot {
    /// Its root, for as long as it is read.
    root: OwnedFd,
    /// For people.
    name: String,
    fills: Option<lvm::Fills>,
    /// None: it is no snapshot, but what can't change anyway.
    deletion: Option<AtEnd>,
}

#[derive(Debug)]
pub(super) struct Snapshots {
    taken: Vec<(PathBuf, Snapshot)>,
    /// What this run has taken is not what an earlier one left.
    _lock: Option<Lock>,
}

impl Snapshots {
    /// Takes a snapshot of each tree that can have one; with `nested` also of every subvolume below
    /// one, whether it is a tree or not.
    ///
    /// # Errors
    /// One that should work does not.
    pub fn take(trees: &[PathBuf], nested: bool, generation: &str, ui: &Ui) -> Result<Snapshots> {
        // Each is held open until it is read.
        fs::raise_open_files_limit();
        // None: held by another run, whose snapshots are in use.
        let lock = lock::take("snapshots")?;
        if lock.is_some() {
            btrfs::delete_left(trees, ui);
            lvm::delete_left(ui)?;
        }
        let (origins, swaps) = (lvm::origins(trees)?, swaps::read());
        let mut snapshots = Snapshots { taken: Vec::new(), _lock: lock };
        for (number, tree) in trees.iter().enumerate() {
            if btrfs::is_nested(tree) {
                snapshots.take_nested(tree, &swaps, generation, ui)?;
                continue;
            }
            let origin = origins.iter().find(|origin| origin.tree() == tree);
            let is_subvolume = btrfs::is_subvolume(tree);
            let refusal = match origin {
                _ if is_subvolume => btrfs::refusal(tree, &swaps),
                Some(origin) => origin.refusal(),
                None => Some(NOTHING.to_owned()),
            };
            if let Some(why) = refusal {
                ui.warn(format!("{} is read as it is: {why}", tree.display()));
            } else {
                let taken = match origin.filter(|_| !is_subvolume) {
                    Some(origin) => origin.take(&format!("rr-{generation}-{number}")),
                    None => btrfs::take(tree, generation),
                };
                let taken =
                    taken.with_context(|| format!("taking a snapshot of {}", tree.display()));
                snapshots.taken.push((tree.clone(), taken?));
            }
            if nested && is_subvolume {
                for dir in btrfs::nested(tree)?.into_iter().filter(|dir| !trees.contains(dir)) {
                    snapshots.take_nested(&dir, &swaps, generation, ui)?;
                }
            }
        }
        Ok(snapshots)
    }

    /// A subvolume that is gone by now is no failure: who makes many of them deletes many.
    fn take_nested(
        &mut self,
        dir: &Path,
        swaps: &[Active],
        generation: &str,
        ui: &Ui,
    ) -> Result<()> {
        match btrfs::take_nested(dir, swaps, generation, ui) {
            Ok(taken) => self.taken.push((dir.to_owned(), taken)),
            Err(_) if !dir.exists() => log::info!("{} is gone", dir.display()),
            Err(error) => return Err(error).with_context(|| dir.display().to_string()),
        }
        Ok(())
    }

    /// What is read instead of each tree, and of each subvolume below one.
    pub fn stand_ins(&self) -> Result<Vec<(PathBuf, Arc<OwnedFd>)>> {
        self.taken
            .iter()
            .map(|(tree, snapshot)| Ok((tree.clone(), Arc::new(snapshot.root.try_clone()?))))
            .collect()
    }

    /// Deletes them all.
    ///
    /// # Errors
    /// One ran full: what was read from it can't be trusted.
    pub fn remove(self, ui: &Ui) -> Result<()> {
        let mut outcome = Ok(());
        for (tree, Snapshot { root, name, fills, deletion }) in self.taken {
            let whole = fills.map_or(Ok(()), |fills| fills.check());
            drop(root);
            if let Some(Err(error)) = deletion.map(|deletion| deletion.run("done")) {
                ui.warn(format!("the snapshot {name} is still there: {error:#}"));
            }
            outcome = outcome
                .and(whole.with_context(|| format!("reading the snapshot of {}", tree.display())));
        }
        outcome
    }
}
