//! Bytes that are put together without being copied together: a pack is some dozen frames.

use std::io::{self, Read};
use std::sync::Arc;

/// Bytes in pieces, one behind the other. A clone shares them.
#[derive(Debug, Clone, Default)]
pub struct Pieces(Arc<Vec<Vec<u8>>>);

impl From<Vec<Vec<u8>>> for Pieces {
    fn from(pieces: Vec<Vec<u8>>) -> Pieces {
        Pieces(Arc::new(pieces))
    }
}

impl From<&[u8]> for Pieces {
    fn from(bytes: &[u8]) -> Pieces {
        vec![bytes.to_vec()].into()
    }
}

impl Pieces {
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    pub fn size_bytes(&self) -> u64 {
        self.iter().map(|piece| piece.len() as u64).sum()
    }

    pub fn reader(&self) -> impl Read + '_ {
        Reader { left: &self.0, at: 0 }
    }

    /// The buffers, for those to come; none where a store that was given up still holds them.
    pub fn into_buffers(self) -> Vec<Vec<u8>> {
        Arc::try_unwrap(self.0).unwrap_or_default()
    }
}

struct Reader<'a> {
    left: &'a [Vec<u8>],
    /// How much of the first one is read.
    at: usize,
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some((first, rest)) = self.left.split_first() {
            let got = (&first[self.at..]).read(out)?;
            if got > 0 || out.is_empty() {
                self.at += got;
                return Ok(got);
            }
            (self.left, self.at) = (rest, 0);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_in_order_and_to_their_end() {
        let pieces = Pieces::from(vec![b"abc".to_vec(), Vec::new(), b"defgh".to_vec()]);
        assert_eq!(pieces.size_bytes(), 8);
        for size in 1..9 {
            let (mut reader, mut read) = (pieces.reader(), Vec::new());
            let mut buffer = vec![0; size];
            loop {
                let got = reader.read(&mut buffer).unwrap();
                if got == 0 {
                    break;
                }
                read.extend_from_slice(&buffer[..got]);
            }
            assert_eq!(read, b"abcdefgh", "{size} at a time");
        }
        let other = pieces.clone();
        assert_eq!(pieces.into_buffers().len(), 0, "they are another's as well");
        assert_eq!(other.into_buffers().len(), 3);
    }
}
