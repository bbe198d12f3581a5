//! UEFI: the firmware's boot entries, and the loader under the path that firmware tries by itself.
//!
//! The files of the EFI system partition came back with the archive. What the firmware keeps in
//! its own memory did not: a new mainboard, or a wiped one, knows nothing of `\EFI\debian`.

use std::path::Path;

use anyhow::{Context, Result};
use uuid::Uuid;

use super::super::sysfs::{self, Slot, Sysfs};
use super::Tree;
use crate::layout::{Boot, EfiEntry};
use crate::probe::boot;
use crate::probe::devices::Devices;
use crate::probe::esp::{Esp, fallback_path, file, unnamed_loaders};
use crate::sys::fs::copy;
use crate::sys::run::Cmd;
use crate::ui::Ui;

const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// Whether this system can change the firmware's variables.
pub fn has_variables() -> bool {
    std::fs::read_dir(EFIVARS).is_ok_and(|mut entries| entries.next().is_some())
}

/// Has a fallback loader on each EFI system partition that the firmware may look at: what its first entry
/// starts or, where no entry that was recorded is of use, what is likely to be a loader.
fn ensure_fallbacks(
    esps: &[Esp],
    boot: &Boot,
    arch: &str,
    filesystems: &[&str],
    changed: &mut Vec<String>,
    ui: &Ui,
) -> Result<()> {
    let none_known = !esps.iter().any(|esp| esp.has_entries(boot));
    for esp in esps {
        let here = esp.entries(boot);
        let first = here.iter().find(|entry| entry.active).or(here.first());
        let looked_at = none_known || esp.has_entries(boot);
        let path = match first {
            Some(entry) => Some(entry.path.clone()),
            None if looked_at => {
                let found = unnamed_loaders(&esp.dir, arch, filesystems);
                if found.len() > 1 && file(&esp.dir, fallback_path("", arch)).is_none() {
                    ui.warn(format!(
                        "no boot entry of the firmware is known: {} is started, and not {}",
                        found[0],
                        found[1..].join(" or ")
                    ));
                }
                found.into_iter().next()
            }
            None => None,
        };
        if let Some(path) = path
            && ensure_fallback(&esp.dir, &path, arch)?
        {
            changed.push(format!("{} is a copy of {path}", fallback_path(&path, arch)));
        }
    }
    Ok(())
}

/// Has the machine start: by the firmware's entries where it takes them, else by a fallback loader.
pub fn fix(tree: &Tree<'_>, changed: &mut Vec<String>, ui: &Ui) -> Result<()> {
    let (boot, arch) = (&tree.recorded.boot, tree.recorded.node.arch.as_str());
    let esps = Esp::all(&tree.plan.layout, tree.root);
    let filesystems: Vec<&str> = tree.plan.layout.fs.iter().map(|fs| fs.uuid.as_str()).collect();
    ensure_fallbacks(&esps, boot, arch, &filesystems, changed, ui)?;
    let mut entries = Vec::new();
    for esp in &esps {
        entries.extend(esp.entries(boot).into_iter().map(|entry| {
            let fallback = fallback_path(&entry.path, arch);
            Wanted { entry, has_fallback: file(&esp.dir, fallback).is_some() }
        }));
    }
    // In the order in which the firmware tried them.
    let recorded = &tree.recorded.boot.efi_entry;
    entries.sort_by_key(|wanted| recorded.iter().position(|entry| entry == wanted.entry));
    if has_variables() {
        return restore_entries(&entries, tree.devices, ui);
    }
    ui.info(
        "this rescue system can't change the firmware's boot entries: the firmware will start the \
         loader by its fallback path",
    );
    Ok(())
}

/// A recorded boot entry whose file is there.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    entry: &'a EfiEntry,
    /// Whether the firmware finds a loader on this entry's partition without any entry.
    has_fallback: bool,
}

/// Makes every recorded boot entry exist once, in the recorded order, before all others. What is
/// there already is kept as it is. A firmware that takes none (its memory is full, or locked) starts
/// the fallback loader.
fn restore_entries(entries: &[Wanted<'_>], devices: &Devices, ui: &Ui) -> Result<()> {
    let first = numbers(entries, |entry| find_or_create(entry, devices, ui), ui)?;
    let now = boot::order();
    let wanted = order(&first, &now);
    if wanted != now {
        let list: Vec<_> = wanted.iter().map(|n| format!("{n:04X}")).collect();
        let set = Cmd::new("efibootmgr").args(["--quiet", "--bootorder", &list.join(",")]).run();
        if let Err(error) = set {
            without(entries.iter().all(|wanted| wanted.has_fallback), error, ui)?;
        }
    }
    Ok(())
}

/// The numbers of the entries, as far as the firmware has them.
fn numbers(
    entries: &[Wanted<'_>],
    number: impl Fn(&EfiEntry) -> Result<u16>,
    ui: &Ui,
) -> Result<Vec<u16>> {
    let mut numbers = Vec::new();
    for wanted in entries {
        match number(wanted.entry) {
            Ok(number) => numbers.push(number),
            Err(error) => without(wanted.has_fallback, error, ui)?,
        }
    }
    Ok(numbers)
}

/// What the firmware did not take is no reason to fail where it can start without.
fn without(has_fallback: bool, error: anyhow::Error, ui: &Ui) -> Result<()> {
    if !has_fallback {
        return Err(error);
    }
    ui.warn(format!(
        "{error:#}: the firmware has to start the loader by its fallback path, on some machines only \
         when that disk is chosen in its setup"
    ));
    Ok(())
}

fn find_or_create(entry: &EfiEntry, devices: &Devices, ui: &Ui) -> Result<u16> {
    if let Some(number) = find(&boot::read().efi_entry, entry) {
        ui.info(format!("the firmware's entry Boot{number:04X} {:?} is there", entry.label));
        return Ok(number);
    }
    create(entry, devices)?;
    let number = find(&boot::read().efi_entry, entry).with_context(|| {
        format!("the firmware did not keep the boot entry {:?} for {}", entry.label, entry.path)
    })?;
    ui.info(format!("made the firmware's entry Boot{number:04X} {:?}", entry.label));
    Ok(number)
}

/// The entry of the firmware that starts the same file on the same partition.
fn find(there: &[EfiEntry], wanted: &EfiEntry) -> Option<u16> {
    let same = |entry: &&EfiEntry| {
        entry.partition == wanted.partition && entry.path.eq_ignore_ascii_case(&wanted.path)
    };
    there.iter().find(same).map(|entry| entry.number)
}

fn create(entry: &EfiEntry, devices: &Devices) -> Result<()> {
    let Slot { disk, number } = slot(&entry.partition, devices)?;
    let create = if entry.active { "--create" } else { "--create-only" };
    Cmd::new("efibootmgr")
        .args(["--quiet", create, "--disk", &format!("/dev/{disk}"), "--part"])
        .args([&number.to_string(), "--label", &entry.label, "--loader", &entry.path])
        .run()
        .with_context(|| format!("making the firmware's boot entry {:?}", entry.label))
}

/// The disk and the number of the partition with this GUID.
fn slot(partition: &Uuid, devices: &Devices) -> Result<Slot> {
    let dev = devices
        .by_tag("PARTUUID", &partition.to_string())
        .with_context(|| format!("no partition has the GUID {partition}"))?;
    Sysfs::default()
        .slot(&sysfs::kernel_name(dev)?)?
        .with_context(|| format!("{} is no partition", dev.display()))
}

/// `first`, then what is left of `now`, each once.
fn order(first: &[u16], now: &[u16]) -> Vec<u16> {
    let mut order: Vec<u16> = Vec::new();
    for number in first.iter().chain(now) {
        if !order.contains(number) {
            order.push(*number);
        }
    }
    order
}

/// Puts the loader of this path under the fallback path where there is none. A shim starts the GRUB
/// that lies beside it, and GRUB finds its configuration by the directory it was built for
/// (`\EFI\debian`), so the vendor's loaders are copied and nothing else.
///
/// Returns whether something was copied.
fn ensure_fallback(esp: &Path, path: &str, arch: &str) -> Result<bool> {
    let fallback = fallback_path(path, arch);
    if file(esp, fallback).is_some() {
        return Ok(false);
    }
    let loader =
        file(esp, path).with_context(|| format!("{path} is not on the EFI system partition"))?;
    let dir = esp.join("EFI/BOOT");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let beside = loader.parent().unwrap_or(esp);
    for name in names_of_loaders(beside)? {
        if name.to_ascii_lowercase().starts_with("shim") || file(&dir, &name).is_some() {
            continue;
        }
        copy(&beside.join(&name), &dir.join(name))?;
    }
    let name = fallback.rsplit('\\').next().unwrap_or(fallback);
    copy(&loader, &dir.join(name))?;
    Ok(true)
}

/// GRUB and MokManager in the vendor's directory: what a shim may start. Not `fbx64.efi`: beside
/// a fallback shim that one makes firmware entries and reboots.
fn names_of_loaders(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("reading {}", dir.display()))?.file_name();
        let name = name.to_string_lossy().into_owned();
        let lower = name.to_ascii_lowercase();
        if lower.ends_with(".efi") && (lower.starts_with("grub") || lower.starts_with("mm")) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::esp::tests::entry;

    #[test]
    fn an_entry_is_the_same_by_partition_and_path() {
        let there = [entry(3, r"\EFI\debian\grubx64.efi"), entry(10, r"\EFI\DEBIAN\SHIMX64.EFI")];
        let wanted = entry(0, r"\EFI\debian\shimx64.efi");
        assert_eq!(find(&there, &wanted), Some(10));
        let elsewhere = EfiEntry { partition: Uuid::from_u128(2), ..wanted };
        assert_eq!(find(&there, &elsewhere), None);
    }

    #[test]
    fn a_firmware_that_takes_no_entry_has_to_find_a_fallback() {
        let (kept, lost) = (entry(1, r"\EFI\debian\shimx64.efi"), entry(2, r"\EFI\x\x.efi"));
        let wanted = |has_fallback| [&lost, &kept].map(|entry| Wanted { entry, has_fallback });
        let number = |entry: &EfiEntry| match entry.number {
            1 => Ok(7),
            _ => anyhow::bail!("no space left"),
        };
        let ui = Ui::detect(true);
        assert_eq!(numbers(&wanted(true), number, &ui).unwrap(), [7]);
        assert!(ui.warnings()[0].starts_with("no space left: the firmware"), "{:?}", ui.warnings());
        assert!(numbers(&wanted(false), number, &ui).is_err());
    }

    #[test]
    fn the_nodes_own_entries_come_first_and_none_twice() {
        assert_eq!(order(&[7, 3], &[0, 3, 1]), [7, 3, 0, 1]);
        assert_eq!(order(&[], &[2, 1]), [2, 1]);
    }

    #[test]
    fn a_missing_fallback_is_made_of_shim_and_what_it_starts() {
        let dir = tempfile::tempdir().unwrap();
        let esp = dir.path();
        std::fs::create_dir_all(esp.join("EFI/debian")).unwrap();
        for name in ["shimx64.efi", "grubx64.efi", "mmx64.efi", "fbx64.efi", "grub.cfg"] {
            std::fs::write(esp.join("EFI/debian").join(name), name).unwrap();
        }
        let shim = r"\EFI\DEBIAN\SHIMX64.EFI";
        assert!(ensure_fallback(esp, shim, "x86_64").unwrap());
        assert!(!ensure_fallback(esp, shim, "x86_64").unwrap());
        let read = |name: &str| std::fs::read_to_string(esp.join("EFI/BOOT").join(name));
        assert_eq!(read("BOOTX64.EFI").unwrap(), "shimx64.efi");
        assert_eq!(read("grubx64.efi").unwrap(), "grubx64.efi");
        assert_eq!(read("mmx64.efi").unwrap(), "mmx64.efi");
        assert!(read("fbx64.efi").is_err());
        std::fs::remove_dir_all(esp.join("EFI/BOOT")).unwrap();
        assert!(ensure_fallback(esp, r"\EFI\lost.efi", "x86_64").is_err());
    }

    #[test]
    fn a_firmware_without_a_known_entry_finds_a_fallback() {
        let tmp = tempfile::tempdir().unwrap();
        let esp = |name: &str, number: u128| {
            let dir = tmp.path().join(name);
            std::fs::create_dir_all(dir.join("EFI/debian")).unwrap();
            std::fs::write(dir.join("EFI/debian/shimx64.efi"), name).unwrap();
            Esp { dir, partitions: [uuid::Uuid::from_u128(number)].into() }
        };
        let made = |esp: &Esp, others: &[Esp], boot: &Boot| {
            let esps = [std::slice::from_ref(esp), others].concat();
            let mut changed = Vec::new();
            let ui = Ui::new(crate::ui::Style::Plain);
            ensure_fallbacks(&esps, boot, "x86_64", &[], &mut changed, &ui).unwrap();
            (esp.dir.join("EFI/BOOT/BOOTX64.EFI").is_file(), changed.join("\n"))
        };
        let said = r"\EFI\BOOT\BOOTX64.EFI is a copy of \EFI\debian\shimx64.efi";
        assert_eq!(made(&esp("none", 1), &[], &Boot::default()), (true, said.to_owned()));
        let entry = |number: u128, path: &str| crate::layout::EfiEntry {
            number: 1,
            label: String::new(),
            partition: uuid::Uuid::from_u128(number),
            path: path.into(),
            active: true,
        };
        let stale = Boot { efi_entry: vec![entry(2, r"\EFI\old.efi")], ..Boot::default() };
        assert_eq!(made(&esp("stale", 2), &[], &stale), (true, said.to_owned()));
        // A copy for a bad day stays as it is.
        let path = r"\EFI\debian\shimx64.efi";
        let known = Boot { efi_entry: vec![entry(3, path)], ..Boot::default() };
        assert_eq!(made(&esp("copy", 4), &[esp("own", 3)], &known), (false, said.to_owned()));
    }
}
