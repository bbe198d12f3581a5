//! The backup: which generation, its manifest and its layout, and whether all of it is there.

use anyhow::{Context, Result, bail};

use crate::layout::units::shown_time;
use crate::layout::{Layout, schema};
use crate::store::{Manifest, Store, catalog};
use crate::ui::Ui;

/// A generation that can be recovered.
#[derive(Debug)]
pub struct Backup {
    pub store: Box<dyn Store>,
    pub manifest: Manifest,
    pub layout: Layout,
}

/// Fetches manifest and layout of the named generation, or of the newest.
pub fn fetch(store: Box<dyn Store>, generation: Option<&str>, ui: &Ui) -> Result<Backup> {
    let generation = choose(store.as_ref(), generation)?;
    let manifest = catalog::manifest(store.as_ref(), &generation)?;
    let name = catalog::object(&generation, "layout.toml");
    let record = manifest.file.iter().find(|file| file.name == name).with_context(|| {
        format!("the generation {generation} has no layout: it holds files only\nhint: rr restore")
    })?;
    let bytes = catalog::fetch(store.as_ref(), record)?;
    let text = String::from_utf8(bytes).with_context(|| format!("reading {name}"))?;
    let layout = schema::parse(&text).with_context(|| format!("reading {name}"))?;
    let entries = manifest.archive.entries;
    let made = shown_time(&manifest.finished);
    ui.info(format!(
        "{generation} of {} ({}), made {made}, {entries} entries",
        manifest.node, layout.node.os
    ));
    Ok(Backup { store, manifest, layout })
}

fn choose(store: &dyn Store, wanted: Option<&str>) -> Result<String> {
    let all = catalog::generations(store)?;
    let Some(newest) = all.last() else {
        bail!(
            "{} holds no complete backup of this node\nhint: look at the target's directories; --node NAME takes another one",
            store.url()
        );
    };
    match wanted {
        None => Ok(newest.clone()),
        Some(wanted) if all.iter().any(|generation| generation == wanted) => Ok(wanted.to_owned()),
        Some(wanted) => {
            bail!("{} has no generation {wanted}\nhint: it has {}", store.url(), all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TargetOptions, TargetUrl};
    use crate::store::{self, Access};

    #[test]
    fn without_a_backup_or_with_a_wrong_name_the_error_says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let url = TargetUrl::File { dir: dir.path().to_owned() };
        let store = store::open(&url, "node001", Access::Write, &TargetOptions::default()).unwrap();
        let error = choose(store.as_ref(), None).unwrap_err().to_string();
        assert!(error.contains("no complete backup"), "{error}");
        for generation in ["20261121T013500Z", "20261122T013500Z"] {
            store.put_new(&catalog::object(generation, "manifest.json"), b"{}").unwrap();
        }
        // One that was not published does not count.
        store.put(&catalog::object("20261123T013500Z", "layout.toml"), b"").unwrap();
        assert_eq!(choose(store.as_ref(), None).unwrap(), "20261122T013500Z");
        let old = Some("20261121T013500Z");
        assert_eq!(choose(store.as_ref(), old).unwrap(), "20261121T013500Z");
        let error = choose(store.as_ref(), Some("2026")).unwrap_err().to_string();
        assert!(error.contains("20261121T013500Z, 20261122T013500Z"), "{error}");
        let error = fetch(store, None, &Ui::new(crate::ui::Style::Plain)).unwrap_err();
        assert!(format!("{error:#}").contains("manifest.json"), "{error:#}");
    }
}
