//! What an extraction finds where it puts files: directories that others made, and the disks below.
//!
//! On a live system most directories on the way to a file stay as they are. Three things must leave
//! them while files come in: a default ACL and a project, which each new file would inherit, and flags
//! that lock. They are put back at the end, on whatever way that comes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::syncfs;

use super::dirs::Dirs;
use super::entry::shown;
use super::flags;
use super::warnings::Warnings;
use crate::sys::fs::{self, Project, XattrOf};
use crate::sys::sync::lock;
use crate::ui::Ui;

/// Flags that make a file refuse changes, hard links too: they are set when all else is done.
pub const LOCKING: u32 = flags::IMMUTABLE | flags::APPEND;

const DEFAULT_ACL: &std::ffi::CStr = c"system.posix_acl_default";

/// How long a disk may take before it is said that it is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shared by all threads of an extraction.
#[derive(Debug)]
pub struct Ground {
    root: PathBuf,
    taken: Mutex<BTreeMap<Vec<u8>, Taken>>,
    /// By device. Open since before something was written there, as the kernel tells a descriptor
    /// only of errors that come after it.
    disks: Mutex<HashMap<(u32, u32), Disk>>,
}

/// What a directory lacks for the time being.
#[derive(Debug, Default)]
struct Taken {
    default_acl: Option<Vec<u8>>,
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
    pub fn new(root: &Path) -> Result<Ground> {
        let (taken, disks) = Default::default();
        let ground = Ground { root: root.to_owned(), taken, disks };
        let dir = fs::open_path(root).with_context(|| format!("opening {}", root.display()))?;
        ground.enter_old(b"", dir.as_fd());
        Ok(ground)
    }

    /// Makes the directory `dir` at `path` one that files can be put into.
    pub fn enter(&self, path: &[u8], dir: BorrowedFd<'_>) {
        self.note_disk(path, dir);
        let of = XattrOf::At(dir, c".");
        // Where it can't be read, there is none: other filesystems.
        let Ok(Some(acl)) = fs::get_xattr(of, DEFAULT_ACL) else { return };
        lock(&self.taken).entry(path.to_vec()).or_default().default_acl.get_or_insert(acl);
        let errno = |removed: io::Result<()>| removed.err().and_then(|error| error.raw_os_error());
        let mut failed = errno(fs::remove_xattr(of, DEFAULT_ACL));
        if failed == Some(libc::EPERM) && self.unlock(path, dir).is_ok() {
            failed = errno(fs::remove_xattr(of, DEFAULT_ACL));
        }
        // Who may not do it lives with what is inherited. (No data: another thread was faster.)
        if failed.is_some_and(|errno| errno != libc::ENODATA)
            && let Some(taken) = lock(&self.taken).get_mut(path)
        {
            taken.default_acl = None;
        }
    }

    /// As [`Ground::enter`], of what was there before. What is made in it is then like this, too.
    pub fn enter_old(&self, path: &[u8], dir: BorrowedFd<'_>) {
        self.enter(path, dir);
        let Ok(dir) = open_dir(dir) else { return };
        let Ok(project) = fs::project(dir.as_fd()) else { return };
        if project.inherits {
            lock(&self.taken).entry(path.to_vec()).or_default().hands_project_on = true;
            // Who may not do it lives with what is inherited.
            let _ = fs::set_project(dir.as_fd(), Project { inherits: false, ..project });
        }
    }

    /// Makes the directory `dir` at `path` accept changes.
    pub fn unlock(&self, path: &[u8], dir: BorrowedFd<'_>) -> io::Result<()> {
        let dir = open_dir(dir)?;
        let flags = fs::inode_flags(dir.as_fd())?;
        if flags & LOCKING != 0 {
            lock(&self.taken).entry(path.to_vec()).or_default().flags |= flags & LOCKING;
            fs::set_inode_flags(dir.as_fd(), flags & !LOCKING)?;
        }
        Ok(())
    }

    /// The directory has become what the archive says: nothing of before comes back.
    pub fn is_finished(&self, path: &[u8]) {
        lock(&self.taken).remove(path);
    }

    /// The end of an extraction, of one that failed too.
    ///
    /// # Errors
    /// That with which it ended; else when what was taken can't be put back.
    pub fn leave<T>(&self, extracted: Result<T>, warnings: &Warnings) -> Result<T> {
        let put_back = self.put_back(warnings);
        let extracted = extracted?;
        put_back.map(|()| extracted)
    }

    /// Gives back what was taken from directories that stay as they were.
    fn put_back(&self, warnings: &Warnings) -> Result<()> {
        let taken = std::mem::take(&mut *lock(&self.taken));
        if taken.is_empty() {
            return Ok(());
        }
        let mut dirs =
            Dirs::plain(&self.root).with_context(|| format!("opening {}", self.root.display()))?;
        for (path, taken) in &taken {
            if let Err(error) = taken.put_back(&mut dirs, path) {
                let what = [
                    taken.default_acl.as_ref().map(|_| "its default ACL".to_owned()),
                    taken.hands_project_on.then(|| "its flag projinherit".to_owned()),
                    (taken.flags != 0).then(|| format!("its flag {}", flags::to_text(taken.flags))),
                ];
                let what: Vec<_> = what.into_iter().flatten().collect();
                warnings.add(format!("{} has lost {}: {error}", shown(path), what.join(" and ")));
            }
        }
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

impl Taken {
    fn put_back(&self, dirs: &mut Dirs, path: &[u8]) -> io::Result<()> {
        let dir = match dirs.get(path) {
            // The archive has something else there.
            Err(error) if is_no_dir(&error) => return Ok(()),
            dir => open_dir(dir?)?,
        };
        let set = |acl| fs::set_xattr(XattrOf::Fd(dir.as_fd()), DEFAULT_ACL, acl);
        let acl = self.default_acl.as_deref().map_or(Ok(()), set);
        let flags = match self.flags {
            0 => Ok(()),
            flags => fs::inode_flags(dir.as_fd())
                .and_then(|others| fs::set_inode_flags(dir.as_fd(), others | flags)),
        };
        let project = match self.hands_project_on {
            false => Ok(()),
            true => fs::project(dir.as_fd()).and_then(|project| {
                fs::set_project(dir.as_fd(), Project { inherits: true, ..project })
            }),
        };
        acl.and(project).and(flags)
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
