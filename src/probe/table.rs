//! Partition tables, as they are on the disk: GPT and MBR with its chain of logical partitions.
//!
//! The bytes are read rather than the output of a program, because a table's identity (slots with
//! gaps, attributes, where each EBR lies) has to come back as it was.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail, ensure};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use crate::layout::{HybridEntry, HybridMbr, Id, Partition, PartitionKind, Table, partition_name};

/// A disk has no more logical partitions than this (the kernel's limit is 256 minors a disk); a
/// longer chain is a loop.
const MAX_LOGICAL: usize = 256;
/// The MBR type of what is a GPT's.
const PROTECTIVE: u8 = 0xee;

/// What a disk's table says. Partitions carry the kernel's usual names.
#[derive(Debug, Clone, PartialEq)]
pub struct TableFound {
    pub table: Table,
    pub partitions: Vec<Partition>,
    /// What of the table would not come back, for people.
    pub notes: Vec<String>,
}

/// Reads the table of the kind that libblkid calls `pttype` from the whole disk `file`.
///
/// # Errors
/// The table can't be read, is damaged, or is of a kind that is not supported.
pub fn read(file: &mut File, pttype: &str, disk: &str, sector_bytes: u32) -> Result<TableFound> {
    match pttype {
        "gpt" => read_gpt(file, disk, sector_bytes),
        "dos" => read_mbr(file, disk, sector_bytes),
        other => {
            bail!("/dev/{disk} has a partition table of the kind {other}, which rr can't make")
        }
    }
}

fn read_gpt(file: &mut File, disk: &str, sector_bytes: u32) -> Result<TableFound> {
    let block = LogicalBlockSize::try_from(u64::from(sector_bytes))
        .with_context(|| format!("/dev/{disk} has sectors of {sector_bytes} bytes"))?;
    refuse_unusual_entries(file, disk, sector_bytes)?;
    let mbr = mbrman::MBRHeader::read_from(file)
        .with_context(|| format!("reading the protective MBR of /dev/{disk}"))?;
    let found = GptConfig::new()
        .logical_block_size(block)
        .open_from_device(file.try_clone().context("duplicating a file handle")?)
        .with_context(|| format!("reading the GPT of /dev/{disk}"))?;
    if let Err(error) = found.primary_header() {
        log::warn!("the primary GPT of /dev/{disk} is damaged, its backup is read: {error}");
    }
    let header = found.header();
    let sector = u64::from(sector_bytes);
    let mut partitions = Vec::new();
    for (&number, entry) in found.partitions() {
        if !entry.is_used() {
            continue;
        }
        let sectors = entry
            .last_lba
            .checked_sub(entry.first_lba)
            .and_then(|n| n.checked_add(1))
            .with_context(|| format!("partition {number} of /dev/{disk} ends before it starts"))?;
        let name = partition_name(disk, number);
        partitions.push(Partition {
            id: Id::partition(&name),
            disk: Id::disk(disk),
            number,
            name,
            kind: PartitionKind::Gpt,
            start_bytes: bytes(entry.first_lba, sector, disk, number)?,
            size_bytes: bytes(sectors, sector, disk, number)?,
            type_code: entry.part_type_guid.guid.to_string(),
            uuid: Some(entry.part_guid),
            label: entry.name.clone(),
            attributes: entry.flags,
            active: false,
            ebr_bytes: None,
        });
    }
    let table = Table::Gpt {
        guid: header.disk_guid,
        entries: header.num_parts,
        first_usable_lba: header.first_usable,
        last_usable_lba: header.last_usable,
        hybrid: hybrid(&mbr, &partitions, sector)?.map(Box::new),
    };
    Ok(TableFound { table, partitions, notes: Vec::new() })
}

/// What the MBR shows, if it does not only protect the disk.
fn hybrid(
    mbr: &mbrman::MBRHeader,
    partitions: &[Partition],
    sector: u64,
) -> Result<Option<HybridMbr>> {
    let used = || mbr.iter().filter(|(_, entry)| is_partition(entry));
    if used().all(|(_, entry)| entry.sys == PROTECTIVE) {
        return Ok(None);
    }
    let entry = used().map(|(slot, entry)| {
        let start_bytes = u64::from(entry.starting_lba) * sector;
        let size_bytes = u64::from(entry.sectors) * sector;
        let is_it = |p: &&Partition| p.start_bytes == start_bytes && p.size_bytes == size_bytes;
        anyhow::Ok(HybridEntry {
            slot: u32::try_from(slot).context("numbering an entry of a hybrid MBR")?,
            type_code: format!("{:#04x}", entry.sys),
            active: entry.is_active(),
            partition: partitions.iter().find(is_it).map(|p| p.number),
            start_bytes,
            size_bytes,
        })
    });
    let entry = entry.collect::<Result<Vec<_>>>()?;
    Ok(Some(HybridMbr { signature: u32::from_le_bytes(mbr.disk_signature), entry }))
}

/// The gpt crate panics where entries are not 128 bytes long, which the specification allows.
fn refuse_unusual_entries(file: &mut File, disk: &str, sector_bytes: u32) -> Result<()> {
    let end = file.seek(SeekFrom::End(0)).context("seeking to the end of a disk")?;
    let sector = u64::from(sector_bytes);
    for offset in [sector, end.saturating_sub(sector)] {
        let mut header = [0; 92];
        file.seek(SeekFrom::Start(offset)).context("seeking to a GPT header")?;
        if file.read_exact(&mut header).is_err() || &header[..8] != b"EFI PART" {
            continue;
        }
        let entry_bytes = u32_at(&header, 84);
        ensure!(
            entry_bytes == 128,
            "the GPT of /dev/{disk} has entries of {entry_bytes} bytes; rr knows only 128"
        );
    }
    Ok(())
}

fn read_mbr(file: &mut File, disk: &str, sector_bytes: u32) -> Result<TableFound> {
    let mbr = mbrman::MBRHeader::read_from(file)
        .with_context(|| format!("reading the MBR of /dev/{disk}"))?;
    let sector = u64::from(sector_bytes);
    let make = |number: u32, kind, start_lba: u64, sectors: u64, sys: u8, active| {
        let name = partition_name(disk, number);
        anyhow::Ok(Partition {
            id: Id::partition(&name),
            disk: Id::disk(disk),
            number,
            name,
            kind,
            start_bytes: bytes(start_lba, sector, disk, number)?,
            size_bytes: bytes(sectors, sector, disk, number)?,
            type_code: format!("{sys:#04x}"),
            uuid: None,
            label: String::new(),
            attributes: 0,
            active,
            ebr_bytes: None,
        })
    };
    let mut partitions = Vec::new();
    let mut extended = None;
    for (number, entry) in mbr.iter().filter(|(_, e)| is_partition(e)) {
        let number = u32::try_from(number).context("numbering a primary partition")?;
        let kind = if is_extended(entry.sys) {
            extended.get_or_insert(u64::from(entry.starting_lba));
            PartitionKind::Extended
        } else {
            PartitionKind::Primary
        };
        let (start, sectors) = (u64::from(entry.starting_lba), u64::from(entry.sectors));
        partitions.push(make(number, kind, start, sectors, entry.sys, entry.is_active())?);
    }
    let logicals = match extended {
        Some(start) => read_logicals(file, start, sector)
            .with_context(|| format!("reading the logical partitions of /dev/{disk}"))?,
        None => Vec::new(),
    };
    for (number, l) in (5..).zip(logicals) {
        let kind = PartitionKind::Logical;
        let mut partition = make(number, kind, l.start_lba, l.sectors, l.sys, l.active)?;
        partition.ebr_bytes = Some(bytes(l.ebr_lba, sector, disk, number)?);
        partitions.push(partition);
    }
    let table = Table::Mbr { signature: u32::from_le_bytes(mbr.disk_signature) };
    Ok(TableFound { table, partitions, notes: Vec::new() })
}

/// As the kernel reads it: what has no sectors is none.
fn is_partition(entry: &mbrman::MBRPartitionEntry) -> bool {
    entry.is_used() && entry.sectors > 0
}

/// The types that Linux takes for an extended partition (block/partitions/msdos.c).
fn is_extended(sys: u8) -> bool {
    matches!(sys, 0x05 | 0x0f | 0x85)
}

struct Logical {
    ebr_lba: u64,
    start_lba: u64,
    sectors: u64,
    sys: u8,
    active: bool,
}

/// Follows the chain of EBRs. Not done with mbrman, whose arithmetic is in 32 bits and panics on a
/// damaged chain. An EBR's first entry is a partition, relative to that EBR; its second points to
/// the next EBR, relative to the extended partition.
fn read_logicals(file: &mut File, extended_lba: u64, sector_bytes: u64) -> Result<Vec<Logical>> {
    let mut found = Vec::new();
    let mut ebr_lba = extended_lba;
    for _ in 0..MAX_LOGICAL {
        let mut ebr = [0; 512];
        let offset = ebr_lba.checked_mul(sector_bytes).context("an EBR lies beyond any disk")?;
        file.seek(SeekFrom::Start(offset)).context("seeking to an EBR")?;
        file.read_exact(&mut ebr).with_context(|| format!("reading the EBR at {offset}"))?;
        if ebr[510..] != [0x55, 0xaa] {
            // An empty extended partition needs no EBR.
            ensure!(ebr_lba == extended_lba, "there is no EBR at {offset}, where one should be");
            return Ok(found);
        }
        let entry = |at: usize| {
            (
                ebr[at],
                ebr[at + 4],
                u64::from(u32_at(&ebr, at + 8)),
                u64::from(u32_at(&ebr, at + 12)),
            )
        };
        let (boot, sys, start, sectors) = entry(446);
        if sys != 0 && sectors > 0 {
            found.push(Logical {
                ebr_lba,
                start_lba: ebr_lba + start,
                sectors,
                sys,
                active: boot & 0x80 != 0,
            });
        }
        let (_, next_sys, next, next_sectors) = entry(462);
        if !is_extended(next_sys) || next_sectors == 0 {
            return Ok(found);
        }
        ebr_lba = extended_lba + next;
    }
    bail!("the chain of EBRs does not end after {MAX_LOGICAL} links")
}

fn bytes(sectors: u64, sector_bytes: u64, disk: &str, number: u32) -> Result<u64> {
    sectors
        .checked_mul(sector_bytes)
        .with_context(|| format!("partition {number} of /dev/{disk} lies beyond any disk"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
