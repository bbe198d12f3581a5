//! Goes through the trees in the order of the stream: a directory, then what is in it, by the
//! bytes of the names.
//!
//! Other filesystems are not entered, unless they are a tree of the backup themselves; what they
//! are mounted on is archived as an empty directory. So each path comes once, and the order does
//! not depend on where filesystems are mounted.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::dirs::{Dirs, join};
use super::entry::shown;
use super::select::{Select, Way};
use super::warnings::Warnings;
use crate::sys::fs::{self, Stat};

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

/// Calls `each` for everything that `select` selects below `root`, until it says false.
///
/// # Errors
/// When the root can't be read. Anything else that can't be read is a warning.
pub fn walk(
    root: &Path,
    select: &Select,
    warnings: &Warnings,
    mut each: impl FnMut(Found) -> bool,
) -> Result<()> {
    let mut dirs = Dirs::new(root).with_context(|| format!("opening {}", root.display()))?;
    let stat =
        fs::stat_at(dirs.get(b"")?, c"").with_context(|| format!("reading {}", root.display()))?;
    let way = if select.is_tree(b"") { Way::In } else { Way::Towards };
    if !each(Found { path: Vec::new(), stat }) {
        return Ok(());
    }
    let names = names(&mut dirs, b"").with_context(|| format!("reading {}", root.display()))?;
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
        let stat = dirs.get(&level.path).and_then(|dir| fs::stat_at(dir, &fs::c_name(&name)?));
        let mut stat = match stat {
            Ok(stat) => stat,
            Err(error) => {
                warnings.add(format!("{} is not archived: {error}", shown(&path)));
                continue;
            }
        };
        let is_dir = stat.mode & libc::S_IFMT == libc::S_IFDIR;
        let mount_root = is_dir && stat.mount_root.unwrap_or(stat.dev != level.dev);
        let way = select.way(&path, level.way, mount_root);
        if mount_root && way == Way::Out {
            // Only what is mounted is not archived. The directory below has an owner, a mode and a
            // time of its own, and is what a recovered node starts with.
            let below = dirs.get(&level.path).and_then(fs::without_mounts);
            stat =
                below.and_then(|dir| fs::stat_at(dir.as_fd(), &fs::c_name(&name)?)).unwrap_or(stat);
        }
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
