//! Carries a plan out: one function a step, and what was written is read back.
//!
//! `apply` trusts the plan and not the machine: before the first byte is erased, every disk must
//! still be the one that was planned for and nobody else may hold it. It decides nothing; run again
//! over disks that a failed run left half done, it starts from the beginning.
//!
//! * [`release`] takes down what stands on the disks
//! * [`wipe`] erases them
//! * [`table`] writes partition tables ([`gpt`], [`mbr`])
//! * [`stack`] arrays, volume groups, volumes
//! * [`content`] filesystems and swap
//! * [`tree`] mounts

pub mod content;
pub mod gpt;
pub mod mbr;
pub mod release;
pub mod stack;
pub mod table;
pub mod tree;
pub mod wipe;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::plan::{Plan, Step};
use crate::sys::secret::Secret;
use crate::sys::{tools, udev};
use crate::ui::Ui;
use release::Held;

/// Erases the plan's disks, builds everything on them and mounts it all below `root`. The
/// passphrase is for the plan's encrypted volumes.
pub fn apply(plan: &Plan, root: &Path, passphrase: Option<&Secret>, ui: &Ui) -> Result<()> {
    tools::require(&plan.tools())?;
    if plan.needs_passphrase() && passphrase.is_none() {
        bail!("the plan makes encrypted volumes, and there is no passphrase for them");
    }
    // Disks until they are erased, and a partition of each one that has a table.
    let (mut held, mut kept) = (Held::new(), Vec::new());
    for step in &plan.steps {
        if !held.is_empty() && !matches!(step, Step::Release(_) | Step::Wipe(_)) {
            held.clear();
            udev::settle()?;
        }
        let name = step.describe();
        ui.step(&name, || {
            run(plan, step, root, passphrase, &mut held, &mut kept, ui)
                .with_context(|| format!("step: {name}"))
        })?;
    }
    Ok(())
}

/// Assembles what is there already and mounts it below `root`. Creates nothing.
pub fn mount(plan: &Plan, root: &Path, passphrase: Option<&Secret>, ui: &Ui) -> Result<()> {
    ui.step("assemble arrays and volume groups", || stack::assemble(plan, passphrase))?;
    for step in &plan.steps {
        if let Step::Mount(mount) = step {
            ui.step(&step.describe(), || tree::mount(mount, root))?;
        }
    }
    Ok(())
}

/// Unmounts what is mounted below `root`, children first.
pub fn unmount(plan: &Plan, root: &Path) -> Result<()> {
    tree::unmount_all(plan, root)
}

fn run(
    plan: &Plan,
    step: &Step,
    root: &Path,
    passphrase: Option<&Secret>,
    held: &mut Held,
    kept: &mut Vec<File>,
    ui: &Ui,
) -> Result<()> {
    match step {
        Step::Release(release) => {
            *held = release::release(plan, release)?;
            Ok(())
        }
        Step::Wipe(wipe) => wipe::wipe(wipe, held),
        Step::WriteTable(write) => {
            kept.extend(table::write(write)?);
            Ok(())
        }
        Step::CreateMd(create) => stack::create_md(step, create),
        Step::MakeLuks(make) => stack::make_luks(step, make, passphrase),
        Step::CreateVg(create) => stack::create_vg(step, create),
        Step::CreateLv(_) => stack::create_lv(step),
        Step::KeepUuids(keep) => {
            if let Some(why) = stack::keep_uuids(step, keep)? {
                ui.warn(why);
            }
            Ok(())
        }
        Step::MakeFs(make) => content::make_fs(step, make),
        Step::MakeSubvolumes(make) => content::make_subvolumes(make),
        Step::MakeSwap(make) => content::make_swap(step, make),
        Step::Mount(mount) => tree::mount(mount, root),
    }
}
