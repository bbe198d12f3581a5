//! `rr.toml`: what an admin can set, where it was set, and what it is when nobody set it.
//!
//! * [`schema`] the settings

pub mod schema;

pub use schema::{BackupConfig, Config, Console, Drivers, Network, RescueConfig, TargetOptions};
