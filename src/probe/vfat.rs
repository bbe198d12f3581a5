//! vfat: read from the boot sector, see "FAT: General Overview of On-Disk Format" (Microsoft).

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, ensure};

use crate::layout::VfatOptions;

/// What mkfs.fat(8) makes by itself on a disk.
const ROOT_ENTRIES: u64 = 512;
const ENTRY_BYTES: u64 = 32;

/// A vfat filesystem's geometry and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    pub options: VfatOptions,
    pub size_bytes: u64,
}

/// Reads the boot sector of `device`.
pub fn read(device: &str) -> Result<Geometry> {
    let mut sector = [0; 512];
    File::open(device)
        .with_context(|| format!("opening {device}"))?
        .read_exact(&mut sector)
        .with_context(|| format!("reading the boot sector of {device}"))?;
    parse(&sector).with_context(|| format!("reading the boot sector of {device}"))
}

/// Parses a boot sector.
pub fn parse(sector: &[u8; 512]) -> Result<Geometry> {
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    let sector_bytes = u16_at(11);
    let sectors_per_cluster = u64::from(sector[13]);
    let (reserved, fats) = (u16_at(14), u64::from(sector[16]));
    ensure!(
        sector_bytes.is_power_of_two()
            && (512..=4096).contains(&sector_bytes)
            && sectors_per_cluster.is_power_of_two()
            && (1..=2).contains(&fats),
        "this is no FAT boot sector"
    );
    // The 16 bit fields are zero where the value does not fit, or on FAT32.
    let root_sectors = (u16_at(17) * ENTRY_BYTES).div_ceil(sector_bytes);
    let sectors = [u16_at(19), u32_at(32)].into_iter().find(|n| *n > 0).unwrap_or(0);
    let fat_sectors = [u16_at(22), u32_at(36)].into_iter().find(|n| *n > 0).unwrap_or(0);
    let data_sectors = sectors
        .checked_sub(reserved + fats * fat_sectors + root_sectors)
        .context("the FAT boot sector describes more tables than there is room for")?;
    // FAT32 is told by its empty 16 bit FAT size and root directory, the others by the number of
    // clusters alone.
    let fat_bits = if u16_at(22) == 0 && u16_at(17) == 0 {
        32
    } else if data_sectors / sectors_per_cluster < 4085 {
        12
    } else {
        16
    };
    let cluster_bytes = sectors_per_cluster * sector_bytes;
    // mkfs.fat fills up a large cluster.
    let by_itself = |entries: u64| {
        let bytes = entries * ENTRY_BYTES;
        entries == ROOT_ENTRIES || bytes == cluster_bytes.max(ROOT_ENTRIES * ENTRY_BYTES)
    };
    let options = VfatOptions {
        fat_bits,
        cluster_bytes,
        sector_bytes,
        reserved_sectors: reserved,
        fats: u32::from(sector[16]),
        root_entries: Some(u16_at(17)).filter(|n| *n > 0 && !by_itself(*n)),
    };
    Ok(Geometry { options, size_bytes: sectors * sector_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run::Cmd;

    #[test]
    fn as_many_files_in_the_root_as_mkfs_makes_by_itself_are_not_recorded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(160 << 20).unwrap();
        let path = file.path().to_string_lossy().into_owned();
        for (options, entries) in [
            (&["-F", "16"][..], None),
            (&["-F", "16", "-s", "64"], None),
            (&["-F", "12", "-s", "128"], None),
            (&["-F", "16", "-s", "16", "-r", "1024"], Some(1024)),
        ] {
            Cmd::new("mkfs.vfat").args(options).arg(&path).run().unwrap();
            assert_eq!(read(&path).unwrap().options.root_entries, entries, "{options:?}");
        }
    }
}
