//! Boot loaders that firmware with Secure Boot starts: the shim that Microsoft signed, and the GRUB
//! that the distribution signed, as the packages of Debian and Ubuntu have them. What is in such a
//! GRUB is all that it has: it loads no modules.

use std::path::{Path, PathBuf};

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
