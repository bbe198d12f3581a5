//! What is done when somebody ends this process: by Ctrl-C, by systemd's `stop`, by a line that hangs
//! up. It ends all the same.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::unistd::pipe2;

use super::sync::lock;

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How a shell tells that a signal ended a program, with its number added.
const ENDED_BY: i32 = 128;

type Work = Box<dyn FnOnce() + Send>;

static WAITING: Mutex<Vec<(u64, Work)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Where the handler says which signal came: a handler may do next to nothing itself.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Something to be done if a signal ends this process before this is dropped.
#[derive(Debug)]
pub struct AtSignal(u64);

impl AtSignal {
    /// A signal that is ignored stays so.
    pub fn new(work: impl FnOnce() + Send + 'static) -> io::Result<AtSignal> {
        static LISTENS: OnceLock<Result<(), i32>> = OnceLock::new();
        let listens = LISTENS.get_or_init(|| {
            listen().map_err(|error: io::Error| error.raw_os_error().unwrap_or(libc::EIO))
        });
        listens.map_err(io::Error::from_raw_os_error)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&WAITING).push((number, Box::new(work)));
        Ok(AtSignal(number))
    }
}

impl Drop for AtSignal {
    fn drop(&mut self) {
        lock(&WAITING).retain(|(number, _)| *number != self.0);
    }
}

fn listen() -> io::Result<()> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    PIPE.store(write.into_raw_fd(), Ordering::Relaxed);
    let listener = std::thread::Builder::new().name("signals".to_owned());
    listener.spawn(move || wait(&mut File::from(read)))?;
    let flags = SaFlags::SA_RESTART;
    let ours = SigAction::new(SigHandler::Handler(tell), flags, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: the handler only writes to a pipe, which a handler may.
        #[allow(unsafe_code)]
        unsafe {
            let old = sigaction(signal, &ours)?;
            if !matches!(old.handler(), SigHandler::SigDfl) {
                sigaction(signal, &old)?;
            }
        }
    }
    Ok(())
}

extern "C" fn tell(signal: libc::c_int) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: write(2) may be called in a handler; the byte lives as long as the call. What it may
    // do to errno is undone, as whoever was interrupted may look at it.
    #[allow(unsafe_code)]
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

fn wait(pipe: &mut File) {
    let mut byte = [0];
    if pipe.read_exact(&mut byte).is_err() {
        return;
    }
    // The work may hang, on a dead server for example: the next signal ends this process at once.
    SIGNALS.into_iter().for_each(give_back);
    let waiting = std::mem::take(&mut *lock(&WAITING));
    for (_, work) in waiting {
        // What can't be done keeps nobody from ending.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    }
    let signal = Signal::try_from(i32::from(byte[0])).unwrap_or(Signal::SIGTERM);
    let _ = raise(signal);
    // PID 1 of a container is not ended by a signal of its own.
    std::process::exit(ENDED_BY + i32::from(byte[0]));
}

/// Makes a signal that is ours do what it does to others.
fn give_back(signal: Signal) {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default is no code of ours, and neither is what was there before.
    #[allow(unsafe_code)]
    let _ = unsafe {
        sigaction(signal, &default).and_then(|old| match old.handler() {
            SigHandler::Handler(_) => Ok(old),
            _ => sigaction(signal, &old),
        })
    };
}
