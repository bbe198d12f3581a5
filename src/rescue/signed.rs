//! Boot loaders that firmware with Secure Boot starts: the shim that Microsoft signed, and the GRUB
//! that the distribution signed, as the packages of Debian and Ubuntu have them. What is in such a
//! GRUB is all that it has: it loads no modules.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sys::run::Cmd;

/// Ubuntu keeps several shims; the plain name is there a link to the one in use.
const SHIMS: &[&str] =
    &["/usr/lib/shim/shimx64.efi.signed", "/usr/lib/shim/shimx64.efi.signed.latest"];
const KEY_MANAGERS: &[&str] = &["/usr/lib/shim/mmx64.efi.signed", "/usr/lib/shim/mmx64.efi"];
const GRUBS: &str = "/usr/lib/grub/x86_64-efi-signed";

/// Where a GRUB is made to look for its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `/boot/grub` of the medium that it was started from.
    Cd,
    /// `/grub` of the server that it came from.
    Network,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub shim: PathBuf,
    pub grub: PathBuf,
    /// Shim's menu for the keys of the machine's owner.
    pub key_manager: Option<PathBuf>,
}

impl Signed {
    /// The files on the FAT filesystem that UEFI starts from, in mtools' notation. `menu` is what GRUB
    /// looks for where it came from a stick or a disk.
    pub(super) fn files<'a>(&'a self, menu: &'a Path) -> Vec<(&'a Path, &'static str)> {
        let mut files: Vec<(&Path, &str)> = vec![
            (&self.shim, "::/EFI/BOOT/BOOTX64.EFI"),
            (&self.grub, "::/EFI/BOOT/grubx64.efi"),
            (menu, "::/boot/grub/grub.cfg"),
        ];
        // What shim shows an admin who has keys to enrol.
        files.extend(self.key_manager.iter().map(|path| (path.as_path(), "::/EFI/BOOT/mmx64.efi")));
        files
    }

    /// Puts them onto such a filesystem, which is empty: on a device or in a file.
    pub fn install(&self, fat: &Path, menu: &Path) -> Result<()> {
        let dirs = ["::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub"];
        Cmd::new("mmd").arg("-i").arg(fat).args(dirs).run()?;
        for (from, to) in self.files(menu) {
            Cmd::new("mcopy").arg("-i").arg(fat).arg(from).arg(to).run()?;
        }
        Ok(())
    }
}

/// What the packages shim-signed and grub-efi-amd64-signed have, where both are installed.
pub fn find(origin: Origin) -> Option<Signed> {
    let first = |paths: &[&str]| paths.iter().map(PathBuf::from).find(|path| path.exists());
    let name = match origin {
        Origin::Cd => "gcdx64.efi.signed",
        Origin::Network => "grubnetx64.efi.signed",
    };
    let grub = Path::new(GRUBS).join(name);
    if !grub.exists() {
        return None;
    }
    Some(Signed { shim: first(SHIMS)?, grub, key_manager: first(KEY_MANAGERS) })
}
