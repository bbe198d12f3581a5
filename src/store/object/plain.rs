//! Servers that can't list: plain PUT, GET and DELETE.
//!
//! What is there is told by what was published: `latest.json` names all generations, and their
//! manifests name all objects. Packs, which later generations build upon, are asked for one by one:
//! a generation that lacks one must not pass for whole. Besides there are this process's own, and locks, which are looked
//! for by name. So backup, recovery and pruning work. What is not seen are the objects that a
//! killed run left unpublished: they stay, and take room, until somebody deletes them there.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{catalog, lock};
use super::{Object, StoreError};

/// What is known to be there.
#[derive(Debug, Default)]
pub(super) struct Known {
    sizes: BTreeMap<String, u64>,
    /// Packs that a manifest names and nobody has asked for yet.
    named: BTreeSet<String>,
    /// Generations whose manifests were read: they never change.
    read: BTreeSet<String>,
}

/// What [`Known`] asks the server.
pub(super) trait Ask {
    /// The server's, for people.
    fn label(&self) -> String;
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError>;
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError>;
}

impl Known {
    pub fn put(&mut self, name: &str, size_bytes: u64) {
        self.sizes.insert(name.to_owned(), size_bytes);
    }

    pub fn deleted(&mut self, name: &str) {
        self.sizes.remove(name);
        self.named.remove(name);
    }

    pub fn list(&mut self, prefix: &str, server: &dyn Ask) -> Result<Vec<Object>, StoreError> {
        self.read_published(server)?;
        self.ask_for_packs(prefix, server)?;
        let mut found: Vec<Object> = self
            .sizes
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && !is_lock(name))
            .map(|(name, size_bytes)| Object { name: name.clone(), size_bytes: *size_bytes })
            .collect();
        if prefix.is_empty() || prefix.starts_with("lock-") {
            found.extend(locks(server)?);
        }
        Ok(found)
    }

    fn read_published(&mut self, server: &dyn Ask) -> Result<(), StoreError> {
        let Some(latest) = there(server.get("latest.json"))? else { return Ok(()) };
        let named = catalog::named_in_latest(&latest).map_err(|error| StoreError::Other {
            store: server.label(),
            detail: format!("{error:#}"),
        })?;
        for generation in named {
            if self.read.contains(&generation) {
                continue;
            }
            let name = catalog::object(&generation, "manifest.json");
            // One that was deleted since is still named in latest.json.
            let Some(bytes) = there(server.get(&name))? else { continue };
            self.sizes.insert(name, bytes.len() as u64);
            // A damaged one is told by who reads it.
            if let Ok(manifest) = catalog::parse(&bytes) {
                for record in manifest.file {
                    self.sizes.insert(record.name, record.size_bytes);
                }
                let names = manifest.pack.into_iter().map(|record| record.name);
                self.named.extend(names.filter(|name| !self.sizes.contains_key(name)));
            }
            self.read.insert(generation);
        }
        Ok(())
    }

    fn ask_for_packs(&mut self, prefix: &str, server: &dyn Ask) -> Result<(), StoreError> {
        while let Some(name) = self.named.iter().find(|name| name.starts_with(prefix)).cloned() {
            if let Some(size_bytes) = there(server.size_bytes(&name))? {
                self.sizes.insert(name.clone(), size_bytes);
            }
            self.named.remove(&name);
        }
        Ok(())
    }
}

fn locks(server: &dyn Ask) -> Result<Vec<Object>, StoreError> {
    let mut found = Vec::new();
    for number in 1..=lock::MOST {
        let name = format!("lock-{number}.json");
        if let Some(size_bytes) = there(server.size_bytes(&name))? {
            found.push(Object { name, size_bytes });
        }
    }
    Ok(found)
}

fn is_lock(name: &str) -> bool {
    name.starts_with("lock-")
}

fn there<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(there) => Ok(Some(there)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
