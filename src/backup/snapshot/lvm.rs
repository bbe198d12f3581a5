//! A snapshot of a logical volume: a thin one in its pool, any other in what its volume group has
//! free. The files are read from a read-only mount that no other process sees.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Snapshot;
use crate::probe::lvm::lvm;
use crate::probe::node;
use crate::sys::at_end::AtEnd;
use crate::sys::mount::{self, MountInfo};
use crate::sys::run::Cmd;
use crate::sys::{fs, tools, udev};
use crate::ui::Ui;

/// Marks the snapshots that are rr's to delete, with what tells this machine from others: volume groups
/// on a SAN, and those of guests, show on more than one.
const TAG: &str = "rr_snapshot";
/// The machine id itself is not for others to know, see machine-id(5).
const CONTEXT: &str = "rr 2026-11-22 tag of a snapshot";
/// Each process has a mount namespace of its own on it.
const MOUNT_POINT: &str = "/run/rr/snapshot";
const COLUMNS: &str = "vg_name,lv_name,lv_kernel_major,lv_kernel_minor,lv_layout,vg_free_count";

/// The mount is released when its last file is closed, which may be a moment after the end of rr.
const REMOVE: &str = r#"
for seconds in 0 1 1 2 2 5 5 10; do
    sleep "$seconds"
    lvm lvs "$VOLUME" >/dev/null 2>&1 || exit 0
    lvm lvremove -qq -f "$VOLUME" && exit 0
done
exit 1
"#;

/// What a tree is on, and how a snapshot of it is made.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    mount: MountInfo,
    volume: Volume,
    /// What the snapshot may take of the volume group. None: it is a thin one.
    extents: Option<u64>,
}

/// A row of `lvm lvs`, where numbers are text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Volume {
    vg_name: String,
    lv_name: String,
    lv_kernel_major: String,
    lv_kernel_minor: String,
    lv_layout: String,
    vg_free_count: String,
}

impl Volume {
    fn device(&self) -> Option<(u32, u32)> {
        Some((self.lv_kernel_major.parse().ok()?, self.lv_kernel_minor.parse().ok()?))
    }

    fn is_thin(&self) -> bool {
        self.lv_layout.split(',').any(|layout| layout == "thin")
    }
}

/// The logical volumes that these trees are mounted from.
pub(super) fn origins(trees: &[PathBuf]) -> Result<Vec<Origin>> {
    if tools::find("lvm".as_ref()).is_none() {
        return Ok(Vec::new());
    }
    let volumes = report(&["-o", COLUMNS])?;
    Ok(choose(trees, &mount::mounts()?, &volumes))
}

/// Of what a volume group has free, each snapshot in it gets an equal part.
fn choose(trees: &[PathBuf], mounts: &[MountInfo], volumes: &[Volume]) -> Vec<Origin> {
    let on_volume = |tree: &PathBuf| {
        let mount = mounts.iter().rfind(|mount| mount.path == *tree)?;
        let volume = volumes.iter().find(|volume| volume.device() == Some(mount.device))?;
        Some((mount.clone(), volume.clone()))
    };
    let found: Vec<_> = trees.iter().filter_map(on_volume).collect();
    let extents = |volume: &Volume| {
        let shares = |other: &Volume| !other.is_thin() && other.vg_name == volume.vg_name;
        let sharing = found.iter().filter(|(_, other)| shares(other)).count() as u64;
        let free: u64 = volume.vg_free_count.parse().unwrap_or(0);
        (!volume.is_thin()).then(|| free / sharing.max(1))
    };
    let origin = |(mount, volume): &(MountInfo, Volume)| Origin {
        extents: extents(volume),
        mount: mount.clone(),
        volume: volume.clone(),
    };
    found.iter().map(origin).collect()
}

impl Origin {
    pub(super) fn tree(&self) -> &Path {
        &self.mount.path
    }

    /// Why there can be no snapshot.
    pub(super) fn refusal(&self) -> Option<String> {
        let full = self.extents == Some(0);
        full.then(|| format!("the volume group {} has no room for a snapshot", self.volume.vg_name))
    }

    pub(super) fn take(&self, name: &str) -> Result<Snapshot> {
        let snapshot = format!("{}/{name}", self.volume.vg_name);
        // First, as somebody may kill us in the middle of it.
        let env = [("VOLUME", snapshot.as_ref())];
        let deletion =
            AtEnd::new(&format!("the removal of {snapshot}"), &[REMOVE.to_owned()], &env, None)?;
        let mut create = lvm(&["lvcreate", "-qq", "-s", "-n", name, "--addtag", &tag()]);
        create = match self.extents {
            Some(extents) => create.args(["-l", &extents.to_string()]),
            // Thin snapshots are not activated unless asked for.
            None => create.args(["-ay", "-K", "--setactivationskip", "n"]),
        };
        create.arg(format!("{}/{}", self.volume.vg_name, self.volume.lv_name)).run()?;
        udev::settle()?;
        let root = self.mount_snapshot(&snapshot)?;
        // A thin pool that runs full fails the reading itself.
        let fills = self.extents.map(|_| Fills { snapshot: snapshot.clone() });
        Ok(Snapshot { root, name: snapshot, fills, deletion: Some(deletion) })
    }

    fn mount_snapshot(&self, snapshot: &str) -> Result<OwnedFd> {
        // Its filesystem has the identity of one that is mounted.
        let options = if self.mount.kind == "xfs" { "ro,nouuid" } else { "ro" };
        let inside = self.mount.root.strip_prefix("/").unwrap_or(&self.mount.root);
        let mount = || {
            Cmd::new("mount")
                .args(["-t", &self.mount.kind, "-o", options])
                .arg(Path::new("/dev").join(snapshot))
                .arg(MOUNT_POINT)
                .run()
        };
        let open = |()| {
            let dir = Path::new(MOUNT_POINT).join(inside);
            fs::open_path(&dir).with_context(|| format!("opening {}", dir.display()))
        };
        mount::held(Path::new(MOUNT_POINT), mount, open)
    }
}

/// A snapshot that may run full.
#[derive(Debug)]
pub(super) struct Fills {
    /// `GROUP/NAME`
    snapshot: String,
}

impl Fills {
    /// # Errors
    /// More changed than there was room for, so that what was read may be from before and after.
    pub(super) fn check(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Row {
            lv_snapshot_invalid: String,
        }
        let rows: Vec<Row> = report(&["-o", "lv_snapshot_invalid", &self.snapshot])?;
        if rows.iter().any(|row| !row.lv_snapshot_invalid.is_empty()) {
            bail!(
                "it ran full while files were read: more was changed than its volume group has free\nhint: leave more room in the group, back up at a quieter time, or set backup.snapshot = \"none\""
            );
        }
        Ok(())
    }
}

/// What this machine's snapshots are marked with.
fn tag() -> String {
    tag_of(&node::machine_id().unwrap_or_else(|| node::read().hostname))
}

fn tag_of(machine: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let hash = hasher.update(machine.as_bytes()).finalize().to_hex();
    format!("{TAG}_{}", &hash[..16])
}

/// A row of `lvm lvs`.
#[derive(Debug, Deserialize)]
struct Tagged {
    vg_name: String,
    lv_name: String,
    lv_tags: String,
}

/// The volumes among `rows` that have this tag.
fn with_tag<'a>(rows: &'a [Tagged], tag: &'a str) -> impl Iterator<Item = String> + 'a {
    let found = rows.iter().filter(move |row| row.lv_tags.split(',').any(|found| found == tag));
    found.map(|row| format!("{}/{}", row.vg_name, row.lv_name))
}

/// Deletes what a run left that a power cut ended.
pub(super) fn delete_left(ui: &Ui) -> Result<()> {
    if tools::find("lvm".as_ref()).is_none() {
        return Ok(());
    }
    let rows: Vec<Tagged> = report(&["-o", "vg_name,lv_name,lv_tags"])?;
    for volume in with_tag(&rows, &tag()) {
        match lvm(&["lvremove", "-qq", "-f", &volume]).run() {
            Ok(()) => ui.info(format!("the snapshot {volume} of an earlier run is deleted")),
            Err(error) => ui.warn(format!("deleting a snapshot of an earlier run: {error:#}")),
        }
    }
    for volume in with_tag(&rows, TAG) {
        ui.warn(format!(
            "the snapshot {volume} is of an older rr, which did not note the machine, so it stays\nhint: if no other machine uses it: lvm lvremove {volume}"
        ));
    }
    Ok(())
}

fn report<T: serde::de::DeserializeOwned>(args: &[&str]) -> Result<Vec<T>> {
    parse(&lvm(&["lvs", "--reportformat", "json"]).args(args).text()?)
}

/// Parses `lvm lvs --reportformat json`.
fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    #[derive(Deserialize)]
    struct Document<T> {
        report: Vec<Report<T>>,
    }
    #[derive(Deserialize)]
    struct Report<T> {
        lv: Vec<T>,
    }
    let document: Document<T> = serde_json::from_str(text).context("reading what lvs says")?;
    Ok(document.report.into_iter().flat_map(|report| report.lv).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LVS: &str = include_str!("../../../tests/fixtures/probe/debian12/lvs.snapshot.json");

    fn mounted(path: &str, minor: u32) -> MountInfo {
        MountInfo {
            device: (254, minor),
            root: "/".into(),
            path: path.into(),
            options: "rw".to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/mapper/x".into(),
        }
    }

    #[test]
    fn snapshots_share_what_their_group_has_free() {
        let mut volumes: Vec<Volume> = parse(LVS).unwrap();
        let mounts = [mounted("/", 0), mounted("/data", 1), mounted("/thin", 6), mounted("/x", 9)];
        let trees = ["/", "/data", "/thin", "/x", "/nowhere"].map(PathBuf::from);
        let shares = |volumes: &[Volume]| -> Vec<_> {
            let origins = choose(&trees, &mounts, volumes);
            let share = |o: &Origin| (o.volume.lv_name.clone(), o.extents, o.refusal());
            origins.iter().map(share).collect()
        };
        let named = |name: &str, extents| (name.to_owned(), extents, None);
        let expected = [named("root", Some(95)), named("data", Some(95)), named("thin", None)];
        assert_eq!(shares(&volumes), expected);

        for volume in &mut volumes {
            volume.vg_free_count = "1".to_owned();
        }
        let shares = shares(&volumes);
        let why = "the volume group vg0 has no room for a snapshot";
        assert_eq!(shares[0], ("root".to_owned(), Some(0), Some(why.to_owned())));
        assert_eq!(shares[2], expected[2]);
    }

    #[test]
    fn snapshots_of_other_machines_are_not_ours_to_delete() {
        let (ours, theirs) = (tag_of("a"), tag_of("b"));
        assert_ne!(ours, theirs);
        let rows = [("left", ours.as_str()), ("theirs", &theirs), ("older", TAG), ("none", "")]
            .map(|(name, tags)| {
                let tags = format!("a,{tags}");
                format!(r#"{{"vg_name":"vg0","lv_name":"{name}","lv_tags":"{tags}"}}"#)
            });
        let text = format!(r#"{{"report":[{{"lv":[{}]}}]}}"#, rows.join(","));
        let rows: Vec<Tagged> = parse(&text).unwrap();
        assert_eq!(with_tag(&rows, &ours).collect::<Vec<_>>(), ["vg0/left"]);
        assert_eq!(with_tag(&rows, TAG).collect::<Vec<_>>(), ["vg0/older"]);
        // What lvm(8) takes for a tag.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(tag().chars().all(plain) && tag().len() == TAG.len() + 17, "{}", tag());
    }

    #[test]
    fn what_is_mounted_last_is_what_is_seen() {
        let volumes: Vec<Volume> = parse(LVS).unwrap();
        let mounts = [mounted("/data", 0), mounted("/data", 1)];
        let origins = choose(&["/data".into()], &mounts, &volumes);
        assert_eq!(origins[0].volume.lv_name, "data");
    }
}
