//! Layouts rebuilt for real, in user-mode Linux: each case builds a stack of disks with the tools'
//! own commands, records it, boots again with other disks, has rr plan and apply, and compares what
//! the tools say of it before and after. Then rr rebuilds it once more, over the finished machine.
//!
//! This program is both sides. On the host it prepares a root tree and boots `linux.uml` on it; in
//! there it runs again as the agent (`--agent DIR`) that calls rr's library.
//!
//! * [`lab`] the root tree, booting
//! * [`agent`] what runs inside
//! * [`cases`] the stacks, [`volumes`] more of them, [`elsewhere`] on other disks than they had
//! * [`recover`] a whole recovery, files and all; [`snapshot`] backups from snapshots
//! * [`network`] the rescue system's network

mod agent;
mod cases;
mod elsewhere;
#[path = "../node/iso.rs"]
mod iso;
mod lab;
mod network;
mod recover;
mod snapshot;
mod volumes;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let [_, flag, dir] = &args[..]
        && flag == "--agent"
    {
        return agent::main(Path::new(dir));
    }
    let mut arguments = Arguments::from_args();
    // Each machine is one processor's worth of work.
    arguments.test_threads.get_or_insert(2);
    if let Some(why) = lab::missing() {
        eprintln!("SKIPPED: no layouts are rebuilt in user-mode Linux: {why}");
        return ExitCode::SUCCESS;
    }
    let builds = Arc::new(lab::Builds::default());
    let mut trials: Vec<_> = cases::all()
        .into_iter()
        .map(|case| {
            let builds = builds.clone();
            Trial::test(format!("uml_{}", case.name), move || {
                lab::run(&case, &builds).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    trials.push(Trial::test(format!("uml_{}", recover::NAME), || {
        lab::run_recovery().map_err(|error| Failed::from(format!("{error:#}")))
    }));
    trials.push(Trial::test(format!("uml_{}", recover::ENCRYPTED), || {
        lab::run_encrypted_recovery().map_err(|error| Failed::from(format!("{error:#}")))
    }));
    trials.push(Trial::test(format!("uml_{}", recover::BESIDE_DATA), || {
        lab::run_recovery_beside_data().map_err(|error| Failed::from(format!("{error:#}")))
    }));
    trials.push(Trial::test(format!("uml_{}", snapshot::NAME), || {
        lab::run_snapshots().map_err(|error| Failed::from(format!("{error:#}")))
    }));
    trials.push(Trial::test(format!("uml_{}", network::NAME), || {
        lab::run_network().map_err(|error| Failed::from(format!("{error:#}")))
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}
