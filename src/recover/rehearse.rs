//! What a recovery begins with, done without any intent to recover: find the target, open it, fetch
//! the newest generation, check a part of its data. Run by the rescue image's own rr on the day of
//! the backup, see [`rehearsal`](crate::rescue::rehearsal). Nothing is written anywhere.

use anyhow::{Context, Result};

use super::target::{self, Target};
use crate::archive;
use crate::config::TargetUrl;
use crate::rescue::RescueInfo;
use crate::rescue::rehearsal::Rehearsed;
use crate::store::catalog::{self, Subject};
use crate::store::{Manifest, Store, StoreError};
use crate::ui::Ui;

/// Rehearses a recovery with what the rescue image knows.
pub fn rehearse(info: &RescueInfo, ui: &Ui) -> Result<Rehearsed> {
    let url: TargetUrl = info.target.parse()?;
    let left_out = |why: &str| Rehearsed { left_out: Some(why.to_owned()), ..Rehearsed::default() };
    match (&url, &info.target_device) {
        (TargetUrl::File { .. }, None) => {
            return Ok(left_out(
                "the target is on nothing that a rescue system mounts by itself; a recovery needs --target",
            ));
        }
        // Looked for here: a recovery goes on by assembling arrays, which is nothing for a node at work.
        (_, Some(device)) => target::expect(device)?,
        _ => {}
    }
    let opened = Target::locate(&url, info.target_device.as_ref(), ui).and_then(|target| {
        let store = target.open(&info.node, &info.options())?;
        Ok((target, store))
    });
    let (target, store) = match opened {
        Err(error) if info.asks_login && is_denied(&error) => {
            return Ok(left_out(
                "the target answers and wants the login, which is not in the image and typed in at a recovery (target_options.read_login)",
            ));
        }
        opened => opened?,
    };
    let rehearsed = read(store.as_ref());
    // What it has open keeps its filesystem mounted.
    drop(store);
    drop(target);
    rehearsed
}

fn is_denied(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::Denied { .. })))
}

/// Fetches the newest generation of the machine, and checks a part of it.
fn read(store: &dyn Store) -> Result<Rehearsed> {
    let Some(manifest) = newest(store)? else { return Ok(Rehearsed::default()) };
    let reading = || format!("reading the generation {}", manifest.generation);
    catalog::layout(store, &manifest).with_context(reading)?;
    let checked_bytes = archive::check_sample(&manifest, store).with_context(reading)?;
    Ok(Rehearsed { generation: Some(manifest.generation), checked_bytes, left_out: None })
}

/// As a recovery chooses it, but that there may be none.
fn newest(store: &dyn Store) -> Result<Option<Manifest>> {
    for generation in catalog::generations(store)?.iter().rev() {
        let manifest = catalog::manifest(store, generation)?;
        if manifest.subject() == Subject::Machine {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}
