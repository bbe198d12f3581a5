//! The few binary forms that the index is made of: LEB128 numbers, and bytes with their length
//! before them.

use anyhow::{Context, Result, ensure};

pub const ID_LEN: usize = 32;

/// BLAKE3 of some plain bytes: the name of a chunk or of a table.
pub type Id = [u8; ID_LEN];

pub fn put_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Small numbers of either sign stay short.
pub fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A path by how many bytes of it are those of `last`, which it becomes, and the rest.
pub fn put_path(out: &mut Vec<u8>, path: &[u8], last: &mut Vec<u8>) {
    let same = last.iter().zip(path).take_while(|(a, b)| a == b).count();
    put_uint(out, same as u64);
    put_bytes(out, &path[same..]);
    last.truncate(same);
    last.extend_from_slice(&path[same..]);
}

#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        ensure!(len <= self.0.len(), "it ends too early");
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn uint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            ensure!(bits << shift >> shift == bits, "a number in it is too big");
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        anyhow::bail!("a number in it is too long")
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.uint()?.try_into().context("a number in it is too big")
    }

    pub fn usize(&mut self) -> Result<usize> {
        self.uint()?.try_into().context("a number in it is too big")
    }

    pub fn int(&mut self) -> Result<i64> {
        let value = self.uint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.usize()?;
        self.take(len)
    }

    /// The path that [`put_path`] has put.
    pub fn path(&mut self, last: &[u8]) -> Result<Vec<u8>> {
        let start = last.get(..self.usize()?).context("a path in it can't be read")?;
        Ok([start, self.bytes()?].concat())
    }

    pub fn id(&mut self) -> Result<Id> {
        Ok(self.take(ID_LEN)?.try_into()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        let mut out = Vec::new();
        let uints = [0, 1, 127, 128, 1 << 35, u64::MAX];
        let ints = [0, -1, 1, i64::MIN, i64::MAX];
        uints.iter().for_each(|&n| put_uint(&mut out, n));
        ints.iter().for_each(|&n| put_int(&mut out, n));
        let mut reader = Reader(&out);
        uints.iter().for_each(|&n| assert_eq!(reader.uint().unwrap(), n));
        ints.iter().for_each(|&n| assert_eq!(reader.int().unwrap(), n));
        assert!(reader.byte().is_err());
        assert!(Reader(&[0xff; 10]).uint().is_err());
        assert!(Reader(&[5, 1]).bytes().is_err());
    }
}
