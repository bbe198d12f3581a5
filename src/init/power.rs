//! The way out: everything written and unmounted, then off or again.

use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, sync};

use super::console;
use crate::sys::mount::{IN_MEMORY, mounts};

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
    let mounts = mounts().unwrap_or_else(|error| {
        console::say(&format!("rr: {error:#}"));
        Vec::new()
    });
    for found in mounts.iter().rev().filter(|found| !IN_MEMORY.contains(&found.kind.as_str())) {
        let path = found.path.as_path();
        if let Err(errno) = umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            console::say(&format!("rr: unmounting {}: {errno}", path.display()));
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let none = None::<&str>;
            if mount(none, path, none, flags, none).is_err() {
                let _ = umount2(path, MntFlags::MNT_DETACH);
            }
        }
    }
}
