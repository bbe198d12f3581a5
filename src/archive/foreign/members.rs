//! The members of a tar archive that anybody wrote, one after the other: each header with what
//! belongs to it (pax records, long names, the map of a sparse file) and how much data follows.
//!
//! Reads v7, ustar, GNU's old format and pax, with GNU's four ways to store sparse files. What a
//! header claims is never believed: memory grows only with bytes that are really there, up to
//! [`META_LIMIT_BYTES`] for one member.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::rc::Rc;

use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};
use anyhow::{Context, Result, bail, ensure};

use super::super::pax::{BLOCK, padding};
use super::super::tar::check_map;
use super::records::{Records, decimal, push_range};

/// For all that is told about one member: pax records, names, maps.
const META_LIMIT_BYTES: u64 = 32 << 20;
/// A path or a link's target.
const NAME_LIMIT_BYTES: u64 = 1 << 20;

/// One member without its data.
pub struct Member {
    pub header: Header,
    /// What its own pax header tells, and what the global ones do.
    pub own: Records,
    global: Rc<Records>,
    /// From GNU's `././@LongLink`.
    pub long_name: Option<Vec<u8>>,
    pub long_link: Option<Vec<u8>>,
    /// Where a sparse file has data, and its size with the holes.
    pub sparse: Option<(Vec<(u64, u64)>, u64)>,
    /// How many bytes of data follow.
    pub data_bytes: u64,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("data_bytes", &self.data_bytes).finish_non_exhaustive()
    }
}

impl Member {
    pub fn flag(&self) -> u8 {
        self.header.as_old().linkflag[0]
    }

    /// What a record says. In POSIX one without a value says that there is none.
    pub fn record(&self, key: &[u8]) -> Option<&[u8]> {
        let value = self.own.get(key).or_else(|| self.global.get(key));
        value.filter(|value| !value.is_empty())
    }

    /// Extended attributes; of those with the same name the last one counts.
    pub fn xattrs(&self) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.global.xattrs().chain(self.own.xattrs())
    }
}

/// Reads an archive.
pub struct Members<R> {
    source: R,
    /// Where in the archive, for who must look there.
    at: u64,
    global: Rc<Records>,
    /// What is left of the last member: data, and zeros behind it.
    left: u64,
    pad: u64,
    /// Whether there was any header.
    started: bool,
    /// Whether two blocks of zeros ended it, as they should.
    pub ended_well: bool,
}

impl<R> std::fmt::Debug for Members<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members").field("at", &self.at).finish_non_exhaustive()
    }
}

impl<R: Read> Members<R> {
    pub fn new(source: R) -> Members<R> {
        let (global, started, ended_well) = Default::default();
        Members { source, at: 0, global, left: 0, pad: 0, started, ended_well }
    }

    /// The next member; None at the end of the archive.
    ///
    /// # Errors
    /// The archive can't be read any further.
    pub fn next(&mut self) -> Result<Option<Member>> {
        self.skip_rest()?;
        let at = self.at;
        self.read_next().with_context(|| format!("reading the archive at byte {at}"))
    }

    fn read_next(&mut self) -> Result<Option<Member>> {
        let mut own = None;
        let mut lost = BTreeSet::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                ensure!(own.is_none() && long_name.is_none(), "a header has no member");
                return Ok(None);
            };
            let size = number(&header.as_old().size, header.entry_size())?;
            // No sum with it overflows then.
            ensure!(i64::try_from(size).is_ok(), "a header says that it is too big");
            match header.as_old().linkflag[0] {
                b'x' | b'X' => own = Some(Records::read(&self.meta(size, META_LIMIT_BYTES)?)?),
                b'g' => {
                    let new = Records::read(&self.meta(size, META_LIMIT_BYTES)?)?;
                    let global = Rc::make_mut(&mut self.global);
                    global.update(new);
                    // Said of the next file only.
                    lost.append(&mut global.lost);
                }
                b'L' => long_name = Some(c_string(self.meta(size, NAME_LIMIT_BYTES)?)),
                b'K' => long_link = Some(c_string(self.meta(size, NAME_LIMIT_BYTES)?)),
                // The name of a volume; names of an extinct GNU tar.
                b'V' | b'N' => self.skip(size + padding(size) as u64)?,
                b'M' => bail!(
                    "it goes on with a file that began in another volume\nhint: join the volumes with GNU tar first"
                ),
                _ => {
                    let mut own = own.unwrap_or_default();
                    own.lost.append(&mut lost);
                    let mut member = Member {
                        header,
                        own,
                        global: Rc::clone(&self.global),
                        long_name,
                        long_link,
                        sparse: None,
                        data_bytes: size,
                    };
                    self.measure(&mut member)?;
                    return Ok(Some(member));
                }
            }
        }
    }

    /// How much data follows, and the map of a sparse file.
    fn measure(&mut self, member: &mut Member) -> Result<()> {
        if let Some(size) = member.record(b"size") {
            member.data_bytes = decimal(size)?;
        }
        // The size of a directory or a link says something else, or nothing: no data follows.
        if (b'1'..=b'6').contains(&member.flag()) {
            member.data_bytes = 0;
        }
        ensure!(i64::try_from(member.data_bytes).is_ok(), "a member says that it is too big");
        self.left = member.data_bytes;
        self.pad = padding(member.data_bytes) as u64;
        let version = |key: &[u8]| member.record(key).map(decimal).transpose();
        let major = version(b"GNU.sparse.major")?;
        let minor = version(b"GNU.sparse.minor")?;
        if member.flag() == b'S' {
            let sparse = self.old_gnu_map(&member.header)?;
            member.sparse = Some(sparse);
        } else if let (Some(1), Some(0)) = (major, minor) {
            let size =
                member.record(b"GNU.sparse.realsize").context("a sparse file has no size")?;
            let size = decimal(size)?;
            member.sparse = Some((self.map_1_0()?, size));
            member.data_bytes = self.left;
        } else if let Some(size) = member.record(b"GNU.sparse.size") {
            let size = decimal(size)?;
            let map = match member.record(b"GNU.sparse.map") {
                Some(map) => map_0_1(map)?,
                None => std::mem::take(&mut member.own.map),
            };
            member.sparse = Some((map, size));
        }
        if let Some((map, size)) = &member.sparse {
            check_map(map, *size)?;
            let stored: u64 = map.iter().map(|(_, len)| len).sum();
            ensure!(stored == member.data_bytes, "the map of a sparse file does not fit its data");
        }
        Ok(())
    }

    /// The next header that is no zeros. None at the end, which is two blocks of zeros, or (with
    /// [`Members::ended_well`] false) where the bytes end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut zeros = 0;
        loop {
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|&b| b == 0) {
                zeros += 1;
                if zeros == 2 {
                    self.ended_well = true;
                    return Ok(None);
                }
                continue;
            }
            let header = Header::from_byte_slice(&block).clone();
            if !checksum_fits(&header) {
                bail!(
                    "{}",
                    if !self.started {
                        "this is no tar archive"
                    } else {
                        "a header has a wrong checksum: the archive is damaged"
                    }
                );
            }
            self.started = true;
            return Ok(Some(header));
        }
    }

    /// None at the end of the bytes.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.source.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => bail!("it ends in the middle of a header"),
                Ok(got) => have += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.at += BLOCK as u64;
        Ok(Some(block))
    }

    /// Reads what belongs to a header, padding too.
    fn meta(&mut self, size: u64, limit: u64) -> Result<Vec<u8>> {
        ensure!(size <= limit, "a header says that {size} bytes belong to it: too many");
        let mut bytes = Vec::new();
        let got = self.source.by_ref().take(size).read_to_end(&mut bytes)?;
        ensure!(got as u64 == size, "it ends in the middle of a header");
        self.at += size;
        self.skip(padding(size) as u64)?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(bytes), &mut io::sink())?;
        self.at += skipped;
        ensure!(skipped == bytes, "it ends too early");
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        let rest = self.left + self.pad;
        (self.left, self.pad) = (0, 0);
        self.skip(rest).with_context(|| format!("reading the archive at byte {}", self.at))
    }

    /// The next bytes of the member's data; zero when there are no more.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut have = 0;
        while have < most {
            match self.source.read(&mut buffer[have..most]) {
                Ok(0) => bail!("the archive ends in the middle of a file"),
                Ok(got) => have += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("reading byte {}", self.at));
                }
            }
        }
        self.at += have as u64;
        self.left -= have as u64;
        Ok(have)
    }

    /// Reads to the end of the source: only there a compressed archive's checksum is. Tells from
    /// which byte on there is more behind the end of the archive than zeros.
    ///
    /// # Errors
    /// The rest can't be read, or there was nothing at all.
    pub fn drain(&mut self) -> Result<Option<u64>> {
        if !self.started {
            bail!(
                "there is no archive in it: {}",
                if self.at == 0 { "it is empty" } else { "it begins with zeros" }
            );
        }
        let mut more = None;
        let mut piece = vec![0; 64 << 10];
        loop {
            let got = match self.source.read(&mut piece) {
                Ok(0) => return Ok(more),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("reading the archive to its end"),
            };
            if more.is_none()
                && let Some(first) = piece[..got].iter().position(|&b| b != 0)
            {
                let at = self.at + first as u64;
                more = Some(at - at % BLOCK as u64);
            }
            self.at += got as u64;
        }
    }

    /// In the header and in blocks behind it, which the member's size does not count.
    fn old_gnu_map(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64)> {
        let gnu = header.as_gnu().context("a sparse file is not in GNU's format")?;
        let size = number(&gnu.realsize, gnu.real_size())?;
        let mut map = Vec::new();
        add_ranges(&mut map, &gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let block = self.block()?.context("it ends in the middle of a header")?;
            let mut extended = GnuExtSparseHeader::new();
            extended.as_mut_bytes().copy_from_slice(&block);
            add_ranges(&mut map, extended.sparse())?;
            ensure!(map.len() as u64 * 16 <= META_LIMIT_BYTES, "a sparse file has too many parts");
            more = extended.is_extended();
        }
        Ok((map, size))
    }

    /// At the beginning of the data: lines of numbers, padded to whole blocks.
    fn map_1_0(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut text = Lines { members: self, block: Vec::new(), at: 0, blocks: 0 };
        let count = text.number()?;
        let mut map = Vec::new();
        for _ in 0..count {
            push_range(&mut map, text.number()?, text.number()?)?;
        }
        Ok(map)
    }
}

struct Lines<'a, R> {
    members: &'a mut Members<R>,
    block: Vec<u8>,
    at: usize,
    blocks: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == self.block.len() {
                self.block.resize(BLOCK, 0);
                let got = self.members.read_data(&mut self.block)?;
                ensure!(got == BLOCK, "the map of a sparse file is cut off");
                self.at = 0;
                self.blocks += 1;
                let bytes = self.blocks * BLOCK as u64;
                ensure!(bytes <= META_LIMIT_BYTES, "a sparse file has too many parts");
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal(&digits);
            }
            ensure!(digits.len() < 20, "the map of a sparse file is no list of numbers");
            digits.push(byte);
        }
    }
}

fn add_ranges(map: &mut Vec<(u64, u64)>, ranges: &[GnuSparseHeader]) -> Result<()> {
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        push_range(map, range.offset()?, range.length()?)?;
    }
    Ok(())
}

/// `OFFSET,LENGTH,OFFSET,LENGTH`
fn map_0_1(text: &[u8]) -> Result<Vec<(u64, u64)>> {
    let mut map = Vec::new();
    let mut numbers = text.split(|&b| b == b',');
    while let Some(offset) = numbers.next() {
        let len = numbers.next().context("the map of a sparse file has half a part")?;
        push_range(&mut map, decimal(offset)?, decimal(len)?)?;
    }
    Ok(map)
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// What the crate made of a numeric field; it does not take an empty one, which old tars wrote.
pub fn number(field: &[u8], parsed: io::Result<u64>) -> Result<u64> {
    if field.iter().all(|&b| b == 0 || b == b' ') {
        return Ok(0);
    }
    parsed.context("a number in a header can't be read")
}

/// Old tars added up signed bytes.
pub fn checksum_fits(header: &Header) -> bool {
    let Ok(told) = header.cksum() else { return false };
    let bytes = header.as_bytes();
    let counted =
        bytes.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { b' ' } else { b });
    let unsigned: u32 = counted.clone().map(u32::from).sum();
    let signed: i32 = counted.map(|b| i32::from(b.cast_signed())).sum();
    told == unsigned || i32::try_from(told) == Ok(signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_size_is_too_big_to_be_refused() {
        let next = |flag: u8, size: u64| {
            let mut header = Header::new_gnu();
            header.as_old_mut().linkflag = [flag];
            header.set_size(size);
            header.set_cksum();
            Members::new(header.as_bytes().as_slice()).next()
        };
        for flag in 0..=u8::MAX {
            for size in [u64::MAX, u64::MAX - 511, 1 << 63] {
                let error = next(flag, size).unwrap_err();
                assert!(format!("{error:#}").contains("too big"), "{flag}: {error:#}");
            }
        }
        let error = next(b'V', (1 << 63) - 1).unwrap_err();
        assert!(format!("{error:#}").contains("ends too early"), "{error:#}");
    }
}
