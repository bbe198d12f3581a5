//! md arrays that run: sysfs, see the kernel's Documentation/admin-guide/md.rst, and mdadm for
//! the name and the UUID in the form that `mdadm --create` takes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::block::{names_in, read_trimmed};
use crate::layout::{Id, Md, MdMember};
use crate::sys::run::Cmd;

/// sysfs counts data offsets in these.
const SECTOR_BYTES: u64 = 512;

/// What sysfs has in `/sys/block/NAME/md`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sysfs {
    pub values: BTreeMap<String, String>,
    /// `dev-sda2` -> `slot`, `state`, `offset` ...
    pub members: BTreeMap<String, BTreeMap<String, String>>,
}

const ATTRIBUTES: &[&str] = &[
    "level",
    "raid_disks",
    "layout",
    "chunk_size",
    "metadata_version",
    "component_size",
    "array_state",
    "bitmap/location",
];

/// The running array `name`. None for one that is being taken down, and for the containers of
/// firmware RAID, which are no array.
pub fn read(name: &str, size_bytes: u64, id_of: &dyn Fn(&str) -> Option<Id>) -> Result<Option<Md>> {
    let sysfs = read_sysfs(&Path::new("/sys/block").join(name).join("md"));
    let state = sysfs.values.get("array_state").map_or("", String::as_str);
    if matches!(state, "clear" | "inactive" | "") {
        return Ok(None);
    }
    let export =
        Cmd::new("mdadm").args(["--detail", "--export"]).arg(format!("/dev/{name}")).text()?;
    build(name, size_bytes, &sysfs, &export, id_of)
        .map(Some)
        .with_context(|| format!("reading the array /dev/{name}"))
}

fn read_sysfs(dir: &Path) -> Sysfs {
    let pick = |dir: &Path, keys: &[&str]| -> BTreeMap<String, String> {
        let read = |key: &&str| Some(((*key).to_owned(), read_trimmed(&dir.join(key))?));
        keys.iter().filter_map(read).collect()
    };
    let members = names_in(dir).into_iter().filter(|name| name.starts_with("dev-"));
    Sysfs {
        values: pick(dir, ATTRIBUTES),
        members: members
            .map(|member| {
                let values = pick(&dir.join(&member), &["slot", "state", "offset"]);
                (member, values)
            })
            .collect(),
    }
}

/// Puts an array together from sysfs and `mdadm --detail --export`. `id_of` knows the devices by
/// their kernel names.
pub fn build(
    name: &str,
    size_bytes: u64,
    sysfs: &Sysfs,
    export: &str,
    id_of: &dyn Fn(&str) -> Option<Id>,
) -> Result<Md> {
    let exported: BTreeMap<&str, &str> =
        export.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |key: &str| sysfs.values.get(key).map(String::as_str);
    let number = |key: &str| value(key).and_then(|v| v.parse::<u64>().ok()).filter(|n| *n > 0);
    let level = value("level").context("sysfs does not say its level")?.to_owned();
    let raid_devices = number("raid_disks").context("sysfs does not say how many disks it has")?;
    let mut member = Vec::new();
    let mut data_offset_bytes = None;
    for (dir, values) in &sysfs.members {
        let device = dir.trim_start_matches("dev-").replace('!', "/");
        if values.get("state").is_some_and(|state| state.contains("faulty")) {
            log::warn!("/dev/{device} is a failed member of /dev/{name}");
            continue;
        }
        // Taken for a spare it would fail mdadm, when all is erased already.
        anyhow::ensure!(
            values.get("slot").is_none_or(|slot| slot != "journal"),
            "its write journal is on /dev/{device}: a recovery can't make an array with a journal yet"
        );
        let on = id_of(&device).with_context(|| format!("its member /dev/{device} is unknown"))?;
        let slot = values.get("slot").and_then(|slot| slot.parse().ok());
        let offset = values.get("offset").and_then(|o| o.parse::<u64>().ok()).unwrap_or_default();
        // Members may differ; the largest fits them all.
        data_offset_bytes = data_offset_bytes.max(Some(offset * SECTOR_BYTES));
        member.push(MdMember { on, slot });
    }
    member.sort_by_key(|m| (m.slot.is_none(), m.slot, m.on.clone()));
    let metadata = value("metadata_version").context("sysfs does not say its metadata")?;
    anyhow::ensure!(
        metadata.starts_with("0.") || metadata.starts_with("1."),
        "its metadata is {metadata}: firmware RAID is not supported yet"
    );
    Ok(Md {
        id: Id::md(name),
        name: name.to_owned(),
        layout: layout_name(&level, value("layout").and_then(|v| v.parse().ok()).unwrap_or(0)),
        level,
        metadata: metadata.to_owned(),
        uuid: exported.get("MD_UUID").context("mdadm does not say its UUID")?.to_string(),
        array_name: exported.get("MD_NAME").map(|name| (*name).to_owned()),
        size_bytes,
        chunk_bytes: number("chunk_size"),
        bitmap: match value("bitmap/location") {
            None | Some("none" | "") => None,
            Some(location) if location.starts_with(['+', '-']) => Some("internal".to_owned()),
            Some(location) => Some(location.to_owned()),
        },
        raid_devices: u32::try_from(raid_devices).context("counting its disks")?,
        // Version 0.90 has its superblock at the end and data always at the start.
        data_offset_bytes: data_offset_bytes.filter(|_| metadata.starts_with("1.")),
        member_size_bytes: number("component_size").map(|kib| kib * 1024),
        member,
        table: None,
    })
}

/// The word that `mdadm --create --layout` takes for the kernel's number.
fn layout_name(level: &str, number: u64) -> Option<String> {
    let parity = ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric"];
    match level {
        "raid5" | "raid6" => usize::try_from(number).ok().and_then(|n| match n {
            0..=3 => Some(parity[n].to_owned()),
            4 => Some("parity-first".to_owned()),
            5 => Some("parity-last".to_owned()),
            // RAID 6 as it is after a conversion from RAID 5: Q on a disk of its own.
            16..=19 => Some(format!("{}-6", parity[n - 16])),
            20 => Some("parity-first-6".to_owned()),
            _ => None,
        }),
        "raid10" => {
            let (near, far) = (number & 0xff, number >> 8 & 0xff);
            let offset = number >> 16 & 1 == 1;
            Some(match (near, far, offset) {
                (near, 1, _) => format!("n{near}"),
                (_, far, true) => format!("o{far}"),
                (_, far, false) => format!("f{far}"),
            })
        }
        _ => None,
    }
}
