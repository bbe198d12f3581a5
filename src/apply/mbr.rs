//! The bytes of an MBR partition table with its chain of extended boot records.
//!
//! Written here, and not with the `mbrman` crate, because that computes the place of an EBR in 32
//! bits; the crate reads our tables back in the tests.

use anyhow::{Context, Result, bail};

use crate::layout::{Partition, PartitionKind, Table};
use crate::plan::step::WriteTable;
use crate::plan::validate::mbr_type;

/// Bytes and where they go.
pub type Pieces = Vec<(u64, Vec<u8>)>;

const ENTRIES_AT: usize = 446;
/// The link from one EBR to the next has this type.
const LINK: u8 = 0x05;

pub fn image(step: &WriteTable) -> Result<Pieces> {
    let Table::Mbr { signature } = &step.table else {
        bail!("{} has no MBR", step.name);
    };
    let sector = u64::from(step.sector_bytes);
    let mut mbr = record();
    mbr[440..444].copy_from_slice(&signature.to_le_bytes());
    for part in &step.partitions {
        if part.kind == PartitionKind::Logical {
            continue;
        }
        let index = part.number.checked_sub(1).filter(|i| *i < 4);
        let index = index.with_context(|| format!("primary partition {}", part.number))?;
        put(&mut mbr, usize::try_from(index)?, &entry(part, part.start_bytes, 0, sector)?);
    }
    let mut pieces = Vec::new();
    if let Some(extended) = step.partitions.iter().find(|p| p.kind == PartitionKind::Extended) {
        pieces = chain(step, extended, sector)?;
    }
    pieces.push((0, mbr));
    Ok(pieces)
}

/// An EBR for each logical partition, at its recorded place.
fn chain(step: &WriteTable, extended: &Partition, sector: u64) -> Result<Pieces> {
    let mut logical: Vec<_> =
        step.partitions.iter().filter(|p| p.kind == PartitionKind::Logical).collect();
    logical.sort_by_key(|p| p.number);
    let ebr_of = |p: &Partition| p.ebr_bytes.with_context(|| format!("{} has no EBR", p.name));
    let link = |next: Option<&&Partition>| -> Result<[u8; 16]> {
        let Some(next) = next else { return Ok([0; 16]) };
        let ebr = ebr_of(next)?;
        let bytes = (next.start_bytes + next.size_bytes)
            .checked_sub(ebr)
            .with_context(|| format!("the EBR of {} lies behind it", next.name))?;
        raw_entry(false, LINK, ebr, bytes, extended.start_bytes, sector)
    };
    let mut pieces = Vec::new();
    if logical.first().map(|p| ebr_of(p)).transpose()? != Some(extended.start_bytes) {
        // The chain starts with a record that describes no partition.
        let mut ebr = record();
        put(&mut ebr, 1, &link(logical.first())?);
        pieces.push((extended.start_bytes, ebr));
    }
    for (i, part) in logical.iter().enumerate() {
        let at = ebr_of(part)?;
        let mut ebr = record();
        put(&mut ebr, 0, &entry(part, part.start_bytes, at, sector)?);
        put(&mut ebr, 1, &link(logical.get(i + 1))?);
        pieces.push((at, ebr));
    }
    Ok(pieces)
}

fn record() -> Vec<u8> {
    let mut out = vec![0; 512];
    out[510..512].copy_from_slice(&[0x55, 0xaa]);
    out
}

pub(super) fn put(record: &mut [u8], index: usize, entry: &[u8; 16]) {
    let at = ENTRIES_AT + index * 16;
    record[at..at + 16].copy_from_slice(entry);
}

fn entry(part: &Partition, start: u64, base: u64, sector: u64) -> Result<[u8; 16]> {
    let kind = mbr_type(&part.type_code)
        .with_context(|| format!("{:?} is not the type of an MBR partition", part.type_code))?;
    raw_entry(part.active, kind, start, part.size_bytes, base, sector)
}

/// An entry whose start is told from `base`, all in bytes.
pub(super) fn raw_entry(
    active: bool,
    kind: u8,
    start: u64,
    size: u64,
    base: u64,
    sector: u64,
) -> Result<[u8; 16]> {
    let from_base = start.checked_sub(base).context("a partition before its base")?;
    let first =
        u32::try_from(from_base / sector).context("a partition beyond what an MBR holds")?;
    let count = u32::try_from(size / sector).context("a partition larger than an MBR holds")?;
    let last = ((start + size) / sector).checked_sub(1).context("an entry of no sectors")?;
    let mut out = [0; 16];
    out[0] = if active { 0x80 } else { 0 };
    out[1..4].copy_from_slice(&chs(start / sector));
    out[4] = kind;
    out[5..8].copy_from_slice(&chs(last));
    out[8..12].copy_from_slice(&first.to_le_bytes());
    out[12..16].copy_from_slice(&count.to_le_bytes());
    Ok(out)
}

/// The old cylinder, head and sector address by the usual geometry of 255 heads and 63 sectors.
fn chs(lba: u64) -> [u8; 3] {
    let (cylinder, rest) = (lba / (255 * 63), lba % (255 * 63));
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    let byte = |n: u64| u8::try_from(n & 0xff).unwrap_or(0xff);
    [byte(rest / 63), byte(rest % 63 + 1) | byte(cylinder >> 2 & 0xc0), byte(cylinder)]
}
