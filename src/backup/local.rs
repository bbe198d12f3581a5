//! The rescue system in the node's own boot menu (`rescue.local_entry`).
//!
//! `/boot/rr` holds an image as a backup disk does ([`media`]), and the `menu.cfg` that leads to it.
//! GRUB's own menu is not written: what Debian's and RHEL's `41_custom` put into every grub.cfg reads
//! the `custom.cfg` beside it, and there rr has a block of a few lines, among those of the admin.
//! They show nothing where `/boot/rr/menu.cfg` is not there, as after a recovery: images are in no
//! backup.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::media;
use super::place;
use super::preflight::Job;
use crate::config::{TargetOptions, TargetUrl};
use crate::layout::Layout;
use crate::layout::units::size;
use crate::probe::mounts;
use crate::rescue::stored::{self, FILES, IMAGES};
use crate::rescue::{Image, TargetDevice, menu};
use crate::store::{self, Access, Store, lock};
use crate::sys::fs;
use crate::ui::Ui;

const BOOT: &str = "/boot";
/// The directory in there.
const DIR: &str = "rr";
/// What stays free: a kernel and its initramfs, while they are replaced.
const RESERVE_BYTES: u64 = 128 << 20;
/// No image is smaller.
const LEAST_BYTES: u64 = 32 << 20;
/// How the first line of rr's block begins.
const MARK: &str = "# BEGIN rr:";
const BEGIN: &str = "# BEGIN rr: the rescue system of this node (rescue.local_entry in rr.toml)";
const END: &str = "# END rr";
const OFF: &str = "hint: local_entry = false in [rescue] of rr.toml leaves it out";

/// Why there can't be an entry, as far as it can be known without an image.
pub(super) fn lacks(layout: Option<&Layout>) -> Option<String> {
    let checked = boot().and_then(|boot| {
        let device = device(&boot, layout)?;
        check(&boot, &device)?;
        // The one that is there may go first.
        let (free, old) = if boot.join(DIR).is_dir() {
            room(&*open(&boot, Access::Read)?)?
        } else {
            (fs::free_bytes(&boot)?, 0)
        };
        ensure_room(free + old, LEAST_BYTES)
    });
    checked.err().map(|error| format!("rescue.local_entry: {error:#}"))
}

fn boot() -> Result<PathBuf> {
    Path::new(BOOT).canonicalize().context("looking for /boot")
}

fn device(boot: &Path, layout: Option<&Layout>) -> Result<TargetDevice> {
    let place = place::find(&boot.join(DIR), &mounts::read()?, layout);
    let device = place.and_then(|place| place.target_device);
    device.with_context(|| {
        format!("the filesystem that holds {} has no UUID that is known\n{OFF}", boot.display())
    })
}

/// Whether GRUB would find an image there, and nobody else could read it.
fn check(boot: &Path, device: &TargetDevice) -> Result<()> {
    ensure!(
        device.fs_kind != "vfat",
        "{} is a FAT filesystem, which can't keep the image from other users\n{OFF}",
        boot.display()
    );
    let customs = customs(boot);
    ensure!(
        !customs.is_empty(),
        "no grub.cfg in /boot/grub, /boot/grub2 or /boot/efi/EFI/* reads a custom.cfg beside it\nhint: where the node starts by GRUB: chmod +x /etc/grub.d/41_custom, and update-grub (RHEL: grub2-mkconfig -o /boot/grub2/grub.cfg)"
    );
    customs.iter().try_for_each(|custom| with_block(custom, "").map(drop))
}

/// The directory with rr's image, which no backup has. None where what is there is not rr's.
pub(super) fn own_dir() -> Option<PathBuf> {
    let boot = boot().ok()?;
    is_own(&boot).then(|| boot.join(DIR))
}

fn is_own(boot: &Path) -> bool {
    let has_block = |custom: &PathBuf| {
        let text = std::fs::read(custom).unwrap_or_default();
        text.split(|byte| *byte == b'\n').any(|line| line.starts_with(MARK.as_bytes()))
    };
    std::fs::read(boot.join(DIR).join(menu::MENU)).is_ok_and(|text| menu::is_local(&text))
        || customs(boot).iter().any(has_block)
}

/// Makes it as the configuration wants it: with this image, or gone.
pub(super) fn keep(job: &Job<'_>, image: &Image, ui: &Ui) -> Result<()> {
    if !job.config.rescue.local_entry {
        return remove(Path::new(BOOT), ui)
            .context("removing the rescue system from the node's boot menu");
    }
    let boot = boot()?;
    let device = device(&boot, job.layout.as_ref())?;
    let info = job.rescue_info()?;
    let text = |dir: &str, size_bytes: u64| {
        let dir = device.subdir.as_path().join(dir);
        menu::local(job.config, &info, (&device.fs_uuid, &dir), size_bytes.div_ceil(1 << 20))
    };
    ui.step("Keeping the rescue system in /boot/rr", || put(&boot, &device, image, &text, ui))
        .context("keeping the rescue system in the node's boot menu (rescue.local_entry)")
}

/// The `custom.cfg` of every GRUB menu that reads one.
fn customs(boot: &Path) -> Vec<PathBuf> {
    let mut menus = vec![boot.join("grub/grub.cfg"), boot.join("grub2/grub.cfg")];
    let vendors = std::fs::read_dir(boot.join("efi/EFI")).into_iter().flatten().flatten();
    menus.extend(vendors.map(|vendor| vendor.path().join("grub.cfg")));
    let reads = |menu: &PathBuf| {
        let text = std::fs::read(menu).unwrap_or_default();
        text.windows(11).any(|word| word == b"/custom.cfg")
    };
    menus.retain(reads);
    menus.into_iter().map(|menu| menu.with_file_name("custom.cfg")).collect()
}

fn open(boot: &Path, access: Access) -> Result<Arc<dyn Store>> {
    let url = TargetUrl::File { dir: boot.to_owned() };
    Ok(store::open(&url, DIR, access, &TargetOptions::default())?.into())
}

/// Puts the image and the menu that leads to it; a run that is killed leaves the one before.
fn put(
    boot: &Path,
    device: &TargetDevice,
    image: &Image,
    text: &dyn Fn(&str, u64) -> String,
    ui: &Ui,
) -> Result<()> {
    check(boot, device)?;
    let store = open(boot, Access::Write)?;
    let guard = lock::lock(&store, ui)?;
    store.sweep()?;
    // To the newest image that is whole, which a run that was killed may have left without a menu:
    // the older ones go now.
    media::point(&guard, |dir, size_bytes| Ok(text(dir, size_bytes)))?;
    make_room(&*store, image)?;
    let dir = stored::next(&*store)?;
    for (file, path) in FILES.iter().zip([&image.kernel, &image.initrd]) {
        let name = format!("{dir}{file}");
        if let Err(error) = store.put_file(&name, path) {
            delete(&*store, |object| object.starts_with(&dir))?;
            return Err(error).with_context(|| format!("storing {name} in {}", boot.display()));
        }
    }
    media::point(&guard, |dir, size_bytes| Ok(text(dir, size_bytes)))?;
    let block = block(device);
    customs(boot).iter().try_for_each(|custom| set_block(custom, &block))
}

fn block(device: &TargetDevice) -> String {
    let (uuid, menu) = (&device.fs_uuid, device.subdir.as_path().join(menu::MENU));
    let menu = menu.display();
    format!(
        "{BEGIN}\nif search --no-floppy --fs-uuid --set=rr {uuid}; then\n    if [ -f \"($rr){menu}\" ]; then source \"($rr){menu}\"; fi\nfi\n{END}\n"
    )
}

/// Makes room beside the image that is there, or in its place; never so much that a kernel would no
/// longer find any.
fn make_room(store: &dyn Store, image: &Image) -> Result<()> {
    let newest = stored::newest(store)?;
    delete(store, |name| newest.is_empty() || !name.starts_with(&newest))?;
    let mut need = 0;
    for path in [&image.kernel, &image.initrd] {
        need += path.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    }
    let (free, old) = room(store)?;
    if free >= need + RESERVE_BYTES {
        return Ok(());
    }
    ensure_room(free + old, need)?;
    log::info!("/boot has {} free: the image there goes before the new one comes", size(free));
    store.delete(menu::MENU)?;
    delete(store, |_| true)
}

/// What is free, and what the image takes that is there.
fn room(store: &dyn Store) -> Result<(u64, u64)> {
    let old = stored::size_bytes(store, &stored::newest(store)?)?.unwrap_or_default();
    Ok((store.free_bytes()?.unwrap_or_default(), old))
}

fn ensure_room(free: u64, need: u64) -> Result<()> {
    ensure!(
        free >= need + RESERVE_BYTES,
        "/boot has {} free; the rescue system needs {} there, and {} are to stay free for kernels\nhint: remove old kernels, drivers = \"this-node\" makes a smaller image, or local_entry = false in [rescue] of rr.toml",
        size(free),
        size(need),
        size(RESERVE_BYTES)
    );
    Ok(())
}

/// Deletes those of the images' files that are `unwanted`.
fn delete(store: &dyn Store, unwanted: impl Fn(&str) -> bool) -> Result<()> {
    for object in store.list(IMAGES)?.iter().filter(|object| unwanted(&object.name)) {
        store.delete(&object.name)?;
    }
    Ok(())
}

/// Takes away what [`put`] made; what it did not make stays.
fn remove(boot: &Path, ui: &Ui) -> Result<()> {
    if !is_own(boot) {
        return Ok(());
    }
    for custom in customs(boot) {
        set_block(&custom, "")?;
    }
    let dir = boot.join(DIR);
    if !dir.join(menu::MENU).exists() && !dir.join(IMAGES).exists() {
        return Ok(());
    }
    let store = open(boot, Access::Write)?;
    let guard = lock::lock(&store, ui)?;
    delete(&*store, |_| true)?;
    // Last: by this the next run knows what one that is killed here has left.
    store.delete(menu::MENU)?;
    drop(guard);
    // Where something else is in there it stays.
    for dir in [dir.join(IMAGES), dir] {
        if let Err(error) = std::fs::remove_dir(&dir) {
            log::info!("{} stays: {error}", dir.display());
        }
    }
    ui.info("the rescue system is no longer in the node's boot menu: rescue.local_entry is false");
    Ok(())
}

/// Gives a `custom.cfg` this block in place of the one that it has; all else in it is the admin's.
fn set_block(custom: &Path, block: &str) -> Result<()> {
    let setting = || format!("writing {}", custom.display());
    let (old, new) = with_block(custom, block)?;
    if new == old {
        return Ok(());
    }
    if new.is_empty() {
        return std::fs::remove_file(custom).with_context(setting);
    }
    let write = || -> std::io::Result<()> {
        let dir = custom.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::Builder::new().prefix("custom.cfg.rr-").tempfile_in(dir)?;
        file.write_all(&new)?;
        if let Ok(meta) = custom.metadata() {
            file.as_file().set_permissions(meta.permissions())?;
        }
        file.as_file().sync_all()?;
        file.persist(custom)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().with_context(setting)
}

/// What a `custom.cfg` has, and what it has with this block.
fn with_block(custom: &Path, block: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let reading = || format!("reading {}", custom.display());
    let old = match std::fs::read(custom) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        read => read.with_context(reading)?,
    };
    let mut new = without_block(&old).with_context(reading)?;
    if !block.is_empty() && !new.is_empty() && !new.ends_with(b"\n") {
        new.push(b'\n');
    }
    new.extend_from_slice(block.as_bytes());
    Ok((old, new))
}

/// # Errors
/// A block does not end: what of the rest is the admin's can't be known.
fn without_block(text: &[u8]) -> Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut inside = false;
    let mut endless = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let words = line.trim_ascii_end();
        if words.starts_with(MARK.as_bytes()) {
            endless |= inside;
            inside = true;
        } else if !inside {
            kept.extend_from_slice(line);
        } else if words == END.as_bytes() {
            inside = false;
        }
    }
    ensure!(
        !endless && !inside,
        "a block that begins with \"{MARK}\" has no line \"{END}\": nothing was changed\nhint: delete what is left of the block"
    );
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sys::run::Cmd;
    use crate::ui::Style;

    const GRUB_CFG: &str = include_str!("../../tests/fixtures/grub/debian12.cfg");

    fn ui() -> Ui {
        Ui::new(Style::Plain)
    }

    fn device() -> TargetDevice {
        TargetDevice {
            fs_uuid: "5f0d1e0c-77aa".into(),
            fs_kind: "ext4".into(),
            subdir: Path::new("/rr").to_owned().into(),
        }
    }

    /// A /boot, and an image of which the initrd has this many bytes.
    fn boot(dir: &Path, initrd_bytes: u64) -> (PathBuf, Image) {
        let boot = dir.join("boot");
        std::fs::create_dir_all(boot.join("grub")).unwrap();
        std::fs::write(boot.join("grub/grub.cfg"), GRUB_CFG).unwrap();
        let (kernel, initrd) = (dir.join("k"), dir.join("i"));
        std::fs::write(&kernel, "kernel").unwrap();
        std::fs::File::create(&initrd).unwrap().set_len(initrd_bytes).unwrap();
        (boot, Image { iso: None, kernel, initrd, warnings: Vec::new(), problems: Vec::new() })
    }

    fn text(dir: &str, size_bytes: u64) -> String {
        format!("{dir} {size_bytes}")
    }

    #[test]
    fn an_entry_comes_is_replaced_and_goes_and_the_admins_lines_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, image) = boot(dir.path(), 10);
        let custom = boot.join("grub/custom.cfg");
        std::fs::write(&custom, "menuentry own { true }").unwrap();
        remove(&boot, &ui()).unwrap();
        assert!(!boot.join("rr").exists());
        for (number, left) in [("000001", 1), ("000002", 1)] {
            put(&boot, &device(), &image, &text, &ui()).unwrap();
            let menu = std::fs::read_to_string(boot.join("rr/menu.cfg")).unwrap();
            assert_eq!(menu, format!("rescue/{number}/ 16"));
            assert_eq!(
                std::fs::read(boot.join(format!("rr/rescue/{number}/kernel"))).unwrap(),
                b"kernel"
            );
            let images = store_names(&boot);
            assert_eq!(images.len(), 2 * left, "{images:?}");
        }
        let lines = std::fs::read_to_string(&custom).unwrap();
        assert!(lines.starts_with("menuentry own { true }\n# BEGIN rr"), "{lines}");
        assert_eq!(lines.matches("BEGIN").count(), 1, "{lines}");
        assert!(lines.contains("source \"($rr)/rr/menu.cfg\""), "{lines}");
        use std::os::unix::fs::PermissionsExt;
        let mode = boot.join("rr/rescue/000002/initrd").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);

        // A run that was killed before the menu led to its image.
        std::fs::create_dir(boot.join("rr/rescue/000003")).unwrap();
        std::fs::write(boot.join("rr/rescue/000003/kernel"), "half").unwrap();
        put(&boot, &device(), &image, &text, &ui()).unwrap();
        assert_eq!(store_names(&boot).len(), 2);

        remove(&boot, &ui()).unwrap();
        assert_eq!(std::fs::read_to_string(&custom).unwrap(), "menuentry own { true }\n");
        assert!(!boot.join("rr").exists());
    }

    fn store_names(boot: &Path) -> Vec<String> {
        let objects = open(boot, Access::Read).unwrap().list(IMAGES).unwrap();
        objects.into_iter().map(|object| object.name).collect()
    }

    #[test]
    fn loop_boot_is_never_filled() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: it mounts, which needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            crate::sys::mount::TempMount::mount(&["-t", "tmpfs", "-o", "size=200m", "tmpfs"]);
        let mounted = mounted.unwrap();
        let (small, _) = boot(mounted.path(), 0);
        let (_, image) = boot(dir.path(), 100 << 20);
        let error = put(&small, &device(), &image, &text, &ui()).unwrap_err().to_string();
        assert!(error.contains("hint: ") && error.contains("stay free"), "{error}");
        assert!(store_names(&small).is_empty() && !small.join("grub/custom.cfg").exists());
        // What fits once, and not twice: the old one goes first.
        let (_, image) = boot(dir.path(), 50 << 20);
        for _ in 0..2 {
            put(&small, &device(), &image, &text, &ui()).unwrap();
            assert_eq!(store_names(&small), ["rescue/000001/initrd", "rescue/000001/kernel"]);
        }
        // A run that was killed when its image was whole, and no menu led to it; the next one fails.
        for file in FILES {
            open(&small, Access::Write)
                .unwrap()
                .put(&format!("rescue/000002/{file}"), b"x")
                .unwrap();
        }
        let (_, image) = boot(dir.path(), 150 << 20);
        put(&small, &device(), &image, &text, &ui()).unwrap_err();
        let led = std::fs::read_to_string(small.join("rr/menu.cfg")).unwrap();
        assert_eq!(led, "rescue/000002/ 2");
        assert_eq!(store_names(&small), ["rescue/000002/initrd", "rescue/000002/kernel"]);
        mounted.close().unwrap();
    }

    #[test]
    fn a_block_without_an_end_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, image) = boot(dir.path(), 10);
        let custom = boot.join("grub/custom.cfg");
        let whole = format!("{BEGIN}\nold\n{END}\n");
        for orphan in
            [format!("{BEGIN}\nmenuentry own {{ true }}\n{whole}"), format!("{BEGIN}\nx\n")]
        {
            std::fs::write(&custom, &orphan).unwrap();
            for error in [
                put(&boot, &device(), &image, &text, &ui()).unwrap_err(),
                remove(&boot, &ui()).unwrap_err(),
            ] {
                let error = format!("{error:#}");
                assert!(error.contains("custom.cfg") && error.contains("\nhint: "), "{error}");
            }
            assert_eq!(std::fs::read_to_string(&custom).unwrap(), orphan);
            assert!(!boot.join("rr").exists());
        }
        let two = format!("a\n{whole}b\n{END}\n{whole}");
        assert_eq!(without_block(two.as_bytes()).unwrap(), format!("a\nb\n{END}\n").as_bytes());
    }

    #[test]
    fn what_rr_did_not_make_is_neither_removed_nor_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, image) = boot(dir.path(), 10);
        let foreign = boot.join("rr/rescue");
        std::fs::create_dir_all(&foreign).unwrap();
        std::fs::write(foreign.join("notes"), "x").unwrap();
        std::fs::write(boot.join("rr/menu.cfg"), "menuentry own { true }\n").unwrap();
        assert!(!is_own(&boot));
        remove(&boot, &ui()).unwrap();
        assert!(foreign.join("notes").exists() && boot.join("rr/menu.cfg").exists());
        std::fs::remove_dir_all(boot.join("rr")).unwrap();

        let info =
            toml::from_str("version = 1\nnode = \"n\"\ntarget = \"usb://x\"\nrr = \"1\"").unwrap();
        let menu = |dir: &str, size_bytes| {
            menu::local(&Config::default(), &info, ("5f0d", Path::new(dir)), size_bytes)
        };
        put(&boot, &device(), &image, &menu, &ui()).unwrap();
        // Killed in the middle of its removal: what is left is still known for rr's.
        std::fs::remove_file(boot.join("grub/custom.cfg")).unwrap();
        assert!(is_own(&boot));
        remove(&boot, &ui()).unwrap();
        assert!(!boot.join("rr").exists());
    }

    #[test]
    fn what_stands_against_an_entry_is_known_before_there_is_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, _) = boot(dir.path(), 1);
        check(&boot, &device()).unwrap();
        let fat = TargetDevice { fs_kind: "vfat".into(), ..device() };
        let said = |error: anyhow::Error| format!("{error:#}");
        assert!(said(check(&boot, &fat).unwrap_err()).contains("FAT"));
        assert!(said(super::device(&boot, None).unwrap_err()).contains("UUID"));
        assert!(ensure_room(RESERVE_BYTES, 0).is_ok());
        assert!(said(ensure_room(RESERVE_BYTES, 1).unwrap_err()).contains("stay free"));
        std::fs::write(boot.join("grub/grub.cfg"), "menuentry x { true }\n").unwrap();
        assert!(said(check(&boot, &device()).unwrap_err()).contains("41_custom"));
    }

    #[test]
    fn grub_reads_what_is_written_and_only_then_an_entry_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (boot, _) = boot(dir.path(), 1);
        assert_eq!(customs(&boot), [boot.join("grub/custom.cfg")]);
        std::fs::write(boot.join("grub/grub.cfg"), "menuentry x { true }\n").unwrap();
        assert!(customs(&boot).is_empty());
        let vendor = boot.join("efi/EFI/redhat");
        std::fs::create_dir_all(&vendor).unwrap();
        std::fs::write(vendor.join("grub.cfg"), GRUB_CFG).unwrap();
        assert_eq!(customs(&boot), [vendor.join("custom.cfg")]);
        if crate::sys::tools::find("grub-script-check".as_ref()).is_none() {
            eprintln!("skipped: no grub-script-check here");
            return;
        }
        Cmd::new("grub-script-check").stdin(block(&device())).run().unwrap();
    }
}
