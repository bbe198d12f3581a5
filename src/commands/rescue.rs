//! `rr rescue boot`

use anyhow::{Result, anyhow};

use crate::cli::{RescueBootArgs, RescueVerb};
use crate::layout::units::size;
use crate::rescue::RescueInfo;
use crate::rescue::boot::{self, Boot};
use crate::store::Access;
use crate::ui::ask;

use super::{Exit, Session, print_json, usage};

pub(super) fn run(session: &Session<'_>, verb: &RescueVerb) -> Result<Exit> {
    match verb {
        RescueVerb::Boot(args) => boot(session, args),
    }
}

fn boot(session: &Session<'_>, args: &RescueBootArgs) -> Result<Exit> {
    if RescueInfo::read()?.is_some() {
        return Err(usage(anyhow!("this is a rescue system already")));
    }
    let (ui, node) = (session.ui, session.config.node_name().map_err(usage)?);
    let store = session.store(Access::Read)?;
    let fetch = || Boot::fetch(store.as_ref(), session.config, args.recover, &args.parameters);
    let ready = ui.step("Fetching the rescue system", fetch)?;
    if session.global.json {
        let bytes = ready.bytes();
        print_json(&serde_json::json!({ "node": node, "bytes": bytes, "cmdline": ready.cmdline }))?;
    }
    ui.info(format!("{}, started with: {}", size(ready.bytes()), ready.cmdline));
    if args.dry_run {
        return Ok(Exit::Done);
    }
    let question = format!("This machine goes down now and becomes the rescue system of {node}.");
    if !args.yes && !args.load_only && !ask::confirm(&question)? {
        ui.info("stopped, since the answer was not yes: nothing was changed");
        return Ok(Exit::Failed);
    }
    ui.step("Loading the rescue system", || ready.load())?;
    if args.load_only {
        ui.success("The rescue system is loaded: systemctl kexec starts it.");
        return Ok(Exit::Done);
    }
    boot::go()?;
    ui.success("This machine goes down, and comes up as the rescue system.");
    Ok(Exit::Done)
}
