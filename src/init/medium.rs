//! The medium that the rescue system was booted from. It is never a candidate for erasing.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};

use crate::recover::MEDIUM;
use crate::rescue::iso::volume_id;

/// ISO 9660: the primary volume descriptor is the sixteenth sector of 2048 bytes; its identifier is
/// 32 bytes from byte 40.
const DESCRIPTOR_BYTES: u64 = 16 * 2048;

/// The disks that [`find`] found at boot.
pub fn medium() -> Option<String> {
    std::fs::read_to_string(MEDIUM).ok().filter(|names| !names.trim().is_empty())
}

/// Looks at every disk for this node's rescue image, and writes [`MEDIUM`].
pub fn find(node: &str) -> Result<Vec<String>> {
    let wanted = volume_id(node);
    let mut found = Vec::new();
    let entries = std::fs::read_dir("/sys/block").context("listing the disks")?;
    for entry in entries {
        let name = entry.context("listing the disks")?.file_name().to_string_lossy().into_owned();
        if ["loop", "ram", "zram", "dm-", "md", "fd"].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        // A drive without a medium can't be opened.
        if label(&Path::new("/dev").join(&name)).is_some_and(|label| label == wanted) {
            found.push(name);
        }
    }
    found.sort();
    let lines: String = found.iter().map(|name| format!("{name}\n")).collect();
    std::fs::write(MEDIUM, lines).with_context(|| format!("writing {MEDIUM}"))?;
    Ok(found)
}

fn label(device: &Path) -> Option<String> {
    let mut file = std::fs::File::open(device).ok()?;
    file.seek(SeekFrom::Start(DESCRIPTOR_BYTES)).ok()?;
    let mut sector = [0; 2048];
    file.read_exact(&mut sector).ok()?;
    if &sector[..6] != b"\x01CD001" {
        return None;
    }
    Some(String::from_utf8_lossy(&sector[40..72]).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_volume_identifier() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut image = vec![0; 20 * 2048];
        std::fs::write(&path, &image).unwrap();
        assert_eq!(label(&path), None);
        image[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
        image[16 * 2048 + 40..16 * 2048 + 72].copy_from_slice(b"RR_NODE001                      ");
        std::fs::write(&path, &image).unwrap();
        assert_eq!(label(&path).as_deref(), Some("RR_NODE001"));
        std::fs::write(&path, "short").unwrap();
        assert_eq!(label(&path), None);
    }
}
