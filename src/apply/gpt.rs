//! The bytes of a GUID partition table (UEFI specification 2.10, chapter 5).
//!
//! Written here, and not with the `gpt` crate, because that renumbers the partitions; the crate
//! reads our tables back in the tests.

use anyhow::{Context, Result, bail};
use flate2::Crc;
use uuid::Uuid;

use super::mbr::{Pieces, put, raw_entry};
use crate::layout::{Partition, Table};
use crate::plan::hybrid;
use crate::plan::step::WriteTable;

const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: u32 = 92;

struct Geometry {
    guid: Uuid,
    sectors: u64,
    entries: u32,
    entry_sectors: u64,
    first_usable: u64,
    last_usable: u64,
}

/// Protective MBR, both headers, both arrays of entries.
pub fn image(step: &WriteTable, size_bytes: u64) -> Result<Pieces> {
    let Table::Gpt { guid, entries, first_usable_lba, last_usable_lba, .. } = &step.table else {
        bail!("{} has no GPT", step.name);
    };
    let sector = u64::from(step.sector_bytes);
    let array = array(step, *entries)?;
    let g = Geometry {
        guid: *guid,
        sectors: size_bytes / sector,
        entries: *entries,
        entry_sectors: (array.len() as u64).div_ceil(sector),
        first_usable: *first_usable_lba,
        last_usable: *last_usable_lba,
    };
    if g.first_usable < 2 + g.entry_sectors
        || g.last_usable + g.entry_sectors + 1 >= g.sectors
        || g.last_usable < g.first_usable
    {
        bail!(
            "a GPT with {} entries and usable sectors {} to {} does not fit on {} ({} sectors)",
            g.entries,
            g.first_usable,
            g.last_usable,
            step.name,
            g.sectors
        );
    }
    let last = g.sectors - 1;
    let second_array = last - g.entry_sectors;
    let crc = crc32(&array);
    let sector_len = usize::try_from(sector)?;
    Ok(vec![
        // The first table last: a disk is not half valid while this is written.
        (last * sector, header(&g, last, 1, second_array, crc, sector_len)),
        (second_array * sector, array.clone()),
        (2 * sector, array),
        (sector, header(&g, 1, last, 2, crc, sector_len)),
        (0, first_sector(step, g.sectors, sector_len)?),
    ])
}

fn header(g: &Geometry, here: u64, other: u64, array: u64, crc: u32, len: usize) -> Vec<u8> {
    let make = |header_crc: u32| {
        let mut out = Vec::with_capacity(len);
        out.extend(b"EFI PART");
        out.extend(0x0001_0000_u32.to_le_bytes());
        out.extend(HEADER_BYTES.to_le_bytes());
        out.extend(header_crc.to_le_bytes());
        out.extend([0; 4]);
        for lba in [here, other, g.first_usable, g.last_usable] {
            out.extend(lba.to_le_bytes());
        }
        out.extend(g.guid.to_bytes_le());
        out.extend(array.to_le_bytes());
        out.extend(g.entries.to_le_bytes());
        out.extend(128_u32.to_le_bytes());
        out.extend(crc.to_le_bytes());
        out
    };
    let mut out = make(crc32(&make(0)));
    out.resize(len, 0);
    out
}

fn array(step: &WriteTable, entries: u32) -> Result<Vec<u8>> {
    let sector = u64::from(step.sector_bytes);
    let mut out = vec![0; usize::try_from(entries)? * ENTRY_BYTES];
    for part in &step.partitions {
        let index = part.number.checked_sub(1).filter(|i| *i < entries);
        let index = index.with_context(|| format!("slot {} of {entries}", part.number))?;
        let at = usize::try_from(index)? * ENTRY_BYTES;
        out[at..at + ENTRY_BYTES].copy_from_slice(&entry(part, sector)?);
    }
    Ok(out)
}

fn entry(part: &Partition, sector: u64) -> Result<[u8; ENTRY_BYTES]> {
    let kind = Uuid::parse_str(&part.type_code)
        .with_context(|| format!("the type of partition {}", part.name))?;
    let first = part.start_bytes / sector;
    let last = (part.start_bytes + part.size_bytes) / sector - 1;
    let mut out = [0; ENTRY_BYTES];
    out[0..16].copy_from_slice(&kind.to_bytes_le());
    out[16..32].copy_from_slice(&part.uuid.unwrap_or_else(Uuid::new_v4).to_bytes_le());
    out[32..40].copy_from_slice(&first.to_le_bytes());
    out[40..48].copy_from_slice(&last.to_le_bytes());
    out[48..56].copy_from_slice(&part.attributes.to_le_bytes());
    for (i, unit) in part.label.encode_utf16().take(36).enumerate() {
        out[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
    }
    Ok(out)
}

fn first_sector(step: &WriteTable, sectors: u64, len: usize) -> Result<Vec<u8>> {
    let mut out = protective_mbr(sectors, len, step.bios_boots);
    let Some(mbr) = hybrid::of(&step.table) else { return Ok(out) };
    out[440..444].copy_from_slice(&mbr.signature.to_le_bytes());
    out[446..510].fill(0);
    for entry in hybrid::entries(step).map_err(anyhow::Error::msg)? {
        let hybrid::Entry { slot, active, kind, start_bytes, size_bytes } = entry;
        let sector = u64::from(step.sector_bytes);
        let bytes = raw_entry(active, kind, start_bytes, size_bytes, 0, sector)?;
        put(&mut out, usize::try_from(slot - 1)?, &bytes);
    }
    Ok(out)
}

/// One partition of type EE over the whole disk, or as much of it as an MBR can say.
fn protective_mbr(sectors: u64, len: usize, active: bool) -> Vec<u8> {
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let mut out = vec![0; len];
    let flag = if active { 0x80 } else { 0 };
    out[446..454].copy_from_slice(&[flag, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    out[454..458].copy_from_slice(&1_u32.to_le_bytes());
    out[458..462].copy_from_slice(&size.to_le_bytes());
    out[510..512].copy_from_slice(&[0x55, 0xaa]);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
