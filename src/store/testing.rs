//! Stores for tests.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Access, Object, Pieces, Store, StoreError, TargetUrl, catalog, open};
use crate::config::TargetOptions;

/// An empty tree in a directory that goes away when the first value is dropped.
pub fn test_store() -> (TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let url = TargetUrl::File { dir: dir.path().to_owned() };
    let store = open(&url, "node001", Access::Write, &TargetOptions::default()).unwrap();
    (dir, store.into())
}

/// What others do to a store while something is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Another run takes the lock over while a manifest is on its way.
    TakenOverWhilePublishing,
    /// One that is gone again: it has swept a pack.
    SweptWhilePublishing,
    /// Another machine takes the lock over when the first object is deleted.
    TakenOverWhileDeleting,
    /// While it is looked who holds the lock, another run publishes what it had stored
    /// (20261105T000000Z), and a third begins (20261106T000000Z).
    RunsWhileLooking,
    /// A cache lists what was there before this object was put.
    ListedWithout(&'static str),
}

/// A store to which that happens.
#[derive(Debug)]
pub struct BesideStore(Arc<dyn Store>, Beside);

impl BesideStore {
    pub fn shared(inner: &Arc<dyn Store>, beside: Beside) -> Arc<dyn Store> {
        Arc::new(BesideStore(Arc::clone(inner), beside))
    }
}

impl Store for BesideStore {
    fn url(&self) -> String {
        self.0.url()
    }
    fn put_pieces(&self, name: &str, pieces: &Pieces) -> Result<(), StoreError> {
        self.0.put_pieces(name, pieces)
    }
    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        self.0.put_file(name, path)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.1 {
            Beside::TakenOverWhilePublishing if name.ends_with("manifest.json") => {
                self.0.put("lock-2.json", b"{}")?;
            }
            Beside::SweptWhilePublishing if name.ends_with("manifest.json") => {
                self.0.delete("packs/a")?;
            }
            _ => {}
        }
        self.0.put_new(name, bytes)
    }
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.0.get(name)
    }
    fn get_range_into(
        &self,
        name: &str,
        at: u64,
        len: usize,
        room: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.0.get_range_into(name, at, len, room)
    }
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.0.size_bytes(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        if self.1 == Beside::RunsWhileLooking && prefix == "lock-" {
            let mut next = catalog::tests::example("20261105T000000Z");
            let name = "packs/20261105T000000Z-1-abc.tar.zst".to_owned();
            let pack = catalog::record("", "", b"x");
            next.pack.push(catalog::FileRecord { name, ..pack });
            catalog::publish(&*self.0, &next).unwrap();
            self.0.put("packs/20261106T000000Z-1-abc.tar.zst", b"x")?;
        }
        let mut found = self.0.list(prefix)?;
        if let Beside::ListedWithout(name) = self.1 {
            found.retain(|object| object.name != name);
        }
        Ok(found)
    }
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        if self.1 == Beside::TakenOverWhileDeleting {
            self.0.put("lock-2.json", b"{}")?;
        }
        self.0.delete(name)
    }
    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.0.free_bytes()
    }
}
