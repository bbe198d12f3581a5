//! The ISO image: boots on BIOS and on UEFI, from a CD and, written to it with dd(1), from a stick.
//! grub-mkrescue(1) puts it together from the GRUB platforms that the node has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::menu::Menu;
use crate::layout::Firmware;
use crate::sys::fs::copy;
use crate::sys::run::Cmd;

/// GRUB modules that the menu uses, or grub-mkrescue's own start (`part_*`), and every platform has.
const MODULES: &str = "\
    all_video boot chain configfile echo fat font gfxmenu gfxterm iso9660 linux ls minicmd \
    normal part_acorn part_amiga part_apple part_bsd part_dfly part_dvh part_gpt part_msdos \
    part_plan part_sun part_sunpc png reboot regexp search search_fs_file search_fs_uuid serial \
    sleep terminal test";

/// Modules that only BIOS GRUB has.
const BIOS_MODULES: &[&str] = &["biosdisk.mod", "drivemap.mod", "vbe.mod", "vga.mod"];

/// Where GRUB's own files are.
const GRUB_DIRS: &[&str] = &["/usr/lib/grub", "/usr/share/grub2", "/usr/lib/grub2"];

/// The marker file's directory and everything of ours on the medium.
const DIR: &str = "rr";

/// The GRUB platforms of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platforms {
    pub bios: Option<PathBuf>,
    pub uefi: Option<PathBuf>,
}

impl Platforms {
    pub fn find() -> Platforms {
        let find = |name: &str, file: &str| {
            let dirs = GRUB_DIRS.iter().map(|dir| Path::new(dir).join(name));
            dirs.into_iter().find(|dir| dir.join(file).exists())
        };
        Platforms { bios: find("i386-pc", "cdboot.img"), uefi: find("x86_64-efi", "moddep.lst") }
    }

    /// What is wrong: the node's own firmware must be served.
    pub fn missing(&self, firmware: Firmware) -> Option<String> {
        match firmware {
            Firmware::Bios if self.bios.is_none() => Some(
                "GRUB for BIOS is not installed: the rescue ISO could not boot this node\nhint: install grub-pc-bin (Debian) or grub2-pc-modules (RHEL-like)".into(),
            ),
            Firmware::Uefi if self.uefi.is_none() => Some(
                "GRUB for UEFI is not installed: the rescue ISO could not boot this node\nhint: install grub-efi-amd64-bin (Debian) or grub2-efi-x64-modules (RHEL-like)".into(),
            ),
            _ => None,
        }
    }

    /// What works less than it could: an ISO for one kind of firmware only.
    pub fn warning(&self) -> Option<String> {
        match (&self.bios, &self.uefi) {
            (Some(_), None) => Some(
                "the rescue ISO boots on BIOS only: install grub-efi-amd64-bin (RHEL-like: grub2-efi-x64-modules) to serve UEFI machines too".into(),
            ),
            (None, Some(_)) => Some(
                "the rescue ISO boots on UEFI only: install grub-pc-bin (RHEL-like: grub2-pc-modules) to serve BIOS machines too".into(),
            ),
            _ => None,
        }
    }
}

/// The volume identifier of a node's image: ISO 9660 allows 32 of `A-Z`, `0-9` and `_`.
pub fn volume_id(node: &str) -> String {
    let node =
        node.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    format!("RR_{}", node.take(29).collect::<String>())
}

/// What goes on the medium.
#[derive(Debug)]
pub struct Content<'a> {
    pub menu: &'a Menu<'a>,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// The font file, where the node has one.
    pub font: Option<&'a Path>,
}

/// Builds the image at `path`. Scratch files go to `dir`, on the filesystem of kernel and initrd.
pub fn build(content: &Content<'_>, dir: &Path, path: &Path) -> Result<()> {
    let platforms = Platforms::find();
    let stage = dir.join("iso");
    let ours = stage.join(DIR);
    let grub = stage.join("boot/grub");
    for dir in [&ours, &grub] {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let menu = content.menu;
    write(&grub.join("grub.cfg"), menu.grub_cfg().as_bytes())?;
    write(&ours.join("theme.txt"), menu.theme().as_bytes())?;
    write(&ours.join("select_c.png"), include_bytes!("../../bootloader-assets/select.png"))?;
    write(&ours.join(menu.id), b"")?;
    link(content.kernel, &ours.join("kernel"))?;
    link(content.initrd, &ours.join("initrd"))?;
    if let Some(font) = content.font {
        copy(font, &ours.join("menu.pf2"))?;
    }
    if let Some(bios) = &platforms.bios {
        let modules = platform_dir(&grub, "i386-pc")?;
        for name in BIOS_MODULES.iter().filter(|name| bios.join(name).exists()) {
            copy(&bios.join(name), &modules.join(name))?;
        }
    }
    if platforms.uefi.is_some() {
        platform_dir(&grub, "x86_64-efi")?;
    }
    Cmd::new("grub-mkrescue")
        .arg("--fonts=")
        .arg("--locales=")
        .arg("--themes=")
        .arg(format!("--install-modules={MODULES}"))
        .arg("-o")
        .arg(path)
        .arg(&stage)
        .arg("-volid")
        .arg(volume_id(&menu.info.node))
        .run()?;
    std::fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
    if !path.metadata().is_ok_and(|meta| meta.len() > 0) {
        bail!("grub-mkrescue left no image at {}", path.display());
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))
}

/// A GRUB platform's directory on the medium, with the list of filesystems that GRUB tries on a
/// disk it does not know. grub-mkrescue's own names many whose modules are not there.
fn platform_dir(grub: &Path, platform: &str) -> Result<PathBuf> {
    let dir = grub.join(platform);
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    write(&dir.join("fs.lst"), b"fat\niso9660\n")?;
    Ok(dir)
}

/// The smallest of GRUB's fonts that has what a menu needs, and the name that GRUB knows it by.
pub fn font() -> Option<(PathBuf, String)> {
    let files = ["euro.pf2", "ascii.pf2", "unicode.pf2"];
    let dirs = ["/usr/share/grub", "/boot/grub2/fonts", "/usr/share/grub2"];
    files.iter().flat_map(|file| dirs.map(|dir| Path::new(dir).join(file))).find_map(|path| {
        let head = std::fs::read(&path).ok()?;
        Some((path, font_name(&head)?))
    })
}

/// A PFF2 file starts with sections of a four letter name, a length and content.
fn font_name(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    while rest.len() >= 8 {
        let length = usize::try_from(u32::from_be_bytes(rest[4..8].try_into().ok()?)).ok()?;
        let content = rest.get(8..8 + length)?;
        if &rest[..4] == b"NAME" {
            return Some(String::from_utf8_lossy(content).trim_end_matches('\0').to_owned());
        }
        rest = &rest[8 + length..];
    }
    None
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// A hard link of a scratch file, or a copy where that can't be.
fn link(from: &Path, to: &Path) -> Result<()> {
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    copy(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_ids_are_what_iso9660_allows() {
        assert_eq!(volume_id("node001.example"), "RR_NODE001_EXAMPLE");
        assert_eq!(volume_id(&"x".repeat(80)).len(), 32);
    }

    #[test]
    fn the_nodes_own_firmware_must_be_served() {
        let bios = Platforms { bios: Some("/x".into()), uefi: None };
        assert!(bios.missing(Firmware::Uefi).unwrap().contains("grub-efi-amd64-bin"));
        assert_eq!(bios.missing(Firmware::Bios), None);
        assert!(bios.warning().unwrap().contains("BIOS only"));
    }

    #[test]
    fn a_fonts_name_is_in_its_head() {
        let bytes = b"FILE\0\0\0\x04PFF2NAME\0\0\0\x05Uni 1FAMI\0\0\0\0";
        assert_eq!(font_name(bytes).as_deref(), Some("Uni 1"));
        assert_eq!(font_name(b"FILE\0\0\0\x09PF"), None);
    }
}
