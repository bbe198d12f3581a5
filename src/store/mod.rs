//! Where backups live: publish and fetch.
//!
//! A [`Store`] holds named objects of one node's tree, `<target>/<node>/`. An object appears whole
//! or not at all. What the names mean is told by [`catalog`].
//!
//! * [`dir`] a directory as a store; [`nfs`] how one on an NFS server comes to be a directory,
//!   [`usb`] one on a disk that is plugged in, [`iso`] in the rescue ISO; [`patient`] how it is given
//!   up when the server is gone
//! * [`object`] objects on a server: S3, WebDAV, plain HTTP
//! * [`name`] what objects and unfinished files are called; [`pieces`] what is put into them
//! * [`catalog`] generations; [`manifest`] what each consists of; [`lock`] one writer at a time,
//!   [`owner`] which it is, [`held`] while it is
//! * [`keep`] which generations stay; [`retain`] what is deleted; [`room`] what is left free

pub mod catalog;
pub mod dir;
mod held;
pub mod iso;
pub mod keep;
pub mod lock;
pub mod manifest;
pub mod name;
pub mod nfs;
pub mod object;
mod owner;
pub mod patient;
pub mod pieces;
pub mod retain;
mod room;
#[cfg(test)]
mod testing;
pub mod usb;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::config::TargetOptions;
pub use crate::config::TargetUrl;
pub use catalog::Manifest;
pub use pieces::Pieces;
#[cfg(test)]
pub(crate) use testing::test_store;

/// Whether the caller will write. A store opened for reading never creates or changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// For writing, where the node has a tree: a name that is mistyped makes none.
    Change,
    /// As [`Access::Change`], to delete only: where no file can be written, since the target is full.
    Delete,
    Write,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The name below the node's tree, parts separated by `/`.
    pub name: String,
    pub size_bytes: u64,
}

/// Why a store could not do what was asked, as far as a caller acts on it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{name} is not in {store}")]
    NotFound { store: String, name: String },
    #[error("{name} is already in {store}")]
    Exists { store: String, name: String },
    #[error("{store} is full: {detail}")]
    Full { store: String, detail: String },
    #[error("{store} does not allow it: {detail}")]
    Denied { store: String, detail: String },
    /// A certificate is missing or not valid, theirs or ours: no login mends that.
    #[error("{store}: {detail}")]
    Certificate { store: String, detail: String },
    /// Worth another try: a broken connection, a busy server.
    #[error("{store} did not answer: {detail}")]
    Transient { store: String, detail: String },
    #[error("{store}: {detail}")]
    Other { store: String, detail: String },
}

/// What was read is hashed while it still is in a core's own cache.
const PIECE_BYTES: usize = 256 << 10;
/// What is asked for at once where each answer is waited for.
const ASKED_BYTES: usize = 4 << 20;

/// Named objects of one node at one target. Names are relative, made of `[A-Za-z0-9._-]` parts.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// For people; holds no secret.
    fn url(&self) -> String;
    /// Puts a whole object: durable and visible when this returns, invisible before. Replaces.
    fn put_pieces(&self, name: &str, pieces: &Pieces) -> Result<(), StoreError>;
    /// As [`Store::put_pieces`], for little.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_pieces(name, &bytes.into())
    }
    /// As [`Store::put_pieces`], from a file of any size.
    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError>;
    /// As [`Store::put`], but fails with [`StoreError::Exists`] where the name is taken. Two who do so
    /// at once may both succeed on servers that look first: see [`Store::claim`].
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;
    /// As [`Store::put_new`], decided atomically, or as near to it as the server allows. That may mean
    /// to wait for others: it is for what nothing else guards.
    fn claim(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_new(name, bytes)
    }
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError>;
    /// Exactly `len` bytes from `offset`; an object that ends before is an error. They are given in
    /// the memory of `room`, whatever was in it.
    fn get_range_into(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        room: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError>;
    /// As [`Store::get_range_into`], in new memory.
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.get_range_into(name, offset, len, Vec::new())
    }
    /// As [`Store::get_range_into`], of any length: they are given to `each` in small pieces.
    fn read_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let (mut at, mut left, mut room) = (offset, len, Vec::new());
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(ASKED_BYTES).min(ASKED_BYTES);
            room = self.get_range_into(name, at, part, room)?;
            room.chunks(PIECE_BYTES).for_each(&mut *each);
            (at, left) = (at + part as u64, left - part as u64);
        }
        Ok(())
    }
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError>;
    /// All objects whose name starts with `prefix`, by name. No object is not an error.
    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError>;
    /// Deleting what is not there is not an error.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
    /// Room left at the target, where it can be known.
    fn free_bytes(&self) -> Result<Option<u64>, StoreError>;
    /// Whether it is known that what is deleted or replaced goes on taking room, as an older version.
    fn keeps_versions(&self) -> bool {
        false
    }
    /// Removes what unfinished puts of dead runs left, and says how many they were. Only for the
    /// holder of the lock.
    fn sweep(&self) -> Result<usize, StoreError> {
        Ok(0)
    }
    /// How the target's network filesystem is secured, where that is known: `krb5i`.
    fn security(&self) -> Option<&str> {
        None
    }
}

/// How many nodes are named where one is not there.
const NAMED: usize = 10;

/// Opens the tree of `node` at the target. To [`Access::Write`] it is made where it is missing, and to
/// change anything, but to [`Access::Delete`], a file is written to see that one can be.
///
/// # Errors
/// A tree that is not there fails with a [`StoreError::NotFound`] in the chain.
pub fn open(
    url: &TargetUrl,
    node: &str,
    access: Access,
    options: &TargetOptions,
) -> Result<Box<dyn Store>> {
    let opening = || format!("opening the target {url} for the node {node}");
    let Some(base) = base(url, access, options)? else {
        let store = object::ObjectStore::open(url, node, access, options).with_context(opening)?;
        return Ok(Box::new(store));
    };
    let (base, security) = base;
    match dir::DirStore::open(&base, &url.to_string(), node, access) {
        Ok(store) => Ok(with_patience(store, url, options, security)),
        Err(StoreError::NotFound { name, .. }) => {
            let others = dir::trees(&base).unwrap_or_default();
            let hint = match others.len() {
                0 => "no node has a backup there; is the target right?".to_owned(),
                1 => format!("--node NAME; there is one node: {}", others[0]),
                count => format!(
                    "--node NAME; there are {count} nodes: {}{}",
                    others[..count.min(NAMED)].join(", "),
                    if count > NAMED { ", ..." } else { "" }
                ),
            };
            // As the cause, so that nothing is said behind the hint.
            let cause = StoreError::NotFound { store: format!("{url}\nhint: {hint}"), name };
            Err(anyhow::Error::new(cause).context(format!("there is no backup of {node}")))
        }
        Err(error) => Err(error).with_context(opening),
    }
}

/// The tree of one of many nodes, or why it can't be opened.
pub type Opened = Result<Box<dyn Store>>;

/// The trees of all nodes at the target, for reading, with the nodes' names. One that can't be opened
/// does not stand in the way of the others.
pub fn open_all(url: &TargetUrl, options: &TargetOptions) -> Result<Vec<(String, Opened)>> {
    let Some((base, security)) = base(url, Access::Read, options)? else {
        let stores = object::open_all(url, options).with_context(|| format!("reading {url}"))?;
        let boxed = |store| Box::new(store) as Box<dyn Store>;
        return Ok(stores.into_iter().map(|(node, store)| (node, store.map(boxed))).collect());
    };
    let open = |node: String| {
        let store = dir::DirStore::open(&base, &url.to_string(), &node, Access::Read)
            .with_context(|| format!("opening the tree of {node}"));
        (node, store.map(|store| with_patience(store, url, options, security.clone())))
    };
    let nodes = dir::trees(&base).with_context(|| format!("reading {url}"))?;
    Ok(nodes.into_iter().map(open).collect())
}

/// The directory that holds the trees of the nodes, and [`Store::security`]; None where it is on a server
/// of objects.
fn base(
    url: &TargetUrl,
    access: Access,
    options: &TargetOptions,
) -> Result<Option<(OwnedFd, Option<String>)>> {
    Ok(Some(match url {
        TargetUrl::File { dir } => (open_dir(dir)?, None),
        TargetUrl::Nfs { host, path } => nfs::open(host, path, options)?,
        TargetUrl::Usb(stick) => (usb::open(stick, access)?, None),
        TargetUrl::Iso(iso) => (iso::open(iso, access)?, None),
        TargetUrl::Http { .. } | TargetUrl::S3 { .. } => return Ok(None),
    }))
}

fn with_patience(
    store: dir::DirStore,
    url: &TargetUrl,
    options: &TargetOptions,
    security: Option<String>,
) -> Box<dyn Store> {
    match url {
        TargetUrl::Nfs { .. } => {
            let patience = Duration::from_secs(options.patience_seconds);
            Box::new(patient::PatientStore::new(Box::new(store), patience).secured_by(security))
        }
        _ => Box::new(store),
    }
}

/// The directory must be there: when the disk that should be mounted on it is not, its making would
/// fill the root filesystem.
fn open_dir(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(dir, flags, Mode::empty()).map_err(|errno| {
        let dir = dir.display();
        match errno {
            Errno::ENOENT => anyhow!(
                "the target directory {dir} is not there\nhint: mount the disk that it is on, or create it: mkdir -p {dir}"
            ),
            Errno::ENOTDIR => anyhow!("the target {dir} is not a directory"),
            other => anyhow!("opening the target directory {dir}: {}", other.desc()),
        }
    })
}
