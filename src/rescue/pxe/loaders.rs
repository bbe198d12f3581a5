//! The boot loaders of a tree, from the packages of the machine that puts them there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Tree, menus};
use crate::rescue::iso::Platforms;
use crate::rescue::signed;
use crate::sys::run::Cmd;

/// Where Debian and RHEL keep pxelinux and its modules.
const PXELINUX_DIRS: &[&str] =
    &["/usr/lib/PXELINUX", "/usr/lib/syslinux/modules/bios", "/usr/share/syslinux", "/tftpboot"];
/// The last is what tells that all are there.
const PXELINUX: &[&str] = &[
    "ldlinux.c32",
    "libcom32.c32",
    "libutil.c32",
    "menu.c32",
    "reboot.c32",
    "lpxelinux.0",
    "pxelinux.0",
];

/// What UEFI machines load first, and what a shim loads then.
pub const UEFI_FIRST: &str = "bootx64.efi";
const UEFI_SECOND: &str = "grubx64.efi";
/// What UEFI HTTP boot loads. Never a signed GRUB: it waits for an address that this kind of boot does
/// not hand over, and stops at its prompt.
pub const HTTP_FIRST: &str = "httpx64.efi";

/// What a GRUB of our own has in it: it loads no modules.
const MODULES: &str = "\
    boot chain configfile echo efi_gop efi_uga efinet fat http linux minicmd normal part_gpt \
    part_msdos reboot regexp search search_fs_file serial sleep smbios terminal test tftp true";
/// Run before anything else. A signed GRUB looks for /grub below the root of the server; this one
/// looks beside itself.
const EARLY: &str = "set prefix=$cmdpath/grub\nconfigfile $prefix/grub.cfg\n";
/// After UEFI HTTP boot it has to ask for an address itself, and to find the card that got one.
const EARLY_HTTP: &str = "\
net_bootp
if [ -n \"$net_efinet3_dhcp_ip\" ]; then set net_default_interface=efinet3:dhcp; fi
if [ -n \"$net_efinet2_dhcp_ip\" ]; then set net_default_interface=efinet2:dhcp; fi
if [ -n \"$net_efinet1_dhcp_ip\" ]; then set net_default_interface=efinet1:dhcp; fi
if [ -n \"$net_efinet0_dhcp_ip\" ]; then set net_default_interface=efinet0:dhcp; fi
set prefix=@HTTP@/grub
configfile $prefix/grub.cfg
";

/// What a tree lacks that this machine has. Files of one loader fit each other, so that a loader is
/// added only as a whole. With `http`, the tree's URL, also for UEFI HTTP boot, which is an extra that
/// nobody is warned of. Gives what nobody can boot by then.
pub fn add_missing(tree: &Tree, http: Option<&str>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if !tree.has("pxelinux.0") && !put_pxelinux(tree)? {
        warnings.push(format!(
            "machines with BIOS can't boot from {}: it has no pxelinux, and nor has this node\nhint: install pxelinux and syslinux-common (RHEL-like: syslinux-nonlinux) on any node and run `rr pxe setup` there",
            tree.label()
        ));
    }
    if !tree.has(UEFI_FIRST) && !put_uefi(tree)? {
        warnings.push(format!(
            "machines with UEFI can't boot from {}: it has no GRUB, and nor has this node\nhint: install shim-signed and grub-efi-amd64-signed, or grub-efi-amd64-bin (RHEL-like: grub2-efi-x64-modules) on any node and run `rr pxe setup` there",
            tree.label()
        ));
    }
    if let Some(http) = http
        && !tree.has(HTTP_FIRST)
        && let Err(error) = put_http(tree, http)
    {
        log::info!("no loader for UEFI HTTP boot: {error:#}");
    }
    Ok(warnings)
}

/// For a machine with Secure Boot: a GRUB that it starts, where the tree has none. Gives what is to be
/// said where this machine has none either.
pub fn add_signed(tree: &Tree, signed: Option<&signed::Signed>) -> Result<Option<String>> {
    if tree.has(UEFI_SECOND) {
        return Ok(None);
    }
    if let Some(signed) = signed {
        put_signed(tree, signed)?;
        return Ok(None);
    }
    Ok(Some(format!(
        "this node has Secure Boot on, and {} has no signed boot loader: it would boot from there only with Secure Boot switched off in the firmware\nhint: install shim-signed and grub-efi-amd64-signed on any node and run `rr pxe setup` there",
        tree.label()
    )))
}

/// Puts all loaders that this machine has in place of those that are there. Says which.
pub fn replace(tree: &Tree, http: Option<&str>) -> Result<Vec<&'static str>> {
    let mut done = Vec::new();
    if put_pxelinux(tree)? {
        done.push("pxelinux (BIOS)");
    }
    if put_uefi(tree)? {
        done.push(if signed::find(signed::Origin::Network).is_some() {
            "signed shim and GRUB (UEFI, Secure Boot too)"
        } else {
            "GRUB (UEFI without Secure Boot)"
        });
    }
    if let Some(http) = http
        && put_http(tree, http)?
    {
        done.push("GRUB (UEFI HTTP boot without Secure Boot)");
    }
    Ok(done)
}

fn put_pxelinux(tree: &Tree) -> Result<bool> {
    let find = |name: &&str| {
        PXELINUX_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists())
    };
    let Some(found) = PXELINUX.iter().map(find).collect::<Option<Vec<PathBuf>>>() else {
        return Ok(false);
    };
    for (name, from) in PXELINUX.iter().zip(found) {
        tree.put_file(name, &from)?;
    }
    Ok(true)
}

fn put_uefi(tree: &Tree) -> Result<bool> {
    if let Some(signed) = signed::find(signed::Origin::Network) {
        put_signed(tree, &signed)?;
        return Ok(true);
    }
    put_own_grub(tree, UEFI_FIRST, EARLY)
}

fn put_signed(tree: &Tree, signed: &signed::Signed) -> Result<()> {
    tree.put_file(UEFI_SECOND, &signed.grub)?;
    tree.put_file(UEFI_FIRST, &signed.shim)
}

fn put_http(tree: &Tree, http: &str) -> Result<bool> {
    put_own_grub(tree, HTTP_FIRST, &EARLY_HTTP.replace("@HTTP@", &menus::grub_device(http)))
}

/// Makes a GRUB for UEFI that runs the commands `early` first.
fn put_own_grub(tree: &Tree, name: &str, early: &str) -> Result<bool> {
    let Some(platform) = Platforms::find().uefi else { return Ok(false) };
    let scratch = tempfile::tempdir().context("making a directory for GRUB")?;
    let (config, image) = (scratch.path().join("early.cfg"), scratch.path().join("grub.efi"));
    std::fs::write(&config, early).with_context(|| format!("writing {}", config.display()))?;
    Cmd::new("grub-mkimage")
        .args(["--format=x86_64-efi", "--prefix=/grub"])
        .arg("--directory")
        .arg(&platform)
        .arg("--config")
        .arg(&config)
        .arg("--output")
        .arg(&image)
        .args(MODULES.split_whitespace())
        .run()?;
    tree.put_file(name, &image)?;
    Ok(true)
}
