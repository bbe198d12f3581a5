//! The rescue media at the target.
//!
//! Where they lie is said by [`stored`]. The menu of a backup disk leads to the newest image that is
//! whole, whenever a run is killed; then the others are deleted.

use std::path::Path;

use anyhow::{Context, Result};

use super::preflight::Job;
use crate::config::TargetUrl;
use crate::rescue::stored::{self, FILES, IMAGES};
use crate::rescue::{self, Image};
use crate::store::Store;
use crate::store::catalog::{self, Subject};
use crate::store::lock::LockGuard;

/// Stores the image. Gives the size of the ISO, where one was made.
pub(super) fn put(job: &Job<'_>, guard: &LockGuard, image: &Image) -> Result<Option<u64>> {
    let store = guard.store();
    let put = |name: &str, path: &Path| {
        store.put_file(name, path).with_context(|| format!("storing {name}"))
    };
    let dir = match job.url {
        TargetUrl::Usb(_) => stored::next(store)?,
        _ => String::new(),
    };
    for (file, path) in FILES.iter().zip([&image.kernel, &image.initrd]) {
        put(&format!("{dir}{file}"), path)?;
    }
    let Some(iso) = &image.iso else { return Ok(None) };
    put(&format!("rr-{}.iso", job.node), iso)?;
    let meta = iso.metadata().with_context(|| format!("looking at {}", iso.display()))?;
    Ok(Some(meta.len()))
}

/// Writes this node's entries in the boot menu of a backup disk, which show its generations.
pub(super) fn menu(job: &Job<'_>, guard: &LockGuard) -> Result<()> {
    if !matches!(job.url, TargetUrl::Usb(_)) {
        return Ok(());
    }
    point(guard, |dir, size_bytes| {
        let generations = recoverable(guard.store())?;
        let size_mib = size_bytes.div_ceil(1 << 20);
        let info = job.rescue_info()?;
        Ok(rescue::menu::of_node(job.config, &info, &generations, (dir, size_mib)))
    })
}

/// The generations of the whole machine; those that can't be read, too, as they may be some.
fn recoverable(store: &dyn Store) -> Result<Vec<String>> {
    let mut generations = catalog::generations(store)?;
    generations.retain(|generation| {
        catalog::manifest(store, generation).map_or(true, |m| m.subject() == Subject::Machine)
    });
    Ok(generations)
}

/// Puts the menu that leads to the newest image, and deletes what none leads to any more. `text`
/// gets the image's directory and its size in bytes.
pub(super) fn point(
    guard: &LockGuard,
    text: impl FnOnce(&str, u64) -> Result<String>,
) -> Result<()> {
    let store = guard.store();
    // Without a directory: as rr put them before each image had one.
    let dir = stored::newest(store)?;
    let Some(size_bytes) = stored::size_bytes(store, &dir)? else { return Ok(()) };
    let text = text(&dir, size_bytes)?;
    guard.check()?;
    store.put(rescue::menu::MENU, text.as_bytes())?;
    if !dir.is_empty() {
        let mut objects = store.list(IMAGES)?;
        objects.retain(|object| !object.name.starts_with(&dir));
        let old = objects.iter().map(|object| object.name.as_str());
        old.chain(FILES).try_for_each(|name| store.delete(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::TargetOptions;
    use crate::store::{self, Access, Object, lock};
    use crate::ui::{Style, Ui};

    #[test]
    fn the_menu_never_leads_to_halves_of_two_images() {
        let dir = tempfile::tempdir().unwrap();
        let url = TargetUrl::File { dir: dir.path().to_owned() };
        let store = store::open(&url, "node001", Access::Write, &TargetOptions::default());
        let store: Arc<dyn Store> = store.unwrap().into();
        let guard = lock::lock(&store, &Ui::new(Style::Plain)).unwrap();
        let menu = || {
            point(&guard, |dir, bytes| Ok(format!("{dir} {bytes}"))).unwrap();
            store.get(rescue::menu::MENU).map(|text| String::from_utf8(text).unwrap()).ok()
        };
        let put = |dir: &str, files: &[&str]| {
            files.iter().for_each(|file| store.put(&format!("{dir}{file}"), b"12345").unwrap());
        };
        assert_eq!(menu(), None, "there is no image");
        put("", &FILES);
        assert_eq!(menu().unwrap(), " 10", "as it was before images had directories");

        let next = || stored::next(&*store).unwrap();
        put(&next(), &FILES);
        assert_eq!(next(), "rescue/000002/");
        // Killed in the middle.
        put(&next(), &FILES[..1]);
        assert_eq!(menu().unwrap(), "rescue/000001/ 10");
        let names = |objects: Vec<Object>| objects.into_iter().map(|o| o.name).collect::<Vec<_>>();
        let all = store.list("").unwrap();
        assert!(!names(all).iter().any(|name| name == "kernel" || name.contains("000002")));

        put(&next(), &FILES);
        assert_eq!(menu().unwrap(), "rescue/000002/ 10");
        let left = names(store.list(IMAGES).unwrap());
        assert_eq!(left, ["rescue/000002/initrd", "rescue/000002/kernel"]);
    }
}
