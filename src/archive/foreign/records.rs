//! What the pax headers of a foreign archive tell: of what rr knows, the last value of each key.
//!
//! Anybody can write headers of many MiB that compress to nothing. What no Linux could take is
//! dropped where it is read, and what rr does not know is never kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::super::acl;
use super::super::pax::{FFLAGS, PROJECT, XATTR};
use super::super::tar::{Records as Raw, xattr_name};

/// What GNU tar calls the label that the kernel calls `security.selinux`.
pub const SELINUX: (&[u8], &[u8]) = (b"RHT.security.selinux", b"security.selinux");

/// What is kept, in the order in which it is to be applied: the name of a sparse file, which GNU tar
/// hides behind another one, comes after that one.
pub const KNOWN: [&[u8]; 17] = [
    b"path",
    b"GNU.sparse.name",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"mtime",
    b"GNU.sparse.major",
    b"GNU.sparse.minor",
    b"GNU.sparse.realsize",
    b"GNU.sparse.size",
    b"GNU.sparse.map",
    FFLAGS,
    PROJECT,
    SELINUX.0,
    acl::KEYS[0].1.as_bytes(),
    acl::KEYS[1].1.as_bytes(),
];

/// `XATTR_NAME_MAX`, `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` (xattr(7)).
const NAME_MAX_BYTES: usize = 255;
const VALUE_MAX_BYTES: usize = 64 << 10;
const NAMES_MAX_BYTES: usize = 64 << 10;
/// Of one file, as [`super::super::read`] takes into a backup.
const XATTRS_MAX_BYTES: usize = 4 << 20;
/// An ACL of 64 KiB has 8191 entries.
const ACL_TEXT_MAX_BYTES: usize = 1 << 20;

pub const TOO_LONG: &str = "files have extended attributes that Linux does not take (a name of more than 255 bytes, or a value of more than 64 KiB): these are not restored";
pub const TOO_MANY: &str =
    "files have more than 4 MiB of extended attributes: only the first of them are restored";

#[derive(Debug, Default, Clone)]
pub struct Records {
    known: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By their names: those that the system needs (`security`, `system`) come first.
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    names_bytes: usize,
    xattrs_bytes: usize,
    /// GNU's first way to map a sparse file is made of keys that repeat, whose order matters.
    pub map: Vec<(u64, u64)>,
    /// What is dropped.
    pub lost: BTreeSet<&'static str>,
}

impl Records {
    /// Reads the data of a pax header.
    pub fn read(bytes: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        let mut offset = None;
        for record in Raw(bytes) {
            let (key, value) = record.context("reading a pax header")?;
            match key {
                b"GNU.sparse.offset" => offset = Some(decimal(value)?),
                b"GNU.sparse.numbytes" => {
                    let offset = offset.take().context("a part of a sparse file has no place")?;
                    push_range(&mut records.map, offset, decimal(value)?)?;
                }
                _ => records.add(key, value),
            }
        }
        Ok(records)
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        if let Some(name) = key.strip_prefix(XATTR) {
            // Each of its bytes may be written as three.
            if name.len() > 3 * NAME_MAX_BYTES || value.len() > VALUE_MAX_BYTES {
                self.lost.insert(TOO_LONG);
            } else {
                self.add_xattr(xattr_name(name), value);
            }
            return;
        }
        let acl = acl::KEYS.iter().any(|(_, keyword)| keyword.as_bytes() == key);
        let most = match key {
            _ if acl => ACL_TEXT_MAX_BYTES,
            _ if key == SELINUX.0 => VALUE_MAX_BYTES - 1,
            _ => usize::MAX,
        };
        if value.len() > most {
            self.lost.insert(TOO_LONG);
        } else if KNOWN.contains(&key) {
            self.known.insert(key.to_vec(), value.to_vec());
        }
    }

    fn add_xattr(&mut self, name: Vec<u8>, value: &[u8]) {
        if name.len() > NAME_MAX_BYTES {
            self.lost.insert(TOO_LONG);
            return;
        }
        let (names, len) = (name.len() + 1, name.len() + value.len());
        if let Some(old) = self.xattrs.insert(name, value.to_vec()) {
            self.names_bytes -= names;
            self.xattrs_bytes -= names - 1 + old.len();
        }
        self.names_bytes += names;
        self.xattrs_bytes += len;
        while self.names_bytes > NAMES_MAX_BYTES || self.xattrs_bytes > XATTRS_MAX_BYTES {
            let Some((name, value)) = self.xattrs.pop_last() else { return };
            self.names_bytes -= name.len() + 1;
            self.xattrs_bytes -= name.len() + value.len();
            self.lost.insert(TOO_MANY);
        }
    }

    /// What `later` says counts.
    pub fn update(&mut self, later: Records) {
        self.known.extend(later.known);
        for (name, value) in later.xattrs {
            self.add_xattr(name, &value);
        }
        self.lost.extend(later.lost);
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.known.get(key).map(Vec::as_slice)
    }

    pub fn xattrs(&self) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.xattrs.iter()
    }
}

/// Adds a part to the map of a sparse file. Only parts that are in order are kept: their numbers take
/// room in the archive as well.
pub fn push_range(map: &mut Vec<(u64, u64)>, offset: u64, len: u64) -> Result<()> {
    if len > 0 {
        let end = map.last().map_or(0, |(offset, len)| offset.saturating_add(*len));
        ensure!(end <= offset, "the parts of a sparse file are not in order");
        map.push((offset, len));
    }
    Ok(())
}

pub fn decimal(text: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(text).ok().map(str::trim);
    text.and_then(|text| text.parse().ok()).context("a number in a header can't be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let len = (1..20)
            .map(|digits| rest.len() + digits)
            .find(|len| len.to_string().len() + rest.len() == *len);
        [len.unwrap().to_string().as_bytes(), &rest].concat()
    }

    #[test]
    fn what_no_linux_takes_is_dropped_where_it_is_read() {
        let big = vec![b'v'; (64 << 10) + 1];
        let long = format!("SCHILY.xattr.user.{}", "n".repeat(251));
        let header = [
            record("SCHILY.xattr.user.big", &big),
            record(&long, b"v"),
            record("SCHILY.xattr.user.fits", &big[1..]),
            record("SCHILY.xattr.user.empty", b""),
            record("comment", &big),
        ];
        let records = Records::read(&header.concat()).unwrap();
        let found: Vec<_> =
            records.xattrs().map(|(name, value)| (name.as_slice(), value.len())).collect();
        assert_eq!(found, [(&b"user.empty"[..], 0), (b"user.fits", 64 << 10)]);
        assert_eq!(records.lost, BTreeSet::from([TOO_LONG]));
        assert!(records.known.is_empty(), "what rr does not know is not kept");
    }

    #[test]
    fn of_too_many_attributes_those_that_the_system_needs_stay() {
        let value = vec![b'v'; 64 << 10];
        let mut header: Vec<u8> = Vec::new();
        for n in 0..200 {
            header.extend(record(&format!("SCHILY.xattr.user.{n:03}"), &value));
        }
        header.extend(record("SCHILY.xattr.security.capability", b"all"));
        let mut records = Records::read(&header).unwrap();
        let bytes = |records: &Records| -> usize {
            records.xattrs().map(|(name, value)| name.len() + value.len()).sum()
        };
        assert!(((4 << 20) - (65 << 10)..=4 << 20).contains(&bytes(&records)));
        assert_eq!(records.xattrs().next().unwrap().0, b"security.capability");
        assert_eq!(records.lost, BTreeSet::from([TOO_MANY]));
        // Again and again: global headers.
        records.update(Records::read(&header).unwrap());
        assert!(bytes(&records) <= 4 << 20);
        let names: Vec<u8> =
            (0..99_999).flat_map(|n| record(&format!("SCHILY.xattr.user.{n}"), b"")).collect();
        assert!(Records::read(&names).unwrap().xattrs().count() < 8000);
    }
}
