//! LVM: `lvm fullreport` for what there is, `vgcfgbackup` for the text to recreate it from.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::layout::{Id, Lv, LvSegment, Pv, Vg};
use crate::sys::run::Cmd;

/// What LVM has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub vg: Vec<Vg>,
    pub lv: Vec<Lv>,
    /// What would not come back, and why.
    pub notes: Vec<(String, String)>,
}

/// Asks lvm about all groups, active or not. `id_of` knows devices by their path.
pub fn read(id_of: &dyn Fn(&str) -> Option<Id>) -> Result<Found> {
    let report =
        lvm(&["fullreport", "--reportformat", "json", "--units", "b", "--nosuffix"]).text()?;
    let mut found = parse(&report, id_of)?;
    for vg in &mut found.vg {
        match backup(&vg.name) {
            Ok(text) => vg.metadata = text,
            Err(error) => found.notes.push((
                format!("metadata of the volume group {}", vg.name),
                format!("vgcfgbackup failed: {error:#}"),
            )),
        }
    }
    Ok(found)
}

fn lvm(args: &[&str]) -> Cmd {
    Cmd::new("lvm").args(args).env("LVM_SUPPRESS_FD_WARNINGS", "1")
}

fn backup(vg: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    lvm(&["vgcfgbackup", "-f"]).arg(file.path()).arg(vg).run()?;
    std::fs::read_to_string(file.path()).context("reading what vgcfgbackup wrote")
}

#[derive(Deserialize)]
struct FullReport {
    report: Vec<Report>,
}

/// A volume group, or the physical volumes that are in none.
#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    vg: Vec<VgRow>,
    #[serde(default)]
    pv: Vec<PvRow>,
    #[serde(default)]
    lv: Vec<LvRow>,
    #[serde(default)]
    seg: Vec<SegRow>,
}

#[derive(Deserialize)]
struct VgRow {
    vg_name: String,
    vg_uuid: String,
    vg_extent_size: String,
    vg_tags: String,
    vg_exported: String,
}

#[derive(Deserialize)]
struct PvRow {
    pv_name: String,
    pv_uuid: String,
    dev_size: String,
    pe_start: String,
    pv_pe_count: String,
    pv_tags: String,
    pv_missing: String,
}

#[derive(Deserialize)]
struct LvRow {
    lv_uuid: String,
    lv_name: String,
    lv_size: String,
    lv_tags: String,
    lv_role: String,
}

#[derive(Deserialize)]
struct SegRow {
    lv_uuid: String,
    segtype: String,
    stripes: String,
    stripe_size: String,
    seg_start_pe: String,
    seg_size_pe: String,
    seg_pe_ranges: String,
}

/// Parses `lvm fullreport --reportformat json --units b --nosuffix`.
pub fn parse(text: &str, id_of: &dyn Fn(&str) -> Option<Id>) -> Result<Found> {
    let parsed: FullReport =
        serde_json::from_str(text).context("parsing the output of lvm fullreport")?;
    let mut found = Found::default();
    for report in parsed.report {
        match report.vg.first() {
            Some(vg) => read_group(vg, &report, id_of, &mut found)
                .with_context(|| format!("reading the volume group {}", vg.vg_name))?,
            None => found.notes.extend(report.pv.iter().map(|pv| {
                (pv.pv_name.clone(), "a physical volume that is in no volume group".to_owned())
            })),
        }
    }
    // lvm's order is that in which it found them.
    found.vg.sort_by(|a, b| a.name.cmp(&b.name));
    found.lv.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

fn read_group(
    row: &VgRow,
    report: &Report,
    id_of: &dyn Fn(&str) -> Option<Id>,
    found: &mut Found,
) -> Result<()> {
    let id = Id::vg(&row.vg_name);
    // A volume that lvm does not find, or that is on what rr does not know, keeps a name that no
    // device has: a plan says then what is wrong.
    let device = |name: &str, uuid: &str| {
        id_of(name).unwrap_or_else(|| Id(format!("missing:{name}:{uuid}")))
    };
    let mut pvs = Vec::new();
    for pv in &report.pv {
        if !pv.pv_missing.is_empty() {
            let why = format!("a physical volume of {} is missing", row.vg_name);
            found.notes.push((pv.pv_name.clone(), why));
        }
        pvs.push(Pv {
            on: device(&pv.pv_name, &pv.pv_uuid),
            uuid: pv.pv_uuid.clone(),
            size_bytes: number(&pv.dev_size, "dev_size")?,
            pe_start_bytes: number(&pv.pe_start, "pe_start")?,
            extents: number(&pv.pv_pe_count, "pv_pe_count")?,
            tags: tags(&pv.pv_tags),
        });
    }
    if !row.vg_exported.is_empty() {
        found.notes.push((row.vg_name.clone(), "the volume group is exported".to_owned()));
    }
    let mut segments: BTreeMap<&str, Vec<&SegRow>> = BTreeMap::new();
    for segment in &report.seg {
        segments.entry(&segment.lv_uuid).or_default().push(segment);
    }
    for lv in report.lv.iter().filter(|lv| is_visible(lv)) {
        let rows = segments.remove(lv.lv_uuid.as_str()).unwrap_or_default();
        found.lv.push(read_volume(lv, &rows, row, id_of)?);
    }
    found.vg.push(Vg {
        id,
        name: row.vg_name.clone(),
        uuid: row.vg_uuid.clone(),
        extent_bytes: number(&row.vg_extent_size, "vg_extent_size")?,
        tags: tags(&row.vg_tags),
        pv: pvs,
        metadata: String::new(),
    });
    Ok(())
}

/// Hidden parts of a volume stand in brackets and have no public role.
fn is_visible(lv: &LvRow) -> bool {
    !lv.lv_name.starts_with('[') && !lv.lv_role.split(',').any(|role| role == "private")
}

fn read_volume(
    lv: &LvRow,
    rows: &[&SegRow],
    vg: &VgRow,
    id_of: &dyn Fn(&str) -> Option<Id>,
) -> Result<Lv> {
    let mut segment = Vec::new();
    for row in rows {
        let start = number(&row.seg_start_pe, "seg_start_pe")?;
        let stripes =
            u32::try_from(number(&row.stripes, "stripes")?).context("counting stripes")?;
        segment.push((
            start,
            LvSegment {
                kind: row.segtype.clone(),
                extents: number(&row.seg_size_pe, "seg_size_pe")?,
                stripes,
                stripe_bytes: number(&row.stripe_size, "stripe_size")?,
                on: row.seg_pe_ranges.split_whitespace().map(|r| range_with_id(r, id_of)).collect(),
            },
        ));
    }
    segment.sort_by_key(|(start, _)| *start);
    let segment: Vec<LvSegment> = segment.into_iter().map(|(_, segment)| segment).collect();
    // Of a classic snapshot the segments look like a linear volume's.
    let kind = if lv.lv_role.split(',').any(|role| role == "snapshot") {
        "snapshot".to_owned()
    } else {
        segment.first().map_or_else(|| "unknown".to_owned(), |s| s.kind.clone())
    };
    Ok(Lv {
        id: Id::lv(&vg.vg_name, &lv.lv_name),
        vg: Id::vg(&vg.vg_name),
        name: lv.lv_name.clone(),
        uuid: lv.lv_uuid.clone(),
        size_bytes: number(&lv.lv_size, "lv_size")?,
        kind,
        tags: tags(&lv.lv_tags),
        segment,
    })
}

/// `/dev/sda2:0-29` with the device as an [`Id`].
fn range_with_id(range: &str, id_of: &dyn Fn(&str) -> Option<Id>) -> String {
    match range.rsplit_once(':').and_then(|(device, extents)| Some((id_of(device)?, extents))) {
        Some((id, extents)) => format!("{id}:{extents}"),
        None => range.to_owned(),
    }
}

fn number(text: &str, what: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{what} is {text:?}"))
}

fn tags(text: &str) -> Vec<String> {
    text.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// The group and volume that a device-mapper name stands for: `vg--data-root` is `root` in
/// `vg-data`.
pub fn split_dm_name(name: &str) -> Option<(String, String)> {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'-' {
            at += 1;
        } else if bytes.get(at + 1) == Some(&b'-') {
            at += 2;
        } else {
            let plain = |part: &str| part.replace("--", "-");
            return Some((plain(&name[..at]), plain(&name[at + 1..])));
        }
    }
    None
}
