//! Reads everything that a generation consists of, and checks it: before the first disk is touched.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::fetch::{READ_BYTES as READ_PIECE_BYTES, Sequential};
use super::index::Index;
use super::pace::Pace;
use crate::store::catalog::{FileRecord, MENDED_BY};
use crate::store::{Manifest, Store, StoreError};
use crate::ui::Ui;
use crate::ui::progress::{Progress, Unit};

/// More do not read faster from one target.
const THREADS: usize = 4;
/// How many wrong objects are named.
const NAMED: usize = 20;

/// From how many places of the stream a sample is taken at most.
const SAMPLES: usize = 32;
const SAMPLE_BYTES: u64 = 64 << 20;
const SAMPLE_TIME: Duration = Duration::from_secs(60);

/// Checks that every file and pack of a generation is there, as long as it was written, and has the
/// BLAKE3 that it was written with.
///
/// # Errors
/// Names every object that is missing, truncated or damaged.
pub fn check(manifest: &Manifest, store: &dyn Store, ui: &Ui) -> Result<()> {
    let records: Vec<&FileRecord> = manifest.file.iter().chain(&manifest.pack).collect();
    let total = records.iter().map(|record| record.size_bytes).sum();
    let progress = ui.progress("checking", total, Unit::Bytes);
    let todo = Mutex::new(records.iter().copied().collect::<VecDeque<_>>());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(record) = next else { return };
                    if let Err(error) = check_object(record, store, &progress) {
                        let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                        wrong.push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    drop(progress);
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    wrong.sort();
    if !wrong.is_empty() {
        ensure!(
            !super::is_deleted(manifest, store),
            "the generation {} was deleted at {} while it was checked\nhint: rr list shows what is there",
            manifest.generation,
            store.url()
        );
        let more = match wrong.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("\n  and {more} more"),
        };
        wrong.truncate(NAMED);
        bail!(
            "the generation {} at {} is not whole:\n  {}{more}\n{MENDED_BY}",
            manifest.generation,
            store.url(),
            wrong.join("\n  ")
        );
    }
    // That it says only what can be, too.
    Index::open(manifest, store).map(drop)
}

/// Reads chunks from all over a generation, some MiB at most and this fast at most (0: any), and
/// checks them against their BLAKE3. Tells how many bytes each had.
///
/// # Errors
/// One of them is missing or damaged.
pub fn check_sample(
    manifest: &Manifest,
    store: &dyn Store,
    bytes_per_second: u64,
    mut checked: impl FnMut(u64),
) -> Result<()> {
    let index = Index::open(manifest, store)?;
    let started = Instant::now();
    let pace = Pace::new(bytes_per_second);
    let mut reader = Sequential::new(&index, store);
    let step = index.chunks.len().div_ceil(SAMPLES).max(1);
    let mut bytes = 0;
    for chunk in index.chunks.iter().step_by(step) {
        // They lie far apart: as much as this is read for each.
        pace.wait_for(READ_PIECE_BYTES.max(chunk.frame.place.len.into()), &AtomicBool::new(false));
        let len = reader.read(&chunk.frame)?.len() as u64;
        checked(len);
        bytes += len;
        if bytes >= SAMPLE_BYTES || started.elapsed() >= SAMPLE_TIME {
            break;
        }
    }
    Ok(())
}

fn check_object(record: &FileRecord, store: &dyn Store, progress: &Progress) -> Result<()> {
    let FileRecord { name, size_bytes, blake3 } = record;
    let found = match store.size_bytes(name) {
        Err(StoreError::NotFound { .. }) => bail!("{name} is missing"),
        found => found.with_context(|| format!("looking for {name}"))?,
    };
    ensure!(
        found >= *size_bytes,
        "{name} is truncated: it has {found} bytes, {size_bytes} were written"
    );
    ensure!(
        found == *size_bytes,
        "{name} is damaged: it has {found} bytes, only {size_bytes} were written"
    );
    let mut hasher = blake3::Hasher::new();
    store
        .read_range(name, 0, found, &mut |piece| {
            hasher.update(piece);
            progress.add(piece.len() as u64);
        })
        .with_context(|| format!("reading {name}"))?;
    ensure!(
        hasher.finalize().to_hex().as_str() == blake3,
        "{name} is damaged: its BLAKE3 is not the one that was written"
    );
    Ok(())
}
