//! Where the images of a node are at its target: kernel and initrd.
//!
//! Most targets have them under stable names, each of which is replaced whole. A backup disk boots
//! them, and must never boot those of two images: there each image has a directory of its own,
//! `rescue/NUMBER/`. Not named by time: a clock may be wrong.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::store::{Object, Store, StoreError};

pub const IMAGES: &str = "rescue/";
/// What an image consists of. Where the last one is, the others are, too.
pub const FILES: [&str; 2] = ["kernel", "initrd"];

/// What the last run that was to make an image says of it; there is none where nothing went wrong.
/// The manifest can't say it: it is written before.
const STATE: &str = "rescue.json";
const STATE_VERSION: u32 = 1;

/// Newer versions may say more.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    /// The newest generation of then.
    generation: Option<String>,
    problems: Vec<String>,
}

/// Puts down what went wrong with the image, or that nothing did.
pub fn note(store: &dyn Store, generation: Option<String>, problems: &[String]) -> Result<()> {
    let saying = || format!("saying in {STATE} how the rescue image went");
    if problems.is_empty() {
        return match store.size_bytes(STATE) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            _ => store.delete(STATE).with_context(saying),
        };
    }
    let state = State { version: STATE_VERSION, generation, problems: problems.to_vec() };
    let text = serde_json::to_vec_pretty(&state).with_context(saying)?;
    store.put(STATE, &text).with_context(saying)
}

/// What went wrong when the last image was to be made.
pub fn problems(store: &dyn Store) -> Result<Vec<String>> {
    match store.get(STATE) {
        Ok(text) => {
            let state: State = serde_json::from_slice(&text)
                .with_context(|| format!("{STATE} can't be understood"))?;
            Ok(state.problems)
        }
        Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The directory of the newest image that is whole, with a slash at its end; empty where images have
/// none.
pub fn newest(store: &dyn Store) -> Result<String> {
    Ok(newest_whole(&store.list(IMAGES)?).unwrap_or_default())
}

/// How much the image in `dir` takes; None where it is not there, or not whole.
pub fn size_bytes(store: &dyn Store, dir: &str) -> Result<Option<u64>> {
    let mut bytes = 0;
    for file in FILES {
        match store.size_bytes(&format!("{dir}{file}")) {
            Ok(size) => bytes += size,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(bytes))
}

/// The directory of the image that comes next.
pub fn next(store: &dyn Store) -> Result<String> {
    let last = store.list(IMAGES)?.iter().filter_map(number).max();
    Ok(dir_of(last.map_or(1, |number| number + 1)))
}

fn number(object: &Object) -> Option<u64> {
    object.name.strip_prefix(IMAGES)?.split('/').next()?.parse().ok()
}

fn dir_of(number: u64) -> String {
    format!("{IMAGES}{number:06}/")
}

fn newest_whole(objects: &[Object]) -> Option<String> {
    let mut numbers: Vec<u64> = objects.iter().filter_map(number).collect();
    numbers.sort_unstable();
    let has = |name: String| objects.iter().any(|object| object.name == name);
    let is_whole = |dir: &String| FILES.iter().all(|file| has(format!("{dir}{file}")));
    numbers.into_iter().rev().map(dir_of).find(is_whole)
}
