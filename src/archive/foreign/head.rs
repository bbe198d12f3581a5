//! What a member of a foreign archive is, as an entry of ours.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::super::acl;
use super::super::entry::{Entry, Extra, Kind, PATH_LIMIT_BYTES, Time, shown};
use super::super::late::NamedAcls;
use super::super::tar::{Numbers, apply};
use super::members::{Member, number};
use super::records::{KNOWN, SELINUX};

/// An entry, what it has besides, and what can be told only when all files are there.
#[derive(Debug)]
pub struct ForeignHead {
    pub entry: Entry,
    pub extra: Extra,
    pub named_acls: NamedAcls,
}

/// # Errors
/// What the member says can't be, or must not be. The archive can be read on.
pub fn read(member: &mut Member) -> Result<ForeignHead> {
    let header = &member.header;
    let old = header.as_old();
    let path = member.long_name.clone().unwrap_or_else(|| header.path_bytes().into_owned());
    let link = header.link_name_bytes().unwrap_or_default().into_owned();
    let id = |field: &[u8], value| -> Result<u32> {
        number(field, value)?.try_into().context("its owner is none that Linux has")
    };
    let mode = number(&old.mode, header.mode().map(u64::from))?;
    let mut entry = Entry {
        path,
        kind: Kind::File,
        mode: u32::try_from(mode & 0o7777)?,
        uid: id(&old.uid, header.uid())?,
        gid: id(&old.gid, header.gid())?,
        // Times before 1970 are in two's complement.
        mtime: Time { sec: number(&old.mtime, header.mtime())?.cast_signed(), nsec: 0 },
        size_bytes: 0,
        link: member.long_link.clone().unwrap_or(link),
        rdev: (0, 0),
        ctime: Time::default(),
        ino: 0,
    };
    let (extra, named_acls) = read_records(member, &mut entry)?;
    entry.kind = kind(member.flag(), &entry.path);
    if entry.kind.is_device() {
        entry.rdev = device(member)?;
    }
    entry.path = clean(&entry.path)?;
    match entry.kind {
        Kind::HardLink => entry.link = clean(&entry.link).context("what it links to")?,
        Kind::Symlink => ensure!(!entry.link.is_empty(), "it is a link to nowhere"),
        _ => entry.link.clear(),
    }
    ensure!(entry.kind == Kind::Dir || !entry.path.is_empty(), "it has no name");
    let mut extra = extra;
    if entry.kind == Kind::File {
        entry.size_bytes = member.data_bytes;
        if let Some((map, size)) = member.sparse.take() {
            entry.size_bytes = size;
            extra.sparse = Some(map);
        }
    }
    Ok(ForeignHead { entry, extra, named_acls })
}

/// Types that nobody knows are files, as POSIX wants it.
fn kind(flag: u8, path: &[u8]) -> Kind {
    match Kind::of_flag(flag) {
        None if flag == b'D' => Kind::Dir, // GNU's incremental backups
        // Before POSIX, a slash told a directory.
        Some(Kind::File) | None if path.ends_with(b"/") => Kind::Dir,
        None => Kind::File,
        Some(kind) => kind,
    }
}

fn device(member: &Member) -> Result<(u32, u32)> {
    let bytes = member.header.as_bytes();
    let part = |at: usize, value: std::io::Result<Option<u32>>| -> Result<u32> {
        let value = value.map(|value| value.unwrap_or(0).into());
        Ok(u32::try_from(number(&bytes[at..at + 8], value)?)?)
    };
    Ok((part(329, member.header.device_major())?, part(337, member.header.device_minor())?))
}

type Told = (Extra, NamedAcls);

fn read_records(member: &Member, entry: &mut Entry) -> Result<Told> {
    let mut extra = Extra::default();
    let mut numbers = Numbers::default();
    let mut attributes = BTreeMap::new();
    let mut acls = BTreeMap::new();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    for key in KNOWN {
        let Some(value) = member.record(key) else { continue };
        let acl = acl::KEYS.iter().find(|(_, keyword)| keyword.as_bytes() == key);
        if let Some(&(attribute, _)) = acl {
            acls.insert(attribute, text(value));
        } else if key == SELINUX.0 {
            attributes.insert(SELINUX.1.to_vec(), [value, &b"\0"[..]].concat());
        } else {
            // Reading one key must not depend on what others say.
            apply(key, value, entry, &mut extra, &mut numbers)
                .with_context(|| format!("reading its record {}", shown(key)))?;
        }
    }
    attributes.extend(member.xattrs().map(|(name, value)| (name.clone(), value.clone())));
    let mut named = Vec::new();
    for (attribute, text) in acls {
        match acl::from_text(&text) {
            Some(binary) => {
                attributes.insert(attribute.to_vec(), binary);
            }
            None => named.push((attribute.to_vec(), text)),
        }
    }
    extra.xattrs = attributes.into_iter().collect();
    Ok((extra, named))
}

/// A path as ours are: below the root, whatever it starts with.
fn clean(path: &[u8]) -> Result<Vec<u8>> {
    ensure!(path.len() <= PATH_LIMIT_BYTES, "a path of {} bytes is too long", path.len());
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => bail!("the path {} leads out of its root", shown(path)),
            _ => {}
        }
        ensure!(!part.contains(&0), "a path has a zero byte in it");
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, cleaned) in
            [("/etc/passwd", "etc/passwd"), ("./a//b/./c/", "a/b/c"), ("./", ""), ("/", "")]
        {
            assert_eq!(clean(path.as_bytes()).unwrap(), cleaned.as_bytes());
        }
        for path in ["..", "../x", "/a/../../b", "a/..", "a\0b"] {
            assert!(clean(path.as_bytes()).is_err(), "{path}");
        }
        assert!(clean(&b"a/".repeat(100_000)).is_err());
    }

    #[test]
    fn a_slash_makes_an_old_file_a_directory() {
        assert_eq!(kind(0, b"a/"), Kind::Dir);
        assert_eq!(kind(b'0', b"a"), Kind::File);
        assert_eq!(kind(b'2', b"a/"), Kind::Symlink);
        assert_eq!(kind(b'S', b"a"), Kind::File);
        assert_eq!(kind(b'D', b"a"), Kind::Dir);
        assert_eq!(kind(b'Q', b"a"), Kind::File);
    }
}
