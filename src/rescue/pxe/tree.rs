//! The tree as a directory: its files appear whole, and everybody may read them.

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::{Config, TargetUrl};
use crate::store::name::Tag;

/// Its presence says that a tree is rr's.
const MARK: &str = "rr-pxe.toml";
const MARK_TEXT: &str = "# The boot menus and rescue systems of rr. All files here are made by it.\n\
    version = 1\n";
/// Below the target, where no tree is configured.
pub const AT_TARGET: &str = "pxe";
/// Servers run as users of their own.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    label: String,
    /// Keeps an NFS export that no other process sees; the root is below it.
    _base: OwnedFd,
}

impl Tree {
    /// Opens the directory that the tree is in. Changes nothing.
    pub fn open(config: &Config) -> Result<Tree> {
        let (url, below) = place(config)?;
        let label = format!("{url}/{below}").trim_end_matches('/').to_owned();
        if below == AT_TARGET && config.node_name()? == AT_TARGET {
            bail!(
                "the PXE tree {label} is where the node {AT_TARGET} has its backups\nhint: pxe.tree in rr.toml puts it elsewhere"
            );
        }
        let opening = || format!("opening the PXE tree {label}");
        let base = if let Some(dir) = url.dir() {
            File::open(dir).map(OwnedFd::from).with_context(opening)?
        } else if let TargetUrl::Nfs { host, path } = &url {
            crate::store::nfs::open(host, path, &config.target_options).with_context(opening)?.0
        } else {
            bail!(
                "the target is no directory, and a PXE tree has to be one\nhint: pxe.tree = \"nfs://server/export\" or \"file:///directory\" in rr.toml"
            );
        };
        let root = PathBuf::from(format!("/proc/self/fd/{}", base.as_raw_fd())).join(below);
        Ok(Tree { root, label, _base: base })
    }

    /// For people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether nodes can write to it. Changes nothing.
    ///
    /// # Errors
    /// It holds what is not rr's, or can't be written.
    pub fn check(&self) -> Result<()> {
        // Listed first: another node may make the tree now, and puts the mark first.
        let names = self.list("")?;
        match self.get(MARK)? {
            Some(text) => check_version(&String::from_utf8_lossy(&text))
                .with_context(|| format!("looking at {}", self.label))?,
            None if names.iter().all(|name| name == MARK || name == "lost+found") => {}
            None => bail!(
                "{} holds files that are not rr's ({})\nhint: give rr a directory of its own: pxe.tree in rr.toml",
                self.label,
                names[0]
            ),
        }
        let dir = self.root.ancestors().find(|dir| dir.exists()).unwrap_or(&self.root);
        nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK)
            .with_context(|| format!("{} can't be written", self.label))
    }

    /// Makes it where it is not there yet.
    pub fn make(&self) -> Result<()> {
        self.check()?;
        self.make_dir(&self.root)?;
        self.put_if_other(MARK, MARK_TEXT.as_bytes())
    }

    /// A file's content; None where there is none.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.root.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.said(name))),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.root.join(name).exists()
    }

    /// The names in a directory, sorted, without unfinished files; none where it is not there.
    pub fn list(&self, dir: &str) -> Result<Vec<String>> {
        let listing = || format!("listing {}", self.said(dir));
        let entries = match self.root.join(dir).read_dir() {
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            entries => entries.with_context(listing)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.with_context(listing)?.file_name().to_string_lossy().into_owned();
            if Tag::of_part(&name).is_none() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.place(name, &|to| std::fs::write(to, bytes))
    }

    /// Leaves a file that is so already alone: servers and other nodes read it.
    pub fn put_if_other(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.get(name)?.as_deref() == Some(bytes) { Ok(()) } else { self.put(name, bytes) }
    }

    pub fn put_file(&self, name: &str, from: &Path) -> Result<()> {
        self.place(name, &|to| std::fs::copy(from, to).map(drop))
    }

    /// Writes a file beside its place, durably, and gives it its name.
    fn place(&self, name: &str, fill: &dyn Fn(&Path) -> std::io::Result<()>) -> Result<()> {
        let to = self.root.join(name);
        let (Some(dir), Some(leaf)) = (to.parent(), to.file_name()) else {
            bail!("{name:?} names no file of a tree");
        };
        self.make_dir(dir)?;
        let part = dir.join(Tag::own().part_name(&leaf.to_string_lossy()));
        let placed = fill(&part)
            .and_then(|()| std::fs::set_permissions(&part, Permissions::from_mode(FILE_MODE)))
            .and_then(|()| File::open(&part)?.sync_all())
            .and_then(|()| std::fs::rename(&part, &to))
            .and_then(|()| sync_dir(dir));
        if placed.is_err() {
            // It may never have come to be.
            let _ = std::fs::remove_file(&part);
        }
        placed.with_context(|| format!("writing {}", self.said(name)))
    }

    fn make_dir(&self, dir: &Path) -> Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let make = |dir: &Path| match std::fs::create_dir(dir) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(DIR_MODE)),
        };
        if let Some(parent) = dir.parent() {
            self.make_dir(parent)?;
        }
        make(dir).with_context(|| format!("making a directory in {}", self.label))
    }

    /// Removing what is not there is no error.
    pub fn remove(&self, name: &str) -> Result<()> {
        match std::fs::remove_file(self.root.join(name)) {
            Err(error) if !is_missing(&error) => {
                Err(error).with_context(|| format!("removing {}", self.said(name)))
            }
            _ => Ok(()),
        }
    }

    /// Removes a directory and the files in it; with a directory in it, it stays.
    pub fn remove_dir(&self, name: &str) -> Result<()> {
        let removing = || format!("removing {}", self.said(name));
        let dir = self.root.join(name);
        for entry in dir.read_dir().with_context(removing)? {
            std::fs::remove_file(entry.with_context(removing)?.path()).with_context(removing)?;
        }
        std::fs::remove_dir(&dir).with_context(removing)
    }

    /// Removes unfinished files of a directory that are older than this: of runs that were killed.
    pub fn sweep(&self, dir: &str, older_than: Duration) -> Result<()> {
        let sweeping = || format!("sweeping {}", self.said(dir));
        for entry in self.root.join(dir).read_dir().with_context(sweeping)? {
            let entry = entry.with_context(sweeping)?;
            let is_part = Tag::of_part(&entry.file_name().to_string_lossy()).is_some();
            let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
            if is_part && matches!(age, Ok(Ok(age)) if age >= older_than) {
                // Its writer may live, on a machine with a wrong clock, and have renamed it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn said(&self, name: &str) -> String {
        format!("{}/{name}", self.label)
    }
}

/// The directory that the tree is in, and what it is called in there; empty where it is that.
pub fn place(config: &Config) -> Result<(TargetUrl, &'static str)> {
    Ok(match &config.pxe.tree {
        Some(tree) => (tree.parse()?, ""),
        None => (config.target_url()?, AT_TARGET),
    })
}

fn check_version(text: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Mark {
        version: u32,
    }
    let mark: Mark = toml::from_str(text).with_context(|| format!("parsing {MARK}"))?;
    if mark.version != 1 {
        bail!("it was made by a newer rr\nhint: install that version on this node");
    }
    Ok(())
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some FUSE filesystems know no such thing.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
