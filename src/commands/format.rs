//! `rr format`

use anyhow::Result;

use crate::cli::FormatArgs;
use crate::format::{self, Options};

use super::{Exit, Session};

pub(super) fn run(session: &Session<'_>, args: FormatArgs) -> Result<Exit> {
    let FormatArgs { device, label, erase, dry_run } = args;
    format::format(&Options { device, label, erase, dry_run }, session.ui)?;
    Ok(Exit::Done)
}
