//! Makes an archive: a bounded pipeline from the walk to the store.
//!
//! ```text
//! walk + feed -> jobs -> workers (read, hash, compress) -> in order again -> packs -> putters
//! ```
//!
//! One thread walks, `threads` work, two put. The order of the stream is restored behind the
//! workers. What is on its way is bounded in bytes, so memory does not grow with the tree or with a
//! file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use super::budget::Budget;
use super::codec::Id;
use super::dirs::Dirs;
use super::entry::shown;
use super::feed::{Feed, Job};
use super::index::{Chunk, Frame, Index, Place};
use super::pace::Pace;
use super::pack::{Full, Holds, PIECE_BYTES, Packer, Putter};
use super::previous::Previous;
use super::run::without_big;
use super::select::{Select, relative};
use super::settled::Settled;
use super::spare::Spare;
use super::view::View;
use super::warnings::Warnings;
use super::worker::{Done, Packed, Part, Ready, new_table, work};
use super::worn::Worn;
use super::{CreateOptions, Created, recipe, walk};
use crate::store::catalog::{self, ArchiveStats, FileRecord};
use crate::store::{Manifest, Store};
use crate::sys::fs;
use crate::sys::mount::visible_mounts;
use crate::ui::Ui;
use crate::ui::progress::{Progress, Unit};

/// What even the smallest job counts as.
const JOB_MIN_BYTES: u64 = 64 << 10;
const PUTTERS: usize = 2;
/// Of up to 4 MiB each: those of a pack, and of frames on their way.
const SPARE: usize = 16;

/// Archives the trees of `options` into `store`. With a `parent`, what it has stored is not stored
/// again, and what did not change since is not read.
pub fn create(
    options: &CreateOptions,
    store: &dyn Store,
    parent: Option<&Manifest>,
    ui: &Ui,
) -> Result<Created> {
    let mut select = Select::new(&options.trees, &options.exclude)?;
    select.leaves_nodump = options.exclude_nodump;
    select.leaves_caches = options.exclude_caches;
    let previous = parent.and_then(|manifest| {
        let index = Index::open(manifest, store);
        let told = |error| ui.warn(format!("{} is not built upon: {error:#}", manifest.generation));
        Some((manifest, index.map_err(told).ok()?))
    });
    let settled = options.settled;
    let settled = settled.unwrap_or_else(|| Settled::wait_for(&options.root, &options.trees, ui));
    let progress = ui.progress("archiving", used_bytes(options), Unit::Bytes);
    let index = previous.as_ref().map(|(_, index)| index);
    let worn = previous.as_ref().map(|(parent, index)| Worn::of(index, spare_bytes(store, parent)));
    let worn = worn.unwrap_or_default();
    let made = pipeline((options, settled), store, &select, index, worn, &progress)?;
    drop(progress);

    let parent = previous.as_ref().map(|(manifest, _)| *manifest);
    let (index, packs) = compact(made.chunks, previous.as_ref(), &made.packs)?;
    let texts = [("index.zst", index.encode()?), ("recipe", recipe::render(&index).into())];
    let record =
        |(file, bytes): &(&str, Vec<u8>)| catalog::record(&options.generation, file, bytes);
    let files: Vec<_> = texts.iter().map(record).collect();
    catalog::put_all(store, files.iter().zip(texts.map(|(_, bytes)| bytes)).collect())?;
    let mut warnings = made.warnings;
    let mut stats = made.stats;
    stats.stored_bytes = made.packs.iter().map(|(_, pack)| pack.size_bytes).sum();
    stats.stream_blake3 = stream_id(&index);
    if stats.entries == 0 {
        warnings.push("nothing is archived".to_owned());
    }
    for warning in &warnings {
        ui.warn(warning);
    }
    let parent = parent.map(|manifest| manifest.generation.clone());
    Ok(Created { files, packs, stats, warnings, unread: made.unread, parent })
}

/// How much may be stored besides what is new: the target must not get full of it, or no run after this
/// one would end well either.
fn spare_bytes(store: &dyn Store, parent: &Manifest) -> u64 {
    match store.free_bytes() {
        Ok(Some(free)) => free.saturating_sub(parent.archive.stored_bytes.saturating_mul(2)) / 4,
        _ => u64::MAX,
    }
}

/// What the filesystems of the trees hold: about how much there is to do. Zero where a tree is only
/// a part of one.
fn used_bytes(options: &CreateOptions) -> u64 {
    let used = |tree: &PathBuf| {
        let dir = options.root.join(tree.strip_prefix("/").unwrap_or(tree));
        fs::is_mount_root(&dir).then(|| fs::used_bytes(&dir).ok()).flatten()
    };
    options.trees.iter().map(used).sum::<Option<u64>>().unwrap_or(0)
}

/// Identifies the stream: the BLAKE3 of the ids of all chunks, in order.
fn stream_id(index: &Index) -> String {
    let mut hasher = blake3::Hasher::new();
    for chunk in &index.chunks {
        hasher.update(&chunk.frame.id);
    }
    hasher.finalize().to_hex().to_string()
}

/// Everything that came out of the pipeline. Packs are numbered: the parent's, then the new ones.
struct Made {
    chunks: Vec<Chunk>,
    packs: Vec<(u32, FileRecord)>,
    stats: ArchiveStats,
    warnings: Vec<String>,
    unread: Option<String>,
}

/// Numbers only the packs that are in use, and says which objects these are.
fn compact(
    mut chunks: Vec<Chunk>,
    previous: Option<&(&Manifest, Index)>,
    new: &[(u32, FileRecord)],
) -> Result<(Index, Vec<FileRecord>)> {
    let mut records: HashMap<u32, FileRecord> = new.iter().cloned().collect();
    if let Some((manifest, index)) = previous {
        let by_name: HashMap<_, _> = manifest.pack.iter().map(|p| (p.name.as_str(), p)).collect();
        for (number, pack) in (0..).zip(&index.packs) {
            let record =
                by_name.get(pack.name.as_str()).context("a pack is not in the manifest")?;
            records.insert(number, (*record).clone());
        }
    }
    let places = |chunk: &mut Chunk, renumber: &mut dyn FnMut(&mut Place) -> Result<()>| {
        renumber(&mut chunk.frame.place)?;
        chunk.table.as_mut().map_or(Ok(()), |table| renumber(&mut table.place))
    };
    let mut used = BTreeMap::new();
    let mut packs = Vec::new();
    let mut index = Index::default();
    for chunk in &mut chunks {
        places(chunk, &mut |place| {
            if let std::collections::btree_map::Entry::Vacant(entry) = used.entry(place.pack) {
                let record = records.get(&place.pack).context("a pack was not stored")?.clone();
                entry.insert(u32::try_from(packs.len())?);
                index.packs.push(super::index::Pack {
                    name: record.name.clone(),
                    size_bytes: record.size_bytes,
                });
                packs.push(record);
            }
            place.pack = used[&place.pack];
            Ok(())
        })?;
    }
    index.chunks = chunks;
    Ok((index, packs))
}

/// What all threads share.
pub(super) struct Shared<'a> {
    pub(super) options: &'a CreateOptions,
    settled: Settled,
    pub(super) warnings: &'a Warnings,
    pub(super) progress: &'a Progress,
    /// Stored frames by the BLAKE3 of their plain bytes. None for a first generation: its packs
    /// hold the whole stream in order, repeated chunks included.
    pub(super) known: Option<RwLock<HashMap<Id, Place>>>,
    worn: Worn,
    budget: Budget,
    pub(super) failed: &'a AtomicBool,
    /// How many the process may have.
    open_files: usize,
    /// Memory for frames and packs.
    pub(super) spare: Spare,
    view: Arc<View>,
}

fn pipeline(
    (options, settled): (&CreateOptions, Settled),
    store: &dyn Store,
    select: &Select,
    index: Option<&Index>,
    worn: Worn,
    progress: &Progress,
) -> Result<Made> {
    let warnings = Warnings::default();
    let failed = AtomicBool::new(false);
    let root = &options.root;
    let stand_ins = options.stand_ins.iter().map(|(tree, root)| (relative(tree), Arc::clone(root)));
    let view = View::of_trees(root, select.trees(), &stand_ins.collect())
        .with_context(|| format!("opening {}", root.display()))?;
    for tree in &options.mount_points {
        let path = relative(tree);
        let is_there =
            path.is_empty() || view.has_mount(&path).map_or_else(|| is_mounted(root, tree), Ok)?;
        if !is_there {
            let why =
                "the filesystem that was mounted there is not any more, so it is not archived";
            warnings.unread(&shown(&path), format!("{}: {why}", shown(&path)));
        }
    }
    let shared = Shared {
        options,
        settled,
        warnings: &warnings,
        progress,
        known: index.map(|index| RwLock::new(known_frames(index, &worn))),
        worn,
        budget: Budget::default(),
        failed: &failed,
        open_files: usize::try_from(fs::raise_open_files_limit())?,
        spare: Spare::new(SPARE, PIECE_BYTES),
        view: Arc::new(view),
    };
    let pace = Pace::new(options.bandwidth_bytes_per_second);
    let putter = Putter::new(store, &options.generation, &failed, &shared.spare, pace);
    let first_pack = u32::try_from(index.map_or(0, |index| index.packs.len()))?;
    let threads = super::threads(options.threads);
    let (job_in, job_out) = mpsc::channel::<Work>();
    let job_out = Mutex::new(job_out);
    let (done_in, done_out) = mpsc::channel::<Done>();
    let (pack_in, pack_out) = mpsc::sync_channel::<Full>(0);
    let pack_out = Mutex::new(pack_out);

    let (walked, sunk) = thread::scope(|scope| {
        let (shared, putter, job_out, pack_out) = (&shared, &putter, &job_out, &pack_out);
        let walker = scope.spawn(move || feed(shared, select, index, store, &job_in));
        for _ in 0..threads {
            let done_in = done_in.clone();
            scope.spawn(move || work(shared, job_out, &done_in));
        }
        drop(done_in);
        for _ in 0..PUTTERS {
            scope.spawn(move || putter.run(pack_out));
        }
        let sunk = Sink::new(shared, first_pack, pack_in).drain(&done_out);
        let walked = walker.join().unwrap_or_else(|_| Err(anyhow!("walking the files panicked")));
        (walked, sunk)
    });
    let outcome = walked.and(sunk);
    if outcome.is_err() || failed.load(Ordering::Relaxed) {
        putter.take_back();
    }
    let packs = putter.finish()?;
    let (chunks, stats) = outcome?;
    let unread = warnings.not_read();
    Ok(Made { chunks, packs, stats, warnings: warnings.into_vec(), unread })
}

fn is_mounted(root: &Path, tree: &Path) -> Result<bool> {
    let dir = root.join(tree.strip_prefix("/").unwrap_or(tree));
    Ok(visible_mounts()?.iter().any(|mount| mount.path == dir))
}

fn known_frames(index: &Index, worn: &Worn) -> HashMap<Id, Place> {
    let frames = index.chunks.iter().flat_map(|chunk| [Some(chunk.frame), chunk.table]);
    let kept = frames.flatten().filter(|frame| !worn.has(frame));
    kept.map(|frame| (frame.id, frame.place)).collect()
}

pub(super) struct Work {
    pub(super) sequence: u64,
    pub(super) cost: u64,
    pub(super) job: Job,
}

/// Walks, and hands out jobs as the budget allows.
fn feed(
    shared: &Shared<'_>,
    select: &Select,
    index: Option<&Index>,
    store: &dyn Store,
    jobs: &Sender<Work>,
) -> Result<()> {
    let options = shared.options;
    let previous = index.map(|index| Previous::new(index, &shared.worn, store));
    let mut sequence = 0;
    let walked = {
        let emit = |job, bytes: u64| {
            let cost = bytes.max(JOB_MIN_BYTES);
            if !shared.budget.take(cost, shared.failed) {
                return false;
            }
            sequence += 1;
            jobs.send(Work { sequence, cost, job }).is_ok()
        };
        let limits = (shared.open_files, shared.failed);
        let (dirs, settled) = (shared.dirs(), shared.settled);
        let swap_files = options.swap_files.iter().map(|path| relative(path)).collect();
        let mut feed = Feed::new(dirs, settled, previous, shared.warnings, limits, emit)
            .with_swap_files(swap_files);
        let threads = super::threads(options.threads);
        walk::walk(|| shared.dirs(), select, shared.warnings, threads, |found| feed.take(found))
            .map(|()| feed.finish())
    };
    if walked.is_err() {
        shared.fail();
    }
    walked
}

impl Shared<'_> {
    pub(super) fn dirs(&self) -> Dirs {
        Dirs::new(Arc::clone(&self.view))
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.budget.wake();
    }
}

/// The end of the pipeline: chunks in order, into packs.
struct Sink<'a> {
    shared: &'a Shared<'a>,
    stream: Packer<'a>,
    tables: Packer<'a>,
    /// The number of the next pack.
    numbers: u32,
    out: SyncSender<Full>,
    chunks: Vec<Chunk>,
    /// The number of the last run's chunk, and its table, where slices follow that were read.
    open: Option<(usize, Vec<u8>)>,
    stats: ArchiveStats,
}

impl<'a> Sink<'a> {
    fn new(shared: &'a Shared<'a>, numbers: u32, out: SyncSender<Full>) -> Sink<'a> {
        Sink {
            shared,
            stream: Packer::new(Holds::Stream, &shared.spare),
            tables: Packer::new(Holds::Tables, &shared.spare),
            numbers,
            out,
            chunks: Vec::new(),
            open: None,
            stats: ArchiveStats::default(),
        }
    }

    fn drain(mut self, done: &Receiver<Done>) -> Result<(Vec<Chunk>, ArchiveStats)> {
        let mut early = BTreeMap::new();
        let mut next = 1;
        for Done { sequence, cost, result } in done {
            early.insert(sequence, (cost, result));
            while let Some((cost, result)) = early.remove(&next) {
                let stored = result.and_then(|ready| self.store(ready));
                self.shared.budget.give(cost);
                if let Err(error) = stored {
                    self.shared.fail();
                    return Err(error);
                }
                next += 1;
            }
            if self.shared.failed.load(Ordering::Relaxed) {
                self.shared.fail();
                if let Some((_, Err(error))) = early.remove(&0) {
                    return Err(error);
                }
                bail!("the archive could not be made");
            }
        }
        self.stream.flush(&self.out)?;
        self.tables.flush(&self.out)?;
        Ok((self.chunks, self.stats))
    }

    fn store(&mut self, ready: Ready) -> Result<()> {
        self.stats.entries += ready.entries;
        self.stats.files += ready.files;
        for Part { chunk, table, open_table } in ready.parts {
            let new = matches!(chunk, Packed::New { .. });
            let frame = self.place(chunk, Holds::Stream)?;
            let table = table.map(|table| self.place(table, Holds::Tables)).transpose()?;
            if table.is_some() {
                self.open = Some((self.chunks.len(), open_table));
            }
            self.chunks.push(Chunk { frame, table });
            self.stats.stream_bytes += u64::from(frame.plain_bytes);
            self.stats.chunks += 1;
            self.stats.new_chunks += u64::from(new);
        }
        if ready.unread { self.forget_big() } else { Ok(()) }
    }

    /// The last big file could not be read: its row, which is stored before its data, must not make
    /// the next backup take over the zeros that stand for it.
    fn forget_big(&mut self) -> Result<()> {
        // Once is enough, however many slices of it are lost.
        let Some((number, table)) = self.open.take() else { return Ok(()) };
        let table = new_table(&without_big(&table)?)?;
        let table = self.place(table, Holds::Tables)?;
        let chunk = self.chunks.get_mut(number).context("a slice comes before its run")?;
        chunk.table = Some(table);
        Ok(())
    }

    fn place(&mut self, packed: Packed, holds: Holds) -> Result<Frame> {
        let (id, plain_bytes, bytes) = match packed {
            Packed::Known(frame) => return Ok(frame),
            Packed::New { id, plain_bytes, frame } => (id, plain_bytes, frame),
        };
        let mut known =
            self.shared.known.as_ref().map(|k| k.write().unwrap_or_else(PoisonError::into_inner));
        if let Some(&place) = known.as_ref().and_then(|known| known.get(&id)) {
            return Ok(Frame { id, plain_bytes, place });
        }
        let packer = match holds {
            Holds::Stream => &mut self.stream,
            Holds::Tables => &mut self.tables,
        };
        let place = packer.add(bytes, &mut self.numbers, &self.out)?;
        if let Some(known) = &mut known {
            known.insert(id, place);
        }
        Ok(Frame { id, plain_bytes, place })
    }
}
