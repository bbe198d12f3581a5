//! Firmware and boot loader.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Id;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    pub firmware: Firmware,
    #[serde(default)]
    pub secure_boot: bool,
    /// `/proc/cmdline` of the running node.
    #[serde(default)]
    pub kernel_cmdline: String,
    /// BIOS: disks whose first sector holds a GRUB boot image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grub_disk: Vec<Id>,
    /// UEFI: the EFI system partition's filesystem(s).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub esp: Vec<Id>,
    /// UEFI: the firmware's boot entries that point to the node's own disks, in boot order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub efi_entry: Vec<EfiEntry>,
}

/// A `Boot####` variable that points to a file on a GPT partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfiEntry {
    pub number: u16,
    pub label: String,
    /// The GPT partition that holds the loader.
    pub partition: Uuid,
    /// The loader's path with backslashes: `\EFI\debian\shimx64.efi`.
    pub path: String,
    pub active: bool,
}
