//! Files <-> stream: what a backup holds, and how it is stored.
//!
//! ```text
//! create:   select -> walk (ahead, lister) -> feed -> worker (run, read, pax) -> press -> pack -> store
//! extract:  store -> fetch -> tar -> pick -> place
//! foreign:  others' tar archives -> members -> head -> place
//! ```
//!
//! # The stream
//!
//! A generation is one POSIX tar stream (pax, [`pax`]): the trees in the order of a walk, a directory
//! before what is in it, names sorted by their bytes. Paths are relative to the node's `/` and have
//! no `./`, but for the root itself, which is `./`; directories end with a slash. Two zero blocks
//! end it. Nothing in it depends on when or where it is made, so what did not change gives the same
//! bytes: no access or change times, no inode numbers, no names of users.
//!
//! What ustar can't say is in pax records, in this order, each only where needed: `hdrcharset`
//! (`BINARY`, for names that are not UTF-8), `GNU.sparse.*` or `path`, `linkpath`, `size`, `uid`,
//! `gid`, `mtime`, `SCHILY.fflags` (inode flags, [`flags`]), `RR.project` (of a quota, by number,
//! [`project`]: our own, which other readers pass over), `SCHILY.acl.access` and
//! `SCHILY.acl.default` (ids as numbers, [`acl`]; GNU tar and bsdtar restore ACLs from nothing
//! else), `SCHILY.xattr.*` (any bytes; `=` and `%` of a name as `%3D` and `%25`, as GNU tar does).
//! Files with holes are in GNU's sparse format 1.0, the map closed by an empty range at the file's
//! end. The first name of a file carries all of it, further ones are hard links.
//!
//! # Chunks
//!
//! The stream is cut ([`chunk`]) into runs, which hold whole entries, and slices, which hold data of
//! the one big file whose head ends the run before them. The last chunk holds the two zero blocks.
//! A chunk is stored as one zstd frame that tells its size and has a checksum, and is named by the
//! BLAKE3 of its plain bytes, its id. Readers rely on nothing else: where the cuts lie is the
//! writer's choice.
//!
//! # Packs
//!
//! Frames are collected into objects of about 32 MiB, each put whole and never changed:
//!
//! * `packs/<generation>-<sequence>-<hash>.tar.zst` holds chunks. The sequence has six digits, the
//!   hash is the first 16 of the pack's BLAKE3. A first generation stores each chunk, repeated ones
//!   too, in the order of the stream: `cat packs/<generation>-*.tar.zst | zstd -dc | tar xp` is the
//!   whole tree. A later one stores what neither its parent nor itself has stored before.
//! * `packs/<generation>-<sequence>-<hash>.index.zst` holds tables: one zstd frame for each run.
//!   They are apart from the chunks so that a list or a search reads little, and in packs rather than
//!   in `index.zst` so that what did not change is not stored once more with every generation.
//!
//! The manifest names all packs that a generation needs, with size and BLAKE3.
//!
//! # Table
//!
//! What a run's entries are ([`table`]). A version byte (1), then for each entry: its type flag as in
//! ustar; how many bytes of the path are those of the path before, and the rest; mode, uid, gid;
//! mtime and ctime, each as seconds since those of the entry before and nanoseconds; inode number,
//! as the difference; length of the head. Then for a file its size, the length of its data with
//! padding, how many slices hold it (zero: it is in the run), and if any, the first half of the
//! BLAKE3 of the head; for links the target; for devices major and minor number. A ctime of zero
//! says that the file may have changed after it was read ([`settled`]), or could not be read in full:
//! it is read again the next time.
//! Numbers are LEB128, signed ones zigzag ([`codec`]); bytes have their length before them.
//!
//! # `index.zst`
//!
//! One zstd frame ([`index`]): `rr index 1` and a newline; the number of packs and their names; the
//! number of chunks, and for each in the order of the stream a byte (1: a run, with a table), the
//! chunk's id, plain length, pack, offset and stored length, and the same five of the table.
//!
//! # `recipe` and `RESTORE.txt`
//!
//! `recipe` says the same to a shell ([`recipe`]): lines of pack, offset and length. `RESTORE.txt`
//! is the shell script that turns it into files, and tells people how.
//!
//! # What is not read again
//!
//! The parent's tables are gone through beside the walk, as both have the same order. When a run
//! consists of the entries of one run of the parent, all with the same metadata (type, mode, owner,
//! size, mtime, ctime, inode number), its chunk, its table and its slices are taken over unread
//! ([`previous`]). So are the slices of a big file with the same metadata and head. Everything else
//! is read, and stored if its id is new. What is in packs of which little is in use any more counts
//! as neither unchanged nor stored ([`worn`]).

mod acl;
mod ahead;
mod budget;
mod check;
mod chunk;
mod codec;
mod create;
mod dirs;
mod entry;
mod export;
mod extract;
mod feed;
mod fetch;
mod flags;
pub(crate) mod foreign;
mod ground;
pub(crate) mod index;
mod late;
mod list;
mod lister;
mod pace;
mod pack;
mod pax;
mod pick;
mod place;
mod press;
mod previous;
mod project;
mod read;
mod recipe;
mod run;
mod select;
mod settled;
mod spare;
mod stash;
pub(crate) mod table;
pub(crate) mod tar;
mod verify;
mod view;
mod walk;
mod warnings;
mod worker;
mod worn;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

pub use check::{check, check_sample};
pub use create::create;
pub use entry::{Entry, Kind, Time};
pub use extract::{ExtractOptions, Extracted};
pub use foreign::{TarOptions, restore_tar};
pub use list::{Change, diff, list};
pub use recipe::restore_text;
pub use select::exclude_glob;
pub use settled::Settled;
pub use verify::{Verified, verify_root};
pub use worn::used_bytes;

use crate::store::catalog::{self, ArchiveStats, FileRecord};
use crate::store::{Manifest, Store, StoreError};
use crate::ui::Ui;

/// What to archive and how.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// `/`, or where the node's files are mounted.
    pub root: PathBuf,
    /// Mount points, or other directories and files, as the node names them.
    pub trees: Vec<PathBuf>,
    /// Those of them where a filesystem was mounted when they were chosen: without it nothing of that
    /// is archived, and the archive is not whole.
    pub mount_points: Vec<PathBuf>,
    /// Trees that are read elsewhere: of a filesystem mounted there, the root of a snapshot, with
    /// nothing mounted below it.
    pub stand_ins: Vec<(PathBuf, Arc<OwnedFd>)>,
    /// Since when changes show. None: since archiving starts. With stand-ins it must be from before
    /// these were taken.
    pub settled: Option<Settled>,
    /// Globs on absolute paths, as the node names them; see [`select::Select::new`].
    pub exclude: Vec<String>,
    /// What the kernel swaps to, as the node names it. Only the header of such a file is read; zeros
    /// stand for the rest, which is memory, and secrets with it. Holes it has none, or it could not
    /// be swapped to when it is back.
    pub swap_files: Vec<PathBuf>,
    /// Leave out files and directories with the `nodump` inode flag.
    pub exclude_nodump: bool,
    /// Leave out what is in directories that a CACHEDIR.TAG marks as caches.
    pub exclude_caches: bool,
    pub generation: String,
    pub node: String,
    /// How much is stored in a second. 0: as much as the store takes.
    pub bandwidth_bytes_per_second: u64,
    pub level: i32,
    /// 0: as many as there are cores.
    pub threads: usize,
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
    /// What is in the trees and could not be read: how much, and the names of some.
    pub unread: Option<String>,
    /// The generation that this one builds upon.
    pub parent: Option<String>,
}

/// Restores the entries of a generation that `options` picks.
pub fn extract(
    manifest: &Manifest,
    store: &dyn Store,
    options: &ExtractOptions,
    ui: &Ui,
) -> Result<Extracted> {
    let extracted = extract::extract(manifest, store, options, ui);
    extracted.map_err(|error| explain(error, manifest, store))
}

/// Writes a generation as one plain tar stream.
pub fn export(manifest: &Manifest, store: &dyn Store, out: &mut dyn Write) -> Result<()> {
    let exported = export::export(manifest, store, out);
    exported.map_err(|error| explain(error, manifest, store))
}

/// Says so where what a reader misses was deleted while it read: it holds no lock.
fn explain(error: anyhow::Error, manifest: &Manifest, store: &dyn Store) -> anyhow::Error {
    let is_missing = |e: &(dyn std::error::Error + 'static)| {
        matches!(e.downcast_ref(), Some(StoreError::NotFound { .. }))
    };
    if error.chain().any(is_missing) && is_deleted(manifest, store) {
        return anyhow!(
            "the generation {} was deleted at {} while it was read: {error:#}\nhint: rr list shows what is there; backup.keep_min_age_days keeps what is young",
            manifest.generation,
            store.url()
        );
    }
    error
}

fn is_deleted(manifest: &Manifest, store: &dyn Store) -> bool {
    let name = catalog::object(&manifest.generation, "manifest.json");
    matches!(store.size_bytes(&name), Err(StoreError::NotFound { .. }))
}

/// The record of a file in the generation's directory.
fn generation_file<'a>(manifest: &'a Manifest, file: &str) -> Result<&'a FileRecord> {
    let name = catalog::object(&manifest.generation, file);
    let record = manifest.file.iter().find(|record| record.name == name);
    record.with_context(|| format!("the manifest of {} names no {file}", manifest.generation))
}

/// How many threads work: as many as there are cores, where none are asked for. More than these need
/// memory and find no target that is fast enough.
fn threads(asked: usize) -> usize {
    const MOST: usize = 16;
    match asked {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST),
        asked => asked,
    }
}
