//! Frames out of the store: read by range, decompressed into bounded memory, and checked against
//! their BLAKE3 before anybody sees a byte.

use std::io::Read;

use anyhow::{Context, Result, anyhow, bail, ensure};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::DParameter;

use super::index::{Frame, Index};
use crate::store::Store;
use crate::store::catalog::MENDED_BY;

/// A hostile index must not make us reserve more for one chunk.
const PLAIN_LIMIT_BYTES: u32 = 256 << 20;
/// The index of some 70 TiB.
const INDEX_LIMIT_BYTES: u64 = 1 << 30;

/// How much is read at once where frames follow each other.
pub const READ_BYTES: u64 = 1 << 20;

/// A bigger chunk is neither written nor read.
pub fn check_plain_bytes(plain_bytes: u32) -> Result<()> {
    let limit = PLAIN_LIMIT_BYTES;
    ensure!(plain_bytes <= limit, "a chunk has {plain_bytes} bytes, {limit} is the limit");
    Ok(())
}

/// For an index that was checked as a whole before. Who wrote it may still mean harm.
pub fn decompress_all(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(bytes).context("starting zstd")?;
    decoder.take(INDEX_LIMIT_BYTES + 1).read_to_end(&mut plain).context("decompressing")?;
    ensure!(plain.len() as u64 <= INDEX_LIMIT_BYTES, "it has more bytes than any index");
    Ok(plain)
}

/// Decompresses and checks frames; one for each thread.
pub struct Unpacker {
    zstd: Decompressor<'static>,
    plain: Vec<u8>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    pub fn new() -> Result<Unpacker> {
        let mut zstd = Decompressor::new().context("starting zstd")?;
        // The BLAKE3 says more.
        zstd.set_parameter(DParameter::ForceIgnoreChecksum(true)).context("setting up zstd")?;
        Ok(Unpacker { zstd, plain: Vec::new() })
    }

    /// The plain bytes of `frame`, which is stored as `bytes` in `pack`.
    pub fn open(&mut self, bytes: &[u8], frame: &Frame, pack: &str) -> Result<&[u8]> {
        let damaged = |what: &str| {
            anyhow!(
                "{pack} is damaged: the frame at byte {} {what}\n{MENDED_BY}",
                frame.place.offset
            )
        };
        ensure!(frame.plain_bytes <= PLAIN_LIMIT_BYTES, damaged("says that it is too big"));
        let len = frame.plain_bytes as usize;
        self.plain.clear();
        self.plain.reserve(len);
        let got = self.zstd.decompress_to_buffer(bytes, &mut self.plain);
        if got.map_err(|error| damaged(&format!("can't be decompressed: {error}")))? != len {
            bail!(damaged("has another size than the index says"));
        }
        if *blake3::hash(&self.plain).as_bytes() != frame.id {
            bail!(damaged("has another BLAKE3 than the index says"));
        }
        Ok(&self.plain)
    }
}

/// Reads frames one after the other, in big pieces where they follow each other in a pack.
#[derive(Debug)]
pub struct Sequential<'a> {
    index: &'a Index,
    store: &'a dyn Store,
    unpacker: Option<Unpacker>,
    /// Pack, offset and bytes of the last piece.
    piece: (u32, u64, Vec<u8>),
}

impl<'a> Sequential<'a> {
    pub fn new(index: &'a Index, store: &'a dyn Store) -> Sequential<'a> {
        Sequential { index, store, unpacker: None, piece: (0, 0, Vec::new()) }
    }

    pub fn read(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        let place = frame.place;
        let pack = self.index.packs.get(place.pack as usize).context("a frame is in no pack")?;
        let (piece_pack, start, bytes) = &self.piece;
        let end = place.offset + u64::from(place.len);
        let inside = *piece_pack == place.pack
            && *start <= place.offset
            && end <= start + bytes.len() as u64;
        if !inside {
            let len = u64::from(place.len).max(READ_BYTES).min(pack.size_bytes - place.offset);
            let (len, room) = (usize::try_from(len)?, std::mem::take(&mut self.piece.2));
            let bytes = self.store.get_range_into(&pack.name, place.offset, len, room)?;
            self.piece = (place.pack, place.offset, bytes);
        }
        let at = usize::try_from(place.offset - self.piece.1)?;
        let stored = self.piece.2.get(at..at + place.len as usize);
        let stored = stored.with_context(|| format!("{} ends too early", pack.name))?;
        let unpacker = match &mut self.unpacker {
            Some(unpacker) => unpacker,
            none => none.insert(Unpacker::new()?),
        };
        Ok(unpacker.open(stored, frame, &pack.name)?.to_vec())
    }
}
