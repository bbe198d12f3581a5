//! What the parent generation knows: which entries are unchanged, and which chunks are stored.

use anyhow::Result;

use super::entry::Entry;
use super::index::{Chunk, Index};
use super::table::{Row, path_order};
use super::worn::Worn;
use crate::store::Store;

/// Goes through the parent's rows beside the walk: both have the same order.
pub struct Previous<'a> {
    index: &'a Index,
    pub worn: &'a Worn,
    runs: Box<dyn Iterator<Item = Result<(usize, Vec<Row>)>> + 'a>,
    /// The chunk of the run whose rows these are, and the row that is next.
    run: usize,
    rows: Vec<Row>,
    at: usize,
}

/// Where the parent has an entry that did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Same {
    /// The chunk of its run.
    pub run: usize,
    pub row: usize,
    /// How many rows that run has.
    pub rows: usize,
    pub slices: u32,
    pub head_hash: [u8; 16],
}

impl<'a> Previous<'a> {
    pub fn new(index: &'a Index, worn: &'a Worn, store: &'a dyn Store) -> Previous<'a> {
        let runs = Box::new(index.runs(store));
        Previous { index, worn, runs, run: 0, rows: Vec::new(), at: 0 }
    }

    /// Must be asked in the order of the stream.
    pub fn same(&mut self, entry: &Entry) -> Result<Option<Same>> {
        loop {
            let Some(row) = self.rows.get(self.at) else {
                let Some(next) = self.runs.next() else { return Ok(None) };
                (self.run, self.rows) = next?;
                self.at = 0;
                continue;
            };
            // Most are the same, which is told faster than the order.
            let order = match row.entry.path == entry.path {
                true => std::cmp::Ordering::Equal,
                false => path_order(&row.entry.path, &entry.path),
            };
            match order {
                std::cmp::Ordering::Less => self.at += 1,
                std::cmp::Ordering::Greater => return Ok(None),
                std::cmp::Ordering::Equal => {
                    let same = !row.entry.is_forgotten() && row.entry == *entry;
                    // Each path comes once.
                    self.at += 1;
                    return Ok(same.then_some(Same {
                        run: self.run,
                        row: self.at - 1,
                        rows: self.rows.len(),
                        slices: row.slices,
                        head_hash: row.head_hash,
                    }));
                }
            }
        }
    }

    /// The chunks of a run and the slices behind it.
    pub fn chunks(&self, run: usize, slices: u32) -> Option<&'a [Chunk]> {
        self.index.chunks.get(run..)?.get(..=slices as usize)
    }
}

/// The run of the parent that consists of just these entries, in this order.
pub fn whole_run(items: &[Option<Same>]) -> Option<Same> {
    let first = (*items.first()?)?;
    let all = items.len() == first.rows
        && items
            .iter()
            .enumerate()
            .all(|(at, same)| same.is_some_and(|same| same.run == first.run && same.row == at));
    let last = (*items.last()?)?;
    all.then_some(last)
}
