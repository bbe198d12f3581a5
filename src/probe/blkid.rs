//! What is on a device, as libblkid sees it: `blkid -p` for contents, `wipefs` for all signatures.

use anyhow::{Context, Result, bail};

use crate::sys::run::Cmd;

/// What `blkid -p` found on one device. All fields are as blkid prints them, empty where it says
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// `TYPE`: `ext4`, `LVM2_member`, `linux_raid_member`, `swap` ...
    pub kind: String,
    pub uuid: String,
    pub label: String,
    /// `PTTYPE`: `gpt`, `dos` ...
    pub pttype: String,
}

/// blkid's exit status where it found nothing, and where it found things that exclude each other.
const NOTHING: i32 = 2;
const AMBIVALENT: i32 = 8;

/// Asks about `device`. One at a time: blkid ends at the first device with nothing on it.
pub fn read(device: &str) -> Result<Content> {
    // Without -d it writes what is not ASCII so: `WM-CM-6rter`, `^A`.
    let output = Cmd::new("blkid").args(["-p", "-d", "-o", "export", device]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.code() {
        Some(0) => {
            let mut content = parse(&output.text());
            content.label = readable(content.label, device);
            Ok(content)
        }
        // It says nothing for an empty device, and something for one that it could not read.
        Some(NOTHING) if said.trim().is_empty() => Ok(Content::default()),
        Some(AMBIVALENT) => {
            bail!("{device} carries signatures that exclude each other; wipefs {device} lists them")
        }
        _ => bail!("asking blkid about {device}: {}", said.trim()),
    }
}

/// None where it is in the letters of another system: it could not be made again as it was.
fn readable(label: String, device: &str) -> String {
    if label.contains(char::REPLACEMENT_CHARACTER) {
        log::warn!("the label {label:?} on {device} is not UTF-8 and is not recorded");
        return String::new();
    }
    label
}

/// Parses `blkid -p -d -o export DEVICE`.
pub fn parse(text: &str) -> Content {
    let mut content = Content::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.to_owned();
        match key {
            "TYPE" => content.kind = value,
            // Of the log of an xfs: the filesystem's.
            "UUID" | "LOGUUID" => content.uuid = value,
            "LABEL" => content.label = value,
            "PTTYPE" => content.pttype = value,
            _ => {}
        }
    }
    content
}

/// The types of all signatures on `device`, without those of its partitions. Empty: it is blank.
pub fn signatures(device: &str) -> Result<Vec<String>> {
    match Cmd::new("wipefs").args(["--json", "--no-act", device]).text() {
        // Before util-linux 2.31 (RHEL 7) it knows no JSON.
        Err(error) if format!("{error:#}").contains("unrecognized option") => {
            let text = Cmd::new("wipefs").args(["--parsable", "--no-act", device]).text()?;
            Ok(parse_parsable(&text))
        }
        text => parse_signatures(&text?),
    }
}

/// Parses `wipefs --parsable --no-act DEVICE`: offset, UUID, label and, behind the last comma, type.
pub fn parse_parsable(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("0x"));
    let kinds = lines.filter_map(|line| line.rsplit_once(','));
    sorted(kinds.map(|(_, kind)| kind.to_owned()).collect())
}

fn sorted(mut kinds: Vec<String>) -> Vec<String> {
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Parses `wipefs --json --no-act DEVICE`, which prints nothing for a blank device before
/// util-linux 2.38.
pub fn parse_signatures(text: &str) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Found {
        signatures: Vec<Signature>,
    }
    #[derive(serde::Deserialize)]
    struct Signature {
        #[serde(rename = "type")]
        kind: String,
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let found: Found = serde_json::from_str(text).context("parsing the output of wipefs")?;
    Ok(sorted(found.signatures.into_iter().map(|s| s.kind).collect()))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_label_is_read_as_it_is() {
        for label in ["Gr\u{fc}n  \u{2603}", "M-x ^A", "a\\ b'\"", "two words"] {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(8 << 20).unwrap();
            let path = file.path().to_string_lossy().into_owned();
            Cmd::new("mke2fs").args(["-q", "-F", "-L", label, &path]).run().unwrap();
            assert_eq!(read(&path).unwrap().label, label);
        }
    }

    #[test]
    fn a_label_in_unknown_letters_is_not_recorded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let path = file.path().to_string_lossy().into_owned();
        // Of code page 850, as Windows has it on a FAT.
        let label = OsStr::from_bytes(b"W\x99rter");
        Cmd::new("mke2fs").args(["-q", "-F", "-L"]).arg(label).arg(&path).run().unwrap();
        let content = read(&path).unwrap();
        assert_eq!((content.kind.as_str(), content.label.as_str()), ("ext2", ""));
    }
}
