//! The rescue media at the target.
//!
//! Where they lie is said by [`stored`]. The menu of a backup disk leads to the newest image that is
//! whole, whenever a run is killed; then the others are deleted.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempPath;

use super::preflight::Job;
use crate::config::{Iso, TargetUrl};
use crate::rescue::carried::Carried;
use crate::rescue::stored::{self, FILES, IMAGES};
use crate::rescue::{self, Image};
use crate::store::Store;
use crate::store::catalog::{self, Subject};
use crate::store::lock::LockGuard;
use crate::store::name::Tag;

/// Where the target is an ISO: the backup that is to be on it, the newest of the machine, and the
/// unfinished ISO. That goes away with this value, and where rr is killed, with the next run.
pub(super) fn inside(job: &Job<'_>, guard: &LockGuard) -> Result<Option<(Carried, TempPath)>> {
    let TargetUrl::Iso(Iso::Path(dir)) = &job.url else { return Ok(None) };
    let manifest = catalog::find_machine(guard.store(), None).context(
        "choosing the backup for the ISO\nhint: rr mkbackup makes one, and the ISO with it",
    )?;
    let tree = dir.join(&job.node);
    let iso = tree.join(Tag::own().part_name(&iso_name(job)));
    let unfinished = TempPath::try_from_path(&iso).context("naming the ISO")?;
    // xorriso would let everybody read it until it is whole.
    let made = File::options().write(true).create_new(true).mode(0o600).open(&iso);
    made.with_context(|| format!("creating {}", iso.display()))?;
    Ok(Some((Carried::new(&manifest, tree, iso)?, unfinished)))
}

fn iso_name(job: &Job<'_>) -> String {
    format!("rr-{}.iso", job.node)
}

/// Stores the image. Gives the size of the ISO, where one was made.
pub(super) fn put(
    job: &Job<'_>,
    guard: &LockGuard,
    image: &Image,
    unfinished: Option<TempPath>,
) -> Result<Option<u64>> {
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
    let meta = iso.metadata().with_context(|| format!("looking at {}", iso.display()))?;
    match unfinished {
        None => put(&iso_name(job), iso)?,
        // It is there, and durable: only its name is not.
        Some(unfinished) => {
            let place = iso.with_file_name(iso_name(job));
            unfinished
                .persist(&place)
                .with_context(|| format!("publishing {}", place.display()))?;
            let dir = File::open(place.parent().unwrap_or(&place)).and_then(|dir| dir.sync_all());
            dir.with_context(|| format!("publishing {}", place.display()))?;
        }
    }
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
