//! User-mode Linux: a kernel with md, LVM and every filesystem that runs as an ordinary process at
//! native speed. Disks are made and read in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rr::sys::run::Cmd;

use crate::lab;
use crate::tree::Tree;

const XSTATE: &str = include_str!("../fixtures/uml-xstate.c");
const TIMEOUT_SECONDS: u64 = 300;

/// Runs the shell `script` with `disks` as `/dev/ubda` and so on, in the directory `share`. With
/// `keep` false nothing that it does to the disks lasts.
pub fn run(tree: &Tree, disks: &[PathBuf], keep: bool, share: &Path, script: &str) -> Result<()> {
    lab::make_dir(share)?;
    lab::write(&share.join("job.sh"), script)?;
    let code = share.join("code");
    lab::write(&code, "")?;
    let mut cmd = Cmd::new("linux.uml")
        .env("LD_PRELOAD", shim()?)
        .env("HOME", share)
        .args(["mem=1024M", "root=/dev/root", "rootfstype=hostfs", "ro", "init=/lab-init"])
        .args(["con=null", "con0=fd:0,fd:1", "quiet"])
        .arg(format!("rootflags={}", tree.root().display()))
        .arg(format!("lab_share={}", share.display()))
        .timeout(lab::seconds(TIMEOUT_SECONDS));
    let mut changes = Vec::new();
    for (disk, letter) in disks.iter().zip('a'..) {
        let mut arg = format!("ubd{letter}=");
        if !keep {
            let file = share.join(format!("{letter}.changes"));
            arg += &format!("{},", file.display());
            changes.push(file);
        }
        cmd = cmd.arg(arg + &disk.display().to_string());
    }
    let output = cmd.output()?;
    for file in changes {
        std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    let log = share.join("uml.log");
    lab::write(&log, [output.stdout, output.stderr].concat())?;
    if lab::read(&code)?.trim() != "0" {
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n  | ");
        bail!("a job in user-mode Linux failed; {} ends with\n  | {tail}", log.display());
    }
    Ok(())
}

/// See the comment in `uml-xstate.c`.
fn shim() -> Result<PathBuf> {
    let dir = lab::cached("shims", "xstate", &lab::key(&[XSTATE]), |dir| {
        let source = dir.join("xstate.c");
        lab::write(&source, XSTATE)?;
        Cmd::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(dir.join("xstate.so"))
            .arg(source)
            .run()
    })?;
    Ok(dir.join("xstate.so"))
}
