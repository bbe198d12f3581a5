//! `rr mkbackup`, `rr mkbackuponly`, `rr mkrescue`

use anyhow::{Context, Result};

use crate::archive::exclude_glob;
use crate::backup::{self, Options};
use crate::cli::{ArchiveArgs, BackupArgs, MkrescueArgs};
use crate::config::Output;

use super::{Exit, Session, print_json, usage};

pub(super) fn both(session: &Session<'_>, args: BackupArgs) -> Result<Exit> {
    // A backup of some trees has no machine to rescue.
    let rescue = args.archive.include.is_empty();
    run(session, args.output, &Options { rescue, ..options(args.archive)? })
}

pub(super) fn archive(session: &Session<'_>, args: ArchiveArgs) -> Result<Exit> {
    run(session, Vec::new(), &options(args)?)
}

pub(super) fn rescue(session: &Session<'_>, args: MkrescueArgs) -> Result<Exit> {
    let options = Options { rescue: true, dry_run: args.dry_run, ..Options::default() };
    run(session, args.output, &options)
}

fn options(args: ArchiveArgs) -> Result<Options> {
    for pattern in &args.exclude {
        exclude_glob(pattern).context("--exclude").map_err(usage)?;
    }
    Ok(Options {
        archive: true,
        rescue: false,
        full: args.full,
        bandwidth_mib_per_second: args.bandwidth,
        include: args.include,
        exclude: args.exclude,
        dry_run: args.dry_run,
    })
}

fn run(session: &Session<'_>, output: Vec<Output>, options: &Options) -> Result<Exit> {
    let mut config = session.config.clone();
    if !output.is_empty() {
        config.rescue.output = output;
    }
    config.target_url().map_err(usage)?;
    config.node_name().map_err(usage)?;
    let report = backup::backup(&config, options, session.ui)?;
    if session.global.json {
        print_json(&report)?;
    }
    Ok(if report.failed.is_some() { Exit::Failed } else { Exit::Done })
}
