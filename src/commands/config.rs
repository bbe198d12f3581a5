//! `rr config show|check|init`

use anyhow::Result;

use crate::backup::headers;
use crate::cli::ConfigVerb;
use crate::config::Loaded;

use super::{Exit, print, print_json};

pub(super) fn run(loaded: &Loaded, json: bool, verb: &ConfigVerb) -> Result<Exit> {
    match verb {
        ConfigVerb::Show if json => print_json(&loaded.settings()?)?,
        ConfigVerb::Show => print(&loaded.render()?)?,
        // Loading it was the rest of the check.
        ConfigVerb::Check => {
            let recipients = &loaded.config.backup.luks_header_recipients;
            if !recipients.is_empty() {
                headers::check(recipients)?;
            }
        }
        ConfigVerb::Init => print(include_str!("../../etc/rr.toml"))?,
    }
    Ok(Exit::Done)
}
