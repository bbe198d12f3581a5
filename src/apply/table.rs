//! Writes a partition table, makes the kernel read it, and checks what both have.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::gpt;
use super::mbr::{self, Pieces};
use super::release::sys_block;
use crate::layout::{PartitionKind, Table};
use crate::plan::step::WriteTable;
use crate::sys::{ioctl, udev};

const PATIENCE: Duration = Duration::from_secs(30);

/// Writes the table. Gives a partition, opened: for as long as it is, nobody makes the kernel read the
/// table again. udev does so some time after a disk was closed that had been open for writing, and
/// while it does, the partitions are gone.
pub fn write(step: &WriteTable) -> Result<Option<File>> {
    let dev = Path::new("/dev").join(&step.name);
    let opening = || format!("opening {}", dev.display());
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_EXCL | nix::libc::O_CLOEXEC)
        .open(&dev)
        .with_context(opening)?;
    let size_bytes = ioctl::size_bytes(&file)?;
    if size_bytes < step.size_bytes {
        bail!("{} has {size_bytes} bytes, the plan needs {}", step.name, step.size_bytes);
    }
    let pieces = image(step, size_bytes)?;
    for (at, bytes) in &pieces {
        file.seek(SeekFrom::Start(*at))?;
        file.write_all(bytes)
            .with_context(|| format!("writing the partition table of {}", step.name))?;
    }
    file.sync_all().with_context(|| format!("writing the partition table of {}", step.name))?;
    ioctl::flush(&file)?;
    reread(&file, &step.name)?;
    drop(file);
    udev::settle()?;
    let mut file = File::open(&dev).with_context(opening)?;
    for (at, bytes) in &pieces {
        let mut found = vec![0; bytes.len()];
        file.seek(SeekFrom::Start(*at))?;
        file.read_exact(&mut found)?;
        if found != *bytes {
            bail!("{} does not give back the partition table that was written to it", step.name);
        }
    }
    drop(file);
    wait_for_partitions(step)
}

/// The bytes of a table.
pub fn image(step: &WriteTable, size_bytes: u64) -> Result<Pieces> {
    match &step.table {
        Table::Gpt { .. } => gpt::image(step, size_bytes),
        Table::Mbr { .. } => mbr::image(step),
    }
}

/// Makes the kernel read the table again; something may still be looking at the disk.
pub fn reread(file: &File, name: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ioctl::reread_partitions(file) {
            // A device that can't have partitions (EINVAL) has none to read.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => return Ok(()),
            Err(nix::errno::Errno::EBUSY) if Instant::now() < deadline => {
                udev::settle()?;
                sleep(Duration::from_millis(200));
            }
            Err(errno) => {
                return Err(errno)
                    .with_context(|| format!("making the kernel read the partitions of {name}"));
            }
        }
    }
}

/// Waits until all partitions have their nodes, where they should be, and opens one.
fn wait_for_partitions(step: &WriteTable) -> Result<Option<File>> {
    let deadline = Instant::now() + PATIENCE;
    let part = step.partitions.iter().find(|part| part.kind != PartitionKind::Extended);
    loop {
        let open = part.map(|part| File::open(Path::new("/dev").join(&part.name)));
        let open = open.transpose();
        // With one open, they all stay as they are.
        match (step.partitions.iter().find_map(|p| differs(step, p)), open) {
            (None, Ok(open)) => return Ok(open),
            (why, open) => {
                let why = why.or(open.err().map(|error| error.to_string())).unwrap_or_default();
                if Instant::now() >= deadline {
                    bail!(
                        "the kernel does not see the partitions of {} as written: {why}",
                        step.name
                    );
                }
                udev::settle()?;
                sleep(Duration::from_millis(100));
            }
        }
    }
}

fn differs(step: &WriteTable, part: &crate::layout::Partition) -> Option<String> {
    let dir = sys_block(&part.name);
    // In units of 512 bytes, whatever the sector size.
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok()
    };
    let (Some(start), Some(size)) = (number("start"), number("size")) else {
        return Some(format!("{} is missing in {}", part.name, step.name));
    };
    // Of an extended partition, the kernel shows the first sectors only.
    let size = if part.kind == PartitionKind::Extended { part.size_bytes / 512 } else { size };
    if (start * 512, size * 512) != (part.start_bytes, part.size_bytes) {
        return Some(format!("{} starts at {start} and has {size} sectors", part.name));
    }
    if !Path::new("/dev").join(&part.name).exists() {
        return Some(format!("/dev/{} is missing", part.name));
    }
    None
}
