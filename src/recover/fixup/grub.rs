//! GRUB on a BIOS: the boot image in the first sector of every disk that had one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::chroot::Chroot;
use crate::probe::boot::{GRUB_IMAGES, GRUB_INSTALLERS, has_grub};
use crate::sys::inside;
use crate::sys::run::Cmd;
use crate::ui::Ui;

/// `grub-install` writes some megabytes and asks every device for its map; more is a hang.
const TIMEOUT: Duration = Duration::from_secs(600);

const BESIDE_IMAGES: &str = "/usr/lib/grub/i386-pc/grub-bios-setup";

/// Installs the restored system's GRUB on `disk` (`/dev/vda`) and looks whether it is there.
///
/// With `as_recorded`, the images that came back with the archive are written to the disk again,
/// which changes no file. Without, or where that does not work, `grub-install` makes new ones.
pub fn install(chroot: &Chroot, root: &Path, disk: &str, as_recorded: bool, ui: &Ui) -> Result<()> {
    if !(as_recorded && set_up(chroot, root, disk)) {
        let program = inside::program(root, GRUB_INSTALLERS).with_context(|| {
            format!("{disk} booted by GRUB, but the node's files lack grub-install")
        })?;
        let cmd = Cmd::new(program).arg("--target=i386-pc");
        with_force(disk, |force| chroot.run(&cmd.clone().args(force).arg(disk), TIMEOUT), ui)?;
    }
    if !has_grub(disk)? {
        bail!("installing GRUB went through, but the first sector of {disk} holds none");
    }
    Ok(())
}

/// Installs as the node must have been where that disk has no room for GRUB's core: by a list of the
/// blocks that it is in, which `grub-install` does only when it is forced to (as Debian's grub-pc does).
fn with_force(disk: &str, install: impl Fn(&[&str]) -> Result<()>, ui: &Ui) -> Result<()> {
    let result = match install(&[]) {
        Err(error) if format!("{error:#}").contains("blocklists") => {
            ui.warn(format!(
                "{disk} has no room for GRUB, which starts by a list of blocks there: that breaks when \
                 the files of /boot/grub move; a BIOS boot partition, or a gap before the first \
                 partition, is better"
            ));
            install(&["--force"])
        }
        result => result,
    };
    result.with_context(|| format!("installing GRUB on {disk}"))
}

/// Installs on the disks that the machine starts from, and then on the others: what a data disk has in
/// its first sector may be that of a system which it once held.
pub fn install_all(
    needed: &[&str],
    all: &[&str],
    install: impl Fn(&str) -> Result<()>,
    changed: &mut Vec<String>,
    ui: &Ui,
) -> Result<()> {
    let others = all.iter().filter(|disk| !needed.contains(disk));
    for disk in needed.iter().chain(others) {
        match install(disk) {
            Ok(()) => changed.push(format!("GRUB is on /dev/{disk}")),
            Err(error) if !needed.contains(disk) => ui.warn(format!(
                "/dev/{disk}, which holds neither /boot nor /, had GRUB, and gets none: {error:#}"
            )),
            Err(error) => return Err(error),
        }
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
    let Some(images) = GRUB_IMAGES.iter().find(complete) else { return false };
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

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn a_disk_without_room_for_grub_is_started_by_a_list_of_blocks() {
        let tried = std::cell::RefCell::new(Vec::new());
        let said = "grub-install: error: will not proceed with blocklists.";
        let install = |said: &'static str| {
            let tried = &tried;
            move |force: &[&str]| {
                tried.borrow_mut().push(force.join(" "));
                ensure!(!force.is_empty(), "exit status: 1\n{said}");
                Ok(())
            }
        };
        let ui = Ui::detect(true);
        with_force("/dev/sda", install(said), &ui).unwrap();
        assert_eq!(tried.take(), ["", "--force"]);
        assert!(ui.warnings()[0].starts_with("/dev/sda has no room"), "{:?}", ui.warnings());
        assert!(with_force("/dev/sda", install("error: disk not found."), &ui).is_err());
        assert_eq!(tried.take(), [""]);
    }

    #[test]
    fn a_data_disk_without_room_for_grub_does_not_end_a_recovery() {
        let install = |disk: &str| match disk {
            "sdc" => bail!("no room"),
            _ => Ok(()),
        };
        let (mut changed, ui) = (Vec::new(), Ui::detect(true));
        install_all(&["sda", "sdb"], &["sdc", "sda", "sdb"], install, &mut changed, &ui).unwrap();
        assert_eq!(changed, ["GRUB is on /dev/sda", "GRUB is on /dev/sdb"]);
        assert!(ui.warnings()[0].starts_with("/dev/sdc, which holds"), "{:?}", ui.warnings());
        assert!(install_all(&["sdc"], &["sdc", "sda"], install, &mut changed, &ui).is_err());
    }
}
