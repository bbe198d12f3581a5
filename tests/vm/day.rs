//! How a recovery goes: by itself, with an admin who is asked, or with a server that dies midway.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rr::prove::Vm;

use crate::lab::{self, Phases};
use crate::nfs::Server;

/// What the rescue system says on its way, and how long it may take for each.
const TOKENS: &[(&str, u64)] = &[
    ("fetched", 240),
    ("planned", 60),
    // Before it the whole backup is read.
    ("applied", 360),
    ("extracted", 300),
    ("fixed", 600),
    ("checked", 120),
    ("success", 60),
];
/// For what an admin waits for at a prompt.
const ANSWER_SECONDS: u64 = 120;
const QUESTION: &str = "Erase them and recover this machine?";
const RECOVERY_SECONDS: u64 = 900;
/// Between what is on the serial console and the same on the screen.
const PAINT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Day {
    /// Automatic Recover, and nobody is there.
    Automatic,
    /// Recover (ask me): the admin first does not say yes, or types the passphrase wrong, then recovers
    /// from the menu.
    Asked,
    /// The server of the backup dies while files are restored. The admin repairs it and repeats the
    /// recovery over the half-done disks.
    ServerDies,
}

/// Who sits in front of the machine.
pub struct Desk<'a> {
    pub vm: &'a mut Vm,
    /// Where pictures of the screen go.
    pub dir: &'a Path,
    pub phases: &'a mut Phases,
    /// What the node's encrypted volumes are to be opened with.
    pub passphrase: Option<&'static str>,
    /// How long all of a slow medium is read.
    pub reading: Duration,
}

impl Desk<'_> {
    /// From the boot menu until the machine is off.
    pub fn pass(&mut self, day: Day, server: Option<&mut Server>) -> Result<()> {
        self.phases.run("firmware to boot menu", || {
            self.vm.wait_console("Automatic Recover", lab::seconds(180) + self.reading)?;
            self.vm.screenshot(&self.dir.join("menu.png"))
        })?;
        match day {
            Day::Automatic => self.automatic()?,
            Day::Asked => self.asked()?,
            Day::ServerDies => self.server_dies(server.context("no server can die")?)?,
        }
        self.wait_off()
    }

    /// A recovery that was started by itself. While files are restored, `meanwhile` looks on.
    pub fn look_on(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.wait_tokens(&TOKENS[..3])?;
        self.phases.run("the admin looks on", meanwhile)?;
        self.wait_tokens(&TOKENS[3..])?;
        self.end_automatically()?;
        self.wait_off()
    }

    fn wait_off(&mut self) -> Result<()> {
        self.phases.run("rescue system: reboot", || self.vm.wait_off(lab::seconds(180)))
    }

    fn automatic(&mut self) -> Result<()> {
        Desk::choose(self.vm, 0)?;
        if !self.reading.is_zero() {
            let loading = lab::seconds(TOKENS[0].1) + self.reading;
            self.phases.run("slow medium: read", || self.vm.wait_token("ready", loading))?;
        }
        self.wait_tokens(TOKENS)?;
        self.end_automatically()
    }

    fn end_automatically(&mut self) -> Result<()> {
        self.wait_text("Rebooting in")?;
        self.picture("success")?;
        in_order(&self.vm.tokens()?)
    }

    fn asked(&mut self) -> Result<()> {
        Desk::choose(self.vm, 1)?;
        if let Some(passphrase) = self.passphrase {
            self.type_passphrase(1, passphrase, "another")?;
        } else {
            self.wait_count(QUESTION, 1)?;
            self.picture("question")?;
            // Only a whole "yes" is a yes.
            self.vm.type_line("y")?;
        }
        self.wait_text("Nothing on the disks was changed.")?;
        self.picture("refused")?;
        self.vm.type_line("exit")?;
        self.wait_text("5) Recover")?;
        self.vm.type_line("5")?;
        if let Some(passphrase) = self.passphrase {
            self.type_passphrase(2, passphrase, passphrase)?;
        }
        self.wait_count(QUESTION, if self.passphrase.is_some() { 1 } else { 2 })?;
        self.vm.type_line("yes")?;
        self.wait_success()?;
        self.wait_text("1) View the log")?;
        self.picture("success")?;
        self.vm.type_line("3")
    }

    fn server_dies(&mut self, server: &mut Server) -> Result<()> {
        Desk::choose(self.vm, 0)?;
        self.wait_tokens(&TOKENS[..3])?;
        server.stop()?;
        self.phases.run("rescue system: gives up", || {
            let failed = "the recovery FAILED (exit code 3)";
            self.vm.wait_console(failed, lab::seconds(RECOVERY_SECONDS))
        })?;
        self.picture("failed")?;
        let said = self.vm.tokens()?;
        ensure!(
            !said.iter().any(|token| token == "extracted" || token == "success"),
            "with its server gone the rescue system said {said:?}"
        );
        server.start_again()?;
        self.vm.type_line("rr recover --auto")?;
        self.wait_success()?;
        self.picture("success")?;
        self.vm.type_line("reboot")
    }

    /// Starts an entry of the boot menu.
    pub fn choose(vm: &mut Vm, entry: usize) -> Result<()> {
        // From whatever the menu would start by itself to its first entry.
        vm.press("home")?;
        for _ in 0..entry {
            vm.press("down")?;
        }
        vm.press("ret")
    }

    pub fn choose_last(vm: &mut Vm) -> Result<()> {
        vm.press("end")?;
        vm.press("ret")
    }

    fn picture(&mut self, name: &str) -> Result<()> {
        std::thread::sleep(PAINT);
        self.vm.screenshot(&self.dir.join(format!("{name}.png")))
    }

    fn wait_text(&mut self, text: &str) -> Result<()> {
        self.vm.wait_console(text, lab::seconds(ANSWER_SECONDS))
    }

    fn wait_success(&mut self) -> Result<()> {
        self.phases.run("rescue system: success", || {
            self.vm.wait_console("Success!", lab::seconds(RECOVERY_SECONDS))
        })
    }

    /// Types the passphrase twice, the `count`th time that it is asked for.
    fn type_passphrase(&mut self, count: usize, first: &str, second: &str) -> Result<()> {
        self.wait_count("Passphrase for ", count)?;
        self.vm.type_line(first)?;
        self.wait_count("The same passphrase again: ", count)?;
        self.picture("passphrase")?;
        self.vm.type_line(second)
    }

    /// Waits until the admin has been asked this for the `count`th time.
    fn wait_count(&mut self, question: &str, count: usize) -> Result<()> {
        let deadline = Instant::now() + lab::seconds(2 * TOKENS[0].1);
        while self.vm.console()?.matches(question).count() < count {
            let late = Instant::now() > deadline;
            ensure!(!late, "not asked {question:?} {count} times\n{}", self.vm.console_tail());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn wait_tokens(&mut self, tokens: &[(&str, u64)]) -> Result<()> {
        for (token, seconds) in tokens {
            let waited = self.phases.run(&format!("rescue system: {token}"), || {
                self.vm.wait_token(token, lab::seconds(*seconds))
            });
            if waited.is_err() {
                // For who looks for the reason; the machine may be off already.
                let _ = self.picture("failed");
            }
            waited?;
        }
        Ok(())
    }
}

fn in_order(said: &[String]) -> Result<()> {
    let known: Vec<&str> =
        said.iter().map(String::as_str).filter(|s| TOKENS.iter().any(|(t, _)| t == s)).collect();
    let expected: Vec<&str> = TOKENS.iter().map(|(token, _)| *token).collect();
    ensure!(known == expected, "the rescue system said {known:?} instead of {expected:?}");
    Ok(())
}
