//! A generation as one plain tar stream.

use std::io::Write;

use anyhow::{Context, Result};

use super::fetch::Sequential;
use super::index::Index;
use crate::store::{Manifest, Store};

/// Writes the stream, each chunk checked before it is written.
pub fn export(manifest: &Manifest, store: &dyn Store, out: &mut dyn Write) -> Result<()> {
    let index = Index::open(manifest, store)?;
    let mut reader = Sequential::new(&index, store);
    for chunk in &index.chunks {
        let plain = reader.read(&chunk.frame)?;
        out.write_all(&plain).context("writing the tar stream")?;
    }
    out.flush().context("writing the tar stream")
}
