//! What a recovery begins with, done without any intent to recover: find the target, open it, fetch
//! the newest generation, check a part of its data. Run by the rescue image's own rr on the day of
//! the backup, see [`rehearsal`](crate::rescue::rehearsal). Nothing is written anywhere.
//!
//! What fails up to the list of generations is a fault of the image. What comes after shows how the
//! backup is, which is told and stops no image: the next one is needed all the more.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};

use super::login;
use super::target::{self, Target};
use crate::archive;
use crate::config::{Config, TargetUrl};
use crate::rescue::RescueInfo;
use crate::rescue::rehearsal::Rehearsed;
use crate::store::catalog;
use crate::store::{Manifest, Store, StoreError};
use crate::sys::sync::lock;
use crate::ui::Ui;

/// For all that is read of the backup. A slow one is not a bad one.
const READING: Duration = Duration::from_secs(300);
const TYPED_IN: &str =
    "which is not in the image and typed in at a recovery (target_options.read_login)";

/// Rehearses a recovery with what the rescue image knows.
pub fn rehearse(config: &Config, info: &RescueInfo, ui: &Ui) -> Result<Rehearsed> {
    let url: TargetUrl = info.target.parse()?;
    let options = info.options();
    let left_out = |why: String| Rehearsed { left_out: Some(why), ..Rehearsed::default() };
    let asks = login::is_asked_for(&url, &options, info.asks_login)?;
    match (&url, &info.target_device) {
        (TargetUrl::File { .. }, None) => {
            return Ok(left_out(
                "the target is on nothing that a rescue system mounts by itself; a recovery needs --target".to_owned(),
            ));
        }
        (TargetUrl::Iso(_), _) => {
            return Ok(left_out(
                "the backup comes with the image, on an ISO that is made of both and then read back".to_owned(),
            ));
        }
        // Without keys no request can be made.
        (TargetUrl::S3 { .. }, _) if asks => {
            return Ok(left_out(format!("the target wants keys, {TYPED_IN}")));
        }
        // Looked for here: a recovery goes on by assembling arrays, which is nothing for a node at work.
        (_, Some(device)) => target::expect(device)?,
        _ => {}
    }
    let opened = Target::locate(&url, Some(info), ui).and_then(|target| {
        let store = target.open(&info.node, &options)?;
        let generations = catalog::generations(store.as_ref())?;
        Ok((target, store, generations))
    });
    let (target, store, generations) = match opened {
        Err(error) if asks && is_denied(&error) => {
            return Ok(left_out(format!("the target answers and wants the login, {TYPED_IN}")));
        }
        opened => opened?,
    };
    let bytes_per_second = config.backup.bandwidth_mib_per_second.saturating_mul(1 << 20);
    let rehearsed =
        within(READING, move |so_far| read(store.as_ref(), &generations, bytes_per_second, so_far));
    if rehearsed.as_ref().is_ok_and(|rehearsed| rehearsed.left_out.is_some()) {
        // What it has open keeps its filesystem mounted, until the mount namespace ends with us.
        std::mem::forget(target);
    }
    rehearsed
}

fn is_denied(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::Denied { .. })))
}

/// Has the backup read in a thread, which is left behind when the time is over: one read may hang for
/// longer than anybody wants to wait.
fn within(
    limit: Duration,
    read: impl FnOnce(&Mutex<Rehearsed>) -> Result<()> + Send + 'static,
) -> Result<Rehearsed> {
    let so_far = Arc::new(Mutex::new(Rehearsed::default()));
    let (shared, (end, ended)) = (Arc::clone(&so_far), mpsc::channel());
    std::thread::spawn(move || end.send(read(&shared)));
    let done = ended.recv_timeout(limit);
    let mut rehearsed = lock(&so_far).clone();
    match done {
        Ok(Ok(())) => {}
        // A login that may open the target and read nothing is the image's.
        Ok(Err(error)) if is_denied(&error) => return Err(error),
        Ok(Err(error)) => rehearsed.problem = Some(format!("{error:#}")),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            rehearsed.left_out = Some(format!(
                "the target is slow: in {} s, {} MiB were read and checked",
                limit.as_secs(),
                rehearsed.checked_bytes >> 20
            ));
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            anyhow::bail!("the thread that reads the backup panicked")
        }
    }
    Ok(rehearsed)
}

/// Fetches the newest generation of the machine, and checks a part of it.
fn read(
    store: &dyn Store,
    generations: &[String],
    bytes_per_second: u64,
    so_far: &Mutex<Rehearsed>,
) -> Result<()> {
    let Some(manifest) = catalog::newest_machine(store, generations)? else { return Ok(()) };
    lock(so_far).generation = Some(manifest.generation.clone());
    let reading = || format!("reading the generation {}", manifest.generation);
    read_parts(&manifest, store, bytes_per_second, so_far).with_context(reading)
}

fn read_parts(
    manifest: &Manifest,
    store: &dyn Store,
    bytes_per_second: u64,
    so_far: &Mutex<Rehearsed>,
) -> Result<()> {
    catalog::layout(store, manifest)?;
    let checked = |bytes| lock(so_far).checked_bytes += bytes;
    archive::check_sample(manifest, store, bytes_per_second, checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_is_read_too_slowly_is_told_and_refuses_nothing() {
        let (_never, hangs) = mpsc::channel::<()>();
        let rehearsed = within(Duration::from_millis(50), move |so_far| {
            *lock(so_far) = Rehearsed { checked_bytes: 3 << 20, ..Rehearsed::default() };
            let _ = hangs.recv();
            Ok(())
        });
        let rehearsed = rehearsed.unwrap();
        assert!(rehearsed.shown().contains("slow") && rehearsed.problem.is_none(), "{rehearsed:?}");
    }
}
