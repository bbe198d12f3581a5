//! The backup: which generation, its manifest and its layout, and whether all of it is there.

use anyhow::Result;

use crate::layout::Layout;
use crate::layout::units::shown_time;
use crate::store::{Manifest, Store, catalog};
use crate::ui::Ui;

/// A generation that can be recovered.
#[derive(Debug)]
pub struct Backup {
    pub store: Box<dyn Store>,
    pub manifest: Manifest,
    pub layout: Layout,
}

/// Fetches manifest and layout of the named generation, or of the newest that has a layout.
pub fn fetch(store: Box<dyn Store>, generation: Option<&str>, ui: &Ui) -> Result<Backup> {
    let manifest = catalog::find_machine(store.as_ref(), generation)?;
    let layout = catalog::layout(store.as_ref(), &manifest)?;
    if generation.is_none() && catalog::latest(store.as_ref())? != Some(manifest.generation.clone())
    {
        ui.info("newer generations hold just files, and are passed by");
    }
    let entries = manifest.archive.entries;
    let made = shown_time(&manifest.finished);
    ui.info(format!(
        "{} of {} ({}), made {made}, {entries} entries",
        manifest.generation, manifest.node, layout.node.os
    ));
    if !manifest.is_complete() {
        ui.warn("not everything could be read when it was made: rr show says what");
    }
    Ok(Backup { store, manifest, layout })
}
