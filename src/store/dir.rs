//! A directory as a store: on a local disk, on a stick, or on an NFS server.
//!
//! Everything goes through the open node directory, never through its path: when its filesystem is
//! unmounted or something is mounted above it, writes fail or still go to the same filesystem, and
//! never land on another one. Each step down is checked to stay on that filesystem and to be no
//! symbolic link.
//!
//! An object is written under an unfinished name ([`super::name`]), made durable, renamed, and the
//! directory made durable. So it is whole or not there, whenever power fails.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{LinkatFlags, UnlinkatFlags, fsync, linkat, unlinkat};

use super::name::{OWNER, Tag, is_name, is_part_of_name};
use super::room::{self, MAKE_ROOM};
use super::{Access, Object, PIECE_BYTES, Pieces, Store, StoreError};
use crate::sys::direct::DirectWriter;
use crate::sys::fs;
use crate::sys::sync::lock;

const DIR_FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const DIR_MODE: Mode = Mode::S_IRWXU;
const FILE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The nodes that have a tree in the directory `base`, with generations or still without. One that may
/// not be looked into is among them: who opens it is told why.
pub fn trees(base: &OwnedFd) -> nix::Result<Vec<String>> {
    let dir = openat(base, ".", DIR_FLAGS, Mode::empty())?;
    let mut nodes = Vec::new();
    for entry in Dir::from_fd(dir)?.iter() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if is_part_of_name(name) && is_tree(base, name) {
            nodes.push(name.to_owned());
        }
    }
    nodes.sort();
    Ok(nodes)
}

/// In two steps: one path with both names would be followed through a link to another node's tree.
fn is_tree(base: &OwnedFd, node: &str) -> bool {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let kind = |name: &str| {
        let dir = openat(base, node, flags, Mode::empty())?;
        let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))
    };
    match kind("generations") {
        Ok(kind) => kind == SFlag::S_IFDIR,
        Err(Errno::ENOENT) => kind(OWNER) == Ok(SFlag::S_IFREG),
        Err(errno) => errno == Errno::EACCES,
    }
}

/// One node's tree in a directory.
#[derive(Debug)]
pub struct DirStore {
    node_dir: OwnedFd,
    /// The filesystem that all of the tree is on.
    device: u64,
    /// For people: the URL of the tree.
    label: String,
    tag: Tag,
    /// Big objects come one after the other, or a disk with heads would go to and fro between them.
    /// What one waits for at its end does not hold up the next.
    writing: Mutex<()>,
}

impl DirStore {
    /// Opens the tree of `node` in the directory `base`, which `url` names, as [`super::open`] does.
    pub fn open(base: &OwnedFd, url: &str, node: &str, access: Access) -> Result<Self, StoreError> {
        let label = format!("{url}/{node}");
        let fail = |doing: &str, errno| failure(&label, doing, node, errno);
        if !is_part_of_name(node) {
            let detail = format!(
                "{node:?} can't name a directory of a node\nhint: --node NAME with letters, digits, dots, dashes"
            );
            return Err(StoreError::Other { store: url.to_owned(), detail });
        }
        if access == Access::Write {
            match mkdirat(base, node, DIR_MODE) {
                Ok(()) => fsync_dir(base).map_err(|e| fail("creating", e))?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(fail("creating", errno)),
            }
        }
        let node_dir = openat(base, node, DIR_FLAGS, Mode::empty()).map_err(|errno| match errno {
            // Through a link, one node would get at the tree of another.
            Errno::ELOOP | Errno::ENOTDIR => StoreError::Other {
                store: url.to_owned(),
                detail: format!(
                    "{node} is a symbolic link or a file there, and must be a directory of its own\nhint: another name for this node: --node NAME"
                ),
            },
            errno => fail("opening the directory", errno),
        })?;
        let device = fstat(&node_dir).map_err(|e| fail("looking at", e))?.st_dev;
        let store =
            DirStore { node_dir, device, label, tag: Tag::own(), writing: Mutex::default() };
        if matches!(access, Access::Change | Access::Write) {
            store.write_part(&store.node_dir, "try", &mut |file| file.write_all(b"rr\n"))?;
        }
        Ok(store)
    }

    fn fail(&self, doing: &str, name: &str, errno: Errno) -> StoreError {
        failure(&self.label, doing, name, errno)
    }

    fn fail_io(&self, doing: &str, name: &str, error: &std::io::Error) -> StoreError {
        match error.raw_os_error() {
            Some(code) => self.fail(doing, name, Errno::from_raw(code)),
            None => StoreError::Other {
                store: self.label.clone(),
                detail: format!("{doing} {name}: {error}"),
            },
        }
    }

    /// The open directory that `name` is in, and the last part of the name.
    fn parent<'n>(&self, name: &'n str, make: bool) -> Result<(OwnedFd, &'n str), StoreError> {
        if !is_name(name) {
            let detail = format!("{name:?} can't be the name of an object");
            return Err(StoreError::Other { store: self.label.clone(), detail });
        }
        let (dirs, leaf) = name.rsplit_once('/').unwrap_or(("", name));
        Ok((self.open_dir(dirs, make)?, leaf))
    }

    /// Opens a directory of the tree; the empty name is the tree itself.
    fn open_dir(&self, dirs: &str, make: bool) -> Result<OwnedFd, StoreError> {
        let mut dir = openat(&self.node_dir, ".", DIR_FLAGS, Mode::empty())
            .map_err(|errno| self.fail("opening", ".", errno))?;
        for part in dirs.split('/').filter(|part| !part.is_empty()) {
            let opened = match openat(&dir, part, DIR_FLAGS, Mode::empty()) {
                Err(Errno::ENOENT) if make => make_dir(&dir, part),
                other => other,
            };
            dir = opened.map_err(|errno| self.fail("opening the directory of", dirs, errno))?;
            let device = fstat(&dir).map_err(|e| self.fail("looking at", dirs, e))?.st_dev;
            if device != self.device {
                let detail = format!(
                    "{dirs} is on another filesystem than the rest of the tree: nothing is touched there"
                );
                return Err(StoreError::Other { store: self.label.clone(), detail });
            }
        }
        Ok(dir)
    }

    /// Writes a whole unfinished file.
    fn write_part<'d>(
        &self,
        dir: &'d OwnedFd,
        leaf: &str,
        fill: &mut dyn FnMut(&mut File) -> std::io::Result<()>,
    ) -> Result<Part<'d>, StoreError> {
        let name = self.tag.part_name(leaf);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let fd = openat(dir, name.as_str(), flags, FILE_MODE)
            .map_err(|errno| self.fail("creating", leaf, errno))?;
        let part = Part { dir, name, armed: true };
        let mut file = File::from(fd);
        fill(&mut file).map_err(|error| self.fail_io("writing", leaf, &error))?;
        Ok(part)
    }

    fn leave_room(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        if bytes < room::SMALL_BYTES {
            return Ok(());
        }
        let Some(free) = self.free_bytes()? else { return Ok(()) };
        room::leave(&self.label, name, bytes, free)
    }

    fn store(
        &self,
        name: &str,
        replace: bool,
        fill: &mut dyn FnMut(&mut File) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            let (dir, leaf) = self.parent(name, true)?;
            let mut durably = |file: &mut File| fill(file).and_then(|()| file.sync_all());
            let part = match self.write_part(&dir, leaf, &mut durably) {
                // The directory was empty and went away just now, see `delete`.
                Err(StoreError::NotFound { .. }) if tries < 3 => {
                    tries += 1;
                    continue;
                }
                other => other?,
            };
            let placed = if replace { part.replace(leaf) } else { part.place_new(leaf) };
            placed.map_err(|errno| self.fail("publishing", name, errno))?;
            return fsync_dir(&dir).map_err(|errno| self.fail("syncing", name, errno));
        }
    }

    fn open_object(&self, name: &str) -> Result<(File, u64), StoreError> {
        let (dir, leaf) = self.parent(name, false).map_err(|error| named(error, name))?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&dir, leaf, flags, Mode::empty())
            .map_err(|errno| self.fail("opening", name, errno))?;
        let file = File::from(file);
        let meta = file.metadata().map_err(|e| self.fail_io("looking at", name, &e))?;
        if !meta.is_file() {
            let detail = format!("{name} is no regular file");
            return Err(StoreError::Other { store: self.label.clone(), detail });
        }
        Ok((file, meta.len()))
    }

    /// An object that has `len` bytes from `offset`.
    fn open_range(&self, name: &str, offset: u64, len: u64) -> Result<File, StoreError> {
        let (file, size) = self.open_object(name)?;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let detail = format!(
                "{name} is cut off: {len} bytes from {offset} were asked for, it has {size} bytes"
            );
            return Err(StoreError::Other { store: self.label.clone(), detail });
        }
        Ok(file)
    }

    /// Replaces what is in `room` by `len` bytes from `offset`.
    fn fill(
        &self,
        name: &str,
        file: &File,
        offset: u64,
        len: usize,
        room: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        room.clear();
        while room.len() < len {
            let (left, at) = (len - room.len(), offset + room.len() as u64);
            match fs::append_at(file.as_fd(), room, left, at) {
                Ok(0) => {
                    return Err(self.fail_io("reading", name, &ErrorKind::UnexpectedEof.into()));
                }
                Ok(_) => {}
                Err(error) => return Err(self.fail_io("reading", name, &error)),
            }
        }
        Ok(())
    }

    /// Calls `found` with the open directory, its name with a slash at the end, and a file in it,
    /// for each regular file below `dirs`. Directories that no object can be in are passed by.
    fn walk(
        &self,
        dirs: &str,
        found: &mut dyn FnMut(&OwnedFd, &str, &str) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let dir = match self.open_dir(dirs, false) {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        let at = if dirs.is_empty() { String::new() } else { format!("{dirs}/") };
        let mut reading = Dir::openat(&dir, ".", DIR_FLAGS, Mode::empty())
            .map_err(|errno| self.fail("reading the directory", &at, errno))?;
        let mut below = Vec::new();
        for entry in reading.iter() {
            let entry = entry.map_err(|e| self.fail("reading the directory", &at, e))?;
            let Ok(leaf) = entry.file_name().to_str() else { continue };
            let kind = entry.file_type().or_else(|| kind_of(&dir, leaf));
            match kind {
                Some(Type::Directory) if is_part_of_name(leaf) => below.push(format!("{at}{leaf}")),
                Some(Type::File) => found(&dir, &at, leaf)?,
                _ => {}
            }
        }
        below.iter().try_for_each(|dirs| self.walk(dirs, found))
    }
}

impl Store for DirStore {
    fn url(&self) -> String {
        self.label.clone()
    }

    fn put_pieces(&self, name: &str, pieces: &Pieces) -> Result<(), StoreError> {
        self.leave_room(name, pieces.size_bytes())?;
        let is_big = pieces.size_bytes() >= room::SMALL_BYTES;
        self.store(name, true, &mut |file| {
            let _alone = is_big.then(|| lock(&self.writing));
            let mut file = DirectWriter::new(file, pieces.size_bytes());
            pieces.iter().try_for_each(|piece| file.write_all(piece))?;
            file.finish()
        })
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        let open = || File::open(path);
        // What can't be read here is no trouble of the store's, so it is opened before.
        let size = open().and_then(|file| file.metadata()).map_err(|error| StoreError::Other {
            store: self.label.clone(),
            detail: format!("opening {} to store it as {name}: {error}", path.display()),
        })?;
        self.leave_room(name, size.len())?;
        self.store(name, true, &mut |file| std::io::copy(&mut open()?, file).map(drop))
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.store(name, false, &mut |file| file.write_all(bytes))
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let (mut file, size) = self.open_object(name)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(|e| self.fail_io("reading", name, &e))?;
        Ok(bytes)
    }

    fn get_range_into(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        mut room: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        let file = self.open_range(name, offset, len as u64)?;
        self.fill(name, &file, offset, len, &mut room)?;
        Ok(room)
    }

    fn read_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let file = self.open_range(name, offset, len)?;
        let (mut at, end, mut room) = (offset, offset + len, Vec::new());
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            self.fill(name, &file, at, part, &mut room)?;
            each(&room);
            at += part as u64;
        }
        Ok(())
    }

    fn size_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.open_object(name).map(|(_, size)| size)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let (dirs, _) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        if !dirs.is_empty() && !is_name(dirs) {
            let detail = format!("{prefix:?} can't be the start of a name");
            return Err(StoreError::Other { store: self.label.clone(), detail });
        }
        let mut objects = Vec::new();
        self.walk(dirs, &mut |dir, at, leaf| {
            let name = format!("{at}{leaf}");
            if !is_part_of_name(leaf) || !name.starts_with(prefix) {
                return Ok(());
            }
            match fstatat(dir, leaf, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
                    objects.push(Object { name, size_bytes });
                    Ok(())
                }
                // Deleted since the directory was read.
                Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(self.fail("looking at", &name, errno)),
            }
        })?;
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (dir, leaf) = match self.parent(name, false) {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        match unlinkat(&dir, leaf, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => fsync_dir(&dir).map_err(|errno| self.fail("syncing", name, errno))?,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(self.fail("deleting", name, errno)),
        }
        // Directories that are empty now go too; one that is not stays by itself.
        let mut dirs = name;
        while let Some((above, _)) = dirs.rsplit_once('/') {
            let (dir, leaf) = match self.parent(above, false) {
                Err(StoreError::NotFound { .. }) => break,
                other => other?,
            };
            if unlinkat(&dir, leaf, UnlinkatFlags::RemoveDir).is_err() {
                break;
            }
            dirs = above;
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        let stat = fstatvfs(&self.node_dir).map_err(|e| self.fail("asking for room at", ".", e))?;
        Ok(stat.blocks_available().checked_mul(stat.fragment_size()))
    }

    fn sweep(&self) -> Result<usize, StoreError> {
        let mut swept = 0;
        self.walk("", &mut |dir, _, leaf| {
            if Tag::of_part(leaf).is_some_and(|tag| !tag.is_alive()) {
                match unlinkat(dir, leaf, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) => swept += 1,
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(self.fail("deleting the unfinished", leaf, errno)),
                }
            }
            Ok(())
        })?;
        Ok(swept)
    }
}

/// An unfinished file; goes away unless it is published.
struct Part<'d> {
    dir: &'d OwnedFd,
    name: String,
    armed: bool,
}

impl Part<'_> {
    fn replace(mut self, leaf: &str) -> nix::Result<()> {
        renameat(self.dir, self.name.as_str(), self.dir, leaf)?;
        self.armed = false;
        Ok(())
    }

    /// Gives the file its name unless that is taken. NFS knows no rename that replaces nothing, so
    /// there it is a link(2), which is as atomic; the unfinished name then goes by `drop`.
    fn place_new(mut self, leaf: &str) -> nix::Result<()> {
        let (dir, from) = (self.dir, self.name.as_str());
        match renameat2(dir, from, dir, leaf, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {
                self.armed = false;
                return Ok(());
            }
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
        match linkat(dir, from, dir, leaf, LinkatFlags::empty()) {
            // An NFS server that got the request twice answers the second with EEXIST, although
            // the first made the link.
            Err(Errno::EEXIST) if self.is(leaf)? => Ok(()),
            other => other,
        }
    }

    fn is(&self, leaf: &str) -> nix::Result<bool> {
        let inode = |name: &str| {
            fstatat(self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|s| (s.st_dev, s.st_ino))
        };
        Ok(inode(leaf)? == inode(&self.name)?)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if self.armed {
            // Where this fails, a later run sweeps it.
            let _ = unlinkat(self.dir, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// The kind of an entry on filesystems that don't say it in the directory.
fn kind_of(dir: &OwnedFd, leaf: &str) -> Option<Type> {
    let stat = fstatat(dir, leaf, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFREG => Some(Type::File),
        _ => None,
    }
}

fn make_dir(dir: &OwnedFd, part: &str) -> nix::Result<OwnedFd> {
    match mkdirat(dir, part, DIR_MODE) {
        Ok(()) => fsync_dir(dir)?,
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(dir, part, DIR_FLAGS, Mode::empty())
}

/// Makes what changed in a directory durable. Some FUSE filesystems know no such thing.
fn fsync_dir(dir: &OwnedFd) -> nix::Result<()> {
    match fsync(dir) {
        Err(Errno::EINVAL | Errno::ENOSYS) => Ok(()),
        other => other,
    }
}

/// A missing directory means to the caller that the object is missing.
fn named(error: StoreError, name: &str) -> StoreError {
    match error {
        StoreError::NotFound { store, .. } => StoreError::NotFound { store, name: name.to_owned() },
        other => other,
    }
}

/// What an errno means for a store, with a hint where one helps.
fn failure(store: &str, doing: &str, name: &str, errno: Errno) -> StoreError {
    let store = store.to_owned();
    let detail = |hint: &str| format!("{doing} {name}: {}{hint}", errno.desc());
    match errno {
        Errno::ENOENT => StoreError::NotFound { store, name: name.to_owned() },
        Errno::EEXIST => StoreError::Exists { store, name: name.to_owned() },
        Errno::ENOSPC => StoreError::Full { store, detail: detail(MAKE_ROOM) },
        Errno::EDQUOT => {
            StoreError::Full { store, detail: detail("\nhint: raise the quota there") }
        }
        Errno::EROFS => StoreError::Denied {
            store,
            detail: detail("\nhint: mount it, or export it, for writing"),
        },
        Errno::EACCES | Errno::EPERM => StoreError::Denied {
            store,
            detail: detail(
                "\nhint: run as root; an NFS server must export it with no_root_squash, or own the directory to whom it maps root",
            ),
        },
        Errno::ETIMEDOUT
        | Errno::ESTALE
        | Errno::EAGAIN
        | Errno::EINTR
        | Errno::EBUSY
        | Errno::ECONNREFUSED
        | Errno::ECONNRESET
        | Errno::ECONNABORTED
        | Errno::ENOTCONN
        | Errno::EPIPE
        | Errno::EHOSTDOWN
        | Errno::EHOSTUNREACH
        | Errno::ENETDOWN
        | Errno::ENETUNREACH => StoreError::Transient { store, detail: detail("") },
        Errno::EIO => StoreError::Other {
            store,
            detail: detail("\nhint: the kernel's log (dmesg) says what is wrong with that disk"),
        },
        _ => StoreError::Other { store, detail: detail("") },
    }
}
