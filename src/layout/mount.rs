//! Where filesystems are mounted.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Id;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    pub path: BytesPath,
    /// The filesystem that is mounted.
    pub fs: Id,
    /// As in mountinfo (proc(5)): the options of the mount and of the superblock, joined.
    #[serde(default)]
    pub options: String,
    /// What of the filesystem is mounted: `/`, or a subdirectory for bind mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<BytesPath>,
    /// The backup target is on it, or none of its files are in the backup and nothing else is on its
    /// disks: neither archived nor recreated.
    #[serde(default)]
    pub target: bool,
}

impl Mount {
    /// What of the filesystem is mounted, from its top.
    pub fn shows(&self) -> &Path {
        self.root.as_ref().map_or(Path::new("/"), BytesPath::as_path)
    }
}

/// A path of any bytes. In text, what is not UTF-8, and the backslash, stand as `\xNN`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BytesPath(pub PathBuf);

impl BytesPath {
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// What its text form says. None where a backslash starts no `\xNN`.
    pub fn parse(text: &str) -> Option<BytesPath> {
        unescape(text).map(|bytes| BytesPath(OsString::from_vec(bytes).into()))
    }
}

impl<T: Into<PathBuf>> From<T> for BytesPath {
    fn from(path: T) -> Self {
        BytesPath(path.into())
    }
}

impl AsRef<Path> for BytesPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl std::fmt::Display for BytesPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&escape(self.0.as_os_str().as_bytes()))
    }
}

/// Any bytes as text that has one line and no control characters: those, the backslash and what is
/// not UTF-8 become `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    let _ = write!(out, "\\x{byte:02x}");
                }
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// The inverse of [`escape`]. None where a backslash starts no `\xNN`.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let hex = tail.strip_prefix(b"x").and_then(|t| t.get(..2))?;
        out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = &tail[3..];
    }
    Some(out)
}

impl Serialize for BytesPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(self.0.as_os_str().as_bytes()))
    }
}

impl<'de> Deserialize<'de> for BytesPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BytesPath::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} has a stray backslash")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_the_text_form() {
        for bytes in [&b"/srv/data"[..], b"/a\nb\\c\xff\xc3\xa4", b"", b"\\x41"] {
            let text = escape(bytes);
            assert!(!text.contains('\n'));
            assert_eq!(unescape(&text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(unescape("\\q"), None);
        assert_eq!(unescape("\\x4"), None);
    }
}
