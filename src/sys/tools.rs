//! The table of the external programs that rr uses, and the packages they come in.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Where programs are looked for; the caller's `PATH` is not trusted.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An external program.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    /// Other names that the same program has (RHEL: `grub2-install`).
    pub also: &'static [&'static str],
    pub debian: &'static str,
    pub rhel: &'static str,
}

const fn tool(name: &'static str, debian: &'static str, rhel: &'static str) -> Tool {
    Tool { name, also: &[], debian, rhel }
}

/// Every program that rr may run on a node or in a rescue system.
pub const TOOLS: &[Tool] = &[
    tool("age", "age", "age (EPEL)"),
    tool("blkid", "util-linux", "util-linux"),
    tool("blockdev", "util-linux", "util-linux"),
    tool("btrfs", "btrfs-progs", "btrfs-progs"),
    tool("cache_check", "thin-provisioning-tools", "device-mapper-persistent-data"),
    tool("chroot", "coreutils", "coreutils"),
    tool("cryptsetup", "cryptsetup-bin", "cryptsetup"),
    tool("dmsetup", "dmsetup", "device-mapper"),
    tool("dumpe2fs", "e2fsprogs", "e2fsprogs"),
    tool("efibootmgr", "efibootmgr", "efibootmgr"),
    tool("getent", "libc-bin", "glibc-common"),
    Tool {
        name: "grub-install",
        also: &["grub2-install"],
        debian: "grub2-common",
        rhel: "grub2-tools",
    },
    Tool {
        name: "grub-mkimage",
        also: &["grub2-mkimage"],
        debian: "grub-common",
        rhel: "grub2-tools",
    },
    Tool {
        name: "grub-mkrescue",
        also: &["grub2-mkrescue"],
        debian: "grub-common",
        rhel: "grub2-tools-extra",
    },
    tool("ip", "iproute2", "iproute"),
    tool("loadkeys", "kbd", "kbd"),
    tool("lvm", "lvm2", "lvm2"),
    tool("mcopy", "mtools", "mtools"),
    tool("mdadm", "mdadm", "mdadm"),
    tool("mke2fs", "e2fsprogs", "e2fsprogs"),
    tool("mkfs.btrfs", "btrfs-progs", "btrfs-progs"),
    tool("mkfs.ext4", "e2fsprogs", "e2fsprogs"),
    tool("mkfs.f2fs", "f2fs-tools", "f2fs-tools"),
    tool("mkfs.vfat", "dosfstools", "dosfstools"),
    tool("mkfs.xfs", "xfsprogs", "xfsprogs"),
    tool("mkswap", "util-linux", "util-linux"),
    tool("mformat", "mtools", "mtools"),
    tool("mmd", "mtools", "mtools"),
    tool("modinfo", "kmod", "kmod"),
    tool("modprobe", "kmod", "kmod"),
    tool("mount", "mount", "util-linux"),
    tool("mount.nfs", "nfs-common", "nfs-utils"),
    tool("partx", "util-linux", "util-linux"),
    tool("qemu-system-x86_64", "qemu-system-x86", "qemu-system-x86"),
    tool("sh", "dash", "bash"),
    tool("sfdisk", "fdisk", "util-linux"),
    tool("swapoff", "mount", "util-linux"),
    tool("thin_check", "thin-provisioning-tools", "device-mapper-persistent-data"),
    tool("tune2fs", "e2fsprogs", "e2fsprogs"),
    tool("udevadm", "udev", "systemd-udev"),
    tool("umount", "mount", "util-linux"),
    tool("wipefs", "util-linux", "util-linux"),
    tool("xfs_admin", "xfsprogs", "xfsprogs"),
    tool("xfs_info", "xfsprogs", "xfsprogs"),
    tool("xorriso", "xorriso", "xorriso"),
];

/// Where a program is: as it is given where that is a path, else in [`PATH`] by any of its names.
pub fn find(program: &OsStr) -> Option<PathBuf> {
    if program.to_string_lossy().contains('/') {
        return Some(PathBuf::from(program)).filter(|p| is_executable(p));
    }
    let also = entry(program).map_or(&[][..], |tool| tool.also);
    std::iter::once(program).chain(also.iter().map(OsStr::new)).find_map(|name| {
        PATH.split(':').map(|dir| PathBuf::from(dir).join(name)).find(|path| is_executable(path))
    })
}

/// Checks that all of `programs` are there.
///
/// # Errors
/// Names every missing one at once, with the packages to install.
pub fn require(programs: &[&str]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        programs.iter().copied().filter(|p| find(OsStr::new(p)).is_none()).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = |pick: fn(&Tool) -> &'static str| {
        let mut names: Vec<_> =
            missing.iter().filter_map(|p| entry(OsStr::new(p)).map(pick)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(" ")
    };
    anyhow::bail!(
        "missing programs: {}\n  Debian, Ubuntu: apt-get install {}\n  RHEL-like:      dnf install {}",
        missing.join(", "),
        packages(|t| t.debian),
        packages(|t| t.rhel)
    )
}

pub(super) fn missing_error(program: &OsStr) -> anyhow::Error {
    match entry(program) {
        Some(tool) => anyhow::anyhow!(
            "{} is not installed (package {} on Debian, {} on RHEL-like systems)",
            tool.name,
            tool.debian,
            tool.rhel
        ),
        None => anyhow::anyhow!("{} is not installed", program.to_string_lossy()),
    }
}

fn entry(program: &OsStr) -> Option<&'static Tool> {
    TOOLS.iter().find(|t| program == t.name || t.also.iter().any(|a| program == *a))
}

fn is_executable(path: &std::path::Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_missing_programs_are_named_at_once() {
        let text = require(&["sh", "rr-none-a", "rr-none-b"]).unwrap_err().to_string();
        assert!(text.contains("rr-none-a, rr-none-b"), "{text}");
        require(&["sh", "mount"]).unwrap();
    }
}
