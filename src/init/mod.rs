//! PID 1 of the rescue system.
//!
//! PID 1 itself does little, so that it lives: it mounts what the kernel offers, joins the consoles
//! ([`console`]), keeps one session running on them, and reaps orphans. The [`session`] is a second
//! process of this program. It starts udev ([`devices`]), checks that the initrd is whole
//! ([`integrity`]) and the [`clock`] sane, finds the medium it was booted from ([`medium`]), lets the
//! admin in by [`ssh`], brings the network up ([`network`]), and then does what the kernel command
//! line says ([`cmdline`]): recover, ask, or give a shell. A session that dies is followed by one that
//! gives a shell.

pub mod clock;
pub mod cmdline;
pub mod console;
pub mod devices;
pub mod dhcp;
pub mod integrity;
pub mod medium;
pub mod mounts;
pub mod network;
pub mod power;
pub mod session;
pub mod ssh;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys::run::Cmd;

pub use power::power;

/// Tells the session that the one before it died.
const AGAIN: &str = "RR_SESSION_AGAIN";

/// Runs PID 1, or its session where this process is not PID 1. Called only in the rescue system.
pub fn run() -> ! {
    if std::process::id() == 1 {
        pid_one()
    } else {
        session::run(std::env::var_os(AGAIN).is_some())
    }
}

fn pid_one() -> ! {
    // Ctrl-Alt-Del comes as SIGINT and reboots in order.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    let waits = signals.thread_block().is_ok();
    mounts::early();
    if waits && nix::sys::reboot::set_cad_enabled(false).is_ok() {
        std::thread::spawn(move || {
            if signals.wait().is_ok() {
                power("reboot");
            }
        });
    }
    let (terminal, kept) = terminal();
    let mut again = false;
    loop {
        // A program of the last session may have left it otherwise.
        if let Some(Err(error)) = kept.as_ref().map(console::never_stop) {
            console::say(&format!("rr: {error:#}"));
        }
        match one_session(&terminal, again) {
            Ok(how) => console::say(&format!("rr: the session ended: {how}")),
            Err(error) => console::say(&format!("rr: {error:#}")),
        }
        again = true;
        // Whatever is wrong: not faster than somebody can read.
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// The terminal that all consoles share; the kernel's own console where that can't be.
fn terminal() -> (PathBuf, Option<OwnedFd>) {
    match console::join() {
        Ok((path, kept)) => (path, Some(kept)),
        Err(error) => {
            console::say(&format!("rr: {error:#}"));
            (PathBuf::from("/dev/console"), None)
        }
    }
}

/// Starts a session and reaps everything until it ends.
fn one_session(terminal: &Path, again: bool) -> Result<String> {
    let mut command =
        Cmd::new("/usr/bin/rr").arg("init").env("TERM", "linux").env("HOME", "/root").dir("/root");
    if again {
        command = command.env(AGAIN, "1");
    }
    let child = command.spawn_on_tty(terminal)?;
    let session = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == session => {
                return Ok(format!("exit status {code}"));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == session => {
                return Ok(format!("killed by {signal}"));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("waiting for the session"),
        }
    }
}
