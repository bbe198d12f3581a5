//! The initramfs: rebuilt only if it can't reach the new disks.
//!
//! Rebuilding takes minutes and changes what came back, so it is done for a reason: a driver of
//! the disks that hold the system is neither in the node's initramfs nor built into its kernel
//! (the node moved to another controller), or an identity that the initramfs may carry changed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::chroot::Chroot;
use crate::sys::inside;
use crate::sys::run::Cmd;

/// Listing unpacks some hundred megabytes at worst.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);
/// With all modules on a slow machine this has taken eight minutes.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

const MODULES: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];

/// Whether the tree has the modules of this kernel.
pub fn has_modules(root: &Path, version: &str) -> bool {
    MODULES.iter().any(|dir| inside::names(root, dir).iter().any(|name| name == version))
}

/// The drivers that an initramfs lacks.
///
/// `initrd` is its path in the tree; of a kernel whose `version` is not known, what is built into any
/// counts. None for the answer where the tree has no program that can list it.
pub fn lacking(
    chroot: &Chroot,
    root: &Path,
    initrd: &Path,
    version: Option<&str>,
    drivers: &BTreeSet<String>,
) -> Result<Option<BTreeSet<String>>> {
    let Some(program) = inside::program(root, &["lsinitramfs", "lsinitrd"]) else {
        return Ok(None);
    };
    let output = chroot.output(&Cmd::new(program).arg(initrd), LIST_TIMEOUT)?;
    if !output.success() || output.stdout.is_empty() {
        bail!("{} can't be read: it is damaged", initrd.display());
    }
    let mut has = modules(&output.text());
    for dir in MODULES {
        let all = inside::names(root, dir);
        for version in all.iter().filter(|name| version.is_none_or(|version| version == *name)) {
            let builtin = Path::new(dir).join(version).join("modules.builtin");
            has.extend(modules(&inside::read(root, builtin).unwrap_or_default()));
        }
    }
    Ok(Some(drivers.difference(&has).cloned().collect()))
}

/// The names of all kernel modules (`virtio_blk`) in a listing of files.
fn modules(listing: &str) -> BTreeSet<String> {
    let module = |word: &str| {
        let name = word.rsplit('/').next()?;
        let (name, end) = name.split_once(".ko")?;
        matches!(end, "" | ".xz" | ".zst" | ".gz").then(|| name.replace('-', "_"))
    };
    listing.split_ascii_whitespace().filter_map(module).collect()
}

/// Builds the initramfs of one kernel with the restored system's own program.
pub fn rebuild(
    chroot: &Chroot,
    root: &Path,
    initrd: &Path,
    version: &str,
    drivers: &BTreeSet<String>,
) -> Result<()> {
    let command = if let Some(program) = inside::program(root, &["update-initramfs"]) {
        Cmd::new(program).args(["-u", "-k", version])
    } else if let Some(program) = inside::program(root, &["dracut"]) {
        let names: Vec<_> = drivers.iter().map(String::as_str).collect();
        Cmd::new(program)
            .args(["--force", "--add-drivers", &names.join(" ")])
            .arg(initrd)
            .arg(version)
    } else {
        bail!("the node's files have neither update-initramfs nor dracut");
    };
    chroot
        .run(&command, BUILD_TIMEOUT)
        .with_context(|| format!("building the initramfs of kernel {version}"))
}

/// Whether a file starts as an initramfs does: a cpio archive, or one compressed by any program
/// that Linux can undo.
pub fn is_initramfs(head: &[u8]) -> bool {
    let magics: [&[u8]; 9] = [
        b"070701",
        b"070702",
        &[0x1f, 0x8b],
        &[0x28, 0xb5, 0x2f, 0xfd],
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x02, 0x21, 0x4c, 0x18],
        b"BZh",
        &[0x5d, 0x00, 0x00],
        &[0x89, b'L', b'Z', b'O'],
    ];
    magics.iter().any(|magic| head.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_every_kind_of_listing() {
        let lsinitramfs = "bin\nusr/lib/modules/6.1.0-28-amd64/kernel/drivers/block/virtio_blk.ko\n\
                           usr/lib/modules/6.12.6-amd64/kernel/drivers/nvme/host/nvme.ko.xz\n";
        let lsinitrd = "-rw-r--r--   1 root     root        12345 Jan  1  1970 usr/lib/modules/5.14.0/kernel/drivers/scsi/sd-mod.ko.xz\n\
                        lrwxrwxrwx   1 root     root            7 Jan  1  1970 bin -> usr/bin\n";
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\nkernel/x.kox\n";
        let names = |text| modules(text).into_iter().collect::<Vec<_>>();
        assert_eq!(names(lsinitramfs), ["nvme", "virtio_blk"]);
        assert_eq!(names(lsinitrd), ["sd_mod"]);
        assert_eq!(names(builtin), ["virtio_pci"]);
    }

    #[test]
    fn every_compression_is_known() {
        assert!(is_initramfs(b"070701000"));
        assert!(is_initramfs(&[0x28, 0xb5, 0x2f, 0xfd, 0]));
        assert!(!is_initramfs(b"<html>"));
        assert!(!is_initramfs(b""));
    }
}
