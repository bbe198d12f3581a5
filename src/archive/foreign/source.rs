//! Where a tar archive's bytes come from: a file or standard input, plain or compressed.
//!
//! Reading and decompressing go on in a thread of their own, some pieces ahead of who writes files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ::tar::Header;
use anyhow::{Context, Result, bail};
use flate2::bufread::GzDecoder;

use super::super::pax::BLOCK;
use super::members::checksum_fits;

const PIECE_BYTES: usize = 1 << 20;
/// How many pieces are read ahead.
const AHEAD: usize = 4;
/// `xz -9` needs 65 MiB. An archive that claims to need more than this is not from a usual xz.
const XZ_MEMORY_BYTES: u64 = 160 << 20;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// Frames to be passed over, which may come first; the first byte's lower half is any.
const ZSTD_SKIPPABLE: &[u8] = b"\x2a\x4d\x18";
const XZ: &[u8] = b"\xfd7zXZ\0";
/// What we don't read, and what makes a plain archive of it.
const OTHERS: [(&[u8], &str); 7] = [
    (b"BZh", "bzip2 -dc FILE"),
    (b"\x04\x22\x4d\x18", "lz4 -dc FILE"),
    (b"\x89LZO", "lzop -dc FILE"),
    (b"LZIP", "lzip -dc FILE"),
    (b"\x1f\x9d", "gzip -dc FILE"), // compress, .Z
    (b"PK\x03\x04", "bsdtar -cf - @FILE"),
    (b"7z\xbc\xaf\x27\x1c", "bsdtar -cf - @FILE"),
];

/// `.lzma` has no magic: usual properties, and a dictionary of whole 64 KiB below 4 GiB.
fn is_lzma(first: &[u8]) -> bool {
    matches!(first, [0x5d, 0, 0, a, b, ..] if (*a, *b) != (0, 0))
}

/// An archive that is being read.
pub struct Source {
    pub reader: Box<dyn Read + Send>,
    /// How many bytes of the file were read so far, and how many it has; zero when nobody knows.
    pub done: Arc<AtomicU64>,
    pub total_bytes: u64,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("total_bytes", &self.total_bytes).finish_non_exhaustive()
    }
}

/// Opens `path`, or standard input for `-`.
pub fn open(path: &Path) -> Result<Source> {
    let (file, total_bytes): (Box<dyn Read + Send>, u64) = if path == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let len = file.metadata().map_or(0, |meta| meta.len());
        (Box::new(file), len)
    };
    let done = Arc::new(AtomicU64::new(0));
    let counted = Counted { inner: file, done: Arc::clone(&done) };
    let plain = decompressed(counted).with_context(|| format!("reading {}", path.display()))?;
    Ok(Source { reader: Box::new(ReadAhead::start(plain)), done, total_bytes })
}

/// Tells by the first bytes what compresses `inner`, and undoes it.
pub fn decompressed(mut inner: impl Read + Send + 'static) -> Result<Box<dyn Read + Send>> {
    let mut first = Vec::new();
    inner.by_ref().take(BLOCK as u64).read_to_end(&mut first)?;
    // The name of a first file may begin as anything.
    let plain = first.len() == BLOCK && checksum_fits(Header::from_byte_slice(&first));
    let is = |magic: &[u8]| !plain && first.starts_with(magic);
    let lzma = (!plain && is_lzma(&first)).then_some("xz -dc FILE");
    let other = OTHERS.iter().find(|(magic, _)| is(magic)).map(|(_, command)| *command);
    if let Some(command) = other.or(lzma) {
        bail!(
            "it is compressed in a way that rr does not read\nhint: {command} | rr restore --from-tar - --to DIR"
        );
    }
    let (gzip, zstd, xz) = (is(GZIP), is(ZSTD), is(XZ));
    let skippable = !plain
        && first.first().is_some_and(|b| b & 0xf0 == 0x50)
        && first.get(1..).is_some_and(|rest| rest.starts_with(ZSTD_SKIPPABLE));
    let whole = BufReader::with_capacity(PIECE_BYTES, Cursor::new(first).chain(inner));
    Ok(if gzip {
        Box::new(Gzip { member: Some(GzDecoder::new(whole)) })
    } else if zstd || skippable {
        Box::new(zstd::stream::read::Decoder::with_buffer(whole).context("starting zstd")?)
    } else if xz {
        let stream = liblzma::stream::Stream::new_stream_decoder(
            XZ_MEMORY_BYTES,
            liblzma::stream::CONCATENATED,
        )
        .context("starting xz")?;
        Box::new(liblzma::bufread::XzDecoder::new_stream(whole, stream))
    } else {
        Box::new(whole)
    })
}

struct Counted<R> {
    inner: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.done.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// gzip members one after the other. What follows the last one and is none (the padding of a tape)
/// is passed over, as gzip does; [`flate2::bufread::MultiGzDecoder`] would fail.
struct Gzip<R> {
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.member else { return Ok(0) };
            let got = member.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            let Some(member) = self.member.take() else { return Ok(0) };
            let mut rest = member.into_inner();
            // The buffer may end between the two bytes of a magic: the first one tells enough.
            if rest.fill_buf()?.first() != GZIP.first() {
                return Ok(0);
            }
            self.member = Some(GzDecoder::new(rest));
        }
    }
}

/// Reads in a thread, [`AHEAD`] pieces ahead.
struct ReadAhead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Cursor<Vec<u8>>,
}

impl ReadAhead {
    fn start(inner: Box<dyn Read + Send>) -> ReadAhead {
        let (sender, pieces) = sync_channel(AHEAD);
        // It ends with the archive, or when nobody takes its pieces any more.
        std::thread::spawn(move || read_pieces(inner, &sender));
        ReadAhead { pieces, piece: Cursor::default() }
    }
}

fn read_pieces(mut inner: Box<dyn Read + Send>, pieces: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = inner.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        let ended = piece.is_empty();
        if !ended && pieces.send(Ok(piece)).is_err() {
            return;
        }
        match read {
            Ok(_) if ended => return,
            Ok(_) => {}
            Err(error) => {
                let _ = pieces.send(Err(error));
                return;
            }
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.piece.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            match self.pieces.recv() {
                Ok(piece) => self.piece = Cursor::new(piece?),
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn plain(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut reader = ReadAhead::start(decompressed(Cursor::new(bytes)).unwrap());
        reader.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn members_and_frames_one_after_the_other_are_one_archive() {
        let both = b"first second".to_vec();
        assert_eq!(plain(both.clone()).unwrap(), both);
        assert_eq!(plain([gzip(b"first "), gzip(b"second")].concat()).unwrap(), both);
        let padded = [gzip(b"first "), gzip(b"second"), vec![0; 5000]].concat();
        assert_eq!(plain(padded).unwrap(), both);
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skipped = b"\x53\x2a\x4d\x18\x02\0\0\0xx".to_vec();
        assert_eq!(plain([skipped, frame(b"first "), frame(b"second")].concat()).unwrap(), both);
        let xz = |bytes: &[u8]| {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        };
        assert_eq!(plain([xz(b"first "), xz(b"second")].concat()).unwrap(), both);
        for whole in [gzip(&both), frame(&both), xz(&both)] {
            assert!(plain(whole[..whole.len() - 1].to_vec()).is_err(), "it is cut off");
        }
        let mut wrong = gzip(&both);
        let crc = wrong.len() - 6;
        wrong[crc] ^= 1;
        assert!(plain(wrong).is_err(), "the checksum is another");
    }

    #[test]
    fn what_is_not_read_is_told_how_to() {
        for (first, command) in [
            (&b"BZh91AY"[..], "bzip2 -dc FILE"),
            (b"\x1f\x9d\x90abc", "gzip -dc FILE"),
            (b"PK\x03\x04\x14\0\0\0", "bsdtar -cf - @FILE"),
            (b"\x5d\0\0\x80\0\xff\xff\xff", "xz -dc FILE"),
            (b"\x5d\0\0\x04\0\x12\0\0", "xz -dc FILE"),
        ] {
            let Err(error) = decompressed(Cursor::new(first.to_vec())) else { panic!() };
            assert!(format!("{error:#}").contains(command), "{error:#}");
        }
    }

    #[test]
    fn a_first_file_may_have_any_name() {
        for name in ["BZhang", "LZIP.c", "]"] {
            let mut header = Header::new_old();
            header.set_path(name).unwrap();
            header.set_size(0);
            header.set_cksum();
            let bytes = [header.as_bytes().to_vec(), vec![0; 1024]].concat();
            assert_eq!(plain(bytes.clone()).unwrap(), bytes, "{name}");
        }
    }
}
