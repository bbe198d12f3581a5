//! Entries as the heads of a POSIX tar stream (POSIX.1-2017, pax): written here, read in
//! [`super::tar`].
//!
//! A head is the ustar header, with a pax extended header before it where ustar can't say
//! something. Same entry, same bytes: no times of day, no names of users, no process ids.

use std::io::Write;

use super::acl;
use super::entry::{Entry, Extra, Kind, Time};
use super::flags;

pub const BLOCK: usize = 512;
pub const XATTR: &[u8] = b"SCHILY.xattr.";
pub const FFLAGS: &[u8] = b"SCHILY.fflags";
pub const PROJECT: &[u8] = b"RR.project";

/// What ends a stream.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// How many zeros follow `size_bytes` of data up to the end of a block.
pub fn padding(size_bytes: u64) -> usize {
    // The remainder is below 512.
    #[allow(clippy::cast_possible_truncation)]
    let over = (size_bytes % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

/// The bytes of a file that are in the stream: all, or those outside of holes.
pub fn data_bytes(entry: &Entry, extra: &Extra) -> u64 {
    match (&extra.sparse, entry.kind) {
        (_, kind) if kind != Kind::File => 0,
        (Some(map), _) => map.iter().map(|(_, len)| len).sum(),
        (None, _) => entry.size_bytes,
    }
}

/// Appends everything that comes before the entry's data: pax header, ustar header, and the map of
/// a sparse file.
pub fn append_head(out: &mut Vec<u8>, entry: &Entry, extra: &Extra) {
    let name = stream_name(entry);
    let map = extra.sparse.as_ref().map(|map| sparse_map(map, entry.size_bytes));
    let size_bytes = data_bytes(entry, extra) + map.as_ref().map_or(0, |m| m.len() as u64);

    let mut records = Records::default();
    let split = split_name(&name);
    let long_link = entry.link.len() > 100;
    let binary = |bytes: &[u8]| std::str::from_utf8(bytes).is_err();
    let long_name = split.is_none() || map.is_some();
    if (long_name && binary(&name)) || (long_link && binary(&entry.link)) {
        // Or else a reader may take the bytes below for UTF-8.
        records.add(b"hdrcharset", b"BINARY");
    }
    if map.is_some() {
        records.add(b"GNU.sparse.major", b"1");
        records.add(b"GNU.sparse.minor", b"0");
        records.add(b"GNU.sparse.name", &name);
        records.add(b"GNU.sparse.realsize", entry.size_bytes.to_string().as_bytes());
    } else if split.is_none() {
        records.add(b"path", &name);
    }
    if long_link {
        records.add(b"linkpath", &entry.link);
    }
    if size_bytes > octal_max(12) {
        records.add(b"size", size_bytes.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > octal_max(8) {
            records.add(key, id.to_string().as_bytes());
        }
    }
    let mtime = u64::try_from(entry.mtime.sec).ok().filter(|sec| *sec <= octal_max(12));
    if entry.mtime.nsec != 0 || mtime.is_none() {
        records.add(b"mtime", time_text(entry.mtime).as_bytes());
    }
    if extra.flags != 0 {
        records.add(FFLAGS, flags::to_text(extra.flags).as_bytes());
    }
    if extra.project != 0 {
        records.add(PROJECT, extra.project.to_string().as_bytes());
    }
    records.add_xattrs(&extra.xattrs);

    if !records.0.is_empty() {
        let mut header = Header::new(b'x', records.0.len() as u64);
        // The same for all: it is nobody's, and costs no room.
        header.put(0, 100, b"PaxHeaders/@");
        header.number(100, 8, 0o644);
        out.extend_from_slice(&header.finish());
        out.extend_from_slice(&records.0);
        out.resize(out.len() + padding(records.0.len() as u64), 0);
    }
    let mut header = Header::new(entry.kind.flag(), size_bytes);
    if map.is_some() {
        // What a reader that does not know sparse files creates instead.
        header.put(0, 100, &[b"GNUSparseFile.0/", base_name(&name)].concat());
    } else if let Some((prefix, rest)) = split {
        header.put(0, 100, rest);
        header.put(345, 155, prefix);
    } else {
        header.put(0, 100, &name);
    }
    header.number(100, 8, entry.mode.into());
    header.number(108, 8, entry.uid.into());
    header.number(116, 8, entry.gid.into());
    header.number(136, 12, mtime.unwrap_or(0));
    header.put(157, 100, &entry.link);
    if entry.kind.is_device() {
        header.number(329, 8, entry.rdev.0.into());
        header.number(337, 8, entry.rdev.1.into());
    }
    out.extend_from_slice(&header.finish());
    out.extend_from_slice(&map.unwrap_or_default());
}

/// The name in the stream: directories end with a slash, the root is `./`.
fn stream_name(entry: &Entry) -> Vec<u8> {
    let mut name = entry.path.clone();
    if name.is_empty() {
        name.push(b'.');
    }
    if entry.kind == Kind::Dir {
        name.push(b'/');
    }
    name
}

fn base_name(name: &[u8]) -> &[u8] {
    let end = name.strip_suffix(b"/").unwrap_or(name);
    let base = end.rsplit(|&b| b == b'/').next().unwrap_or(end);
    &base[..base.len().min(80)]
}

/// Prefix and name as ustar has them, where the name fits.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let end = name.len() - 1; // a directory's own slash is no place to split
    let first = name.len().checked_sub(101)?;
    let at = (first..end.min(156)).find(|&i| name[i] == b'/' && i > 0)?;
    Some((&name[..at], &name[at + 1..]))
}

/// GNU sparse format 1.0: how many, then offset and length of each, in decimal, then zeros up to
/// the end of the block. GNU tar cuts the file off where the map does not reach its end.
fn sparse_map(map: &[(u64, u64)], size_bytes: u64) -> Vec<u8> {
    let mut text = format!("{}\n", map.len() + 1);
    for (offset, len) in map.iter().chain(&[(size_bytes, 0)]) {
        text += &format!("{offset}\n{len}\n");
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
    bytes
}

/// Decimal seconds, as short as they can be: `12.5`, `-0.75`.
fn time_text(time: Time) -> String {
    let (sign, sec, nsec) = match (time.sec < 0, time.nsec) {
        (false, nsec) => ("", time.sec.unsigned_abs(), nsec),
        (true, 0) => ("-", time.sec.unsigned_abs(), 0),
        (true, nsec) => ("-", (time.sec + 1).unsigned_abs(), 1_000_000_000 - nsec),
    };
    let text = format!("{sign}{sec}.{nsec:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

const fn octal_max(field_len: u32) -> u64 {
    (1 << (3 * (field_len - 1))) - 1
}

#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// `LEN KEY=VALUE\n`, where LEN counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let digits = |len: usize| len.ilog10() as usize + 1;
        let mut len = rest + digits(rest);
        len = rest + digits(len);
        // Writing to memory does not fail.
        let _ = write!(self.0, "{len}");
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    fn add_xattrs(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) {
        for (name, value) in xattrs {
            let acl = acl::KEYS.iter().find(|(key, _)| key == name);
            if let Some((_, key)) = acl
                && let Some(text) = acl::to_text(value)
            {
                self.add(key.as_bytes(), text.as_bytes());
                continue;
            }
            // As GNU tar does: a keyword ends at the first `=`.
            let mut key = XATTR.to_vec();
            for &byte in name {
                match byte {
                    b'=' => key.extend_from_slice(b"%3D"),
                    b'%' => key.extend_from_slice(b"%25"),
                    _ => key.push(byte),
                }
            }
            self.add(&key, value);
        }
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(flag: u8, size_bytes: u64) -> Header {
        let mut header = Header([0; BLOCK]);
        for (at, len) in [(100, 8), (108, 8), (116, 8), (136, 12), (329, 8), (337, 8)] {
            header.number(at, len, 0);
        }
        header.number(124, 12, size_bytes);
        header.0[156] = flag;
        header.put(257, 8, b"ustar\x0000");
        header
    }

    fn put(&mut self, at: usize, len: usize, bytes: &[u8]) {
        let len = len.min(bytes.len());
        self.0[at..at + len].copy_from_slice(&bytes[..len]);
    }

    /// Octal digits and a NUL, or the number's bytes behind a set top bit where those don't do.
    fn number(&mut self, at: usize, len: usize, value: u64) {
        let field = &mut self.0[at..at + len];
        field.fill(0);
        if value >> (3 * (len - 1)) == 0 {
            for (digit, shift) in field[..len - 1].iter_mut().rev().zip((0..).step_by(3)) {
                *digit = b'0' + (value >> shift & 7) as u8;
            }
            return;
        }
        let bytes = value.to_be_bytes();
        let skip = bytes.len().saturating_sub(len);
        field[len - (bytes.len() - skip)..].copy_from_slice(&bytes[skip..]);
        field[0] |= 0x80;
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        // At most 512 * 255, which need not be checked byte by byte.
        let sum = self.0.iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
        self.number(148, 7, sum.into());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_decimals() {
        for (sec, nsec, text) in [
            (12, 500_000_000, "12.5"),
            (0, 1, "0.000000001"),
            (-1, 250_000_000, "-0.75"),
            (-2, 0, "-2"),
            (20, 0, "20"),
            (-86_401, 999_999_999, "-86400.000000001"),
        ] {
            assert_eq!(time_text(Time { sec, nsec }), text);
        }
    }

    #[test]
    fn names_split_only_where_both_halves_fit() {
        let name = [vec![b'a'; 120], b"/".to_vec(), vec![b'b'; 100]].concat();
        assert_eq!(split_name(&name).unwrap().0.len(), 120);
        assert_eq!(split_name(&name[..121]), None, "an empty name is none");
        assert_eq!(split_name(&[b'x'; 101]), None);
        assert_eq!(split_name(&[vec![b'a'; 156], b"/b".to_vec()].concat()), None);
        let dir = [vec![b'a'; 50], b"/".to_vec(), vec![b'b'; 99], b"/".to_vec()].concat();
        assert_eq!(split_name(&dir).unwrap().1.len(), 100);
    }

    #[test]
    fn record_lengths_count_their_own_digits() {
        let mut records = Records::default();
        records.add(b"k", &[b'v'; 93]);
        assert!(records.0.starts_with(b"99 k="), "{records:?}", records = records.0);
        let mut records = Records::default();
        records.add(b"k", &[b'v'; 94]);
        assert!(records.0.starts_with(b"101 k="));
        assert_eq!(records.0.len(), 101);
    }

    #[test]
    fn bsdtar_reads_a_sparse_file_whose_name_is_no_text() {
        if crate::sys::tools::find("bsdtar".as_ref()).is_none() {
            eprintln!("skipped: bsdtar is not installed (libarchive-tools)");
            return;
        }
        let entry = Entry {
            path: b"sparse-\xff\xfe".to_vec(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size_bytes: 1 << 20,
            link: Vec::new(),
            rdev: (0, 0),
            ctime: Time::default(),
            ino: 0,
        };
        let extra = Extra { sparse: Some(vec![(4096, 512)]), ..Extra::default() };
        let mut stream = Vec::new();
        append_head(&mut stream, &entry, &extra);
        stream.extend_from_slice(&[b'x'; BLOCK]);
        stream.extend_from_slice(&END);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tar");
        std::fs::write(&file, stream).unwrap();
        let bsdtar = crate::sys::run::Cmd::new("bsdtar").args(["-x", "-f", "tar"]);
        bsdtar.dir(dir.path()).run().unwrap();
    }
}
