//! Packs: frames collected in memory into objects of about 32 MiB, put whole, some at a time.
//!
//! What is compressed is copied once more into a pack, what could not be is not: it is more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};

use super::index::Place;
use super::pace::Pace;
use super::spare::Spare;
use crate::store::catalog::FileRecord;
use crate::store::{Pieces, Store, StoreError};
use crate::sys::sync::lock;

/// A pack is put when it has this much. Four of them may be in memory at a time: with 64 MiB a
/// backup took 160 MiB, with 16 MiB 65 MiB, and none was faster.
const PACK_BYTES: u64 = 32 << 20;
/// Or when the buffers that hold it take this much.
const PACK_ROOM_BYTES: usize = 44 << 20;
/// A slice that can't be compressed fits in, with what a frame adds to it.
pub const PIECE_BYTES: usize = (4 << 20) + (32 << 10);

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
    pieces: Pieces,
}

/// Fills packs of one kind.
#[derive(Debug)]
pub struct Packer<'a> {
    holds: Holds,
    sequence: u32,
    number: u32,
    /// The frames: big ones in the buffers that they came in, small ones behind each other.
    pieces: Vec<Vec<u8>>,
    size_bytes: u64,
    spare: &'a Spare,
}

impl<'a> Packer<'a> {
    pub fn new(holds: Holds, spare: &'a Spare) -> Packer<'a> {
        Packer { holds, sequence: 0, number: 0, pieces: Vec::new(), size_bytes: 0, spare }
    }

    /// Takes a frame and says where it will be. `numbers` counts the packs of the index.
    pub fn add(
        &mut self,
        frame: Vec<u8>,
        numbers: &mut u32,
        out: &SyncSender<Full>,
    ) -> Result<Place> {
        if self.pieces.is_empty() {
            self.number = *numbers;
            *numbers = numbers.checked_add(1).context("counting packs")?;
        }
        let offset = self.size_bytes;
        let len = u32::try_from(frame.len()).context("a frame is too big")?;
        let place = Place { pack: self.number, offset, len };
        self.size_bytes += u64::from(len);
        self.append(frame);
        let room: usize = self.pieces.iter().map(Vec::capacity).sum();
        if self.size_bytes >= PACK_BYTES || room >= PACK_ROOM_BYTES {
            self.flush(out)?;
        }
        Ok(place)
    }

    /// What fills its buffer by half is not copied.
    fn append(&mut self, frame: Vec<u8>) {
        let has_room = |piece: &Vec<u8>| piece.capacity() - piece.len() >= frame.len();
        if !self.pieces.last().is_some_and(has_room) {
            if frame.len() >= PIECE_BYTES / 2 {
                self.pieces.push(frame);
                return;
            }
            self.pieces.push(self.spare.take());
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.extend_from_slice(&frame);
        }
        self.spare.give(frame);
    }

    /// Sends off what is there.
    pub fn flush(&mut self, out: &SyncSender<Full>) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let pieces = std::mem::take(&mut self.pieces).into();
        let full = Full { number: self.number, sequence: self.sequence, holds: self.holds, pieces };
        self.sequence += 1;
        self.size_bytes = 0;
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
            self.pace.wait_for(full.pieces.size_bytes(), self.failed);
            let put = self.put(&full);
            full.pieces.into_buffers().into_iter().for_each(|buffer| self.spare.give(buffer));
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
        let mut hasher = blake3::Hasher::new();
        for piece in full.pieces.iter() {
            hasher.update(piece);
        }
        let hash = hasher.finalize().to_hex();
        let name = format!(
            "packs/{}-{:06}-{}.{}",
            self.generation,
            full.sequence,
            &hash[..16],
            full.holds.suffix()
        );
        self.store.put_pieces(&name, &full.pieces).map_err(|error| {
            let hint = match &error {
                StoreError::Full { .. } => "\nhint: rr prune, or a bigger target",
                _ => "",
            };
            anyhow::Error::new(error).context(format!("storing {name}{hint}"))
        })?;
        Ok(FileRecord { name, size_bytes: full.pieces.size_bytes(), blake3: hash.to_string() })
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
