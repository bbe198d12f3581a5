//! `rr mkbackup`, `rr mkbackuponly`, `rr mkrescue`

use anyhow::Result;

use crate::backup::{self, Options};
use crate::cli::{BackupArgs, MkrescueArgs};
use crate::config::Output;

use super::{Exit, Session, print_json, usage};

/// `rescue` is whether a rescue image is wanted as well.
pub(super) fn archive(session: &Session<'_>, args: BackupArgs, rescue: bool) -> Result<Exit> {
    let options = Options {
        archive: true,
        // A backup of some trees has no machine to rescue.
        rescue: rescue && args.include.is_empty(),
        full: args.full,
        bandwidth_mib_per_second: args.bandwidth,
        include: args.include,
        exclude: args.exclude,
        dry_run: args.dry_run,
    };
    run(session, args.output, &options)
}

pub(super) fn rescue(session: &Session<'_>, args: MkrescueArgs) -> Result<Exit> {
    let options = Options { rescue: true, dry_run: args.dry_run, ..Options::default() };
    run(session, args.output, &options)
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
