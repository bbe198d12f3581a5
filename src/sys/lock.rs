//! What only one process of this machine may do at a time: locks below /run/rr and on directories, which
//! the kernel releases when their holder ends, however it does.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

const DIR: &str = "/run/rr";

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Takes the lock `name`. None: another process holds it.
pub fn take(name: &str) -> Result<Option<Lock>> {
    take_in(Path::new(DIR), name)
}

fn take_in(dir: &Path, name: &str) -> Result<Option<Lock>> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    lock(file, FlockArg::LockExclusiveNonblock, &path)
}

/// Locks a directory itself. None: another process holds it.
pub fn take_dir(dir: &Path) -> Result<Option<Lock>> {
    lock(open_dir(dir)?, FlockArg::LockExclusiveNonblock, dir)
}

/// As [`take_dir`], when whoever holds it has let it go.
pub fn wait_for_dir(dir: &Path) -> Result<Option<Lock>> {
    lock(open_dir(dir)?, FlockArg::LockExclusive, dir)
}

fn open_dir(dir: &Path) -> Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = File::options().read(true).custom_flags(flags).open(dir);
    opened.with_context(|| format!("opening {}", dir.display()))
}

fn lock(file: File, how: FlockArg, path: &Path) -> Result<Option<Lock>> {
    match Flock::lock(file, how) {
        Ok(file) => Ok(Some(Lock { _file: file })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let held = take_in(dir.path(), "a").unwrap().unwrap();
        assert!(take_in(dir.path(), "a").unwrap().is_none());
        assert!(take_in(dir.path(), "b").unwrap().is_some());
        drop(held);
        assert!(take_in(dir.path(), "a").unwrap().is_some());
    }
}
