//! LVM's list of the devices that it may use, which RHEL 9 has and also puts into the initramfs: see
//! lvmdevices(8). It names disks by what is printed on them, so with other disks LVM finds no volume
//! group.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::super::chroot::Chroot;
use super::{Tree, identity};
use crate::layout::Layout;
use crate::plan::{DiskMatch, Plan};
use crate::sys::inside;
use crate::sys::run::Cmd;

const LIST: &str = "/etc/lvm/devices/system.devices";
/// Beside it: lvmdevices(8) takes no other place, and this one also where lvm.conf turns the list off.
const DRAFT: &str = "rr.devices";
/// Of the draft's versions LVM keeps none.
const NO_COPIES: &str = "devices/devicesfile_backup_limit=0";
/// It looks at every device.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Has the node's own LVM write the list anew, where it has one that names other disks. Where that
/// fails, the list is put aside: without it LVM takes all devices.
///
/// Returns the list and what became of it, in words.
pub fn renew(tree: &Tree<'_>, chroot: &Chroot) -> Result<Option<(PathBuf, String)>> {
    let found = inside::find(tree.root, LIST).filter(|_| is_stale(tree.plan, tree.recorded));
    let Some(file) = found else { return Ok(None) };
    let said = match draft(tree, chroot, &file) {
        Ok(text) => {
            identity::replace(&file, &text)?;
            format!("{LIST} names devices as they are here")
        }
        Err(error) => {
            std::fs::rename(&file, identity::beside(&file))
                .with_context(|| format!("putting {} aside", file.display()))?;
            format!("{LIST} listed other disks and is put aside: {error:#}")
        }
    };
    Ok(Some((PathBuf::from(LIST), said)))
}

/// Whether the list may name disks or partitions that are no more.
pub(super) fn is_stale(plan: &Plan, recorded: &Layout) -> bool {
    let stays = |d: &DiskMatch| {
        (d.old.wwn.is_some() && d.old.wwn == d.new.wwn)
            || (d.old.serial.is_some() && d.old.serial == d.new.serial)
    };
    !plan.disks.iter().all(stays) || identity::is_joined(plan, recorded)
}

/// The list as it is to be. Written by LVM alone, from one version of it to the next.
fn draft(tree: &Tree<'_>, chroot: &Chroot, file: &Path) -> Result<String> {
    let lvm = inside::program(tree.root, &["lvm"]).context("the node's files have no lvm")?;
    let list = std::fs::read_to_string(file).context("reading it")?;
    let volumes = listed(&list, &tree.plan.layout)?;
    ensure!(!volumes.is_empty(), "it has none of the node's physical volumes");
    let draft = file.with_file_name(DRAFT);
    std::fs::copy(file, &draft).with_context(|| format!("writing {}", draft.display()))?;
    let made = volumes.iter().try_for_each(|(id, dev)| {
        for change in [["--delpvid", id], ["--adddev", dev]] {
            let command = Cmd::new(&lvm).args(["lvmdevices", "--yes", "--devicesfile", DRAFT]);
            let command = command
                .args(["--config", NO_COPIES])
                .args(change)
                .env("LVM_SUPPRESS_FD_WARNINGS", "1");
            chroot.run(&command, TIMEOUT)?;
        }
        anyhow::Ok(())
    });
    let text = std::fs::read_to_string(&draft);
    std::fs::remove_file(&draft).with_context(|| format!("removing {}", draft.display()))?;
    made?;
    let text = text.with_context(|| format!("reading {}", draft.display()))?;
    for (id, dev) in &volumes {
        ensure!(entries(&text).any(|e| e.id == *id), "lvmdevices did not add {dev}");
    }
    Ok(text)
}

/// One device of a list.
struct Entry<'a> {
    kind: &'a str,
    /// The UUID of the physical volume on it, without hyphens.
    id: &'a str,
}

fn entries(list: &str) -> impl Iterator<Item = Entry<'_>> {
    list.lines().filter_map(|line| {
        let field = |key| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        Some(Entry { kind: field("IDTYPE=")?, id: field("PVID=")? })
    })
}

/// The physical volumes in the list that the machine has again, by their UUIDs, and their devices.
/// What else is listed stays: disks that rr does not touch.
fn listed(list: &str, layout: &Layout) -> Result<Vec<(String, String)>> {
    let mut volumes = Vec::new();
    for entry in entries(list) {
        let pvs = layout.vg.iter().flat_map(|vg| &vg.pv);
        let Some(pv) = pvs.into_iter().find(|pv| pv.uuid.replace('-', "") == entry.id) else {
            continue;
        };
        if entry.kind == "mpath_uuid" {
            bail!("it names disks by multipath, which does not run here");
        }
        let dev = layout.dev(&pv.on).with_context(|| format!("{} is no device", pv.on))?;
        volumes.push((entry.id.to_owned(), dev));
    }
    volumes.dedup();
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::raid_node;

    #[test]
    fn the_machines_own_volumes_are_listed_anew_and_no_others() {
        let mut layout = raid_node();
        layout.vg[0].pv[0].uuid = "nvaHol-efJs-UtIu-gfWU-oyHr-Lfld-l0B2ef".into();
        // As lvm 2.03.16 writes it.
        let list = "# LVM uses devices listed in this file.\n\
             # Created by LVM command pvcreate pid 812 at Sun Nov 22 08:00:00 2026\n\
             VERSION=1.1.2\n\
             IDTYPE=sys_wwid IDNAME=naa.5000c500a1b2c3d4 DEVNAME=/dev/sda2 PVID=nvaHolefJsUtIugfWUoyHrLfldl0B2ef PART=2\n\
             IDTYPE=sys_wwid IDNAME=naa.5000c500a1b2c3d5 DEVNAME=/dev/sdz PVID=abcdefghijklmnopqrstuvwxyz012345\n\
             IDTYPE=devname IDNAME=/dev/sdy DEVNAME=/dev/sdy PVID=.\n";
        let told = listed(list, &layout).unwrap();
        let id = "nvaHolefJsUtIugfWUoyHrLfldl0B2ef".to_owned();
        assert_eq!(told, [(id, "/dev/md1".to_owned())]);
        let text = list.replacen("sys_wwid", "mpath_uuid", 1);
        assert!(listed(&text, &layout).unwrap_err().to_string().contains("multipath"));
    }
}
