//! Keeps to a bandwidth: a pack is put when those before it have had their time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often it is looked whether all has failed.
const LOOK: Duration = Duration::from_millis(200);

/// Shared by the threads that put packs.
#[derive(Debug)]
pub struct Pace {
    /// 0: any.
    bytes_per_second: u64,
    /// When the next one may go.
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may go, or all has failed.
    pub fn wait_for(&self, bytes: u64, failed: &AtomicBool) {
        let start = self.book(bytes, Instant::now());
        while !failed.load(Ordering::Relaxed) {
            let left = start.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// When `bytes` may go: they take their time from then on, or from now if nobody went before.
    fn book(&self, bytes: u64, now: Instant) -> Instant {
        let Some(millis) = bytes.saturating_mul(1000).checked_div(self.bytes_per_second) else {
            return now;
        };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*next).max(now);
        *next = start + Duration::from_millis(millis);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_makes_what_follows_wait() {
        let pace = Pace::new(1 << 20);
        let now = Instant::now() + Duration::from_secs(5);
        let second = Duration::from_secs(1);
        assert_eq!(pace.book(4 << 20, now), now);
        assert_eq!(pace.book(1 << 20, now + second), now + 4 * second);
        assert_eq!(pace.book(1 << 20, now + second), now + 5 * second);
        // Time in which nobody went is not saved up.
        assert_eq!(pace.book(1 << 20, now + 60 * second), now + 60 * second);
        assert_eq!(pace.book(1 << 20, now + 60 * second), now + 61 * second);
        assert_eq!(Pace::new(0).book(u64::MAX, now), now);
    }
}
