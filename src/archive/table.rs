//! The table of a run: one row for each of its entries, telling what it is, where in the chunk it
//! lies, and how to know it again. The form is told in [`super`].

use std::cmp::Ordering;

use anyhow::{Context, Result, ensure};

use super::codec::{Reader, put_bytes, put_int, put_path, put_uint};
use super::entry::{Entry, Kind, Time};

const VERSION: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub entry: Entry,
    /// Bytes of the entry's head in the run.
    pub head_bytes: u64,
    /// Bytes of data with its padding: in the run, or in the slices that follow it.
    pub data_bytes: u64,
    /// How many chunks after the run hold the data. Only the last entry of a run has any.
    pub slices: u32,
    /// With slices: the first half of the BLAKE3 of the head.
    pub head_hash: [u8; 16],
}

#[derive(Debug)]
pub struct TableWriter {
    out: Vec<u8>,
    last_path: Vec<u8>,
    last_times: [i64; 2],
    last_ino: u64,
}

impl Default for TableWriter {
    fn default() -> Self {
        TableWriter { out: vec![VERSION], last_path: Vec::new(), last_times: [0; 2], last_ino: 0 }
    }
}

impl TableWriter {
    pub fn push(&mut self, row: &Row) {
        let (entry, out) = (&row.entry, &mut self.out);
        out.push(entry.kind.flag());
        put_path(out, &entry.path, &mut self.last_path);
        for number in [entry.mode, entry.uid, entry.gid] {
            put_uint(out, number.into());
        }
        for (time, last) in [entry.mtime, entry.ctime].iter().zip(&mut self.last_times) {
            put_int(out, time.sec.wrapping_sub(*last));
            put_uint(out, time.nsec.into());
            *last = time.sec;
        }
        put_int(out, entry.ino.wrapping_sub(self.last_ino).cast_signed());
        put_uint(out, row.head_bytes);
        match entry.kind {
            Kind::File => {
                put_uint(out, entry.size_bytes);
                put_uint(out, row.data_bytes);
                put_uint(out, row.slices.into());
                if row.slices > 0 {
                    out.extend_from_slice(&row.head_hash);
                }
            }
            Kind::HardLink | Kind::Symlink => put_bytes(out, &entry.link),
            Kind::Char | Kind::Block => {
                put_uint(out, entry.rdev.0.into());
                put_uint(out, entry.rdev.1.into());
            }
            Kind::Dir | Kind::Fifo => {}
        }
        self.last_ino = entry.ino;
    }

    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads all rows of a table.
pub fn read(table: &[u8]) -> Result<Vec<Row>> {
    let mut reader = Reader(table);
    let version = reader.byte()?;
    ensure!(version == VERSION, "its version is {version}, this rr reads {VERSION}");
    let mut rows: Vec<Row> = Vec::new();
    while !reader.0.is_empty() {
        let row = read_row(&mut reader, rows.last().map(|row| &row.entry))?;
        rows.push(row);
    }
    Ok(rows)
}

fn read_row(reader: &mut Reader<'_>, last: Option<&Entry>) -> Result<Row> {
    let kind = Kind::of_flag(reader.byte()?).context("a row has an unknown kind")?;
    let path = reader.path(last.map_or(b"", |last| &last.path))?;
    let (mode, uid, gid) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let mut time = |last: i64| -> Result<Time> {
        Ok(Time { sec: last.wrapping_add(reader.int()?), nsec: reader.u32()? })
    };
    let mtime = time(last.map_or(0, |last| last.mtime.sec))?;
    let ctime = time(last.map_or(0, |last| last.ctime.sec))?;
    let ino = last.map_or(0, |last| last.ino).wrapping_add(reader.int()?.cast_unsigned());
    let head_bytes = reader.uint()?;
    let (size_bytes, link, rdev) = (0, Vec::new(), (0, 0));
    let entry = Entry { path, kind, mode, uid, gid, mtime, size_bytes, link, rdev, ctime, ino };
    let mut row = Row { entry, head_bytes, data_bytes: 0, slices: 0, head_hash: [0; 16] };
    match kind {
        Kind::File => {
            row.entry.size_bytes = reader.uint()?;
            row.data_bytes = reader.uint()?;
            row.slices = reader.u32()?;
            if row.slices > 0 {
                row.head_hash = reader.take(16)?.try_into()?;
            }
        }
        Kind::HardLink | Kind::Symlink => row.entry.link = reader.bytes()?.to_vec(),
        Kind::Char | Kind::Block => row.entry.rdev = (reader.u32()?, reader.u32()?),
        Kind::Dir | Kind::Fifo => {}
    }
    Ok(row)
}

/// The order of the stream: a directory before what is in it, and that before what comes after it.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => key(a).cmp(&key(b)),
        None => a.len().cmp(&b.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &[u8], kind: Kind) -> Row {
        let file = kind == Kind::File;
        Row {
            entry: Entry {
                path: path.to_vec(),
                kind,
                mode: 0o1777,
                uid: u32::MAX,
                gid: 5,
                mtime: Time { sec: i64::MIN, nsec: 999_999_999 },
                size_bytes: if file { u64::MAX } else { 0 },
                link: if kind == Kind::Symlink { b"\xff\0x".to_vec() } else { Vec::new() },
                rdev: if kind == Kind::Char { (8, 1 << 20) } else { (0, 0) },
                ctime: Time { sec: 1, nsec: 2 },
                ino: u64::MAX,
            },
            head_bytes: 1536,
            data_bytes: if file { 512 } else { 0 },
            slices: u32::from(file),
            head_hash: [u8::from(file); 16],
        }
    }

    #[test]
    fn rows_survive() {
        let rows = [
            row(b"", Kind::Dir),
            row(b"dev/x", Kind::Char),
            row(b"dev/y\n", Kind::Symlink),
            row(b"dev/y/z", Kind::File),
        ];
        let mut table = TableWriter::default();
        rows.iter().for_each(|row| table.push(row));
        let bytes = table.finish();
        assert_eq!(read(&bytes).unwrap(), rows);
        for end in 1..bytes.len() {
            let _ = read(&bytes[..end]); // no panic
        }
        assert!(read(&[VERSION + 1]).is_err());
    }

    #[test]
    fn the_order_is_that_of_a_walk() {
        let sorted = [&b""[..], b"a", b"a/b", b"a/b/c", b"a-b", b"a.d/x", b"b"];
        for pair in sorted.windows(2) {
            assert_eq!(path_order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }
}
