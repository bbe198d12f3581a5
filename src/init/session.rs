//! What happens on the consoles: the rescue system gets ready, does what it was booted for, and
//! ends in a reboot, a menu or a shell.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{FlushArg, tcflush};

use super::cmdline::{self, Mode, Network, Options};
use super::network::{Hints, Say};
use super::{clock, console, devices, integrity, medium, mounts, network, power, ssh};
use crate::config::{self, Config, Keymap, TargetUrl};
use crate::layout::Layout;
use crate::probe::boot;
use crate::rescue::RescueInfo;
use crate::rescue::info::{CODE_VARIABLE, RECOVER_LOG};
use crate::rescue::keymap;
use crate::sys::run::Cmd;
use crate::ui::verdict::Verdict;
use crate::ui::{self, Ui};

/// What the rescue system itself logs.
const LOG: &str = "/var/log/rr-rescue.log";
/// What the recovery that runs on the consoles ended with.
const RECOVER_CODE: &str = "/run/rr/recover.code";
/// How long a result can be read before the machine reboots by itself.
const REBOOT_PAUSE: Duration = Duration::from_secs(5);

/// What is known after the start.
#[derive(Debug, Clone)]
struct Rescue {
    info: RescueInfo,
    config: Config,
    layout: Layout,
    options: Options,
    ui: Ui,
    verdict: Verdict,
    /// The fingerprint of the ssh server's key, where there is one.
    host_key: Option<String>,
}

/// How a recovery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Success,
    /// With the program's exit code.
    Failed(i32),
}

/// Runs the session. `again`: the one before died, so nothing is done unasked.
pub fn run(again: bool) -> ! {
    // Keys that end a program end what the session runs, and not the session.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTOU] {
        signals.add(signal);
    }
    if let Err(errno) = signals.thread_block() {
        log::warn!("blocking signals: {errno}");
    }
    let options = cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    ui::log::start(options.debug);
    let ui = Ui::detect(false);
    let verdict = Verdict::detect();
    if let Err(error) = ui::log::to_file(Path::new(LOG)) {
        ui.warn(format!("{error:#}"));
    }
    match prepare(options, &ui, &verdict, again) {
        Ok(rescue) => {
            spare_shells();
            if again {
                ui.warn("the session before this one ended badly: nothing is done by itself");
                Rescue { options: Options { mode: Mode::Shell, ..rescue.options }, ..rescue }.act()
            } else {
                rescue.act()
            }
        }
        Err(error) => {
            ui.error(&error);
            verdict.failed(&error);
            spare_shells();
            loop {
                shell(
                    "The rescue system did not start as it should. Its log: /var/log/rr-rescue.log",
                );
            }
        }
    }
}

/// Everything that a recovery and an admin at a shell need.
fn prepare(options: Options, ui: &Ui, verdict: &Verdict, again: bool) -> Result<Rescue> {
    let Some(info) = RescueInfo::read()? else {
        bail!("this is no rescue system: {} is missing", crate::rescue::info::PATH);
    };
    ui.info(format!("\nrr {}: the rescue system of {}\n", env!("CARGO_PKG_VERSION"), info.node));
    for word in &options.unknown {
        ui.warn(format!("{word} on the kernel command line is not understood"));
    }
    // A damaged initrd must be told as such, and not as what fails for it.
    let whole = std::thread::spawn(|| integrity::check(Path::new("/")));
    let begun = begin(&info, again, ui);
    match whole.join() {
        Ok(result) => result?,
        Err(_) => bail!("checking this rescue system panicked"),
    }
    let (layout, config) = begun?;
    verdict.say("devices");
    let media = medium::find(&info.node)?;
    if !media.is_empty() {
        ui.info(format!("booted from {}: it will not be touched", media.join(", ")));
    }
    if boot::secure_boot() {
        ui.info("Secure Boot is on");
    }
    let (ui, verdict) = (ui.clone(), verdict.clone());
    let mut rescue = Rescue { info, config, layout, options, ui, verdict, host_key: None };
    if !again {
        rescue.let_in();
        rescue.connect();
    }
    rescue.verdict.say("ready");
    Ok(rescue)
}

/// Reads what was recorded, and brings the devices up.
fn begin(info: &RescueInfo, again: bool, ui: &Ui) -> Result<(Layout, Config)> {
    let text = std::fs::read_to_string("/etc/rr/layout.toml").context("reading the layout")?;
    let layout = crate::layout::schema::parse(&text)?;
    let config = config::load(Some(Path::new("/etc/rr/rr.toml")))?.config;
    clock::not_before(&layout.node.recorded);
    if let Err(errno) = nix::unistd::sethostname(format!("rescue-{}", info.node)) {
        log::warn!("setting the host name: {errno}");
    }
    if !again {
        ui.step("Finding devices", || devices::start(&layout))?;
        set_keyboard(&config, ui);
        mounts::efi_variables();
    }
    Ok((layout, config))
}

/// Where the image has a keymap. Whoever types a passphrase has to know when it is not in use.
fn set_keyboard(config: &Config, ui: &Ui) {
    let file = Path::new(keymap::PATH);
    if !file.exists() {
        return;
    }
    match (crate::sys::keymap::load(file), &config.rescue.keymap) {
        (Ok(()), Keymap::Named(name)) => ui.info(format!("the keyboard is {name}")),
        (Ok(()), _) => ui.info("the keyboard is the node's"),
        (Err(error), _) => ui.warn(format!("the keyboard is an American one: {error:#}")),
    }
}

impl Rescue {
    fn target(&self) -> &str {
        self.options.target.as_deref().unwrap_or(&self.info.target)
    }

    /// Starts the ssh server, where the image has one. A recovery goes on without.
    fn let_in(&mut self) {
        let motd = format!(
            "\n{}\n\x20 tail -f {RECOVER_LOG}   a recovery that is running on the console\n\n",
            self.motd()
        );
        match ssh::start(&motd) {
            Ok(key) => self.host_key = key,
            Err(error) => self.ui.warn(format!("there is no ssh into this system: {error:#}")),
        }
    }

    /// How to log in from elsewhere, where that is possible.
    fn ssh_hint(&self) -> Option<String> {
        let key = self.host_key.as_ref()?;
        let logins = ssh::logins();
        let how = format!("ssh {}   (host key {key}, made anew at every start)", logins.join(", "));
        (!logins.is_empty()).then_some(how)
    }

    /// Brings the network up: before anything else where the backup is on it, else aside.
    fn connect(&self) {
        let needed = self.target().parse().is_ok_and(|url: TargetUrl| url.is_on_network());
        let asked = !matches!(self.options.network, Network::Configured);
        if needed || asked {
            let say = |text: &str| self.ui.info(text);
            let connect = || self.bring_up(&self.options.network, &say);
            if let Err(error) = self.ui.step("Connecting to the network", connect) {
                // The recovery will say that the target does not answer; the shell is there.
                self.ui.warn(format!("{error:#}"));
            }
            if let Some(hint) = self.ssh_hint() {
                self.ui.info(hint);
            }
            return;
        }
        let rescue = self.clone();
        std::thread::spawn(move || {
            let say = |text: &str| log::info!("{text}");
            if let Err(error) = rescue.bring_up(&Network::Configured, &say) {
                log::info!("{error:#}");
            }
            if let Some(hint) = rescue.ssh_hint() {
                log::info!("{hint}");
            }
        });
    }

    fn bring_up(&self, how: &Network, say: Say<'_>) -> Result<()> {
        // The image's own have what the node's environment and profile say, too.
        let own = self.options.target.as_deref().is_none_or(|target| target == self.info.target);
        let options = if own { &self.info.target_options } else { &self.config.target_options };
        let server = network::reach::server_of(self.target(), options);
        let reaches = server.map(|url| move || network::reach::answers(&url));
        let hints = Hints {
            boot_mac: self.options.boot_mac.as_deref(),
            reaches_target: reaches.as_ref().map(|reaches| reaches as &(dyn Fn() -> bool + Sync)),
            patience: network::LINK_TIMEOUT,
        };
        match (how, self.config.rescue.network) {
            (Network::None, _) => Ok(()),
            (Network::Given(given), _) => network::given(given, hints, say),
            (Network::Node, _) | (Network::Configured, config::Network::Node) => {
                network::node(&self.layout.net, hints, say)
            }
            (Network::Dhcp, _) | (Network::Configured, config::Network::Dhcp) => {
                network::dhcp_everywhere(hints, say)
            }
        }
    }

    fn act(&self) -> ! {
        let mut last = match self.options.mode {
            Mode::Shell => {
                shell(&self.motd());
                None
            }
            Mode::Auto | Mode::Ask => Some(self.recover()),
        };
        match (self.options.mode, last) {
            (Mode::Auto, Some(Outcome::Success)) => self.reboot_soon(),
            (_, Some(Outcome::Failed(code))) => self.shell_after_failure(code),
            _ => {}
        }
        loop {
            last = self.menu(last);
        }
    }

    /// Runs `rr recover` as the kernel command line wants it, as an admin would type it.
    fn recover(&self) -> Outcome {
        // That of an earlier recovery.
        let _ = std::fs::remove_file(RECOVER_CODE);
        let code = || std::fs::read_to_string(RECOVER_CODE).ok()?.parse().ok();
        let command = recover_command(&self.options).env(CODE_VARIABLE, RECOVER_CODE);
        let outcome = match command.attached_until(code) {
            Ok(Some(0)) => Outcome::Success,
            Ok(code) => Outcome::Failed(code.unwrap_or(-1)),
            Err(error) => {
                self.ui.error(&error);
                Outcome::Failed(-1)
            }
        };
        own_terminal_again();
        outcome
    }

    /// A shell, with the failure as the last thing above its prompt.
    fn shell_after_failure(&self, code: i32) {
        let (end, disks) = match code {
            // What the admin answered no to has not failed.
            1 | 2 => ("did not begin", "rr changed nothing on the disks."),
            3 => (
                "FAILED",
                "Disks were changed: mend what is said above and run rr recover again before you boot from them.",
            ),
            _ => ("FAILED", "It ended unexpectedly: disks may have been changed."),
        };
        let error = anyhow::anyhow!("the recovery {end} (exit code {code}). {disks}");
        println!("\n{}\n", self.motd());
        self.ui.error(&error);
        self.verdict.failed(&error);
        shell("");
    }

    /// Waits a little, reboots if no key is hit, and comes back if one is.
    fn reboot_soon(&self) {
        self.ui.info(format!(
            "Rebooting in {} s. Press Enter to stay in the rescue system.",
            REBOOT_PAUSE.as_secs()
        ));
        // What was typed during the recovery, to wake the screen perhaps, is no answer to this.
        if let Err(errno) = tcflush(std::io::stdin(), FlushArg::TCIFLUSH) {
            log::debug!("forgetting what was typed: {errno}");
        }
        if !key_within(REBOOT_PAUSE) {
            self.verdict.say("reboot");
            power("reboot");
        }
    }

    /// One choice from the menu; the outcome of a recovery if one was started.
    fn menu(&self, last: Option<Outcome>) -> Option<Outcome> {
        println!();
        println!("  1) View the log");
        println!("  2) Shell");
        println!("  3) Reboot");
        println!("  4) Power off");
        if last != Some(Outcome::Success) {
            println!("  5) Recover {} (asks before anything is erased)", self.info.node);
        }
        print!("Your choice: ");
        let _ = std::io::stdout().flush();
        match line().as_deref().map(str::trim) {
            Some("1") => view_log(),
            Some("2") => shell(&self.motd()),
            Some("3") => power("reboot"),
            Some("4") => power("poweroff"),
            Some("5") if last != Some(Outcome::Success) => {
                let options = Options { mode: Mode::Ask, ..self.options.clone() };
                let outcome = Rescue { options, ..self.clone() }.recover();
                if let Outcome::Failed(code) = outcome {
                    self.shell_after_failure(code);
                }
                return Some(outcome);
            }
            // The terminal is gone, for now.
            None => std::thread::sleep(Duration::from_secs(2)),
            Some(_) => {}
        }
        last
    }

    fn motd(&self) -> String {
        format!(
            "This is the rescue system of {}. Its backup: {}\n\
             \x20 rr recover              bring the node back; asks before it erases anything\n\
             \x20 rr recover --dry-run    only show what would be done\n\
             \x20 rr layout show          the disks of this machine\n\
             \x20 reboot, poweroff        leave; exit: the menu{}",
            self.info.node,
            self.target(),
            self.ssh_hint().map(|hint| format!("\n\n\x20 {hint}")).unwrap_or_default()
        )
    }
}

fn recover_command(options: &Options) -> Cmd {
    let mut command = Cmd::new("/usr/bin/rr");
    if let Some(target) = &options.target {
        command = command.args(["--target", target]);
    }
    if options.debug {
        command = command.arg("--verbose");
    }
    command = command.arg("recover");
    if options.mode == Mode::Auto {
        command = command.arg("--auto");
    }
    if let Some(generation) = &options.generation {
        command = command.args(["--gen", generation]);
    }
    for map in &options.map {
        command = command.args(["--map", map]);
    }
    for serial in &options.erase {
        command = command.args(["--erase", serial]);
    }
    if options.grow {
        command = command.arg("--grow");
    }
    if options.other_firmware {
        command = command.arg("--other-firmware");
    }
    command
}

/// A shell on the session's terminal.
fn shell(motd: &str) {
    if !motd.is_empty() {
        println!("\n{motd}\n");
    }
    if let Err(error) = shell_command().attached() {
        println!("{error:#}");
        std::thread::sleep(Duration::from_secs(2));
    }
    own_terminal_again();
}

fn shell_command() -> Cmd {
    let bash = Path::new("/bin/bash");
    Cmd::new(if bash.exists() { "/bin/bash" } else { "/bin/sh" }).arg("-l").dir("/root")
}

/// More shells, on the screen's second and third virtual terminals (Alt-F2, Alt-F3).
fn spare_shells() {
    if !console::has_screen() {
        return;
    }
    for number in [2, 3] {
        let tty = PathBuf::from(format!("/dev/tty{number}"));
        std::thread::spawn(move || {
            loop {
                if let Err(error) = shell_command().on_tty(&tty) {
                    log::info!("a shell on {}: {error:#}", tty.display());
                    return;
                }
            }
        });
    }
}

/// A program that was killed leaves the terminal to nobody.
fn own_terminal_again() {
    if let Err(errno) = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpgrp()) {
        log::debug!("taking the terminal back: {errno}");
    }
}

fn view_log() {
    let log = [RECOVER_LOG, LOG].into_iter().find(|path| Path::new(path).exists());
    let pager =
        ["less", "more", "cat"].into_iter().find(|p| crate::sys::tools::find(p.as_ref()).is_some());
    if let (Some(log), Some(pager)) = (log, pager)
        && let Err(error) = Cmd::new(pager).arg(log).attached()
    {
        println!("{error:#}");
    }
    own_terminal_again();
}

fn line() -> Option<String> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line),
    }
}

/// Whether Enter is hit in time.
fn key_within(time: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) && line().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_started_as_an_admin_would_type_it() {
        let text = "rr.recover=auto rr.map=sda=vdb rr.erase=S1 rr.gen=G rr.grow rr.other-firmware rr.target=nfs://s/x";
        assert_eq!(
            recover_command(&cmdline::parse(text)).to_shell(),
            "/usr/bin/rr --target nfs://s/x recover --auto --gen G --map sda=vdb --erase S1 --grow --other-firmware"
        );
        assert_eq!(
            recover_command(&cmdline::parse("rr.recover=ask rr.debug")).to_shell(),
            "/usr/bin/rr --verbose recover"
        );
    }
}
