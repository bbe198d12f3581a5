//! What is written to the disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disk::Found;
use crate::layout::partition_name;
use crate::rescue::iso::{self, Platforms};
use crate::rescue::menu::DiskMenu;
use crate::store::usb;
use crate::sys::fs::copy;
use crate::sys::mount::{self, TempMount};
use crate::sys::run::Cmd;
use crate::sys::{blkid, udev};
use crate::ui::Ui;

const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

/// What every GRUB since 2.02 reads. What newer versions of mke2fs add by themselves
/// (`metadata_csum_seed`, `orphan_file`) it does not.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
                        flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// GRUB modules in the one file that UEFI starts.
const UEFI_MODULES: &str = "\
    all_video boot chain configfile echo ext2 fat font gfxmenu gfxterm linux ls minicmd normal \
    part_gpt part_msdos png reboot regexp search search_fs_file search_fs_uuid serial sleep \
    terminal test";

/// How long the kernel may take to show the partitions.
const PATIENCE: Duration = Duration::from_secs(30);

const README: &str = "\
This disk holds backups that rr made, and boots the rescue systems of the nodes they are of.

    backup/NODE/            a node's backups; RESTORE.txt in each generation says how to get the
                            files back without rr
    backup/NODE/rr-NODE.iso the node's rescue system, to be burnt or written to another stick
    boot/, rr/              the boot menu

On any machine with rr:     rr --target usb://@LABEL@ --node NODE list
";

/// The disk's partitions, by what they are for.
#[derive(Debug)]
struct Partitions {
    esp: PathBuf,
    data: PathBuf,
}

/// Erases the disk and makes it.
pub fn make(found: &Found, label: &str, platforms: &Platforms, ui: &Ui) -> Result<()> {
    let dev = found.disk.dev();
    let partition = |number| Path::new("/dev").join(partition_name(&found.disk.name, number));
    let parts = Partitions { esp: partition(2), data: partition(3) };
    ui.step("Partitioning", || partition_disk(found, &parts))?;
    ui.step("Making the filesystems", || {
        Cmd::new("mkfs.vfat").args(["-n", "RR-BOOT"]).arg(&parts.esp).run()?;
        Cmd::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-O", FEATURES, "-L", label])
            .arg(&parts.data)
            .run()?;
        udev::settle()
    })?;
    ui.step("Making it boot", || {
        let uuid = blkid::tag(&parts.data, "UUID")?;
        install_uefi(&parts.esp, &uuid, platforms)?;
        fill(&dev, &parts, label, platforms.bios.is_some())
    })?;
    let written = blkid::tag(&parts.data, "LABEL")?;
    if written != label {
        bail!("{} has the label {written:?} and not {label:?}", parts.data.display());
    }
    Ok(())
}

fn partition_disk(found: &Found, parts: &Partitions) -> Result<()> {
    let dev = found.disk.dev();
    for old in &found.partitions {
        Cmd::new("wipefs").args(["--all", "--force"]).arg(old.dev()).run()?;
    }
    Cmd::new("wipefs").args(["--all", "--force", &dev]).run()?;
    let table = format!(
        "label: gpt\n\
         size=1MiB, type={BIOS_BOOT}, name=\"rr-bios\"\n\
         size=64MiB, type={ESP}, name=\"rr-esp\"\n\
         type={LINUX}, name=\"{}\"\n",
        usb::PARTITION
    );
    let wipe = ["--quiet", "--wipe", "always", "--wipe-partitions", "always"];
    Cmd::new("sfdisk").args(wipe).arg(&dev).stdin(table).run()?;
    // For kernels that can't read a GPT by themselves.
    Cmd::new("partx").args(["--update", &dev]).run()?;
    udev::settle()?;
    let started = Instant::now();
    while !(parts.esp.exists() && parts.data.exists()) {
        if started.elapsed() > PATIENCE {
            bail!("the kernel does not show the new partitions of {dev}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// What UEFI starts, which finds the rest by the UUID of the filesystem: the signed loaders where the
/// node has them, since firmware with Secure Boot starts no others. Written without mounting: not
/// every kernel knows FAT.
fn install_uefi(esp: &Path, uuid: &str, platforms: &Platforms) -> Result<()> {
    let work = tempfile::tempdir().context("making a directory to work in")?;
    let (start, loader) = (work.path().join("start.cfg"), work.path().join("BOOTX64.EFI"));
    let text =
        format!("search --no-floppy --fs-uuid --set=root {uuid}\nset prefix=($root)/boot/grub\n");
    let write = |text: &str| {
        std::fs::write(&start, text).with_context(|| format!("writing {}", start.display()))
    };
    if let Some(signed) = &platforms.signed {
        // It reads this in place of the menu, and loads no modules.
        write(&format!("{text}configfile $prefix/grub.cfg\n"))?;
        return signed.install(esp, &start);
    }
    let Some(modules) = &platforms.uefi else { return Ok(()) };
    write(&text)?;
    Cmd::new("grub-mkimage")
        .args(["--format=x86_64-efi", "--prefix=/boot/grub"])
        .arg(format!("--directory={}", modules.display()))
        .arg(format!("--config={}", start.display()))
        .arg(format!("--output={}", loader.display()))
        .args(UEFI_MODULES.split_whitespace())
        .run()?;
    Cmd::new("mmd").arg("-i").arg(esp).args(["::/EFI", "::/EFI/BOOT"]).run()?;
    Cmd::new("mcopy").arg("-i").arg(esp).arg(&loader).arg("::/EFI/BOOT/BOOTX64.EFI").run()
}

/// Everything on the big filesystem, which nobody else sees mounted.
fn fill(dev: &str, parts: &Partitions, label: &str, bios: bool) -> Result<()> {
    mount::in_private_namespace(|| {
        let mounted = TempMount::mount(&["-t", usb::KIND, &parts.data.to_string_lossy()])?;
        write_files(mounted.path(), label)?;
        if bios {
            Cmd::new("grub-install")
                .args(["--target=i386-pc", "--fonts=", "--locales=", "--themes="])
                .arg(format!("--boot-directory={}", mounted.path().join("boot").display()))
                .arg(dev)
                .run()?;
        }
        mounted.close()
    })
}

fn write_files(top: &Path, label: &str) -> Result<()> {
    let (grub, ours) = (top.join("boot/grub"), top.join("rr"));
    for dir in [&grub, &ours, &top.join(usb::DIR)] {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    private(&top.join(usb::DIR))?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let font = iso::font();
    let menu =
        DiskMenu { label, id: &id, font: font.as_ref().map_or("", |(_, name)| name.as_str()) };
    let select = include_bytes!("../../bootloader-assets/select.png");
    let files = [
        (grub.join("grub.cfg"), menu.grub_cfg().into_bytes()),
        (ours.join("theme.txt"), menu.theme().into_bytes()),
        (ours.join("select_c.png"), select.to_vec()),
        (ours.join(&id), Vec::new()),
        (top.join("README.txt"), README.replace("@LABEL@", label).into_bytes()),
    ];
    for (path, bytes) in files {
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    match &font {
        Some((font, _)) => copy(font, &ours.join("menu.pf2")),
        None => Ok(()),
    }
}

fn private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("protecting {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tools;

    #[test]
    fn what_uefi_starts_is_signed_where_the_node_has_it() {
        let found = Platforms::find();
        let programs = ["grub-mkimage", "grub-script-check", "mcopy", "mkfs.vfat", "mmd"];
        let here = programs.iter().all(|program| tools::find(program.as_ref()).is_some());
        let Some(signed) = found.signed.clone().filter(|_| found.uefi.is_some() && here) else {
            eprintln!("skipped: grub-efi-amd64-bin and -signed, shim-signed, mtools, dosfstools");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let (esp, copy) = (dir.path().join("esp"), dir.path().join("file"));
        for platforms in [found.clone(), Platforms { signed: None, ..found }] {
            std::fs::File::create(&esp).unwrap().set_len(64 << 20).unwrap();
            Cmd::new("mkfs.vfat").arg(&esp).run().unwrap();
            install_uefi(&esp, "5f0d1e0c-77aa", &platforms).unwrap();
            let file = |name: &str| {
                Cmd::new("mcopy").arg("-on").arg("-i").arg(&esp).arg(name).arg(&copy).run().ok()?;
                std::fs::read(&copy).ok()
            };
            let loader = file("::/EFI/BOOT/BOOTX64.EFI").unwrap();
            assert_eq!(loader == std::fs::read(&signed.shim).unwrap(), platforms.signed.is_some());
            let grub = file("::/EFI/BOOT/grubx64.efi");
            let start = file("::/boot/grub/grub.cfg");
            if platforms.signed.is_none() {
                assert!(grub.is_none() && start.is_none());
                assert!(loader.windows(13).any(|word| word == b"5f0d1e0c-77aa"));
                continue;
            }
            assert!(grub == std::fs::read(&signed.grub).ok());
            let start = String::from_utf8(start.unwrap()).unwrap();
            assert!(start.contains("--set=root 5f0d1e0c-77aa\n"), "{start}");
            assert!(start.ends_with("configfile $prefix/grub.cfg\n"), "{start}");
            Cmd::new("grub-script-check").stdin(start).run().unwrap();
        }
    }
}
