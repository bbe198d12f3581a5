//! The log: every event and every external command with its output, in one file.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result};

#[derive(Debug)]
struct Logger {
    sink: Mutex<Sink>,
    /// Whether standard error gets it, too, and what takes a progress line away there.
    shown: Option<&'static str>,
}

/// Everything stays in memory as well: a backup stores the log of its run.
#[derive(Debug, Default)]
struct Sink {
    text: Vec<u8>,
    file: Option<File>,
}

/// More than this is only in the file.
const KEPT_BYTES: usize = 64 << 20;

/// EL of ECMA-48.
const CLEAR_LINE: &str = "\r\x1b[2K";

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging to memory, and to standard error where it is to be `shown`. A second call changes
/// nothing.
pub fn start(shown: bool) {
    let clear = || if std::io::stderr().is_terminal() { CLEAR_LINE } else { "" };
    let logger = LOGGER.get_or_init(|| Logger { sink: Mutex::default(), shown: shown.then(clear) });
    if ::log::set_logger(logger).is_ok() {
        ::log::set_max_level(::log::LevelFilter::Debug);
    }
}

/// From now on the log goes to `path` (mode 0600), what was logged before included.
pub fn to_file(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let Some(logger) = LOGGER.get() else { return Ok(()) };
    let mut file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening the log {}", path.display()))?;
    let mut sink = logger.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if sink.file.is_none() {
        file.write_all(&sink.text)
            .with_context(|| format!("writing the log {}", path.display()))?;
    }
    sink.file = Some(file);
    Ok(())
}

/// What was logged since the start.
pub fn text() -> Vec<u8> {
    let sink = LOGGER.get().map(|logger| logger.sink.lock());
    sink.map(|sink| sink.unwrap_or_else(std::sync::PoisonError::into_inner).text.clone())
        .unwrap_or_default()
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.target().starts_with("rr")
    }

    fn log(&self, record: &::log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line =
            format!("{:.3} {:<5} {}\n", jiff::Timestamp::now(), record.level(), record.args());
        if let Some(clear) = self.shown {
            // Nobody is left to be told when standard error is gone.
            let _ = write!(std::io::stderr().lock(), "{clear}{line}");
        }
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if sink.text.len() < KEPT_BYTES {
            sink.text.extend_from_slice(line.as_bytes());
        }
        if let Some(file) = &mut sink.file {
            // A log that can't be written must not end a recovery.
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
