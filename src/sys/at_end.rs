//! What must run in the end.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::run::Cmd;

/// Shell commands that run at the end, whatever happens to this process: a shell waits at a pipe
/// that the kernel closes when nobody else does.
#[derive(Debug)]
pub struct AtEnd {
    child: Child,
    /// What is said here is `$RR_RESULT` of the commands.
    result: Option<ChildStdin>,
}

/// A terminal's Ctrl-C and systemd's `stop` reach all processes: this one must live on. Each command
/// runs, whether those before it failed or not.
const AT_END: &str = r#"
trap '' INT TERM HUP
read -r RR_RESULT || RR_RESULT=killed
export RR_RESULT
trap - INT TERM HUP
exec </dev/null >&2
failed=0
for command; do
    if [ -n "$RR_TIMEOUT" ]; then
        timeout "$RR_TIMEOUT" sh -c "$command" || failed=$?
    else
        sh -c "$command" || failed=$?
    fi
done
exit "$failed"
"#;

impl AtEnd {
    /// Each command has `timeout` for itself. Logs tell of them by `name`, not by their words.
    pub fn new(
        name: &str,
        commands: &[String],
        env: &[(&str, &OsStr)],
        timeout: Option<Duration>,
    ) -> Result<AtEnd> {
        let seconds = timeout.map(|timeout| timeout.as_secs().to_string()).unwrap_or_default();
        let mut cmd = Cmd::new("sh").args(["-c", AT_END, "sh"]).args(commands);
        cmd = cmd.env("RR_TIMEOUT", seconds).stdin(Vec::new()).shown_as(name);
        for (key, value) in env {
            cmd = cmd.env(key, value);
        }
        // To where our own output goes: nobody reads a pipe when we are gone.
        let mut child = cmd.spawn(Stdio::null(), Stdio::inherit())?;
        let result = child.stdin.take();
        Ok(AtEnd { child, result })
    }

    /// Runs the commands now. They are told `result`.
    pub fn run(mut self, result: &str) -> Result<()> {
        if let Some(mut pipe) = self.result.take() {
            writeln!(pipe, "{result}").context("telling the result to the last commands")?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("one of its commands ended with {status}");
        }
        Ok(())
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if self.result.take().is_some() {
            let _ = self.child.wait();
        }
    }
}
