//! What waits until all files are there: the attributes of directories, ACLs that name users, and
//! flags that lock. Of the same path the last one counts.
//!
//! It waits as a tree: whole paths would take memory by the square of how deep they are. Attributes
//! that are more than fits in little memory wait in a file: anybody can write archives that compress
//! to nothing and tell of many MiB for each directory.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::codec::{Reader, put_bytes, put_uint};
use super::entry::{Entry, Extra, Kind};

/// For attributes. What goes beyond waits in a file.
const MEMORY_BYTES: usize = 32 << 20;
/// What an attribute takes besides its own bytes.
const EACH_BYTES: usize = 96;

/// Attribute and text of ACLs that name users or groups.
pub type NamedAcls = Vec<(Vec<u8>, String)>;

#[derive(Debug)]
pub struct Late {
    /// Parents before their children.
    nodes: Vec<Node>,
    numbers: HashMap<(Option<usize>, Vec<u8>), usize>,
    root: Option<Waiting>,
    /// The last path, and the node of each of its parts: the next one is near.
    last: (Vec<u8>, Vec<usize>),
    room: Room,
    /// Whether there is any ACL with names.
    pub has_acls: bool,
}

#[derive(Debug)]
struct Node {
    parent: Option<usize>,
    name: Vec<u8>,
    /// None for what is only on the way to others.
    what: Option<Waiting>,
}

/// What is to be done with one path.
#[derive(Debug)]
struct Waiting {
    /// Without its path.
    entry: Entry,
    extra: Extra,
    acls: NamedAcls,
    /// Where in the file its attributes and ACLs are, and how many bytes. None: they are here.
    away: Option<(u64, usize)>,
}

impl Waiting {
    /// What its attributes take here.
    fn bytes(&self) -> usize {
        let xattrs = self.extra.xattrs.iter().map(|(name, value)| name.len() + value.len());
        let acls = self.acls.iter().map(|(name, text)| name.len() + text.len());
        xattrs.chain(acls).map(|bytes| bytes + EACH_BYTES).sum()
    }
}

/// Where attributes are kept.
#[derive(Debug)]
struct Room {
    taken_bytes: usize,
    memory_bytes: usize,
    dir: PathBuf,
    /// It has no name, and how long it is.
    file: Option<(File, u64)>,
}

impl Room {
    fn keep(&mut self, waiting: &mut Waiting) -> Result<()> {
        let bytes = waiting.bytes();
        if self.taken_bytes + bytes <= self.memory_bytes {
            self.taken_bytes += bytes;
            return Ok(());
        }
        let mut out = Vec::new();
        put_uint(&mut out, waiting.extra.xattrs.len() as u64);
        for (name, value) in std::mem::take(&mut waiting.extra.xattrs) {
            put_bytes(&mut out, &name);
            put_bytes(&mut out, &value);
        }
        for (name, text) in std::mem::take(&mut waiting.acls) {
            put_bytes(&mut out, &name);
            put_bytes(&mut out, text.as_bytes());
        }
        let doing = || format!("keeping attributes in a file in {}", self.dir.display());
        let (file, end) = match &mut self.file {
            Some(file) => file,
            none => {
                let file = tempfile::tempfile_in(&self.dir).with_context(doing)?;
                none.insert((file, 0))
            }
        };
        file.write_all_at(&out, *end).with_context(doing)?;
        waiting.away = Some((*end, out.len()));
        *end += out.len() as u64;
        Ok(())
    }

    fn forget(&mut self, waiting: Option<Waiting>) {
        if let Some(waiting) = waiting
            && waiting.away.is_none()
        {
            self.taken_bytes -= waiting.bytes();
        }
    }

    fn fetch(&self, waiting: &mut Waiting) -> Result<()> {
        let (Some((at, len)), Some((file, _))) = (waiting.away, &self.file) else { return Ok(()) };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at)
            .with_context(|| format!("reading attributes from a file in {}", self.dir.display()))?;
        let mut reader = Reader(&bytes);
        for _ in 0..reader.uint()? {
            waiting.extra.xattrs.push((reader.bytes()?.to_vec(), reader.bytes()?.to_vec()));
        }
        while !reader.0.is_empty() {
            let name = reader.bytes()?.to_vec();
            waiting.acls.push((name, String::from_utf8_lossy(reader.bytes()?).into_owned()));
        }
        Ok(())
    }
}

impl Late {
    /// `dir`: where a file can be made that has no name.
    pub fn new(dir: PathBuf) -> Late {
        let room = Room { taken_bytes: 0, memory_bytes: MEMORY_BYTES, dir, file: None };
        let (nodes, numbers, root, last, has_acls) = Default::default();
        Late { nodes, numbers, root, last, room, has_acls }
    }

    pub fn add(&mut self, mut entry: Entry, extra: Extra, acls: NamedAcls) -> Result<()> {
        self.has_acls |= !acls.is_empty();
        let path = std::mem::take(&mut entry.path);
        self.forget(&path);
        let mut waiting = Waiting { entry, extra, acls, away: None };
        self.room.keep(&mut waiting)?;
        let node = if path.is_empty() { None } else { self.node(&path, true) };
        match node {
            Some(node) => self.nodes[node].what = Some(waiting),
            None => self.root = Some(waiting),
        }
        Ok(())
    }

    /// Something new is at `path`: what was there, and what was in its way, is gone.
    pub fn forget(&mut self, path: &[u8]) {
        let what = match self.node(path, false) {
            _ if path.is_empty() => self.root.take(),
            Some(node) => self.nodes[node].what.take(),
            None => None,
        };
        self.room.forget(what);
    }

    /// The node of `path`. Whatever waits on the way there for what is no directory is forgotten.
    fn node(&mut self, path: &[u8], make: bool) -> Option<usize> {
        let (last, numbers) = &mut self.last;
        // Down from the last path, which is the usual way, or from the root.
        let below = path.strip_prefix(last.as_slice()).filter(|rest| rest.starts_with(b"/"));
        let rest = match below {
            Some(rest) if !last.is_empty() => &rest[1..],
            _ => {
                let same = last.iter().zip(path).take_while(|(a, b)| a == b).count();
                let whole = last[..same].iter().filter(|&&b| b == b'/').count();
                // A part counts only with the slash behind it, which both paths have.
                numbers.truncate(whole);
                path.splitn(whole + 1, |&b| b == b'/').nth(whole).unwrap_or(path)
            }
        };
        let mut parent = numbers.last().copied();
        let mut at = path.len() - rest.len();
        for name in rest.split(|&b| b == b'/') {
            if let Some(parent) = parent {
                let above = &mut self.nodes[parent].what;
                self.room.forget(above.take_if(|above| above.entry.kind != Kind::Dir));
            }
            let next = self.nodes.len();
            let node = match self.numbers.entry((parent, name.to_vec())) {
                Slot::Occupied(slot) => *slot.get(),
                Slot::Vacant(slot) if make => {
                    self.nodes.push(Node { parent, name: name.to_vec(), what: None });
                    *slot.insert(next)
                }
                Slot::Vacant(_) => {
                    last.clear();
                    last.extend_from_slice(&path[..at.saturating_sub(1)]);
                    return None;
                }
            };
            numbers.push(node);
            parent = Some(node);
            at += name.len() + 1;
        }
        last.clear();
        last.extend_from_slice(path);
        parent
    }

    /// Calls `each` with every path, those below before those above.
    pub fn for_each_deepest_first(
        mut self,
        mut each: impl FnMut(&Entry, Extra, NamedAcls) -> Result<()>,
    ) -> Result<()> {
        self.numbers.clear();
        while let Some(node) = self.nodes.pop() {
            let Some(mut waiting) = node.what else { continue };
            waiting.entry.path = self.path(node.parent, &node.name);
            self.room.fetch(&mut waiting)?;
            each(&waiting.entry, waiting.extra, waiting.acls)?;
        }
        let Some(mut waiting) = self.root else { return Ok(()) };
        self.room.fetch(&mut waiting)?;
        each(&waiting.entry, waiting.extra, waiting.acls)
    }

    fn path(&self, mut parent: Option<usize>, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name];
        while let Some(node) = parent.and_then(|number| self.nodes.get(number)) {
            parts.push(&node.name);
            parent = node.parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::super::dirs::join;
    use super::super::entry::Time;
    use super::*;

    fn dir(path: &[u8], mode: u32) -> Entry {
        Entry {
            path: path.to_vec(),
            kind: Kind::Dir,
            mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size_bytes: 0,
            link: Vec::new(),
            rdev: (0, 0),
            ctime: Time::default(),
            ino: 0,
        }
    }

    #[test]
    fn what_is_below_comes_first_and_the_last_one_counts() {
        let mut tree = Late::new(PathBuf::new());
        for (n, path) in
            ["a/b/c", "a", "", "a/b", "a/bc/d", "ab", "a/b/c/d", "x/y", "a/b"].iter().enumerate()
        {
            let entry = dir(path.as_bytes(), u32::try_from(n).unwrap());
            tree.add(entry, Extra::default(), Vec::new()).unwrap();
        }
        let mut found = Vec::new();
        let each = |entry: &Entry, _, _| {
            found.push((String::from_utf8(entry.path.clone()).unwrap(), entry.mode));
            Ok(())
        };
        tree.for_each_deepest_first(each).unwrap();
        for (at, (path, _)) in found.iter().enumerate() {
            let below = join(path.as_bytes(), b"");
            let later = found[at + 1..].iter();
            assert!(later.clone().all(|(p, _)| !p.as_bytes().starts_with(&below)), "{found:?}");
        }
        found.sort();
        let expected = [
            ("", 2),
            ("a", 1),
            ("a/b", 8),
            ("a/b/c", 0),
            ("a/b/c/d", 6),
            ("a/bc/d", 4),
            ("ab", 5),
            ("x/y", 7),
        ];
        assert_eq!(found, expected.map(|(path, n)| (path.to_owned(), n)));
    }

    fn waits(late: Late) -> Vec<String> {
        let mut found = Vec::new();
        late.for_each_deepest_first(|entry, extra, acls| {
            let path = entry.path.escape_ascii();
            found.push(format!("{path} {} {}", extra.xattrs.len(), acls.len()));
            Ok(())
        })
        .unwrap();
        found.sort();
        found
    }

    #[test]
    fn what_is_replaced_waits_no_longer() {
        let mut late = Late::new(PathBuf::new());
        let add = |late: &mut Late, path: &str, kind| {
            let entry = Entry { kind, ..dir(path.as_bytes(), 0) };
            late.add(entry, Extra::default(), Vec::new()).unwrap();
        };
        for path in ["a", "a/b", "d", "x/y/z", "way/far"] {
            add(&mut late, path, Kind::Dir);
        }
        for path in ["a/f", "a/way", "g", "a/b/h", "i"] {
            add(&mut late, path, Kind::File);
        }
        add(&mut late, "", Kind::Dir);
        // Another file, a file instead of a directory, a directory instead of a file.
        for path in ["a/f", "d", "a/way/down/there", "g/file", "a/b/new", "a/b2", "x/y/none/deep"] {
            late.forget(path.as_bytes());
        }
        add(&mut late, "i", Kind::Dir);
        assert_eq!(
            waits(late),
            [" 0 0", "a 0 0", "a/b 0 0", "a/b/h 0 0", "i 0 0", "way/far 0 0", "x/y/z 0 0"]
        );
    }

    #[test]
    fn what_is_more_than_fits_in_memory_waits_in_a_file() {
        let tmp = tempfile::tempdir().unwrap();
        let mut late = Late::new(tmp.path().to_owned());
        late.room.memory_bytes = 20_000;
        let value = |n: usize| vec![u8::try_from(n).unwrap(); 1000];
        for _ in 0..2 {
            for n in 0..100 {
                let xattrs = vec![(b"user.a".to_vec(), value(n)), (b"user.b".to_vec(), Vec::new())];
                let acls = vec![(b"acl".to_vec(), format!("user:{n}:rwx"))];
                let extra = Extra { xattrs, flags: 7, ..Extra::default() };
                late.add(dir(format!("d{n}").as_bytes(), 1), extra, acls).unwrap();
                assert!(late.room.taken_bytes <= 20_000);
            }
        }
        assert!(late.room.taken_bytes > 10_000, "what is free again is used again");
        assert_eq!(tmp.path().read_dir().unwrap().count(), 0, "the file has no name");
        let mut seen = 0;
        late.for_each_deepest_first(|entry, extra, acls| {
            let n: usize = std::str::from_utf8(&entry.path[1..])?.parse()?;
            assert_eq!(extra.xattrs[0], (b"user.a".to_vec(), value(n)));
            assert_eq!(extra.xattrs[1], (b"user.b".to_vec(), Vec::new()));
            assert_eq!((extra.flags, entry.mode), (7, 1));
            assert_eq!(acls, [(b"acl".to_vec(), format!("user:{n}:rwx"))]);
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 100);
    }
}
