//! A store for as long as the lock is held: once it is known that another run has taken the lock
//! over, nothing is written or deleted any more. What is read harms nobody.
//!
//! It costs no request: the lock's own thread finds out ([`super::lock`]). So a run that has lost its
//! lock ends with the next pack, and not when everything is archived. Before something is published
//! or deleted, [`LockGuard::check`](super::lock::LockGuard::check) still has to be asked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Object, Pieces, Store, StoreError};

#[derive(Debug)]
pub(super) struct HeldStore {
    inner: Arc<dyn Store>,
    lost: Arc<AtomicBool>,
}

impl HeldStore {
    pub fn new(inner: Arc<dyn Store>, lost: Arc<AtomicBool>) -> HeldStore {
        HeldStore { inner, lost }
    }

    fn held(&self) -> Result<&dyn Store, StoreError> {
        if self.lost.load(Ordering::Relaxed) {
            let detail = "another rr has taken over its lock: this run writes nothing more".into();
            return Err(StoreError::Other { store: self.inner.url(), detail });
        }
        Ok(&*self.inner)
    }
}

impl Store for HeldStore {
    fn url(&self) -> String {
        self.inner.url()
    }
    fn put_pieces(&self, name: &str, pieces: &Pieces) -> Result<(), StoreError> {
        self.held()?.put_pieces(name, pieces)
    }
    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        self.held()?.put_file(name, path)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.held()?.put_new(name, bytes)
    }
    fn claim(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.held()?.claim(name, bytes)
    }
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name)
    }
    fn get_range_into(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        room: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range_into(name, offset, len, room)
    }
    fn read_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        self.inner.read_range(name, offset, len, each)
    }
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.inner.size_bytes(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        self.inner.list(prefix)
    }
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.held()?.delete(name)
    }
    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.inner.free_bytes()
    }
    fn keeps_versions(&self) -> bool {
        self.inner.keeps_versions()
    }
    fn sweep(&self) -> Result<usize, StoreError> {
        self.held()?.sweep()
    }
    fn security(&self) -> Option<&str> {
        self.inner.security()
    }
}
