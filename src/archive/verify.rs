//! Compares a tree with a generation: every entry's kind, owner, mode, time, attributes, flags and
//! data, read back from the target.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::fcntl::readlinkat;

use super::dirs::Dirs;
use super::entry::{Entry, Kind};
use super::fetch::Sequential;
use super::flags;
use super::index::Index;
use super::project::Projects;
use super::read;
use super::select::relative;
use super::tar::{self, Head};
use super::view::View;
use super::warnings::Warnings;
use crate::layout::mount::unescape;
use crate::probe::swaps;
use crate::store::{Manifest, Store};
use crate::sys::fs;
use crate::ui::Ui;
use crate::ui::progress::Unit;

#[derive(Debug, Default)]
pub struct Verified {
    pub entries: u64,
    /// What is not as it was, a line for each.
    pub differences: Vec<String>,
}

/// Compares what is below `root` with a generation. Files that are only below `root` are no
/// difference.
///
/// # Errors
/// When the backup can't be read. What differs is no error.
pub fn verify_root(
    manifest: &Manifest,
    store: &dyn Store,
    root: &Path,
    ui: &Ui,
) -> Result<Verified> {
    let index = Index::open(manifest, store)?;
    let progress = ui.progress("verifying", manifest.archive.stream_bytes, Unit::Bytes);
    let trees: Vec<_> = manifest.tree.iter().filter_map(|tree| unescape(tree)).collect();
    let trees: Vec<_> = trees.iter().map(|tree| tree.strip_prefix(b"/").unwrap_or(tree)).collect();
    let view = View::of_trees(root, trees, &BTreeMap::new());
    let view = view.with_context(|| format!("opening {}", root.display()))?;
    let dirs = Dirs::new(Arc::new(view));
    // Of the machine itself: what it swaps to is not in the backup, and never the same.
    let swaps = if root == Path::new("/") { swaps::read() } else { Vec::new() };
    let swaps = swaps.iter().map(|swap| relative(&swap.path)).collect();
    let differences = Warnings::default();
    let projects = Projects::default();
    let mut verifier = Verifier { dirs, projects, swaps, differences, entries: 0, big: None };
    let mut reader = Sequential::new(&index, store);
    for chunk in &index.chunks {
        let plain = reader.read(&chunk.frame)?;
        if chunk.table.is_some() {
            verifier.run(&plain)?;
        } else {
            verifier.slice(&plain);
        }
        progress.add(plain.len() as u64);
    }
    let Verifier { differences, entries, .. } = verifier;
    Ok(Verified { entries, differences: differences.into_vec() })
}

/// A file of which data is being compared.
struct Open {
    file: File,
    entry: Entry,
    /// Offset and length of what is still to come.
    ranges: std::collections::VecDeque<(u64, u64)>,
}

struct Verifier {
    dirs: Dirs,
    projects: Projects,
    /// What the machine swaps to, as paths in the archive.
    swaps: BTreeSet<Vec<u8>>,
    differences: Warnings,
    entries: u64,
    big: Option<Open>,
}

impl Verifier {
    fn run(&mut self, chunk: &[u8]) -> Result<()> {
        self.big = None;
        let mut at = 0;
        while let Some(head) = tar::read_head(chunk, at)? {
            self.entries += 1;
            let mut open = match self.compare(&head) {
                Ok(open) => open,
                Err(error) => {
                    self.differ(&head.entry, &format!("can't be read: {error}"));
                    None
                }
            };
            let Some(next) = head.next(chunk) else {
                self.big = open;
                break;
            };
            if let Some(open) = &mut open {
                let data = &chunk[head.data_at..][..usize::try_from(head.data_bytes)?];
                self.compare_data(open, data);
            }
            at = next;
        }
        Ok(())
    }

    fn slice(&mut self, data: &[u8]) {
        if let Some(mut open) = self.big.take()
            && self.compare_data(&mut open, data)
        {
            self.big = Some(open);
        }
    }

    fn differ(&self, entry: &Entry, what: &str) {
        self.differences.add(format!("{} {what}", entry.shown()));
    }

    /// Everything but data. A file is returned for its data to be compared.
    fn compare(&mut self, head: &Head) -> io::Result<Option<Open>> {
        let Head { entry: was, .. } = head;
        let stat = self.dirs.stat(&was.path);
        let stat = match stat {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.differ(was, "is missing");
                return Ok(None);
            }
            stat => stat?,
        };
        if was.kind == Kind::HardLink {
            let first = self.dirs.stat(&was.link)?;
            if (first.dev, first.ino) != (stat.dev, stat.ino) {
                self.differ(was, "is no hard link any more");
            }
            return Ok(None);
        }
        if Kind::of_mode(stat.mode) != Some(was.kind) {
            self.differ(was, "is another kind of file");
            return Ok(None);
        }
        let mut is = Entry::new(was.path.clone(), was.kind, &stat);
        let (dir, name) = self.dirs.at(&was.path)?;
        let is_fat = fs::is_fat(dir);
        if was.kind == Kind::Symlink {
            is.link = std::os::unix::ffi::OsStringExt::into_vec(readlinkat(dir, name)?);
        }
        let file = match was.kind {
            Kind::File | Kind::Dir => Some(read::open(&mut self.dirs, &was.path)?),
            _ => None,
        };
        // What is not in the backup is no difference.
        let lost = Warnings::default();
        let extra = match &file {
            Some(file) => {
                let mut extra = read::extra(file, &mut is, u64::MAX, &lost)?;
                let may_have = head.extra.project != 0;
                let dirs = (&mut self.dirs, may_have);
                self.projects.add(file, &mut is, &mut extra, dirs, &lost);
                extra
            }
            None => {
                let (dir, name) = self.dirs.at(&was.path)?;
                read::extra_of_special(dir, name, &mut is, &lost)?
            }
        };
        let close = |a: i64, b: i64| a.abs_diff(b) <= 2;
        let same_time = was.mtime == is.mtime || is_fat && close(was.mtime.sec, is.mtime.sec);
        // Earlier backups say of none to which it belongs, and not all kernels that it is handed on.
        let (same_project, but) = match head.extra.project {
            0 => (true, flags::PROJECT),
            project => (project == extra.project, 0),
        };
        let same_flags = head.extra.flags & !but == extra.flags & !but;
        let checks = [
            (was.size_bytes == is.size_bytes, "has another size"),
            (was.link == is.link, "points elsewhere"),
            (was.rdev == is.rdev, "is another device"),
            (same_time, "has another time"),
            (is_fat || was.mode == is.mode, "has another mode"),
            (is_fat || (was.uid, was.gid) == (is.uid, is.gid), "has another owner"),
            (is_fat || head.extra.xattrs == extra.xattrs, "has other attributes"),
            (is_fat || same_flags, "has other inode flags"),
            (same_project, "belongs to another project"),
        ];
        for (_, what) in checks.iter().filter(|(same, _)| !same) {
            self.differ(was, what);
        }
        let same_size = was.size_bytes == is.size_bytes;
        let ranges = head.extra.data_ranges(was.size_bytes).collect();
        let compared = was.kind == Kind::File && same_size && !self.swaps.contains(&was.path);
        let Some(file) = file.filter(|_| compared) else { return Ok(None) };
        self.compare_holes(&file, head)?;
        Ok(Some(Open { file, entry: was.clone(), ranges }))
    }

    /// Where there was a hole there must be nothing but zeros. Written ones are no difference: the hole
    /// was filled meanwhile, or can't be one on this filesystem.
    fn compare_holes(&self, file: &File, head: &Head) -> io::Result<()> {
        let Some(was) = &head.extra.sparse else { return Ok(()) };
        let size_bytes = head.entry.size_bytes;
        let is = fs::data_ranges(file.as_fd(), size_bytes)?;
        let is = is.unwrap_or_else(|| vec![(0, size_bytes)]);
        let mut buffer = vec![0; 1 << 16];
        for (mut at, len) in outside(&is, was) {
            let end = at + len;
            while at < end {
                let part = usize::try_from(end - at).map_or(buffer.len(), |n| n.min(buffer.len()));
                file.read_exact_at(&mut buffer[..part], at)?;
                if buffer[..part].iter().any(|byte| *byte != 0) {
                    self.differ(&head.entry, "has data where it had holes");
                    return Ok(());
                }
                at += part as u64;
            }
        }
        Ok(())
    }

    /// False when it differs, which is told once.
    fn compare_data(&self, open: &mut Open, mut data: &[u8]) -> bool {
        let mut buffer = vec![0; 1 << 16];
        while let Some((offset, len)) = open.ranges.pop_front() {
            if data.is_empty() {
                open.ranges.push_front((offset, len));
                break;
            }
            let limit = data.len().min(buffer.len());
            let part = usize::try_from(len).map_or(limit, |len| len.min(limit));
            let (was, rest) = data.split_at(part);
            let read = open.file.read_exact_at(&mut buffer[..part], offset);
            if read.is_err() || buffer[..part] != *was {
                self.differ(&open.entry, "has other content");
                return false;
            }
            data = rest;
            if len > part as u64 {
                open.ranges.push_front((offset + part as u64, len - part as u64));
            }
        }
        true
    }
}

/// The parts of `ranges`, as (offset, length), that none of `others` covers. Both are in order.
fn outside(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut others = others.iter().map(|&(start, len)| (start, start.saturating_add(len)));
    let (mut other, mut found) = (others.next(), Vec::new());
    for &(start, len) in ranges {
        let (mut at, end) = (start, start + len);
        while at < end {
            match other {
                Some((_, over)) if over <= at => other = others.next(),
                Some((from, over)) if from <= at => at = over.min(end),
                _ => {
                    let till = other.map_or(end, |(from, _)| from.min(end));
                    found.push((at, till - at));
                    at = till;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_a_hole_is_found_in_the_data() {
        assert_eq!(outside(&[(0, 100)], &[]), [(0, 100)]);
        assert_eq!(outside(&[], &[(0, 100)]), []);
        assert_eq!(outside(&[(10, 20)], &[(0, 100)]), []);
        // From the middle of one to that of the next, then between two, and behind all; the end of a
        // map has no length.
        let was = [(0, 10), (20, 10), (40, 10), (60, 0)];
        assert_eq!(
            outside(&[(5, 20), (32, 4), (50, 50)], &was),
            [(10, 10), (32, 4), (50, 10), (60, 40)]
        );
        assert_eq!(outside(&[(0, 60)], &was), [(10, 10), (30, 10), (50, 10)]);
    }
}
