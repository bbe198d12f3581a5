//! `rr` brings a dead Linux machine back on bare metal.
//!
//! ```text
//! mkbackup:  sys -> probe -> Layout -+-> archive: select -> walk -> tar stream -> chunks -> packs -> store
//!                                    +-> rescue: tree -> initrd -> iso                            -> store
//! recover:   init -> store: manifest, layout -+
//!            probe: what is here -------------+-> plan -> (confirm) -> apply -> archive: extract
//!                                                         -> recover: fixup -> check -> report -> reboot
//! ```
//!
//! The floors, top to bottom; an arrow only ever points down:
//!
//! * [`commands`] one file a verb, and [`init`], PID 1 of the rescue system
//! * [`backup`] and [`recover`]: the two conversations; [`format`](mod@format): a disk for backups
//! * [`apply`] plan -> machine; [`rescue`] the rescue image; [`archive`] files <-> stream;
//!   [`prove`] virtual machines
//! * [`plan`] two layouts -> steps; [`probe`] machine -> layout; [`store`] publish and fetch
//! * `fuzz`: what the fuzzers in `fuzz/` call
//! * [`layout`] what the machine is; [`sys`] the only door out; [`ui`] what is said; [`config`]
//!
//! `layout` imports nothing of ours, `plan` never imports `sys`, only `sys` starts processes and
//! holds `unsafe`, nothing imports `commands`.

pub mod apply;
pub mod archive;
pub mod backup;
pub mod cli;
pub mod commands;
pub mod config;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
pub mod init;
pub mod layout;
pub mod plan;
pub mod probe;
pub mod prove;
pub mod recover;
pub mod rescue;
pub mod store;
pub mod sys;
pub mod ui;
