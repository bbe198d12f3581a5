//! What will be done to which disk: a pure function of the machine as it was recorded, the machine
//! that is here, and what the admin said.
//!
//! ```text
//! recorded -> leave, scope, join: what comes back +
//! present ---> map: recorded disk -> disk here -+-> consent: may it be erased? -> fit: to their sizes
//! answers ---------------------------------------+                                 -> build: steps -> validate
//! ```
//!
//! Nothing here touches the machine, so a plan can be made at backup time (against the node's own
//! disks), shown, compared and tested. What can't work is a [`Refusal`] that names every problem at
//! once and what would settle it. [`crate::apply`] carries the steps out.
//!
//! * [`leave`] the machine without disks that are left out
//! * [`scope`] which parts of the recorded layout come back
//! * [`join`] several recorded disks on one
//! * [`map`] which disk takes the place of which
//! * [`consent`] which disks may be erased
//! * [`fit`] the layout for disks of other sizes
//! * [`build`] the steps, in an order in which each finds what it stands on
//! * [`groups`] those that make a volume group
//! * [`step`] the steps' types
//! * [`hybrid`] the entries of a hybrid MBR
//! * [`fscmd`], [`stackcmd`] the command lines that make filesystems, arrays and volumes
//! * [`lvmtext`] what comes back from LVM's own metadata
//! * [`validate`] the checks that a finished plan must pass
//! * [`render`] a plan for people, programs and shells
//! * [`beside`] the disks before and after

pub mod beside;
pub mod build;
pub mod consent;
pub mod fit;
pub mod fscmd;
pub mod groups;
pub mod hybrid;
pub mod join;
pub mod leave;
pub mod lvmtext;
pub mod map;
pub mod render;
pub mod scope;
pub mod stackcmd;
pub mod step;
pub mod validate;

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::layout::{Disk, Id, Layout};

pub use map::DiskMatch;
pub use step::{MountFs, Step};

/// How a layout is corrected that can't be made again as it was recorded.
pub(crate) const EDIT: &str = "edit the layout (rr layout save --gen GENERATION FILE), and have it made: rr recover --layout FILE";

/// What no machine can have been recorded as.
const DAMAGED: &str = "the layout is damaged: use another generation (--gen), or edit this one's: rr \
                       layout save --gen GENERATION FILE, then rr recover --layout FILE";

/// What the admin, or the kernel command line, said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Nobody is there to be asked.
    pub auto: bool,
    /// Recorded disk (name, serial, WWN) -> disk that is here (name, serial, WWN), or
    /// [`leave::NONE`].
    pub map: Vec<(String, String)>,
    /// Disks that may be erased although they hold a stranger's data (name, serial, WWN).
    pub erase: Vec<String>,
    /// Larger disks are used in full.
    pub grow: bool,
    pub keep: Vec<KeptDisk>,
    /// What shows that this is another machine than the node was. Data that looks like the node's may
    /// be that of its clone then, which has all its UUIDs.
    pub elsewhere: Option<String>,
    /// The kernel's names of the disks that an earlier run was allowed to erase since this machine
    /// started.
    pub begun: Vec<String>,
    /// Kinds of logical volumes that the kernel here does not know, of those that work without it as
    /// well: `cache`, `writecache`.
    pub lacks: Vec<String>,
}

/// A disk that is never erased: the boot medium, the disk that holds the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDisk {
    /// The kernel's name: `sdb`.
    pub name: String,
    pub why: String,
}

impl Answers {
    /// Why a disk with data that looks like the node's may not be erased unasked.
    fn doubt(&self, disk: &Disk) -> Option<&str> {
        self.elsewhere.as_deref().filter(|_| self.auto && !self.begun.contains(&disk.name))
    }
}

/// Something that comes back under another name than it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityChange {
    pub what: String,
    pub old: String,
    /// Empty where it is known only after the fact.
    pub new: String,
}

/// A disk that the plan erases, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedDisk {
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub size_bytes: u64,
    /// What is on it, in words; empty for a blank disk.
    pub holds: Vec<String>,
}

/// Why there is no plan. Nothing has been touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", render::refusal(.problems))]
pub struct Refusal {
    pub problems: Vec<Problem>,
}

impl Refusal {
    /// Whether an edited layout would settle something of it.
    pub fn is_of_layout(&self) -> bool {
        self.problems.iter().any(|problem| problem.is_of_layout)
    }
}

/// One reason, and what the admin can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub hint: String,
    /// An edited layout settles it.
    is_of_layout: bool,
}

impl Problem {
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { what: what.into(), hint: hint.into(), is_of_layout: false }
    }

    /// One that an edited layout settles. `how` says what to change, or what else there is: all that
    /// comes before "edit the layout".
    fn of_layout(what: impl Into<String>, how: impl std::fmt::Display) -> Problem {
        Problem { is_of_layout: true, ..Problem::new(what, format!("{how}{EDIT}")) }
    }

    /// The layout says what no machine can have been recorded as.
    fn damaged(what: impl Into<String>) -> Problem {
        Problem { is_of_layout: true, ..Problem::new(what, DAMAGED) }
    }
}

/// What will be done, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The machine as it will be: the recorded layout, without what does not come back, with the
    /// names that devices will have here.
    pub layout: Layout,
    /// Recorded disk -> disk here, and why.
    pub disks: Vec<DiskMatch>,
    pub kept: Vec<KeptDisk>,
    pub steps: Vec<Step>,
    identity_changes: Vec<IdentityChange>,
    /// What does not come back, and other things to know.
    pub notes: Vec<String>,
}

/// Plans how `recorded` is rebuilt on the disks of `present`.
///
/// # Errors
/// A [`Refusal`] with every problem that was found.
pub fn plan(recorded: &Layout, present: &Layout, answers: &Answers) -> Result<Plan, Refusal> {
    let mut problems = Vec::new();
    let left = leave::take_out(recorded, answers, &mut problems);
    let scope = scope::narrow(&left.layout, &mut problems);
    let recorded = &with_left_alone(recorded, &scope.layout);
    let kept = map::kept_disks(present, answers, &mut problems);
    let joined = join::join(&scope.layout, present, answers, &mut problems);
    let mut disks = map::map(
        recorded,
        &joined.layout,
        present,
        &joined.answers,
        &joined.pairs,
        &kept,
        &mut problems,
    );
    joined.tell(&mut disks);
    consent::check(recorded, present, answers, &joined.claims(&disks), &mut problems);
    let (layout, with_sectors, told) = fit::sectors::convert(&joined.layout, &disks, &mut problems);
    let (layout, resized) = fit::fit(&layout, &with_sectors, answers.grow, &mut problems);
    map::check_sizes(&layout, present, &with_sectors, &mut problems);
    hybrid::check(&scope.layout, &layout, &mut problems);
    let absent = consent::absent(present, answers);
    if !problems.is_empty() {
        let hint = map::listed("the disks here", &present.disk.iter().collect::<Vec<_>>());
        problems.extend(absent.into_iter().map(|what| Problem::new(what, &hint)));
        return Err(Refusal { problems });
    }
    let built = build::build(&layout, present, &with_sectors, answers, &mut problems);
    let plan = Plan {
        layout: built.layout,
        disks,
        kept,
        steps: built.steps,
        identity_changes: [joined.identity_changes, built.identity_changes].concat(),
        notes: [absent, left.notes, scope.notes, joined.notes, told, resized, built.notes].concat(),
    };
    problems.extend(validate::validate(&plan, present));
    if problems.is_empty() { Ok(plan) } else { Err(Refusal { problems }) }
}

/// What was recorded, with the disks that do not come back among those that nothing is to be put on
/// unasked: a disk with data that the admin does without, or that is not in the backup, is no spare.
fn with_left_alone(recorded: &Layout, scope: &Layout) -> Layout {
    let mut recorded = recorded.clone();
    for disk in &mut recorded.disk {
        disk.unused |= scope.disk.iter().all(|d| d.id != disk.id);
    }
    recorded
}

impl Plan {
    /// A plan for people, in 80 columns.
    pub fn render_text(&self) -> String {
        render::text(self, &beside::then(self))
    }

    /// The same with the disks before and after, side by side where `columns` allow it.
    pub fn render_beside(&self, present: &Layout, columns: usize) -> String {
        render::text(self, &beside::text(self, present, columns))
    }

    /// The same in `sh`, for people who want to do it by hand.
    pub fn render_script(&self) -> String {
        render::script(self)
    }

    /// The programs that [`crate::apply`] will run.
    pub fn tools(&self) -> Vec<&'static str> {
        let mut tools: Vec<_> = self.steps.iter().flat_map(Step::tools).collect();
        tools.sort_unstable();
        tools.dedup();
        tools
    }

    /// Whether a passphrase is needed to carry it out.
    pub fn needs_passphrase(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::MakeLuks(_)))
    }

    /// What it mounts. Bind mounts are made by the node itself when it boots.
    pub fn mounts(&self) -> impl Iterator<Item = &MountFs> {
        self.steps.iter().filter_map(|step| match step {
            Step::Mount(mount) => Some(mount),
            _ => None,
        })
    }

    /// UUIDs and names that could not be kept.
    pub fn identity_changes(&self) -> &[IdentityChange] {
        &self.identity_changes
    }

    /// The disks that will be erased. No other disk is written to.
    pub fn erases(&self) -> Vec<ErasedDisk> {
        self.disks
            .iter()
            .map(|m| ErasedDisk {
                name: m.new.name.clone(),
                model: m.new.model.clone(),
                serial: m.new.serial.clone(),
                size_bytes: m.new.size_bytes,
                holds: m.holds.clone(),
            })
            .collect()
    }
}

/// Is `disk` what a person calls `name`: the kernel's name with or without `/dev/`, the serial
/// number, the WWN?
pub fn is_called(disk: &Disk, name: &str) -> bool {
    let kernel_name = name.strip_prefix("/dev/").unwrap_or(name);
    disk.name == kernel_name
        || disk.serial.as_deref() == Some(name)
        || disk.wwn.as_deref() == Some(name)
}

fn disk_of<'a>(layout: &'a Layout, id: &Id) -> Option<&'a Disk> {
    layout.disk.iter().find(|d| d.id == *id)
}
