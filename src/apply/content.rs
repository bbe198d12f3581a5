//! Filesystems and swap: made, and checked to be what was asked for.

use std::path::Path;

use anyhow::{Result, bail};

use super::stack::{run_all, wait_for};
use crate::plan::Step;
use crate::plan::step::{MakeFs, MakeSwap};
use crate::sys::run::Cmd;
use crate::sys::udev;

pub fn make_fs(step: &Step, make: &MakeFs) -> Result<()> {
    make_on(step, &make.dev)?;
    verify(&make.dev, &make.fs.kind, &make.fs.uuid, &make.fs.label)
}

pub fn make_swap(step: &Step, make: &MakeSwap) -> Result<()> {
    make_on(step, &make.dev)?;
    verify(&make.dev, "swap", &make.swap.uuid, &make.swap.label)
}

fn make_on(step: &Step, dev: &str) -> Result<()> {
    wait_for(Path::new(dev))?;
    Cmd::new("wipefs").args(["--all", "--force", dev]).run()?;
    run_all(&step.commands(""))?;
    udev::settle()
}

/// Asks libblkid, past its cache, what is there now.
fn verify(dev: &str, kind: &str, uuid: &str, label: &str) -> Result<()> {
    for (tag, wanted) in [("TYPE", kind), ("UUID", uuid), ("LABEL", label)] {
        if wanted.is_empty() {
            continue;
        }
        let args = ["--probe", "--output", "value", "--match-tag", tag, dev];
        let found = Cmd::new("blkid").args(args).text()?;
        if found.trim_end_matches('\n') != wanted {
            bail!("{dev} has {tag} {:?} and not {wanted:?}", found.trim());
        }
    }
    Ok(())
}
