//! `rr recover`, `layoutonly`, `restoreonly`, `finalizeonly`, `mountonly`

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::cli::RecoverArgs;
use crate::recover::{self, Failure, Options, Outcome, Phase, Unnamed};
use crate::rescue::info::{CODE_VARIABLE, RECOVER_LOG};
use crate::rescue::{RescueInfo, rehearsal};
use crate::ui;

use super::{Exit, Session, print_json, usage};

/// `rr rehearse`, in the chroot of a rescue image that is being made.
pub(super) fn rehearse(session: &Session<'_>) -> Result<Exit> {
    let Some(info) = RescueInfo::read()? else {
        return Err(usage(anyhow!("`rr {}` runs only in a rescue image", rehearsal::VERB)));
    };
    // Nobody needs the answer of a backup that was killed.
    set_pdeathsig(Signal::SIGKILL).context("asking to end with the backup")?;
    print_json(&recover::rehearse::rehearse(session.config, &info, session.ui)?)?;
    Ok(Exit::Done)
}

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
        layout: args.layout,
        target: session.global.target.clone(),
        node: session.global.node.clone(),
        verify: !args.no_verify,
        ..Options::default()
    };
    let json = session.global.json;
    let exit = match recover::recover(session.config, info.as_ref(), &options, session.ui) {
        Ok(outcome) => {
            match outcome {
                Outcome::Recovered(report) if json => print_json(&report)?,
                Outcome::Planned(plan) if json => print_json(&plan)?,
                _ => {}
            }
            Exit::Done
        }
        Err(failure) => {
            session.ui.error(&failure.error);
            if let Some(report) = failure.report.as_ref().filter(|_| json) {
                print_json(report)?;
            }
            exit(&failure)
        }
    };
    if let Some(file) = std::env::var_os(CODE_VARIABLE) {
        let left = std::fs::write(&file, (exit as u8).to_string());
        left.with_context(|| format!("writing {}", Path::new(&file).display()))?;
    }
    Ok(exit)
}

fn exit(failure: &Failure) -> Exit {
    match failure {
        Failure { touched: true, .. } => Exit::Harmed,
        Failure { error, .. } if error.is::<Unnamed>() => Exit::Usage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_to_the_disks_decides_the_exit_code() {
        let of = |touched, error| exit(&Failure { touched, report: None, error });
        assert_eq!(of(true, anyhow!("no space")) as u8, 3);
        assert_eq!(of(false, anyhow!("no plan")) as u8, 1);
    }
}
