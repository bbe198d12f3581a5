//! A power cut under a filesystem that keeps no order: what was not synced is lost, empty or there,
//! each by itself. strace(1) says what a run did; its legal remains are built from that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rr::sys::run::Cmd;
use rr::sys::tools;

use crate::node::{Dice, Node};

/// Generations come and go.
const KEEP: &str = "[backup]\nkeep_last = 2\n";
const CALLS: &str = "trace=openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link,\
    linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate,copy_file_range";
/// After so many cuts the next run is tried as well.
const NEXT_RUN: usize = 20;

/// A file, by the order in which files were made.
type Inode = usize;

/// A change of one directory: these names have these files from now on, or none.
#[derive(Debug, Clone)]
struct Change {
    dir: PathBuf,
    names: Vec<(PathBuf, Option<What>)>,
    synced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Dir,
    File(Inode),
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: bool,
}

/// What was done to a filesystem, and how much of that is known to be on its disk.
#[derive(Debug, Clone, Default)]
struct Disk {
    changes: Vec<Change>,
    files: Vec<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing but what was synced.
    Lost,
    /// All names, and of files that were not synced nothing else.
    Names,
    /// Anything of it.
    Some,
}

impl Disk {
    /// All of it safe.
    fn of(dir: &Path) -> Disk {
        let mut disk = Disk::default();
        for entry in walkdir::WalkDir::new(dir).min_depth(1).sort_by_file_name() {
            let entry = entry.unwrap();
            let path = entry.path().to_owned();
            if entry.file_type().is_dir() {
                disk.change(vec![(path, Some(What::Dir))]);
            } else {
                disk.files.push(File { bytes: std::fs::read(&path).unwrap(), synced: true });
                disk.change(vec![(path, Some(What::File(disk.files.len() - 1)))]);
            }
        }
        disk.changes.iter_mut().for_each(|change| change.synced = true);
        disk
    }

    fn change(&mut self, names: Vec<(PathBuf, Option<What>)>) {
        let dir = names[0].0.parent().unwrap().to_owned();
        assert!(names.iter().all(|(name, _)| name.parent() == Some(&dir)), "{names:?}");
        self.changes.push(Change { dir, names, synced: false });
    }

    /// What has a name, with the changes that `is_there`.
    fn names(&self, mut is_there: impl FnMut(&Change) -> bool) -> BTreeMap<PathBuf, What> {
        let mut found = BTreeMap::new();
        for (name, what) in self.changes.iter().filter(|c| is_there(c)).flat_map(|c| &c.names) {
            match what {
                Some(what) => found.insert(name.clone(), *what),
                None => found.remove(name),
            };
        }
        found
    }

    fn file(&mut self, path: &Path) -> &mut File {
        match self.names(|_| true).get(path) {
            Some(What::File(inode)) => &mut self.files[*inode],
            other => panic!("{} is {other:?}", path.display()),
        }
    }

    /// A call that succeeded: its name, and its paths and strings in order.
    fn apply(&mut self, call: &str, words: &[Vec<u8>], line: &str) {
        use std::os::unix::ffi::OsStrExt;
        let path =
            |number: usize| Path::new(std::ffi::OsStr::from_bytes(&words[number])).to_owned();
        let at = |number: usize| path(number).join(path(number + 1));
        match call {
            "openat" if line.contains("O_CREAT") => {
                self.files.push(File::default());
                self.change(vec![(at(0), Some(What::File(self.files.len() - 1)))]);
            }
            "openat" => assert!(line.contains("O_RDONLY"), "{line}"),
            "mkdirat" => self.change(vec![(at(0), Some(What::Dir))]),
            "write" => {
                let file = self.file(&path(0));
                file.bytes.extend_from_slice(&words[1]);
                file.synced = false;
            }
            "fsync" => {
                let synced = path(0);
                if matches!(self.names(|_| true).get(&synced), Some(What::File(_))) {
                    self.file(&synced).synced = true;
                }
                let of_it = self.changes.iter_mut().filter(|change| change.dir == synced);
                of_it.for_each(|change| change.synced = true);
            }
            "renameat" | "renameat2" => {
                let what = self.names(|_| true)[&at(0)];
                self.change(vec![(at(0), None), (at(2), Some(what))]);
            }
            "unlinkat" => self.change(vec![(at(0), None)]),
            _ => panic!("what does {call} do to a disk? {line}"),
        }
    }

    /// Makes what a power cut now leaves of `from` in `to`.
    fn remains(&self, rest: Rest, dice: &mut Dice, from: &Path, to: &Path) {
        let names = self.names(|change| match rest {
            _ if change.synced => true,
            Rest::Lost => false,
            Rest::Names => true,
            Rest::Some => dice.below(2) == 0,
        });
        for (name, what) in names {
            let path = to.join(name.strip_prefix(from).unwrap());
            // A directory that is lost takes along what is in it.
            if !path.parent().unwrap().is_dir() {
                continue;
            }
            match what {
                What::Dir => std::fs::create_dir(path).unwrap(),
                What::File(inode) => {
                    let File { bytes, synced } = &self.files[inode];
                    let some = match rest {
                        _ if *synced => bytes.len(),
                        Rest::Some => usize::try_from(dice.below(bytes.len() as u64 + 1)).unwrap(),
                        _ => 0,
                    };
                    std::fs::write(path, &bytes[..some]).unwrap();
                }
            }
        }
    }
}

/// The calls in what strace wrote that ended, in the order in which they did, and did what they were to.
fn calls(log: &str) -> Vec<String> {
    let mut begun = BTreeMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(pid, head.to_owned());
            continue;
        }
        let whole = match rest.split_once(" resumed>") {
            Some((_, tail)) if rest.starts_with("<... ") => begun.remove(pid).unwrap() + tail,
            _ => rest.to_owned(),
        };
        if whole.contains('(') && !whole.contains(") = -1 ") {
            calls.push(whole);
        }
    }
    calls
}

/// The paths and strings of a call: strace -xx writes them all as `\x2f`.
fn words(call: &str) -> Vec<Vec<u8>> {
    let quoted = |c: char| matches!(c, '<' | '>' | '"');
    let hex = |word: &str| -> Option<Vec<u8>> {
        let bytes = word.strip_prefix("\\x")?.split("\\x");
        bytes.map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
    };
    call.split(quoted).filter_map(hex).collect()
}

#[test]
fn a_power_cut_that_keeps_no_order_costs_nothing() {
    const NAME: &str = "a_power_cut_that_keeps_no_order_costs_nothing";
    if tools::find("strace".as_ref()).is_none() {
        eprintln!("{NAME} is skipped: strace is not installed (scripts/install-deps)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", KEEP);
    let before: Vec<String> = (0..2)
        .map(|seed| {
            node.change(seed, 3000);
            node.backed_up()
        })
        .collect();
    let mut disk = Disk::of(&node.target);
    node.change(2, 3000);
    let log = dir.path().join("log");
    let options = ["-f", "-y", "-xx", "-s", "1000000", "-e", CALLS, "-o"];
    let traced = Cmd::new("strace").args(options).arg(&log).arg(env!("CARGO_BIN_EXE_rr"));
    let traced = traced.args(["--config"]).arg(dir.path().join("node001.toml"));
    traced.args(["mkbackuponly", "--include"]).arg(&node.tree).run().unwrap();
    let published = node.generations().pop().unwrap();

    let mut dice = Dice::new(NAME);
    let mut cuts = 0;
    let mut look = |disk: &Disk, done: bool| {
        for rest in [Rest::Lost, Rest::Names, Rest::Some] {
            let after = tempfile::tempdir_in(dir.path()).unwrap();
            let copy = Node::new(after.path(), &after.path().join("target"), "node001", KEEP);
            disk.remains(rest, &mut dice, &node.target, &copy.target);
            let said = format!("{rest:?} of {:?}", disk.changes.last());
            let found = copy.verify();
            assert!(found.contains(&before[1]), "{found:?}: {said}");
            assert!(!done || found == [&*before[1], &*published], "{found:?}: {said}");
            if cuts % NEXT_RUN == 0 || done {
                // A lock that can't be read is watched for longer.
                let next = copy.backup().timeout(Duration::from_secs(30)).output();
                assert!(next.is_ok_and(|output| output.success()), "{said}");
                copy.verify();
                copy.nothing_is_left_over();
            }
            cuts += 1;
        }
    };
    let log = std::fs::read_to_string(log).unwrap();
    for call in calls(&log) {
        let words = words(&call);
        let ours = words
            .first()
            .is_some_and(|dir| dir.starts_with(node.target.to_str().unwrap().as_bytes()));
        if ours {
            let name = call.split('(').next().unwrap();
            disk.apply(name, &words, &call);
            if name != "openat" || call.contains("O_CREAT") {
                look(&disk, false);
            }
        }
    }
    look(&disk, true);
    // The end as it was told is the end as it is: nothing was overlooked.
    let (told, is) = (disk.names(|_| true), Disk::of(&node.target));
    assert!(told.keys().eq(is.names(|_| true).keys()), "{told:?}");
    for (path, what) in told {
        if let What::File(inode) = what {
            assert!(disk.files[inode].bytes == std::fs::read(&path).unwrap(), "{}", path.display());
        }
    }
    assert!(cuts > 100, "{cuts} are few");
}
