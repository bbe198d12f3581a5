//! One terminal on all consoles: the screen, the serial ports, the virtual console of a management
//! controller. What the session says appears on each of them, and whoever types, on whichever, is
//! heard. A console that stalls loses output and holds up nobody.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios;

/// The size of a serial terminal and of the screen in text mode, as far as both have it.
const SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// What is kept for a console that is slower than the session.
const PENDING_LIMIT_BYTES: usize = 1 << 18;

/// Says something on the kernel's own console, for when nothing else works.
pub fn say(line: &str) {
    if let Ok(mut console) = File::options().write(true).open("/dev/console") {
        // There is nobody else to tell.
        let _ = writeln!(console, "{line}\r");
    }
}

/// Joins the consoles. Returns the path of the terminal that the session runs on, and a file that
/// keeps it open between sessions.
pub fn join() -> Result<(PathBuf, OwnedFd)> {
    let active = std::fs::read_to_string("/sys/class/tty/console/active")
        .context("reading which consoles are active")?;
    let mut consoles: Vec<Console> = names(&active).iter().filter_map(|n| open(n)).collect();
    ensure!(!consoles.is_empty(), "none of the consoles {:?} can be opened", active.trim());
    let pty = terminal()?;
    let path = nix::unistd::ttyname(&pty.slave).context("naming the session's terminal")?;
    let mut master = unblocked(pty.master)?;
    std::thread::Builder::new()
        .name("consoles".to_owned())
        .spawn(move || {
            loop {
                if let Err(error) = turn(&mut master, &mut consoles) {
                    // No session has the terminal open just now.
                    log::debug!("joining the consoles: {error:#}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        })
        .context("starting the thread that joins the consoles")?;
    Ok((path, pty.slave))
}

fn terminal() -> Result<OpenptyResult> {
    let pty = openpty(&SIZE, None).context("making a terminal for the session")?;
    never_stop(&pty.slave)?;
    Ok(pty)
}

/// Has Ctrl-S be a key as others are. Noise on a serial line that nobody watches may be one, and would
/// hold up a recovery on all consoles. What is held up goes on.
pub fn never_stop(terminal: &OwnedFd) -> Result<()> {
    let mut settings = termios::tcgetattr(terminal).context("asking how the terminal is set")?;
    settings.input_flags.remove(termios::InputFlags::IXON | termios::InputFlags::IXOFF);
    termios::tcsetattr(terminal, termios::SetArg::TCSANOW, &settings)
        .context("setting up the session's terminal")
}

/// The session's side of its terminal, at which nobody waits.
fn unblocked(master: OwnedFd) -> Result<File> {
    let flags = fcntl(&master, FcntlArg::F_GETFL).context("asking how a terminal is open")?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&master, FcntlArg::F_SETFL(flags)).context("making a terminal not block")?;
    Ok(File::from(master))
}

/// The devices of the active consoles. `tty0` is the virtual terminal in front; the session stays
/// on the first.
fn names(active: &str) -> Vec<String> {
    let names = active.split_whitespace();
    names.map(|name| if name == "tty0" { "tty1".to_owned() } else { name.to_owned() }).collect()
}

/// Whether there is a screen, and so further virtual terminals.
pub fn has_screen() -> bool {
    std::fs::read_to_string("/sys/class/tty/console/active")
        .is_ok_and(|active| active.split_whitespace().any(|name| name.starts_with("tty0")))
}

#[derive(Debug)]
struct Console {
    file: File,
    pending: VecDeque<u8>,
    /// Gone for good: an unplugged USB adapter.
    dead: bool,
}

fn open(name: &str) -> Option<Console> {
    let path = Path::new("/dev").join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(&path)
        .map_err(|error| log::info!("opening the console {}: {error}", path.display()))
        .ok()?;
    // Raw: the session's terminal does the editing and the echo, once for all.
    if let Ok(mut settings) = termios::tcgetattr(&file) {
        termios::cfmakeraw(&mut settings);
        settings.control_flags |= termios::ControlFlags::CLOCAL;
        if let Err(errno) = termios::tcsetattr(&file, termios::SetArg::TCSANOW, &settings) {
            log::info!("setting up the console {}: {errno}", path.display());
        }
    }
    // The screen still shows the firmware and the boot menu; a serial log is kept.
    let clear: &[u8] = if name == "tty1" { b"\x1b[2J\x1b[H" } else { b"" };
    Some(Console { file, pending: clear.iter().copied().collect(), dead: false })
}

/// Waits for something to carry, and carries it.
fn turn(master: &mut File, consoles: &mut [Console]) -> Result<()> {
    let (from_session, ready) = wait(master, consoles)?;
    let mut buffer = [0; 4096];
    if from_session {
        let count = match master.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            result => result?,
        };
        for console in consoles.iter_mut().filter(|console| !console.dead) {
            if console.pending.len() + count <= PENDING_LIMIT_BYTES {
                console.pending.extend(&buffer[..count]);
            }
        }
    }
    for (console, (can_read, gone)) in consoles.iter_mut().zip(ready) {
        if can_read {
            match console.file.read(&mut buffer) {
                Ok(0) => console.dead = gone,
                Ok(count) => type_in(master, &buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => console.dead = true,
            }
        } else if gone {
            console.dead = true;
        }
        console.flush();
    }
    Ok(())
}

/// Hands over what was typed. What the session does not take is lost: a console that says much, a
/// board's or a modem's, while nobody reads must not hold up the output.
fn type_in(master: &mut File, mut text: &[u8]) -> Result<()> {
    while !text.is_empty() {
        match master.write(text) {
            Ok(0) => break,
            Ok(count) => text = &text[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("handing over what was typed"),
        }
    }
    Ok(())
}

type Ready = Vec<(bool, bool)>;

fn wait(master: &File, consoles: &[Console]) -> Result<(bool, Ready)> {
    let mut fds = vec![PollFd::new(master.as_fd(), PollFlags::POLLIN)];
    for console in consoles {
        let mut flags = PollFlags::empty();
        if !console.dead {
            flags |= PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !console.pending.is_empty());
        }
        fds.push(PollFd::new(console.file.as_fd(), flags));
    }
    match poll(&mut fds, PollTimeout::from(1000_u16)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno).context("waiting for the consoles"),
    }
    let events: Vec<PollFlags> =
        fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    let ready =
        events[1..].iter().map(|e| (e.contains(PollFlags::POLLIN), e.intersects(gone))).collect();
    Ok((events[0].intersects(PollFlags::POLLIN | gone), ready))
}

impl Console {
    /// Writes what the console takes now.
    fn flush(&mut self) {
        while !self.pending.is_empty() && !self.dead {
            let (chunk, _) = self.pending.as_slices();
            match self.file.write(chunk) {
                Ok(0) => return,
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.dead = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_keeps_to_the_first_virtual_terminal() {
        assert_eq!(names("ttyS0 tty0\n"), ["ttyS0", "tty1"]);
    }

    #[test]
    fn what_is_typed_on_one_console_is_heard_and_answers_appear_on_all() {
        let session = openpty(&SIZE, None).unwrap();
        let consoles: Vec<_> = (0..2).map(|_| openpty(&SIZE, None).unwrap()).collect();
        let mut joined: Vec<Console> = consoles
            .iter()
            .map(|c| open(nix::unistd::ttyname(&c.slave).unwrap().to_str().unwrap()).unwrap())
            .collect();
        let mut master = unblocked(session.master).unwrap();
        std::thread::spawn(move || while turn(&mut master, &mut joined).is_ok() {});
        let mut ends: Vec<File> = consoles.into_iter().map(|c| File::from(c.master)).collect();
        let mut slave = File::from(session.slave);

        ends[1].write_all(b"yes\r").unwrap();
        let mut line = [0; 4];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"yes\n");
        slave.write_all(b"ok\n").unwrap();
        for end in &mut ends {
            let mut seen = [0; 9];
            end.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"yes\r\nok\r\n");
        }
    }

    #[test]
    fn what_is_typed_and_not_read_holds_up_no_output() {
        let session = openpty(&SIZE, None).unwrap();
        let console = openpty(&SIZE, None).unwrap();
        let name = nix::unistd::ttyname(&console.slave).unwrap();
        let mut joined = vec![open(name.to_str().unwrap()).unwrap()];
        let mut master = unblocked(session.master).unwrap();
        std::thread::spawn(move || while turn(&mut master, &mut joined).is_ok() {});
        let (mut end, mut slave) = (File::from(console.master), File::from(session.slave));
        let mut typist = end.try_clone().unwrap();
        let (say, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&seen).contains("still here") {
                let count = end.read(&mut buffer).unwrap();
                seen.extend(&buffer[..count]);
            }
            say.send(()).unwrap();
        });
        std::thread::spawn(move || {
            typist.write_all(&b"login: \r".repeat(1 << 15)).unwrap();
            slave.write_all(b"still here\n").unwrap();
            // It stays open for the reader.
            std::thread::sleep(Duration::from_secs(60));
        });
        said.recv_timeout(Duration::from_secs(20)).expect("the output");
    }

    /// Ctrl-S, as noise on a line may be one.
    #[test]
    fn nothing_that_is_typed_stops_the_output() {
        let session = terminal().unwrap();
        let console = openpty(&SIZE, None).unwrap();
        let name = nix::unistd::ttyname(&console.slave).unwrap();
        let mut joined = vec![open(name.to_str().unwrap()).unwrap()];
        let mut master = unblocked(session.master).unwrap();
        std::thread::spawn(move || while turn(&mut master, &mut joined).is_ok() {});
        let (mut end, again) = (File::from(console.master), session.slave.try_clone().unwrap());
        let mut slave = File::from(session.slave);
        let (say, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = [0; 3];
            end.write_all(b"\x13a\r").unwrap();
            slave.read_exact(&mut line).unwrap();
            slave.write_all(b"still here\n").unwrap();
            say.send(()).unwrap();
            // A program has set it, and the line is noisy again.
            let mut settings = termios::tcgetattr(&slave).unwrap();
            settings.input_flags.insert(termios::InputFlags::IXON);
            termios::tcsetattr(&slave, termios::SetArg::TCSANOW, &settings).unwrap();
            end.write_all(b"\x13b\r").unwrap();
            slave.read_exact(&mut line[..2]).unwrap();
            say.send(()).unwrap();
            slave.write_all(b"and here\n").unwrap();
            say.send(()).unwrap();
        });
        let wait = Duration::from_secs(20);
        said.recv_timeout(wait).expect("the output");
        said.recv_timeout(wait).expect("what was typed");
        assert!(said.recv_timeout(Duration::from_millis(300)).is_err(), "it is held up");
        never_stop(&again).unwrap();
        said.recv_timeout(wait).expect("the output of the next session");
    }
}
