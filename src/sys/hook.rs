//! Commands that the admin named.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::run::Cmd;

/// Shell commands that run one after the other.
#[derive(Debug)]
pub struct Hook<'a> {
    /// The key of `rr.toml` that names them. Logs and errors tell of them by it, and not by their words.
    pub key: &'a str,
    pub commands: &'a [String],
    pub env: &'a [(&'a str, &'a OsStr)],
    /// For each of them. None: for ever.
    pub timeout: Option<Duration>,
}

impl Hook<'_> {
    /// Runs them, to the first that fails. `each` is told which one begins.
    pub fn run(&self, each: impl Fn(&str)) -> Result<()> {
        for (at, command) in self.commands.iter().enumerate() {
            let name = format!("{} ({} of {})", self.key, at + 1, self.commands.len());
            each(&name);
            let mut shell = Cmd::new("sh").args(["-c", command]).shown_as(name);
            for (key, value) in self.env {
                shell = shell.env(key, value);
            }
            if let Some(timeout) = self.timeout {
                shell = shell.timeout(timeout);
            }
            shell.run().map_err(|error| {
                anyhow!("{error:#}\nhint: {} in rr.toml says to run it", self.key)
            })?;
        }
        Ok(())
    }
}

/// What a number of seconds in `rr.toml` means. 0: for ever.
pub fn timeout(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
