//! The ISO image: boots on BIOS and on UEFI, from a CD and, written to it with dd(1), from a stick.
//! grub-mkrescue(1) puts it together from the GRUB platforms that the node has. For UEFI a signed
//! shim and GRUB come first where the node has them, because firmware with Secure Boot starts no
//! other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::carried::Carried;
use super::menu::Menu;
use super::signed::{self, Signed};
use crate::config::Drivers;
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

/// The name of the filesystem for UEFI, and the options with which grub-mkrescue makes its own known
/// as El Torito image and as partition.
const EFI_IMAGE: &str = "efi.img";
const EFI_OPTIONS: &str =
    "--efi-boot efi.img -efi-boot-part --efi-boot-image --protective-msdos-label";

/// The marker file's directory and everything of ours on the medium.
const DIR: &str = "rr";

/// The GRUB platforms of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platforms {
    pub bios: Option<PathBuf>,
    pub uefi: Option<PathBuf>,
    /// Takes the place of `uefi` where both are there.
    pub signed: Option<Signed>,
}

impl Platforms {
    pub fn find() -> Platforms {
        let find = |name: &str, file: &str| {
            let dirs = GRUB_DIRS.iter().map(|dir| Path::new(dir).join(name));
            dirs.into_iter().find(|dir| dir.join(file).exists())
        };
        Platforms {
            bios: find("i386-pc", "cdboot.img"),
            uefi: find("x86_64-efi", "moddep.lst"),
            signed: signed::find(signed::Origin::Cd),
        }
    }

    /// Those that an image is to boot on: for this node only, its own kind of firmware.
    pub fn wanted(drivers: Drivers, firmware: Firmware) -> Platforms {
        let all = Platforms::find();
        match (drivers, firmware) {
            (Drivers::All, _) => all,
            (Drivers::ThisNode, Firmware::Bios) => Platforms { uefi: None, signed: None, ..all },
            (Drivers::ThisNode, Firmware::Uefi) => Platforms { bios: None, ..all },
        }
    }

    /// What is wrong: the node's own firmware must be served.
    pub fn missing(&self, firmware: Firmware) -> Option<String> {
        match firmware {
            Firmware::Bios if self.bios.is_none() => Some(
                "GRUB for BIOS is not installed: the rescue ISO could not boot this node\nhint: install grub-pc-bin (Debian) or grub2-pc-modules (RHEL-like)".into(),
            ),
            Firmware::Uefi if !self.serves_uefi() => Some(
                "GRUB for UEFI is not installed: the rescue ISO could not boot this node\nhint: install grub-efi-amd64-bin (Debian) or grub2-efi-x64-modules (RHEL-like)".into(),
            ),
            _ => None,
        }
    }

    pub fn serves_uefi(&self) -> bool {
        self.uefi.is_some() || self.signed.is_some()
    }

    /// The programs that put the image together.
    pub fn programs(&self) -> Vec<&'static str> {
        let mut names = vec!["xorriso"];
        if self.signed.is_some() {
            names.extend(["mformat", "mmd", "mcopy"]);
        } else if self.uefi.is_some() {
            names.push("mformat");
        }
        if self.bios.is_some() || self.signed.is_none() {
            names.push("grub-mkrescue");
        }
        names
    }

    /// What works less than it could: an ISO for one kind of firmware only.
    pub fn warning(&self) -> Option<String> {
        match (self.bios.is_some(), self.serves_uefi()) {
            (true, false) => Some(
                "the rescue ISO boots on BIOS only: install grub-efi-amd64-bin (RHEL-like: grub2-efi-x64-modules) to serve UEFI machines too".into(),
            ),
            (false, true) => Some(
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

/// What tells an image from all others, in its volume set's identifier and in its marker file.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string().to_ascii_uppercase()
}

/// What goes on the medium.
#[derive(Debug)]
pub struct Content<'a> {
    pub menu: &'a Menu<'a>,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// The font file, where the node has one.
    pub font: Option<&'a Path>,
    pub carried: Option<&'a Carried>,
}

/// Builds the image at `path` from the platforms that [`Platforms::programs`] are there for. Scratch
/// files go to `dir`, on the filesystem of kernel and initrd.
pub fn build(content: &Content<'_>, platforms: &Platforms, dir: &Path, path: &Path) -> Result<()> {
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
    let mut options = vec!["-volid".to_owned(), volume_id(&menu.info.node)];
    options.extend(["-volset".to_owned(), menu.id.to_owned()]);
    if let Some(carried) = content.carried {
        options.extend(carried.stage(&stage, &dir.join("carried"))?);
    }
    if let Some(signed) = &platforms.signed {
        efi_image(signed, &menu.grub_cfg(), dir, &stage.join(EFI_IMAGE))?;
        options.extend(EFI_OPTIONS.split(' ').map(str::to_owned));
    }
    assemble(platforms, &stage, path, &options)?;
    std::fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
    if !path.metadata().is_ok_and(|meta| meta.len() > 0) {
        bail!("grub-mkrescue left no image at {}", path.display());
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protecting {}", path.display()))
}

/// Makes the image `path` of what is in `stage`.
fn assemble(platforms: &Platforms, stage: &Path, path: &Path, options: &[String]) -> Result<()> {
    let grub = stage.join("boot/grub");
    if let Some(bios) = &platforms.bios {
        let modules = platform_dir(&grub, "i386-pc")?;
        for name in BIOS_MODULES.iter().filter(|name| bios.join(name).exists()) {
            copy(&bios.join(name), &modules.join(name))?;
        }
    }
    // A GRUB for UEFI that nobody has signed, where there is none that somebody has.
    let uefi = platforms.uefi.as_ref().filter(|_| platforms.signed.is_none());
    if uefi.is_some() {
        platform_dir(&grub, "x86_64-efi")?;
    }
    let command = match (uefi, &platforms.bios) {
        // By itself it takes every platform that is installed.
        (Some(_), Some(_)) => mkrescue(),
        (Some(one), None) | (None, Some(one)) => mkrescue().arg("--directory").arg(one),
        (None, None) => {
            Cmd::new("xorriso").args(["-as", "mkisofs", "-quiet", "-r", "-graft-points"])
        }
    };
    command.arg("-o").arg(path).arg(stage).args(options).run()
}

fn mkrescue() -> Cmd {
    Cmd::new("grub-mkrescue")
        .args(["--fonts=", "--locales=", "--themes="])
        .arg(format!("--install-modules={MODULES}"))
}

/// The filesystem from which UEFI boots a CD, and the partition of that on a stick: shim, GRUB, and
/// the menu where a GRUB that came from a stick looks for it. One that came from a CD finds that on
/// the CD.
fn efi_image(signed: &Signed, grub_cfg: &str, dir: &Path, image: &Path) -> Result<()> {
    let menu = dir.join("grub.cfg");
    write(&menu, grub_cfg.as_bytes())?;
    let mut size_bytes = 512 << 10; // for the filesystem itself
    for (path, _) in signed.files(&menu) {
        size_bytes += path.metadata().with_context(|| path.display().to_string())?.len();
    }
    let sectors = size_bytes.div_ceil(512).to_string();
    Cmd::new("mformat")
        .args(["-C", "-T", &sectors, "-h", "16", "-s", "32", "-i"])
        .arg(image)
        .arg("::")
        .run()?;
    signed.install(image, &menu)?;
    std::fs::remove_file(&menu).with_context(|| format!("removing {}", menu.display()))
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
        let bios = Platforms { bios: Some("/x".into()), uefi: None, signed: None };
        assert!(bios.missing(Firmware::Uefi).unwrap().contains("grub-efi-amd64-bin"));
        assert_eq!(bios.missing(Firmware::Bios), None);
        assert!(bios.warning().unwrap().contains("BIOS only"));
    }

    #[test]
    fn what_is_signed_takes_the_place_of_what_is_not() {
        let signed = Signed { shim: "/s".into(), grub: "/g".into(), key_manager: None };
        let only = Platforms { bios: None, uefi: None, signed: Some(signed.clone()) };
        assert_eq!(only.missing(Firmware::Uefi), None);
        assert!(only.missing(Firmware::Bios).is_some());
        assert!(only.warning().unwrap().contains("UEFI only"));
        assert!(!only.programs().contains(&"grub-mkrescue"));
        let both = Platforms { bios: Some("/b".into()), uefi: Some("/u".into()), ..only };
        assert_eq!(both.warning(), None);
        assert!(both.programs().contains(&"grub-mkrescue") && both.programs().contains(&"mcopy"));
    }

    /// Which loaders are on it, as xorriso and mtools see it.
    #[test]
    fn an_image_is_made_for_every_mix_of_loaders() {
        let all = Platforms::find();
        let here = all.programs().iter().all(|p| crate::sys::tools::find(p.as_ref()).is_some());
        if all.bios.is_none() || all.uefi.is_none() || all.signed.is_none() || !here {
            eprintln!("skipped: grub-pc-bin, grub-efi-amd64-bin and -signed, xorriso, mtools");
            return;
        }
        let unsigned = Platforms { signed: None, ..all.clone() };
        let only = Platforms { bios: None, uefi: None, ..all.clone() };
        for (platforms, bios, signed) in
            [(&all, true, true), (&unsigned, true, false), (&only, false, true)]
        {
            let dir = tempfile::tempdir().unwrap();
            let iso = image(platforms, dir.path());
            let report = Cmd::new("xorriso")
                .arg("-indev")
                .arg(&iso)
                .args(["-report_el_torito", "plain", "-report_system_area", "plain"])
                .text()
                .unwrap();
            assert_eq!(report.contains("  BIOS "), bios, "{report}");
            assert!(report.contains("  UEFI ") && report.contains("/efi.img"), "{report}");
            assert!(report.contains("GPT"), "{report}");
            let efi = dir.path().join("efi.img");
            Cmd::new("xorriso")
                .args(["-osirrox", "on", "-indev"])
                .arg(&iso)
                .args(["-extract", "/efi.img"])
                .arg(&efi)
                .run()
                .unwrap();
            let file = |name: &str| {
                let to = dir.path().join("file");
                let done = Cmd::new("mcopy").arg("-on").arg("-i").arg(&efi).arg(name).arg(&to);
                done.run().ok()?;
                std::fs::read(to).ok()
            };
            assert!(file("::/EFI/BOOT/BOOTX64.EFI").is_some());
            assert_eq!(file("::/boot/grub/grub.cfg").is_some(), signed);
            if let Some(Signed { shim, grub, .. }) = &platforms.signed {
                assert!(file("::/EFI/BOOT/BOOTX64.EFI") == std::fs::read(shim).ok());
                assert!(file("::/EFI/BOOT/grubx64.efi") == std::fs::read(grub).ok());
            }
        }
    }

    fn image(platforms: &Platforms, dir: &Path) -> PathBuf {
        let layout = super::super::tests::layout();
        let config = crate::config::Config::default();
        let info = super::super::menu::tests::info();
        let menu =
            Menu { layout: &layout, config: &config, info: &info, id: "i", size_mib: 1, font: "" };
        let (kernel, initrd, iso) = (dir.join("k"), dir.join("i"), dir.join("rr.iso"));
        for file in [&kernel, &initrd] {
            std::fs::write(file, "x").unwrap();
        }
        let content =
            Content { menu: &menu, kernel: &kernel, initrd: &initrd, font: None, carried: None };
        build(&content, platforms, dir, &iso).unwrap();
        iso
    }

    #[test]
    fn a_fonts_name_is_in_its_head() {
        let bytes = b"FILE\0\0\0\x04PFF2NAME\0\0\0\x05Uni 1FAMI\0\0\0\0";
        assert_eq!(font_name(bytes).as_deref(), Some("Uni 1"));
        assert_eq!(font_name(b"FILE\0\0\0\x09PF"), None);
    }
}
