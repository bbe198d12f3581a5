//! Bad days of a target that is a directory: what a run that ends anywhere leaves, who may do what to
//! whose tree, and what the retention deletes. Most run the program itself.
//!
//! * [`cuts`] kill -9, a power cut, a filesystem that is full, each at every moment
//! * [`reorder`] a power cut that keeps no order
//! * [`others`] other runs, other nodes, readers, wrong clocks
//! * [`usb`] disks made by `rr format`

mod cuts;
#[path = "../node/mod.rs"]
mod node;
mod others;
mod reorder;
mod usb;

/// Whether a test can run that mounts.
fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test} is skipped: it mounts, which needs root");
    }
    root
}
