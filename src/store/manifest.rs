//! `manifest.json`: what a generation is and what it needs.
//!
//! It holds the hash of every other object, and as its own last field `self_blake3`, the hash of all
//! of its bytes before that field: a bit that changed anywhere in it is found.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

/// The file of a generation that says what could not be read; there is none where all could be.
pub const UNREAD: &str = "unread.txt";

/// How the file of a generation ends that holds a LUKS header, encrypted: the UUID is before that.
pub const LUKS_HEADER: &str = ".header.age";

/// How a warning begins that is a problem: the run was a failure, although it has published. No field
/// of its own, which the rr in older rescue images would not read.
const PROBLEM: &str = "problem: ";

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
    /// Everything that went other than expected before it was published. What leaves the machine
    /// without a way back begins with [`PROBLEM`].
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

    /// Puts down what the run came upon until now.
    pub fn note(&mut self, problems: &[String], warnings: Vec<String>) {
        self.warning = problems.iter().map(|problem| format!("{PROBLEM}{problem}")).collect();
        self.warning.extend(warnings);
    }

    /// What leaves the machine without a way back, or without a part of it.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.warning.iter().filter_map(|warning| warning.strip_prefix(PROBLEM))
    }

    /// What else went other than expected.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        let warnings = self.warning.iter().map(String::as_str);
        warnings.filter(|warning| !warning.starts_with(PROBLEM))
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

/// The object `file` of a generation.
pub fn object(generation: &str, file: &str) -> String {
    format!("generations/{generation}/{file}")
}

#[cfg(test)]
mod tests {
    use super::super::catalog::tests::example;
    use super::*;

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
}
