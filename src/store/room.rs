//! What big objects leave free at a target.

use super::StoreError;

/// For the manifests, logs and locks of this node and of all others that share the target. A node
/// that fills it to the last byte would stop them all.
const RESERVE_BYTES: u64 = 16 << 20;
/// What may go into the reserve.
pub(super) const SMALL_BYTES: u64 = 4 << 20;

pub(super) const MAKE_ROOM: &str =
    "\nhint: make room there, or keep fewer generations (rr prune --dry-run)";

/// Refuses a big object that would not leave the reserve of what is `free`.
pub(super) fn leave(store: &str, name: &str, bytes: u64, free: u64) -> Result<(), StoreError> {
    if bytes < SMALL_BYTES || free >= bytes.saturating_add(RESERVE_BYTES) {
        return Ok(());
    }
    let detail = format!(
        "{name} has {} MiB, {} MiB are free, and {} MiB of them are for manifests and locks{MAKE_ROOM}",
        bytes >> 20,
        free >> 20,
        RESERVE_BYTES >> 20
    );
    Err(StoreError::Full { store: store.to_owned(), detail })
}
