//! `rr completions` and `rr manpages`: the command line, as shells and man(1) want it.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory as _;

use crate::cli::Cli;

use super::{Exit, print};

pub(super) fn completions(shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rr", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

pub(super) fn pages(dir: &Path) -> Result<Exit> {
    let writing = || format!("writing manual pages below {}", dir.display());
    std::fs::create_dir_all(dir).with_context(writing)?;
    clap_mangen::generate_to(Cli::command(), dir).with_context(writing)?;
    Ok(Exit::Done)
}
