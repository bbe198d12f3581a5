//! Directories whose attributes are set when all that is in them is there.
//!
//! They are kept as a tree: whole paths would take memory by the square of how deep they are.

use std::collections::HashMap;

use super::entry::{Entry, Extra};

#[derive(Debug, Default)]
pub struct DirTree {
    /// Parents before their children.
    nodes: Vec<Node>,
    numbers: HashMap<(Option<usize>, Vec<u8>), usize>,
    root: Option<(Entry, Extra)>,
    /// The last path, and the node of each of its parts: the next one is near.
    last: (Vec<u8>, Vec<usize>),
}

#[derive(Debug)]
struct Node {
    parent: Option<usize>,
    name: Vec<u8>,
    /// Without its path. None for what is only on the way to others.
    what: Option<(Entry, Extra)>,
}

impl DirTree {
    /// Of the same directory the last one counts.
    pub fn add(&mut self, mut entry: Entry, extra: Extra) {
        let path = std::mem::take(&mut entry.path);
        if path.is_empty() {
            self.root = Some((entry, extra));
            return;
        }
        let node = self.node(&path);
        self.nodes[node].what = Some((entry, extra));
    }

    fn node(&mut self, path: &[u8]) -> usize {
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
        for name in rest.split(|&b| b == b'/') {
            let next = self.nodes.len();
            let node = *self.numbers.entry((parent, name.to_vec())).or_insert(next);
            if node == next {
                self.nodes.push(Node { parent, name: name.to_vec(), what: None });
            }
            numbers.push(node);
            parent = Some(node);
        }
        last.clear();
        last.extend_from_slice(path);
        parent.unwrap_or(0)
    }

    /// Calls `each` with every directory, those below before those above.
    pub fn for_each_deepest_first<E>(
        mut self,
        mut each: impl FnMut(&Entry, &Extra) -> Result<(), E>,
    ) -> Result<(), E> {
        self.numbers.clear();
        while let Some(node) = self.nodes.pop() {
            let Some((mut entry, extra)) = node.what else { continue };
            entry.path = self.path(node.parent, &node.name);
            each(&entry, &extra)?;
        }
        match self.root {
            Some((entry, extra)) => each(&entry, &extra),
            None => Ok(()),
        }
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
    use super::super::entry::{Kind, Time};
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
        let mut tree = DirTree::default();
        for (n, path) in
            ["a/b/c", "a", "", "a/b", "a/bc/d", "ab", "a/b/c/d", "x/y", "a/b"].iter().enumerate()
        {
            tree.add(dir(path.as_bytes(), u32::try_from(n).unwrap()), Extra::default());
        }
        let mut found = Vec::new();
        let each = |entry: &Entry, _: &Extra| {
            found.push((String::from_utf8(entry.path.clone()).unwrap(), entry.mode));
            Ok::<_, ()>(())
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
}
