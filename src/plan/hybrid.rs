//! The entries of a hybrid MBR, which shows some partitions of a GPT to systems that know none.

use super::step::WriteTable;
use super::validate::mbr_type;
use crate::layout::{HybridMbr, Table};

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

/// The entries for these partitions: they go with them, and what protects the rest ends before them.
pub fn entries(step: &WriteTable) -> Result<Vec<Entry>, String> {
    let Some(hybrid) = of(&step.table) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for entry in &hybrid.entry {
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
    protect(hybrid, &mut out);
    Ok(out)
}

fn protect(hybrid: &HybridMbr, entries: &mut [Entry]) {
    let shown: Vec<(u64, u64)> = hybrid
        .entry
        .iter()
        .zip(entries.iter())
        .filter(|(recorded, _)| recorded.partition.is_some())
        .map(|(recorded, entry)| (recorded.start_bytes, entry.start_bytes))
        .collect();
    for (recorded, entry) in hybrid.entry.iter().zip(entries) {
        if recorded.partition.is_some() {
            continue;
        }
        // One that was over a partition as well stays as it was made.
        let end = recorded.start_bytes.saturating_add(recorded.size_bytes);
        let behind = shown.iter().filter(|(was, _)| *was >= end).map(|(_, is)| *is).min();
        let room = behind.map_or(u64::MAX, |start| start.saturating_sub(entry.start_bytes));
        entry.size_bytes = entry.size_bytes.min(room);
    }
}
