//! The filesystems that the kernel itself offers.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::console;

const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
];

/// Mounts them, and tells what could not be mounted: there is no log and no screen yet.
pub fn early() {
    for (kind, path, options) in MOUNTS {
        let flags = match *kind {
            "proc" | "sysfs" => MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            _ => MsFlags::MS_NOSUID,
        };
        let mounted = std::fs::create_dir_all(path).map_err(anyhow::Error::from).and_then(|()| {
            Ok(mount(Some(*kind), Path::new(path), Some(*kind), flags, Some(*options))?)
        });
        if let Err(error) = mounted
            // The kernel may have mounted /dev already.
            && error.downcast_ref() != Some(&nix::errno::Errno::EBUSY)
        {
            console::say(&format!("rr: mounting {path}: {error:#}"));
        }
    }
    // LVM, mount(8) and rr keep locks and state there. A damaged initrd may lack the last two.
    for dir in
        ["/run/lock/lvm", "/run/lvm", "/run/mdadm", "/run/mount", "/run/rr", "/var/log", "/root"]
    {
        if let Err(error) = std::fs::create_dir_all(dir) {
            console::say(&format!("rr: creating {dir}: {error}"));
        }
    }
}

/// The variables of UEFI firmware, once their driver is loaded.
pub fn efi_variables() {
    let path = Path::new("/sys/firmware/efi/efivars");
    if !path.is_dir() {
        return;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("efivarfs"), path, Some("efivarfs"), flags, None::<&str>) {
        Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
        Err(errno) => log::warn!("mounting {}: {errno}", path.display()),
    }
}
