//! THE CONVERSATION of recover: fetch, plan, apply, extract, fixup, check, report.

pub mod check;
pub mod chroot;
pub mod devices;
pub mod fixup;
pub mod inside;
pub mod sysfs;
