//! Which paths belong to a backup: the trees, without what is excluded.

use std::path::Path;

use anyhow::{Context, Result};
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// What to do with a directory or file that the walk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a tree: archive it and all below it.
    In,
    /// Only on the way to a tree: archive it, and below it only what leads there.
    Towards,
    Out,
}

#[derive(Debug)]
pub struct Select {
    /// Relative to the root, as in [`super::entry::Entry::path`].
    trees: Vec<Vec<u8>>,
    exclude: GlobSet,
    /// Leave out what has the `nodump` inode flag, and all below it but for trees.
    pub leaves_nodump: bool,
    /// Leave out what is in a directory with a CACHEDIR.TAG, but for the tag and trees.
    pub leaves_caches: bool,
}

impl Select {
    /// `exclude` are as [`exclude_glob`] reads them.
    pub fn new(trees: &[impl AsRef<Path>], exclude: &[String]) -> Result<Select> {
        let mut set = GlobSetBuilder::new();
        for text in exclude {
            set.add(exclude_glob(text)?);
        }
        let exclude = set.build().context("reading the exclude patterns")?;
        let trees = trees.iter().map(|tree| relative(tree.as_ref())).collect();
        Ok(Select { trees, exclude, leaves_nodump: false, leaves_caches: false })
    }

    pub fn trees(&self) -> impl Iterator<Item = &[u8]> {
        self.trees.iter().map(Vec::as_slice)
    }

    pub fn is_tree(&self, path: &[u8]) -> bool {
        self.trees.iter().any(|tree| tree == path)
    }

    /// Whether some tree lies below `path`.
    pub fn leads_to_tree(&self, path: &[u8]) -> bool {
        self.trees.iter().any(|tree| {
            path.is_empty() && !tree.is_empty()
                || tree.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"))
        })
    }

    pub fn excludes(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        if self.exclude.is_empty() {
            return false;
        }
        let absolute = [b"/", path].concat();
        self.exclude.is_match(Path::new(std::ffi::OsStr::from_bytes(&absolute)))
    }

    /// What `path` is, when its parent is `parent` and it is the root of a mount or not.
    pub fn way(&self, path: &[u8], parent: Way, mount_root: bool) -> Way {
        if self.is_tree(path) || (parent == Way::In && !mount_root) {
            Way::In
        } else if self.leads_to_tree(path) {
            Way::Towards
        } else {
            Way::Out
        }
    }
}

/// A pattern for absolute paths, where `*` stops at a slash and `**` does not; one that does not
/// start with a slash matches at any depth.
pub fn exclude_glob(text: &str) -> Result<Glob> {
    let pattern = if text.starts_with('/') { text.to_owned() } else { format!("**/{text}") };
    GlobBuilder::new(pattern.trim_end_matches('/'))
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .with_context(|| format!("reading the exclude pattern {text:?}"))
}

/// An absolute path as the archive names it.
pub fn relative(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let parts = path.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.as_bytes()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_stop_at_slashes_and_match_any_bytes() {
        let exclude = ["/tmp/*", "*.iso", "/var/cache/**/x/", "/a[*]b"].map(String::from);
        let select = Select::new(&["/"], &exclude).unwrap();
        for path in ["tmp/a", "srv/deep/b.iso", "var/cache/1/2/x", "a*b"] {
            assert!(select.excludes(path.as_bytes()), "{path}");
        }
        for path in ["tmp", "tmp/a/b", "iso", "var/cache/x/y", "aXb"] {
            assert!(!select.excludes(path.as_bytes()), "{path}");
        }
        assert!(select.excludes(b"tmp/\xff\n"));
        assert!(Select::new(&["/"], &["a[".into()]).is_err());
    }

    #[test]
    fn trees_below_foreign_mounts_are_reached() {
        let select = Select::new(&["/", "/run/media/disk"], &[]).unwrap();
        assert_eq!(select.way(b"run", Way::In, true), Way::Towards);
        assert_eq!(select.way(b"run/lock", Way::Towards, false), Way::Out);
        assert_eq!(select.way(b"run/media", Way::Towards, false), Way::Towards);
        assert_eq!(select.way(b"run/media/disk", Way::Towards, true), Way::In);
        assert_eq!(select.way(b"proc", Way::In, true), Way::Out);
        assert_eq!(select.way(b"etc", Way::In, false), Way::In);
        assert!(!select.leads_to_tree(b"run/med"));
    }
}
