//! One word a milestone for whoever watches a recovery from outside: a virtual machine's driver,
//! a test, a management controller.
//!
//! The place is a character device or a file, named on the kernel command line as `rr.verdict=` or
//! handed in. Nothing depends on anybody reading it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where milestones are told, if anywhere.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    path: Option<PathBuf>,
}

impl Verdict {
    pub fn to(path: Option<PathBuf>) -> Verdict {
        Verdict { path }
    }

    /// What `rr.verdict=` on the kernel command line says.
    pub fn detect() -> Verdict {
        let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        Verdict { path: parse(&cmdline) }
    }

    /// Tells `word`, which is one line.
    pub fn say(&self, word: &str) {
        log::info!("milestone: {word}");
        if let Some(path) = &self.path
            && let Err(error) = write_line(path, word)
        {
            log::debug!("telling {word:?} to {}: {error}", path.display());
        }
    }

    /// Tells that it failed and why, in one line.
    pub fn failed(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        self.say(&format!("failed: {}", text.lines().next().unwrap_or_default()));
    }
}

fn parse(cmdline: &str) -> Option<PathBuf> {
    let value = cmdline.split_whitespace().rev().find_map(|w| w.strip_prefix("rr.verdict="))?;
    Some(PathBuf::from(value)).filter(|path| path.is_absolute())
}

fn write_line(path: &Path, word: &str) -> std::io::Result<()> {
    // Not blocking: a port that nobody drains must not hold a recovery up.
    let mut file = std::fs::OpenOptions::new()
        .create(!path.starts_with("/dev"))
        .append(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    file.write_all(format!("{word}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_the_command_line_counts() {
        assert_eq!(parse("quiet rr.recover=auto"), None);
        assert_eq!(parse("rr.verdict=relative"), None);
        assert_eq!(
            parse("rr.verdict=/a quiet rr.verdict=/dev/virtio-ports/rr.verdict\n"),
            Some(PathBuf::from("/dev/virtio-ports/rr.verdict"))
        );
    }

    #[test]
    fn a_failure_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("verdict");
        let verdict = Verdict::to(Some(file.clone()));
        verdict.say("planned");
        verdict.failed(&anyhow::anyhow!("no space\nhint: buy").context("extracting"));
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text, "planned\nfailed: extracting: no space\n");
    }
}
