//! What is deleted from a node's tree, and what never is.
//!
//! Which generations are kept is said by [`super::keep`]. One that is not goes in an order that a
//! kill at any point leaves sound: its manifest first, which unpublishes it, then its other files,
//! then the packs that no generation names. That none names a pack for the little that is still in
//! use of it is what each new generation sees to ([`crate::archive`]).
//!
//! What can't be understood is never deleted, and neither is what it may need: a manifest that is
//! damaged or newer than this program stays, does not count as kept, and stops the deletion of
//! packs. A generation that lacks an object stays with what it has, and does not count either, so
//! that the last good one is never the one that goes. Objects whose names are not ours stay.
//!
//! Who writes holds the lock, so that nothing is deleted beside a backup that runs, but for the little
//! that makes room for a lock ([`make_room`]). Who reads holds
//! nothing: a target may be read-only, and a rescue system must not write to it. A reader of a
//! generation that is deleted meanwhile finds an object missing, never a wrong one, and is told why
//! ([`crate::archive`]).

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, ensure};

use super::catalog::{self, Manifest, Subject};
use super::keep::{self, Keep, Made, Verdict};
use super::lock::{self, LockGuard};
use super::{Object, Store, StoreError};
use crate::layout::units::size;
use crate::ui::{Ui, counted};

/// After so many deletions it is asked again whether the lock is still ours.
const CHECKED_TOGETHER: usize = 64;

/// What is to be deleted.
#[derive(Debug, Clone)]
pub enum Order {
    /// The generations that these rules don't keep.
    Keep(Keep),
    /// Just these, whole or damaged.
    Drop(Vec<String>),
}

/// What [`prune`] did, or would do.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Of every generation that is whole.
    pub verdicts: Vec<Verdict>,
    /// Those that were deleted.
    pub generations: Vec<String>,
    /// Packs and files of generations, also those that killed runs left.
    pub objects: usize,
    pub freed_bytes: u64,
}

/// Deletes what is ordered.
pub fn carry_out(guard: &LockGuard, order: &Order, ui: &Ui) -> Result<Pruned> {
    match order {
        Order::Keep(keep) => prune(guard, keep, ui),
        Order::Drop(names) => drop_generations(guard, names, ui),
    }
}

/// Deletes a little of what is ordered, for a target that is so full that no lock can be made there,
/// and says what; with nothing deleted there is nothing to be had so.
///
/// No lock is held, so it must be what no other run can miss, whenever that begins: the files of the
/// oldest generation that goes, but not its packs, which one that builds upon it may need; where none
/// goes, what runs left that did not end. Never the newest: `latest.json` would have to be written.
///
/// # Errors
/// Another run holds the lock.
pub fn make_room(store: &dyn Store, order: &Order, ui: &Ui) -> Result<Pruned> {
    let (_, before) = needless(store, order, ui)?;
    lock::wait_for_others(store, ui)?;
    let (oldest, mut doomed) = needless(store, order, ui)?;
    // What a run has begun since is not in the first list, and what one has published not in the second.
    doomed.retain(|object| before.contains(object));
    // By its manifest a generation is unpublished.
    doomed.sort_by_key(|object| !object.name.ends_with("/manifest.json"));
    let mut pruned = Pruned::default();
    for object in &doomed {
        store.delete(&object.name)?;
        pruned.count(object);
    }
    if pruned.objects > 0 {
        let whose = oldest.as_deref().unwrap_or("runs that did not end");
        let objects = counted(pruned.objects as u64, "object", "objects");
        ui.info(format!(
            "no lock can be made, {} is full: {objects} of {whose} went first",
            store.url()
        ));
        pruned.generations.extend(oldest);
    }
    Ok(pruned)
}

/// The objects for [`make_room`], and of which generation they are.
fn needless(store: &dyn Store, order: &Order, ui: &Ui) -> Result<(Option<String>, Vec<Object>)> {
    let mut going = match order {
        Order::Keep(_) => Vec::new(),
        Order::Drop(names) => names.clone(),
    };
    let mut survey = Survey::of(store, &going, ui)?;
    let leavings = survey.all().doomed(store)?;
    let newest = survey.all().generations.into_iter().max().map(str::to_owned);
    match order {
        Order::Keep(keep) => going = survey.judge(keep).0.generations,
        Order::Drop(names) => names.iter().try_for_each(|name| survey.take_out(name))?,
    }
    match going.into_iter().min().filter(|oldest| Some(oldest) < newest.as_ref()) {
        Some(oldest) => {
            let objects = store.list(&catalog::object(&oldest, ""))?;
            Ok((Some(oldest), objects))
        }
        None => Ok((None, leavings)),
    }
}

/// Deletes the generations that `keep` does not keep, and what no generation needs.
pub fn prune(guard: &LockGuard, keep: &Keep, ui: &Ui) -> Result<Pruned> {
    tell_versions(guard.store(), ui);
    let survey = Survey::of(guard.store(), &[], ui)?;
    let (pruned, left) = survey.judge(keep);
    delete(guard, pruned, &left)
}

/// Deletes just these generations, whole or damaged, and what no other one needs.
///
/// # Errors
/// One is not there, or is the last whole one of the machine, or of all; nothing is deleted then.
pub fn drop_generations(guard: &LockGuard, names: &[String], ui: &Ui) -> Result<Pruned> {
    tell_versions(guard.store(), ui);
    let mut generations = names.to_vec();
    generations.sort();
    generations.dedup();
    let mut survey = Survey::of(guard.store(), &generations, ui)?;
    generations.iter().try_for_each(|name| survey.take_out(name))?;
    let pruned = Pruned { generations, ..Pruned::default() };
    delete(guard, pruned, &survey.all())
}

/// Says what [`prune`] would do. Needs no lock: a backup that runs at the same time makes it
/// imprecise, and harms nothing.
pub fn forecast(store: &dyn Store, keep: &Keep, ui: &Ui) -> Result<Pruned> {
    let survey = Survey::of(store, &[], ui)?;
    let (mut pruned, left) = survey.judge(keep);
    for object in left.doomed(store)? {
        pruned.count(&object);
    }
    Ok(pruned)
}

/// Deletes what runs left that were killed before they published. For the start of a run: nothing
/// of its own may be stored yet.
pub fn sweep(guard: &LockGuard, ui: &Ui) -> Result<Pruned> {
    tell_versions(guard.store(), ui);
    let mut pruned = Pruned { objects: guard.store().sweep()?, ..Pruned::default() };
    let survey = Survey::of(guard.store(), &[], ui)?;
    collect(guard, &survey.all().doomed(guard.store())?, &mut pruned)?;
    if pruned.objects > 0 {
        ui.info(format!(
            "removed {} ({}) of runs that did not end",
            counted(pruned.objects as u64, "object", "objects"),
            size(pruned.freed_bytes)
        ));
    }
    Ok(pruned)
}

/// What [`sweep`] would free. Needs no lock, as [`forecast`].
pub fn swept_bytes(store: &dyn Store, ui: &Ui) -> Result<u64> {
    let doomed = Survey::of(store, &[], ui)?.all().doomed(store)?;
    Ok(doomed.iter().map(|object| object.size_bytes).sum())
}

fn tell_versions(store: &dyn Store, ui: &Ui) {
    if store.keeps_versions() {
        ui.warn_once(format!(
            "{} keeps all versions: what rr deletes takes as much room there as before, and each change of a small object, as the lock is one every {} s, adds another\nhint: give the bucket a lifecycle rule that expires noncurrent versions after some days (rr sees it where it may s3:GetLifecycleConfiguration), or one without versions",
            store.url(),
            lock::BEAT.as_secs()
        ));
    }
}

impl Pruned {
    /// Adds what was done before.
    pub fn add(&mut self, before: Pruned) {
        let gone =
            |generation: &String| Verdict { generation: generation.clone(), kept: Vec::new() };
        if !self.verdicts.is_empty() {
            self.verdicts.splice(0..0, before.generations.iter().map(gone));
        }
        self.generations.splice(0..0, before.generations);
        self.objects += before.objects;
        self.freed_bytes = self.freed_bytes.saturating_add(before.freed_bytes);
    }

    fn count(&mut self, object: &Object) {
        self.objects += 1;
        self.freed_bytes = self.freed_bytes.saturating_add(object.size_bytes);
    }
}

/// The published generations, oldest first.
#[derive(Debug, Default)]
struct Survey {
    /// Those all of whose objects are there.
    whole: Vec<Manifest>,
    torn: Vec<Manifest>,
    /// The names of those that can't be read.
    strange: Vec<String>,
    /// Those that were taken out, to be deleted.
    given_up: Vec<String>,
}

/// What stays of them.
#[derive(Debug)]
struct Left<'a> {
    generations: HashSet<&'a str>,
    packs: HashSet<&'a str>,
    unneeded: Unneeded,
    given_up: &'a [String],
}

/// Which packs it is known of that no generation needs them.
#[derive(Debug, PartialEq, Eq)]
enum Unneeded {
    /// All others than those that stay.
    Others,
    /// Where no generation is there, only those that can never have been of one.
    Unpublished,
    /// A generation can't be read.
    Unknown,
}

impl Survey {
    /// Tells what is wrong with generations, but for those that are about to go.
    fn of(store: &dyn Store, going: &[String], ui: &Ui) -> Result<Survey> {
        let mut survey = Survey::default();
        let generations = catalog::generations(store)?;
        // What generations lack, and which ones: they share packs.
        let mut lacking: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // Listed after them: what they name was there before.
        let mut there = HashMap::new();
        for prefix in ["packs/", "generations/"] {
            there.extend(store.list(prefix)?.into_iter().map(|o| (o.name, o.size_bytes)));
        }
        for generation in generations {
            match catalog::manifest(store, &generation) {
                Ok(manifest) => match catalog::lacks(&manifest, &there).first() {
                    None => survey.whole.push(manifest),
                    Some(why) => {
                        if !going.contains(&generation) {
                            lacking.entry(why.clone()).or_default().push(generation);
                        }
                        survey.torn.push(manifest);
                    }
                },
                Err(error) => {
                    if !going.contains(&generation) {
                        ui.warn_once(format!(
                            "the generation {generation} can't be read, so no packs are deleted (rr prune --drop {generation} gives it up): {error:#}"
                        ));
                    }
                    survey.strange.push(generation);
                }
            }
        }
        for (why, generations) in lacking {
            ui.warn_once(not_whole(&generations, &why));
        }
        Ok(survey)
    }

    /// The verdicts, and what stays when they are carried out.
    fn judge(&self, keep: &Keep) -> (Pruned, Left<'_>) {
        let made: Vec<Made> = self.whole.iter().map(Made::of).collect();
        let verdicts = keep::judge(&made, keep, jiff::Timestamp::now());
        let kept = self.whole.iter().zip(&verdicts).filter(|(_, v)| v.is_kept()).map(|(m, _)| m);
        let left = self.left(kept.collect());
        let gone = verdicts.iter().filter(|v| !v.is_kept()).map(|v| v.generation.clone());
        (Pruned { generations: gone.collect(), verdicts, ..Pruned::default() }, left)
    }

    /// Forgets a generation that is to be deleted.
    fn take_out(&mut self, name: &str) -> Result<()> {
        if let Some(at) = self.strange.iter().position(|strange| strange == name) {
            self.strange.remove(at);
        } else if let Some(at) = self.torn.iter().position(|torn| torn.generation == name) {
            self.torn.remove(at);
        } else {
            let at = self.whole.iter().position(|whole| whole.generation == name);
            let at = at.with_context(|| format!("there is no generation {name}\nhint: rr list"))?;
            let gone = self.whole.remove(at);
            // Of trees that are backed up no more, this is the way to be rid of them.
            let stays = match gone.subject() {
                Subject::Machine => self.whole.iter().any(|m| m.subject() == Subject::Machine),
                Subject::Trees(_) => !self.whole.is_empty(),
            };
            ensure!(
                stays,
                "{name} is the last whole backup of the node: it is not deleted\nhint: delete its directory at the target by hand, if that is really wanted"
            );
        }
        self.given_up.push(name.to_owned());
        Ok(())
    }

    fn all(&self) -> Left<'_> {
        self.left(self.whole.iter().collect())
    }

    fn left<'a>(&'a self, kept: Vec<&'a Manifest>) -> Left<'a> {
        let read: Vec<&Manifest> = kept.into_iter().chain(&self.torn).collect();
        let names = read.iter().map(|m| m.generation.as_str());
        Left {
            generations: names.chain(self.strange.iter().map(String::as_str)).collect(),
            packs: read.iter().flat_map(|m| &m.pack).map(|pack| pack.name.as_str()).collect(),
            unneeded: match (self.strange.is_empty(), read.is_empty()) {
                (true, false) => Unneeded::Others,
                (true, true) => Unneeded::Unpublished,
                (false, _) => Unneeded::Unknown,
            },
            given_up: &self.given_up,
        }
    }
}

/// What is to be said of generations, oldest first, that all lack the same.
fn not_whole(generations: &[String], why: &str) -> String {
    match generations {
        [first, .., last] => format!(
            "{} generations ({first} ... {last}) are not whole, so they do not count as kept and no backup builds upon them: {why}\nhint: the next backup stores it anew, rr mkbackup --full everything; rr prune --drop gives a generation up",
            generations.len()
        ),
        _ => format!(
            "the generation {} is not whole, so it does not count as kept and no backup builds upon it: {why}\nhint: the next backup stores it anew, rr mkbackup --full everything; rr prune --drop gives the generation up",
            generations.concat()
        ),
    }
}

impl Left<'_> {
    /// Files of generations that are not published or not kept, and packs that none needs.
    fn doomed(&self, store: &dyn Store) -> Result<Vec<Object>> {
        let mut doomed = store.list("generations/")?;
        doomed.retain(|object| {
            let generation = object.name.split('/').nth(1).unwrap_or_default();
            catalog::time_of(generation).is_some() && !self.generations.contains(generation)
        });
        if self.unneeded == Unneeded::Unknown {
            return Ok(doomed);
        }
        let mut packs = store.list("packs/")?;
        packs.retain(|object| {
            generation_of(&object.name).is_some() && !self.packs.contains(object.name.as_str())
        });
        if self.unneeded == Unneeded::Others || self.are_unpublished(&packs, store) {
            doomed.append(&mut packs);
        }
        Ok(doomed)
    }

    /// Whether these packs are of runs that ended before the node had a generation. That none is
    /// listed does not tell: `generations/` may have got lost, and packs alone can still be unpacked by
    /// hand. But `latest.json` is put after the first manifest, and goes only with the last; and where
    /// a list is older than what is there, each manifest is there by its name.
    fn are_unpublished(&self, packs: &[Object], store: &dyn Store) -> bool {
        let is_missing =
            |name: &str| matches!(store.size_bytes(name), Err(StoreError::NotFound { .. }));
        let mut of: Vec<&str> = packs.iter().filter_map(|pack| generation_of(&pack.name)).collect();
        of.sort_unstable();
        of.dedup();
        of.retain(|generation| !self.given_up.iter().any(|given_up| given_up == generation));
        is_missing("latest.json")
            && of.iter().all(|generation| is_missing(&catalog::object(generation, "manifest.json")))
    }
}

/// Unpublishes the generations that `pruned` names, and deletes all that does not stay.
fn delete(guard: &LockGuard, mut pruned: Pruned, left: &Left<'_>) -> Result<Pruned> {
    name_latest(guard, &pruned.generations, left)?;
    let mut doomed = left.doomed(guard.store())?;
    for old in pruned.generations.clone() {
        guard.check()?;
        let name = catalog::object(&old, "manifest.json");
        guard.store().delete(&name)?;
        match doomed.iter().position(|object| object.name == name) {
            Some(at) => pruned.count(&doomed.remove(at)),
            // The list is older than it.
            None => pruned.objects += 1,
        }
    }
    collect(guard, &doomed, &mut pruned)?;
    Ok(pruned)
}

/// Where the newest is to go, `latest.json` names the one before it from now on. It goes on naming
/// those that go: where a server can't list, a run that is killed would leave them for ever.
fn name_latest(guard: &LockGuard, gone: &[String], left: &Left<'_>) -> Result<()> {
    let newest = left.generations.iter().max();
    if gone.iter().map(String::as_str).max() <= newest.copied() {
        return Ok(());
    }
    guard.check()?;
    let Some(newest) = newest else { return Ok(guard.store().delete("latest.json")?) };
    let mut all: Vec<String> = left.generations.iter().map(|&name| name.to_owned()).collect();
    all.extend_from_slice(gone);
    all.sort();
    let text = catalog::latest_json(newest, &all);
    guard
        .store()
        .put("latest.json", text.as_bytes())
        .with_context(|| format!("naming {newest} in latest.json"))
}

fn collect(guard: &LockGuard, doomed: &[Object], pruned: &mut Pruned) -> Result<()> {
    for few in doomed.chunks(CHECKED_TOGETHER) {
        guard.check()?;
        for object in few {
            guard.store().delete(&object.name)?;
            pruned.count(object);
        }
    }
    Ok(())
}

/// Which generation a pack was stored for: it is `packs/<generation>-<seq>-<hash>.tar.zst`, or
/// `.index.zst` with tables of the index.
fn generation_of(name: &str) -> Option<&str> {
    let name = name.strip_prefix("packs/")?;
    let is_pack = name.ends_with(".tar.zst") || name.ends_with(".index.zst");
    let (generation, _) = name.split_once('-').filter(|_| is_pack)?;
    catalog::time_of(generation).map(|_| generation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::catalog::FileRecord;
    use crate::store::testing::{Beside, BesideStore};
    use crate::store::{lock, test_store};
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

    fn last(count: usize) -> Keep {
        Keep { last: count, ..Keep::default() }
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
        let bytes = || -> u64 {
            let objects = ["packs/", "generations/"].map(|prefix| store.list(prefix).unwrap());
            objects.iter().flatten().map(|object| object.size_bytes).sum()
        };
        let bytes_before = bytes();
        let forecast = forecast(&*store, &last(2), &ui).unwrap();
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS, "a forecast deletes nothing");
        let pruned = prune(&guard, &last(2), &ui).unwrap();
        assert_eq!(pruned.generations, DAYS[..2]);
        assert_eq!(forecast, pruned);
        assert_eq!(bytes_before - bytes(), pruned.freed_bytes);
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[2..]);
        let packs = names(&store, "packs/");
        assert_eq!(
            packs,
            [&pack(DAYS[1], 1), &pack(DAYS[2], 1), &pack(DAYS[3], 1), "packs/notes.txt"]
        );
        assert_eq!(names(&store, "generations/").len(), 4);
        // The last one is never deleted.
        prune(&guard, &last(0), &ui).unwrap();
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[3..]);
    }

    #[test]
    fn what_can_not_be_read_stays_with_all_that_it_may_need() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.put("generations/20261102T000000Z/manifest.json", b"{\"version\": 9}").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        let pruned = prune(&guard, &last(1), &ui).unwrap();
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
        prune(&guard, &last(1), &ui).unwrap();
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[2..]);
    }

    #[test]
    fn a_damaged_generation_can_be_given_up_and_the_last_whole_one_can_not() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.put("generations/20261104T000000Z/manifest.json", b"").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        let drop = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            drop_generations(&guard, &names, &ui).map(|_| ()).map_err(|e| e.to_string())
        };
        assert!(drop(&["20261101T000000Z", "20291101T000000Z"]).unwrap_err().contains("no gen"));
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS, "all or none");
        assert!(drop(&DAYS[..3]).unwrap_err().contains("last whole backup"));
        // Of the one that goes, nothing is said that is no longer true then.
        let quiet = Ui::new(Style::Plain);
        let both = [DAYS[3], DAYS[0], DAYS[3]].map(str::to_owned);
        drop_generations(&guard, &both, &quiet).unwrap();
        assert_eq!(quiet.warnings(), [""; 0]);
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[1..3]);
        let packs = names(&store, "packs/");
        assert_eq!(packs, [pack(DAYS[0], 1), pack(DAYS[1], 1), pack(DAYS[2], 1)]);
    }

    fn newest_named(store: &Arc<dyn Store>) -> String {
        let latest: serde_json::Value =
            serde_json::from_slice(&store.get("latest.json").unwrap()).unwrap();
        latest["generation"].as_str().unwrap().to_owned()
    }

    #[test]
    fn when_the_newest_goes_the_one_before_it_is_the_latest() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        let guard = lock::lock(&store, &ui).unwrap();
        drop_generations(&guard, &[DAYS[0].to_owned()], &ui).unwrap();
        assert_eq!(newest_named(&store), DAYS[3]);
        drop_generations(&guard, &[DAYS[3].to_owned()], &ui).unwrap();
        assert_eq!(newest_named(&store), DAYS[2]);
        drop(guard);
        // Also when the run ends in the middle, and then none that is there is forgotten.
        let (_dir, store) = test_store();
        four_generations(&store);
        let bad = BesideStore::shared(&store, Beside::TakenOverWhileDeleting);
        let guard = lock::lock(&bad, &ui).unwrap();
        drop_generations(&guard, &[DAYS[2].to_owned(), DAYS[3].to_owned()], &ui).unwrap_err();
        assert_eq!(newest_named(&store), DAYS[1]);
        let named = catalog::named_in_latest(&store.get("latest.json").unwrap()).unwrap();
        assert!(named.contains(&DAYS[3].to_owned()), "{named:?}");
    }

    #[test]
    fn no_room_is_made_beside_another_run() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.put(&pack("20261105T000000Z", 1), b"x").unwrap();
        let before = names(&store, "");
        let guard = lock::lock(&store, &ui).unwrap();
        let orders =
            [Order::Keep(last(2)), Order::Keep(last(9)), Order::Drop(vec![DAYS[0].into()])];
        for order in &orders {
            let text = make_room(&*store, order, &ui).unwrap_err().to_string();
            assert!(text.contains("another rr works in"), "{text}");
        }
        drop(guard);
        assert_eq!(names(&store, ""), before);
        // One that has only just begun misses nothing: the packs of the generation are there.
        let made = make_room(&*store, &orders[0], &ui).unwrap();
        assert_eq!((made.objects, made.generations), (2, vec![DAYS[0].to_owned()]));
        let mut left = before;
        left.retain(|name| !name.contains(&format!("generations/{}", DAYS[0])));
        assert_eq!(names(&store, ""), left);
        assert_eq!(make_room(&*store, &orders[1], &ui).unwrap().objects, 1);
        assert_eq!(make_room(&*store, &orders[1], &ui).unwrap().objects, 0);
        let newest = Order::Drop(vec![DAYS[3].into()]);
        assert_eq!(make_room(&*store, &newest, &ui).unwrap().objects, 0);
        let missing = Order::Drop(vec![DAYS[0].into(), DAYS[1].into()]);
        assert!(make_room(&*store, &missing, &ui).is_err());
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[1..]);
    }

    #[test]
    fn room_is_not_made_of_what_runs_bring_meanwhile() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        for generation in ["20261030T000000Z", "20261105T000000Z"] {
            store.put(&pack(generation, 1), b"x").unwrap();
        }
        let beside = BesideStore::shared(&store, Beside::RunsWhileLooking);
        let made = make_room(&*beside, &Order::Keep(last(9)), &ui).unwrap();
        assert_eq!(made.objects, 1);
        let mut packs = DAYS.map(|day| pack(day, 1)).to_vec();
        packs.extend(["20261105T000000Z", "20261106T000000Z"].map(|begun| pack(begun, 1)));
        assert_eq!(names(&store, "packs/"), packs);
    }

    #[test]
    fn a_list_that_is_older_costs_no_newer_generation() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        let newest = "generations/20261104T000000Z/manifest.json";
        let stale = BesideStore::shared(&store, Beside::ListedWithout(newest));
        let guard = lock::lock(&stale, &ui).unwrap();
        assert_eq!(sweep(&guard, &ui).unwrap().objects, 0);
        prune(&guard, &last(1), &ui).unwrap();
        assert_eq!(catalog::find(&*stale, None).unwrap().generation, DAYS[3]);
        assert!(
            catalog::missing(&*store, &catalog::manifest(&*store, DAYS[3]).unwrap())
                .unwrap()
                .is_empty()
        );
        // The next that is published does not make it forgotten.
        let next = catalog::tests::example("20261105T000000Z");
        catalog::publish(&*stale, &next).unwrap();
        let latest = store.get("latest.json").unwrap();
        assert!(catalog::named_in_latest(&latest).unwrap().contains(&DAYS[3].to_owned()));
    }

    #[test]
    fn a_run_that_lost_its_lock_stops_deleting() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        for nr in 0..3 * CHECKED_TOGETHER {
            store.put(&format!("packs/20261105T000000Z-{nr}-abc.tar.zst"), b"x").unwrap();
        }
        let bad = BesideStore::shared(&store, Beside::TakenOverWhileDeleting);
        let guard = lock::lock(&bad, &ui).unwrap();
        let error = sweep(&guard, &ui).unwrap_err().to_string();
        assert!(error.contains("has taken over the lock"), "{error}");
        assert_eq!(names(&store, "packs/20261105").len(), 2 * CHECKED_TOGETHER);
    }

    #[test]
    fn leavings_of_killed_runs_are_swept() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        // Killed before anything was ever published.
        store.put("machine.json", b"{}").unwrap();
        store.put("generations/20261030T000000Z/recipe", b"r").unwrap();
        store.put(&pack("20261030T000000Z", 1), b"x").unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        assert_eq!(swept_bytes(&*store, &ui).unwrap(), 2);
        let swept = sweep(&guard, &ui).unwrap();
        assert_eq!((swept.objects, swept.freed_bytes), (2, 2));
        store.put(&pack("20261031T000000Z", 1), b"x").unwrap();
        assert_eq!(prune(&guard, &last(1), &ui).unwrap().objects, 1);
        four_generations(&store);
        store.put(&pack("20261105T000000Z", 1), b"x").unwrap();
        store.put("packs/20261105T000000Z-1-abc.index.zst", b"x").unwrap();
        let swept = sweep(&guard, &ui).unwrap();
        assert_eq!((swept.objects, swept.generations.len()), (2, 0));
        assert_eq!(names(&store, "packs/").len(), 4);
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS);
    }

    /// Packs alone can still be unpacked by hand.
    #[test]
    fn packs_stay_where_the_generations_got_lost() {
        let (dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        let guard = lock::lock(&store, &ui).unwrap();
        let stay = |store: &Arc<dyn Store>, guard: &LockGuard| {
            assert_eq!(swept_bytes(&**store, &ui).unwrap(), 0);
            sweep(guard, &ui).unwrap();
            prune(guard, &last(1), &ui).unwrap();
            assert_eq!(names(store, "packs/").len(), 4);
        };
        std::fs::remove_dir_all(dir.path().join("node001/generations")).unwrap();
        stay(&store, &guard);
        // One that can't be read is not one that is not there.
        store.delete("latest.json").unwrap();
        std::fs::create_dir(dir.path().join("node001/latest.json")).unwrap();
        stay(&store, &guard);
        std::fs::remove_dir(dir.path().join("node001/latest.json")).unwrap();
        drop(guard);
        // A run that was killed before it wrote latest.json, and a list that is older than that.
        let manifest = "generations/20261103T000000Z/manifest.json";
        store.put(manifest, b"{}").unwrap();
        let stale = BesideStore::shared(&store, Beside::ListedWithout(manifest));
        stay(&stale, &lock::lock(&stale, &ui).unwrap());
    }

    #[test]
    fn the_packs_of_the_only_generation_go_when_it_is_given_up() {
        let ui = Ui::new(Style::Plain);
        for damage in ["manifest.json", "recipe"] {
            let (_dir, store) = test_store();
            four_generations(&store);
            let guard = lock::lock(&store, &ui).unwrap();
            let older = [DAYS[0], DAYS[1], DAYS[2]].map(str::to_owned);
            drop_generations(&guard, &older, &ui).unwrap();
            store.put(&catalog::object(DAYS[3], damage), b"damage").unwrap();
            assert_eq!(names(&store, "packs/").len(), 2);
            drop_generations(&guard, &[DAYS[3].to_owned()], &ui).unwrap();
            assert_eq!(names(&store, ""), ["lock-1.json"]);
        }
    }

    #[test]
    fn a_generation_that_lost_a_pack_does_not_cost_the_last_whole_one() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        store.delete(&pack(DAYS[3], 1)).unwrap();
        let guard = lock::lock(&store, &ui).unwrap();
        let pruned = prune(&guard, &last(1), &ui).unwrap();
        assert_eq!(pruned.generations, DAYS[..2]);
        assert_eq!(catalog::generations(&*store).unwrap(), DAYS[2..]);
        assert_eq!(names(&store, "packs/"), [pack(DAYS[1], 1), pack(DAYS[2], 1)]);
        assert_eq!(ui.warnings().len(), 1);
    }

    #[test]
    fn a_lost_pack_is_told_once_for_all_that_need_it() {
        let (_dir, store) = test_store();
        let ui = Ui::new(Style::Plain);
        four_generations(&store);
        for day in [DAYS[0], DAYS[1]] {
            store.delete(&pack(day, 1)).unwrap();
        }
        let guard = lock::lock(&store, &ui).unwrap();
        sweep(&guard, &ui).unwrap();
        prune(&guard, &last(3), &ui).unwrap();
        let told = ui.warnings();
        assert_eq!(told.len(), 2, "{told:?}");
        let two = format!("2 generations ({} ... {}) are not whole", DAYS[0], DAYS[1]);
        assert!(told[0].starts_with(&two) && told[0].contains(&pack(DAYS[0], 1)), "{told:?}");
        assert!(told[1].contains(DAYS[2]) && told[1].contains(&pack(DAYS[1], 1)), "{told:?}");
    }
}
