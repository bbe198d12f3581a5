//! `rr format`: a disk that holds the backups of many nodes, and boots their rescue systems on BIOS
//! and on UEFI.
//!
//! | partition | what for |
//! | --- | --- |
//! | 1, BIOS boot | GRUB's core for BIOS |
//! | 2, ESP | GRUB for UEFI, as the fallback loader that firmware starts by itself (signed, if there is one) |
//! | 3, ext4 | `/backup`: the target ([`crate::store::usb`]); `/boot/grub`, `/rr`: the menu |
//!
//! The menu is written once. What it shows of a node is in the node's own tree, so that no backup
//! writes where another does.
//!
//! * [`disk`] which disk it is, what is on it, and whether it may be erased
//! * [`make`] the partitions, the filesystems and what is on them

mod disk;
mod make;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::config::url::is_label;
use crate::layout::units::size;
use crate::rescue::iso::Platforms;
use crate::sys::tools;
use crate::ui::Ui;

#[derive(Debug, Clone)]
pub struct Options {
    pub device: PathBuf,
    /// Of the filesystem.
    pub label: String,
    /// Disks that may be erased although they hold data or can't be unplugged.
    pub erase: Vec<String>,
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
}

/// Smaller than this, it holds no node.
const LEAST_BYTES: u64 = 256 << 20;

/// Makes the disk.
///
/// # Errors
/// Also where nobody agreed to erase it; nothing was written then.
pub fn format(options: &Options, ui: &Ui) -> Result<()> {
    if !is_label(&options.label) {
        bail!(
            "{:?} can't be the label\nhint: 16 letters, digits, dots, dashes and underscores at most",
            options.label
        );
    }
    let found = disk::find(&options.device)?;
    ui.info(found.describe());
    found.refuse(&options.erase)?;
    if found.disk.size_bytes < LEAST_BYTES {
        bail!("{} is too small: {}", found.disk.dev(), size(found.disk.size_bytes));
    }
    let platforms = platforms(ui)?;
    let mut programs =
        vec!["blkid", "mkfs.ext4", "mkfs.vfat", "mount", "partx", "sfdisk", "wipefs"];
    if platforms.bios.is_some() {
        programs.push("grub-install");
    }
    if platforms.serves_uefi() {
        programs.extend(["mcopy", "mmd"]);
    }
    if platforms.serves_uefi() && platforms.signed.is_none() {
        programs.push("grub-mkimage");
    }
    tools::require(&programs)?;
    if options.dry_run {
        ui.info(format!("would erase it and make the target usb://{} of it", options.label));
        return Ok(());
    }
    make::make(&found, &options.label, &platforms, ui)?;
    ui.success(format!(
        "{} is ready: rr --target usb://{} mkbackup",
        found.disk.dev(),
        options.label
    ));
    Ok(())
}

fn platforms(ui: &Ui) -> Result<Platforms> {
    let platforms = Platforms::find();
    match (platforms.bios.is_some(), platforms.serves_uefi()) {
        (false, false) => bail!(
            "GRUB is not installed: the disk could not boot\nhint: install grub-pc-bin and grub-efi-amd64-bin (RHEL-like: grub2-pc-modules and grub2-efi-x64-modules)"
        ),
        (true, false) => {
            ui.warn("the disk will boot on BIOS only: grub-efi-amd64-bin (RHEL-like: grub2-efi-x64-modules) is not installed");
        }
        (false, true) => {
            ui.warn("the disk will boot on UEFI only: grub-pc-bin (RHEL-like: grub2-pc-modules) is not installed");
        }
        (true, true) => {}
    }
    if platforms.uefi.is_some() && platforms.signed.is_none() {
        ui.info("the disk will not boot under Secure Boot: shim-signed and grub-efi-amd64-signed are not installed");
    }
    Ok(platforms)
}
