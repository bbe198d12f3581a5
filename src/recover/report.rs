//! What a recovery leaves behind: the log and a result that programs can read, in the recovered
//! system and at the target.

use std::fs::{File, FileTimes};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::plan::IdentityChange;
use crate::store::Store;

/// The version of the JSON result.
pub const VERSION: u32 = 1;

/// Where logs are kept in the recovered system.
const DIR: &str = "var/log/rr";

/// The result of a recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Report {
    pub version: u32,
    /// `success`, `incomplete` (files are missing) or `failed`.
    pub result: String,
    /// The chain of causes where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Disks were written to.
    pub touched: bool,
    pub rr: String,
    pub node: String,
    pub generation: String,
    pub target: String,
    /// RFC 3339, UTC.
    pub started: String,
    pub finished: String,
    pub seconds: u64,
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    pub disks: Vec<DiskTaken>,
    pub identity_changes: Vec<IdentityChange>,
    /// Copies of LUKS headers that the backup has. A recovery does not need them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub luks_headers: Vec<String>,
    /// What was changed in the restored tree.
    pub changed: Vec<String>,
    pub checks: Vec<Check>,
    pub warnings: Vec<String>,
}

/// Which disk took the place of which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskTaken {
    pub recorded: String,
    pub present: String,
    pub serial: Option<String>,
    pub why: String,
}

impl Report {
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("writing the result as JSON")? + "\n")
    }

    /// `20261121T013500Z`: the start, as it stands in names.
    fn stamp(&self) -> String {
        self.started.chars().filter(|c| c.is_ascii_digit() || matches!(c, 'T' | 'Z')).collect()
    }

    /// Writes log and result into the recovered system; returns where the log is, as the
    /// recovered system names it.
    pub fn write_into(&self, root: &Path, log: &[u8]) -> Result<PathBuf> {
        let dir = root.join(DIR);
        make_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let name = format!("recover-{}", self.stamp());
        write(&dir.join(format!("{name}.json")), self.json()?.as_bytes())?;
        write(&dir.join(format!("{name}.log")), log)?;
        Ok(Path::new("/").join(DIR).join(format!("{name}.log")))
    }

    /// Puts log and result into the node's tree at the target.
    pub fn put(&self, store: &dyn Store, log: &[u8]) -> Result<()> {
        let dir = format!("recoveries/{}", self.stamp());
        store.put(&format!("{dir}/rr.log"), log)?;
        store.put(&format!("{dir}/result.json"), self.json()?.as_bytes())?;
        Ok(())
    }
}

/// Creates a directory and gives the one above its times back: it came back with the archive.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    let above = dir.parent().filter(|above| above.is_dir() && !dir.exists());
    let times = above.map(Path::metadata).transpose()?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if let (Some(above), Some(times)) = (above, times) {
        let times =
            FileTimes::new().set_accessed(times.accessed()?).set_modified(times.modified()?);
        File::open(above)?.set_times(times)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .with_context(|| format!("writing {}", path.display()))
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: String,
    /// Why it does not hold; none where it does.
    pub problem: Option<String>,
}

impl Check {
    pub fn new(what: impl Into<String>, problem: Option<String>) -> Check {
        Check { what: what.into(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn log_and_result_are_left_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let report = Report {
            version: VERSION,
            result: "success".into(),
            started: "2026-11-21T01:35:00Z".into(),
            ..Report::default()
        };
        let above = dir.path().join("var/log");
        std::fs::create_dir_all(&above).unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
        let times = FileTimes::new().set_modified(long_ago);
        File::open(&above).unwrap().set_times(times).unwrap();
        let log = report.write_into(dir.path(), b"said\n").unwrap();
        assert_eq!(above.metadata().unwrap().modified().unwrap(), long_ago);
        assert_eq!(log, Path::new("/var/log/rr/recover-20261121T013500Z.log"));
        for (end, start) in [("log", "said"), ("json", "{\n  \"version\": 1")] {
            let file = dir.path().join(format!("var/log/rr/recover-20261121T013500Z.{end}"));
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert!(std::fs::read_to_string(file).unwrap().starts_with(start));
        }
    }
}
