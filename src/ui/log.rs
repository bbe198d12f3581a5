//! The log: every event and every external command with its output, in one file.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result};

#[derive(Debug, Default)]
struct Logger {
    sink: Mutex<Sink>,
}

/// Everything stays in memory as well: a backup stores the log of its run.
#[derive(Debug, Default)]
struct Sink {
    text: Vec<u8>,
    file: Option<File>,
}

/// More than this is only in the file.
const KEPT_BYTES: usize = 64 << 20;

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging to memory. A second call changes nothing.
pub fn start(verbose: bool) {
    let logger = LOGGER.get_or_init(Logger::default);
    if ::log::set_logger(logger).is_ok() {
        ::log::set_max_level(if verbose {
            ::log::LevelFilter::Trace
        } else {
            ::log::LevelFilter::Debug
        });
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
