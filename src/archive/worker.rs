//! The middle of the pipeline: reads what a job names, and hashes and compresses it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use super::codec::Id;
use super::create::{Shared, Work, lock};
use super::dirs::Dirs;
use super::feed::Job;
use super::fetch::compressor;
use super::index::Frame;
use super::pax;
use super::run::{self, Built};

/// Tables are small and read often.
const TABLE_LEVEL: i32 = 3;

/// A chunk that is ready.
pub(super) struct Done {
    pub(super) sequence: u64,
    pub(super) cost: u64,
    pub(super) result: Result<Ready>,
}

pub(super) struct Ready {
    pub(super) chunk: Packed,
    pub(super) table: Option<Packed>,
    pub(super) entries: u64,
    pub(super) files: u64,
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
    zstd: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>) -> Result<Worker<'a>> {
        Ok(Worker {
            shared,
            dirs: shared.dirs(),
            zstd: compressor(shared.options.level)?,
            plain: Vec::new(),
        })
    }

    fn run(&mut self, job: Job) -> Result<Ready> {
        let warnings = self.shared.warnings;
        let mut plain = std::mem::take(&mut self.plain);
        let mut built = Built::default();
        match job {
            Job::Run(items) => {
                if let Some(item) = items.last() {
                    self.shared.progress.at(|| item.entry.shown());
                }
                built = run::build(items, &mut self.dirs, warnings, plain);
                plain = std::mem::take(&mut built.plain);
            }
            Job::Slice(slice) => {
                self.shared.progress.at(|| slice.entry.shown());
                run::build_slice(&slice, warnings, &mut plain)
                    .with_context(|| format!("reading {}", slice.entry.shown()))?;
            }
            Job::End => {
                plain.clear();
                plain.extend_from_slice(&pax::END);
            }
            Job::Stored { chunk, entries, files } => {
                self.shared.progress.add(chunk.frame.plain_bytes.into());
                self.plain = plain;
                let table = chunk.table.map(Packed::Known);
                return Ok(Ready { chunk: Packed::Known(chunk.frame), table, entries, files });
            }
        }
        self.shared.progress.add(plain.len() as u64);
        let chunk = self.pack(&plain)?;
        self.plain = plain;
        let table = match built.table.as_slice() {
            [] => None,
            table => Some(self.pack_table(table)?),
        };
        Ok(Ready { chunk, table, entries: built.entries, files: built.files })
    }

    fn pack(&mut self, plain: &[u8]) -> Result<Packed> {
        let (id, plain_bytes) = match self.find(plain)? {
            Packed::New { id, plain_bytes, .. } => (id, plain_bytes),
            known => return Ok(known),
        };
        let mut frame = self.shared.frames.take();
        frame.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut frame).context("compressing")?;
        Ok(Packed::New { id, plain_bytes, frame })
    }

    fn pack_table(&mut self, table: &[u8]) -> Result<Packed> {
        Ok(match self.find(table)? {
            Packed::New { id, plain_bytes, .. } => {
                let frame = super::fetch::compress(table, TABLE_LEVEL)?;
                Packed::New { id, plain_bytes, frame }
            }
            known => known,
        })
    }

    /// The stored frame of `plain`, or a new one that is still empty.
    fn find(&self, plain: &[u8]) -> Result<Packed> {
        let id = *blake3::hash(plain).as_bytes();
        let plain_bytes = u32::try_from(plain.len()).context("a chunk is too big")?;
        let known = self.shared.known.as_ref().and_then(|known| {
            known.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
        });
        Ok(match known {
            Some(place) => Packed::Known(Frame { id, plain_bytes, place }),
            None => Packed::New { id, plain_bytes, frame: Vec::new() },
        })
    }
}
