//! `rr mkbackup`, `rr mkbackuponly`, `rr mkrescue`

use anyhow::Result;

use crate::backup::{self, Options};
use crate::cli::BackupArgs;

use super::{Exit, Session, print_json, usage};

pub(super) fn run(
    session: &Session<'_>,
    args: BackupArgs,
    archive: bool,
    rescue: bool,
) -> Result<Exit> {
    let mut config = session.config.clone();
    if !args.output.is_empty() {
        config.rescue.output = args.output;
    }
    config.target_url().map_err(usage)?;
    config.node_name().map_err(usage)?;
    let options = Options {
        archive,
        // A backup of some trees has no machine to rescue.
        rescue: rescue && args.include.is_empty(),
        full: args.full,
        bandwidth_mib_per_second: args.bandwidth,
        include: args.include,
        exclude: args.exclude,
        dry_run: args.dry_run,
    };
    let report = backup::backup(&config, &options, session.ui)?;
    if session.global.json {
        print_json(&report)?;
    }
    Ok(if report.failed.is_some() { Exit::Failed } else { Exit::Done })
}
