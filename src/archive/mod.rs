//! Files <-> stream.

mod acl;
mod check;
mod chunk;
mod codec;
mod create;
mod dirs;
mod entry;
mod extract;
mod feed;
mod fetch;
mod flags;
mod index;
mod pack;
mod pax;
mod pick;
mod place;
mod previous;
mod read;
mod recipe;
mod run;
mod select;
mod table;
mod tar;
mod walk;
mod warnings;

use std::path::PathBuf;

use anyhow::{Context, Result};

pub use check::check;
pub use create::create;
pub use extract::{ExtractOptions, Extracted, extract};
pub use recipe::restore_text;

use crate::store::Manifest;
use crate::store::catalog::{ArchiveStats, FileRecord};

/// What to archive and how.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// `/`, or where the node's files are mounted.
    pub root: PathBuf,
    /// Mount points, or other directories and files, as the node names them.
    pub trees: Vec<PathBuf>,
    /// Globs on absolute paths, as the node names them; see [`select::Select::new`].
    pub exclude: Vec<String>,
    pub generation: String,
    pub node: String,
    pub level: i32,
    /// 0: as many as there are cores.
    pub threads: usize,
    /// Read every file, even where the parent says that it did not change.
    pub full: bool,
}

/// What [`create`] stored.
#[derive(Debug)]
pub struct Created {
    /// `index.zst` and `recipe` of the generation.
    pub files: Vec<FileRecord>,
    /// All packs that the generation needs, those of earlier ones too.
    pub packs: Vec<FileRecord>,
    pub stats: ArchiveStats,
    pub warnings: Vec<String>,
    /// The generation that this one builds upon.
    pub parent: Option<String>,
}

/// The record of a file in the generation's directory.
fn generation_file<'a>(manifest: &'a Manifest, file: &str) -> Result<&'a FileRecord> {
    let name = crate::store::catalog::object(&manifest.generation, file);
    let record = manifest.file.iter().find(|record| record.name == name);
    record.with_context(|| format!("the manifest of {} names no {file}", manifest.generation))
}
