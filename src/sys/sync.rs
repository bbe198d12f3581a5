//! Threads that share something.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a mutex, of a thread that panicked as well: what it guards is sound after each statement,
/// and the panic ends the work in its own way.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
