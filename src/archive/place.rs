//! Puts one entry into a filesystem: created anew, then data, owner, mode, attributes, times, and
//! flags, in this order, as each of them can undo what comes before it in a wrong one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, ftruncate, linkat, symlinkat, unlinkat,
};

use super::dirs::{Dirs, split};
use super::entry::{Entry, Extra, Kind, Time, shown};
use super::flags::{self, PROJECT};
use super::ground::{COMPRESSION, Ground, LOCKING, open_dir};
use super::warnings::Warnings;
use super::{project, read};
use crate::sys::fs::{self, XattrOf};

/// Creates entries below a root; one for each thread.
#[derive(Debug)]
pub struct Placer<'a> {
    dirs: Dirs,
    ground: &'a Ground,
    warnings: &'a Warnings,
    is_root: bool,
    given: Given,
    /// The directory whose filesystem was looked at: does it keep fractions of seconds?
    looked_at: RefCell<Option<Vec<u8>>>,
    /// Of files whose names can't all be links here: the first name, and those that became files.
    copies: HashMap<Vec<u8>, Vec<Vec<u8>>>,
}

const UNLINKED: &str = "hard links became files of their own, as there can be no link here to the name that they were links to";

const COPY_BYTES: u64 = 256 << 10;

/// What a new file has in the directory that files go to now: its owner, and the bits of its mode
/// that are as asked for (a umask, an ACL, a filesystem can take some). The first files there tell,
/// and spare the others two calls.
#[derive(Debug, Default)]
struct Given {
    dir: Vec<u8>,
    owner: Option<(u32, u32)>,
    kept: u32,
    lost: u32,
}

impl Given {
    /// What a file in `dir` is to be created with: nobody may read it before it has its owner.
    fn mode(&mut self, dir: &[u8], entry: &Entry) -> u32 {
        if self.dir != dir {
            *self = Given { dir: dir.to_vec(), ..Given::default() };
        }
        if self.owner == Some((entry.uid, entry.gid)) { entry.mode & 0o777 } else { PRIVATE }
    }

    /// Whether a file that was created with `mode` has the owner and the mode of `entry` by now.
    fn has(&mut self, file: &File, mode: u32, entry: &Entry) -> io::Result<(bool, bool)> {
        if self.owner.is_none() || (mode & !self.kept != 0 && mode & self.lost == 0) {
            let stat = fs::stat_at(file.as_fd(), c"")?;
            self.owner = Some((stat.uid, stat.gid));
            self.kept |= mode & stat.mode;
            self.lost |= mode & !stat.mode;
        }
        let has_owner = self.owner == Some((entry.uid, entry.gid));
        Ok((has_owner, has_owner && mode == entry.mode && mode & !self.kept == 0))
    }
}

/// The mode of a file that is not finished.
const PRIVATE: u32 = 0o600;

impl<'a> Placer<'a> {
    pub fn new(root: &Path, ground: &'a Ground, warnings: &'a Warnings) -> io::Result<Placer<'a>> {
        Ok(Placer {
            dirs: Dirs::plain(root)?,
            ground,
            warnings,
            is_root: Uid::effective().is_root(),
            given: Given::default(),
            looked_at: RefCell::default(),
            copies: HashMap::new(),
        })
    }

    /// A new, empty, private file in place of whatever is there.
    pub fn create_file(&mut self, path: &[u8]) -> io::Result<File> {
        self.create_file_as(path, PRIVATE)
    }

    /// As [`Placer::create_file`], all of it a hole where its data will be.
    pub fn create_sized(&mut self, entry: &Entry, extra: &Extra) -> io::Result<File> {
        let file = self.create_file(&entry.path)?;
        prepare_file(&file, extra)?;
        ftruncate(&file, signed(entry.size_bytes)?)?;
        Ok(file)
    }

    fn create_file_as(&mut self, path: &[u8], mode: u32) -> io::Result<File> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
        let mode = Mode::from_bits_truncate(mode);
        let fd =
            self.create(path, |dir, name| openat(dir, name, flags | OFlag::O_CLOEXEC, mode))?;
        Ok(File::from(fd))
    }

    /// A file whose data is here: `data` is what the stream holds of it.
    pub fn place_file(&mut self, entry: &Entry, extra: &Extra, data: &[u8]) -> io::Result<()> {
        let (parent, _) = split(&entry.path).ok_or(io::ErrorKind::InvalidInput)?;
        let mode = self.given.mode(parent, entry);
        let mut file = self.create_file_as(&entry.path, mode)?;
        let has = self.given.has(&file, mode, entry)?;
        prepare_file(&file, extra)?;
        match &extra.sparse {
            None if data.is_empty() => {}
            None => file.write_all(data)?,
            Some(map) => {
                ftruncate(&file, signed(entry.size_bytes)?)?;
                let mut rest = data;
                for &(offset, len) in map {
                    let len = usize::try_from(len).map_err(io::Error::other)?;
                    let (part, tail) =
                        rest.split_at_checked(len).ok_or(io::ErrorKind::InvalidData)?;
                    file.write_all_at(part, offset)?;
                    rest = tail;
                }
            }
        }
        self.dress(file.as_fd(), entry, extra, extra.flags & !LOCKING, has)?;
        self.look_at_fractions(&file, entry)
    }

    /// Everything after the data.
    pub fn finish_file(&self, file: &File, entry: &Entry, extra: &Extra) -> io::Result<()> {
        self.dress(file.as_fd(), entry, extra, extra.flags & !LOCKING, (false, false))?;
        self.look_at_fractions(file, entry)
    }

    /// Says where a time has lost its fraction of a second. One file of a directory tells it of all.
    fn look_at_fractions(&self, file: &File, entry: &Entry) -> io::Result<()> {
        let (parent, _) = split(&entry.path).unwrap_or_default();
        let mut looked_at = self.looked_at.borrow_mut();
        if entry.mtime.nsec == 0 || looked_at.as_deref() == Some(parent) {
            return Ok(());
        }
        *looked_at = Some(parent.to_vec());
        let stat = fs::stat_at(file.as_fd(), c"")?;
        if stat.mtime.1 == 0 {
            self.ground.has_no_fractions(stat.dev, self.warnings);
        }
        Ok(())
    }

    /// Symbolic link, device or fifo.
    pub fn place_special(&mut self, entry: &Entry, extra: &Extra) -> io::Result<()> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let rdev = makedev(entry.rdev.0.into(), entry.rdev.1.into());
        self.create(&entry.path, |dir, name| match entry.kind {
            Kind::Symlink => symlinkat(entry.link.as_slice(), dir, name),
            Kind::Char => mknodat(dir, name, SFlag::S_IFCHR, mode, rdev),
            Kind::Block => mknodat(dir, name, SFlag::S_IFBLK, mode, rdev),
            _ => mknodat(dir, name, SFlag::S_IFIFO, mode, 0),
        })?;
        let (parent, name) = split(&entry.path).unwrap_or((b"", b"."));
        let dir = self.dirs.get(parent)?;
        let report = Report { entry, warnings: self.warnings, fd: dir };
        if self.is_root {
            let (uid, gid) = owner(entry);
            let flag = AtFlags::AT_SYMLINK_NOFOLLOW;
            report.check("its owner", fchownat(dir, name, uid, gid, flag))?;
        }
        if entry.kind != Kind::Symlink {
            // It was just made, and it is no link that could be followed.
            let flag = FchmodatFlags::FollowSymlink;
            report.check("its mode", fchmodat(dir, name, mode_of(entry), flag))?;
        }
        let c_name = fs::c_name(name)?;
        set_xattrs(XattrOf::At(dir, &c_name), extra, self.is_root, &report)?;
        let flag = UtimensatFlags::NoFollowSymlink;
        let set = utimensat(dir, name, &TimeSpec::UTIME_OMIT, &time(entry.mtime), flag);
        report.check("its time", set.map_err(Into::into).and_then(|()| kept(dir, &c_name, entry)))
    }

    /// Makes a directory; what else it has is set by [`Placer::finish_dir`].
    pub fn make_dir(&mut self, path: &[u8]) -> io::Result<()> {
        self.dirs.make(path, self.ground).map(drop)
    }

    pub fn finish_dir(&mut self, entry: &Entry, extra: &Extra) -> io::Result<()> {
        if self.ground.keeps(&entry.path) {
            return Ok(());
        }
        let dir = open_dir(self.dirs.get(&entry.path)?)?;
        // One that was there before may have flags and attributes of its own.
        let flags = fs::inode_flags(dir.as_fd()).unwrap_or_default();
        let stale = flags::settable(flags) & !PROJECT;
        if stale != 0 {
            let report = Report { entry, warnings: self.warnings, fd: dir.as_fd() };
            let result = fs::set_inode_flags(dir.as_fd(), flags & !stale);
            report.check("its inode flags", result)?;
        }
        let of = XattrOf::Fd(dir.as_fd());
        for key in fs::list_xattrs(of)? {
            let stale = !extra.xattrs.iter().any(|(name, _)| name == key.to_bytes());
            if stale && !key.to_bytes().starts_with(b"security.") {
                let _ = fs::remove_xattr(of, &key);
            }
        }
        self.dress(dir.as_fd(), entry, extra, extra.flags, (false, false))?;
        self.ground.is_finished(&entry.path);
        Ok(())
    }

    pub fn dirs(&mut self) -> &mut Dirs {
        &mut self.dirs
    }

    /// Sets one more attribute of what is in place.
    pub fn set_attribute(&mut self, entry: &Entry, key: &[u8], value: &[u8]) -> io::Result<()> {
        let (parent, name) = split(&entry.path).unwrap_or((b"", b"."));
        let name = fs::c_name(name)?;
        fs::set_xattr(XattrOf::At(self.dirs.get(parent)?, &name), &fs::c_name(key)?, value)
    }

    /// Another name for `first`, which is in place already.
    pub fn place_link(&mut self, first: &[u8], path: &[u8]) -> io::Result<()> {
        if first == path {
            return Err(io::Error::other("it says that it is another name of itself"));
        }
        match self.link(first, path) {
            Err(error) if is_no_link(&error) => self.place_copy(first, path, error),
            linked => linked,
        }
    }

    fn link(&mut self, first: &[u8], path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(first).unwrap_or((b"", b"."));
        let from = self.dirs.get(parent)?.try_clone_to_owned()?;
        self.create(path, |dir, new| linkat(&from, name, dir, new, LinkatFlags::empty()))
    }

    /// As [`Placer::place_link`], where there can be no link to `first`: it has another filesystem,
    /// or more names than this one allows.
    fn place_copy(&mut self, first: &[u8], path: &[u8], why: io::Error) -> io::Result<()> {
        let copies = self.copies.get(first).cloned().unwrap_or_default();
        if !copies.iter().rev().any(|copy| self.link(copy, path).is_ok()) {
            self.copy(first, path, why)?;
            self.copies.entry(first.to_vec()).or_default().push(path.to_vec());
        }
        self.warnings.lose(UNLINKED, shown(path));
        Ok(())
    }

    fn copy(&mut self, first: &[u8], path: &[u8], why: io::Error) -> io::Result<()> {
        let stat = self.dirs.stat(first)?;
        let Some(kind) = Kind::of_mode(stat.mode).filter(|kind| *kind != Kind::Dir) else {
            return Err(why);
        };
        let mut entry = Entry::new(path.to_vec(), kind, &stat);
        if kind != Kind::File {
            let (parent, name) = split(first).unwrap_or((b"", b"."));
            let dir = self.dirs.get(parent)?;
            if kind == Kind::Symlink {
                entry.link = readlinkat(dir, name)?.into_vec();
            }
            let extra = read::extra_of_special(dir, name, &mut entry, self.warnings)?;
            return self.place_special(&entry, &extra);
        }
        let from = read::open(&mut self.dirs, first)?;
        let mut extra = read::extra_of_file(&from, &mut entry, 0, self.warnings)?;
        extra.project = fs::project(from.as_fd())?.id;
        let to = self.create_sized(&entry, &extra)?;
        let mut buffer = Vec::new();
        for (offset, len) in extra.data_ranges(entry.size_bytes) {
            let (mut at, end) = (offset, offset + len);
            while at < end {
                let most = usize::try_from((end - at).min(COPY_BYTES)).map_err(io::Error::other)?;
                buffer.clear();
                if fs::append_at(from.as_fd(), &mut buffer, most, at)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                to.write_all_at(&buffer, at)?;
                at += buffer.len() as u64;
            }
        }
        self.finish_file(&to, &entry, &extra)
    }

    /// Sets the flags that no change is possible after.
    pub fn lock(&mut self, path: &[u8], flags: u32) -> io::Result<()> {
        for copy in self.copies.get(path).cloned().unwrap_or_default() {
            self.lock(&copy, flags)?;
        }
        let (parent, name) = split(path).unwrap_or((b"", b"."));
        let file = open_file(self.dirs.get(parent)?, name)?;
        fs::set_inode_flags(file.as_fd(), fs::inode_flags(file.as_fd())? | flags)
    }

    /// Runs `make` for a path, with what is in its way taken away.
    fn create<T>(
        &mut self,
        path: &[u8],
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> nix::Result<T>,
    ) -> io::Result<T> {
        let (parent, name) = split(path).ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.dirs.get_or_make(parent, self.ground)?;
        let mut unlocked = None;
        let made = loop {
            let errno = match make(dir, name) {
                Ok(made) => break Ok(made),
                Err(Errno::EEXIST) => match remove(dir, name) {
                    Ok(()) => continue,
                    Err(errno) => errno,
                },
                Err(errno) => errno,
            };
            if errno != Errno::EPERM || unlocked.is_some() {
                break Err(errno.into());
            }
            // What an earlier recovery finished may be immutable by now.
            unlocked = Some(match open_file(dir, name) {
                Ok(file) => unlock(&file)?.map(|flags| (file, flags)),
                Err(_) => None,
            });
            if let Err(error) = self.ground.unlock(parent, dir) {
                break Err(error);
            }
        };
        // It may have other names, and lives on by those; or it could not be replaced.
        if let Some(Some((file, flags))) = unlocked
            && fs::stat_at(file.as_fd(), c"")?.nlink > 0
        {
            fs::set_inode_flags(file.as_fd(), flags)?;
        }
        made
    }

    fn dress(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        extra: &Extra,
        flags: u32,
        (has_owner, has_mode): (bool, bool),
    ) -> io::Result<()> {
        let report = Report { entry, warnings: self.warnings, fd };
        if self.is_root && !has_owner {
            let (uid, gid) = owner(entry);
            report.check("its owner", fchown(fd, uid, gid))?;
        }
        if !has_mode {
            report.check("its mode", fchmod(fd, mode_of(entry)))?;
        }
        set_xattrs(XattrOf::Fd(fd), extra, self.is_root, &report)?;
        let set = futimens(fd, &TimeSpec::UTIME_OMIT, &time(entry.mtime));
        report.check("its time", set.map_err(Into::into).and_then(|()| kept(fd, c"", entry)))?;
        if extra.project != 0 || flags & PROJECT != 0 {
            project::restore(fd, entry, extra, self.warnings)?;
        }
        let flags = flags & !PROJECT;
        if flags != 0 {
            let others = !flags::settable(u32::MAX) | PROJECT;
            let result =
                fs::inode_flags(fd).and_then(|old| fs::set_inode_flags(fd, old & others | flags));
            report.check("its inode flags", result)?;
        }
        if flags & flags::COMPRESS != 0 {
            keep_compression(fd, extra, &report)?;
        }
        Ok(())
    }
}

/// The flag that a file is compressed set how to what it is for most.
fn keep_compression(fd: BorrowedFd<'_>, extra: &Extra, report: &Report<'_>) -> io::Result<()> {
    let name = COMPRESSION.to_bytes();
    let Some((_, how)) = extra.xattrs.iter().find(|(key, _)| key == name) else { return Ok(()) };
    let of = XattrOf::Fd(fd);
    match fs::get_xattr(of, COMPRESSION) {
        Ok(Some(now)) if now != *how => {
            report.check("its compression", fs::set_xattr(of, COMPRESSION, how))
        }
        _ => Ok(()),
    }
}

/// What only an empty file takes: set before its data.
pub fn prepare_file(file: &File, extra: &Extra) -> io::Result<()> {
    if extra.flags & flags::NOCOW != 0 {
        let result = fs::set_inode_flags(file.as_fd(), flags::NOCOW); // tried again at the end
        return result.or_else(|error| if is_fatal(&error) { Err(error) } else { Ok(()) });
    }
    Ok(())
}

fn set_xattrs(
    of: XattrOf<'_>,
    extra: &Extra,
    is_root: bool,
    report: &Report<'_>,
) -> io::Result<()> {
    for (key, value) in &extra.xattrs {
        if !is_root && (key.starts_with(b"trusted.") || key.starts_with(b"security.")) {
            continue;
        }
        let name: CString = fs::c_name(key)?;
        let what = format!("its attribute {}", crate::layout::mount::escape(key));
        let set = fs::set_xattr(of, &name, value);
        // ext4 says this of one that is more than fits beside an inode: the disk may have room.
        let set = set.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                io::Error::other("it is too big for this filesystem, or that is full")
            }
            _ => error,
        });
        report.check(&what, set)?;
    }
    Ok(())
}

/// Tells what could not be set.
struct Report<'a> {
    entry: &'a Entry,
    warnings: &'a Warnings,
    /// On the filesystem that the entry is on.
    fd: BorrowedFd<'a>,
}

impl Report<'_> {
    /// FAT has no owners, modes or attributes: nothing that the source had is lost there.
    fn check<E: Into<io::Error>>(&self, what: &str, result: Result<(), E>) -> io::Result<()> {
        let Err(error) = result.map_err(Into::into) else { return Ok(()) };
        if is_fatal(&error) {
            return Err(error);
        }
        if !fs::is_fat(self.fd) {
            self.warnings.add(format!("{}: {what} can't be set: {error}", self.entry.shown()));
        }
        Ok(())
    }
}

/// Whether going on makes no sense: the next file will meet it as well.
pub fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EROFS | libc::ENOMEM)
    )
}

fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => unlinkat(dir, name, UnlinkatFlags::RemoveDir),
        removed => removed,
    }
}

/// Opens a file to see its flags. Never a device: that could do anything.
fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    if Kind::of_mode(fs::stat_at(dir, &fs::c_name(name)?)?.mode) != Some(Kind::File) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(File::from(openat(dir, name, flags, Mode::empty())?))
}

/// Makes a file that refuses changes accept them. The flags that it had, if it did not.
fn unlock(file: &File) -> io::Result<Option<u32>> {
    let flags = fs::inode_flags(file.as_fd())?;
    if flags & LOCKING == 0 {
        return Ok(None);
    }
    fs::set_inode_flags(file.as_fd(), flags & !LOCKING)?;
    Ok(Some(flags))
}

/// Whether something is there that no link can be made to: on another filesystem, or with too many
/// names; some filesystems know no links at all.
fn is_no_link(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EXDEV | libc::EMLINK | libc::EPERM | libc::EOPNOTSUPP)
    )
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn mode_of(entry: &Entry) -> Mode {
    Mode::from_bits_truncate(entry.mode)
}

fn time(time: Time) -> TimeSpec {
    TimeSpec::new(time.sec, time.nsec.into())
}

/// Whether a filesystem kept a time that not all of them can. It is not asked for others.
fn kept(dir: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> io::Result<()> {
    let sec = entry.mtime.sec;
    if i32::try_from(sec).is_ok() || fs::stat_at(dir, name)?.mtime.0 == sec {
        return Ok(());
    }
    Err(io::Error::other(format!("this filesystem keeps no time so far from 1970: second {sec}")))
}

pub fn signed(size_bytes: u64) -> io::Result<i64> {
    i64::try_from(size_bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}
