//! A program that was started: what it says, its end, and its terminal.

use std::io::{ErrorKind, Read};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::sync::lock;

/// How long after its end a program's output is waited for: something that it left running may hold
/// it open.
pub const LINGER: Duration = Duration::from_secs(5);

/// Reads what a program writes, as it comes.
pub struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<std::io::Result<()>>,
}

impl Reader {
    pub fn of(mut pipe: impl Read + Send + 'static) -> Reader {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let shared = Arc::clone(&bytes);
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 64 << 10];
            let result = loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break Ok(()),
                    Ok(count) => lock(&shared).extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                }
            };
            // Nobody listens when the program has left something running that has the pipe.
            let _ = end.send(result);
        });
        Reader { bytes, ended }
    }

    /// All that the program wrote; it has ended. What it left running is not waited for.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.ended.recv_timeout(LINGER) {
            Ok(result) => result.context("reading what a program says")?,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                log::warn!("a program has ended and left another one running that may still write");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("a reader of output panicked"),
        }
        Ok(std::mem::take(&mut *lock(&self.bytes)))
    }
}

/// Kills a process and all that it has started, as far as they have not been left to PID 1.
fn kill_tree(pid: i32) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: Vec<i32> = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|pids| pids.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect();
    // First, or it would see its children die and go on.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    children.into_iter().for_each(kill_tree);
}

/// None when the time ran out and the child was killed, with what it had started.
pub fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
    let Some(timeout) = timeout else {
        return Ok(Some(child.wait()?));
    };
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            kill_tree(child.id().cast_signed());
            reap(child)?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits for the end of a child that was killed. One that waits for a server which is gone can't be
/// killed, and is left behind: nobody else shall wait with it.
fn reap(child: &mut Child) -> Result<()> {
    let killed = Instant::now();
    while child.try_wait()?.is_none() {
        if killed.elapsed() > LINGER {
            log::warn!("process {} can't be killed: it is left behind", child.id());
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Makes the child lead a session with its standard input as the controlling terminal, so that
/// job control and Ctrl-C work in a shell.
#[allow(unsafe_code)]
pub fn own_terminal(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only async-signal-safe calls are made: setsid(2), ioctl(2).
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 1);
            Ok(())
        });
    }
}

/// Signals that this thread has blocked would be dead keys in a shell that it starts.
#[allow(unsafe_code)]
pub fn block_nothing(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let nothing = SigSet::empty();
    // SAFETY: between fork and exec only one async-signal-safe call is made: sigprocmask(2).
    unsafe {
        command.pre_exec(move || Ok(nothing.thread_set_mask()?));
    }
}
