//! LVM: `lvm fullreport` for what there is, `vgcfgbackup` for the text to recreate it from.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::layout::{Id, Lv, LvSegment, Pv, ThinPool, Vg};
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
    let report = lvm(&["fullreport", "-a", "--reportformat", "json", "--units", "b", "--nosuffix"])
        .text()?;
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

/// lvm(8), which otherwise complains of files that a program before it left open.
pub(crate) fn lvm(args: &[&str]) -> Cmd {
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
    lv_layout: String,
    #[serde(default)]
    pool_lv: String,
    #[serde(default)]
    origin: String,
    #[serde(default)]
    lv_metadata_size: String,
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
    #[serde(default)]
    chunk_size: String,
    #[serde(default)]
    discards: String,
    #[serde(default)]
    zero: String,
}

/// Parses `lvm fullreport -a --reportformat json --units b --nosuffix`.
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
    let rows_of = |lv: &LvRow| segments.get(lv.lv_uuid.as_str()).cloned().unwrap_or_default();
    for lv in report.lv.iter().filter(|lv| is_visible(lv)) {
        let rows = rows_of(lv);
        let mut volume = read_volume(lv, &rows, row, id_of)?;
        // Where the data of a pool or below a cache is, its hidden part tells.
        let suffixes = match volume.kind.as_str() {
            "thin-pool" => &["_tdata"][..],
            "cache" | "writecache" => &["_corig", "_wcorig"][..],
            _ => &[],
        };
        let names: Vec<_> = suffixes.iter().map(|s| format!("[{}{s}]", lv.lv_name)).collect();
        if let Some(part) = report.lv.iter().find(|part| names.contains(&part.lv_name)) {
            volume.segment = read_segments(&rows_of(part), id_of)?;
        }
        if volume.kind == "thin-pool" {
            let spare = report.lv.iter().any(|lv| lv.lv_role.ends_with("pool,spare"));
            volume.thin_pool = Some(read_pool(lv, &rows, spare)?);
        }
        found.lv.push(volume);
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

/// Hidden parts of a volume stand in brackets and have no public role; nor have thin pools.
fn is_visible(lv: &LvRow) -> bool {
    let private = lv.lv_role.split(',').any(|role| role == "private");
    !lv.lv_name.starts_with('[') && (!private || lv.lv_layout == "thin,pool")
}

fn read_pool(lv: &LvRow, rows: &[&SegRow], spare: bool) -> Result<ThinPool> {
    let row = rows.first().context("a thin pool without a segment")?;
    Ok(ThinPool {
        metadata_bytes: number(&lv.lv_metadata_size, "lv_metadata_size")?,
        chunk_bytes: number(&row.chunk_size, "chunk_size")?,
        discards: row.discards.clone(),
        zero: row.zero == "zero",
        spare,
    })
}

fn read_volume(
    lv: &LvRow,
    rows: &[&SegRow],
    vg: &VgRow,
    id_of: &dyn Fn(&str) -> Option<Id>,
) -> Result<Lv> {
    let segment = read_segments(rows, id_of)?;
    // Of a classic snapshot the segments look like a linear volume's.
    let kind = if lv.lv_role.split(',').any(|role| role == "thicksnapshot") {
        "snapshot".to_owned()
    } else {
        segment.first().map_or_else(|| "unknown".to_owned(), |s| s.kind.clone())
    };
    let snapshot = lv.lv_role.split(',').any(|role| role == "snapshot");
    Ok(Lv {
        id: Id::lv(&vg.vg_name, &lv.lv_name),
        vg: Id::vg(&vg.vg_name),
        name: lv.lv_name.clone(),
        uuid: lv.lv_uuid.clone(),
        size_bytes: number(&lv.lv_size, "lv_size")?,
        pool: if kind == "thin" { lv.pool_lv.clone() } else { String::new() },
        origin: if snapshot { lv.origin.clone() } else { String::new() },
        kind,
        tags: tags(&lv.lv_tags),
        segment,
        thin_pool: None,
    })
}

fn read_segments(rows: &[&SegRow], id_of: &dyn Fn(&str) -> Option<Id>) -> Result<Vec<LvSegment>> {
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
    Ok(segment.into_iter().map(|(_, segment)| segment).collect())
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
