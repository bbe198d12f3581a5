//! The file tree of the rescue system, in memory: which path holds what, and from where it comes.
//!
//! Files of the node stay where they are until the initrd is written; only their paths are kept.
//! Symbolic links on the way to a file (`/bin -> usr/bin`) come along as the node has them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::elf::{self, Resolver};

/// More links on one path than this is a loop, as in path_resolution(7).
const MAX_LINKS: u32 = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Dir { mode: u32 },
    Symlink { to: OsString },
    Copy { from: PathBuf, mode: u32 },
    Text { bytes: Vec<u8>, mode: u32 },
    CharDevice { major: u32, minor: u32, mode: u32 },
}

/// Paths are relative to the root and sorted, so that parents come before their children.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    resolver: Resolver,
    /// Programs and libraries whose needs are in already.
    followed: BTreeSet<PathBuf>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

impl Tree {
    pub fn new() -> Tree {
        Tree { nodes: BTreeMap::new(), resolver: Resolver::read(), followed: BTreeSet::new() }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.nodes.iter()
    }

    pub fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(Path::new(path.trim_start_matches('/')))
    }

    /// Whether there is a file that is not the node's under this name.
    pub fn is_own(&self, path: &Path) -> bool {
        match self.nodes.get(&relative(path)) {
            Some(Node::Text { .. } | Node::CharDevice { .. }) => true,
            Some(Node::Copy { from, .. }) => from != path,
            _ => false,
        }
    }

    /// A directory of our own.
    pub fn dir(&mut self, path: &str, mode: u32) {
        let path = relative(Path::new(path));
        self.parents(&path);
        self.nodes.insert(path, Node::Dir { mode });
    }

    /// A file of our own.
    pub fn text(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        let path = relative(Path::new(path));
        self.parents(&path);
        self.nodes.insert(path, Node::Text { bytes: bytes.into(), mode });
    }

    /// A symbolic link of our own.
    pub fn symlink(&mut self, path: &str, to: &str) {
        let path = relative(Path::new(path));
        self.parents(&path);
        self.nodes.insert(path, Node::Symlink { to: to.into() });
    }

    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        let path = relative(Path::new(path));
        self.parents(&path);
        self.nodes.insert(path, Node::CharDevice { major, minor, mode });
    }

    /// The node's file `from` under the name `path`.
    pub fn copy_as(&mut self, path: &str, from: &Path, mode: u32) {
        let path = relative(Path::new(path));
        self.parents(&path);
        self.nodes.insert(path, Node::Copy { from: from.to_owned(), mode });
    }

    /// The node's file, link or empty directory at `path`, under the same name, with the links on
    /// the way to it and what it links to.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        self.add_resolved(path).map(drop)
    }

    /// As [`Tree::add`], and with what a program needs to run: libraries, interpreters.
    pub fn add_program(&mut self, path: &Path) -> Result<()> {
        let real = self.add_resolved(path)?;
        if !self.followed.insert(real.clone()) {
            return Ok(());
        }
        let bytes = std::fs::read(&real).with_context(|| format!("reading {}", real.display()))?;
        if let Some(interpreter) = shebang(&bytes) {
            return self
                .add_program(&interpreter)
                .with_context(|| format!("adding the interpreter of {}", path.display()));
        }
        let Some(needs) = elf::needs(&real, &bytes)? else { return Ok(()) };
        if let Some(interpreter) = &needs.interpreter {
            self.add_program(interpreter)?;
        }
        for soname in &needs.libraries {
            let library = self.resolver.require(soname, &needs, path)?;
            self.add_library(&library)?;
        }
        for soname in &needs.optional {
            if let Some(library) = self.resolver.find(soname, &needs) {
                self.add_library(&library)?;
            }
        }
        Ok(())
    }

    /// A library that programs open by name at run time. False where the node has none.
    pub fn add_dlopened(&mut self, soname: &str) -> Result<bool> {
        let shell = std::fs::read("/bin/sh").context("reading /bin/sh")?;
        let Some(needs) = elf::needs(Path::new("/bin/sh"), &shell)? else { return Ok(false) };
        match self.resolver.find(soname, &needs) {
            Some(library) => self.add_library(&library).map(|()| true),
            None => Ok(false),
        }
    }

    fn add_library(&mut self, library: &Path) -> Result<()> {
        self.add_program(library)?;
        let (Some(dir), Some(name)) = (library.parent(), library.file_name()) else {
            return Ok(());
        };
        // There is no ld.so.cache in the rescue system: what lies elsewhere gets a link where the
        // loader looks anyway.
        if !Resolver::is_default(dir) {
            let link = Path::new("/usr/lib").join(name);
            let path = relative(&link);
            if !link.exists() && !self.nodes.contains_key(&path) {
                self.symlink(&link.to_string_lossy(), &library.to_string_lossy());
            }
        }
        Ok(())
    }

    /// A directory with everything below it that `keep` wants, by path. Programs bring their needs.
    pub fn add_below(&mut self, dir: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<()> {
        for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
            let entry = entry.with_context(|| format!("listing {}", dir.display()))?;
            if entry.file_type().is_dir() {
                continue;
            }
            let path = entry.path();
            // A link into nowhere on the node is of no use in the rescue system either.
            let Ok(meta) = path.metadata() else { continue };
            let is_mask = entry.path_is_symlink() && meta.file_type().is_char_device();
            // Whoever reads a pipe waits for its other end.
            if !(meta.is_file() || meta.is_dir() || is_mask) || !keep(path) {
                continue;
            }
            let added = if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
                self.add_program(path)
            } else {
                self.add(path)
            };
            added.with_context(|| format!("adding {}", path.display()))?;
        }
        Ok(())
    }

    /// Adds `path` and returns where it really is, with no link on the way.
    fn add_resolved(&mut self, path: &Path) -> Result<PathBuf> {
        let mut links = 0;
        let mut todo: Vec<OsString> = parts(path).rev().collect();
        let mut real = PathBuf::from("/");
        while let Some(part) = todo.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let here = real.join(&part);
            let meta = here.symlink_metadata().with_context(|| {
                format!("looking at {} on the way to {}", here.display(), path.display())
            })?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    bail!("too many symbolic links on the way to {}", path.display());
                }
                let to = std::fs::read_link(&here)
                    .with_context(|| format!("reading the link {}", here.display()))?;
                self.nodes.insert(relative(&here), Node::Symlink { to: to.clone().into() });
                if to.is_absolute() {
                    real = PathBuf::from("/");
                }
                todo.extend(parts(&to).rev());
                continue;
            }
            let node = if meta.is_dir() {
                Node::Dir { mode }
            } else if meta.is_file() {
                Node::Copy { from: here.clone(), mode }
            } else if meta.file_type().is_char_device() && links > 0 {
                // A mask: udev(7) and modprobe.d(5) leave out what is a link to /dev/null. That is
                // in every rescue system.
                return Ok(here);
            } else {
                bail!("{} is no file, directory or link", here.display());
            };
            self.nodes.entry(relative(&here)).or_insert(node);
            real = here;
        }
        Ok(real)
    }

    /// The directories above `path`, where they are not there yet.
    fn parents(&mut self, path: &Path) {
        for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            self.nodes.entry(dir.to_owned()).or_insert(Node::Dir { mode: 0o755 });
        }
    }

    /// Where the tree's own links lead from `path`: the key under which its file is kept.
    pub fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut links = 0;
        let mut todo: Vec<OsString> = parts(path).rev().collect();
        let mut real = PathBuf::new();
        while let Some(part) = todo.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let here = real.join(&part);
            match self.nodes.get(&here)? {
                Node::Symlink { to } => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    let to = Path::new(to);
                    if to.is_absolute() {
                        real = PathBuf::new();
                    }
                    todo.extend(parts(to).rev());
                }
                _ => real = here,
            }
        }
        Some(real)
    }
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

/// The program in a script's first line.
fn shebang(bytes: &[u8]) -> Option<PathBuf> {
    let line = bytes.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_whitespace().next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_loader_libraries_and_links() {
        let mut tree = Tree::new();
        tree.add_program(Path::new("/bin/sh")).unwrap();
        let real = tree.resolve(Path::new("/bin/sh")).unwrap();
        assert!(matches!(tree.nodes[&real], Node::Copy { .. }), "{real:?}");
        let libc = tree.iter().any(|(path, _)| path.ends_with("libc.so.6"));
        assert!(libc);
        // Every parent is there, and before its child.
        for (path, _) in tree.iter() {
            let parent = path.parent().unwrap();
            assert!(
                parent.as_os_str().is_empty() || tree.nodes.contains_key(parent),
                "{path:?} has no parent"
            );
        }
    }

    #[test]
    fn a_script_brings_its_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("tool");
        std::fs::write(&script, "#!/bin/sh -e\necho\n").unwrap();
        let mut tree = Tree::new();
        tree.add_program(&script).unwrap();
        assert!(tree.resolve(Path::new("/bin/sh")).is_some());
    }

    #[test]
    fn masks_stay_masks_and_what_is_no_file_stays_out() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(dir.join("a.conf"), "x").unwrap();
        let mask = dir.join("b.conf");
        std::os::unix::fs::symlink("/dev/null", &mask).unwrap();
        nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        let mut tree = Tree::new();
        // It may read what it is asked about.
        let asked = std::cell::RefCell::new(Vec::new());
        let keep = |path: &Path| {
            asked.borrow_mut().push(path.file_name().unwrap().to_owned());
            true
        };
        tree.add_below(dir, &keep).unwrap();
        assert_eq!(asked.into_inner(), ["a.conf", "b.conf"]);
        assert_eq!(tree.nodes[&relative(&mask)], Node::Symlink { to: "/dev/null".into() });
        assert!(tree.contains(dir.join("a.conf").to_str().unwrap()));
        assert!(!tree.contains("/dev/null"));
        assert!(!tree.iter().any(|(path, _)| path.ends_with("pipe") || path.ends_with("socket")));
        assert!(tree.add(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn links_are_followed_and_a_loop_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::create_dir(dir.join("real")).unwrap();
        std::fs::write(dir.join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.join("up")).unwrap();
        std::os::unix::fs::symlink("../up/file", dir.join("real/again")).unwrap();
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
        let mut tree = Tree::new();
        tree.add(&dir.join("up/again")).unwrap();
        let found = tree.resolve(&dir.join("up/again")).unwrap();
        assert_eq!(found, relative(&dir.join("real/file")));
        let error = tree.add(&dir.join("loop")).unwrap_err();
        assert!(error.to_string().contains("too many symbolic links"), "{error}");
        assert!(tree.add(&dir.join("none")).is_err());
    }
}
