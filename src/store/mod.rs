//! Where backups live: publish and fetch.
//!
//! A [`Store`] holds named objects of one node's tree, `<target>/<node>/`. An object appears whole
//! or not at all. What the names mean is told by [`catalog`].

pub mod catalog;
pub mod dir;

use std::path::Path;

pub use crate::config::TargetUrl;
pub use catalog::Manifest;

/// Whether the caller will write. A store opened for reading never creates or changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
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
    /// Worth another try: a broken connection, a busy server.
    #[error("{store} did not answer: {detail}")]
    Transient { store: String, detail: String },
    #[error("{store}: {detail}")]
    Other { store: String, detail: String },
}

/// Named objects of one node at one target. Names are relative, made of `[A-Za-z0-9._-]` parts.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// For people; holds no secret.
    fn url(&self) -> String;
    /// Puts a whole object: durable and visible when this returns, invisible before. Replaces.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;
    /// As [`Store::put`], from a file of any size.
    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError>;
    /// As [`Store::put`], but fails with [`StoreError::Exists`] where the name is taken, decided
    /// atomically.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError>;
    /// Exactly `len` bytes from `offset`; an object that ends before is an error.
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, StoreError>;
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError>;
    /// All objects whose name starts with `prefix`, by name. No object is not an error.
    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError>;
    /// Deleting what is not there is not an error.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
    /// Room left at the target, where it can be known.
    fn free_bytes(&self) -> Result<Option<u64>, StoreError>;
}
