//! The backup: which generation, its manifest and its layout, and whether all of it is there.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::layout::units::shown_time;
use crate::layout::{Layout, schema};
use crate::store::{Manifest, Store, catalog};
use crate::ui::Ui;

/// A generation that can be recovered.
#[derive(Debug)]
pub struct Backup {
    pub store: Box<dyn Store>,
    pub manifest: Manifest,
    /// What the machine is to be.
    pub layout: Layout,
    /// What it was; another one where the admin has edited the layout.
    pub recorded: Layout,
}

impl Backup {
    /// Takes a layout that the admin has edited in place of the generation's.
    ///
    /// # Errors
    /// It can't be read, or is of another machine.
    pub fn edited(&mut self, file: &Path, ui: &Ui) -> Result<()> {
        self.layout = edited(read_layout(file)?, &self.recorded)
            .with_context(|| format!("taking the layout {}", file.display()))?;
        ui.warn(format!(
            "the disks are made as {} says, and not as {} does",
            file.display(),
            self.manifest.generation
        ));
        Ok(())
    }

    /// Puts the layout of a plan that was refused to where it can be edited, and says how it is used.
    pub fn put_layout(&self, dir: &Path) -> Result<String> {
        let file = dir.join(format!("layout-{}.toml", self.manifest.generation));
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let put = || -> Result<()> {
            let mut out = OpenOptions::new().write(true).create_new(true).open(&file)?;
            Ok(out.write_all(schema::render(&self.recorded)?.as_bytes())?)
        };
        match put() {
            // Somebody may be at it.
            Err(error) if file.exists() => log::info!("{}: {error:#}", file.display()),
            put => put.with_context(|| format!("writing {}", file.display()))?,
        }
        Ok(format!("the layout is in {0}, to be edited: rr recover --layout {0}", file.display()))
    }
}

/// The layout in a file.
pub fn read_layout(file: &Path) -> Result<Layout> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the layout {}", file.display()))?;
    schema::parse(&text).with_context(|| format!("reading {}", file.display()))
}

fn edited(layout: Layout, recorded: &Layout) -> Result<Layout> {
    let (of, node) = (&layout.node.hostname, &recorded.node.hostname);
    ensure!(
        of == node,
        "it is of {of}, the generation is of {node}\nhint: edit that of the generation: rr layout save --gen GENERATION FILE"
    );
    Ok(layout)
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
    Ok(Backup { store, manifest, recorded: layout.clone(), layout })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::raid_node;
    use crate::store::catalog::tests::example;
    use crate::store::{self, Access};

    #[test]
    fn a_refused_layout_is_put_where_it_can_be_edited_and_stays_as_it_was_edited() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display()).parse().unwrap();
        let store = store::open(&url, "node001", Access::Write, &Default::default()).unwrap();
        let manifest = example("G1");
        let (layout, recorded) = (raid_node(), raid_node());
        let backup = Backup { store, manifest, layout, recorded };
        let file = dir.path().join("run/layout-G1.toml");
        let said = backup.put_layout(&dir.path().join("run")).unwrap();
        assert!(said.ends_with(&format!("rr recover --layout {}", file.display())), "{said}");
        assert_eq!(read_layout(&file).unwrap(), raid_node());
        std::fs::write(&file, "edited").unwrap();
        backup.put_layout(&dir.path().join("run")).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"edited");
    }
}
