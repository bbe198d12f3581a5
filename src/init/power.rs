//! The way out: everything written and unmounted, then off or again.

use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, sync};

use super::console;

/// What lives in memory only and may stay.
const IN_MEMORY: &[&str] = &[
    "autofs",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Ends the rescue system: `reboot`, `poweroff` or `halt`, by which name it was called.
pub fn power(name: &str) -> ! {
    let mode = match name {
        "poweroff" => RebootMode::RB_POWER_OFF,
        "halt" => RebootMode::RB_HALT_SYSTEM,
        _ => RebootMode::RB_AUTOBOOT,
    };
    // The session's end must not take this process with it.
    if let Err(errno) = SigSet::all().thread_block() {
        log::debug!("blocking signals: {errno}");
    }
    console::say(&format!("rr: {name}: writing everything to the disks ..."));
    sync();
    // What still runs holds mounts open. PID 1 and this process are spared.
    for (signal, pause) in [(Signal::SIGTERM, 500), (Signal::SIGKILL, 200)] {
        // No other process is there: nothing to end.
        let _ = kill(Pid::from_raw(-1), signal);
        std::thread::sleep(Duration::from_millis(pause));
    }
    unmount_all();
    sync();
    let Err(errno) = reboot(mode);
    console::say(&format!("rr: {name}: {errno}"));
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Unmounts what is on disks and networks, the newest first. What stays busy becomes read-only.
fn unmount_all() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for (kind, path) in mounts.lines().rev().filter_map(parse) {
        if IN_MEMORY.contains(&kind) {
            continue;
        }
        if let Err(errno) = umount2(path.as_str(), MntFlags::UMOUNT_NOFOLLOW) {
            console::say(&format!("rr: unmounting {path}: {errno}"));
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let none = None::<&str>;
            if mount(none, path.as_str(), none, flags, none).is_err() {
                let _ = umount2(path.as_str(), MntFlags::MNT_DETACH);
            }
        }
    }
}

/// The kind and the mount point of a line of /proc/self/mounts; blanks stand as `\040` there.
fn parse(line: &str) -> Option<(&str, String)> {
    let mut words = line.split(' ').skip(1);
    let path = words.next()?;
    let kind = words.next()?;
    let path = path
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    Some((kind, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        assert_eq!(
            parse("/dev/vda1 /mnt/rr/a\\040b ext4 rw,relatime 0 0"),
            Some(("ext4", "/mnt/rr/a b".to_owned()))
        );
        assert_eq!(parse(""), None);
    }
}
