//! What an extraction finds where it puts files: directories that others made, and the disks below.
//!
//! On a live system most directories on the way to a file stay as they are. Three things must leave
//! them while files come in: what each new file would inherit (a default ACL, a project, inode
//! flags), and flags that lock. They are put back at the end, on whatever way that comes but SIGKILL.
//!
//! A directory that is only on the way never takes the place of a symbolic link or file: that would
//! take away what the path leads to on this machine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::syncfs;

use super::dirs::Dirs;
use super::entry::shown;
use super::flags;
use super::pick::is_at_or_below;
use super::warnings::Warnings;
use crate::layout::mount::escape;
use crate::sys::fs::{self, Project, XattrOf};
use crate::sys::signals::AtSignal;
use crate::sys::sync::lock;
use crate::ui::Ui;

/// Flags that make a file refuse changes, hard links too: they are set when all else is done.
pub const LOCKING: u32 = flags::IMMUTABLE | flags::APPEND;

const DEFAULT_ACL: &std::ffi::CStr = c"system.posix_acl_default";
/// How btrfs compresses a file, or what is made in a directory. Its flag alone does not say that, and
/// to set the flag sets this to what it is for most.
pub const COMPRESSION: &std::ffi::CStr = c"btrfs.compression";

/// The longest path of a directory on the way that is noted; the kernel takes no longer ones at once.
const NOTED_BYTES: usize = 4096;

/// How long a disk may take before it is said that it is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which directories come with an archive. Others are only on the way to what does.
#[derive(Debug)]
pub enum Brought {
    /// Those at and below these: a generation has an entry for every one.
    Below(Vec<Vec<u8>>),
    /// Those that it has a member for, when that comes.
    Members,
}

/// Shared by all threads of an extraction.
#[derive(Debug)]
pub struct Ground {
    root: PathBuf,
    brought: Brought,
    keeps_root: bool,
    taken: Arc<Mutex<AllTaken>>,
    /// Puts back what is taken if a signal comes; from when something is.
    at_signal: OnceLock<Option<AtSignal>>,
    /// Directories on the way that were missing, and that no entry has told of yet.
    made: Mutex<BTreeSet<Vec<u8>>>,
    /// Symbolic links where directories are now, and what they said.
    replaced: Mutex<Vec<(Vec<u8>, OsString)>>,
    /// By device. Open since before something was written there, as the kernel tells a descriptor
    /// only of errors that come after it.
    disks: Mutex<HashMap<(u32, u32), Disk>>,
    /// The devices that are known to keep no fractions of seconds.
    coarse: Mutex<HashSet<(u32, u32)>>,
}

type AllTaken = BTreeMap<Vec<u8>, Taken>;

/// What a directory lacks for the time being.
#[derive(Debug, Default)]
struct Taken {
    default_acl: Option<Vec<u8>>,
    compression: Option<Vec<u8>>,
    flags: u32,
    hands_project_on: bool,
}

#[derive(Debug)]
struct Disk {
    /// The first directory on it that was entered.
    path: Vec<u8>,
    dir: File,
}

impl Ground {
    /// `keeps_root`: the root was there before, and stays as it is.
    pub fn new(root: &Path, brought: Brought, keeps_root: bool) -> Result<Ground> {
        let ground = Ground {
            root: root.to_owned(),
            brought,
            keeps_root,
            taken: Arc::default(),
            at_signal: OnceLock::new(),
            made: Mutex::default(),
            replaced: Mutex::default(),
            disks: Mutex::default(),
            coarse: Mutex::default(),
        };
        let dir = fs::open_path(root).with_context(|| format!("opening {}", root.display()))?;
        ground.enter_old(b"", dir.as_fd());
        Ok(ground)
    }

    /// Whether the directory `path` comes with the archive, which `is_entry` may say of it just now.
    pub fn is_brought(&self, path: &[u8], is_entry: bool) -> bool {
        match &self.brought {
            Brought::Below(tops) => tops.iter().any(|top| is_at_or_below(path, top)),
            Brought::Members => is_entry,
        }
    }

    /// Whether a directory stays as it is, whatever an entry says of it.
    pub fn keeps(&self, path: &[u8]) -> bool {
        if path.is_empty() {
            return self.keeps_root;
        }
        !self.is_brought(path, true) && !lock(&self.made).contains(path)
    }

    /// A directory has taken the place of something: of a link, if it had a target.
    pub fn has_replaced(&self, path: &[u8], target: Option<OsString>) {
        if let Some(target) = target {
            lock(&self.replaced).push((path.to_vec(), target));
        }
    }

    /// Why nothing can be put behind what is no directory.
    pub fn in_the_way(&self, path: &[u8], what: &str) -> io::Error {
        let path = self.root.join(OsStr::from_bytes(path));
        io::Error::other(format!(
            "{} is {what} here, and this would be behind it: restore to another --to DIR, or remove it",
            path.display()
        ))
    }

    /// What directories lack, to take more. Nobody puts it back meanwhile: a signal finds everything
    /// that is taken in it.
    fn taken(&self) -> MutexGuard<'_, AllTaken> {
        self.at_signal.get_or_init(|| {
            let (root, taken) = (self.root.clone(), Arc::clone(&self.taken));
            let put_back = move || {
                let taken = lock(&taken);
                for (path, error) in put_all_back(&root, &taken) {
                    log::warn!("{}: {error}", shown(&path));
                }
                // From here to the end nothing is taken any more.
                std::mem::forget(taken);
            };
            AtSignal::new(put_back)
                .inspect_err(|error| log::warn!("catching signals: {error}"))
                .ok()
        });
        lock(&self.taken)
    }

    /// Makes the directory `dir` at `path` one that files can be put into.
    fn enter(&self, path: &[u8], dir: BorrowedFd<'_>) {
        self.note_disk(path, dir);
        let of = XattrOf::At(dir, c".");
        // Where it can't be read, there is none: other filesystems.
        let Ok(Some(acl)) = fs::get_xattr(of, DEFAULT_ACL) else { return };
        let mut taken = self.taken();
        let taken = taken.entry(path.to_vec()).or_default();
        taken.default_acl.get_or_insert(acl);
        let errno = |removed: io::Result<()>| removed.err().and_then(|error| error.raw_os_error());
        let mut failed = errno(fs::remove_xattr(of, DEFAULT_ACL));
        if failed == Some(libc::EPERM) && taken.unlock(dir).is_ok() {
            failed = errno(fs::remove_xattr(of, DEFAULT_ACL));
        }
        // Who may not do it lives with what is inherited. (No data: another thread was faster.)
        if failed.is_some_and(|errno| errno != libc::ENODATA) {
            taken.default_acl = None;
        }
    }

    /// As [`Ground::enter`], of what was made just now.
    pub fn enter_new(&self, path: &[u8], dir: BorrowedFd<'_>, is_brought: bool) {
        // Of an archive that nests directories without end, their paths would fill the memory.
        let is_sane = path.len() <= NOTED_BYTES || matches!(self.brought, Brought::Below(_));
        if !is_brought && is_sane {
            lock(&self.made).insert(path.to_vec());
        }
        self.enter(path, dir);
    }

    /// As [`Ground::enter`], of what was there before. What is made in it is then like this, too.
    pub fn enter_old(&self, path: &[u8], dir: BorrowedFd<'_>) {
        self.enter(path, dir);
        let Ok(dir) = open_dir(dir) else { return };
        let dir = dir.as_fd();
        let inherited = fs::inode_flags(dir).is_ok_and(|flags| flags & flags::INHERITED != 0);
        if inherited {
            self.taken().entry(path.to_vec()).or_default().take_flags(dir);
        }
        let Ok(project) = fs::project(dir) else { return };
        if project.inherits {
            let mut taken = self.taken();
            taken.entry(path.to_vec()).or_default().hands_project_on = true;
            // Who may not do it lives with what is inherited.
            let _ = fs::set_project(dir, Project { inherits: false, ..project });
        }
    }

    /// Makes the directory `dir` at `path` accept changes.
    pub fn unlock(&self, path: &[u8], dir: BorrowedFd<'_>) -> io::Result<()> {
        if fs::inode_flags(open_dir(dir)?.as_fd())? & LOCKING == 0 {
            return Ok(());
        }
        self.taken().entry(path.to_vec()).or_default().unlock(dir)
    }

    /// The directory has become what the archive says: nothing of before comes back.
    pub fn is_finished(&self, path: &[u8]) {
        lock(&self.taken).remove(path);
        lock(&self.made).remove(path);
    }

    /// The device keeps times in whole seconds: that is said once.
    pub fn has_no_fractions(&self, dev: (u32, u32), warnings: &Warnings) {
        if lock(&self.coarse).insert(dev) {
            let disks = lock(&self.disks);
            let path = disks.get(&dev).map(|disk| shown(&disk.path)).unwrap_or_default();
            warnings.add(format!(
                "{path}: this filesystem keeps no fractions of seconds: the times of files there lack them"
            ));
        }
    }

    /// The end of an extraction, of one that failed too.
    ///
    /// # Errors
    /// That with which it ended; else when what was taken can't be put back.
    pub fn leave<T>(&self, extracted: Result<T>, warnings: &Warnings) -> Result<T> {
        for (path, target) in std::mem::take(&mut *lock(&self.replaced)) {
            let (path, target) = (shown(&path), escape(&target.into_vec()));
            warnings.add(format!(
                "{path} was a symbolic link to {target}: it is a directory now, as in the backup"
            ));
        }
        if extracted.is_ok() {
            self.open_up(warnings);
        }
        let put_back = self.put_back(warnings);
        let extracted = extracted?;
        put_back.map(|()| extracted)
    }

    /// Directories that had to be made, and that the archive does not tell of, are as anybody's are.
    fn open_up(&self, warnings: &Warnings) {
        let made = std::mem::take(&mut *lock(&self.made));
        let (Ok(mut dirs), mode) = (Dirs::plain(&self.root), 0o777 & !fs::umask()) else { return };
        // The deepest first.
        for path in made.iter().rev() {
            let open = dirs.get(path).and_then(open_dir);
            let opened = open.and_then(|dir| {
                let group = fs::stat_at(dir.as_fd(), c"")?.mode & 0o2000;
                Ok(fchmod(&dir, Mode::from_bits_truncate(mode | group))?)
            });
            match opened {
                Err(error) if !is_no_dir(&error) => {
                    warnings.add(format!("{}: its mode can't be set: {error}", shown(path)));
                }
                _ => {}
            }
        }
    }

    /// Gives back what was taken from directories that stay as they were.
    fn put_back(&self, warnings: &Warnings) -> Result<()> {
        let mut taken = lock(&self.taken);
        if taken.is_empty() {
            return Ok(());
        }
        for (path, error) in put_all_back(&self.root, &taken) {
            let Some(taken) = taken.get(&path) else { return Err(error.into()) };
            warnings.add(format!("{} has lost {}: {error}", shown(&path), taken.told()));
        }
        taken.clear();
        Ok(())
    }

    /// What can't be opened is not waited for.
    fn note_disk(&self, path: &[u8], dir: BorrowedFd<'_>) {
        let Ok(stat) = fs::stat_at(dir, c"") else { return };
        let mut disks = lock(&self.disks);
        if !disks.contains_key(&stat.dev)
            && let Ok(dir) = open_dir(dir)
        {
            disks.insert(stat.dev, Disk { path: path.to_vec(), dir });
        }
    }

    /// Waits until the disks have everything. Before that no write is known to have worked: a
    /// kernel takes them all into its memory.
    ///
    /// # Errors
    /// When a disk does not have what was written.
    pub fn sync(&self, ui: &Ui) -> Result<()> {
        let disks = std::mem::take(&mut *lock(&self.disks));
        std::thread::scope(|scope| {
            let (_done, wait) = mpsc::channel::<()>();
            scope.spawn(move || {
                if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    ui.info("waiting until the disk has all files");
                }
            });
            disks.values().try_for_each(|disk| {
                syncfs(disk.dir.as_fd()).map_err(|errno| {
                    anyhow!(
                        "the disk of {} did not take all that was written to it: {errno}\nhint: dmesg tells more; restore again when it is mended",
                        shown(&disk.path)
                    )
                })
            })
        })
    }
}

/// What could not be put back, and why. Of the root itself where nothing could be.
fn put_all_back(root: &Path, taken: &AllTaken) -> Vec<(Vec<u8>, io::Error)> {
    let mut dirs = match Dirs::plain(root) {
        Ok(dirs) => dirs,
        Err(error) => return vec![(Vec::new(), error)],
    };
    let failed = |(path, taken): (&Vec<u8>, &Taken)| {
        taken.put_back(&mut dirs, path).err().map(|error| (path.clone(), error))
    };
    taken.iter().filter_map(failed).collect()
}

impl Taken {
    /// Takes the flags that files would inherit; with those that lock, or nothing can be taken.
    fn take_flags(&mut self, dir: BorrowedFd<'_>) {
        // As they are now: another thread may have been faster.
        let Ok(flags) = fs::inode_flags(dir) else { return };
        let mut some = flags & flags::INHERITED;
        if some == 0 {
            return;
        }
        some |= flags & LOCKING;
        let compression = match flags & flags::COMPRESS {
            0 => None,
            _ => fs::get_xattr(XattrOf::Fd(dir), COMPRESSION).ok().flatten(),
        };
        let before = self.flags;
        self.flags |= some;
        // Who may not do it lives with what is inherited.
        if fs::set_inode_flags(dir, flags & !some).is_err() {
            self.flags = before;
        } else if compression.is_some() {
            self.flags &= !flags::COMPRESS;
            self.compression = compression;
        }
    }

    fn unlock(&mut self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let dir = open_dir(dir)?;
        let flags = fs::inode_flags(dir.as_fd())?;
        if flags & LOCKING != 0 {
            self.flags |= flags & LOCKING;
            fs::set_inode_flags(dir.as_fd(), flags & !LOCKING)?;
        }
        Ok(())
    }

    fn told(&self) -> String {
        let what = [
            self.default_acl.as_ref().map(|_| "its default ACL".to_owned()),
            self.compression.as_ref().map(|_| "its compression".to_owned()),
            self.hands_project_on.then(|| "its flag projinherit".to_owned()),
            (self.flags != 0).then(|| format!("its flags {}", flags::to_text(self.flags))),
        ];
        what.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }

    fn put_back(&self, dirs: &mut Dirs, path: &[u8]) -> io::Result<()> {
        let dir = match dirs.get(path) {
            // The archive has something else there.
            Err(error) if is_no_dir(&error) => return Ok(()),
            dir => open_dir(dir?)?,
        };
        let set = |key, value: &Option<Vec<u8>>| match value {
            Some(value) => fs::set_xattr(XattrOf::Fd(dir.as_fd()), key, value),
            None => Ok(()),
        };
        let acl = set(DEFAULT_ACL, &self.default_acl);
        let project = match self.hands_project_on {
            false => Ok(()),
            true => fs::project(dir.as_fd()).and_then(|project| {
                fs::set_project(dir.as_fd(), Project { inherits: true, ..project })
            }),
        };
        let flags = match self.flags {
            0 => Ok(()),
            flags => fs::inode_flags(dir.as_fd())
                .and_then(|others| fs::set_inode_flags(dir.as_fd(), others | flags)),
        };
        // Last, as the flag would set it to what it is for most.
        let compression = set(COMPRESSION, &self.compression);
        acl.and(compression).and(project).and(flags)
    }
}

fn is_no_dir(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

/// A descriptor that more can be done with than with one for paths only.
pub fn open_dir(dir: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(File::from(openat(dir, c".", flags, Mode::empty())?))
}
