//! The first half of making an archive: the walk, hard links, cuts, and what need not be read.
//! Gives one job for each chunk, in the order of the stream.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::fcntl::readlinkat;

use super::chunk::{self, Cutter};
use super::dirs::Dirs;
use super::entry::{Entry, Kind, shown};
use super::index::Chunk;
use super::pax::{self, padding};
use super::previous::{Previous, Same, whole_run};
use super::project::Projects;
use super::read::{self, Held, Item, Prepared};
use super::run::{Slice, head_hash, warn_not_archived};
use super::settled::Settled;
use super::walk::Found;
use super::warnings::Warnings;
use crate::sys::fs::Stat;

const SOCKETS: &str = "sockets are not archived, the programs that listen there make them anew";

/// How many files are held open because later hard links refer to them. A run has no more than
/// some 2700 files, so that runs are not cut for this, unless few files may be open.
const HELD_OPEN: usize = 8192;

/// How one chunk comes into being.
#[derive(Debug)]
pub enum Job {
    Run(Vec<Item>),
    Slice(Slice),
    /// As the parent has it.
    Stored {
        chunk: Chunk,
        entries: u64,
        files: u64,
    },
    /// The zeros that end a tar stream.
    End,
}

/// Device and inode number.
type Inode = ((u32, u32), u64);

/// The first name of a file that has more.
struct First {
    path: Vec<u8>,
    stat: Stat,
    /// How many names are to come.
    left: u32,
}

impl First {
    /// Whether `stat` is of the same file. The first may be gone, and its inode another's.
    fn is_same(&self, stat: &Stat) -> bool {
        match (self.stat.btime, stat.btime) {
            (Some(first), Some(this)) => first == this,
            _ => (self.stat.mtime, self.stat.size_bytes) == (stat.mtime, stat.size_bytes),
        }
    }
}

/// Takes what the walk finds and makes jobs of it.
pub struct Feed<'a> {
    dirs: Dirs,
    settled: Settled,
    previous: Option<Previous<'a>>,
    warnings: &'a Warnings,
    cutter: Cutter,
    items: Vec<Item>,
    same: Vec<Option<Same>>,
    links: HashMap<Inode, First>,
    /// Paths in the archive.
    swap_files: BTreeSet<Vec<u8>>,
    held: Arc<()>,
    held_max: usize,
    failed: &'a AtomicBool,
    /// Takes the jobs, each with about how many bytes it will take. False: nobody wants more.
    emit: Box<dyn FnMut(Job, u64) -> bool + 'a>,
}

impl<'a> Feed<'a> {
    pub fn new(
        dirs: Dirs,
        settled: Settled,
        previous: Option<Previous<'a>>,
        warnings: &'a Warnings,
        (open_max, failed): (usize, &'a AtomicBool),
        emit: impl FnMut(Job, u64) -> bool + 'a,
    ) -> Feed<'a> {
        Feed {
            dirs,
            settled,
            previous,
            warnings,
            cutter: Cutter::default(),
            items: Vec::new(),
            same: Vec::new(),
            links: HashMap::new(),
            swap_files: BTreeSet::new(),
            held: Arc::new(()),
            held_max: HELD_OPEN.min(open_max / 4),
            failed,
            emit: Box::new(emit),
        }
    }

    /// Of files with these names only the header of a swap file is read.
    pub fn with_swap_files(mut self, paths: BTreeSet<Vec<u8>>) -> Feed<'a> {
        self.swap_files = paths;
        self
    }

    /// Takes the next file of the walk.
    pub fn take(&mut self, found: Found) -> bool {
        let Some(kind) = Kind::of_mode(found.stat.mode) else {
            self.warnings.lose(SOCKETS, shown(&found.path));
            return true;
        };
        if kind == Kind::File && found.stat.nlink > 1 && !self.wait_for_handles() {
            return false;
        }
        let mut entry = Entry::new(found.path, kind, &found.stat);
        if !self.settled.is(entry.ctime) {
            entry.forget();
        }
        let (mut open, mut has_links) = (None, false);
        if kind == Kind::Symlink && !self.read_link(&mut entry) {
            return true;
        }
        if kind != Kind::Dir && found.stat.nlink > 1 {
            let key = (found.stat.dev, found.stat.ino);
            if let Some(first) = self.links.get_mut(&key).filter(|f| f.is_same(&found.stat)) {
                entry.kind = Kind::HardLink;
                entry.size_bytes = 0;
                entry.rdev = (0, 0);
                entry.link.clone_from(&first.path);
                first.left -= 1;
                if first.left == 0 {
                    self.links.remove(&key);
                }
            } else {
                // Or else, if this name vanishes before it is read, the others name nothing.
                if kind == Kind::File {
                    match read::open(&mut self.dirs, &entry.path) {
                        Ok(file) => open = Some(file),
                        Err(error) => {
                            warn_not_archived(self.warnings, &entry, &error);
                            return true;
                        }
                    }
                }
                has_links = true;
                let (path, left) = (entry.path.clone(), found.stat.nlink - 1);
                self.links.insert(key, First { path, stat: found.stat, left });
            }
        }
        let open = open.map(|file| Arc::new(Held::new(file, Some(&self.held))));
        let big = chunk::is_big(&entry);
        let is_swap = big && self.swap_files.contains(&entry.path);
        // An earlier backup may have more of it.
        let same = if is_swap { None } else { self.find_same(&entry) };
        let ends = self.cutter.ends_with(&entry);
        self.items.push(Item { entry, blocks: found.stat.blocks, open, has_links, head: None });
        self.same.push(same);
        if big { self.end_big(is_swap) } else { !ends || self.end_run() }
    }

    /// Ends the stream.
    pub fn finish(mut self) {
        let last = self.items.is_empty() || self.end_run();
        if last {
            (self.emit)(Job::End, 1024);
        }
    }

    /// Waits until one more file may be held open. False when all has failed.
    fn wait_for_handles(&mut self) -> bool {
        if Arc::strong_count(&self.held) <= self.held_max {
            return true;
        }
        // What waits here for its run to be whole would wait forever.
        let holds = self.items.iter().filter(|item| item.open.is_some()).count();
        if holds >= self.held_max && !self.end_run() {
            return false;
        }
        while Arc::strong_count(&self.held) > self.held_max {
            if self.failed.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// A parent whose tables can't be read makes a backup slower, and no worse.
    fn find_same(&mut self, entry: &Entry) -> Option<Same> {
        match self.previous.as_mut()?.same(entry) {
            Ok(same) => same,
            Err(error) => {
                self.warnings.add(format!("all files are read from here on: {error:#}"));
                self.previous = None;
                None
            }
        }
    }

    fn read_link(&mut self, entry: &mut Entry) -> bool {
        let target = self.dirs.at(&entry.path).and_then(|(dir, name)| Ok(readlinkat(dir, name)?));
        match target {
            Ok(target) => {
                entry.link = std::os::unix::ffi::OsStringExt::into_vec(target);
                true
            }
            // It is no link any more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.warnings.add(format!("{} became another file", shown(&entry.path)));
                false
            }
            Err(error) => {
                warn_not_archived(self.warnings, entry, &error);
                false
            }
        }
    }

    /// Ends a run of small entries. False when nobody wants more.
    fn end_run(&mut self) -> bool {
        if self.stored_run().is_some() {
            return self.emit_stored();
        }
        self.emit_run()
    }

    fn emit_run(&mut self) -> bool {
        self.same.clear();
        self.cutter = Cutter::default();
        let items = std::mem::take(&mut self.items);
        if items.is_empty() {
            return true;
        }
        let bytes = items.iter().map(|item| 2048 + small_bytes(&item.entry)).sum();
        (self.emit)(Job::Run(items), bytes)
    }

    fn stored_run(&self) -> Option<&'a [Chunk]> {
        let same = whole_run(&self.same)?;
        let previous = self.previous.as_ref()?;
        let chunks = previous.chunks(same.run, same.slices)?;
        chunks.iter().all(|chunk| !previous.worn.has_of(chunk)).then_some(chunks)
    }

    /// The run, and the slices behind it, are as the parent has them.
    fn emit_stored(&mut self) -> bool {
        let chunks = self.stored_run().unwrap_or_default();
        let files = self.items.iter().filter(|item| item.entry.kind == Kind::File).count() as u64;
        let entries = self.items.len() as u64;
        self.items.clear();
        self.same.clear();
        let mut counts = (entries, files);
        for &chunk in chunks {
            let (entries, files) = std::mem::take(&mut counts);
            if !(self.emit)(Job::Stored { chunk, entries, files }, 0) {
                return false;
            }
        }
        true
    }

    /// Ends a run whose last entry is a big file.
    fn end_big(&mut self, is_swap: bool) -> bool {
        if self.stored_run().is_some() {
            return self.emit_stored();
        }
        let (Some(mut item), same) = (self.items.pop(), self.same.pop().flatten()) else {
            return true;
        };
        let (file, data) = match prepare(&mut item, &mut self.dirs, is_swap, self.warnings) {
            Ok(prepared) => prepared,
            Err(error) => {
                warn_not_archived(self.warnings, &item.entry, &error);
                // The next of its names is the first one then.
                self.links.retain(|_, first| first.path != item.entry.path);
                return self.emit_run();
            }
        };
        let entry = Arc::new(item.entry.clone());
        let slices = chunk::slices(&data);
        let head = item.head.as_ref();
        let known = same.filter(|same| {
            same.slices as usize == slices.len()
                && head.is_some_and(|head| head_hash(&head.bytes) == same.head_hash)
        });
        let known = known.and_then(|same| {
            let previous = self.previous.as_ref()?;
            Some((previous.chunks(same.run, same.slices)?, previous.worn))
        });
        let stored = |n: usize| {
            let (chunks, worn) = known?;
            chunks.get(n + 1).filter(|chunk| !worn.has_of(chunk))
        };
        let pad = head.map_or(0, |head| padding(head.data_bytes));
        self.items.push(item);
        if !self.emit_run() {
            return false;
        }
        let last = slices.len().saturating_sub(1);
        let read = (0..slices.len()).filter(|&n| stored(n).is_none()).count();
        let left = Arc::new(AtomicUsize::new(read));
        for (n, ranges) in slices.into_iter().enumerate() {
            let bytes = ranges.iter().map(|(_, len)| len).sum();
            let job = match stored(n) {
                Some(&chunk) => Job::Stored { chunk, entries: 0, files: 0 },
                None => Job::Slice(Slice {
                    file: Arc::clone(&file),
                    entry: Arc::clone(&entry),
                    ranges,
                    padding: if n == last { pad } else { 0 },
                    left: Arc::clone(&left),
                }),
            };
            if !(self.emit)(job, bytes) {
                return false;
            }
        }
        true
    }
}

type Opened = (Arc<Held>, Vec<(u64, u64)>);

/// Opens a big file, makes its head, and tells where its data is.
fn prepare(
    item: &mut Item,
    dirs: &mut Dirs,
    is_swap: bool,
    warnings: &Warnings,
) -> std::io::Result<Opened> {
    let file = match &item.open {
        _ if is_swap => Arc::new(Held::swap_header(read::open(dirs, &item.entry.path)?)),
        Some(file) => Arc::clone(file),
        None => Arc::new(Held::new(read::open(dirs, &item.entry.path)?, None)),
    };
    let mut extra = read::extra(&file.file, &mut item.entry, item.blocks, warnings)?;
    let has_links = item.has_links;
    Projects::default().add(&file.file, &mut item.entry, &mut extra, (dirs, has_links), warnings);
    if is_swap {
        log::info!("{}: only the header of this swap file is archived", item.entry.shown());
        extra.sparse = None;
    }
    let mut bytes = Vec::new();
    pax::append_head(&mut bytes, &item.entry, &extra);
    let data_bytes = pax::data_bytes(&item.entry, &extra);
    let data = extra.sparse.unwrap_or_else(|| vec![(0, item.entry.size_bytes)]);
    let slices = u32::try_from(chunk::slices(&data).len())
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::FileTooLarge))?;
    item.head = Some(Prepared { bytes, data_bytes, slices });
    Ok((file, data))
}

fn small_bytes(entry: &Entry) -> u64 {
    if chunk::is_big(entry) { 0 } else { entry.size_bytes }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::entry::Time;
    use super::super::index::{Frame, Index, Pack, Place};
    use super::super::worn::Worn;
    use super::super::{run, table};
    use super::*;
    use crate::sys::fs;

    fn settled(root: &std::path::Path) -> Settled {
        Settled::wait_for(root, &[], &crate::ui::Ui::new(crate::ui::Style::Plain))
    }

    fn found(dirs: &mut Dirs, path: &str) -> Found {
        let (dir, name) = dirs.at(path.as_bytes()).unwrap();
        let stat = fs::stat_at(dir, &fs::c_name(name).unwrap()).unwrap();
        Found { path: path.into(), stat }
    }

    #[test]
    fn other_names_of_what_vanishes_name_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("target", path("a")).unwrap();
        std::os::unix::fs::symlink("target", path("alone")).unwrap();
        std::fs::hard_link(path("a"), path("b")).unwrap();
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        let seen = ["a", "alone", "b"].map(|name| found(&mut dirs, name));
        let (warnings, failed) = Default::default();
        let read: RefCell<Vec<Entry>> = RefCell::default();
        let emit = |job, _| {
            let Job::Run(items) = job else { return true };
            std::fs::remove_file(path("a")).unwrap();
            std::fs::remove_file(path("alone")).unwrap();
            let mut dirs = Dirs::plain(dir.path()).unwrap();
            let built = run::build(&mut items.into_iter(), &mut dirs, &warnings, Vec::new());
            let rows = table::read(&built.table).unwrap();
            read.borrow_mut().extend(rows.into_iter().map(|row| row.entry));
            true
        };
        let mut feed = Feed::new(dirs, settled(dir.path()), None, &warnings, (32, &failed), emit);
        for found in seen {
            assert!(feed.take(found));
        }
        feed.finish();
        let read = read.into_inner();
        let told = read.iter().map(|entry| (entry.path.as_slice(), entry.kind, &entry.link[..]));
        let expected: [(&[u8], Kind, &[u8]); 2] =
            [(b"a", Kind::Symlink, b"target"), (b"b", Kind::HardLink, b"a")];
        assert!(told.eq(expected), "{read:?}");
        let said = warnings.into_vec();
        assert!(said[0].starts_with("/a is archived without its attributes: "), "{said:?}");
        assert_eq!(said[1], "/alone vanished before it was read");
    }

    /// What becomes of a big file that did not change for long.
    fn jobs(dir: &std::path::Path, previous: Option<Previous<'_>>) -> Vec<Job> {
        let (warnings, failed) = Default::default();
        let jobs = RefCell::new(Vec::new());
        let mut dirs = Dirs::plain(dir).unwrap();
        let mut big = found(&mut dirs, "big");
        big.stat.ctime = (1_000_000_000, 0);
        let emit = |job, _| {
            jobs.borrow_mut().push(job);
            true
        };
        let mut feed = Feed::new(dirs, settled(dir), previous, &warnings, (32, &failed), emit);
        assert!(feed.take(big));
        feed.finish();
        jobs.into_inner()
    }

    /// That a file changes while it is read is seen by the slice that is read last.
    #[test]
    fn of_a_big_file_only_the_slices_in_worn_packs_are_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("big"), vec![7; 9 << 20]).unwrap();
        let Some(Job::Run(mut items)) = jobs(dir.path(), None).into_iter().next() else {
            panic!("no run")
        };
        // It is not what the walk saw, so it is to be read again the next time.
        items[0].entry.ctime = Time { sec: 1_000_000_000, nsec: 0 };
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        let table =
            run::build(&mut items.into_iter(), &mut dirs, &Warnings::default(), Vec::new()).table;
        let stored = super::super::press::compress_table(&table).unwrap();
        let (_dir, store) = crate::store::test_store();
        store.put("packs/tables", &stored).unwrap();

        let frame = |plain: &[u8], pack, len: usize| Frame {
            id: *blake3::hash(plain).as_bytes(),
            plain_bytes: u32::try_from(plain.len()).unwrap(),
            place: Place { pack, offset: 0, len: u32::try_from(len).unwrap() },
        };
        let chunk = |pack, table| Chunk { frame: frame(b"slice", pack, 50), table };
        let pack = |name: &str, size_bytes| Pack { name: name.to_owned(), size_bytes };
        let tables = pack("packs/tables", stored.len() as u64);
        let index = |worn_bytes| Index {
            packs: vec![pack("packs/a", 50), tables.clone(), pack("packs/b", worn_bytes)],
            chunks: vec![
                chunk(0, Some(frame(&table, 1, stored.len()))),
                chunk(0, None),
                chunk(2, None),
                chunk(0, None),
            ],
        };
        let kinds = |index: &Index| {
            let worn = Worn::of(index, u64::MAX);
            let kind = |job: &Job| match job {
                Job::Run(items) => format!("run of {}", items.len()),
                Job::Slice(slice) => {
                    format!(
                        "1 of {} from {}",
                        slice.left.load(Ordering::Relaxed),
                        slice.ranges[0].0
                    )
                }
                Job::Stored { .. } => "stored".to_owned(),
                Job::End => "end".to_owned(),
            };
            let previous = Previous::new(index, &worn, &*store);
            jobs(dir.path(), Some(previous)).iter().map(kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&index(50)), ["stored", "stored", "stored", "stored", "end"]);
        let expected = ["run of 1", "stored", "1 of 1 from 4194304", "stored", "end"];
        assert_eq!(kinds(&index(1000)), expected);
    }

    #[test]
    fn files_with_more_names_are_held_however_many_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
        for name in &names {
            std::fs::write(dir.path().join(name), name).unwrap();
            std::fs::hard_link(dir.path().join(name), dir.path().join(format!("x{name}"))).unwrap();
        }
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        let (warnings, failed, read) = Default::default();
        let seen: &RefCell<Vec<(Vec<u8>, bool)>> = &read;
        let emit = |job, _| {
            // Read at once: nothing stays open.
            let Job::Run(items) = job else { return true };
            let first = |item: Item| (item.entry.path, item.open.is_some());
            seen.borrow_mut().extend(items.into_iter().map(first));
            true
        };
        let feed_dirs = Dirs::plain(dir.path()).unwrap();
        let settled = settled(dir.path());
        let mut feed = Feed::new(feed_dirs, settled, None, &warnings, (32, &failed), emit);
        for name in &names {
            let found = found(&mut dirs, name);
            assert!(feed.take(found));
        }
        // Another file may have got the inode of one that is gone meanwhile.
        let mut other = found(&mut dirs, "x00");
        other.stat.btime = other.stat.btime.map(|(sec, nsec)| (sec + 1, nsec));
        other.stat.mtime.0 += 1;
        assert!(feed.take(other));
        feed.finish();
        let read = read.into_inner();
        assert_eq!(read.len(), 51);
        assert!(read.iter().all(|(_, held)| *held), "{read:?}");
    }
}
