//! Goes through the trees in the order of the stream: a directory, then what is in it, by the
//! bytes of the names.
//!
//! Other filesystems are not entered, unless they are a tree of the backup themselves: the
//! [`View`] shows what is below them. So each path comes once, and the order does not depend on where
//! filesystems are mounted.

use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::dirs::{Dirs, join};
use super::entry::{PATH_LIMIT_BYTES, shown};
use super::select::{Select, Way};
use super::warnings::Warnings;
use crate::sys::fs::Stat;

const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: [u8; 43] = *b"Signature: 8a477f597d28d172789f06886806bc55";

/// A file that the walk came to.
#[derive(Debug)]
pub struct Found {
    pub path: Vec<u8>,
    pub stat: Stat,
}

/// One directory whose names are being gone through.
struct Level {
    /// How much of the current path is this directory's: the levels below share one path, or else
    /// a deep tree would take memory by the square of its depth.
    path_len: usize,
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
    let mut here = Vec::new();
    let mut levels = vec![Level { path_len: 0, way, dev: stat.dev, names: names.into_iter() }];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.next() else {
            levels.pop();
            continue;
        };
        let path = join(&here[..level.path_len], &name);
        if select.excludes(&path) {
            continue;
        }
        if path.len() > PATH_LIMIT_BYTES {
            warnings.add(format!("{} is not archived: its path is too long", shown(&path)));
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
        if select.leaves_nodump && stat.nodump && !select.is_tree(&path) {
            log::info!("{} has the nodump flag: not archived", shown(&path));
            continue;
        }
        let is_mount = is_dir && dirs.is_mount(&path, &stat, level.dev);
        let way = select.way(&path, level.way, is_mount);
        if !each(Found { path: path.clone(), stat }) {
            return Ok(());
        }
        if !is_dir || way == Way::Out {
            continue;
        }
        match self::names(&mut dirs, &path) {
            Ok(mut names) => {
                if select.leaves_caches && is_cache(&mut dirs, &path, &names) {
                    log::info!("{} is a cache: what is in it is not archived", shown(&path));
                    names = vec![CACHE_TAG.to_vec()];
                }
                let path_len = path.len();
                here = path;
                levels.push(Level { path_len, way, dev: stat.dev, names: names.into_iter() });
            }
            Err(error) => warnings
                .add(format!("what is in the directory {} is not archived: {error}", shown(&path))),
        }
    }
    Ok(())
}

/// Whether a directory is marked as a cache: <https://bford.info/cachedir/>
fn is_cache(dirs: &mut Dirs, path: &[u8], names: &[Vec<u8>]) -> bool {
    if names.binary_search_by(|name| name.as_slice().cmp(CACHE_TAG)).is_err() {
        return false;
    }
    let mut start = [0; CACHE_SIGNATURE.len()];
    let read = super::read::open(dirs, &join(path, CACHE_TAG));
    read.is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok() && start == CACHE_SIGNATURE)
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
