//! Objects and parts of them: exactly what was asked for, and further from where a connection broke
//! off.

use std::io::{self, Read};

use super::client::{Failed, Reply};
use super::{ObjectStore, PIECE_BYTES, StoreError};

/// How many bytes were taken, and what broke that off, if not their end.
type Taken = (u64, Option<io::Error>);

/// No more memory is taken on a server's word.
const RESERVE_BYTES: u64 = 64 << 20;

impl ObjectStore {
    /// All of an object, whatever its name.
    pub(super) fn fetch(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let (mut bytes, whole) = self.client.run(
            |_| self.call("GET", name, &[]),
            |mut reply, _| {
                if reply.status != 200 {
                    return Err(self.refusal(&mut reply, name));
                }
                if !reply.says_its_end() {
                    let text = format!("it does not say where {name} ends");
                    return Err(self.other(text).into());
                }
                let length = reply.length();
                let mut bytes = Vec::new();
                bytes.reserve(usize::try_from(length.unwrap_or(0).min(RESERVE_BYTES)).unwrap_or(0));
                match (reply.reader().read_to_end(&mut bytes), length) {
                    (Ok(_), length) if length.is_none_or(|l| l == bytes.len() as u64) => {
                        Ok((bytes, None))
                    }
                    (_, Some(length)) if !bytes.is_empty() && bytes.len() as u64 <= length => {
                        Ok((bytes, Some(length)))
                    }
                    (read, _) => {
                        let why = read.map_or_else(|e| e.to_string(), |_| "it ended".to_owned());
                        Err(Failed::Again(format!("{name} broke off: {why}")))
                    }
                }
            },
        )?;
        // What is mixed up by a change in between is found by its hash.
        if let Some(length) = whole {
            log::info!("{name} broke off after {} of {length} bytes: going on", bytes.len());
            while (bytes.len() as u64) < length {
                let at = bytes.len();
                let more = (length - at as u64).min(RESERVE_BYTES);
                bytes.resize(at + usize::try_from(more).unwrap_or(usize::MAX), 0);
                self.fill_range(name, at as u64, &mut bytes[at..])?;
            }
        }
        Ok(bytes)
    }

    /// Fills `bytes` with those from `offset`.
    pub(super) fn fill_range(
        &self,
        name: &str,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), StoreError> {
        let len = bytes.len() as u64;
        self.take_range(name, (offset, len), &mut |reader, done| {
            let done = usize::try_from(done).unwrap_or(bytes.len());
            fill(reader, &mut bytes[done..])
        })
    }

    /// Gives `len` bytes from `offset` to `each`, in small pieces.
    pub(super) fn pass_range(
        &self,
        name: &str,
        (offset, len): (u64, u64),
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let mut room = vec![0; PIECE_BYTES];
        self.take_range(name, (offset, len), &mut |reader, done| {
            let mut got = 0;
            while done + got < len {
                let part = usize::try_from(len - done - got).unwrap_or(room.len()).min(room.len());
                let (more, error) = fill(reader, &mut room[..part]);
                each(&room[..usize::try_from(more).unwrap_or(part)]);
                got += more;
                if more < part as u64 {
                    return (got, error);
                }
            }
            (got, None)
        })
    }

    /// Has `take` take `len` bytes from `offset` out of the answer. It is told how many it took before:
    /// where the connection broke off, the next try goes on. It says how many it took now, and what
    /// broke it off.
    fn take_range(
        &self,
        name: &str,
        (offset, len): (u64, u64),
        take: &mut dyn FnMut(&mut dyn Read, u64) -> Taken,
    ) -> Result<(), StoreError> {
        let end = offset.checked_add(len).filter(|end| *end > offset);
        let Some(end) = end else {
            return Err(self.other(format!("{len} bytes from {offset} of {name} were asked for")));
        };
        let done = std::cell::Cell::new(0);
        let at = || offset + done.get();
        self.client.run(
            |_| {
                let range = format!("bytes={}-{}", at(), end - 1);
                let mut call = self.call("GET", name, &[])?;
                call = call.header("Range", range);
                Ok(call)
            },
            |mut reply, _| {
                if reply.status != 206 {
                    return Err(self.no_range(&mut reply, name, (offset, len)));
                }
                self.check_range(&reply, name, at(), end)?;
                let (got, error) = take(&mut reply.reader(), done.get());
                done.set(done.get() + got);
                if at() == end {
                    // ureq takes a connection back when a body was read to its end, not before. One
                    // without a length might be waited for.
                    if reply.length().is_some() {
                        let _ = reply.reader().read(&mut [0]);
                    }
                    return Ok(());
                }
                let why = error.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                let why = format!("{name} broke off after {got} bytes: {why}");
                Err(if got > 0 { Failed::GoOn(why) } else { Failed::Again(why) })
            },
        )
    }

    /// The answer must be about just these bytes.
    fn check_range(&self, reply: &Reply, name: &str, at: u64, end: u64) -> Result<(), Failed> {
        let said = reply.header("content-range").unwrap_or_default();
        let (first, last, total) = content_range(said).ok_or_else(|| {
            self.other(format!("it gives a part of {name} and does not say which: {said:?}"))
        })?;
        if total.is_some_and(|total| total < end) {
            return Err(self.cut_off(name, (at, end - at), total).into());
        }
        let length = reply.length().is_none_or(|length| length == end - at);
        if (first, last) != (at, end - 1) || !length {
            return Err(Failed::Again(format!(
                "bytes {at} to {} of {name} were asked for, and it gives {said}, {} bytes long",
                end - 1,
                reply.length().unwrap_or_default()
            )));
        }
        Ok(())
    }

    fn no_range(&self, reply: &mut Reply, name: &str, wanted: (u64, u64)) -> Failed {
        match reply.status {
            416 => {
                let said = reply.header("content-range").unwrap_or_default();
                let total = said.rsplit_once('/').and_then(|(_, total)| total.parse().ok());
                self.cut_off(name, wanted, total).into()
            }
            200 => self
                .other(format!(
                    "it gives no part of {name}, only the whole\nhint: the server must know Range requests (RFC 9110)"
                ))
                .into(),
            _ => self.refusal(reply, name),
        }
    }

    pub(super) fn cut_off(
        &self,
        name: &str,
        (offset, len): (u64, u64),
        size: Option<u64>,
    ) -> StoreError {
        let has = size.map_or_else(|| "fewer".to_owned(), |size| size.to_string());
        self.other(format!(
            "{name} is cut off: {len} bytes from {offset} were asked for, it has {has} bytes"
        ))
    }
}

/// Reads until `bytes` is full.
fn fill(from: &mut dyn Read, bytes: &mut [u8]) -> Taken {
    let mut got = 0;
    while got < bytes.len() {
        match from.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (got as u64, Some(error)),
        }
    }
    (got as u64, None)
}

/// First, last and total of `bytes 0-9/100`; the total may be `*`.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_three_numbers() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in ["", "bytes */100", "bytes 0-9", "items 0-9/100", "bytes 9/100"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
