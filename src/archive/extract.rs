//! Puts the files of a generation back, or some of them.
//!
//! Threads take stretches of the stream in its order, read each with one ranged read, check every
//! chunk, and create what is in it. A big file is created by whoever has the run with its head; its
//! slices wait for that. Hard links, the attributes of directories, and flags that lock a file come
//! last, when nothing below or beside them changes any more.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use nix::unistd::Uid;

use super::dirs::check_way;
use super::entry::{Entry, Extra, Kind, shown};
use super::fetch::Unpacker;
use super::ground::{Brought, Ground, LOCKING};
use super::index::Index;
use super::pick::{Pick, is_at_or_below};
use super::place::{Placer, is_fatal};
use super::select::relative;
use super::stash::{Stash, StashWriter};
use super::tar::{self, Head};
use super::warnings::Warnings;
use crate::layout::BytesPath;
use crate::store::{Manifest, Store};
use crate::sys::fs;
use crate::sys::sync::lock;
use crate::ui::Ui;
use crate::ui::progress::{Progress, Unit};

/// How much is read from the store at once, unless a single frame is more.
const READ_BYTES: u64 = 2 << 20;

#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Where the files go: what was `/` on the node.
    pub root: PathBuf,
    /// The root was there before, and stays as it is unless `paths` name it.
    pub keep_root: bool,
    /// Files and directories as the node names them; none: all.
    pub paths: Vec<PathBuf>,
    /// What is below these stays out, the directories themselves do not...
    pub without: Vec<PathBuf>,
    /// ... but what is at and below these, further down, comes.
    pub but: Vec<PathBuf>,
    /// 0: as many as there are cores.
    pub threads: usize,
    /// Waits until the disks have everything, and fails where one did not take it.
    pub sync: bool,
}

#[derive(Debug, Default)]
pub struct Extracted {
    pub entries: u64,
    /// Of the data of the files that were restored, holes included.
    pub bytes: u64,
    pub warnings: Vec<String>,
    /// How many files could not be restored at all, and which. None: all were.
    pub not_restored: Option<String>,
}

/// Extracts a generation below `options.root`, which must be there. Files that exist are replaced;
/// directories that exist get the attributes that they had, but for those that are only on the way to
/// what is extracted: these stay as they are.
///
/// # Errors
/// When something stored is damaged, or the filesystem is full or fails. What can't be kept of a
/// single file is a warning.
pub fn extract(
    manifest: &Manifest,
    store: &dyn Store,
    options: &ExtractOptions,
    ui: &Ui,
) -> Result<Extracted> {
    let index = Index::open(manifest, store)?;
    let pick = Pick::new((&manifest.generation, &index), store, options)?;
    let tops = tops(manifest, options);
    check_way(&options.root, &tops)?;
    let (stretches, total) = stretches(&index, &pick);
    let progress = ui.progress("extracting", total, Unit::Bytes);
    let warnings = Warnings::default();
    if !Uid::effective().is_root() {
        warnings.add("owners, devices and system attributes are not restored: this is not root");
    }
    let keeps_root = options.keep_root && options.paths.is_empty();
    let ground = Ground::new(&options.root, Brought::Below(tops), keeps_root)?;
    let shared = Shared {
        store,
        index: &index,
        options,
        pick: &pick,
        ground: &ground,
        warnings: &warnings,
        progress: &progress,
        stretches,
        behind: behind(&index),
        next: AtomicUsize::new(0),
        bigs: Mutex::default(),
        big_added: Condvar::new(),
        late: Mutex::default(),
        error: Mutex::default(),
        failed: AtomicBool::new(false),
        entries: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    ground.leave(shared.run().and_then(|()| shared.finish()), &warnings)?;
    if options.sync {
        ground.sync(ui)?;
    }
    let entries = shared.entries.load(Ordering::Relaxed);
    let bytes = shared.bytes.load(Ordering::Relaxed);
    drop(shared);
    drop(progress);
    let not_restored = warnings.failed();
    let warnings = warnings.into_vec();
    for warning in &warnings {
        ui.warn(warning);
    }
    Ok(Extracted { entries, bytes, warnings, not_restored })
}

/// What is extracted with all that is below it, as far as directories go: the trees of the generation,
/// or what of them the paths name.
fn tops(manifest: &Manifest, options: &ExtractOptions) -> Vec<Vec<u8>> {
    let trees = manifest.tree.iter().filter_map(|tree| BytesPath::parse(tree));
    let trees: Vec<_> = trees.map(|tree| relative(tree.as_path())).collect();
    let paths: Vec<_> = options.paths.iter().map(|path| relative(path)).collect();
    match (trees.is_empty(), paths.is_empty()) {
        (true, true) => return vec![Vec::new()],
        (true, false) => return paths,
        (false, true) => return trees,
        (false, false) => {}
    }
    let deeper = |(path, tree): (&Vec<u8>, &Vec<u8>)| match () {
        () if is_at_or_below(path, tree) => Some(path.clone()),
        () if is_at_or_below(tree, path) => Some(tree.clone()),
        () => None,
    };
    paths
        .iter()
        .flat_map(|path| trees.iter().map(move |tree| (path, tree)))
        .filter_map(deeper)
        .collect()
}

/// Chunks that lie behind each other in a pack and are read at once.
type Stretch = Vec<usize>;

fn stretches(index: &Index, pick: &Pick) -> (Vec<Stretch>, u64) {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut total = 0;
    let mut end = None;
    let mut len = 0;
    for (number, chunk) in index.chunks.iter().enumerate() {
        if !pick.wants_chunk(number) {
            continue;
        }
        let place = chunk.frame.place;
        total += u64::from(chunk.frame.plain_bytes);
        let follows = end == Some((place.pack, place.offset));
        end = Some((place.pack, place.offset + u64::from(place.len)));
        match stretches.last_mut() {
            Some(last) if follows && len + u64::from(place.len) <= READ_BYTES => {
                last.push(number);
                len += u64::from(place.len);
            }
            _ => {
                stretches.push(vec![number]);
                len = place.len.into();
            }
        }
    }
    (stretches, total)
}

/// For each chunk without a table: the run that it follows, and how many bytes lie between.
fn behind(index: &Index) -> Vec<Option<(usize, u64)>> {
    let mut run = None;
    let places = index.chunks.iter().enumerate().map(|(number, chunk)| {
        if chunk.table.is_some() {
            run = Some((number, 0));
            return None;
        }
        let here = run;
        if let Some((_, between)) = &mut run {
            *between += u64::from(chunk.frame.plain_bytes);
        }
        here
    });
    places.collect()
}

/// A big file that waits for its data.
struct Big {
    file: File,
    entry: Entry,
    extra: Extra,
    /// Where data goes: offset in the stored data, offset in the file, length.
    ranges: Vec<(u64, u64, u64)>,
    left: AtomicU64,
}

struct Shared<'a> {
    store: &'a dyn Store,
    index: &'a Index,
    options: &'a ExtractOptions,
    pick: &'a Pick,
    ground: &'a Ground,
    warnings: &'a Warnings,
    progress: &'a Progress,
    stretches: Vec<Stretch>,
    behind: Vec<Option<(usize, u64)>>,
    next: AtomicUsize,
    /// By the chunk of the run with its head. None: the data behind that run is not wanted.
    bigs: Mutex<HashMap<usize, Option<Arc<Big>>>>,
    big_added: Condvar,
    /// What is done when all files are there, by the chunk of the run that it is in.
    late: Mutex<BTreeMap<usize, Stash>>,
    error: Mutex<Option<anyhow::Error>>,
    failed: AtomicBool,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Shared<'_> {
    fn fail(&self, error: anyhow::Error) {
        lock(&self.error).get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
        let _bigs = lock(&self.bigs);
        self.big_added.notify_all();
    }

    fn run(&self) -> Result<()> {
        fs::raise_open_files_limit();
        std::thread::scope(|scope| {
            for _ in 0..super::threads(self.options.threads) {
                scope.spawn(|| {
                    let work = std::panic::AssertUnwindSafe(|| self.work());
                    // Others wait for what this thread would have done.
                    let worked = std::panic::catch_unwind(work);
                    let panicked = |_| Err(anyhow!("extracting panicked"));
                    if let Err(error) = worked.unwrap_or_else(panicked) {
                        self.fail(error);
                    }
                });
            }
        });
        lock(&self.error).take().map_or(Ok(()), Err)
    }

    fn work(&self) -> Result<()> {
        let mut placer = self.placer()?;
        let (mut unpacker, mut room) = (Unpacker::new()?, Vec::new());
        while !self.failed.load(Ordering::Relaxed) {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(stretch) = self.stretches.get(next) else { return Ok(()) };
            self.extract_stretch(stretch, &mut placer, &mut unpacker, &mut room)?;
        }
        Ok(())
    }

    /// `room` is memory for what is read.
    fn extract_stretch(
        &self,
        stretch: &[usize],
        placer: &mut Placer<'_>,
        unpacker: &mut Unpacker,
        room: &mut Vec<u8>,
    ) -> Result<()> {
        let frames = || stretch.iter().map(|&number| self.index.chunks[number].frame);
        let len: u64 = frames().map(|frame| u64::from(frame.place.len)).sum();
        let Some(first) = frames().next() else { return Ok(()) };
        let pack = self.index.pack_name(&first.place);
        let (offset, len) = (first.place.offset, usize::try_from(len)?);
        *room = self
            .store
            .get_range_into(pack, offset, len, std::mem::take(room))
            .with_context(|| format!("reading {pack} at byte {offset}"))?;
        let mut rest = room.as_slice();
        for (&number, frame) in stretch.iter().zip(frames()) {
            let stored = rest.split_at_checked(frame.place.len as usize);
            let (stored, tail) = stored.with_context(|| format!("{pack} ends too early"))?;
            rest = tail;
            let plain = unpacker.open(stored, &frame, pack)?;
            if self.index.chunks[number].table.is_some() {
                self.extract_run(number, plain, placer).with_context(|| {
                    format!("extracting what {pack} has at byte {}", frame.place.offset)
                })?;
            } else {
                self.extract_slice(number, plain, placer)?;
            }
            self.progress.add(plain.len() as u64);
        }
        Ok(())
    }

    fn extract_run(&self, number: usize, chunk: &[u8], placer: &mut Placer<'_>) -> Result<()> {
        let mut at = 0;
        let mut big = None;
        let mut bytes = 0;
        let mut late = StashWriter::default();
        while let Some(head) = tar::read_head(chunk, at)? {
            let next = head.next(chunk);
            let data = match next {
                Some(_) => &chunk[head.data_at..][..usize::try_from(head.data_bytes)?],
                None => &[],
            };
            let path = head.entry.path.clone();
            self.progress.at(|| shown(&path));
            for entry in self.pick.targets(head.entry) {
                let head = Head { entry, extra: head.extra.clone(), ..head };
                let placed = self.place(&head, next.map(|_| data), placer, &mut late);
                match placed {
                    Ok(started) => {
                        big = big.or(started);
                        // Of another name of the file they are counted.
                        if head.entry.kind == Kind::File {
                            bytes += head.entry.size_bytes;
                        }
                    }
                    Err(error) if is_fatal(&error) => {
                        return Err(anyhow!("extracting {}: {error}", shown(&path)));
                    }
                    Err(error) => {
                        self.not_restored(&path, head.entry.kind, &error);
                    }
                }
            }
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(late) = late.finish() {
            lock(&self.late).insert(number, late);
        }
        if self.index.chunks.get(number + 1).is_some_and(|next| next.table.is_none()) {
            lock(&self.bigs).insert(number, big);
            self.big_added.notify_all();
        }
        Ok(())
    }

    /// Creates one entry. Data that is not in the run makes it a big file, which is returned.
    fn place(
        &self,
        head: &Head,
        data: Option<&[u8]>,
        placer: &mut Placer<'_>,
        late: &mut StashWriter,
    ) -> io::Result<Option<Arc<Big>>> {
        let Head { entry, extra, .. } = head;
        self.entries.fetch_add(1, Ordering::Relaxed);
        let mut big = None;
        match (entry.kind, data) {
            (Kind::File, Some(data)) => placer.place_file(entry, extra, data)?,
            (Kind::File, None) => big = Some(start_big(head, placer)?),
            (Kind::Dir, _) => {
                if !entry.path.is_empty() {
                    placer.make_dir(&entry.path)?;
                }
                late.add_dir(entry, extra);
                return Ok(None);
            }
            (Kind::HardLink, _) => late.add_link(&entry.link, &entry.path),
            _ => placer.place_special(entry, extra)?,
        }
        if extra.flags & LOCKING != 0 {
            late.add_lock(&entry.path, extra.flags & LOCKING);
        }
        Ok(big)
    }

    fn extract_slice(&self, number: usize, data: &[u8], placer: &Placer<'_>) -> Result<()> {
        let Some((run, start)) = self.behind[number] else { return Ok(()) };
        let Some(big) = self.wait_for(run) else { return Ok(()) };
        self.progress.at(|| big.entry.shown());
        let doing = || format!("writing {}", big.entry.shown());
        let written = write_slice(&big, start, data).with_context(doing)?;
        if written > 0 && big.left.fetch_sub(written, Ordering::AcqRel) == written {
            placer.finish_file(&big.file, &big.entry, &big.extra).with_context(doing)?;
            // Nobody needs it any more, and only so many files can be open.
            lock(&self.bigs).insert(run, None);
        }
        Ok(())
    }

    /// The big file whose head is in `run`, when whoever extracts that run has created it.
    fn wait_for(&self, run: usize) -> Option<Arc<Big>> {
        let mut bigs = lock(&self.bigs);
        loop {
            if let Some(big) = bigs.get(&run) {
                return big.clone();
            }
            if self.failed.load(Ordering::Relaxed) {
                return None;
            }
            bigs = self.big_added.wait(bigs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Links, locks, and directories: the deepest first, as who is not root can't reach what is in one
    /// that is finished. Root can, so there it is done by all threads.
    fn finish(&self) -> Result<()> {
        let late = std::mem::take(&mut *lock(&self.late));
        let mut placer = self.placer()?;
        for stash in late.values() {
            stash.for_each_link(|first, path| match placer.place_link(first, path) {
                Err(error) if !is_fatal(&error) => {
                    self.not_restored(path, Kind::HardLink, &error);
                    Ok(())
                }
                placed => self.told(path, placed),
            })?;
        }
        for stash in late.values() {
            stash.for_each_lock(|path, flags| self.told(path, placer.lock(path, flags)))?;
        }
        let is_root = Uid::effective().is_root();
        let threads = if is_root { super::threads(self.options.threads) } else { 1 };
        // The order of the stream backwards.
        let last_first = Mutex::new(late.into_values().rev());
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..threads).map(|_| scope.spawn(|| self.finish_dirs(&last_first))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("finishing directories panicked")))
            })
        })
    }

    fn finish_dirs(&self, stashes: &Mutex<impl Iterator<Item = Stash>>) -> Result<()> {
        let mut placer = self.placer()?;
        loop {
            let Some(stash) = lock(stashes).next() else { return Ok(()) };
            for (entry, extra) in stash.dirs()?.iter().rev() {
                self.told(&entry.path, placer.finish_dir(entry, extra))?;
            }
        }
    }

    fn placer(&self) -> Result<Placer<'_>> {
        let root = &self.options.root;
        Placer::new(root, self.ground, self.warnings)
            .with_context(|| format!("opening {}", root.display()))
    }

    /// Who is not root can make no devices, and was told so.
    fn not_restored(&self, path: &[u8], kind: Kind, error: &io::Error) {
        if kind.is_device() && !Uid::effective().is_root() {
            self.warnings.add(format!("{} is not restored: {error}", shown(path)));
        } else {
            self.warnings.fail(&shown(path), error);
        }
    }

    fn told(&self, path: &[u8], result: io::Result<()>) -> Result<()> {
        match result {
            Err(error) if is_fatal(&error) => Err(anyhow!("finishing {}: {error}", shown(path))),
            Err(error) => {
                self.warnings.add(format!("{} is not restored in full: {error}", shown(path)));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn start_big(head: &Head, placer: &mut Placer<'_>) -> io::Result<Arc<Big>> {
    let file = placer.create_sized(&head.entry, &head.extra)?;
    let mut stored = 0;
    let ranges = head.extra.data_ranges(head.entry.size_bytes).map(|(offset, len)| {
        let start = stored;
        stored += len;
        (start, offset, len)
    });
    let ranges = ranges.collect();
    let (entry, extra) = (head.entry.clone(), head.extra.clone());
    let left = AtomicU64::new(head.data_bytes);
    Ok(Arc::new(Big { file, entry, extra, ranges, left }))
}

/// Writes what of the stored data from `start` on is in `data`; padding is left out.
fn write_slice(big: &Big, start: u64, data: &[u8]) -> io::Result<u64> {
    let mut written = 0;
    let first = big.ranges.partition_point(|(stored, _, len)| stored + len <= start);
    for &(stored, offset, len) in &big.ranges[first..] {
        let skip = start.max(stored);
        let Some(at) = usize::try_from(skip - start).ok().filter(|at| *at < data.len()) else {
            break;
        };
        let here = (data.len() - at) as u64;
        let len = here.min(stored + len - skip);
        let part = usize::try_from(len).map_err(io::Error::other)?;
        big.file.write_all_at(&data[at..at + part], offset + (skip - stored))?;
        written += len;
    }
    Ok(written)
}
