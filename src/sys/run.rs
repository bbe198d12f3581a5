//! External programs.
//!
//! Every program runs with a fixed `PATH`, `LC_ALL=C`, little of the caller's environment, no
//! standard input unless some is given, and captured output. A failure names the command in a form
//! that can be pasted into a shell, and the end of what it said.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::SigSet;

use super::child::{LINGER, Reader, block_nothing, own_terminal, wait};
use super::secret::Secret;
use super::tools::{self, PATH};

/// Variables that change what the loader and the shell do, and how the names of others begin. With
/// SHELLOPTS a shell may tell all that it is given, secrets too.
const CODE: [&[u8]; 4] = [b"SHELLOPTS", b"ENV", b"PS4", b"GCONV_PATH"];
const CODE_BEGINS: [&[u8]; 2] = [b"LD_", b"BASH"];

/// How much of a failing program's output goes into the error.
const ERROR_TAIL_BYTES: usize = 2048;

/// A command that is not started yet.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    /// Whether the caller's environment is passed on.
    inherits: bool,
    stdin: Option<Vec<u8>>,
    secret: Option<Secret>,
    timeout: Option<Duration>,
    chroot: Option<PathBuf>,
    dir: Option<PathBuf>,
    shown: Option<String>,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status.success()
    }
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
    /// Standard output as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>) -> Cmd {
        Cmd {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            inherits: false,
            stdin: None,
            secret: None,
            timeout: None,
            chroot: None,
            dir: None,
            shown: None,
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Cmd {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes the caller's environment on, but for `PATH` and what changes the loader and the shell.
    /// For programs that an admin names, which have variables of their own.
    #[must_use]
    pub fn inherit_env(mut self) -> Cmd {
        self.inherits = true;
        self
    }

    /// Gives the program this as its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Cmd {
        self.stdin = Some(bytes.into());
        self
    }

    /// Gives the program a secret as its standard input: it is in no log, error or argument list.
    #[must_use]
    pub fn secret_stdin(mut self, secret: &Secret) -> Cmd {
        self.secret = Some(secret.clone());
        self
    }

    /// What a program said, for people.
    fn said(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        match &self.secret {
            Some(secret) => text.replace(&*String::from_utf8_lossy(secret.expose()), "..."),
            None => text.into_owned(),
        }
    }

    /// Kills the program and fails when it has not ended by then.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Cmd {
        self.timeout = Some(timeout);
        self
    }

    /// Runs the program inside `root`, as chroot(8) does.
    #[must_use]
    pub fn chroot(mut self, root: impl AsRef<Path>) -> Cmd {
        self.chroot = Some(root.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Cmd {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Calls the command so in logs and errors, which are no place for its words: those of an admin's
    /// own command may hold a password, and the log of a backup goes to the target.
    #[must_use]
    pub fn shown_as(mut self, name: impl Into<String>) -> Cmd {
        self.shown = Some(name.into());
        self
    }

    /// The command as it can be pasted into a shell, unless it has a name.
    pub fn to_shell(&self) -> String {
        if let Some(name) = &self.shown {
            return name.clone();
        }
        let mut words = Vec::new();
        if let Some(root) = &self.chroot {
            words.push("chroot".to_owned());
            words.push(shell_quote(root.as_os_str()));
        }
        for (key, value) in &self.env {
            words.push(format!("{}={}", key.to_string_lossy(), shell_quote(value)));
        }
        words.push(shell_quote(&self.program));
        words.extend(self.args.iter().map(|a| shell_quote(a)));
        words.join(" ")
    }

    /// Runs the command to its end, whatever its exit status.
    ///
    /// # Errors
    /// The program is not there, could not be started, or ran out of its time.
    pub fn output(&self) -> Result<Output> {
        log::debug!("$ {}", self.to_shell());
        let started = Instant::now();
        let mut child = self.start(Stdio::piped(), Stdio::piped())?;
        let stdin = child.stdin.take();
        let stdout = Reader::of(child.stdout.take().context("taking the standard output")?);
        let stderr = Reader::of(child.stderr.take().context("taking the standard error")?);
        let secret = self.secret.as_ref().map(Secret::expose);
        let input = secret.or(self.stdin.as_deref());
        let status = std::thread::scope(|scope| {
            scope.spawn(move || {
                if let (Some(mut pipe), Some(bytes)) = (stdin, input) {
                    // A program that reads no further closes the pipe: its exit status tells.
                    let _ = pipe.write_all(bytes);
                }
            });
            wait(&mut child, self.timeout)
        });
        // Asked for before anything that the status says: after a timeout nobody writes any more.
        let (stdout, stderr) = (stdout.finish(), stderr.finish());
        let output = Output { status: self.explain(status)?, stdout: stdout?, stderr: stderr? };
        log::debug!("  {} after {:.1?}", output.status, started.elapsed());
        for line in self.said(&output.stderr).lines() {
            log::debug!("  | {line}");
        }
        Ok(output)
    }

    /// Runs the command and expects it to succeed.
    pub fn run(&self) -> Result<()> {
        self.checked().map(drop)
    }

    /// Standard output of a command that must succeed.
    pub fn stdout(&self) -> Result<Vec<u8>> {
        Ok(self.checked()?.stdout)
    }

    /// Standard output, as UTF-8 text, of a command that must succeed.
    pub fn text(&self) -> Result<String> {
        String::from_utf8(self.stdout()?)
            .with_context(|| format!("reading the output of: {}", self.to_shell()))
    }

    /// Standard output, parsed as JSON, of a command that must succeed.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.stdout()?)
            .with_context(|| format!("parsing the JSON output of: {}", self.to_shell()))
    }

    fn checked(&self) -> Result<Output> {
        let output = self.output()?;
        if output.success() {
            return Ok(output);
        }
        let said = if output.stderr.iter().all(u8::is_ascii_whitespace) {
            &output.stdout
        } else {
            &output.stderr
        };
        bail!("{} failed ({})\n{}", self.to_shell(), output.status, tail(&self.said(said)));
    }

    /// Starts the command and leaves it running with output going to the given places. For
    /// long-lived programs (a virtual machine, udevd, a shell on a console).
    pub fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        log::debug!("$ {} &", self.to_shell());
        self.start(stdout, stderr)
    }

    /// Replaces standard input, output and error by `tty` and runs the command on it to its end
    /// (a shell, a pager) as the leader of a session of its own with `tty` as its terminal.
    pub fn on_tty(&self, tty: &Path) -> Result<ExitStatus> {
        self.on(tty)?.status().with_context(|| format!("starting {}", self.to_shell()))
    }

    /// As [`Cmd::on_tty`], but leaves the command running.
    pub fn spawn_on_tty(&self, tty: &Path) -> Result<Child> {
        self.on(tty)?.spawn().with_context(|| format!("starting {}", self.to_shell()))
    }

    /// Runs the command to its end on the terminal that this process has.
    pub fn attached(&self) -> Result<ExitStatus> {
        log::debug!("$ {}", self.to_shell());
        self.command()?.status().with_context(|| format!("starting {}", self.to_shell()))
    }

    /// As [`Cmd::attached`], for a command whose end may hang: one that holds files of a server that
    /// is gone. Once `code` tells what it ended with, it has `LINGER` to be gone, and is left behind
    /// after that. Gives the exit code; None where a signal ended it.
    pub fn attached_until(&self, code: impl Fn() -> Option<i32>) -> Result<Option<i32>> {
        log::debug!("$ {}", self.to_shell());
        let starting = || format!("starting {}", self.to_shell());
        let mut child = self.command()?.spawn().with_context(starting)?;
        let mut told: Option<(Instant, i32)> = None;
        loop {
            if let Some(status) = child.try_wait().with_context(starting)? {
                return Ok(status.code());
            }
            match told {
                Some((since, code)) if since.elapsed() > LINGER => {
                    log::warn!("{} does not end: it is left behind", self.to_shell());
                    return Ok(Some(code));
                }
                Some(_) => {}
                None => told = code().map(|code| (Instant::now(), code)),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn on(&self, tty: &Path) -> Result<Command> {
        let open = || {
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(tty)
                .with_context(|| format!("opening {}", tty.display()))
        };
        let mut command = self.command()?;
        command.stdin(open()?).stdout(open()?).stderr(open()?);
        own_terminal(&mut command);
        Ok(command)
    }

    fn command(&self) -> Result<Command> {
        let program = match &self.chroot {
            Some(_) => PathBuf::from(&self.program),
            None => {
                tools::find(&self.program).ok_or_else(|| tools::missing_error(&self.program))?
            }
        };
        #[allow(clippy::disallowed_methods)] // the one place
        let mut command = if let Some(root) = &self.chroot {
            let chroot = tools::find(OsStr::new("chroot"))
                .ok_or_else(|| tools::missing_error(OsStr::new("chroot")))?;
            let mut command = Command::new(chroot);
            command.arg(root).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(&self.args).env_clear();
        if self.inherits {
            let code = |key: &OsStr| {
                let key = key.as_bytes();
                CODE.contains(&key) || CODE_BEGINS.iter().any(|begin| key.starts_with(begin))
            };
            command.envs(std::env::vars_os().filter(|(key, _)| !code(key)));
        }
        command.env("PATH", PATH).env("LC_ALL", "C");
        // The last is how one tells glibc to leave AVX alone: user-mode Linux does not keep its
        // registers on hosts with more state than it knows.
        for key in ["TERM", "HOME", "GLIBC_TUNABLES"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if SigSet::thread_get_mask().is_ok_and(|blocked| blocked.iter().next().is_some()) {
            block_nothing(&mut command);
        }
        Ok(command)
    }

    fn start(&self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let mut command = self.command()?;
        command
            .stdin(if self.stdin.is_some() || self.secret.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(stdout)
            .stderr(stderr);
        command.spawn().with_context(|| format!("starting {}", self.to_shell()))
    }

    fn explain(&self, status: Result<Option<ExitStatus>>) -> Result<ExitStatus> {
        match status {
            Ok(Some(status)) => Ok(status),
            Ok(None) => bail!(
                "{} did not end within {} s and was killed",
                self.to_shell(),
                self.timeout.unwrap_or_default().as_secs()
            ),
            Err(error) => Err(error).with_context(|| format!("waiting for {}", self.to_shell())),
        }
    }
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(ERROR_TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].trim_end()
}

/// One word as a POSIX shell reads it.
pub fn shell_quote(word: &OsStr) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(b);
    if !word.is_empty() && word.as_bytes().iter().all(plain) {
        return word.to_string_lossy().into_owned();
    }
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn a_signal_that_we_have_blocked_ends_what_we_start() {
        let mut keys = SigSet::empty();
        // None that a shell has its background jobs ignore.
        keys.add(Signal::SIGUSR1);
        std::thread::spawn(move || {
            keys.thread_block().unwrap();
            let ended = Cmd::new("sh").args(["-c", "kill -USR1 $$; echo lives"]).output();
            let text = ended.map(|output| output.text()).unwrap_or_default();
            assert!(!text.contains("lives"), "{text}");
            assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR1));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn output_is_captured_and_the_environment_is_fixed() {
        let text = Cmd::new("sh").args(["-c", "cat; echo $LC_ALL $PATH"]).stdin("in ").text();
        assert_eq!(text.unwrap(), format!("in C {PATH}\n"));
    }

    #[test]
    fn a_failure_can_be_pasted_and_says_what_the_program_said() {
        let error = Cmd::new("sh").args(["-c", "echo it broke >&2; exit 3"]).run().unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c 'echo it broke >&2; exit 3'"), "{text}");
        assert!(
            text.contains("exit status: 3")
                && text.contains("it broke\n") | text.ends_with("it broke"),
            "{text}"
        );
    }

    #[test]
    fn what_a_program_has_started_ends_with_its_time() {
        let started = Instant::now();
        let second = Duration::from_secs(1);
        // A shell that waits for another program, which has the pipes as well.
        let slow = Cmd::new("sh").args(["-c", "sleep 471.1; true"]).timeout(second);
        let error = slow.run().unwrap_err().to_string();
        assert!(error.contains("did not end within 1 s"), "{error}");
        // One that leaves something behind has ended all the same.
        let leaves = Cmd::new("sh").args(["-c", "echo done; sleep 20 &"]).timeout(second);
        assert_eq!(leaves.text().unwrap(), "done\n");
        assert!(started.elapsed() < Duration::from_secs(400));
        let left = Cmd::new("pgrep").args(["--exact", "--full", "sleep 471.1"]);
        assert_eq!(left.output().unwrap().text(), "", "killed with its shell");
    }

    #[test]
    fn a_program_that_has_told_its_code_is_not_waited_for() {
        let started = Instant::now();
        let sleep = Cmd::new("sleep");
        assert_eq!(sleep.arg("20").attached_until(|| Some(3)).unwrap(), Some(3));
        assert!(started.elapsed() < Duration::from_secs(19));
        assert_eq!(Cmd::new("false").attached_until(|| None).unwrap(), Some(1));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error =
            Cmd::new("sleep").arg("60").timeout(Duration::from_millis(50)).run().unwrap_err();
        assert!(format!("{error:#}").contains("did not end"), "{error:#}");
    }

    /// A filesystem on which writers wait uninterruptibly, until this is dropped.
    struct Frozen(crate::sys::mount::TempMount);

    impl Drop for Frozen {
        fn drop(&mut self) {
            let _ = Cmd::new("fsfreeze").arg("--unfreeze").arg(self.0.path()).run();
        }
    }

    #[test]
    fn loop_a_program_that_cannot_be_killed_is_left_behind() {
        const NAME: &str = "loop_a_program_that_cannot_be_killed_is_left_behind";
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        Cmd::new("mkfs.ext4").arg("-q").arg(&disk).run().unwrap();
        let args = ["-o", "loop", disk.to_str().unwrap()];
        let mounted = match crate::sys::mount::TempMount::mount(&args) {
            Ok(mounted) => mounted,
            Err(error) => return eprintln!("{NAME} is skipped: no loop device: {error:#}"),
        };
        let file = mounted.path().join("file");
        Cmd::new("fsfreeze").arg("--freeze").arg(mounted.path()).run().unwrap();
        let frozen = Frozen(mounted);
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            let second = Duration::from_secs(1);
            let _ = ended.send(Cmd::new("touch").arg(file).timeout(second).run());
        });
        let done = end.recv_timeout(Duration::from_secs(60));
        drop(frozen);
        let error = done.expect("it is not waited for").unwrap_err();
        assert!(error.to_string().contains("did not end within 1 s"), "{error:#}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("rr-no-such-program").run().unwrap_err();
        assert!(format!("{error:#}").contains("rr-no-such-program"), "{error:#}");
    }

    #[test]
    fn words_are_quoted_only_where_they_must_be() {
        assert_eq!(shell_quote(OsStr::new("a/b=c")), "a/b=c");
        assert_eq!(shell_quote(OsStr::new("")), "''");
        assert_eq!(shell_quote(OsStr::new("it's")), r"'it'\''s'");
    }
}
