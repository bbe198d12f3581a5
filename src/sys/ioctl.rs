//! What only an ioctl(2) can ask of a block device.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

mod raw {
    #![allow(unsafe_code, missing_docs)]
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
}

/// The size of a block device.
#[allow(unsafe_code)]
pub fn size_bytes(device: &File) -> Result<u64> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one u64 through the pointer.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &mut bytes) }
        .context("asking for the size of a device")?;
    Ok(bytes as u64)
}

/// The logical sector size of a block device.
#[allow(unsafe_code)]
pub fn sector_bytes(device: &File) -> Result<u32> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int through the pointer.
    unsafe { raw::blksszget(device.as_raw_fd(), &mut bytes) }
        .context("asking for the sector size of a device")?;
    u32::try_from(bytes).context("a sector size below zero")
}

/// Makes the kernel read the partition table again. EBUSY while a partition is in use.
#[allow(unsafe_code)]
pub fn reread_partitions(device: &File) -> nix::Result<()> {
    // SAFETY: the descriptor is open; the call takes no argument.
    unsafe { raw::blkrrpart(device.as_raw_fd()) }.map(drop)
}

/// Writes out and drops what the kernel has cached of a block device.
#[allow(unsafe_code)]
pub fn flush(device: &File) -> Result<()> {
    // SAFETY: the descriptor is open; the call takes no argument.
    unsafe { raw::blkflsbuf(device.as_raw_fd()) }.context("flushing a device")?;
    Ok(())
}
