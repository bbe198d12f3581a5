//! What the names in a node's tree mean: generations, their manifests, and which is the newest.
//!
//! A generation is named by its time (`20261121T013500Z`) and always later than those before it, so
//! that the last by name is the newest, whatever the clock says. It is published by its
//! `manifest.json`, which is written last and never changed. `latest.json` names the newest, and
//! all, for people and scripts; rr goes by the manifests, since a run can be killed between the two.
//! Only where a server can't list it is all there is to go by.
//!
//! `manifest.json` holds the hash of every other object, and as its own last field `self_blake3`,
//! the hash of all of its bytes before that field: a bit that changed anywhere in it is found.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::layout::{Layout, schema};

/// The file of a generation that says what could not be read; there is none where all could be.
pub const UNREAD: &str = "unread.txt";

/// How the file of a generation ends that holds a LUKS header, encrypted: the UUID is before that.
pub const LUKS_HEADER: &str = ".header.age";

/// What to do about a damaged object. Other generations may need it as well.
pub const MENDED_BY: &str = "hint: rr list shows other generations, rr verify reads one in full; rr mkbackup --full on the node makes one that needs nothing of the earlier ones";

/// The version of `manifest.json` that this program writes.
pub const MANIFEST_VERSION: u32 = 1;

/// `generations/<id>/manifest.json`: written last; its presence publishes the generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    /// UTC, `20261121T013500Z`; also the name of the generation's directory.
    pub generation: String,
    pub node: String,
    /// The rr that wrote it.
    pub rr: String,
    /// RFC 3339.
    pub started: String,
    pub finished: String,
    /// The generation whose index was used to skip unchanged files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The files of the generation's directory besides the manifest, each with size and hash.
    pub file: Vec<FileRecord>,
    /// All packs that the generation needs, those of earlier ones too.
    pub pack: Vec<FileRecord>,
    pub archive: ArchiveStats,
    /// The mount points whose files are in the archive (escaped as [`crate::layout::BytesPath`]).
    pub tree: Vec<String>,
    /// What a recovery would not bring back.
    #[serde(default)]
    pub unprotected: Vec<crate::layout::Unprotected>,
    /// Everything that went other than expected while files were read.
    #[serde(default)]
    pub warning: Vec<String>,
}

/// An object and what it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Relative to the node's tree.
    pub name: String,
    pub size_bytes: u64,
    /// BLAKE3 of the content, hex.
    pub blake3: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ArchiveStats {
    pub entries: u64,
    pub files: u64,
    /// Bytes of the tar stream before compression.
    pub stream_bytes: u64,
    /// Bytes newly stored by this generation.
    pub stored_bytes: u64,
    /// Chunks in the stream, and how many of them were new.
    pub chunks: u64,
    pub new_chunks: u64,
    /// Names the whole tar stream: the BLAKE3, hex, of its chunks' ids in order. (The stream itself
    /// is not hashed: what did not change since the parent is not read.)
    #[serde(default)]
    pub stream_blake3: String,
}

/// What a generation is a backup of. One of the whole machine is not replaced by one of some trees,
/// nor the other way round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// With its layout: what can be recovered.
    Machine,
    /// Just these trees, as [`Manifest::tree`] names them, without what is mounted below them.
    Trees(Vec<String>),
}

impl Subject {
    pub fn of_trees(trees: &[String]) -> Subject {
        let is_below = |tree: &str, other: &str| {
            tree != other
                && tree
                    .strip_prefix(other.trim_end_matches('/'))
                    .is_some_and(|r| r.starts_with('/'))
        };
        let mut top: Vec<String> =
            trees.iter().filter(|tree| !trees.iter().any(|o| is_below(tree, o))).cloned().collect();
        top.sort();
        Subject::Trees(top)
    }
}

impl Manifest {
    pub fn subject(&self) -> Subject {
        match self.layout() {
            Some(_) => Subject::Machine,
            None => Subject::of_trees(&self.tree),
        }
    }

    /// The layout of the machine, where the generation has it.
    pub fn layout(&self) -> Option<&FileRecord> {
        self.named("layout.toml")
    }

    /// Whether all that was selected could be read. Where it could not, something is missing that an
    /// earlier generation may still have.
    pub fn is_complete(&self) -> bool {
        self.named(UNREAD).is_none()
    }

    /// The names of the copied LUKS headers.
    pub fn luks_headers(&self) -> Vec<&str> {
        let names = self.file.iter().map(|file| file.name.as_str());
        names.filter(|name| name.ends_with(LUKS_HEADER)).collect()
    }

    fn named(&self, file: &str) -> Option<&FileRecord> {
        let name = object(&self.generation, file);
        self.file.iter().find(|file| file.name == name)
    }
}

/// Between a manifest and the hash of it.
const SEAL: &str = ",\n  \"self_blake3\": \"";
const SEAL_END: &str = "\"\n}\n";

/// The object `file` of a generation.
pub fn object(generation: &str, file: &str) -> String {
    format!("generations/{generation}/{file}")
}

/// A name for a generation that starts now.
pub fn new_generation(store: &dyn Store) -> Result<String> {
    let now = jiff::Timestamp::now();
    let newest = store
        .list("generations/")?
        .iter()
        .filter_map(|found| time_of(found.name.split('/').nth(1)?))
        .max();
    let time = match newest {
        Some(newest) => now.max(newest + jiff::SignedDuration::from_secs(1)),
        None => now,
    };
    Ok(time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

/// The time in the name of a generation; None where it is no such name.
pub fn time_of(generation: &str) -> Option<jiff::Timestamp> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", generation).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    (time.strftime("%Y%m%dT%H%M%SZ").to_string() == generation).then_some(time)
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

/// Publishes a generation all of whose objects are stored.
///
/// # Errors
/// An object that the manifest names is missing or has another size; nothing is published then.
pub fn publish(store: &dyn Store, manifest: &Manifest) -> Result<()> {
    let generation = &manifest.generation;
    ensure!(time_of(generation).is_some(), "{generation:?} can't name a generation");
    check_present(store, manifest).context("checking the objects before they are published")?;
    store
        .put_new(&object(generation, "manifest.json"), &render(manifest)?)
        .with_context(|| format!("publishing the generation {generation}"))?;
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

/// Stores `bytes` as a file of a generation.
pub fn put(store: &dyn Store, generation: &str, file: &str, bytes: &[u8]) -> Result<FileRecord> {
    let name = object(generation, file);
    store.put(&name, bytes).with_context(|| format!("storing {name}"))?;
    let blake3 = blake3::hash(bytes).to_hex().to_string();
    Ok(FileRecord { name, size_bytes: bytes.len() as u64, blake3 })
}

/// `manifest.json` with its own hash.
pub(crate) fn render(manifest: &Manifest) -> Result<Vec<u8>> {
    let json = serde_json::to_string_pretty(manifest).context("writing the manifest as JSON")?;
    let body = json.strip_suffix("\n}").context("writing the manifest as an object")?;
    Ok(sealed(body))
}

/// With the hash of all that comes before it.
pub(crate) fn sealed(body: &str) -> Vec<u8> {
    format!("{body}{SEAL}{}{SEAL_END}", blake3::hash(body.as_bytes())).into_bytes()
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = "it is damaged or cut off: its own hash does not fit\nhint: rr list shows other generations; rr prune --drop deletes this one";
    let text = std::str::from_utf8(bytes).map_err(|_| anyhow!(damaged))?;
    let (body, hash) = text
        .strip_suffix(SEAL_END)
        .and_then(|text| text.rsplit_once(SEAL))
        .ok_or_else(|| anyhow!(damaged))?;
    ensure!(blake3::hash(body.as_bytes()).to_hex().as_str() == hash, damaged);
    let json = format!("{body}\n}}");
    let found: Versioned = serde_json::from_str(&json).context("looking for its version")?;
    if found.version == 0 || found.version > MANIFEST_VERSION {
        bail!(
            "it has version {}, this rr knows 1 to {MANIFEST_VERSION}\nhint: use the rr that wrote it, or a newer one",
            found.version
        );
    }
    serde_json::from_str(&json).context("parsing it")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::test_store;

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
        // Which one is wanted is not guessed.
        store.put(&object("20261124T013500Z", "manifest.json"), b"{}").unwrap();
        assert!(find_machine(None).is_err());
        assert_eq!(find_machine(Some("20261121T013500Z")).unwrap(), "20261121T013500Z");
    }

    #[test]
    fn trees_are_told_apart_without_what_is_mounted_below_them() {
        let of = |trees: &[&str]| {
            Subject::of_trees(&trees.iter().map(|&tree| tree.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["/srv", "/srv/data", "/etc"]), of(&["/etc", "/srv"]));
        assert_eq!(of(&["/", "/data"]), of(&["/"]));
        assert_ne!(of(&["/srv", "/srvx"]), of(&["/srv"]));
        assert_ne!(of(&["/etc"]), of(&["/srv"]));
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
    fn every_changed_bit_and_every_cut_of_a_manifest_is_found() {
        let manifest = example("20261121T013500Z");
        let good = render(&manifest).unwrap();
        assert_eq!(parse(&good).unwrap(), manifest);
        let json: serde_json::Value = serde_json::from_slice(&good).unwrap();
        assert_eq!(json["self_blake3"].as_str().map(str::len), Some(64), "it stays JSON");
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(parse(&bad).is_err(), "bit {bit} of byte {at}");
            }
            assert!(parse(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_version_is_said_to_be_one() {
        let newer = Manifest { version: 2, ..example("20261121T013500Z") };
        let text = format!("{:#}", parse(&render(&newer).unwrap()).unwrap_err());
        assert!(text.contains("version 2"), "{text}");
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
        for no in ["", "20261121", "20261321T013500Z", "20261121T013500", "20261121T013500Zx"] {
            assert_eq!(time_of(no), None, "{no}");
        }
    }
}
