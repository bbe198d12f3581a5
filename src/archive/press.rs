//! Plain bytes into frames: compressed, or stored as they are where that would gain nothing.

use anyhow::{Context, Result};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound, min_c_level};

/// Level 1 has 14 and 7. Matches of five bytes are found more often, so that a table is enough that
/// fits in a core's first cache. Measured with 300,000 small files as a stream, and with a Debian tree
/// (no more than 450 MB of each), the least of zstd's seconds on one core of a busy machine:
///
/// | hash log, least match | 15, 7        | 14, 7        | 13, 6        | 13, 5        | 14, 5        |
/// | --------------------- | ------------ | ------------ | ------------ | ------------ | ------------ |
/// | seconds               | 0.70, 0.94   | 0.65, 0.87   | 0.68, 0.87   | 0.66, 0.91   | 0.69, 0.97   |
/// | MiB                   | 100.5, 192.6 | 101.5, 194.9 | 100.7, 195.3 |  98.8, 192.9 |  97.5, 190.0 |
const LEVEL_1_HASH_LOG: u32 = 13;
const LEVEL_1_MIN_MATCH: u32 = 5;

/// Tables are small and read often.
const TABLE_LEVEL: i32 = 3;

/// A compressor for frames that `zstd -t` can check and that tell their size.
fn compressor(level: i32) -> Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level).context("starting zstd")?;
    let mut parameters = vec![CParameter::ChecksumFlag(true), CParameter::ContentSizeFlag(true)];
    if level == 1 {
        parameters.push(CParameter::HashLog(LEVEL_1_HASH_LOG));
        parameters.push(CParameter::MinMatch(LEVEL_1_MIN_MATCH));
    }
    for parameter in parameters {
        compressor.set_parameter(parameter).context("setting up zstd")?;
    }
    Ok(compressor)
}

/// A table's frame.
pub fn compress_table(table: &[u8]) -> Result<Vec<u8>> {
    compress(table, TABLE_LEVEL)
}

pub fn compress(plain: &[u8], level: i32) -> Result<Vec<u8>> {
    compressor(level)?.compress(plain).context("compressing")
}

/// What is not worth compressing is found by a sample of bigger chunks: this much from this many
/// places.
const SAMPLE_FROM_BYTES: usize = 1 << 20;
const SAMPLE_BYTES: usize = 4 << 10;
const SAMPLES: usize = 8;

/// Makes frames; one for each thread.
pub struct Press {
    zstd: Compressor<'static>,
    /// Copies what it is given, with the frame around it.
    copier: Compressor<'static>,
    tables: Compressor<'static>,
    sample: Vec<u8>,
    sampled: Vec<u8>,
}

impl Press {
    pub fn new(level: i32) -> Result<Press> {
        Ok(Press {
            zstd: compressor(level)?,
            copier: compressor(min_c_level())?,
            tables: compressor(TABLE_LEVEL)?,
            sample: Vec::new(),
            sampled: Vec::new(),
        })
    }

    /// As [`compress_table`].
    pub fn press_table(&mut self, table: &[u8]) -> Result<Vec<u8>> {
        self.tables.compress(table).context("compressing")
    }

    /// Replaces what is in `frame`.
    pub fn press(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        frame.clear();
        frame.reserve(compress_bound(plain.len()));
        let zstd = if self.is_noise(plain)? { &mut self.copier } else { &mut self.zstd };
        zstd.compress_to_buffer(plain, frame).context("compressing")?;
        Ok(())
    }

    /// Whether samples of a big chunk can't be compressed: so it is with what is compressed already,
    /// and with what is encrypted. zstd needs as long to find that out as for what it can compress.
    fn is_noise(&mut self, plain: &[u8]) -> Result<bool> {
        if plain.len() < SAMPLE_FROM_BYTES {
            return Ok(false);
        }
        self.sample.clear();
        for place in 0..SAMPLES {
            let at = (plain.len() - SAMPLE_BYTES) / (SAMPLES - 1) * place;
            self.sample.extend_from_slice(&plain[at..at + SAMPLE_BYTES]);
        }
        self.sampled.clear();
        self.sampled.reserve(compress_bound(self.sample.len()));
        let sampled = self.zstd.compress_to_buffer(&self.sample, &mut self.sampled);
        Ok(sampled.context("compressing")? >= self.sample.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that can't be compressed, the same each time.
    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn noise_is_stored_and_the_rest_is_compressed() {
        let mut press = Press::new(1).unwrap();
        let noise = noise(SAMPLE_FROM_BYTES + 4321);
        let mut half = noise.clone();
        half[SAMPLE_FROM_BYTES / 2..].fill(7);
        let text = b"0123456789abcdef\n".repeat(SAMPLE_FROM_BYTES / 16);
        for (plain, is_noise) in [(&noise, true), (&half, false), (&text, false)] {
            assert_eq!(press.is_noise(plain).unwrap(), is_noise);
            let mut frame = b"what was there".to_vec();
            press.press(plain, &mut frame).unwrap();
            assert_eq!(frame.len() > plain.len(), is_noise, "{} bytes", frame.len());
            // The checksum of the frame is looked at here.
            assert_eq!(zstd::stream::decode_all(frame.as_slice()).unwrap(), *plain);
            let middle = frame.len() / 2;
            frame[middle] ^= 1;
            assert_ne!(zstd::stream::decode_all(frame.as_slice()).ok().as_ref(), Some(plain));
        }
        assert!(!press.is_noise(&noise[..SAMPLE_FROM_BYTES - 1]).unwrap());
    }
}
