//! Goes through the trees in the order of the stream: a directory, then what is in it, by the
//! bytes of the names.
//!
//! Other filesystems are not entered, unless they are a tree of the backup themselves: the
//! [`View`](super::view::View) shows what is below them. So each path comes once, and the order does
//! not depend on where filesystems are mounted.
//!
//! Where nothing changed, the walk is all that a backup does, so several threads read directories
//! before the walk comes to them ([`super::ahead`]).

use anyhow::{Context, Result};

use super::ahead::{Ahead, Key, Listing};
use super::dirs::Dirs;
use super::lister::{Lister, Seen, Task};
use super::select::{Select, Way};
use super::warnings::Warnings;
use crate::sys::fs::Stat;

/// A file that the walk came to.
#[derive(Debug)]
pub struct Found {
    pub path: Vec<u8>,
    pub stat: Stat,
}

/// One directory that is being gone through.
struct Level {
    /// How much of the current path is this directory's: the levels below share one path, or else
    /// a deep tree would take memory by the square of its depth.
    path_len: usize,
    seen: std::vec::IntoIter<Seen>,
    more: Option<Key>,
}

impl Level {
    fn new(path_len: usize, listing: Listing) -> Level {
        Level { path_len, seen: listing.seen.into_iter(), more: listing.more }
    }
}

/// Calls `each` for everything that `select` selects in what `dirs` opens, until it says false.
///
/// # Errors
/// When the root can't be read. Anything else that can't be read is a warning.
pub fn walk(
    dirs: impl Fn() -> Dirs + Sync,
    select: &Select,
    warnings: &Warnings,
    threads: usize,
    mut each: impl FnMut(Found) -> bool,
) -> Result<()> {
    let mut lister = Lister::new(dirs(), select, warnings);
    let stat = lister.stat(b"").context("reading the root")?;
    let mut way = if select.is_tree(b"") { Way::In } else { Way::Towards };
    let names = lister.names(b"", &mut way).context("reading the root")?;
    if !each(Found { path: Vec::new(), stat }) {
        return Ok(());
    }
    let root = Task { path: Vec::new(), way, dev: stat.dev, names: Some(names) };
    let ahead = Ahead::default();
    std::thread::scope(|scope| {
        // On every way out, so that no thread is waited for in vain.
        let _end = ahead.end_when_dropped();
        for _ in 0..threads {
            scope.spawn(|| ahead.run(&mut Lister::new(dirs(), select, warnings)));
        }
        go(&ahead, &mut lister, root, each)
    })
}

fn go(
    ahead: &Ahead,
    lister: &mut Lister<'_>,
    root: Task,
    mut each: impl FnMut(Found) -> bool,
) -> Result<()> {
    let mut here = Vec::new();
    let mut levels = vec![Level::new(0, ahead.list(root, lister))];
    while let Some(level) = levels.last_mut() {
        let Some(Seen { name, stat, enter }) = level.seen.next() else {
            match level.more.take() {
                Some(key) => *level = Level::new(level.path_len, ahead.take(&key, None, lister)?),
                None => drop(levels.pop()),
            }
            continue;
        };
        here.truncate(level.path_len);
        if level.path_len > 0 {
            here.push(b'/');
        }
        here.extend_from_slice(&name);
        if !each(Found { path: here.clone(), stat }) {
            return Ok(());
        }
        if let Some(way) = enter {
            let task = Task { path: here.clone(), way, dev: stat.dev, names: None };
            let listing = ahead.take(&Key::dir(&here), Some(task), lister)?;
            levels.push(Level::new(here.len(), listing));
        }
    }
    Ok(())
}
