//! Which files the next backup may take for unchanged by their ctime.
//!
//! A ctime tells of a change only if the change comes after it. That is not so twice:
//!
//! * Clocks of filesystems tick slowly: two changes within a tick have one ctime.
//! * Who writes through a mapping (`mmap`) sets the ctime with the first store into a page that is
//!   clean. Until the page is written to the disk, which takes half a minute or more, further stores
//!   change the file and not the ctime.
//!
//! So all filesystems of a backup are made to write what is dirty before anything is read: that
//! leaves no page of which a store goes unnoticed, but those that got a new ctime since. And a file
//! with a ctime from then on is read again the next time. Of filesystems in memory no page is ever
//! clean again: all their files are read again.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::entry::Time;
use crate::ui::Ui;

/// FAT counts time by two seconds, others tick faster.
const TICK_SECONDS: i64 = 3;

/// The time at which all that was dirty began to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    seconds: i64,
}

impl Settled {
    /// Makes the filesystems of the trees write what is dirty, and waits for them: as long as their
    /// disks take for it. It must come before snapshots are taken, which it also makes faster.
    pub fn wait_for(root: &Path, trees: &[PathBuf], ui: &Ui) -> Settled {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs().cast_signed());
        for tree in trees {
            let path = root.join(tree.strip_prefix("/").unwrap_or(tree));
            if is_in_memory(&path) {
                return Settled { seconds: i64::MIN };
            }
            if let Err(error) = sync(&path) {
                let tree = tree.display();
                ui.warn(format!(
                    "what was written to {tree} may not be on its disk, the next backup reads all files again: {error}"
                ));
                return Settled { seconds: i64::MIN };
            }
        }
        Settled { seconds }
    }

    /// Whether a file with this ctime has another one if it changes again.
    pub fn is(self, ctime: Time) -> bool {
        self.seconds.saturating_sub(ctime.sec) >= TICK_SECONDS
    }
}

/// A tree that is not there is told of by the walk.
fn sync(tree: &Path) -> io::Result<()> {
    let stat = match fs::symlink_metadata(tree) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        stat => stat?,
    };
    // To open a device or a fifo may do anything.
    let dir = if stat.is_dir() { tree } else { tree.parent().unwrap_or(tree) };
    Ok(nix::unistd::syncfs(fs::File::open(dir)?.as_fd())?)
}

fn is_in_memory(path: &Path) -> bool {
    // Of ramfs, see magic.h of Linux.
    const RAMFS: FsType = FsType(0x8584_58f6);
    statfs(path).is_ok_and(|fs| [TMPFS_MAGIC, RAMFS].contains(&fs.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Style;

    fn at(sec: i64) -> Time {
        Time { sec, nsec: 999_999_999 }
    }

    #[test]
    fn what_changed_since_then_or_shortly_before_is_not_settled() {
        let then = Settled { seconds: 1_000_000_000 };
        for (sec, is) in [(0, true), (-9, true), (997, true), (998, false), (1_000, false)] {
            assert_eq!(then.is(at(999_999_000 + sec)), is, "{sec}");
        }
        assert!(!then.is(at(1_000_000_600)), "while it was waited for, or read");
    }

    #[test]
    fn nothing_is_ever_settled_in_memory() {
        let dir = match tempfile::tempdir_in("/dev/shm") {
            Ok(dir) if is_in_memory(dir.path()) => dir,
            _ => return eprintln!("skipped: /dev/shm is no tmpfs"),
        };
        let ui = Ui::new(Style::Plain);
        let trees = ["/missing".into(), "/".into()];
        let settled = Settled::wait_for(dir.path(), &trees, &ui);
        assert!(!settled.is(at(0)) && !settled.is(at(i64::MIN + 2)));
        assert_eq!(ui.warnings(), [""; 0]);
    }

    #[test]
    fn nothing_is_settled_where_it_can_not_be_written() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let ui = Ui::new(Style::Plain);
        let trees = |name: &str| vec!["/".into(), PathBuf::from(name)];
        for good in ["/file", "/missing"] {
            let settled = Settled::wait_for(dir.path(), &trees(good), &ui);
            assert!(settled.is(at(1_000_000_000)), "{good}");
        }
        // A path through a file is an error, even for root.
        let settled = Settled::wait_for(dir.path(), &trees("/file/x"), &ui);
        assert!(!settled.is(at(0)) && !settled.is(at(i64::MIN + 2)));
        assert_eq!(ui.warnings().len(), 1);
    }
}
