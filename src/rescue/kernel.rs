//! The kernel that the rescue system boots: the node's own, so that it drives the node's hardware.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::initrd::Compression;
use crate::config::Drivers;

/// A kernel whose modules are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub image: PathBuf,
    /// As `uname -r` says when it runs.
    pub release: String,
    /// `/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// The configured kernel, else the running one, else the newest in /boot.
///
/// # Errors
/// Says where a kernel was looked for and what was there.
pub fn find(configured: Option<&Path>) -> Result<Kernel> {
    if let Some(image) = configured {
        return open(image).context("using the kernel that rescue.kernel names");
    }
    let running = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    let mut tried = Vec::new();
    for image in [
        PathBuf::from(format!("/boot/vmlinuz-{running}")),
        PathBuf::from(format!("/lib/modules/{running}/vmlinuz")),
    ] {
        match open(&image) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    let mut images: Vec<PathBuf> = std::fs::read_dir("/boot")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A RHEL rescue kernel's initrd is its own; its modules may be gone.
            name.starts_with("vmlinuz-") && !name.contains("rescue")
        })
        .collect();
    images.sort_by_key(|path| std::cmp::Reverse(path.metadata().and_then(|m| m.modified()).ok()));
    for image in images {
        match open(&image) {
            Ok(kernel) => return Ok(kernel),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    tried.dedup();
    bail!(
        "no kernel for the rescue system: {}; no other /boot/vmlinuz-* fits\nhint: install a kernel (Debian: linux-image-amd64, RHEL: kernel), or name one with rescue.kernel",
        tried.join("; ")
    )
}

fn open(image: &Path) -> Result<Kernel> {
    let release = release(image)?;
    let modules = PathBuf::from("/lib/modules").join(&release);
    if !modules.join("modules.dep").exists() {
        bail!("{} has no modules in {}", image.display(), modules.display());
    }
    Ok(Kernel { image: image.to_owned(), release, modules })
}

/// The release that an x86 kernel image names in its setup header, see the kernel's
/// Documentation/arch/x86/boot.rst.
fn release(image: &Path) -> Result<String> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(image)
        .and_then(|file| file.take(0x8000).read_to_end(&mut head))
        .with_context(|| format!("reading {}", image.display()))?;
    parse_release(&head).with_context(|| format!("{} is no x86 Linux kernel", image.display()))
}

fn parse_release(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = usize::from(u16::from_le_bytes([*head.get(0x20e)?, *head.get(0x20f)?]));
    let text = head.get(offset + 0x200..)?.split(|&b| b == 0 || b == b' ').next()?;
    let text = std::str::from_utf8(text).ok()?;
    (!text.is_empty() && !text.contains('/')).then(|| text.to_owned())
}

impl Kernel {
    /// The best compression that this kernel unpacks; the smallest for an image that is to be small.
    /// Gzip where its configuration is not known.
    pub fn compression(&self, drivers: Drivers) -> Compression {
        let files =
            [PathBuf::from(format!("/boot/config-{}", self.release)), self.modules.join("config")];
        let config: Option<String> =
            files.iter().find_map(|path| std::fs::read_to_string(path).ok());
        compression(config.as_deref().unwrap_or_default(), drivers)
    }
}

fn compression(config: &str, drivers: Drivers) -> Compression {
    let unpacks = |option: &str| config.lines().any(|line| line == option);
    if drivers == Drivers::ThisNode && unpacks("CONFIG_RD_XZ=y") {
        Compression::Xz
    } else if unpacks("CONFIG_RD_ZSTD=y") {
        Compression::Zstd
    } else {
        Compression::Gzip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_in_the_setup_header() {
        let mut head = vec![0; 0x1000];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        head[0x500..0x520].copy_from_slice(b"6.1.0-56-cloud-amd64 (build@host");
        assert_eq!(parse_release(&head).as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(parse_release(&head[..0x400]), None);
        assert_eq!(parse_release(b"\x7fELF"), None);
    }

    #[test]
    fn only_what_the_kernel_unpacks_is_chosen() {
        let both = "CONFIG_RD_XZ=y\nCONFIG_RD_ZSTD=y\n";
        assert_eq!(compression(both, Drivers::All), Compression::Zstd);
        assert_eq!(compression(both, Drivers::ThisNode), Compression::Xz);
        let zstd = "# CONFIG_RD_XZ is not set\nCONFIG_RD_ZSTD=y\n";
        assert_eq!(compression(zstd, Drivers::ThisNode), Compression::Zstd);
        assert_eq!(compression("", Drivers::All), Compression::Gzip);
    }

    #[test]
    fn a_missing_kernel_says_where_it_was_looked_for() {
        let error = find(Some(Path::new("/boot/rr-no-such-kernel"))).unwrap_err();
        assert!(format!("{error:#}").contains("/boot/rr-no-such-kernel"), "{error:#}");
    }
}
