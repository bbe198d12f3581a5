//! THE CONVERSATION of recover: this machine becomes again what the backup says it was.
//!
//! ```text
//! target: found, opened read-only -> fetch: manifest, layout -> probe: what is here -> plan -> shown
//!   -> confirm (auto: the plan's own rules decide) -> every pack read and checked
//!   -> probe and plan once more: is all as it was shown?
//! ------------------- up to here nothing on any disk has been touched -------------------
//!   -> apply -> extract -> fixup -> check: does it boot? -> report: into the system, to the target
//! ```
//!
//! All that can go wrong without disks is tried before the first of them is touched, and what takes
//! long, reading the whole backup, comes last: the admin's answers are asked for first. After that,
//! the same command can be given again over whatever was left half done. (On another machine than
//! the node was, an automatic one only until that is started anew: it could be a clone. Then
//! `--erase` names its disks.)
//!
//! * [`target`] where the backup is, and the disks that it is on     [`fetch`] the generation
//! * [`trees`] which files have a filesystem to go to
//! * [`confirm`] the one question                                  [`login`] who reads the target
//! * [`fixup`] what the restored tree needs to boot here             [`chroot`] running its programs
//! * [`check`] does it boot?                                         [`report`] log and result
//! * [`machine`] is it the one that was backed up?
//! * [`sysfs`], [`mounts`] what is here: stacks, mounts, files

pub mod check;
pub mod chroot;
pub mod confirm;
pub mod fetch;
pub mod fixup;
pub mod login;
pub mod machine;
pub mod mounts;
pub mod rehearse;
pub mod report;
mod run;
pub mod sysfs;
pub mod target;
pub mod trees;

use std::path::PathBuf;

use anyhow::Context;

use crate::config::Config;
use crate::layout::{Firmware, Layout};
use crate::plan::Plan;
use crate::rescue::info::RescueInfo;
use crate::sys::lock::{self, Lock};
use crate::ui::Ui;
use crate::ui::verdict::Verdict;

pub use report::Report;

/// Where the rescue system's init says, one a line, which disks (kernel names) it was started from.
pub const MEDIUM: &str = "/run/rr/medium";

/// Where the rescue system puts a layout that is refused, to be edited.
const REFUSED: &str = "/run/rr";

/// How much of a recovery is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    #[default]
    All,
    /// The disks are rebuilt and mounted.
    Layout,
    /// The files are extracted into what is mounted.
    Restore,
    /// The tree that is mounted is made bootable and checked.
    Finalize,
    /// The node's filesystems are mounted, nothing else.
    Mount,
}

/// What the admin, or the kernel command line, said.
#[derive(Debug, Clone)]
pub struct Options {
    pub phase: Phase,
    /// Nobody is there to be asked: what would be a question is settled by the plan's rules, which
    /// refuse rather than guess.
    pub auto: bool,
    /// Ends after the plan was shown. The packs are not read.
    pub dry_run: bool,
    /// Recorded disk -> disk here, by name, serial number or WWN.
    pub map: Vec<(String, String)>,
    /// Disks with a stranger's data that may be erased.
    pub erase: Vec<String>,
    /// Larger disks are used in full.
    pub grow: bool,
    /// Also where the firmware is not in the mode in which the node starts.
    pub other_firmware: bool,
    /// Default: the newest.
    pub generation: Option<String>,
    /// A layout that the admin edited, in place of the generation's.
    pub layout: Option<PathBuf>,
    /// Default: what the rescue image was made for, then what the configuration says.
    pub target: Option<String>,
    pub node: Option<String>,
    /// Where the tree is mounted.
    pub root: PathBuf,
    /// Reads and checks every pack before the first disk is touched.
    pub verify: bool,
    pub verdict: Verdict,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            phase: Phase::All,
            auto: false,
            dry_run: false,
            map: Vec::new(),
            erase: Vec::new(),
            grow: false,
            other_firmware: false,
            generation: None,
            layout: None,
            target: None,
            node: None,
            root: PathBuf::from("/mnt/rr"),
            verify: true,
            verdict: Verdict::detect(),
        }
    }
}

/// How it ended well.
#[derive(Debug)]
pub enum Outcome {
    /// The plan was shown, as was asked for.
    Planned(Box<Plan>),
    /// A part of a recovery was done; the tree is mounted.
    Mounted,
    /// The machine is recovered and passed all checks; nothing is mounted any more.
    Recovered(Box<Report>),
}

/// Why it ended, and how much is left of what was on the disks.
#[derive(Debug)]
pub struct Failure {
    /// Disks may have been written to.
    pub touched: bool,
    /// How far it came. None where it did not begin.
    pub report: Option<Box<Report>>,
    pub error: anyhow::Error,
}

/// Neither the command line nor the configuration nor the rescue image says which backup.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unnamed(&'static str);

/// Recovers this machine.
///
/// # Errors
/// A [`Failure`] with the reason; everything is left mounted then, to be looked at.
pub fn recover(
    config: &Config,
    info: Option<&RescueInfo>,
    options: &Options,
    ui: &Ui,
) -> Result<Outcome, Failure> {
    // Whoever is refused here says nothing where the other one tells how far it is.
    let alone = if options.dry_run { Ok(None) } else { alone().map(Some) };
    let _alone = alone.map_err(|error| Failure { touched: false, report: None, error })?;
    let mut run = run::Run::new(config, info, options, ui);
    match run.go() {
        Ok(outcome) => {
            if matches!(outcome, Outcome::Recovered(_)) {
                options.verdict.say("success");
            }
            Ok(outcome)
        }
        Err(error) => {
            let report = run.report_failure(&error);
            options.verdict.failed(&error);
            Err(Failure { touched: report.touched, report: Some(Box::new(report)), error })
        }
    }
}

/// Two recoveries of one machine would each erase what the other one makes: one on the console, say,
/// and one that somebody starts over ssh.
fn alone() -> anyhow::Result<Lock> {
    lock::take("recover")?.context(
        "another recovery is running on this machine\nhint: wait for its end; what it does: tail -f /var/log/rr.log",
    )
}

/// The programs that a recovery of this machine runs in the rescue system, besides those that the
/// plan names.
pub fn tools(layout: &Layout) -> Vec<&'static str> {
    let mut tools = vec!["blkid", "chroot", "mount"];
    if layout.boot.firmware == Firmware::Uefi {
        tools.push("efibootmgr");
    }
    tools
}
