//! What the names in a node's tree mean: generations, their manifests, and which is the newest.

use serde::{Deserialize, Serialize};

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
    /// BLAKE3 of the whole tar stream, hex.
    #[serde(default)]
    pub stream_blake3: String,
}
