//! Reads the heads of a tar stream that [`super::pax`] wrote, out of one chunk's bytes.
//!
//! The bytes were checked against their BLAKE3 before, yet nothing is believed: every number is
//! bounded by the bytes that are there, and a path that could leave the root is refused.

use anyhow::{Context, Result, bail, ensure};

use super::acl;
use super::entry::{Entry, Extra, Kind, PATH_LIMIT_BYTES, Time, shown};
use super::flags;
use super::pax::{BLOCK, FFLAGS, PROJECT, XATTR, padding};

/// The head of one entry.
#[derive(Debug)]
pub struct Head {
    pub entry: Entry,
    pub extra: Extra,
    /// Where its data starts in the chunk.
    pub data_at: usize,
    /// The data without padding; may lie outside of the chunk, then all of it does.
    pub data_bytes: u64,
}

impl Head {
    /// Where the next head starts, when the data is in this chunk.
    pub fn next(&self, chunk: &[u8]) -> Option<usize> {
        let len = usize::try_from(self.data_bytes).ok()?;
        let end = self.data_at.checked_add(len)?.checked_add(padding(self.data_bytes))?;
        (end <= chunk.len()).then_some(end)
    }
}

/// Reads the head at `at`; None at the end of the chunk or of the stream.
pub fn read_head(chunk: &[u8], at: usize) -> Result<Option<Head>> {
    let Some((mut header, mut next)) = block(chunk, at)? else { return Ok(None) };
    let mut records = Vec::new();
    if header[156] == b'x' {
        let len = usize::try_from(number(&header[124..136])?)?;
        let end = next.checked_add(len).filter(|end| *end <= chunk.len());
        let end = end.context("a pax header is longer than its chunk")?;
        records = Records(&chunk[next..end]).collect::<Result<_>>()?;
        let after = end + padding(len as u64);
        (header, next) = block(chunk, after)?.context("a pax header stands alone")?;
    }
    let kind = Kind::of_flag(header[156])
        .with_context(|| format!("entries of type {:?} are not known", header[156] as char))?;
    let mut entry = Entry {
        path: header_name(header),
        kind,
        mode: u32::try_from(number(&header[100..108])?)? & 0o7777,
        uid: u32::try_from(number(&header[108..116])?)?,
        gid: u32::try_from(number(&header[116..124])?)?,
        mtime: Time { sec: i64::try_from(number(&header[136..148])?)?, nsec: 0 },
        size_bytes: 0,
        link: text(&header[157..257]).to_vec(),
        rdev: (0, 0),
        ctime: Time::default(),
        ino: 0,
    };
    if kind.is_device() {
        entry.rdev =
            (number(&header[329..337])?.try_into()?, number(&header[337..345])?.try_into()?);
    }
    let mut extra = Extra::default();
    let mut numbers = Numbers { stored_bytes: number(&header[124..136])?, ..Numbers::default() };
    for (key, value) in &records {
        apply(key, value, &mut entry, &mut extra, &mut numbers)
            .with_context(|| format!("reading the head of {}", shown(&entry.path)))?;
    }
    let mut stored = numbers.stored_bytes;
    entry.path = clean_path(&entry.path)?;
    if kind == Kind::HardLink {
        entry.link = clean_path(&entry.link)?;
    }
    if kind != Kind::File {
        ensure!(stored == 0, "{} has data but is no file", entry.shown());
    }
    entry.size_bytes = stored;
    if numbers.is_sparse_1_0() {
        let (map, len) = read_map(chunk, next)
            .with_context(|| format!("reading the holes of {}", entry.shown()))?;
        entry.size_bytes = numbers.real_size_bytes.context("a sparse file tells no size")?;
        check_map(&map, entry.size_bytes)?;
        next += len;
        stored = stored.checked_sub(len as u64).context("a sparse map exceeds its entry")?;
        ensure!(map.iter().map(|(_, len)| len).sum::<u64>() == stored, "a sparse map is wrong");
        extra.sparse = Some(map);
    }
    let head = Head { entry, extra, data_at: next, data_bytes: stored };
    let inside = head.next(chunk).is_some() || next == chunk.len();
    ensure!(inside, "the data of {} is cut off", head.entry.shown());
    Ok(Some(head))
}

/// The header at `at`, its checksum verified, and where it ends.
fn block(chunk: &[u8], at: usize) -> Result<Option<(&[u8; BLOCK], usize)>> {
    let Some(header) = chunk.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) else {
        ensure!(at == chunk.len(), "a tar header is cut off");
        return Ok(None);
    };
    // Sums of a kind that the compiler makes many at a time of.
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    let all = sum(header);
    if all == 0 {
        return Ok(None);
    }
    let field = &header[148..156];
    let expected = all - sum(field) + sum(&[b' '; 8]);
    ensure!(number(field)? == u64::from(expected), "a tar header has a wrong checksum");
    Ok(Some((header, at + BLOCK)))
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

fn header_name(header: &[u8; BLOCK]) -> Vec<u8> {
    match text(&header[345..500]) {
        b"" => text(&header[..100]).to_vec(),
        prefix => [prefix, b"/", text(&header[..100])].concat(),
    }
}

fn number(field: &[u8]) -> Result<u64> {
    if field[0] & 0x80 != 0 {
        let mut value = u64::from(field[0] & 0x7f);
        for &byte in &field[1..] {
            ensure!(value >> 56 == 0, "a number in a tar header is too big");
            value = value << 8 | u64::from(byte);
        }
        return Ok(value);
    }
    text(field).trim_ascii().iter().try_fold(0, |value, byte| {
        ensure!(matches!(byte, b'0'..=b'7'), "a tar header has a number that is not octal");
        ensure!(value >> 60 == 0, "a number in a tar header is too big");
        Ok(value << 3 | u64::from(byte - b'0'))
    })
}

/// `LEN KEY=VALUE\n`, any number of times. Values hold any bytes; only LEN says where they end.
#[derive(Debug)]
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Records<'a> {
    fn read(&mut self) -> Result<(&'a [u8], &'a [u8])> {
        let bytes = self.0;
        let space = bytes.iter().take(20).position(|&b| b == b' ').context("a pax record lies")?;
        let len: usize = std::str::from_utf8(&bytes[..space])?.parse()?;
        ensure!(len > space + 2 && len <= bytes.len(), "a pax record has a wrong length");
        let (record, rest) = bytes.split_at(len);
        let record = record[space + 1..].strip_suffix(b"\n").context("a pax record has no end")?;
        let equals = record.iter().position(|&b| b == b'=').context("a pax record has no value")?;
        self.0 = rest;
        Ok((&record[..equals], &record[equals + 1..]))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.0 = &[];
        }
        Some(record)
    }
}

/// What records tell about the data behind a head.
#[derive(Debug, Default)]
pub struct Numbers {
    stored_bytes: u64,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    real_size_bytes: Option<u64>,
}

impl Numbers {
    fn is_sparse_1_0(&self) -> bool {
        (self.sparse_major, self.sparse_minor) == (Some(1), Some(0))
    }
}

/// Applies one pax record. Keys that are not known are passed over.
pub fn apply(
    key: &[u8],
    value: &[u8],
    entry: &mut Entry,
    extra: &mut Extra,
    numbers: &mut Numbers,
) -> Result<()> {
    let decimal = || -> Result<u64> { Ok(std::str::from_utf8(value)?.parse()?) };
    match key {
        b"path" | b"GNU.sparse.name" => entry.path = value.to_vec(),
        b"linkpath" => entry.link = value.to_vec(),
        b"size" => numbers.stored_bytes = decimal()?,
        b"uid" => entry.uid = decimal()?.try_into()?,
        b"gid" => entry.gid = decimal()?.try_into()?,
        b"mtime" => entry.mtime = read_time(std::str::from_utf8(value)?)?,
        b"GNU.sparse.major" => numbers.sparse_major = Some(decimal()?),
        b"GNU.sparse.minor" => numbers.sparse_minor = Some(decimal()?),
        b"GNU.sparse.realsize" => numbers.real_size_bytes = Some(decimal()?),
        PROJECT => extra.project = decimal()?.try_into()?,
        FFLAGS => extra.flags = flags::from_text(std::str::from_utf8(value)?),
        _ => {
            if let Some(name) = key.strip_prefix(XATTR) {
                extra.xattrs.push((xattr_name(name), value.to_vec()));
            } else if let Some((name, _)) = acl::KEYS.iter().find(|(_, k)| k.as_bytes() == key) {
                let binary = acl::from_text(std::str::from_utf8(value)?);
                extra.xattrs.push((name.to_vec(), binary.context("an ACL can't be read")?));
            }
        }
    }
    Ok(())
}

/// As pax headers have it, where a keyword ends at the first `=`.
pub fn xattr_name(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len());
    let mut rest = key;
    while let Some((&byte, tail)) = rest.split_first() {
        let (byte, tail) = match rest.get(..3) {
            Some(b"%3D") => (b'=', &rest[3..]),
            Some(b"%25") => (b'%', &rest[3..]),
            _ => (byte, tail),
        };
        name.push(byte);
        rest = tail;
    }
    name
}

fn read_time(text: &str) -> Result<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.chars().chain(std::iter::repeat('0')).take(9).collect::<String>();
    let nsec: u32 = digits.parse().with_context(|| format!("{text:?} is no time"))?;
    let sec: i64 = whole.parse().with_context(|| format!("{text:?} is no time"))?;
    if !whole.starts_with('-') || nsec == 0 {
        return Ok(Time { sec, nsec });
    }
    let sec = sec.checked_sub(1).context("a time before all times")?;
    Ok(Time { sec, nsec: 1_000_000_000 - nsec })
}

/// The map of a sparse file and how many bytes it takes, whole blocks.
fn read_map(chunk: &[u8], at: usize) -> Result<(Vec<(u64, u64)>, usize)> {
    let mut rest = chunk.get(at..).context("no map")?;
    let mut numbers = || -> Result<u64> {
        let end = rest.iter().take(21).position(|&b| b == b'\n').context("no number")?;
        let number = std::str::from_utf8(&rest[..end])?.parse()?;
        rest = &rest[end + 1..];
        Ok(number)
    };
    let count = numbers()?;
    let mut map = Vec::new();
    for _ in 0..count {
        let range = (numbers()?, numbers()?);
        if range.1 > 0 {
            map.push(range);
        }
    }
    let len = chunk.len() - at - rest.len();
    let len = len + padding(len as u64);
    ensure!(at + len <= chunk.len(), "the map is cut off");
    Ok((map, len))
}

/// Whether ranges are in order and inside of the file.
pub fn check_map(map: &[(u64, u64)], size_bytes: u64) -> Result<()> {
    let mut at = 0;
    for &(offset, len) in map {
        let end = offset.checked_add(len).filter(|end| *end <= size_bytes && offset >= at);
        at = end.context("the data of a sparse file overlaps or goes past its end")?;
    }
    Ok(())
}

/// Takes the slashes at the ends and the `./` of the root away.
///
/// # Errors
/// For every path that does not stay below the root.
fn clean_path(path: &[u8]) -> Result<Vec<u8>> {
    let inner = path.strip_suffix(b"/").unwrap_or(path);
    if inner == b"." {
        return Ok(Vec::new());
    }
    ensure!(inner.len() <= PATH_LIMIT_BYTES, "a path of {} bytes is too long", inner.len());
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.contains(&0);
    if inner.split(|&b| b == b'/').any(bad) {
        bail!("the path {} is not one that an archive may hold", shown(path));
    }
    Ok(inner.to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::pax;
    use super::*;

    fn sample() -> (Entry, Extra) {
        let entry = Entry {
            path: b"some/\xff\nfile".to_vec(),
            kind: Kind::File,
            mode: 0o4751,
            uid: 3_000_000_000,
            gid: 100,
            mtime: Time { sec: -3, nsec: 5 },
            size_bytes: 3,
            link: Vec::new(),
            rdev: (0, 0),
            ctime: Time::default(),
            ino: 0,
        };
        let xattrs = vec![
            (b"system.posix_acl_access".to_vec(), acl::from_text("user::rw-,mask::r--").unwrap()),
            (b"user.a=b%".to_vec(), b"\n\0=\xff".to_vec()),
        ];
        (entry, Extra { xattrs, flags: flags::IMMUTABLE, project: 42, sparse: None })
    }

    fn stream(entry: &Entry, extra: &Extra, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        pax::append_head(&mut out, entry, extra);
        out.extend_from_slice(data);
        out.resize(out.len() + padding(data.len() as u64), 0);
        out
    }

    #[test]
    fn everything_about_an_entry_survives() {
        let (entry, extra) = sample();
        let bytes = stream(&entry, &extra, b"abc");
        let head = read_head(&bytes, 0).unwrap().unwrap();
        assert_eq!((&head.entry, &head.extra), (&entry, &extra));
        assert_eq!(&bytes[head.data_at..][..3], b"abc");
        assert_eq!(head.next(&bytes), Some(bytes.len()));
        assert!(read_head(&bytes, bytes.len()).unwrap().is_none());

        let mut long = entry;
        long.path = vec![b'p'; 5000];
        long.size_bytes = 1 << 40;
        let sparse = Some(vec![(4096, 2), (1 << 30, 1)]);
        let extra = Extra { sparse, ..extra };
        let bytes = stream(&long, &extra, b"abc");
        let head = read_head(&bytes, 0).unwrap().unwrap();
        assert_eq!((head.entry, head.extra), (long, extra));
    }

    #[test]
    fn kinds_without_data_survive() {
        for (kind, link) in [
            (Kind::Dir, &b""[..]),
            (Kind::Symlink, b"../any//where/"),
            (Kind::HardLink, b"etc/first"),
            (Kind::Fifo, b""),
            (Kind::Char, b""),
        ] {
            let (mut entry, extra) = sample();
            (entry.kind, entry.link, entry.size_bytes) = (kind, link.to_vec(), 0);
            entry.rdev = if kind == Kind::Char { (259, 1_048_575) } else { (0, 0) };
            let head = read_head(&stream(&entry, &extra, b""), 0).unwrap().unwrap();
            assert_eq!(head.entry, entry);
        }
    }

    #[test]
    fn a_path_that_leaves_the_root_is_refused() {
        for path in ["/etc/passwd", "../x", "a/../../b", "a//b", "a/./b", "", "a/.."] {
            assert!(clean_path(path.as_bytes()).is_err(), "{path}");
        }
        assert_eq!(clean_path(b"./").unwrap(), b"");
        assert_eq!(clean_path(b"a/b/").unwrap(), b"a/b");
    }

    #[test]
    fn a_broken_head_is_an_error_and_never_a_panic() {
        let (entry, extra) = sample();
        let good = stream(&entry, &extra, b"abc");
        for at in 0..good.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= bit;
                let _ = read_head(&bytes, 0);
            }
            let _ = read_head(&good[..at], 0);
        }
        assert!(read_head(&good[..good.len() - 1], 0).is_err(), "half of the data is missing");
    }
}
