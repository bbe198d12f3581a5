//! `rr config show|check|init`

use anyhow::Result;

use crate::cli::ConfigVerb;
use crate::config::Loaded;

use super::{Exit, print};

pub(super) fn run(loaded: &Loaded, verb: &ConfigVerb) -> Result<Exit> {
    match verb {
        ConfigVerb::Show => print(&loaded.render()?)?,
        ConfigVerb::Check => {} // loading it was the check
        ConfigVerb::Init => print(include_str!("../../etc/rr.toml"))?,
    }
    Ok(Exit::Done)
}
