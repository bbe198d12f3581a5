//! Whether the initrd is whole. A kernel unpacks what it can of a damaged one and starts with the
//! rest, silently.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::layout::mount::unescape;
use crate::rescue::initrd::HASHES;

/// Compares every file below `root` that has a hash with it.
///
/// # Errors
/// Names the files that differ or are missing.
pub fn check(root: &Path) -> Result<()> {
    let list = root.join(HASHES);
    let text = std::fs::read_to_string(&list).with_context(|| {
        format!(
            "this rescue system is damaged: the initrd was not unpacked to its end ({} is missing)\nhint: write the medium anew, or test the machine's memory",
            list.display()
        )
    })?;
    let started = std::time::Instant::now();
    let lines: Vec<&str> = text.lines().collect();
    // One thread: the other cores are finding devices.
    let wrong: Vec<String> = lines.iter().filter_map(|line| compare(root, line).err()).collect();
    log::info!("{} files compared with their hashes in {:.1?}", lines.len(), started.elapsed());
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} files of this rescue system are damaged: {}\nhint: write the medium anew, or test the machine's memory",
        wrong.len(),
        lines.len(),
        wrong.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ")
    )
}

fn compare(root: &Path, line: &str) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let broken = || format!("a line of {HASHES}");
    let (hash, name) = line.split_once("  ").ok_or_else(broken)?;
    let name = unescape(name).ok_or_else(broken)?;
    let path = root.join(std::ffi::OsStr::from_bytes(&name));
    let shown = path.display();
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(&path).map_err(|error| format!("{shown} ({error})"))?;
    hasher.update_reader(file).map_err(|error| format!("{shown} ({error})"))?;
    if hasher.finalize().to_hex().as_str() == hash { Ok(()) } else { Err(shown.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_and_a_missing_file_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc/rr")).unwrap();
        std::fs::write(root.join("good"), "good").unwrap();
        std::fs::write(root.join("bad"), "bad").unwrap();
        let hash = blake3::hash(b"good");
        let list = |text: String| std::fs::write(root.join(HASHES), text).unwrap();
        list(format!("{hash}  good\n"));
        check(root).unwrap();
        list(format!("{hash}  good\n{hash}  bad\n{hash}  gone\n"));
        let error = check(root).unwrap_err().to_string();
        assert!(error.contains("2 of 3") && error.contains("/bad"), "{error}");
        assert!(error.contains("/gone") && !error.contains("/good"), "{error}");
        std::fs::remove_file(root.join(HASHES)).unwrap();
        assert!(check(root).unwrap_err().to_string().contains("not unpacked to its end"));
    }
}
