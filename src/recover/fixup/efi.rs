//! UEFI: the firmware's boot entries, and the loader under the path that firmware tries by itself.
//!
//! The files of the EFI system partition came back with the archive. What the firmware keeps in
//! its own memory did not: a new mainboard, or a wiped one, knows nothing of `\EFI\debian`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use uuid::Uuid;

use super::super::devices::Devices;
use super::super::sysfs::{self, Slot, Sysfs};
use crate::layout::{EfiEntry, Layout};
use crate::sys::run::Cmd;
use crate::ui::Ui;

const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// What `efibootmgr -v` shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nvram {
    pub order: Vec<u16>,
    entries: Vec<(u16, String)>,
}

impl Nvram {
    /// Parses the output of efibootmgr, of version 17 (`/File(\EFI\...)`) and 18 (`/\EFI\...`).
    pub fn parse(text: &str) -> Nvram {
        let mut nvram = Nvram::default();
        for line in text.lines() {
            if let Some(list) = line.strip_prefix("BootOrder: ") {
                nvram.order = list
                    .split(',')
                    .filter_map(|n| u16::from_str_radix(n.trim(), 16).ok())
                    .collect();
            } else if let Some(rest) = line.strip_prefix("Boot")
                && let Some(number) = rest.get(..4).and_then(|n| u16::from_str_radix(n, 16).ok())
                && rest[4..].starts_with(['*', ' '])
            {
                nvram.entries.push((number, rest[5..].to_owned()));
            }
        }
        nvram
    }

    /// The entry that starts the file `path` on the GPT partition `partition`.
    pub fn find(&self, partition: &Uuid, path: &str) -> Option<u16> {
        let device = format!("gpt,{partition},");
        let path = path.to_ascii_lowercase();
        self.entries
            .iter()
            .find(|(_, text)| {
                let text = text.to_ascii_lowercase();
                let Some((_, rest)) = text.split_once(&device) else { return false };
                let Some((_, file)) = rest.split_once(")/") else { return false };
                // What follows the path is an end of the node, or data for the loader.
                let after = file.strip_prefix("file(").unwrap_or(file).strip_prefix(&path);
                after.is_some_and(|rest| {
                    !rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '.')
                })
            })
            .map(|(number, _)| *number)
    }
}

/// Whether this system can change the firmware's variables.
pub fn has_variables() -> bool {
    std::fs::read_dir(EFIVARS).is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes every recorded boot entry exist once, in the recorded order, before all others. What is
/// there already is kept as it is.
pub fn restore_entries(entries: &[EfiEntry], devices: &Devices, ui: &Ui) -> Result<()> {
    let mut first = Vec::new();
    for entry in entries {
        let before = nvram()?;
        if let Some(number) = before.find(&entry.partition, &entry.path) {
            ui.info(format!("the firmware's entry Boot{number:04X} {:?} is there", entry.label));
            first.push(number);
            continue;
        }
        create(entry, devices)?;
        let number = nvram()?.find(&entry.partition, &entry.path).with_context(|| {
            format!("the firmware did not keep the boot entry {:?} for {}", entry.label, entry.path)
        })?;
        ui.info(format!("made the firmware's entry Boot{number:04X} {:?}", entry.label));
        first.push(number);
    }
    let now = nvram()?.order;
    let wanted = order(&first, &now);
    if wanted != now {
        let list: Vec<_> = wanted.iter().map(|n| format!("{n:04X}")).collect();
        Cmd::new("efibootmgr").args(["--quiet", "--bootorder", &list.join(",")]).run()?;
    }
    Ok(())
}

fn nvram() -> Result<Nvram> {
    // The label is any bytes to the firmware.
    let stdout = Cmd::new("efibootmgr").arg("-v").stdout()?;
    Ok(Nvram::parse(&String::from_utf8_lossy(&stdout)))
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

/// Where the EFI system partitions of the layout are mounted below `root`.
pub fn esp_dirs(layout: &Layout, root: &Path) -> Vec<PathBuf> {
    layout
        .mount
        .iter()
        .filter(|mount| layout.boot.esp.contains(&mount.fs))
        .map(|mount| root.join(mount.path.as_path().strip_prefix("/").unwrap_or(Path::new(""))))
        .collect()
}

/// The file that an entry's path (`\EFI\debian\shimx64.efi`) means on a mounted ESP. Letters count
/// alike, as on FAT.
pub fn file(esp: &Path, path: &str) -> Option<PathBuf> {
    let mut at = esp.to_owned();
    for part in path.split(['\\', '/']).filter(|part| !part.is_empty()) {
        let found = std::fs::read_dir(&at)
            .ok()?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().eq_ignore_ascii_case(part))?;
        at = found.path();
    }
    at.is_file().then_some(at)
}

/// The name that firmware tries by itself on a disk without an entry (UEFI specification 2.10,
/// section 3.5.1.1), by the architecture in the loader's own name.
pub fn fallback_path(loader: &str, arch: &str) -> &'static str {
    let loader = loader.to_ascii_lowercase();
    let has = |suffix: &str| loader.ends_with(suffix);
    match arch {
        _ if has("x64.efi") => r"\EFI\BOOT\BOOTX64.EFI",
        _ if has("aa64.efi") => r"\EFI\BOOT\BOOTAA64.EFI",
        _ if has("ia32.efi") => r"\EFI\BOOT\BOOTIA32.EFI",
        "aarch64" => r"\EFI\BOOT\BOOTAA64.EFI",
        _ => r"\EFI\BOOT\BOOTX64.EFI",
    }
}

/// Puts the loader of `entry` under the fallback path where there is none. A shim starts the GRUB
/// that lies beside it, and GRUB finds its configuration by the directory it was built for
/// (`\EFI\debian`), so the vendor's loaders are copied and nothing else.
///
/// Returns whether something was copied.
pub fn ensure_fallback(esp: &Path, entry: &EfiEntry, arch: &str) -> Result<bool> {
    let fallback = fallback_path(&entry.path, arch);
    if file(esp, fallback).is_some() {
        return Ok(false);
    }
    let loader = file(esp, &entry.path)
        .with_context(|| format!("{} is not on the EFI system partition", entry.path))?;
    let dir = esp.join("EFI/BOOT");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let beside = loader.parent().unwrap_or(esp);
    for name in names_of_loaders(beside)? {
        if name.to_ascii_lowercase().starts_with("shim") || file(&dir, &name).is_some() {
            continue;
        }
        copy(&beside.join(&name), &dir.join(&name))?;
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

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "feb4246b-0490-4823-8219-a4198ebab99e";
    /// efibootmgr 17 (Debian 11 and 12): data after the path follows the parenthesis unescaped.
    const V17: &str = "\
BootCurrent: 0003
Timeout: 1 seconds
BootOrder: 0003,0000,000A
Boot0000* UEFI QEMU DVD-ROM QM00003 \tPciRoot(0x0)/Pci(0x1f,0x2)/Sata(1,65535,0)N.....YM....R,Y.
Boot0001* EFI Internal Shell\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(7c04a583-9e3e-4f1c-ad65-e05268d0b4d1)
Boot0003* debian\tHD(1,GPT,feb4246b-0490-4823-8219-a4198ebab99e,0x800,0x82000)/File(\\EFI\\DEBIAN\\GRUBX64.EFI)..BO
Boot000A  debian old\tHD(1,GPT,feb4246b-0490-4823-8219-a4198ebab99e,0x800,0x82000)/File(\\EFI\\debian\\shimx64.efi)
MirroredPercentageAbove4G: 0.00
";
    /// efibootmgr 18 (Debian 13): no parenthesis, and with -v the bytes of the path.
    const V18: &str = "\
BootCurrent: 0003
Timeout: 0 seconds
BootOrder: 0003,0000
Boot0000* Windows Boot Manager\tHD(1,GPT,feb4246b-0490-4823-8219-a4198ebab99e,0x800,0x82000)/\\EFI\\MICROSOFT\\BOOT\\BOOTMGFW.EFI57494e444f5753
Boot0003* debian\tHD(1,GPT,feb4246b-0490-4823-8219-a4198ebab99e,0x800,0x82000)/\\EFI\\debian\\shimx64.efi
      dp: 04 01 2a 00 01 00 00 00 00 08 00 00 00 00 00 00
";

    #[test]
    fn entries_are_found_by_partition_and_path_in_both_formats() {
        let guid: Uuid = GUID.parse().unwrap();
        let other = Uuid::from_u128(1);
        let nvram = Nvram::parse(V17);
        assert_eq!(nvram.order, [3, 0, 0xA]);
        assert_eq!(nvram.find(&guid, r"\EFI\debian\grubx64.efi"), Some(3));
        assert_eq!(nvram.find(&guid, r"\EFI\debian\shimx64.efi"), Some(0xA));
        assert_eq!(nvram.find(&other, r"\EFI\debian\shimx64.efi"), None);
        assert_eq!(nvram.find(&guid, r"\EFI\debian\shimx64"), None);
        let nvram = Nvram::parse(V18);
        assert_eq!(nvram.find(&guid, r"\EFI\debian\shimx64.efi"), Some(3));
        assert_eq!(nvram.find(&guid, r"\EFI\Microsoft\Boot\bootmgfw.efi"), Some(0));
        assert_eq!(nvram.find(&guid, r"\EFI\debian\grubx64.efi"), None);
        assert_eq!(Nvram::parse("EFI variables are not supported"), Nvram::default());
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
        let entry = EfiEntry {
            number: 3,
            label: "debian".into(),
            partition: GUID.parse().unwrap(),
            path: r"\EFI\DEBIAN\SHIMX64.EFI".into(),
            active: true,
        };
        assert!(ensure_fallback(esp, &entry, "x86_64").unwrap());
        assert!(!ensure_fallback(esp, &entry, "x86_64").unwrap());
        let read = |name: &str| std::fs::read_to_string(esp.join("EFI/BOOT").join(name));
        assert_eq!(read("BOOTX64.EFI").unwrap(), "shimx64.efi");
        assert_eq!(read("grubx64.efi").unwrap(), "grubx64.efi");
        assert_eq!(read("mmx64.efi").unwrap(), "mmx64.efi");
        assert!(read("fbx64.efi").is_err());
        let lost = EfiEntry { path: r"\EFI\lost.efi".into(), ..entry };
        std::fs::remove_dir_all(esp.join("EFI/BOOT")).unwrap();
        assert!(ensure_fallback(esp, &lost, "x86_64").is_err());
    }

    #[test]
    fn the_fallback_is_named_by_architecture() {
        assert_eq!(
            fallback_path(r"\EFI\debian\grubaa64.efi", "aarch64"),
            r"\EFI\BOOT\BOOTAA64.EFI"
        );
        assert_eq!(fallback_path(r"\loader.efi", "x86_64"), r"\EFI\BOOT\BOOTX64.EFI");
    }
}
