//! Erases a disk: every signature on it, and on where the new partitions will be, so that nothing
//! old comes alive when they appear.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::release::{Held, check_identity, partitions, sys_block};
use super::table;
use crate::plan::step::Wipe;
use crate::sys::run::Cmd;
use crate::sys::{ioctl, udev};

/// How much of each end is overwritten: it covers the superblocks of md, LVM, swap, both GPTs and
/// all filesystems but for their copies.
const END_BYTES: u64 = 1 << 20;

pub fn wipe(step: &Wipe, held: &Held) -> Result<()> {
    let name = &step.disk.name;
    let mut file = held.get(name).with_context(|| format!("{name} was not released"))?;
    // Once more, for each disk, right before it is erased.
    check_identity(file, &step.disk)?;
    let mut areas = vec![(0, step.disk.size_bytes)];
    areas.extend(&step.areas);
    for part in partitions(name)? {
        signatures(&part)?;
        areas.push(place(&part)?);
    }
    signatures(name)?;
    for (start, bytes) in areas {
        zero_ends(&mut file, start, bytes).with_context(|| format!("erasing /dev/{name}"))?;
    }
    ioctl::flush(file)?;
    table::reread(file, name)
}

/// Where the kernel has a partition: start and size.
fn place(part: &str) -> Result<(u64, u64)> {
    let read = |file: &str| -> Result<u64> {
        let path = sys_block(part).join(file);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let sectors: u64 = text.trim().parse().with_context(|| format!("the {file} of {part}"))?;
        // In units of 512 bytes, whatever the sector size.
        sectors.checked_mul(512).with_context(|| format!("the {file} of {part}"))
    };
    Ok((read("start")?, read("size")?))
}

/// Erases the signatures and both ends of a device that has just appeared.
pub fn wipe_new(name: &str) -> Result<()> {
    signatures(name)?;
    let file = open(name)?;
    let size_bytes = ioctl::size_bytes(&file)?;
    zero_ends(&mut &file, 0, size_bytes).with_context(|| format!("erasing /dev/{name}"))?;
    drop(file);
    udev::settle()
}

/// Erases where the data of an array will start on this member. What an earlier array held there
/// would otherwise show as soon as the array appears, and be activated by udev before
/// [`wipe_new`] gets at it.
pub fn wipe_data_start(member: &str, data_offset_bytes: u64) -> Result<()> {
    let name = member.trim_start_matches("/dev/");
    let file = open(name)?;
    let left = ioctl::size_bytes(&file)?.saturating_sub(data_offset_bytes);
    zero_ends(&mut &file, data_offset_bytes, left).with_context(|| format!("erasing /dev/{name}"))
}

/// Erases both ends of an area of a device.
pub fn wipe_area(dev: &str, at: u64, bytes: u64) -> Result<()> {
    let file = open(dev.trim_start_matches("/dev/"))?;
    zero_ends(&mut &file, at, bytes).with_context(|| format!("erasing a part of {dev}"))
}

fn open(name: &str) -> Result<File> {
    let dev = Path::new("/dev").join(name);
    File::options()
        .read(true)
        .write(true)
        .open(&dev)
        .with_context(|| format!("opening {}", dev.display()))
}

fn signatures(name: &str) -> Result<()> {
    Cmd::new("wipefs").args(["--all", "--force"]).arg(Path::new("/dev").join(name)).run()
}

/// Writes zeros over both ends of an area and on to the disk.
fn zero_ends(file: &mut &File, start: u64, bytes: u64) -> Result<()> {
    let zeros = vec![0; usize::try_from(END_BYTES)?];
    let head = bytes.min(END_BYTES);
    let tail = (bytes - head).min(END_BYTES);
    for (at, len) in [(start, head), (start + bytes - tail, tail)] {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&zeros[..usize::try_from(len)?])?;
    }
    file.sync_data()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn both_ends_are_zeroed_and_nothing_else() {
        let mib = usize::try_from(END_BYTES).unwrap();
        for total in [1000, mib, mib + 7, 2 * mib, 3 * mib + 5] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![7; total + 20]).unwrap();
            zero_ends(&mut &file, 10, total as u64).unwrap();
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            let kept = total.saturating_sub(2 * mib);
            assert_eq!(bytes.iter().filter(|b| **b == 7).count(), 20 + kept, "{total}");
            assert!(bytes[..10].iter().all(|b| *b == 7));
            assert!(bytes[total + 10..].iter().all(|b| *b == 7));
        }
    }
}
