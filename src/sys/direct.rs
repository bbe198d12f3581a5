//! Big files written past the page cache.
//!
//! Who writes a backup does not read it again soon: in the cache it would only drive out what the
//! machine works with, and to take a page into it costs more than all else that is done with it here.
//! (1 GiB on a virtual machine: 2.7 s of the CPU through the cache, 0.35 past it.)

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs};

use super::fs;

/// What is written at once. Disks get no faster with more.
const ROOM_BYTES: usize = 4 << 20;
/// No logical block of a disk is bigger, and memory is given to no disk by less.
const ALIGN_BYTES: usize = 4096;

/// Local filesystems that write directly what they are given. Others copy it (Btrfs, for its
/// checksums), wait for a server each time (NFS), or have no disk.
const DIRECT: [FsType; 2] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC];

/// Writes a file from its start to its end. Where its filesystem has no other way, it goes through the
/// cache, and the disk is kept at work meanwhile.
#[derive(Debug)]
pub struct DirectWriter<'a> {
    file: &'a File,
    is_direct: bool,
    /// Where it begins to be aligned in `room`, and how much is there.
    start: usize,
    len: usize,
    room: Vec<u8>,
}

impl<'a> DirectWriter<'a> {
    /// For a file that is empty and is to have so many bytes.
    pub fn new(file: &'a File, size_bytes: u64) -> DirectWriter<'a> {
        let is_direct = size_bytes >= ROOM_BYTES as u64
            && fstatfs(file).is_ok_and(|fs| DIRECT.contains(&fs.filesystem_type()))
            && set(file, OFlag::O_DIRECT).is_ok();
        let room = vec![0; if is_direct { ROOM_BYTES + ALIGN_BYTES } else { 0 }];
        let start = room.as_ptr().align_offset(ALIGN_BYTES).min(room.len());
        DirectWriter { file, is_direct, start, len: 0, room }
    }

    /// Writes what is left. Only a sync then tells whether all went well.
    pub fn finish(mut self) -> io::Result<()> {
        self.write_room()
    }

    fn write_room(&mut self) -> io::Result<()> {
        let mut rest = &self.room[self.start..][..self.len];
        self.len = 0;
        if self.is_direct && rest.len() == ROOM_BYTES {
            match self.file.write(rest) {
                Ok(written) => rest = &rest[written..],
                // All of it goes the other way then.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        // The end of the file, or a disk that takes it otherwise.
        if self.is_direct {
            set(self.file, OFlag::empty())?;
            self.is_direct = false;
        }
        self.file.write_all(rest)
    }
}

impl Write for DirectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_direct {
            let written = self.file.write(bytes)?;
            fs::start_writing_back(self.file.as_fd());
            return Ok(written);
        }
        let taken = bytes.len().min(ROOM_BYTES - self.len);
        self.room[self.start + self.len..][..taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        if self.len == ROOM_BYTES {
            self.write_room()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn set(file: &File, flags: OFlag) -> io::Result<()> {
    Ok(fcntl(file, FcntlArg::F_SETFL(flags)).map(drop)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn every_size_arrives_whole_in_pieces_of_every_size() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, ROOM_BYTES - 1, ROOM_BYTES, ROOM_BYTES + 1, 2 * ROOM_BYTES + 4097] {
            let mut bytes = vec![0; size];
            blake3::Hasher::new().finalize_xof().fill(&mut bytes);
            for piece in [1 << 30, ROOM_BYTES + 77, 100_003] {
                let path = dir.path().join("file");
                let file = File::create(&path).unwrap();
                let mut writer = DirectWriter::new(&file, size as u64);
                for piece in bytes.chunks(piece) {
                    writer.write_all(piece).unwrap();
                }
                writer.finish().unwrap();
                assert_eq!(file.metadata().unwrap().size(), size as u64);
                assert!(std::fs::read(&path).unwrap() == bytes, "{size} by {piece}");
            }
        }
    }
}
