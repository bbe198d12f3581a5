//! `rr.toml`: what an admin can set, where it was set, and what it is when nobody set it.
//!
//! * [`schema`] the settings, their defaults and bounds; [`target`] those about the target
//! * [`load`](mod@load) the files, merged, with the origin of each value
//! * [`url`](mod@url) target URLs

pub mod load;
pub mod schema;
pub mod target;
pub mod url;

pub use load::{Loaded, load};
pub use schema::{
    BackupConfig, Config, Console, Drivers, Keymap, MenuDefault, Network, Output, PxeConfig,
    RescueConfig,
};
pub use target::{Login, TargetOptions};
pub use url::{Iso, Stick, TargetUrl};
