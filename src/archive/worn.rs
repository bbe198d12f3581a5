//! Packs of the parent of which little is in use any more: this generation is to do without them.
//!
//! A pack is never rewritten, and is deleted when no generation names it. So one chunk that stays
//! would keep all of it: at the target, in each check, on each medium. What is still in use of such
//! a pack is therefore read and stored anew, as if it had changed; the pack goes with the older
//! generations that name it.
//!
//! A pack is worn when less than a third of it is in use: each byte that is stored anew then makes
//! room of two, and of what a generation names at least a third is its own. Older generations
//! may keep the pack for long, and then have both: with a half as the measure this would come more
//! often, and gain less.
//!
//! To do without a pack means to read some of the stream that did not change. A run reads only so
//! much for it, and stores only so much as the target has room for, first for the packs that give the
//! most room: what is left is for the next run. A pack that takes more on its own, as its chunks
//! compress so well, stays: there can't be more than some forty of them.

use std::cmp::Reverse;
use std::collections::HashSet;

use anyhow::Result;

use super::index::{Chunk, Frame, Index};
use crate::layout::units::size;
use crate::store::{Manifest, Store};

/// Of the stream, this part is read anew at most.
const PART: u64 = 20;
/// Or this much, which takes a second or less.
const LEAST_BYTES: u64 = 64 << 20;

/// The numbers of these packs in the parent's index.
#[derive(Debug, Default)]
pub struct Worn(HashSet<u32>);

/// What a generation has in a pack.
#[derive(Debug, Clone, Default)]
struct Use {
    stored_bytes: u64,
    /// What is to be read of the stream to do without the pack.
    read_bytes: u64,
    /// The last run that this counts.
    run: Option<usize>,
}

impl Worn {
    /// Of which no more than `spare_bytes` in all are to be stored anew.
    pub fn of(index: &Index, spare_bytes: u64) -> Worn {
        let stream_bytes: u64 = index.chunks.iter().map(|c| u64::from(c.frame.plain_bytes)).sum();
        let (mut left, mut left_stored) = (LEAST_BYTES.max(stream_bytes / PART), spare_bytes);
        let uses = (0..).zip(&index.packs).zip(uses(index));
        let mut worn: Vec<_> = uses
            .filter(|((_, pack), used)| used.stored_bytes < pack.size_bytes / 3)
            .map(|((number, pack), used)| (number, pack.size_bytes - used.stored_bytes, used))
            .collect();
        let gain = |free: u64, read: u64| u128::from(free) * 1024 / u128::from(read.max(1));
        worn.sort_by_key(|(_, free, used)| Reverse(gain(*free, used.read_bytes)));
        let all = worn.len();
        worn.retain(|(_, _, used)| {
            let read = left.checked_sub(used.read_bytes);
            let (Some(read), Some(stored)) = (read, left_stored.checked_sub(used.stored_bytes))
            else {
                return false;
            };
            (left, left_stored) = (read, stored);
            true
        });
        if all > 0 {
            log::info!(
                "of {all} little used packs of the parent this generation does without {}, which have {} that it does not need",
                worn.len(),
                size(worn.iter().fold(0, |sum, (_, free, _)| sum.saturating_add(*free)))
            );
        }
        Worn(worn.into_iter().map(|(number, ..)| number).collect())
    }

    pub fn has(&self, frame: &Frame) -> bool {
        self.0.contains(&frame.place.pack)
    }

    /// Whether the chunk or its table is in one of them.
    pub fn has_of(&self, chunk: &Chunk) -> bool {
        !self.0.is_empty()
            && (self.has(&chunk.frame) || chunk.table.is_some_and(|table| self.has(&table)))
    }
}

/// How much a generation uses of the packs that it names.
pub fn used_bytes(manifest: &Manifest, store: &dyn Store) -> Result<u64> {
    let index = Index::open(manifest, store)?;
    Ok(uses(&index).iter().fold(0, |sum, used| sum.saturating_add(used.stored_bytes)))
}

/// What is in use of each pack.
fn uses(index: &Index) -> Vec<Use> {
    let mut uses = vec![Use::default(); index.packs.len()];
    // A frame may be in the stream more than once.
    let mut seen = HashSet::new();
    let (mut run, mut run_bytes) = (None, 0);
    for (number, chunk) in index.chunks.iter().enumerate() {
        let plain_bytes = u64::from(chunk.frame.plain_bytes);
        if chunk.table.is_some() {
            (run, run_bytes) = (Some(number), plain_bytes);
        }
        for frame in [Some(chunk.frame), chunk.table].into_iter().flatten() {
            let place = frame.place;
            let Some(used) = uses.get_mut(place.pack as usize) else { continue };
            if seen.insert((place.pack, place.offset)) {
                used.stored_bytes = used.stored_bytes.saturating_add(place.len.into());
            }
            // For a table, and for a slice too, its run is read.
            if used.run != run {
                used.run = run;
                used.read_bytes += run_bytes;
            }
            if chunk.table.is_none() {
                used.read_bytes += plain_bytes;
            }
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::super::index::{Pack, Place};
    use super::*;

    fn frame(pack: u32, offset: u64, len: u32, plain_bytes: u32) -> Frame {
        Frame { id: [0; 32], plain_bytes, place: Place { pack, offset, len } }
    }

    fn index(sizes: &[u64], chunks: &[(Frame, Option<Frame>)]) -> Index {
        let pack = |size_bytes: &u64| Pack { name: String::new(), size_bytes: *size_bytes };
        let chunks = chunks.iter().map(|&(frame, table)| Chunk { frame, table });
        Index { packs: sizes.iter().map(pack).collect(), chunks: chunks.collect() }
    }

    fn worn(index: &Index) -> Vec<u32> {
        let mut worn: Vec<u32> = Worn::of(index, u64::MAX).0.into_iter().collect();
        worn.sort_unstable();
        worn
    }

    #[test]
    fn a_pack_is_worn_when_less_than_a_third_of_it_is_in_use() {
        let table = Some(frame(2, 0, 10, 20));
        let chunks = [
            (frame(0, 0, 30, 60), table),
            // The same slice three times is there once.
            (frame(1, 5, 30, 60), None),
            (frame(1, 5, 30, 60), None),
            (frame(1, 5, 30, 60), None),
            // The end of the stream is the last that is in use of its pack.
            (frame(3, 0, 20, 1024), None),
        ];
        assert_eq!(worn(&index(&[90, 90, 10, 20], &chunks)), [0; 0]);
        let index = index(&[93, 93, 33, 32 << 20], &chunks);
        assert_eq!(worn(&index), [0, 1, 2, 3]);
        let read: Vec<u64> = uses(&index).iter().map(|used| used.read_bytes).collect();
        assert_eq!(read, [60, 60 + 3 * 60, 60, 60 + 1024]);
        assert_eq!(worn(&Index::default()), [0; 0]);
    }

    #[test]
    fn a_run_reads_only_so_much_for_it() {
        let mib = |count: u32| count << 20;
        let run = |pack, mibs| (frame(pack, 0, mib(1), mib(mibs)), Some(frame(9, 0, 1, 1)));
        // What frees most for the least comes first; what does not fit lets pass what does.
        let chunks = [run(0, 40), run(1, 30), run(2, 65), run(3, 20)];
        let size = 32 << 20;
        let sizes = [size, size, size, 4 << 20, 0, 0, 0, 0, 0, 1];
        assert_eq!(worn(&index(&sizes, &chunks)), [1, 3]);
        // Of a long stream it is a part.
        let long = (0..40).map(|_| run(4, 64));
        let chunks: Vec<_> = long.chain(chunks).collect();
        assert_eq!(worn(&index(&sizes, &chunks)), [0, 1, 2]);
    }

    #[test]
    fn no_target_gets_full_of_what_is_stored_anew() {
        let chunks = [(frame(0, 0, 30, 60), None), (frame(1, 0, 20, 60), None)];
        let index = index(&[100, 90], &chunks);
        let count = |spare_bytes: u64| Worn::of(&index, spare_bytes).0.len();
        assert_eq!([0, 19, 20, 49, 50].map(count), [0, 0, 1, 1, 2]);
    }
}
