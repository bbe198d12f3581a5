//! GRUB on a BIOS: the boot image in the first sector of every disk that had one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::chroot::Chroot;
use super::super::inside;
use crate::probe::boot::has_grub;
use crate::sys::run::Cmd;

/// `grub-install` writes some megabytes and asks every device for its map; more is a hang.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Where GRUB keeps the images that it was installed with.
const IMAGES: &[&str] = &["/boot/grub/i386-pc", "/boot/grub2/i386-pc"];

const BESIDE_IMAGES: &str = "/usr/lib/grub/i386-pc/grub-bios-setup";

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
    if !has_grub(disk)? {
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
    let Some(program) = inside::program(root, &["grub-bios-setup", "grub2-bios-setup"])
        // Where only the images are installed (Debian's grub-pc-bin), it is beside them.
        .or_else(|| Some(PathBuf::from(BESIDE_IMAGES)).filter(|p| inside::find(root, p).is_some()))
    else {
        return false;
    };
    let done = chroot.run(&Cmd::new(program).args(["--directory", images, disk]), TIMEOUT);
    if let Err(error) = &done {
        log::info!("writing the recorded GRUB images to {disk}: {error:#}");
    }
    done.is_ok()
}
