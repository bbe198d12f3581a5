//! The middle of the pipeline: reads what a job names, and hashes and compresses it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use super::codec::Id;
use super::create::{Shared, Work};
use super::dirs::Dirs;
use super::feed::Job;
use super::fetch::check_plain_bytes;
use super::index::Frame;
use super::pack::PIECE_BYTES;
use super::pax;
use super::press::{Press, compress_table};
use super::read::Item;
use super::run::{self, Slice};
use crate::sys::sync::lock;

/// A chunk that is ready.
pub(super) struct Done {
    pub(super) sequence: u64,
    pub(super) cost: u64,
    pub(super) result: Result<Ready>,
}

pub(super) struct Ready {
    /// More than one where the heads of a run's files are very big.
    pub(super) parts: Vec<Part>,
    pub(super) entries: u64,
    pub(super) files: u64,
    /// Data of the big file before it could not be read.
    pub(super) unread: bool,
}

pub(super) struct Part {
    pub(super) chunk: Packed,
    pub(super) table: Option<Packed>,
    /// The plain table, where slices of a big file follow.
    pub(super) open_table: Vec<u8>,
}

impl Part {
    fn without_table(chunk: Packed) -> Part {
        Part { chunk, table: None, open_table: Vec::new() }
    }
}

impl From<Part> for Ready {
    fn from(part: Part) -> Ready {
        Ready { parts: vec![part], entries: 0, files: 0, unread: false }
    }
}

/// A frame to be stored, or one that is.
pub(super) enum Packed {
    New { id: Id, plain_bytes: u32, frame: Vec<u8> },
    Known(Frame),
}

/// A thread that panics must not leave the others waiting for it.
struct FailOnPanic<'a>(&'a Shared<'a>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail();
        }
    }
}

pub(super) fn work(shared: &Shared<'_>, jobs: &Mutex<Receiver<Work>>, done: &Sender<Done>) {
    let _guard = FailOnPanic(shared);
    let mut worker = match Worker::new(shared) {
        Ok(worker) => worker,
        Err(error) => {
            shared.fail();
            let _ = done.send(Done { sequence: 0, cost: 0, result: Err(error) });
            return;
        }
    };
    loop {
        let next = lock(jobs).recv();
        let Ok(Work { sequence, cost, job }) = next else { return };
        if shared.failed.load(Ordering::Relaxed) {
            continue;
        }
        let result = worker.run(job);
        if done.send(Done { sequence, cost, result }).is_err() {
            return;
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    dirs: Dirs,
    press: Press,
    plain: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>) -> Result<Worker<'a>> {
        Ok(Worker {
            shared,
            dirs: shared.dirs(),
            press: Press::new(shared.options.level)?,
            plain: Vec::new(),
        })
    }

    fn run(&mut self, job: Job) -> Result<Ready> {
        match job {
            Job::Run(items) => self.read_run(items),
            Job::Slice(slice) => self.read_slice(&slice),
            Job::End => Ok(Part::without_table(self.pack(&pax::END)?).into()),
            Job::Stored { chunk, entries, files } => {
                self.shared.progress.add(chunk.frame.plain_bytes.into());
                let table = chunk.table.map(Packed::Known);
                let chunk = Packed::Known(chunk.frame);
                let part = Part { table, ..Part::without_table(chunk) };
                Ok(Ready { entries, files, ..part.into() })
            }
        }
    }

    fn read_run(&mut self, items: Vec<Item>) -> Result<Ready> {
        if let Some(item) = items.last() {
            self.shared.progress.at(|| item.entry.shown());
        }
        let ends_big = items.last().is_some_and(|item| item.head.is_some());
        let mut ready = Ready { parts: Vec::new(), entries: 0, files: 0, unread: false };
        let mut items = items.into_iter();
        while ready.parts.is_empty() || items.len() > 0 {
            let plain = std::mem::take(&mut self.plain);
            let built = run::build(&mut items, &mut self.dirs, self.shared.warnings, plain);
            ready.entries += built.entries;
            ready.files += built.files;
            let chunk = self.pack(&built.plain)?;
            self.plain = built.plain;
            let table = Some(self.pack_table(&built.table)?);
            let open_table = if ends_big { built.table } else { Vec::new() };
            ready.parts.push(Part { chunk, table, open_table });
        }
        Ok(ready)
    }

    fn read_slice(&mut self, slice: &Slice) -> Result<Ready> {
        self.shared.progress.at(|| slice.entry.shown());
        let mut plain = std::mem::take(&mut self.plain);
        let whole = run::build_slice(slice, self.shared.warnings, &mut plain)
            .with_context(|| format!("reading {}", slice.entry.shown()))?;
        let chunk = self.pack(&plain)?;
        self.plain = plain;
        Ok(Ready { unread: !whole, ..Part::without_table(chunk).into() })
    }

    fn pack(&mut self, plain: &[u8]) -> Result<Packed> {
        self.shared.progress.add(plain.len() as u64);
        let (id, plain_bytes) = match self.find(plain)? {
            Packed::New { id, plain_bytes, .. } => (id, plain_bytes),
            known => return Ok(known),
        };
        // A small one has no use for so much room, of which there may be a thousand on the way.
        let is_small = plain.len() < PIECE_BYTES / 4;
        let mut frame = if is_small { Vec::new() } else { self.shared.spare.take() };
        self.press.press(plain, &mut frame)?;
        Ok(Packed::New { id, plain_bytes, frame })
    }

    fn pack_table(&mut self, table: &[u8]) -> Result<Packed> {
        Ok(match self.find(table)? {
            Packed::New { id, plain_bytes, .. } => {
                Packed::New { id, plain_bytes, frame: self.press.press_table(table)? }
            }
            known => known,
        })
    }

    /// The stored frame of `plain`, or a new one that is still empty.
    fn find(&self, plain: &[u8]) -> Result<Packed> {
        let (id, plain_bytes) = named(plain)?;
        let known = self.shared.known.as_ref().and_then(|known| {
            known.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
        });
        Ok(match known {
            Some(place) => Packed::Known(Frame { id, plain_bytes, place }),
            None => Packed::New { id, plain_bytes, frame: Vec::new() },
        })
    }
}

/// A table's frame, to be stored.
pub(super) fn new_table(table: &[u8]) -> Result<Packed> {
    let (id, plain_bytes) = named(table)?;
    Ok(Packed::New { id, plain_bytes, frame: compress_table(table)? })
}

/// What nobody would read must not be written.
fn named(plain: &[u8]) -> Result<(Id, u32)> {
    let plain_bytes = u32::try_from(plain.len()).context("a chunk is too big")?;
    check_plain_bytes(plain_bytes)?;
    Ok((*blake3::hash(plain).as_bytes(), plain_bytes))
}
