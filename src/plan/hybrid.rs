//! The entries of a hybrid MBR, which shows some partitions of a GPT to systems that know none.

use super::Problem;
use super::step::WriteTable;
use super::validate::mbr_type;
use crate::layout::{HybridEntry, HybridMbr, Layout, Table};

/// The type of what protects the partitions that no entry shows.
const PROTECTIVE: u8 = 0xee;
/// What can be done where the entries can't be made.
pub const HINT: &str =
    "choose a disk of the recorded size, on which no partition moves, with --map";

/// An entry where it will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// 1 to 4.
    pub slot: u32,
    pub active: bool,
    pub kind: u8,
    pub start_bytes: u64,
    pub size_bytes: u64,
}

/// The hybrid MBR of a table that has one.
pub fn of(table: &Table) -> Option<&HybridMbr> {
    match table {
        Table::Gpt { hybrid, .. } => hybrid.as_deref(),
        Table::Mbr { .. } => None,
    }
}

/// Refuses what shows no partition where partitions lie elsewhere than they did.
pub fn check(scope: &Layout, layout: &Layout, problems: &mut Vec<Problem>) {
    for disk in &scope.disk {
        let shows_none = |entry: &&HybridEntry| {
            entry.partition.is_none() && entry.size_bytes > 0 && !is_protective(entry)
        };
        let hybrid = disk.table.as_ref().and_then(of);
        let Some(entry) = hybrid.and_then(|mbr| mbr.entry.iter().find(shows_none)) else {
            continue;
        };
        let moved = scope.partition.iter().filter(|p| p.disk == disk.id).find(|was| {
            let place = (was.start_bytes, was.size_bytes);
            layout
                .partition
                .iter()
                .any(|p| p.id == was.id && (p.start_bytes, p.size_bytes) != place)
        });
        if let Some(moved) = moved {
            let what = format!(
                "entry {} of the hybrid MBR of {} is none of its partitions, and {} can't stay as \
                 it was",
                entry.slot, disk.name, moved.name
            );
            problems.push(Problem::new(what, HINT));
        }
    }
}

fn is_protective(entry: &HybridEntry) -> bool {
    mbr_type(&entry.type_code) == Some(PROTECTIVE)
}

/// The entries for these partitions: they go with them, and what protects the rest ends before them.
pub fn entries(step: &WriteTable) -> Result<Vec<Entry>, String> {
    let Some(hybrid) = of(&step.table) else { return Ok(Vec::new()) };
    // One of no size shows nothing to anyone; older records have such.
    let recorded: Vec<_> = hybrid.entry.iter().filter(|entry| entry.size_bytes > 0).collect();
    let mut out = Vec::new();
    for entry in &recorded {
        let slot = entry.slot;
        let kind = mbr_type(&entry.type_code)
            .filter(|_| (1..=4).contains(&slot))
            .ok_or_else(|| format!("entry {slot} of its hybrid MBR is none"))?;
        let (mut start_bytes, mut size_bytes) = (entry.start_bytes, entry.size_bytes);
        if let Some(number) = entry.partition {
            let shown = step.partitions.iter().find(|part| part.number == number);
            let shown = shown.ok_or_else(|| {
                format!(
                    "entry {slot} of its hybrid MBR shows partition {number}, which is not there"
                )
            })?;
            (start_bytes, size_bytes) = (shown.start_bytes, shown.size_bytes);
        }
        let most = u64::from(u32::MAX) * u64::from(step.sector_bytes);
        if start_bytes > most || size_bytes > most {
            return Err(format!(
                "entry {slot} of its hybrid MBR lies beyond what an MBR can address"
            ));
        }
        out.push(Entry { slot, active: entry.active, kind, start_bytes, size_bytes });
    }
    protect(&recorded, &mut out, step.size_bytes);
    out.retain(|entry| entry.size_bytes > 0);
    let beyond = out.iter().find(|e| e.start_bytes.saturating_add(e.size_bytes) > step.size_bytes);
    match beyond {
        Some(entry) => Err(format!("entry {} of its hybrid MBR ends behind the disk", entry.slot)),
        None => Ok(out),
    }
}

fn protect(recorded: &[&HybridEntry], entries: &mut [Entry], disk_bytes: u64) {
    let shown: Vec<(u64, u64)> = recorded
        .iter()
        .zip(entries.iter())
        .filter(|(recorded, _)| recorded.partition.is_some())
        .map(|(recorded, entry)| (recorded.start_bytes, entry.start_bytes))
        .collect();
    for (recorded, entry) in recorded.iter().zip(entries) {
        if recorded.partition.is_some() || !is_protective(recorded) {
            continue;
        }
        // One that was over a partition as well stays as it was made.
        let end = recorded.start_bytes.saturating_add(recorded.size_bytes);
        let behind = shown.iter().filter(|(was, _)| *was >= end).map(|(_, is)| *is).min();
        let limit = behind.unwrap_or(disk_bytes).min(disk_bytes);
        entry.size_bytes = entry.size_bytes.min(limit.saturating_sub(entry.start_bytes));
    }
}
