//! What the names in a node's tree mean: generations, their manifests, and which is the newest.
//!
//! A generation is named by its time (`20261121T013500Z`) and always later than those before it, so
//! that the last by name is the newest, whatever the clock says. It is published by its
//! `manifest.json`, which is written last and never changed. `latest.json` names the newest, and
//! all, for people and scripts; rr goes by the manifests, since a run can be killed between the two.
//! Only where a server can't list it is all there is to go by.
//!
//! What a manifest says is told by [`manifest`](super::manifest).

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

use super::lock::LockGuard;
pub use super::manifest::{
    ArchiveStats, FileRecord, LUKS_HEADER, MANIFEST_VERSION, Manifest, Subject, UNREAD, object,
};
pub(crate) use super::manifest::{parse, render, sealed};
use super::{Store, StoreError};
use crate::layout::{Layout, schema};

/// What to do about a damaged object. Other generations may need it as well.
pub const MENDED_BY: &str = "hint: rr list shows other generations, rr verify reads one in full; rr mkbackup --full on the node makes one that needs nothing of the earlier ones";

/// The name of a generation.
const NAME: &str = "%Y%m%dT%H%M%SZ";

/// A name for a generation that starts now.
pub fn new_generation(store: &dyn Store) -> Result<String> {
    let now = jiff::Timestamp::now();
    let newest = store
        .list("generations/")?
        .iter()
        .filter_map(|found| time_of(found.name.split('/').nth(1)?))
        .max();
    let time = match newest {
        Some(newest) => {
            let next = newest.checked_add(jiff::SignedDuration::from_secs(1)).map_err(|_| {
                let newest = newest.strftime(NAME);
                anyhow!(
                    "no generation can be later than {newest}, which {} has\nhint: rr prune --drop {newest}; or delete generations/{newest} there",
                    store.url()
                )
            })?;
            now.max(next)
        }
        None => now,
    };
    Ok(time.strftime(NAME).to_string())
}

/// The time in the name of a generation; None where it is no such name.
pub fn time_of(generation: &str) -> Option<jiff::Timestamp> {
    let time = jiff::civil::DateTime::strptime(NAME, generation).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    (time.strftime(NAME).to_string() == generation).then_some(time)
}

/// Whether a word names a generation, whichever there are.
pub fn names_generation(word: &str) -> bool {
    word == "latest" || time_of(word).is_some()
}

/// The published generations, oldest first.
///
/// A list may be older than what is there. What `latest.json` names and the list lacks is asked for:
/// else the generation would be passed over by a recovery, and what it needs deleted.
pub fn generations(store: &dyn Store) -> Result<Vec<String>> {
    let published = |name: &str| {
        let generation = name.strip_prefix("generations/")?.strip_suffix("/manifest.json")?;
        time_of(generation).map(|_| generation.to_owned())
    };
    let mut found: Vec<String> =
        store.list("generations/")?.iter().filter_map(|object| published(&object.name)).collect();
    let named = match store.get("latest.json") {
        // One that is damaged matters only where there is no list.
        Ok(latest) => named_in_latest(&latest).unwrap_or_default(),
        Err(StoreError::NotFound { .. }) => Vec::new(),
        // The list is there, and a backup disk with one bad sector must not stop a recovery.
        Err(error) => {
            log::warn!("latest.json of {} can't be read: {error}", store.url());
            Vec::new()
        }
    };
    for generation in named {
        if found.contains(&generation) {
            continue;
        }
        match store.size_bytes(&object(&generation, "manifest.json")) {
            Ok(_) => {
                log::warn!("the list of {} lacks {generation}, which is there", store.url());
                found.push(generation);
            }
            // Deleted since it was named.
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}

/// The newest published generation.
pub fn latest(store: &dyn Store) -> Result<Option<String>> {
    Ok(generations(store)?.pop())
}

/// The generation that is named; `latest` or no name is the newest.
pub fn find(store: &dyn Store, named: Option<&str>) -> Result<Manifest> {
    let all = some_generations(store)?;
    manifest(store, choose(store, &all, named)?)
}

/// What is read back where nothing is named: the newest generation and, where that is of some trees, the
/// newest of the machine, which a recovery takes.
pub fn to_verify(store: &dyn Store) -> Result<Vec<Result<Manifest>>> {
    let all = some_generations(store)?;
    let newest = manifest(store, choose(store, &all, None)?);
    let machine = match newest.as_ref().map(Manifest::subject) {
        Ok(Subject::Machine) => None,
        // Beside one that can't be read, those before it.
        _ => newest_machine(store, &all[..all.len() - 1]).transpose(),
    };
    Ok([newest].into_iter().chain(machine).collect())
}

/// As [`find`], of those with a layout: what a machine can be recovered from.
///
/// # Errors
/// Also when one that can't be read is newer: which of them is wanted is then for the admin to say.
pub fn find_machine(store: &dyn Store, named: Option<&str>) -> Result<Manifest> {
    if named.is_some_and(|named| named != "latest") {
        let manifest = find(store, named)?;
        ensure!(
            manifest.subject() == Subject::Machine,
            "the generation {} has no layout: it holds files only\nhint: rr restore; rr list shows which ones are of the machine",
            manifest.generation
        );
        return Ok(manifest);
    }
    newest_machine(store, &some_generations(store)?)?.with_context(|| format!(
        "{} holds files of this node, and no layout to recover it from\nhint: rr restore brings files back; rr mkbackup on the node backs up the whole machine",
        store.url()
    ))
}

/// The newest of these generations that has a layout.
///
/// # Errors
/// Also when one that can't be read is newer.
pub fn newest_machine(store: &dyn Store, generations: &[String]) -> Result<Option<Manifest>> {
    for generation in generations.iter().rev() {
        let manifest = manifest(store, generation)?;
        if manifest.subject() == Subject::Machine {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}

/// The published generations, oldest first.
///
/// # Errors
/// There is none.
fn some_generations(store: &dyn Store) -> Result<Vec<String>> {
    let all = generations(store)?;
    ensure!(
        !all.is_empty(),
        "{} holds no complete backup of this node\nhint: --node NAME takes another one",
        store.url()
    );
    Ok(all)
}

fn choose<'a>(store: &dyn Store, all: &'a [String], named: Option<&str>) -> Result<&'a str> {
    let found = match named {
        None | Some("latest") => all.last(),
        Some(named) => all.iter().find(|generation| *generation == named),
    };
    found.map(String::as_str).with_context(|| {
        let named = named.unwrap_or("latest");
        format!("{} has no generation {named}\nhint: it has {}", store.url(), all.join(", "))
    })
}

/// The manifest of a generation, whole and understood.
pub fn manifest(store: &dyn Store, generation: &str) -> Result<Manifest> {
    let name = object(generation, "manifest.json");
    let bytes = store.get(&name).map_err(|error| match error {
        StoreError::NotFound { store, .. } => {
            anyhow!("{store} has no generation {generation}\nhint: rr list")
        }
        other => other.into(),
    })?;
    let manifest = parse(&bytes).with_context(|| format!("reading {name} of {}", store.url()))?;
    ensure!(
        manifest.generation == generation,
        "{name} of {} describes the generation {}: it was moved or copied",
        store.url(),
        manifest.generation
    );
    Ok(manifest)
}

/// The layout of the machine that a generation is of.
pub fn layout(store: &dyn Store, manifest: &Manifest) -> Result<Layout> {
    let record = manifest
        .layout()
        .with_context(|| format!("the generation {} has no layout", manifest.generation))?;
    let reading = || format!("reading {}", record.name);
    let text = String::from_utf8(fetch(store, record)?).with_context(reading)?;
    schema::parse(&text).with_context(reading)
}

/// Publishes a generation all of whose objects are stored, beside runs that may take the lock over.
///
/// The request that publishes is made again while the server does not answer it, for longer maybe than
/// another run waits before it takes this one for dead, and deletes what no manifest names. So all is
/// looked at once more when it has come through, and if it is not so any more, the manifest goes.
///
/// # Errors
/// As of [`publish`], and where the lock is lost.
pub fn publish_locked(guard: &LockGuard, manifest: &Manifest) -> Result<()> {
    let (store, generation) = (guard.store(), &manifest.generation);
    let name = object(generation, "manifest.json");
    guard.check()?;
    let is_others = |error: &anyhow::Error| {
        matches!(error.downcast_ref::<StoreError>(), Some(StoreError::Exists { .. }))
    };
    let (done, is_ours) = match put_manifest(store, manifest) {
        Ok(()) => (guard.check().and_then(|()| check_present(store, manifest)), true),
        // It may have been put by a request whose answer got lost.
        Err(error) => {
            let is_ours = guard.is_lost() && !is_others(&error);
            (Err(error), is_ours)
        }
    };
    if let Err(error) = done {
        if is_ours && let Err(error) = guard.take_back(&name) {
            log::warn!("unpublishing {name}: {error}");
        }
        return Err(error.context(format!("the generation {generation} is not published")));
    }
    name_latest(store, generation)
}

/// As [`publish_locked`], where no other run can be.
///
/// # Errors
/// An object that the manifest names is missing or has another size; nothing is published then.
pub fn publish(store: &dyn Store, manifest: &Manifest) -> Result<()> {
    put_manifest(store, manifest)?;
    name_latest(store, &manifest.generation)
}

fn put_manifest(store: &dyn Store, manifest: &Manifest) -> Result<()> {
    let generation = &manifest.generation;
    ensure!(time_of(generation).is_some(), "{generation:?} can't name a generation");
    check_present(store, manifest).context("checking the objects before they are published")?;
    store
        .put_new(&object(generation, "manifest.json"), &render(manifest)?)
        .with_context(|| format!("publishing the generation {generation}"))
}

fn name_latest(store: &dyn Store, generation: &str) -> Result<()> {
    store
        .put("latest.json", latest_json(generation, &generations(store)?).as_bytes())
        .with_context(|| format!("naming {generation} in latest.json"))
}

/// `latest.json`, for a tree with these generations.
pub(crate) fn latest_json(newest: &str, generations: &[String]) -> String {
    let latest = serde_json::json!({
        "version": MANIFEST_VERSION,
        "generation": newest,
        "generations": generations,
    });
    format!("{latest:#}\n")
}

/// The generations that `latest.json` names; those that were deleted since are among them. For a
/// store that can't list.
///
/// # Errors
/// It is damaged. Taken for empty, all generations would be forgotten by the next that is published.
pub(super) fn named_in_latest(bytes: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Latest {
        generation: String,
        #[serde(default)]
        generations: Vec<String>,
    }
    let latest: Latest = serde_json::from_slice(bytes).context(
        "latest.json is damaged: it tells which generations there are\nhint: write {\"generation\": \"NEWEST\", \"generations\": [\"ALL\", \"OF\", \"THEM\"]} into it, as the directories in generations/ are called",
    )?;
    let mut found = latest.generations;
    found.push(latest.generation);
    found.retain(|generation| time_of(generation).is_some());
    found.sort();
    found.dedup();
    Ok(found)
}

fn check_present(store: &dyn Store, manifest: &Manifest) -> Result<()> {
    match missing(store, manifest)?.first() {
        None => Ok(()),
        Some(why) => bail!("{why}"),
    }
}

/// What a generation needs and the store does not have, or not whole.
pub fn missing(store: &dyn Store, manifest: &Manifest) -> Result<Vec<String>> {
    let mut there = HashMap::new();
    let own = object(&manifest.generation, "");
    for prefix in ["packs/", own.as_str()] {
        there.extend(store.list(prefix)?.into_iter().map(|o| (o.name, o.size_bytes)));
    }
    Ok(lacks(manifest, &there))
}

/// What a generation needs and is not, or not whole, among the objects that are `there`: name ->
/// size in bytes.
pub(super) fn lacks(manifest: &Manifest, there: &HashMap<String, u64>) -> Vec<String> {
    let records = manifest.file.iter().chain(&manifest.pack);
    let lack = |record: &FileRecord| match there.get(&record.name) {
        Some(&size) if size == record.size_bytes => None,
        Some(size) => {
            Some(format!("{} has {size} bytes, {} were written", record.name, record.size_bytes))
        }
        None => Some(format!("{} is gone", record.name)),
    };
    records.filter_map(lack).collect()
}

/// The bytes of an object that must be just these.
pub fn fetch(store: &dyn Store, record: &FileRecord) -> Result<Vec<u8>> {
    let bytes = store.get(&record.name)?;
    let damaged = |what: String| {
        anyhow!("{} of {} is damaged: {what}\n{MENDED_BY}", record.name, store.url())
    };
    if bytes.len() as u64 != record.size_bytes {
        return Err(damaged(format!("{} bytes instead of {}", bytes.len(), record.size_bytes)));
    }
    if blake3::hash(&bytes).to_hex().as_str() != record.blake3 {
        return Err(damaged("its BLAKE3 is another".to_owned()));
    }
    Ok(bytes)
}

/// What a manifest says of a file of its generation.
pub fn record(generation: &str, file: &str, bytes: &[u8]) -> FileRecord {
    FileRecord {
        name: object(generation, file),
        size_bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    }
}

/// Stores `bytes` as a file of a generation.
pub fn put(
    store: &dyn Store,
    generation: &str,
    file: &str,
    bytes: impl Into<Vec<u8>>,
) -> Result<FileRecord> {
    let bytes = bytes.into();
    let record = record(generation, file, &bytes);
    put_recorded(store, &record, bytes)?;
    Ok(record)
}

/// Stores some files at the same time: a disk is waited for once then, and so is a server.
pub fn put_all(store: &dyn Store, files: Vec<(&FileRecord, Vec<u8>)>) -> Result<()> {
    std::thread::scope(|scope| {
        let put = |(record, bytes)| scope.spawn(move || put_recorded(store, record, bytes));
        let puts: Vec<_> = files.into_iter().map(put).collect();
        puts.into_iter().try_for_each(|put| {
            put.join().unwrap_or_else(|_| Err(anyhow!("storing a file panicked")))
        })
    })
}

fn put_recorded(store: &dyn Store, record: &FileRecord, bytes: Vec<u8>) -> Result<()> {
    let name = &record.name;
    store.put_pieces(name, &vec![bytes].into()).with_context(|| format!("storing {name}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::testing::{Beside, BesideStore};
    use crate::store::{lock, test_store};
    use crate::ui::{Style, Ui};

    pub fn example(generation: &str) -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            generation: generation.to_owned(),
            node: "node001".to_owned(),
            rr: "0.1.0".to_owned(),
            started: "2026-11-21T01:35:00Z".to_owned(),
            finished: "2026-11-21T01:36:00Z".to_owned(),
            parent: None,
            file: Vec::new(),
            pack: Vec::new(),
            archive: ArchiveStats::default(),
            tree: vec!["/".to_owned()],
            unprotected: Vec::new(),
            warning: vec!["a \"self_blake3\": \"x\" in the text".to_owned()],
        }
    }

    #[test]
    fn a_generation_counts_from_the_moment_of_its_manifest() {
        let (_dir, store) = test_store();
        let store = &*store;
        assert_eq!(latest(store).unwrap(), None);
        let mut first = example("20261121T013500Z");
        first.file.push(put(store, &first.generation, "layout.toml", b"x").unwrap());
        assert_eq!(generations(store).unwrap(), [""; 0]);
        publish(store, &first).unwrap();
        let second = example("20261121T013501Z");
        publish(store, &second).unwrap();
        assert_eq!(generations(store).unwrap(), ["20261121T013500Z", "20261121T013501Z"]);
        assert_eq!(latest(store).unwrap().as_deref(), Some("20261121T013501Z"));
        assert_eq!(manifest(store, &first.generation).unwrap(), first);
        assert_eq!(fetch(store, &first.file[0]).unwrap(), b"x");
        assert!(publish(store, &first).is_err(), "a manifest never changes");
        assert!(manifest(store, "20261121T013509Z").is_err());
    }

    /// Of the whole machine, or of these trees.
    pub fn published(store: &dyn Store, generation: &str, trees: &[&str]) -> Manifest {
        let mut made = example(generation);
        if trees.is_empty() {
            made.file.push(put(store, generation, "layout.toml", b"x").unwrap());
        } else {
            made.tree = trees.iter().map(|&tree| tree.to_owned()).collect();
        }
        publish(store, &made).unwrap();
        made
    }

    #[test]
    fn a_machine_is_recovered_from_the_newest_that_has_its_layout() {
        let (_dir, store) = test_store();
        let store = &*store;
        let find_machine = |named: Option<&str>| {
            find_machine(store, named).map(|found| found.generation).map_err(|e| e.to_string())
        };
        assert!(find_machine(None).unwrap_err().contains("no complete backup"));
        published(store, "20261120T013500Z", &["/etc"]);
        assert!(find_machine(None).unwrap_err().contains("no layout to recover it from"));
        for day in ["20261121T013500Z", "20261122T013500Z"] {
            published(store, day, &[]);
        }
        published(store, "20261123T013500Z", &["/etc"]);
        assert_eq!(find_machine(None).unwrap(), "20261122T013500Z");
        assert_eq!(find_machine(Some("latest")).unwrap(), "20261122T013500Z");
        assert_eq!(find_machine(Some("20261121T013500Z")).unwrap(), "20261121T013500Z");
        assert!(find_machine(Some("20261123T013500Z")).unwrap_err().contains("holds files only"));
        let text = find_machine(Some("2026")).unwrap_err();
        assert!(text.contains("it has 20261120T013500Z, 20261121T013500Z"), "{text}");
        assert_eq!(find(store, None).unwrap().generation, "20261123T013500Z");
        let names = |found: Result<Manifest>| found.map_or("?".to_owned(), |made| made.generation);
        let to_verify = || to_verify(store).unwrap().into_iter().map(names);
        assert!(to_verify().eq(["20261123T013500Z", "20261122T013500Z"]));
        published(store, "20261123T023500Z", &[]);
        assert!(to_verify().eq(["20261123T023500Z"]));
        store.delete(&object("20261123T023500Z", "manifest.json")).unwrap();
        // Which one is wanted is not guessed.
        store.put(&object("20261124T013500Z", "manifest.json"), b"{}").unwrap();
        assert!(find_machine(None).is_err());
        assert!(to_verify().eq(["?", "20261122T013500Z"]));
        assert_eq!(find_machine(Some("20261121T013500Z")).unwrap(), "20261121T013500Z");
    }

    #[test]
    fn what_is_missing_or_cut_off_is_never_published() {
        let (_dir, store) = test_store();
        let mut bad = example("20261121T013500Z");
        let record = put(&*store, &bad.generation, "recipe", b"12345").unwrap();
        bad.pack.push(FileRecord { name: "packs/none".into(), ..record.clone() });
        assert!(
            format!("{:#}", publish(&*store, &bad).unwrap_err()).contains("packs/none is gone")
        );
        bad.pack.clear();
        bad.file.push(FileRecord { size_bytes: 6, ..record.clone() });
        assert!(format!("{:#}", publish(&*store, &bad).unwrap_err()).contains("has 5 bytes"));
        assert!(generations(&*store).unwrap().is_empty());

        let wrong = FileRecord { blake3: blake3::hash(b"12346").to_string(), ..record };
        let text = fetch(&*store, &wrong).unwrap_err().to_string();
        assert!(text.contains("generations/20261121T013500Z/recipe of file://"), "{text}");
    }

    #[test]
    fn what_was_taken_over_while_it_was_published_is_unpublished() {
        let ui = Ui::new(Style::Plain);
        for (beside, expected) in [
            (Beside::TakenOverWhilePublishing, "has taken over the lock"),
            (Beside::SweptWhilePublishing, "packs/a is gone"),
        ] {
            let (_dir, store) = test_store();
            let old = published(&*store, "20261120T013500Z", &[]);
            let theirs = BesideStore::shared(&store, beside);
            let guard = lock::lock(&theirs, &ui).unwrap();
            let mut next = example("20261121T013500Z");
            guard.store().put("packs/a", b"12345").unwrap();
            next.pack.push(FileRecord { name: "packs/a".into(), ..record("x", "a", b"12345") });
            let error = format!("{:#}", publish_locked(&guard, &next).unwrap_err());
            assert!(error.contains("20261121T013500Z is not published: "), "{error}");
            assert!(error.contains(expected), "{error}");
            assert_eq!(generations(&*store).unwrap(), [&old.generation[..]]);
            let latest = named_in_latest(&store.get("latest.json").unwrap()).unwrap();
            assert_eq!(latest, [&old.generation[..]]);
        }
        // A manifest of that name which another run has put stays.
        let (_dir, store) = test_store();
        let made = published(&*store, "20261120T013500Z", &[]);
        let guard = lock::lock(&store, &ui).unwrap();
        assert!(publish_locked(&guard, &made).is_err());
        assert_eq!(generations(&*store).unwrap(), [&made.generation[..]]);
    }

    #[test]
    fn a_new_generation_is_later_than_all_that_are_there() {
        let (_dir, store) = test_store();
        let now = new_generation(&*store).unwrap();
        assert!(time_of(&now).is_some(), "{now}");
        store.put(&object(&now, "recipe"), b"").unwrap();
        assert!(new_generation(&*store).unwrap() > now, "in the same second");
        store.put("generations/29991231T235959Z/recipe", b"").unwrap();
        store.put("generations/zzz/recipe", b"").unwrap();
        assert_eq!(new_generation(&*store).unwrap(), "30000101T000000Z");
        store.put("generations/99991230T220000Z/recipe", b"").unwrap();
        let text = new_generation(&*store).unwrap_err().to_string();
        assert!(text.contains("\nhint: rr prune --drop 99991230T220000Z"), "{text}");
        for no in ["", "20261121", "20261321T013500Z", "20261121T013500", "20261121T013500Zx"] {
            assert_eq!(time_of(no), None, "{no}");
        }
    }
}
