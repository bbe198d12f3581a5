//! What went other than expected while many threads read or write files.

use std::sync::{Mutex, PoisonError};

/// More than these are counted and not kept: a list that nobody reads must not fill the memory.
const KEPT: usize = 1000;
/// In characters. Paths can be longer than anybody reads.
const LONGEST: usize = 4 << 10;

#[derive(Debug, Default)]
pub struct Warnings(Mutex<(Vec<String>, usize)>);

impl Warnings {
    pub fn add(&self, text: impl Into<String>) {
        let mut text = text.into();
        if text.len() > LONGEST {
            text = text.chars().take(LONGEST).chain("...".chars()).collect();
        }
        log::warn!("{text}");
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1 += 1;
        if kept.0.len() < KEPT {
            kept.0.push(text);
        }
    }

    /// Sorted, so that they don't depend on which thread was first.
    pub fn into_vec(self) -> Vec<String> {
        let (mut kept, count) = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        kept.sort_unstable();
        if count > kept.len() {
            kept.push(format!("and {} more like these, in the log", count - kept.len()));
        }
        kept
    }
}
