//! A virtual machine that runs.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::agent::Agent;
use super::pulse::{Pulse, StandsStill};
use super::qmp::Qmp;

/// How long an answer of a guest that boots is waited for, before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// QEMU opens its sockets before it starts the firmware.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The token with which a guest says that it has failed.
const FAILED: &str = "failed";
const TAIL_LINES: usize = 25;
/// An emulated guest reads its keyboard slowly, and a key that it has not read is lost.
const KEY_PAUSE: Duration = Duration::from_millis(200);

/// The directory of a machine's sockets; short, because a socket's path is limited to 107 bytes.
#[derive(Debug)]
pub struct Sockets {
    dir: tempfile::TempDir,
}

impl Sockets {
    pub(super) fn new() -> Result<Sockets> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("rr-vm-").permissions(Permissions::from_mode(0o700));
        let dir = builder.tempdir_in("/tmp");
        Ok(Sockets { dir: dir.context("making a directory for sockets")? })
    }
    pub(super) fn qmp(&self) -> PathBuf {
        self.dir.path().join("qmp")
    }
    pub(super) fn agent(&self) -> PathBuf {
        self.dir.path().join("lab")
    }
    pub(super) fn serial(&self) -> PathBuf {
        self.dir.path().join("serial")
    }
}

/// Switched off when it is dropped.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    pulse: Pulse,
    qmp: Qmp,
    sockets: Sockets,
    /// Whether there is a screen, and with it a keyboard.
    screen: bool,
    logs: PathBuf,
}

impl Vm {
    pub(super) fn attach(
        mut child: Child,
        sockets: Sockets,
        screen: bool,
        logs: &Path,
    ) -> Result<Vm> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(qmp) = Qmp::connect(&sockets.qmp()) {
                let pulse = Pulse::of(child.id());
                return Ok(Vm { child, pulse, qmp, sockets, screen, logs: logs.to_owned() });
            }
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                // Failing to kill what has ended is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
                let said = std::fs::read_to_string(logs.join("qemu.log")).unwrap_or_default();
                bail!("QEMU did not start\n{}", said.trim_end());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the guest has said `token` on the port `rr.verdict`. Fails as soon as it says
    /// `failed`.
    pub fn wait_token(&mut self, token: &str, timeout: Duration) -> Result<()> {
        self.wait(&format!("the token {token:?}"), timeout, |vm| {
            let said = vm.tokens()?;
            if said.iter().any(|line| line == token) {
                return Ok(true);
            }
            if let Some(line) = said.iter().find(|line| line.starts_with(FAILED)) {
                bail!("the guest said {line:?} instead of {token:?}\n{}", vm.console_tail());
            }
            Ok(false)
        })
    }

    /// All tokens so far, in order.
    pub fn tokens(&self) -> Result<Vec<String>> {
        let text = std::fs::read(self.logs.join("verdict.log")).context("reading the verdict")?;
        let text = String::from_utf8_lossy(&text);
        // A last line without its end is still being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Waits until `text` is on the serial console.
    pub fn wait_console(&mut self, text: &str, timeout: Duration) -> Result<()> {
        self.wait(&format!("{text:?} on the console"), timeout, |vm| {
            Ok(vm.console()?.contains(text))
        })
    }

    /// Everything that was said on the serial console.
    pub fn console(&self) -> Result<String> {
        let bytes = std::fs::read(self.logs.join("console.log")).context("reading the console")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until the machine is off.
    pub fn wait_off(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.child.try_wait()?.is_none() {
            self.pulse.check().with_context(|| self.console_tail())?;
            if Instant::now() > deadline {
                let seconds = timeout.as_secs();
                bail!("the machine is still on after {seconds} s\n{}", self.console_tail());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The guest's command channel. There is one; a second connection gets no answers.
    pub fn agent(&self) -> Result<Agent> {
        Agent::connect(&self.sockets.agent(), self.pulse.clone())
    }

    /// Waits until the guest's agent answers.
    ///
    /// # Errors
    /// [`super::StandsStill`] where the console has said nothing for `silence` as well.
    pub fn wait_boot(
        &mut self,
        agent: &mut Agent,
        timeout: Duration,
        silence: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut heard = (0, Instant::now());
        loop {
            let Err(error) = agent.check("true", ASK_AGAIN) else { return Ok(()) };
            if self.child.try_wait()?.is_some() || error.is::<StandsStill>() {
                return Err(error.context(self.console_tail()));
            }
            let said = self.console()?.len();
            if said != heard.0 {
                heard = (said, Instant::now());
            }
            if heard.1.elapsed() > silence {
                let why = format!("its console is silent for {} s", silence.as_secs());
                return Err(
                    anyhow::Error::from(self.pulse.stopped(why)).context(self.console_tail())
                );
            }
            if Instant::now() > deadline {
                return Err(error.context(self.console_tail()));
            }
        }
    }

    /// The terminal that people sit at, as Linux calls it.
    pub fn terminal(&self) -> &'static str {
        if self.screen { "tty1" } else { "ttyS0" }
    }

    /// Takes a picture of the screen, as PNG; none where there is no screen.
    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        if !self.screen {
            return Ok(());
        }
        let arguments = json!({ "filename": file.display().to_string(), "format": "png" });
        self.qmp.ask("screendump", arguments).map(drop)
    }

    /// Presses and releases a key, by QEMU's name for it: `ret`, `down`, `a`. Without a screen it is
    /// one of a terminal on the serial port.
    pub fn press(&mut self, key: &str) -> Result<()> {
        if !self.screen {
            return self.send_serial(&[terminal_key(key)?.to_owned()]);
        }
        let keys = json!([{ "type": "qcode", "data": key }]);
        self.qmp.ask("send-key", json!({ "keys": keys })).map(drop)
    }

    /// Types a line on the keyboard: what is on the keys of an American one, unshifted. Without a
    /// screen, on the serial console.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        if !self.screen {
            return self.type_serial(text);
        }
        for letter in text.chars() {
            self.press(&key_of(letter)?)?;
            std::thread::sleep(KEY_PAUSE);
        }
        self.press("ret")
    }

    /// Types a line on the serial console.
    pub fn type_serial(&mut self, text: &str) -> Result<()> {
        let keys: Vec<String> = text.chars().chain(['\r']).map(String::from).collect();
        self.send_serial(&keys)
    }

    /// Sends what keys of a terminal send, one after the other.
    fn send_serial(&mut self, keys: &[String]) -> Result<()> {
        let typing = || {
            let mut line = UnixStream::connect(self.sockets.serial())?;
            for key in keys {
                line.write_all(key.as_bytes())?;
                // QEMU drops what the guest has not read yet when the line is hung up.
                std::thread::sleep(KEY_PAUSE);
            }
            Ok::<_, std::io::Error>(())
        };
        typing().context("typing on the serial console")
    }

    /// Pulls the plug.
    pub fn cut_power(mut self) -> Result<()> {
        self.child.kill().context("killing QEMU")?;
        self.child.wait().context("waiting for QEMU")?;
        Ok(())
    }

    /// The end of what the console said, for messages.
    pub fn console_tail(&self) -> String {
        let text = self.console().unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let start = lines.len().saturating_sub(TAIL_LINES);
        format!(
            "the last lines of {}:\n  | {}",
            self.logs.join("console.log").display(),
            lines[start..].join("\n  | ")
        )
    }

    fn wait(
        &mut self,
        what: &str,
        timeout: Duration,
        mut there: impl FnMut(&Vm) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            // Asked before looking: what was said last is still seen when the machine is off.
            let ended = self.child.try_wait()?;
            if there(self)? {
                return Ok(());
            }
            if ended.is_some() {
                bail!("the machine went off before {what}\n{}", self.console_tail());
            }
            self.pulse.check().with_context(|| self.console_tail())?;
            if Instant::now() > deadline {
                let seconds = timeout.as_secs();
                bail!("no {what} within {seconds} s\n{}", self.console_tail());
            }
            std::thread::sleep(POLL);
        }
    }
}

/// QEMU's name for the key with this letter on it.
fn key_of(letter: char) -> Result<String> {
    Ok(match letter {
        'a'..='z' | '0'..='9' => letter.to_string(),
        ' ' => "spc".to_owned(),
        '-' => "minus".to_owned(),
        '.' => "dot".to_owned(),
        '/' => "slash".to_owned(),
        '=' => "equal".to_owned(),
        other => bail!("no key is known for {other:?}"),
    })
}

/// What a VT100 sends for the key that QEMU calls so.
fn terminal_key(key: &str) -> Result<&'static str> {
    Ok(match key {
        "ret" => "\r",
        "home" => "\x1b[H",
        "end" => "\x1b[F",
        "down" => "\x1b[B",
        other => bail!("no terminal is known to have the key {other:?}"),
    })
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
