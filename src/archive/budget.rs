//! What keeps the memory of a backup flat: only so much of the stream is on its way at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// In plain bytes.
const BUDGET_BYTES: u64 = 64 << 20;

/// How much may be on its way at once.
#[derive(Debug, Default)]
pub struct Budget {
    taken: Mutex<u64>,
    changed: Condvar,
}

impl Budget {
    /// Waits until there is room; one job always has. False when all has failed.
    pub fn take(&self, cost: u64, failed: &AtomicBool) -> bool {
        let mut taken = self.lock();
        while *taken > 0 && *taken + cost > BUDGET_BYTES && !failed.load(Ordering::Relaxed) {
            taken = self.changed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += cost;
        !failed.load(Ordering::Relaxed)
    }

    pub fn give(&self, cost: u64) {
        *self.lock() -= cost;
        self.changed.notify_all();
    }

    pub fn wake(&self) {
        let _taken = self.lock();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
