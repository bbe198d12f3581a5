//! System calls on files that the standard library and nix do not have: statx with mount
//! information, extended attributes with any name and value, inode flags, holes.
//!
//! All of them take a file descriptor, or a name relative to a directory's descriptor: nothing here
//! follows a symbolic link that somebody swapped in.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// What `statx` says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub ino: u64,
    pub dev: (u32, u32),
    pub rdev: (u32, u32),
    pub size_bytes: u64,
    /// Units of 512 bytes that are allocated.
    pub blocks: u64,
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
    /// When the inode was made, where the filesystem keeps that.
    pub btime: Option<(i64, u32)>,
    /// Whether it is the root of a mount; None where the kernel (before 5.8) can't say.
    pub mount_root: Option<bool>,
    /// Whether it has the inode flag that says that backups may pass it by.
    pub nodump: bool,
}

/// `statx` of `name` in `dir`, or of `dir` itself where `name` is empty. Follows no symbolic link.
pub fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Stat> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    if name.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    // SAFETY: an all-zero statx is a valid value of that plain C struct.
    #[allow(unsafe_code)]
    let mut x: libc::statx = unsafe { std::mem::zeroed() };
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the name is NUL-terminated and `x` is as large as the kernel expects.
    #[allow(unsafe_code)]
    let result = unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, wanted, &raw mut x) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let root_bit = u64::try_from(libc::STATX_ATTR_MOUNT_ROOT).unwrap_or(0);
    let nodump_bit = u64::try_from(libc::STATX_ATTR_NODUMP).unwrap_or(0);
    Ok(Stat {
        mode: u32::from(x.stx_mode),
        uid: x.stx_uid,
        gid: x.stx_gid,
        nlink: x.stx_nlink,
        ino: x.stx_ino,
        dev: (x.stx_dev_major, x.stx_dev_minor),
        rdev: (x.stx_rdev_major, x.stx_rdev_minor),
        size_bytes: x.stx_size,
        blocks: x.stx_blocks,
        mtime: (x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec),
        ctime: (x.stx_ctime.tv_sec, x.stx_ctime.tv_nsec),
        btime: (x.stx_mask & libc::STATX_BTIME != 0)
            .then_some((x.stx_btime.tv_sec, x.stx_btime.tv_nsec)),
        mount_root: (x.stx_attributes_mask & root_bit != 0)
            .then_some(x.stx_attributes & root_bit != 0),
        nodump: x.stx_attributes & nodump_bit != 0,
    })
}

/// Opens a directory as a place to start from: nothing of it can be read by this alone.
pub fn open_path(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open(dir, flags, Mode::empty())?)
}

/// Appends up to `len` bytes of the file from `offset` on to `out`, and says how many. `pread` for
/// memory that need not be filled before: what is read in a backup is read once.
pub fn append_at(
    fd: BorrowedFd<'_>,
    out: &mut Vec<u8>,
    len: usize,
    offset: u64,
) -> io::Result<usize> {
    out.reserve(len);
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let room = out.spare_capacity_mut().as_mut_ptr();
    loop {
        // SAFETY: there is room for `len` bytes, and as many as are said to be read are there.
        #[allow(unsafe_code)]
        unsafe {
            let got = libc::pread(fd.as_raw_fd(), room.cast(), len, offset);
            if let Ok(got) = usize::try_from(got) {
                out.set_len(out.len() + got);
                return Ok(got);
            }
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Makes the kernel write what is dirty of a file, without waiting for it. Only a sync tells whether
/// that went well.
pub fn start_writing_back(fd: BorrowedFd<'_>) {
    // SAFETY: the call has no memory of ours to do with.
    #[allow(unsafe_code)]
    let started =
        unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    if started != 0 {
        log::debug!("sync_file_range: {}", io::Error::last_os_error());
    }
}

/// The directory `dir` as it is without what is mounted below it. Needs Linux 5.2 and
/// `CAP_SYS_ADMIN`.
pub fn without_mounts(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let empty_path = u32::try_from(libc::AT_EMPTY_PATH).unwrap_or(0);
    // SAFETY: the path is a NUL-terminated constant.
    #[allow(unsafe_code)]
    let fd = unsafe {
        libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), c"".as_ptr(), flags | empty_path)
    };
    let Ok(fd) = std::os::fd::RawFd::try_from(fd) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just gave this descriptor to us alone.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Copies the bytes and the mode of a file.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// How an extended attribute's file is named.
#[derive(Debug, Clone, Copy)]
pub enum XattrOf<'a> {
    Fd(BorrowedFd<'a>),
    /// A name in a directory, for what can't be opened: symbolic links, devices. Reached through
    /// `/proc/self/fd`, as most kernels have no call for it.
    At(BorrowedFd<'a>, &'a CStr),
}

fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Calls with some room on the stack first, as most have nothing to tell, then with as much as is
/// needed.
fn grow(mut call: impl FnMut(*mut libc::c_void, usize) -> isize) -> io::Result<Vec<u8>> {
    let mut small = [0u8; 256];
    if let Ok(len) = usize::try_from(call(small.as_mut_ptr().cast(), small.len())) {
        return Ok(small[..len].to_vec());
    }
    let mut buffer = Vec::new();
    loop {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || buffer.len() >= 1 << 20 {
            return Err(error);
        }
        buffer.resize(buffer.len().max(256) * 4, 0);
        if let Ok(len) = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

/// The names of all extended attributes, sorted. A filesystem that has none is not an error.
pub fn list_xattrs(of: XattrOf<'_>) -> io::Result<Vec<CString>> {
    let names = match of {
        // SAFETY: pointer and length describe a live buffer.
        #[allow(unsafe_code)]
        XattrOf::Fd(fd) => {
            grow(|to, len| unsafe { libc::flistxattr(fd.as_raw_fd(), to.cast(), len) })
        }
        XattrOf::At(dir, name) => {
            let path = proc_path(dir, name)?;
            // SAFETY: as above; the path is NUL-terminated.
            #[allow(unsafe_code)]
            grow(|to, len| unsafe { libc::llistxattr(path.as_ptr(), to.cast(), len) })
        }
    };
    let names = match names {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut names: Vec<CString> = names
        .split_inclusive(|&b| b == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The value of one attribute; None where it is gone by now.
pub fn get_xattr(of: XattrOf<'_>, key: &CStr) -> io::Result<Option<Vec<u8>>> {
    let value = match of {
        // SAFETY: pointer and length describe a live buffer; the key is NUL-terminated.
        #[allow(unsafe_code)]
        XattrOf::Fd(fd) => {
            grow(|to, len| unsafe { libc::fgetxattr(fd.as_raw_fd(), key.as_ptr(), to, len) })
        }
        XattrOf::At(dir, name) => {
            let path = proc_path(dir, name)?;
            // SAFETY: as above; the path is NUL-terminated.
            #[allow(unsafe_code)]
            grow(|to, len| unsafe { libc::lgetxattr(path.as_ptr(), key.as_ptr(), to, len) })
        }
    };
    match value {
        Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        value => value.map(Some),
    }
}

pub fn set_xattr(of: XattrOf<'_>, key: &CStr, value: &[u8]) -> io::Result<()> {
    let data = value.as_ptr().cast();
    let result = match of {
        // SAFETY: pointer and length describe `value`; the key is NUL-terminated.
        #[allow(unsafe_code)]
        XattrOf::Fd(fd) => unsafe {
            libc::fsetxattr(fd.as_raw_fd(), key.as_ptr(), data, value.len(), 0)
        },
        XattrOf::At(dir, name) => {
            let path = proc_path(dir, name)?;
            // SAFETY: as above; the path is NUL-terminated.
            #[allow(unsafe_code)]
            unsafe {
                libc::lsetxattr(path.as_ptr(), key.as_ptr(), data, value.len(), 0)
            }
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn remove_xattr(of: XattrOf<'_>, key: &CStr) -> io::Result<()> {
    let result = match of {
        // SAFETY: the key is NUL-terminated.
        #[allow(unsafe_code)]
        XattrOf::Fd(fd) => unsafe { libc::fremovexattr(fd.as_raw_fd(), key.as_ptr()) },
        XattrOf::At(dir, name) => {
            let path = proc_path(dir, name)?;
            // SAFETY: both are NUL-terminated.
            #[allow(unsafe_code)]
            unsafe {
                libc::lremovexattr(path.as_ptr(), key.as_ptr())
            }
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The inode flags that chattr(1) shows; zero on filesystems that have none.
pub fn inode_flags(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut flags: libc::c_uint = 0;
    // SAFETY: despite its type in the headers, the call stores an int.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    if result == 0 {
        return Ok(flags);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOTTY | libc::ENOTSUP | libc::EINVAL | libc::ENOSYS) => Ok(0),
        _ => Err(error),
    }
}

pub fn set_inode_flags(fd: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    let flags: libc::c_uint = flags;
    // SAFETY: the call reads an int.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What counts for the project of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Project {
    /// 0: none.
    pub id: u32,
    /// Whether what is made in this directory belongs to it, too.
    pub inherits: bool,
}

#[allow(unsafe_code)]
mod fsx {
    /// `struct fsxattr`, and its flag of directories that hand their project on.
    #[repr(C)]
    #[derive(Default)]
    pub struct Fsx {
        pub flags: u32,
        extent_bytes: u32,
        extents: u32,
        pub project: u32,
        cow_extent_bytes: u32,
        pad: [u8; 8],
    }

    pub const INHERITS: u32 = 0x200;

    nix::ioctl_read!(get, b'X', 31, Fsx);
    nix::ioctl_write_ptr!(set, b'X', 32, Fsx);
}

fn get_fsx(fd: BorrowedFd<'_>) -> nix::Result<fsx::Fsx> {
    let mut fsx = fsx::Fsx::default();
    // SAFETY: the call stores what the type describes.
    #[allow(unsafe_code)]
    let result = unsafe { fsx::get(fd.as_raw_fd(), &raw mut fsx) };
    result.map(|_| fsx)
}

/// The project that a file or directory belongs to; none on filesystems that know of none.
pub fn project(fd: BorrowedFd<'_>) -> io::Result<Project> {
    match get_fsx(fd) {
        Ok(fsx) => Ok(Project { id: fsx.project, inherits: fsx.flags & fsx::INHERITS != 0 }),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
            Ok(Project::default())
        }
        Err(errno) => Err(errno.into()),
    }
}

pub fn set_project(fd: BorrowedFd<'_>, project: Project) -> io::Result<()> {
    let mut fsx = get_fsx(fd)?;
    fsx.project = project.id;
    fsx.flags &= !fsx::INHERITS;
    if project.inherits {
        fsx.flags |= fsx::INHERITS;
    }
    // SAFETY: the call reads what the type describes.
    #[allow(unsafe_code)]
    let result = unsafe { fsx::set(fd.as_raw_fd(), &raw const fsx) };
    Ok(result.map(drop)?)
}

/// The ranges of a file of `size_bytes` that hold data, as (offset, length), in order. None where
/// the filesystem can't say: then all of it is data.
pub fn data_ranges(fd: BorrowedFd<'_>, size_bytes: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    use nix::unistd::{Whence, lseek};
    let mut ranges = Vec::new();
    let mut at = 0u64;
    while at < size_bytes {
        let start = match lseek(fd, offset(at)?, Whence::SeekData) {
            Ok(start) => unsigned(start)?,
            Err(Errno::ENXIO) => break, // only a hole up to the end
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if start >= size_bytes {
            break;
        }
        let end = match lseek(fd, offset(start)?, Whence::SeekHole) {
            Ok(end) => unsigned(end)?.min(size_bytes),
            Err(Errno::ENXIO) => break, // it shrank meanwhile
            Err(errno) => return Err(errno.into()),
        };
        if end <= start {
            break; // so it did here
        }
        ranges.push((start, end - start));
        at = end;
    }
    Ok(Some(ranges))
}

fn offset(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn unsigned(value: i64) -> io::Result<u64> {
    u64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Whether the filesystem that `fd` is on is FAT: no owners, no attributes, no links.
pub fn is_fat(fd: BorrowedFd<'_>) -> bool {
    nix::sys::statfs::fstatfs(fd)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::MSDOS_SUPER_MAGIC)
}

pub fn is_btrfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BTRFS_SUPER_MAGIC)
}

/// The bytes in use on the filesystem that `path` is on.
pub fn used_bytes(path: &Path) -> io::Result<u64> {
    let fs = nix::sys::statvfs::statvfs(path)?;
    Ok(fs.blocks().saturating_sub(fs.blocks_free()).saturating_mul(fs.fragment_size()))
}

/// What is left to be written there.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let fs = nix::sys::statvfs::statvfs(path)?;
    Ok(fs.blocks_available().saturating_mul(fs.fragment_size()))
}

/// Whether a filesystem is mounted at `dir`; false where the kernel (before 5.8) can't say.
pub fn is_mount_root(dir: &Path) -> bool {
    // Not opened in earnest: a fifo would wait for who writes to it, a tape would wind.
    let stat = open_path(dir).and_then(|dir| stat_at(dir.as_fd(), c""));
    stat.is_ok_and(|stat| stat.mount_root == Some(true))
}

/// What the modes of new files lack. It is not asked by setting it: other threads make files.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok()).unwrap_or(0o022)
}

/// Lets this process open as many files as the system allows it.
pub fn raise_open_files_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid pointer to a live struct.
    #[allow(unsafe_code)]
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(65536).max(limit.rlim_cur);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
    limit.rlim_cur
}

/// A name for a system call; an error where it holds a NUL.
pub fn c_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
