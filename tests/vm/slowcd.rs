//! A CD at the other end of a slow line, as the virtual drive of a management board is one: nbdkit
//! gives what is on it at that speed.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rr::sys::run::Cmd;

/// 52 KB a second, which an iLO's drive was measured with.
const BITS_PER_SECOND: u64 = 416_000;

/// Taken out when it is dropped.
#[derive(Debug)]
pub struct SlowCd {
    nbdkit: Child,
    socket: PathBuf,
    // Short, as the name of a socket has to be.
    _dir: tempfile::TempDir,
}

impl SlowCd {
    pub fn insert(iso: &Path) -> Result<SlowCd> {
        let dir = tempfile::tempdir().context("making a directory for nbdkit")?;
        let socket = dir.path().join("cd");
        let nbdkit = Cmd::new("setpriv")
            .args(["--pdeathsig", "KILL", "nbdkit", "--foreground", "--readonly", "--unix"])
            .arg(&socket)
            .args(["--filter=rate", "file"])
            .arg(iso)
            .arg(format!("rate={BITS_PER_SECOND}"))
            .spawn(Stdio::null(), Stdio::inherit())?;
        let cd = SlowCd { nbdkit, socket, _dir: dir };
        for _ in 0..100 {
            if cd.socket.exists() {
                return Ok(cd);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("nbdkit serves nothing at {}", cd.socket.display())
    }

    /// What QEMU calls it.
    pub fn drive(&self) -> PathBuf {
        format!("nbd:unix:{}", self.socket.display()).into()
    }
}

impl Drop for SlowCd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.nbdkit.kill();
        let _ = self.nbdkit.wait();
    }
}

/// How long all of it is read.
pub fn reading(iso: &Path) -> Result<Duration> {
    let bytes = iso.metadata().with_context(|| iso.display().to_string())?.len();
    Ok(Duration::from_secs(bytes * 8 / BITS_PER_SECOND))
}
