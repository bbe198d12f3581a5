//! What the archive knows about one file: everything but its bytes.

use crate::layout::mount::escape;
use crate::sys::fs::Stat;

/// Longer paths are refused, and not archived: 16 times what the kernel takes in one call. What is
/// made to be deep would take memory and time by the square of it.
pub const PATH_LIMIT_BYTES: usize = 64 << 10;

/// Seconds since 1970 and the nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl From<(i64, u32)> for Time {
    fn from((sec, nsec): (i64, u32)) -> Self {
        Time { sec, nsec }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    /// Another name of a file that came earlier in the stream.
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

impl Kind {
    /// None for sockets, which no archive can hold, and for what no kernel has yet.
    pub fn of_mode(mode: u32) -> Option<Kind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFCHR => Kind::Char,
            libc::S_IFBLK => Kind::Block,
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFIFO => Kind::Fifo,
            _ => return None,
        })
    }

    /// The type flag of a ustar header.
    pub fn flag(self) -> u8 {
        match self {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
        }
    }

    pub fn of_flag(flag: u8) -> Option<Kind> {
        Some(match flag {
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            _ => return None,
        })
    }

    pub fn is_device(self) -> bool {
        matches!(self, Kind::Char | Kind::Block)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the archived root, without a slash at either end; empty for the root itself.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Of a file, holes included; else zero.
    pub size_bytes: u64,
    /// What a symbolic link says; of a hard link the path of the file's first name.
    pub link: Vec<u8>,
    pub rdev: (u32, u32),
    /// With `ino`, tells whether a file is still what an earlier backup saw. Not in the stream.
    pub ctime: Time,
    pub ino: u64,
}

impl Entry {
    pub fn new(path: Vec<u8>, kind: Kind, stat: &Stat) -> Entry {
        Entry {
            path,
            kind,
            mode: stat.mode & 0o7777,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime.into(),
            size_bytes: if kind == Kind::File { stat.size_bytes } else { 0 },
            link: Vec::new(),
            rdev: if kind.is_device() { stat.rdev } else { (0, 0) },
            ctime: stat.ctime.into(),
            ino: stat.ino,
        }
    }

    /// The next backup reads the file again.
    pub fn forget(&mut self) {
        self.ctime = Time::default();
    }

    pub fn is_forgotten(&self) -> bool {
        self.ctime == Time::default()
    }

    /// For people: absolute, in one line.
    pub fn shown(&self) -> String {
        shown(&self.path)
    }
}

/// A path of the archive for people: absolute, in one line.
pub fn shown(path: &[u8]) -> String {
    format!("/{}", escape(path))
}

/// What an entry has besides: read only where the entry itself changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// Sorted by name. ACLs are among them, as the kernel gives them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Inode flags, only those of [`super::flags`].
    pub flags: u32,
    /// The project of a quota that it belongs to; 0: none.
    pub project: u32,
    /// Where a sparse file has data, as (offset, length); None for a file without holes.
    pub sparse: Option<Vec<(u64, u64)>>,
}

impl Extra {
    /// Where a file of this size has data: offset and length.
    pub fn data_ranges(&self, size_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
        let whole = self.sparse.is_none().then_some((0, size_bytes));
        self.sparse.iter().flatten().copied().chain(whole)
    }
}
