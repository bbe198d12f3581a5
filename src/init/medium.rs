//! The medium that the rescue system was booted from. It is never a candidate for erasing.

use anyhow::{Context, Result};

use crate::recover::MEDIUM;
use crate::rescue::iso::volume_id;
use crate::store::iso;

/// Looks at every disk for this node's rescue image, and writes [`MEDIUM`].
pub fn find(node: &str) -> Result<Vec<String>> {
    let wanted = volume_id(node);
    let media = iso::media()?.into_iter().filter(|medium| medium.volume == wanted);
    let found: Vec<String> = media.map(|medium| medium.name).collect();
    let lines: String = found.iter().map(|name| format!("{name}\n")).collect();
    std::fs::write(MEDIUM, lines).with_context(|| format!("writing {MEDIUM}"))?;
    Ok(found)
}
