//! What is deleted from a node's tree, and what never is.
//!
//! Retention keeps the newest generations that can be read, one at least. An older one goes in an
//! order that a kill at any point leaves sound: its manifest first, which unpublishes it, then its
//! other files, then the packs that no generation names.
//!
//! What can't be understood is never deleted, and neither is what it may need: a manifest that is
//! damaged or newer than this program stays, does not count as kept, and stops the deletion of
//! packs. Objects whose names are not ours stay.

use std::collections::HashSet;

use anyhow::Result;

use super::catalog::{self, Manifest};
use super::lock::LockGuard;
use crate::ui::Ui;

/// What [`prune`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    pub generations: Vec<String>,
    /// Packs and files of generations, also those that killed runs left.
    pub objects: usize,
    pub freed_bytes: u64,
}

/// Deletes all but the newest `keep_last` generations, and what no generation needs.
pub fn prune(guard: &LockGuard, keep_last: usize, ui: &Ui) -> Result<Pruned> {
    let (good, strange) = read_all(guard, ui)?;
    let keep_from = good.len().saturating_sub(keep_last.max(1));
    let mut pruned = Pruned::default();
    for old in &good[..keep_from] {
        guard.check()?;
        guard.store().delete(&catalog::object(&old.generation, "manifest.json"))?;
        pruned.generations.push(old.generation.clone());
    }
    collect(guard, &good[keep_from..], strange, &mut pruned)?;
    Ok(pruned)
}

/// Deletes what runs left that were killed before they published. For the start of a run: nothing
/// of its own may be stored yet.
pub fn sweep(guard: &LockGuard, ui: &Ui) -> Result<Pruned> {
    let mut pruned = Pruned { objects: guard.store().sweep()?, ..Pruned::default() };
    let (good, strange) = read_all(guard, ui)?;
    collect(guard, &good, strange, &mut pruned)?;
    if pruned.objects > 0 {
        ui.info(format!(
            "removed {} objects ({} MiB) of runs that did not end",
            pruned.objects,
            pruned.freed_bytes >> 20
        ));
    }
    Ok(pruned)
}

/// The manifests that can be read, oldest first, and whether there are others.
fn read_all(guard: &LockGuard, ui: &Ui) -> Result<(Vec<Manifest>, bool)> {
    let mut good = Vec::new();
    let mut strange = false;
    for generation in catalog::generations(guard.store())? {
        match catalog::manifest(guard.store(), &generation) {
            Ok(manifest) => good.push(manifest),
            Err(error) => {
                strange = true;
                ui.warn(format!(
                    "the generation {generation} can't be read, so no packs are deleted: {error:#}"
                ));
            }
        }
    }
    Ok((good, strange))
}

/// Deletes files of unpublished generations, and packs that none of `kept` names. Where no
/// generation can be read nothing says what is not needed, and all packs stay.
fn collect(guard: &LockGuard, kept: &[Manifest], strange: bool, pruned: &mut Pruned) -> Result<()> {
    let store = guard.store();
    let published: HashSet<String> = catalog::generations(store)?.into_iter().collect();
    let mut doomed = Vec::new();
    for object in store.list("generations/")? {
        let generation = object.name.split('/').nth(1).unwrap_or_default();
        if catalog::time_of(generation).is_some() && !published.contains(generation) {
            doomed.push(object);
        }
    }
    if !strange && !kept.is_empty() {
        let needed: HashSet<&str> =
            kept.iter().flat_map(|m| &m.pack).map(|pack| pack.name.as_str()).collect();
        for object in store.list("packs/")? {
            if is_pack(&object.name) && !needed.contains(object.name.as_str()) {
                doomed.push(object);
            }
        }
    }
    if !doomed.is_empty() {
        guard.check()?;
    }
    for object in doomed {
        store.delete(&object.name)?;
        pruned.objects += 1;
        pruned.freed_bytes = pruned.freed_bytes.saturating_add(object.size_bytes);
    }
    Ok(())
}

/// `packs/<generation>-<seq>-<hash>.tar.zst`, or `.index.zst` with tables of the index.
fn is_pack(name: &str) -> bool {
    name.strip_prefix("packs/")
        .filter(|name| name.ends_with(".tar.zst") || name.ends_with(".index.zst"))
        .and_then(|name| name.split_once('-'))
        .is_some_and(|(generation, _)| catalog::time_of(generation).is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::catalog::FileRecord;
    use crate::store::{Store, lock, test_store};
    use crate::ui::Style;

    const DAYS: [&str; 4] =
        ["20261101T000000Z", "20261102T000000Z", "20261103T000000Z", "20261104T000000Z"];

    fn pack(generation: &str, seq: u32) -> String {
        format!("packs/{generation}-{seq}-abc.tar.zst")
    }

    /// Each generation has a pack of its own and needs that of the one before.
    fn four_generations(store: &Arc<dyn Store>) {
        for (nr, day) in DAYS.iter().enumerate() {
            store.put(&pack(day, 1), b"pack").unwrap();
            let record = |name| FileRecord {
                name,
                size_bytes: 4,
                blake3: blake3::hash(b"pack").to_string(),
            };
            let mut manifest = catalog::tests::example(day);
            manifest.pack =
                DAYS[nr.saturating_sub(1)..=nr].iter().map(|d| record(pack(d, 1))).collect();
            manifest.file = vec![catalog::put(&**store, day, "recipe", b"r").unwrap()];
            catalog::publish(&**store, &manifest).unwrap();
        }
    }

    fn names(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
        store.list(prefix).unwrap().into_iter().map(|o| o.name).collect()
    }

    #[test]
    fn old_generations_go_and_shared_packs_stay() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.put("packs/notes.txt", b"not ours").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        let pruned = prune(&guard, 2, &ui).unwrap();
        assert_eq!(pruned.generations, DAYS[..2]);
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[2..]);
        let packs = names(&store, "packs/");
        assert_eq!(
            packs,
            [&pack(DAYS[1], 1), &pack(DAYS[2], 1), &pack(DAYS[3], 1), "packs/notes.txt"]
        );
        assert_eq!(names(&store, "generations/").len(), 4);
        // The last one is never deleted.
        prune(&guard, 0, &ui).unwrap();
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[3..]);
    }

    #[test]
    fn what_can_not_be_read_stays_with_all_that_it_may_need() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.put("generations/20261102T000000Z/manifest.json", b"{\"version\": 9}").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        let pruned = prune(&guard, 1, &ui).unwrap();
        assert_eq!(pruned.generations, [DAYS[0], DAYS[2]]);
        assert_eq!(catalog::generations(&*store).unwrap(), [DAYS[1], DAYS[3]]);
        assert_eq!(names(&store, "packs/").len(), 4);
        assert_eq!(names(&store, "generations/20261102T000000Z/").len(), 2);
        assert_eq!(ui.warnings().len(), 1);
    }

    #[test]
    fn the_damaged_newest_generation_does_not_cost_the_last_good_one() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.put("generations/20261104T000000Z/manifest.json", b"").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        prune(&guard, 1, &ui).unwrap();
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[2..]);
    }

    #[test]
    fn leavings_of_killed_runs_are_swept() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        // Killed before anything was ever published: packs stay, since nothing speaks for or
        // against them.
        store.put("generations/20261030T000000Z/recipe", b"r").unwrap();
        store.put(&pack("20261030T000000Z", 1), b"x").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        assert_eq!(sweep(&guard, &ui).unwrap().objects, 1);
        four_generations(&store);
        store.put(&pack("20261105T000000Z", 1), b"x").unwrap();
        store.put("packs/20261105T000000Z-1-abc.index.zst", b"x").unwrap();
        let swept = sweep(&guard, &ui).unwrap();
        assert_eq!((swept.objects, swept.generations.len()), (3, 0));
        assert_eq!(names(&store, "packs/").len(), 4);
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS);
    }
}
