//! f2fs: read from the superblock and from a checkpoint, see `struct f2fs_super_block` and
//! `struct f2fs_checkpoint` in the kernel's include/linux/f2fs_fs.h. Both are as mkfs.f2fs(8) made
//! them as far as is read here, whatever is mounted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::layout::F2fsOptions;

/// Of a filesystem. (Some kernels know others, of the size of their pages: not those of x86-64.)
const BLOCK_BYTES: usize = 4096;
const SUPER_AT: usize = 1024;
const MAGIC: u32 = 0xf2f5_2010;
/// In the flags of a checkpoint.
const LARGE_NAT_BITMAP: u32 = 0x400;

/// The features by their bits, as mkfs.f2fs(8) calls them.
const FEATURES: &[(u32, &str)] = &[
    (0x1, "encrypt"),
    (0x8, "extra_attr"),
    (0x10, "project_quota"),
    (0x20, "inode_checksum"),
    (0x40, "flexible_inline_xattr"),
    (0x80, "quota"),
    (0x100, "inode_crtime"),
    (0x200, "lost_found"),
    (0x400, "verity"),
    (0x800, "sb_checksum"),
    (0x2000, "compression"),
];
const CASEFOLD: u32 = 0x1000;
/// With these it can't be made again, or not be filled.
const REFUSED: &[(u32, &str)] = &[
    (0x2, "it is for a zoned disk"),
    (0x4000, "it can only be read"),
    (0x8000, "files of it stand for whole devices"),
];

/// Reads the first superblock of `device`, and the first checkpoint.
pub fn read(device: &str) -> Result<F2fsOptions> {
    let at = |offset: u64| -> Result<[u8; BLOCK_BYTES]> {
        let mut block = [0; BLOCK_BYTES];
        let file = File::open(device).with_context(|| format!("opening {device}"))?;
        file.read_exact_at(&mut block, offset)
            .with_context(|| format!("reading {BLOCK_BYTES} bytes of {device} at {offset}"))?;
        Ok(block)
    };
    let first = at(0)?;
    parse(&first, &at).with_context(|| format!("reading the superblock of the f2fs on {device}"))
}

/// Parses the first block of a filesystem, and the block that this one says has a checkpoint.
pub fn parse(
    first: &[u8; BLOCK_BYTES],
    block_at: &dyn Fn(u64) -> Result<[u8; BLOCK_BYTES]>,
) -> Result<F2fsOptions> {
    let superblock = &first[SUPER_AT..];
    let u32_at = |at: usize| u32_of(superblock, at);
    let u16_at = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    ensure!(u32_at(0) == MAGIC, "this is no f2fs");
    ensure!(u32_at(16) == 12, "its blocks do not have {BLOCK_BYTES} bytes");
    if superblock[2201] != 0 {
        bail!("it is on several devices, which rr does not make");
    }
    let bits = u32_at(2180);
    if let Some((_, why)) = REFUSED.iter().find(|(bit, _)| bits & bit != 0) {
        bail!("{why}, which rr does not make");
    }
    let known = FEATURES.iter().fold(CASEFOLD, |known, (bit, _)| known | bit);
    ensure!(bits & !known == 0, "it has features that rr does not know ({:#x})", bits & !known);
    let casefold = match (bits & CASEFOLD != 0, u16_at(2758), u16_at(2760)) {
        (false, ..) => None,
        (true, 1, 0) => Some("utf8".to_owned()),
        (true, 1, 1) => Some("utf8:strict".to_owned()),
        (true, encoding, flags) => {
            bail!("it folds case by a rule that rr does not know ({encoding}, {flags:#x})")
        }
    };
    let checkpoint = block_at(u64::from(u32_at(76)) * BLOCK_BYTES as u64)?;
    let features = FEATURES.iter().filter(|(bit, _)| bits & bit != 0);
    Ok(F2fsOptions {
        blocks: u64::from(u32_at(36)) | u64::from(u32_at(40)) << 32,
        features: features.map(|(_, name)| (*name).to_owned()).collect(),
        casefold,
        segments_per_section: u32_at(24).into(),
        sections_per_zone: u32_at(28).into(),
        more_inodes: u32_of(&checkpoint, 132) & LARGE_NAT_BITMAP != 0,
    })
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first block of a filesystem, and its first checkpoint.
    fn blocks(release: &str) -> ([u8; 4096], [u8; 4096]) {
        let path = format!("tests/fixtures/probe/{release}/f2fs.blocks");
        let blocks = std::fs::read(path).unwrap();
        let (first, checkpoint) = blocks.split_at(4096);
        (first.try_into().unwrap(), checkpoint.try_into().unwrap())
    }

    fn parsed(first: &[u8; 4096], checkpoint: [u8; 4096], at: u64) -> Result<F2fsOptions> {
        parse(first, &|offset| {
            assert_eq!(offset, at, "where the checkpoint is");
            Ok(checkpoint)
        })
    }

    #[test]
    fn f2fs_is_read_from_what_every_version_makes() {
        let all = "encrypt extra_attr project_quota inode_checksum flexible_inline_xattr quota \
                   inode_crtime lost_found verity sb_checksum compression";
        let other = "extra_attr compression";
        for (release, at, features, casefold, zone, more_inodes) in [
            ("debian11", 2048 * 4096, all, Some("utf8:strict"), 2, true),
            ("debian12", 512 * 4096, "", None, 1, false),
            ("debian13", 512 * 4096, other, Some("utf8"), 1, false),
        ] {
            let (first, checkpoint) = blocks(release);
            let found = parsed(&first, checkpoint, at).unwrap();
            let count = if release == "debian13" { 76_800 } else { 70_000 };
            let expected = F2fsOptions {
                blocks: count,
                features: features.split_whitespace().map(str::to_owned).collect(),
                casefold: casefold.map(str::to_owned),
                segments_per_section: zone,
                sections_per_zone: zone,
                more_inodes,
            };
            assert_eq!(found, expected, "{release}");
        }
    }

    #[test]
    fn an_f2fs_that_can_not_be_made_again_is_named() {
        let (whole, checkpoint) = blocks("debian12");
        // As mkfs.f2fs 1.15 writes them with `-c`, `-m` and `-O ro`; and what is not known yet.
        for (at, byte, why) in [
            (1024 + 2201, b'x', "on several devices"),
            (1024 + 2180, 0x2, "for a zoned disk"),
            (1024 + 2181, 0x40, "can only be read"),
            (1024 + 2183, 0x1, "does not know (0x1000000)"),
            (1024 + 16, 14, "do not have 4096 bytes"),
            (1024, 0, "no f2fs"),
        ] {
            let mut first = whole;
            first[at] = byte;
            let error = parsed(&first, checkpoint, 512 * 4096).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
