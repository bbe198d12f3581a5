//! The first half of making an archive: the walk, hard links, cuts, and what need not be read.
//! Gives one job for each chunk, in the order of the stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::readlinkat;

use super::chunk::{self, Cutter};
use super::dirs::Dirs;
use super::entry::{Entry, Kind, Time, shown};
use super::index::Chunk;
use super::pax::{self, padding};
use super::previous::{Previous, Same, whole_run};
use super::read::{self, Held, Item, Prepared};
use super::run::{Slice, head_hash, not_archived};
use super::walk::Found;
use super::warnings::Warnings;

/// A file whose ctime is not older than this may change again without its ctime telling.
const SETTLED_SECONDS: i64 = 3;

const SOCKETS: &str = "sockets are not archived, the programs that listen there make them anew";

/// How many files are held open because later hard links refer to them.
const HELD_OPEN: usize = 256;

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

/// Takes what the walk finds and makes jobs of it.
pub struct Feed<'a> {
    dirs: Dirs,
    previous: Option<Previous<'a>>,
    warnings: &'a Warnings,
    cutter: Cutter,
    items: Vec<Item>,
    same: Vec<Option<Same>>,
    /// By device and inode: the first name of a file that has more, and how many are to come.
    links: HashMap<Inode, (Vec<u8>, u32)>,
    held: Arc<()>,
    /// Takes the jobs, each with about how many bytes it will take. False: nobody wants more.
    emit: Box<dyn FnMut(Job, u64) -> bool + 'a>,
}

impl<'a> Feed<'a> {
    pub fn new(
        dirs: Dirs,
        previous: Option<Previous<'a>>,
        warnings: &'a Warnings,
        emit: impl FnMut(Job, u64) -> bool + 'a,
    ) -> Feed<'a> {
        Feed {
            dirs,
            previous,
            warnings,
            cutter: Cutter::default(),
            items: Vec::new(),
            same: Vec::new(),
            links: HashMap::new(),
            held: Arc::new(()),
            emit: Box::new(emit),
        }
    }

    /// Takes the next file of the walk.
    pub fn take(&mut self, found: Found) -> bool {
        let Some(kind) = Kind::of_mode(found.stat.mode) else {
            self.warnings.lose(SOCKETS, shown(&found.path));
            return true;
        };
        let mut entry = Entry::new(found.path, kind, &found.stat);
        if !is_settled(entry.ctime) {
            entry.ctime = Time::default();
        }
        let mut open = None;
        if kind == Kind::Symlink && !self.read_link(&mut entry) {
            return true;
        }
        if kind != Kind::Dir && found.stat.nlink > 1 {
            let key = (found.stat.dev, found.stat.ino);
            if let Some((first, left)) = self.links.get_mut(&key) {
                entry.kind = Kind::HardLink;
                entry.size_bytes = 0;
                entry.rdev = (0, 0);
                entry.link.clone_from(first);
                *left -= 1;
                if *left == 0 {
                    self.links.remove(&key);
                }
            } else {
                if kind == Kind::File && Arc::strong_count(&self.held) <= HELD_OPEN {
                    match read::open(&mut self.dirs, &entry.path) {
                        Ok(file) => open = Some(file),
                        Err(error) => {
                            self.warnings.add(not_archived(&entry, &error));
                            return true;
                        }
                    }
                }
                self.links.insert(key, (entry.path.clone(), found.stat.nlink - 1));
            }
        }
        let open = open.map(|file| Arc::new(Held::new(file, Some(&self.held))));
        let same = self.find_same(&entry);
        let big = chunk::is_big(&entry);
        let ends = self.cutter.ends_with(&entry);
        self.items.push(Item { entry, blocks: found.stat.blocks, open, head: None });
        self.same.push(same);
        if big { self.end_big() } else { !ends || self.end_run() }
    }

    /// Ends the stream.
    pub fn finish(mut self) {
        let last = self.items.is_empty() || self.end_run();
        if last {
            (self.emit)(Job::End, 1024);
        }
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
            Err(error) => {
                self.warnings.add(not_archived(entry, &error));
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
        self.previous.as_ref()?.chunks(same.run, same.slices)
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
    fn end_big(&mut self) -> bool {
        if self.stored_run().is_some() {
            return self.emit_stored();
        }
        let (Some(mut item), same) = (self.items.pop(), self.same.pop().flatten()) else {
            return true;
        };
        let (file, data) = match prepare(&mut item, &mut self.dirs, self.warnings) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.warnings.add(not_archived(&item.entry, &error));
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
        let known = known.and_then(|same| self.previous.as_ref()?.chunks(same.run, same.slices));
        let pad = head.map_or(0, |head| padding(head.data_bytes));
        self.items.push(item);
        if !self.emit_run() {
            return false;
        }
        let last = slices.len().saturating_sub(1);
        for (n, ranges) in slices.into_iter().enumerate() {
            let bytes = ranges.iter().map(|(_, len)| len).sum();
            let stored = known.and_then(|known| known.get(n + 1));
            let job = match stored {
                Some(&chunk) => Job::Stored { chunk, entries: 0, files: 0 },
                None => Job::Slice(Slice {
                    file: Arc::clone(&file),
                    entry: Arc::clone(&entry),
                    ranges,
                    padding: if n == last { pad } else { 0 },
                    last: n == last,
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
fn prepare(item: &mut Item, dirs: &mut Dirs, warnings: &Warnings) -> std::io::Result<Opened> {
    let file = match &item.open {
        Some(file) => Arc::clone(file),
        None => Arc::new(Held::new(read::open(dirs, &item.entry.path)?, None)),
    };
    let extra = read::extra(&file.file, &item.entry, item.blocks, warnings)?;
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

fn is_settled(ctime: Time) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed());
    now.saturating_sub(ctime.sec) >= SETTLED_SECONDS
}
