//! `rr recover`, `layoutonly`, `restoreonly`, `finalizeonly`, `mountonly`

use std::path::Path;

use anyhow::Result;

use crate::cli::RecoverArgs;
use crate::recover::{self, Options, Outcome, Phase};
use crate::rescue::RescueInfo;
use crate::rescue::info::RECOVER_LOG;
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
        generation: args.generation,
        target: session.global.target.clone(),
        node: session.global.node.clone(),
        verify: !args.no_verify,
        ..Options::default()
    };
    match recover::recover(session.config, info.as_ref(), &options, session.ui) {
        Ok(Outcome::Recovered(report)) if session.global.json => {
            print_json(&report)?;
            Ok(Exit::Done)
        }
        Ok(_) => Ok(Exit::Done),
        Err(failure) => {
            session.ui.error(&failure.error);
            Ok(if failure.touched { Exit::Harmed } else { Exit::Failed })
        }
    }
}
