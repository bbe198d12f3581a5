//! What went other than expected while many threads read or write files.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

/// More than these are counted and not kept: a list that nobody reads must not fill the memory.
const KEPT: usize = 1000;
/// In characters. Paths can be longer than anybody reads.
const LONGEST: usize = 4 << 10;

/// How many of those that lose the same thing are named. The log has all.
const NAMED: usize = 20;

#[derive(Debug, Default)]
pub struct Warnings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    texts: Vec<String>,
    count: usize,
    /// What can't be kept, and of whom.
    lost: BTreeMap<&'static str, Named>,
    failed: Named,
    unread: Named,
}

/// How many files, and the names of some.
#[derive(Debug, Default)]
struct Named {
    count: u64,
    paths: Vec<String>,
}

impl Named {
    fn add(&mut self, path: String) {
        self.count += 1;
        if self.paths.len() < NAMED {
            self.paths.push(path);
        }
    }

    fn into_text(mut self) -> String {
        self.paths.sort_unstable();
        let more = if self.count > self.paths.len() as u64 { ", ..." } else { "" };
        format!("{} ({}{more})", self.count, self.paths.join(", "))
    }
}

impl Warnings {
    pub fn add(&self, text: impl Into<String>) {
        let text = shortened(text.into());
        log::warn!("{text}");
        let mut kept = self.lock();
        kept.count += 1;
        if kept.texts.len() < KEPT {
            kept.texts.push(text);
        }
    }

    /// Something of the file `path` that no archive can keep, as many others may lose it too: `what`
    /// says it of all of them.
    pub fn lose(&self, what: &'static str, path: impl Into<String>) {
        let path = shortened(path.into());
        log::info!("{path}: {what}");
        self.lock().lost.entry(what).or_default().add(path);
    }

    /// Something that is in the tree and not in the archive, as it can't be read: `path` and `text`,
    /// which says so.
    pub fn unread(&self, path: &str, text: impl Into<String>) {
        self.add(text);
        self.lock().unread.add(shortened(path.to_owned()));
    }

    /// Something that `error` keeps out of the archive, as `text` says. It is as good as lost, whether
    /// the disk, a server or this process is the cause: but not what vanished or became another file
    /// meanwhile, nor what is nobody's to read, tonight or ever: what a server, a security module or
    /// another user's FUSE mount refuses even root, a locked encrypted directory.
    pub fn passed_by(&self, path: &str, text: impl Into<String>, error: &io::Error) {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::ELOOP
                | Errno::EACCES
                | Errno::EPERM
                | Errno::ENOKEY
                | Errno::EKEYEXPIRED
                | Errno::EKEYREVOKED,
            ) => self.add(text),
            _ => self.unread(path, text),
        }
    }

    /// How much could not be read, and the names of some. None: all could be.
    pub fn not_read(&self) -> Option<String> {
        let unread = std::mem::take(&mut self.lock().unread);
        (unread.count > 0).then(|| unread.into_text())
    }

    /// A file that is not restored at all.
    pub fn fail(&self, path: &str, why: impl std::fmt::Display) {
        self.add(format!("{path} is not restored: {why}"));
        self.lock().failed.add(shortened(path.to_owned()));
    }

    /// How many files are not restored, and which. None: all are.
    pub fn failed(&self) -> Option<String> {
        let failed = std::mem::take(&mut self.lock().failed);
        (failed.count > 0).then(|| failed.into_text())
    }

    /// Sorted, so that they don't depend on which thread was first.
    pub fn into_vec(self) -> Vec<String> {
        let mut kept = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        kept.texts.sort_unstable();
        if kept.count > kept.texts.len() {
            let more = kept.count - kept.texts.len();
            kept.texts.push(format!("and {more} more like these, in the log"));
        }
        for (what, lost) in kept.lost {
            kept.texts.push(format!("{what}: {}", lost.into_text()));
        }
        kept.texts
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(text: String) -> String {
    if text.len() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_unread_but_what_is_gone_or_nobodys_to_read() {
        let warnings = Warnings::default();
        let gone = [Errno::ENOENT, Errno::ELOOP, Errno::ENOTDIR];
        let locked = [Errno::ENOKEY, Errno::EKEYEXPIRED, Errno::EKEYREVOKED];
        for errno in [Errno::EACCES, Errno::EPERM].iter().chain(&gone).chain(&locked) {
            warnings.passed_by("/a", "a", &(*errno).into());
        }
        assert_eq!(warnings.not_read(), None);
        // A disk; a file server that was replaced; a FUSE daemon that died; a lease; too little of
        // something here.
        for errno in [
            Errno::EIO,
            Errno::EUCLEAN,
            Errno::ESTALE,
            Errno::ENOTCONN,
            Errno::ECONNABORTED,
            Errno::EAGAIN,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
        ] {
            warnings.passed_by("/b", "b", &errno.into());
            assert_eq!(warnings.not_read().as_deref(), Some("1 (/b)"), "{errno}");
        }
        warnings.passed_by("/c", "c", &io::ErrorKind::FileTooLarge.into());
        assert_eq!(warnings.not_read().as_deref(), Some("1 (/c)"));
        assert_eq!(warnings.into_vec().len(), 18);
    }

    #[test]
    fn what_many_lose_is_one_warning() {
        let warnings = Warnings::default();
        warnings.add("b");
        for n in 0..30 {
            warnings.lose("seals are lost", format!("/file-{n:02}"));
        }
        warnings.lose("sockets are lost", "/run/s");
        warnings.add("a");
        let said = warnings.into_vec();
        assert_eq!((said[0].as_str(), said[1].as_str()), ("a", "b"));
        assert!(said[2].starts_with("seals are lost: 30 (/file-00, /file-01, "), "{said:?}");
        assert!(said[2].ends_with("/file-19, ...)"), "{said:?}");
        assert_eq!(said[3..], ["sockets are lost: 1 (/run/s)"]);
    }
}
