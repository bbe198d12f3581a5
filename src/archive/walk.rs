//! Goes through the trees in the order of the stream: a directory, then what is in it, by the
//! bytes of the names.
//!
//! Other filesystems are not entered, unless they are a tree of the backup themselves: the
//! [`View`] shows what is below them. So each path comes once, and the order does not depend on where
//! filesystems are mounted.

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::dirs::{Dirs, join};
use super::entry::shown;
use super::select::{Select, Way};
use super::warnings::Warnings;
use crate::sys::fs::Stat;

/// A file that the walk came to.
#[derive(Debug)]
pub struct Found {
    pub path: Vec<u8>,
    pub stat: Stat,
}

/// One directory whose names are being gone through.
struct Level {
    path: Vec<u8>,
    way: Way,
    dev: (u32, u32),
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Calls `each` for everything that `select` selects in `dirs`, until it says false.
///
/// # Errors
/// When the root can't be read. Anything else that can't be read is a warning.
pub fn walk(
    mut dirs: Dirs,
    select: &Select,
    warnings: &Warnings,
    mut each: impl FnMut(Found) -> bool,
) -> Result<()> {
    let stat = dirs.stat(b"").context("reading the root")?;
    let way = if select.is_tree(b"") { Way::In } else { Way::Towards };
    if !each(Found { path: Vec::new(), stat }) {
        return Ok(());
    }
    let names = names(&mut dirs, b"").context("reading the root")?;
    let mut levels = vec![Level { path: Vec::new(), way, dev: stat.dev, names: names.into_iter() }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let path = join(&level.path, &name);
        if select.excludes(&path) {
            continue;
        }
        if level.way == Way::Towards && !select.is_tree(&path) && !select.leads_to_tree(&path) {
            continue;
        }
        let stat = match dirs.stat(&path) {
            Ok(stat) => stat,
            Err(error) => {
                warnings.add(format!("{} is not archived: {error}", shown(&path)));
                continue;
            }
        };
        let is_dir = stat.mode & libc::S_IFMT == libc::S_IFDIR;
        let is_mount = is_dir && dirs.is_mount(&path, &stat, level.dev);
        let way = select.way(&path, level.way, is_mount);
        if !each(Found { path: path.clone(), stat }) {
            return Ok(());
        }
        if !is_dir || way == Way::Out {
            continue;
        }
        match self::names(&mut dirs, &path) {
            Ok(names) => {
                levels.push(Level { path, way, dev: stat.dev, names: names.into_iter() });
            }
            Err(error) => warnings
                .add(format!("what is in the directory {} is not archived: {error}", shown(&path))),
        }
    }
    Ok(())
}

/// The names in a directory, sorted by their bytes.
fn names(dirs: &mut Dirs, path: &[u8]) -> std::io::Result<Vec<Vec<u8>>> {
    let parent = dirs.get(path)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = openat(parent, c".", flags | OFlag::O_NOATIME, Mode::empty())
        .or_else(|_| openat(parent, c".", flags, Mode::empty()))?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(fd)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}
