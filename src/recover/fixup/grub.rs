//! GRUB on a BIOS: the boot image in the first sector of every disk that had one.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::chroot::Chroot;
use super::super::inside;
use crate::sys::run::Cmd;

/// `grub-install` writes some megabytes and asks every device for its map; more is a hang.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Where GRUB keeps the images that it was installed with.
const IMAGES: &[&str] = &["/boot/grub/i386-pc", "/boot/grub2/i386-pc"];

/// Installs the restored system's GRUB on `disk` (`/dev/vda`) and looks whether it is there.
///
/// With `as_recorded`, the images that came back with the archive are written to the disk again,
/// which changes no file. Without, or where that does not work, `grub-install` makes new ones.
pub fn install(chroot: &Chroot, root: &Path, disk: &str, as_recorded: bool) -> Result<()> {
    if !(as_recorded && set_up(chroot, root, disk)) {
        let program =
            inside::program(root, &["grub-install", "grub2-install"]).with_context(|| {
                format!("{disk} booted by GRUB, but the node's files lack grub-install")
            })?;
        chroot
            .run(&Cmd::new(program).args(["--target=i386-pc", disk]), TIMEOUT)
            .with_context(|| format!("installing GRUB on {disk}"))?;
    }
    if !has_boot_code(Path::new(disk))? {
        bail!("installing GRUB went through, but the first sector of {disk} holds none");
    }
    Ok(())
}

/// Writes the images of the restored tree to the disk. False where that could not be done.
fn set_up(chroot: &Chroot, root: &Path, disk: &str) -> bool {
    let complete = |dir: &&&str| {
        ["boot.img", "core.img"]
            .iter()
            .all(|name| inside::find(root, Path::new(dir).join(name)).is_some())
    };
    let Some(images) = IMAGES.iter().find(complete) else { return false };
    let Some(program) = inside::program(root, &["grub-bios-setup", "grub2-bios-setup"]) else {
        return false;
    };
    let done = chroot.run(&Cmd::new(program).args(["--directory", images, disk]), TIMEOUT);
    if let Err(error) = &done {
        log::info!("writing the recorded GRUB images to {disk}: {error:#}");
    }
    done.is_ok()
}

/// Whether the first sector of a disk holds GRUB's boot image.
pub fn has_boot_code(disk: &Path) -> Result<bool> {
    let mut sector = [0; 512];
    std::fs::File::open(disk)
        .and_then(|mut file| file.read_exact(&mut sector))
        .with_context(|| format!("reading the first sector of {}", disk.display()))?;
    Ok(is_grub(&sector))
}

/// GRUB's boot.img carries its name among its messages, in front of the partition table.
fn is_grub(sector: &[u8; 512]) -> bool {
    sector[..440].windows(4).any(|w| w == b"GRUB") && sector[510..] == [0x55, 0xaa]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_image_is_known_by_name_and_signature() {
        let mut sector = [0; 512];
        assert!(!is_grub(&sector));
        sector[0x180..0x184].copy_from_slice(b"GRUB");
        assert!(!is_grub(&sector));
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(is_grub(&sector));
        // Debian's own image, where it is installed.
        if let Ok(image) = std::fs::read("/usr/lib/grub/i386-pc/boot.img") {
            assert!(is_grub(&image.try_into().unwrap()));
        }
    }
}
