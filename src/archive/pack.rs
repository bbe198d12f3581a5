//! Packs: frames collected in memory into objects of about 32 MiB, put whole, some at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};

use super::index::Place;
use super::pace::Pace;
use super::spare::Spare;
use crate::store::catalog::FileRecord;
use crate::store::{Store, StoreError};
use crate::sys::sync::lock;

/// A pack is put when it has this much. Four of them are in memory at a time: with 64 MiB a backup
/// takes 160 MiB, with 16 MiB 65 MiB, and none is faster.
const PACK_BYTES: usize = 32 << 20;
/// The frame that fills it goes in as a whole.
const LAST_FRAME_BYTES: usize = 5 << 20;

/// What a pack holds; both are plain zstd frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Chunks, in the order of the stream.
    Stream,
    /// Tables of runs.
    Tables,
}

impl Holds {
    fn suffix(self) -> &'static str {
        match self {
            Holds::Stream => "tar.zst",
            Holds::Tables => "index.zst",
        }
    }
}

/// A full pack, on its way to the store.
#[derive(Debug)]
pub struct Full {
    number: u32,
    sequence: u32,
    holds: Holds,
    bytes: Vec<u8>,
}

/// Fills packs of one kind.
#[derive(Debug)]
pub struct Packer<'a> {
    holds: Holds,
    sequence: u32,
    number: u32,
    bytes: Vec<u8>,
    spare: &'a Spare,
}

impl<'a> Packer<'a> {
    pub fn new(holds: Holds, spare: &'a Spare) -> Packer<'a> {
        Packer { holds, sequence: 0, number: 0, bytes: Vec::new(), spare }
    }

    /// Takes a frame and says where it will be. `numbers` counts the packs of the index.
    pub fn add(
        &mut self,
        frame: &[u8],
        numbers: &mut u32,
        out: &SyncSender<Full>,
    ) -> Result<Place> {
        if self.bytes.is_empty() {
            self.number = *numbers;
            *numbers = numbers.checked_add(1).context("counting packs")?;
            if self.holds == Holds::Stream {
                self.bytes = self.spare.take();
                self.bytes.reserve(PACK_BYTES + LAST_FRAME_BYTES);
            }
        }
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(frame);
        let len = u32::try_from(frame.len()).context("a frame is too big")?;
        let place = Place { pack: self.number, offset, len };
        if self.bytes.len() >= PACK_BYTES {
            self.flush(out)?;
        }
        Ok(place)
    }

    /// Sends off what is there.
    pub fn flush(&mut self, out: &SyncSender<Full>) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let full = Full { number: self.number, sequence: self.sequence, holds: self.holds, bytes };
        self.sequence += 1;
        out.send(full).map_err(|_| anyhow!("storing packs ended early"))
    }
}

/// Puts packs; shared by the threads that do so.
#[derive(Debug)]
pub struct Putter<'a> {
    store: &'a dyn Store,
    generation: &'a str,
    /// Number and record of each pack that is stored.
    stored: Mutex<Vec<(u32, FileRecord)>>,
    error: Mutex<Option<anyhow::Error>>,
    failed: &'a AtomicBool,
    spare: &'a Spare,
    pace: Pace,
}

impl<'a> Putter<'a> {
    pub fn new(
        store: &'a dyn Store,
        generation: &'a str,
        failed: &'a AtomicBool,
        spare: &'a Spare,
        pace: Pace,
    ) -> Putter<'a> {
        let (stored, error) = (Mutex::default(), Mutex::default());
        Putter { store, generation, stored, error, failed, spare, pace }
    }

    /// Puts every pack that comes. After a failure the rest is dropped, so that nobody waits.
    pub fn run(&self, packs: &Mutex<Receiver<Full>>) {
        loop {
            let next = lock(packs).recv();
            let Ok(full) = next else { return };
            if self.failed.load(Ordering::Relaxed) {
                continue;
            }
            self.pace.wait_for(full.bytes.len() as u64, self.failed);
            let put = self.put(&full);
            if full.holds == Holds::Stream {
                self.spare.give(full.bytes);
            }
            match put {
                Ok(record) => lock(&self.stored).push((full.number, record)),
                Err(error) => {
                    self.failed.store(true, Ordering::Relaxed);
                    lock(&self.error).get_or_insert(error);
                }
            }
        }
    }

    fn put(&self, full: &Full) -> Result<FileRecord> {
        let hash = blake3::hash(&full.bytes).to_hex();
        let name = format!(
            "packs/{}-{:06}-{}.{}",
            self.generation,
            full.sequence,
            &hash[..16],
            full.holds.suffix()
        );
        self.store.put(&name, &full.bytes).map_err(|error| {
            let hint = match &error {
                StoreError::Full { .. } => "\nhint: rr prune, or a bigger target",
                _ => "",
            };
            anyhow::Error::new(error).context(format!("storing {name}{hint}"))
        })?;
        Ok(FileRecord { name, size_bytes: full.bytes.len() as u64, blake3: hash.to_string() })
    }

    /// What is stored, by number; or why not all is. Then what was stored is taken back.
    pub fn finish(self) -> Result<Vec<(u32, FileRecord)>> {
        let mut stored = self.stored.into_inner().unwrap_or_else(PoisonError::into_inner);
        stored.sort_unstable_by_key(|(number, _)| *number);
        let error = self.error.into_inner().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => Ok(stored),
            Some(error) => Err(error),
        }
    }

    /// Deletes the packs of a backup that came to nothing, as far as the store still answers.
    pub fn take_back(&self) {
        for (_, record) in lock(&self.stored).drain(..) {
            if let Err(error) = self.store.delete(&record.name) {
                log::warn!("{error}");
                return;
            }
        }
    }
}
