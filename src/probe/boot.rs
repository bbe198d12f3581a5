//! Firmware and boot loader: efivarfs, boot sectors.
//!
//! The firmware's boot entries are read from efivarfs rather than from `efibootmgr -v`, whose
//! format changes with its version and puts optional data behind the path without a mark.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use super::block::names_in;
use crate::layout::{Boot, EfiEntry, Firmware};
use crate::sys::inside;

const EFI: &str = "/sys/firmware/efi";
const EFIVARS: &str = "/sys/firmware/efi/efivars";

/// The vendor GUID of the variables that the UEFI specification defines.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// efivarfs puts the variable's attributes before its value.
const ATTRIBUTES_BYTES: usize = 4;

/// What firmware and kernel say; disks and filesystems are for the caller to fill in. All boot
/// entries that point to a GPT partition are in it, in boot order.
pub fn read() -> Boot {
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    Boot {
        firmware: firmware(),
        secure_boot: secure_boot(),
        kernel_cmdline: cmdline.trim().to_owned(),
        grub_disk: Vec::new(),
        esp: Vec::new(),
        efi_entry: read_entries(),
    }
}

/// The mode in which this machine was started.
pub fn firmware() -> Firmware {
    if Path::new(EFI).exists() { Firmware::Uefi } else { Firmware::Bios }
}

/// Whether the firmware starts signed programs only.
pub fn secure_boot() -> bool {
    variable("SecureBoot").is_some_and(|value| value.first() == Some(&1))
}

fn variable(name: &str) -> Option<Vec<u8>> {
    let value = std::fs::read(Path::new(EFIVARS).join(format!("{name}-{GLOBAL}"))).ok()?;
    Some(value.get(ATTRIBUTES_BYTES..)?.to_vec())
}

/// The numbers of the boot entries in the order in which the firmware tries them.
pub fn order() -> Vec<u16> {
    let order = variable("BootOrder").unwrap_or_default();
    order.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn read_entries() -> Vec<EfiEntry> {
    let mut numbers = order();
    // Entries that are not in the order come last.
    for name in names_in(Path::new(EFIVARS)) {
        let number = name
            .strip_prefix("Boot")
            .and_then(|rest| rest.strip_suffix(GLOBAL)?.strip_suffix('-'))
            .filter(|digits| digits.len() == 4)
            .and_then(|digits| u16::from_str_radix(digits, 16).ok());
        if let Some(number) = number.filter(|n| !numbers.contains(n)) {
            numbers.push(number);
        }
    }
    let entry = |number: u16| {
        let value = variable(&format!("Boot{number:04X}"))?;
        match parse_load_option(number, &value) {
            Ok(entry) => entry,
            Err(error) => {
                log::warn!("skipping the firmware's boot entry {number:04X}: {error:#}");
                None
            }
        }
    };
    numbers.into_iter().filter_map(entry).collect()
}

/// Parses an EFI_LOAD_OPTION (UEFI specification 2.10, section 3.1.3). None for one that does not
/// point to a file on a GPT partition: network boot, the firmware's setup ...
pub fn parse_load_option(number: u16, value: &[u8]) -> Result<Option<EfiEntry>> {
    let header = value.get(..6).context("it is too short")?;
    let active = header[0] & 1 == 1;
    let path_bytes = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let (label, label_bytes) = utf16(&value[6..]).context("its description does not end")?;
    let start = 6 + label_bytes;
    let nodes = value.get(start..start + path_bytes).context("its device path is cut off")?;
    let Some((partition, path)) = parse_device_path(nodes)? else { return Ok(None) };
    Ok(Some(EfiEntry { number, label, partition, path, active }))
}

/// Device path nodes (section 10.3): type, subtype, length, data.
fn parse_device_path(mut nodes: &[u8]) -> Result<Option<(Uuid, String)>> {
    const MEDIA: u8 = 4;
    const HARD_DRIVE: u8 = 1;
    const FILE_PATH: u8 = 4;
    const SIGNATURE_IS_GUID: u8 = 2;
    let (mut partition, mut path) = (None, String::new());
    while let [kind, subtype, low, high, ..] = *nodes {
        let length = usize::from(u16::from_le_bytes([low, high]));
        ensure!(length >= 4 && length <= nodes.len(), "its device path is damaged");
        let (node, rest) = nodes.split_at(length);
        match (kind, subtype) {
            (MEDIA, HARD_DRIVE) if length >= 42 && node[41] == SIGNATURE_IS_GUID => {
                let guid: [u8; 16] = node[24..40].try_into().context("cutting out a GUID")?;
                partition = Some(Uuid::from_bytes_le(guid));
            }
            // A path may be spread over several nodes.
            (MEDIA, FILE_PATH) => path.push_str(&utf16(&node[4..]).context("no end")?.0),
            _ => {}
        }
        nodes = rest;
    }
    Ok(partition.filter(|_| !path.is_empty()).map(|partition| (partition, path)))
}

/// A text that ends with a zero, and how many bytes it takes with that zero.
fn utf16(bytes: &[u8]) -> Option<(String, usize)> {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|unit| *unit == 0)?;
    Some((String::from_utf16_lossy(&units[..end]), (end + 1) * 2))
}

/// Whether the first sector of `device` holds GRUB's boot image, which carries its name in the
/// texts that it prints.
pub fn has_grub(device: &str) -> Result<bool> {
    Ok(boot_code(device)?.windows(4).any(|window| window == b"GRUB"))
}

/// Whether the first sector of `device` holds any code that a BIOS could start.
pub fn has_boot_code(device: &str) -> Result<bool> {
    Ok(boot_code(device)?.iter().any(|byte| *byte != 0))
}

/// The first sector of `device` as far as it holds code.
fn boot_code(device: &str) -> Result<[u8; 440]> {
    let mut code = [0; 440];
    File::open(device)
        .with_context(|| format!("opening {device}"))?
        .read_exact(&mut code)
        .with_context(|| format!("reading the first sector of {device}"))?;
    Ok(code)
}

/// Where GRUB keeps the images that it was installed with on a machine with a BIOS.
pub const GRUB_IMAGES: &[&str] = &["/boot/grub/i386-pc", "/boot/grub2/i386-pc"];

pub const GRUB_INSTALLERS: &[&str] = &["grub-install", "grub2-install"];

/// Whether the system of this tree has a GRUB for a BIOS, wherever that was installed, and the program
/// that installs it.
pub fn has_bios_grub(root: &Path) -> bool {
    inside::program(root, GRUB_INSTALLERS).is_some()
        && GRUB_IMAGES.iter().any(|dir| inside::find(root, dir).is_some_and(|dir| dir.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grub_for_a_bios_is_there_with_its_directory_and_its_program() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        std::fs::create_dir_all(root.join("usr/sbin")).unwrap();
        std::fs::create_dir_all(root.join("boot/grub2/fonts")).unwrap();
        std::fs::write(root.join("usr/sbin/grub2-install"), "").unwrap();
        assert!(!has_bios_grub(root), "installed for no BIOS");
        std::fs::create_dir(root.join("boot/grub2/i386-pc")).unwrap();
        assert!(has_bios_grub(root));
        std::fs::remove_file(root.join("usr/sbin/grub2-install")).unwrap();
        assert!(!has_bios_grub(root));
    }
}
