//! `rr recover`, `layoutonly`, `restoreonly`, `finalizeonly`, `mountonly`

use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::RecoverArgs;
use crate::recover::{self, Options, Outcome, Phase};
use crate::rescue::RescueInfo;
use crate::rescue::info::{CODE_VARIABLE, RECOVER_LOG};
use crate::ui;

use super::{Exit, Session, print_json};

pub(super) fn run(session: &Session<'_>, args: RecoverArgs, phase: Phase) -> Result<Exit> {
    let info = RescueInfo::read()?;
    if info.is_some()
        && let Err(error) = ui::log::to_file(Path::new(RECOVER_LOG))
    {
        session.ui.warn(format!("{error:#}"));
    }
    let options = Options {
        phase,
        auto: args.auto,
        dry_run: args.dry_run,
        map: args.disks.map,
        erase: args.disks.erase,
        grow: args.disks.grow,
        other_firmware: args.other_firmware,
        generation: args.generation,
        target: session.global.target.clone(),
        node: session.global.node.clone(),
        verify: !args.no_verify,
        ..Options::default()
    };
    let exit = match recover::recover(session.config, info.as_ref(), &options, session.ui) {
        Ok(Outcome::Recovered(report)) if session.global.json => {
            print_json(&report)?;
            Exit::Done
        }
        Ok(_) => Exit::Done,
        Err(failure) => {
            session.ui.error(&failure.error);
            if failure.touched { Exit::Harmed } else { Exit::Failed }
        }
    };
    if let Some(file) = std::env::var_os(CODE_VARIABLE) {
        let left = std::fs::write(&file, (exit as u8).to_string());
        left.with_context(|| format!("writing {}", Path::new(&file).display()))?;
    }
    Ok(exit)
}
