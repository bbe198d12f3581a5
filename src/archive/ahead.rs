//! Reads directories before the walk comes to them.
//!
//! Directories that are known and not read yet wait in the order of the stream, and whoever is free
//! takes the first one; so does the walk itself, where it comes to one that nobody has begun with. Big
//! directories are read in parts, and only so much is known ahead: memory does not grow with the tree.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};

use super::dirs::join;
use super::lister::{Lister, Seen, Task};
use super::table::path_order;

/// How many files are known before the walk comes to them.
const SEEN: usize = 8192;
/// How many directories wait to be read. The walk finds the others by itself.
const WAITING: usize = 4096;
/// How many files of a directory are looked at in one go.
const PART: usize = 256;
/// Where paths are longer, the walk goes alone: what waits would take too much memory.
const PATH_BYTES: usize = 4096;

/// A directory, or a part of one: then it has the path of the first file in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    path: Vec<u8>,
    is_dir: bool,
}

impl Key {
    pub fn dir(path: &[u8]) -> Key {
        Key { path: path.to_vec(), is_dir: true }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        path_order(&self.path, &other.path).then(self.is_dir.cmp(&other.is_dir))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What was read: files in order, and where there are more of the same directory.
#[derive(Debug)]
pub struct Listing {
    pub seen: Vec<Seen>,
    pub more: Option<Key>,
}

/// What the threads and the walk share.
#[derive(Debug, Default)]
pub struct Ahead {
    state: Mutex<State>,
    /// For the walk: something was read.
    read: Condvar,
    /// For the threads: there is something to read, and room for it.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Key, Task>,
    /// What some thread is at.
    begun: HashSet<Key>,
    done: HashMap<Key, Listing>,
    /// How many files are in `done`.
    seen: usize,
    ended: bool,
}

impl State {
    fn has_work(&self) -> bool {
        !self.waiting.is_empty() && self.seen < SEEN
    }
}

/// Nobody waits for what will not come, whatever happened to the one who has this.
#[derive(Debug)]
pub struct EndWhenDropped<'a>(&'a Ahead);

impl Drop for EndWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.read.notify_all();
        self.0.room.notify_all();
    }
}

impl Ahead {
    pub fn end_when_dropped(&self) -> EndWhenDropped<'_> {
        EndWhenDropped(self)
    }

    /// Reads ahead until the walk is at its end.
    pub fn run(&self, lister: &mut Lister<'_>) {
        let _end = self.end_when_dropped();
        while let Some((key, task)) = self.next() {
            let listing = self.list(task, lister);
            let mut state = self.lock();
            state.seen += listing.seen.len();
            state.begun.remove(&key);
            state.done.insert(key, listing);
            self.read.notify_one();
        }
    }

    /// The first one that waits, as soon as there is room. None at the end.
    fn next(&self) -> Option<(Key, Task)> {
        let mut state = self.lock();
        while !state.ended {
            if state.has_work()
                && let Some((key, task)) = state.waiting.pop_first()
            {
                state.begun.insert(key.clone());
                return Some((key, task));
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// What is in the directory `key`. It is read now where nobody has begun to: as `task`, where it
    /// does not wait.
    pub fn take(&self, key: &Key, task: Option<Task>, lister: &mut Lister<'_>) -> Result<Listing> {
        let mut state = self.lock();
        loop {
            if let Some(listing) = state.done.remove(key) {
                state.seen -= listing.seen.len();
                if state.has_work() {
                    self.room.notify_all();
                }
                return Ok(listing);
            }
            if !state.begun.contains(key) {
                let Some(task) = state.waiting.remove(key).or(task) else { break };
                drop(state);
                return Ok(self.list(task, lister));
            }
            if state.ended {
                break;
            }
            state = self.read.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        bail!("reading directories ended early")
    }

    /// Reads a directory, or a part of it. What is to be read next then waits.
    pub fn list(&self, mut task: Task, lister: &mut Lister<'_>) -> Listing {
        let is_deep = task.path.len() > PATH_BYTES;
        let most = if is_deep { usize::MAX } else { PART };
        let (seen, rest) = lister.list(&mut task, most);
        let mut listing = Listing { seen, more: None };
        if is_deep {
            return listing;
        }
        let mut state = self.lock();
        for Seen { name, stat, enter } in &listing.seen {
            if let Some(way) = *enter
                && state.waiting.len() < WAITING
            {
                let path = join(&task.path, name);
                let task = Task { path: path.clone(), way, dev: stat.dev, names: None };
                state.waiting.insert(Key { path, is_dir: true }, task);
            }
        }
        if let Some(first) = rest.first() {
            let key = Key { path: join(&task.path, first), is_dir: false };
            listing.more = Some(key.clone());
            state.waiting.insert(key, Task { names: Some(rest), ..task });
        }
        if state.has_work() {
            self.room.notify_all();
        }
        listing
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
