//! `index.zst`: the chunks of a generation's stream in order, and where they are stored.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use super::codec::{Id, Reader, put_bytes, put_uint};
use super::fetch::{self, decompress_all};
use super::press::compress;
use super::table::{self, Row};
use crate::store::catalog::FileRecord;
use crate::store::{Manifest, Store};

const MAGIC: &[u8] = b"rr index 1\n";

/// Some stored bytes: one zstd frame in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which of [`Index::packs`].
    pub pack: u32,
    pub offset: u64,
    pub len: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The object's name.
    pub name: String,
    pub size_bytes: u64,
}

/// One frame: what it holds and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// BLAKE3 of the plain bytes.
    pub id: Id,
    pub plain_bytes: u32,
    pub place: Place,
}

/// A part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub frame: Frame,
    /// The table of a run; a slice of a big file's data, and the end of the stream, have none.
    pub table: Option<Frame>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// The packs that some chunk or table is in.
    pub packs: Vec<Pack>,
    pub chunks: Vec<Chunk>,
}

impl Index {
    /// Fetches the index of a generation, and checks it.
    pub fn open(manifest: &Manifest, store: &dyn Store) -> Result<Index> {
        let record = super::generation_file(manifest, "index.zst")?;
        let bytes = crate::store::catalog::fetch(store, record)?;
        Index::decode(&bytes, &manifest.pack).with_context(|| format!("reading {}", record.name))
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        put_uint(&mut out, self.packs.len() as u64);
        for pack in &self.packs {
            put_bytes(&mut out, pack.name.as_bytes());
        }
        put_uint(&mut out, self.chunks.len() as u64);
        for chunk in &self.chunks {
            out.push(u8::from(chunk.table.is_some()));
            put_frame(&mut out, &chunk.frame);
            if let Some(table) = &chunk.table {
                put_frame(&mut out, table);
            }
        }
        compress(&out, 3)
    }

    /// `packs` are those of the manifest: every place must lie within one of them.
    pub fn decode(bytes: &[u8], packs: &[FileRecord]) -> Result<Index> {
        Index::read(&decompress_all(bytes)?, packs)
    }

    /// As [`Index::decode`], from plain bytes.
    pub fn read(plain: &[u8], packs: &[FileRecord]) -> Result<Index> {
        let mut reader = Reader(plain);
        ensure!(reader.take(MAGIC.len()).ok() == Some(MAGIC), "it is no index that this rr reads");
        let mut index = Index::default();
        let known: HashMap<_, _> = packs.iter().map(|pack| (pack.name.as_str(), pack)).collect();
        for _ in 0..reader.uint()? {
            let name = std::str::from_utf8(reader.bytes()?)?;
            let pack = known.get(name).with_context(|| format!("{name} is not in the manifest"))?;
            index.packs.push(Pack { name: name.to_owned(), size_bytes: pack.size_bytes });
        }
        for _ in 0..reader.uint()? {
            let has_table = reader.byte()? != 0;
            let frame = read_frame(&mut reader, &index.packs)?;
            let table = has_table.then(|| read_frame(&mut reader, &index.packs)).transpose()?;
            index.chunks.push(Chunk { frame, table });
        }
        ensure!(reader.0.is_empty(), "there is something behind its end");
        Ok(index)
    }

    pub fn pack_name(&self, place: &Place) -> &str {
        self.packs.get(place.pack as usize).map_or("?", |pack| &pack.name)
    }

    /// The rows of all entries, table by table, each with the number of its run's chunk.
    pub fn runs<'a>(
        &'a self,
        store: &'a dyn Store,
    ) -> impl Iterator<Item = Result<(usize, Vec<Row>)>> + 'a {
        let mut reader = fetch::Sequential::new(self, store);
        self.chunks.iter().enumerate().filter_map(|(i, c)| Some((i, c.table?))).map(
            move |(i, frame)| {
                let bytes = reader.read(&frame)?;
                let rows = table::read(&bytes).with_context(|| {
                    format!("reading a table in {}", self.pack_name(&frame.place))
                })?;
                Ok((i, rows))
            },
        )
    }
}

fn put_frame(out: &mut Vec<u8>, frame: &Frame) {
    out.extend_from_slice(&frame.id);
    put_uint(out, frame.plain_bytes.into());
    put_uint(out, frame.place.pack.into());
    put_uint(out, frame.place.offset);
    put_uint(out, frame.place.len.into());
}

fn read_frame(reader: &mut Reader<'_>, packs: &[Pack]) -> Result<Frame> {
    let id = reader.id()?;
    let plain_bytes = reader.u32()?;
    // So that a check of a generation finds what an extraction would refuse in the middle.
    fetch::check_plain_bytes(plain_bytes)?;
    let place = Place { pack: reader.u32()?, offset: reader.uint()?, len: reader.u32()? };
    let pack = packs.get(place.pack as usize).context("a chunk is in no pack")?;
    let end = place.offset.checked_add(place.len.into());
    ensure!(end.is_some_and(|end| end <= pack.size_bytes), "a chunk lies outside of its pack");
    // As much memory is taken to read it.
    let most = zstd::zstd_safe::compress_bound(plain_bytes as usize);
    ensure!(place.len as usize <= most, "a frame is bigger than what is in it can make it");
    Ok(Frame { id, plain_bytes, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_survives_and_a_wrong_place_is_found() {
        let frame = |pack, offset| Frame {
            id: [7; 32],
            plain_bytes: 1 << 20,
            place: Place { pack, offset, len: 1000 },
        };
        let pack = |name: &str, size_bytes| Pack { name: name.into(), size_bytes };
        let index = Index {
            packs: vec![pack("packs/a", 2000), pack("packs/b", 1024)],
            chunks: vec![
                Chunk { frame: frame(0, 0), table: Some(frame(1, 24)) },
                Chunk { frame: frame(0, 1000), table: None },
            ],
        };
        let record = |name: &str, size_bytes| FileRecord {
            name: name.into(),
            size_bytes,
            blake3: String::new(),
        };
        let bytes = index.encode().unwrap();
        let packs = [record("packs/b", 1024), record("packs/a", 2000)];
        assert_eq!(Index::decode(&bytes, &packs).unwrap(), index);
        let short = [record("packs/b", 1024), record("packs/a", 1999)];
        assert!(Index::decode(&bytes, &short).is_err());
        assert!(Index::decode(&bytes, &packs[..1]).is_err());
        assert!(Index::decode(&bytes[..bytes.len() - 1], &packs).is_err());

        let mut wide = index.clone();
        wide.chunks[0].frame.plain_bytes = 100;
        let text = Index::decode(&wide.encode().unwrap(), &packs).unwrap_err().to_string();
        assert!(text.contains("a frame is bigger"), "{text}");
        let mut big = index;
        big.chunks[0].frame.plain_bytes = (256 << 20) + 1;
        let text = Index::decode(&big.encode().unwrap(), &packs).unwrap_err().to_string();
        assert!(text.contains("268435456 is the limit"), "{text}");
    }
}
