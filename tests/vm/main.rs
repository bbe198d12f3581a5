//! Whole recoveries in virtual machines, one scenario a matrix point: see README.md beside this.
//!
//! * [`matrix`] which there are; [`scenario`] what happens in one, and the comparison at its end
//! * [`day`] how a recovery goes: unattended, asked, with a server that dies
//! * [`nodes`] the machines that are backed up, and how their disks are made
//! * [`newdisks`] what they get for the disks that they lost
//! * [`tree`] the Debian trees they are made of
//! * [`uml`] user-mode Linux, in which disks are made and read at native speed
//! * [`peers`] the servers for backups, [`nfs`] one of them
//! * [`network`] recoveries by a boot server, [`pxe`] that server; [`slowcd`] a board's virtual drive
//! * [`cards`] which network cards a node has, [`switch`] what they are plugged into
//! * [`treecheck`] what is in a tree of files, without any of rr's own code
//! * [`demo`] the main job as a story; [`beside`] rr's rescue medium beside ReaR's
//!
//! The same program is its own helper: as `vm treecheck DIRECTORY...` it runs in user-mode Linux.

mod beside;
mod cards;
mod compare;
mod day;
mod demo;
mod lab;
mod matrix;
mod network;
mod newdisks;
mod nfs;
mod nodes;
mod peers;
mod pxe;
mod scenario;
mod selftest;
#[path = "../servers/mod.rs"]
mod servers;
mod slowcd;
mod switch;
mod tree;
mod treecheck;
mod uml;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    rr::ui::log::start(false);
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match args.first().and_then(|arg| arg.to_str()) {
        Some("treecheck") => treecheck::print(&args[1..]),
        Some("--demo") => demo::run(),
        Some("--beside-rear") => beside::run(),
        _ => return run_trials(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_trials() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = selftest::trials();
    trials.extend(matrix::all().into_iter().map(|scenario| {
        Trial::test(format!("lab.boot_twice.{}", scenario.node.name), move || {
            scenario.boot_twice().map_err(|error| format!("{error:#}").into())
        })
        .with_ignored_flag(true)
    }));
    trials.extend(matrix::all().into_iter().map(|scenario| {
        // Minutes each: only on request.
        Trial::test(scenario.name(), move || {
            scenario.run().map_err(|error| format!("{error:#}").into())
        })
        .with_ignored_flag(true)
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}
