//! What is in a generation, and what differs between two.

use std::cmp::Ordering;
use std::path::PathBuf;

use anyhow::Result;

use super::codec::Id;
use super::entry::{Entry, Kind};
use super::index::Index;
use super::pick::{Wanted, check_found};
use super::table::{Row, path_order};
use crate::store::{Manifest, Store};

/// Calls `each` with every entry at or below one of `paths` (none: with all), in the order of the
/// stream.
pub fn list(
    manifest: &Manifest,
    store: &dyn Store,
    paths: &[PathBuf],
    mut each: impl FnMut(&Entry) -> Result<()>,
) -> Result<()> {
    let index = Index::open(manifest, store)?;
    let mut wanted = Wanted::new(paths);
    for run in index.runs(store) {
        for row in run?.1 {
            if wanted.finds(&row.entry.path) {
                each(&row.entry)?;
            }
        }
    }
    check_found(&wanted, &manifest.generation)
}

/// What became of a path between two generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
    /// Its data, its target or its kind may be another.
    Modified,
    /// Only owner or mode.
    Metadata,
}

/// Calls `each` with every path that differs between two generations, in the order of the stream,
/// and what is known of it last. It compares what the tables tell and reads no data: a file whose
/// inode, size and times are as they were is taken for unchanged.
pub fn diff(
    old: &Manifest,
    new: &Manifest,
    store: &dyn Store,
    mut each: impl FnMut(Change, &Entry) -> Result<()>,
) -> Result<()> {
    let (old, new) = (Index::open(old, store)?, Index::open(new, store)?);
    let (mut olds, mut news) = (Rows::new(&old, store), Rows::new(&new, store));
    let (mut a, mut b) = (olds.next()?, news.next()?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => path_order(&a.entry.path, &b.entry.path),
        };
        match (order, &a, &b) {
            (Ordering::Less, Some((row, _)), _) => each(Change::Removed, &row.entry)?,
            (Ordering::Greater, _, Some((row, _))) => each(Change::Added, &row.entry)?,
            (_, Some((a, run_a)), Some((b, run_b))) => {
                // In one and the same run, all that a restore gives is the same.
                if run_a != run_b
                    && let Some(change) = change(&a.entry, &b.entry)
                {
                    each(change, &b.entry)?;
                }
            }
            _ => {}
        }
        if order != Ordering::Greater {
            a = olds.next()?;
        }
        if order != Ordering::Less {
            b = news.next()?;
        }
    }
}

fn change(a: &Entry, b: &Entry) -> Option<Change> {
    let what = |e: &Entry| (e.kind, e.size_bytes, e.link.clone(), e.rdev);
    // The time of a directory only tells that a name came or went, which is told by that name.
    let time = |e: &Entry| (e.kind != Kind::Dir).then_some(e.mtime);
    let access = |e: &Entry| (e.mode, e.uid, e.gid);
    // Of what changed just before its backup the ctime was forgotten: it tells nothing then.
    let told = !a.is_forgotten() && !b.is_forgotten() && a.ino == b.ino && b.kind != Kind::Dir;
    if what(a) != what(b) || time(a) != time(b) {
        Some(Change::Modified)
    } else if access(a) != access(b) || (told && a.ctime != b.ctime) {
        Some(Change::Metadata)
    } else {
        None
    }
}

/// Row by row, each with the id of its run.
struct Rows<'a> {
    index: &'a Index,
    runs: Box<dyn Iterator<Item = Result<(usize, Vec<Row>)>> + 'a>,
    rows: std::vec::IntoIter<Row>,
    run: Id,
}

impl<'a> Rows<'a> {
    fn new(index: &'a Index, store: &'a dyn Store) -> Rows<'a> {
        let runs = Box::new(index.runs(store));
        Rows { index, runs, rows: Vec::new().into_iter(), run: Id::default() }
    }

    fn next(&mut self) -> Result<Option<(Row, Id)>> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some((row, self.run)));
            }
            let Some(next) = self.runs.next() else { return Ok(None) };
            let (number, rows) = next?;
            self.run = self.index.chunks[number].frame.id;
            self.rows = rows.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::Time;

    #[test]
    fn a_forgotten_ctime_is_no_change() {
        let at = |sec| Time { sec, nsec: 0 };
        let file = |ctime, mode| Entry {
            path: b"etc/x".to_vec(),
            kind: Kind::File,
            mode,
            uid: 0,
            gid: 0,
            mtime: at(5),
            size_bytes: 3,
            link: Vec::new(),
            rdev: (0, 0),
            ctime,
            ino: 7,
        };
        for (old, new) in [(at(0), at(9)), (at(9), at(0)), (at(0), at(0)), (at(9), at(9))] {
            assert_eq!(change(&file(old, 0o644), &file(new, 0o644)), None, "{old:?} {new:?}");
            let metadata = change(&file(old, 0o644), &file(new, 0o600));
            assert_eq!(metadata, Some(Change::Metadata), "{old:?} {new:?}");
        }
        let changed = change(&file(at(8), 0o644), &file(at(9), 0o644));
        assert_eq!(changed, Some(Change::Metadata));
    }
}
