//! Reads one directory: the names in it, what they are, and which of them belong to the backup.

use std::io;
use std::os::unix::fs::FileExt;

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

/// A directory to be read.
#[derive(Debug)]
pub struct Task {
    pub path: Vec<u8>,
    pub way: Way,
    pub dev: (u32, u32),
    /// Those that are left, where the names are known already.
    pub names: Option<Vec<Vec<u8>>>,
}

/// A file in a directory.
#[derive(Debug)]
pub struct Seen {
    pub name: Vec<u8>,
    pub stat: Stat,
    /// A directory that the walk goes into.
    pub enter: Option<Way>,
}

/// One for each thread.
#[derive(Debug)]
pub struct Lister<'a> {
    dirs: Dirs,
    select: &'a Select,
    warnings: &'a Warnings,
}

impl<'a> Lister<'a> {
    pub fn new(dirs: Dirs, select: &'a Select, warnings: &'a Warnings) -> Lister<'a> {
        Lister { dirs, select, warnings }
    }

    pub fn stat(&mut self, path: &[u8]) -> io::Result<Stat> {
        self.dirs.stat(path)
    }

    /// What is selected of the first `most` names of a directory, and the names that are left.
    pub fn list(&mut self, task: &mut Task, most: usize) -> (Vec<Seen>, Vec<Vec<u8>>) {
        let known = task.names.take();
        let names = known.map_or_else(|| self.names(&task.path, &mut task.way), Ok);
        let mut names = match names {
            Ok(names) => names,
            Err(error) => {
                let path = shown(&task.path);
                let text = format!("what is in the directory {path} is not archived: {error}");
                self.warnings.passed_by(&path, text, &error);
                return Default::default();
            }
        };
        let rest = names.split_off(names.len().min(most));
        let seen = names.into_iter().filter_map(|name| self.look_at(task, name)).collect();
        (seen, rest)
    }

    fn look_at(&mut self, task: &Task, name: Vec<u8>) -> Option<Seen> {
        let path = join(&task.path, &name);
        let select = self.select;
        if select.excludes(&path) {
            return None;
        }
        if path.len() > PATH_LIMIT_BYTES {
            self.warnings.add(format!("{} is not archived: its path is too long", shown(&path)));
            return None;
        }
        let stat = match self.dirs.stat(&path) {
            Ok(stat) => stat,
            Err(error) => {
                let text = format!("{} is not archived: {error}", shown(&path));
                let is_chosen = select.is_tree(&path) || select.leads_to_tree(&path);
                // A FUSE mount whose program died, say: nothing below it was wanted.
                if !is_chosen && self.dirs.is_silent_mount(&path) {
                    self.warnings.add(text);
                } else {
                    self.warnings.passed_by(&shown(&path), text, &error);
                }
                return None;
            }
        };
        let is_dir = stat.mode & libc::S_IFMT == libc::S_IFDIR;
        let mut parent = task.way;
        if select.leaves_nodump && stat.nodump && !select.is_tree(&path) {
            if !(is_dir && select.leads_to_tree(&path)) {
                log::info!("{} has the nodump flag: not archived", shown(&path));
                return None;
            }
            parent = Way::Towards;
        }
        let is_mount = is_dir && self.dirs.is_mount(&path, &stat, task.dev);
        let way = select.way(&path, parent, is_mount);
        Some(Seen { name, stat, enter: (is_dir && way != Way::Out).then_some(way) })
    }

    /// The names in a directory that may be selected, sorted by their bytes. One that is a cache is
    /// only on the way to trees, if so selected, and has its tag.
    pub fn names(&mut self, path: &[u8], way: &mut Way) -> io::Result<Vec<Vec<u8>>> {
        let parent = self.dirs.get(path)?;
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
        let select = self.select;
        let is_left = select.leaves_caches && *way == Way::In && !select.is_tree(path);
        let is_cache = is_left && self.is_cache(path, &names);
        if is_cache {
            log::info!("{} is a cache: what is in it is not archived", shown(path));
            *way = Way::Towards;
        }
        if *way == Way::Towards {
            names.retain(|name| {
                let path = join(path, name);
                let is_tag = is_cache && name == CACHE_TAG;
                is_tag || select.is_tree(&path) || select.leads_to_tree(&path)
            });
        }
        Ok(names)
    }

    /// Whether a directory is marked as a cache: <https://bford.info/cachedir/>
    fn is_cache(&mut self, path: &[u8], names: &[Vec<u8>]) -> bool {
        if names.binary_search_by(|name| name.as_slice().cmp(CACHE_TAG)).is_err() {
            return false;
        }
        let mut start = [0; CACHE_SIGNATURE.len()];
        let read = super::read::open(&mut self.dirs, &join(path, CACHE_TAG));
        read.is_ok_and(|file| file.read_exact_at(&mut start, 0).is_ok() && start == CACHE_SIGNATURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount::unmount;
    use crate::sys::run::Cmd;

    /// Mounts what no program answers for any more.
    const DEAD: &str = "import ctypes, os, sys
fuse = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={fuse},rootmode=40000,user_id=0,group_id=0'.encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b'dead', sys.argv[1].encode(), b'fuse', 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))";

    #[test]
    fn a_dead_mount_is_missed_only_where_it_was_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("home/mnt");
        std::fs::create_dir_all(&at).unwrap();
        if let Err(error) = Cmd::new("python3").args(["-c", DEAD]).arg(&at).run() {
            eprintln!("skipped: {error:#}");
            return;
        }
        let look = |trees: &[&str]| {
            let select = Select::new(trees, &[]).unwrap();
            let warnings = Warnings::default();
            let dirs = Dirs::plain(dir.path()).unwrap();
            let mut task = Task { path: b"home".into(), way: Way::In, dev: (0, 0), names: None };
            let (seen, _) = Lister::new(dirs, &select, &warnings).list(&mut task, 10);
            (seen.len(), warnings.not_read(), warnings.into_vec())
        };
        let (foreign, chosen) = (look(&["/"]), look(&["/", "/home/mnt"]));
        unmount(&at).unwrap();
        let (missed, said) = (Some("1 (/home/mnt)".to_owned()), foreign.2.clone());
        assert!(said.len() == 1 && said[0].starts_with("/home/mnt is not archived: "), "{said:?}");
        assert_eq!(foreign, (0, None, said.clone()));
        assert_eq!(chosen, (0, missed, said));
    }
}
