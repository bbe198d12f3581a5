//! What of a run has to wait until all files are there: hard links, locks, and the attributes of
//! directories.
//!
//! A backup may have millions of them, so they wait as bytes: each path, and what else is likely to
//! repeat, by how it differs from the one before.

use anyhow::Result;

use super::codec::{Reader, put_bytes, put_int, put_path, put_uint};
use super::entry::{Entry, Extra, Kind, Time};

/// Each part in the order in which it came.
#[derive(Debug, Default)]
pub struct Stash {
    links: Vec<u8>,
    locks: Vec<u8>,
    dirs: Vec<u8>,
}

/// Fills a stash.
#[derive(Debug, Default)]
pub struct StashWriter {
    stash: Stash,
    /// Of the links: the last first name, and the last other one.
    last_link: (Vec<u8>, Vec<u8>),
    last_lock: Vec<u8>,
    last_dir: Vec<u8>,
    last_time: i64,
    last_extra: Extra,
}

impl StashWriter {
    pub fn add_link(&mut self, first: &[u8], path: &[u8]) {
        put_path(&mut self.stash.links, first, &mut self.last_link.0);
        put_path(&mut self.stash.links, path, &mut self.last_link.1);
    }

    pub fn add_lock(&mut self, path: &[u8], flags: u32) {
        put_path(&mut self.stash.locks, path, &mut self.last_lock);
        put_uint(&mut self.stash.locks, flags.into());
    }

    pub fn add_dir(&mut self, entry: &Entry, extra: &Extra) {
        let out = &mut self.stash.dirs;
        put_path(out, &entry.path, &mut self.last_dir);
        for number in [entry.mode, entry.uid, entry.gid, entry.mtime.nsec] {
            put_uint(out, number.into());
        }
        put_int(out, entry.mtime.sec.wrapping_sub(self.last_time));
        self.last_time = entry.mtime.sec;
        let is_new = *extra != self.last_extra;
        out.push(u8::from(is_new));
        if is_new {
            put_uint(out, extra.flags.into());
            put_uint(out, extra.project.into());
            put_uint(out, extra.xattrs.len() as u64);
            for (name, value) in &extra.xattrs {
                put_bytes(out, name);
                put_bytes(out, value);
            }
            self.last_extra.clone_from(extra);
        }
    }

    /// None when there is nothing in it.
    pub fn finish(self) -> Option<Stash> {
        let Stash { mut links, mut locks, mut dirs } = self.stash;
        if links.is_empty() && locks.is_empty() && dirs.is_empty() {
            return None;
        }
        [&mut links, &mut locks, &mut dirs].into_iter().for_each(Vec::shrink_to_fit);
        Some(Stash { links, locks, dirs })
    }
}

impl Stash {
    /// The first name of each file, and another one.
    pub fn for_each_link(&self, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut reader = Reader(&self.links);
        let (mut first, mut path) = (Vec::new(), Vec::new());
        while !reader.0.is_empty() {
            (first, path) = (reader.path(&first)?, reader.path(&path)?);
            each(&first, &path)?;
        }
        Ok(())
    }

    pub fn for_each_lock(&self, mut each: impl FnMut(&[u8], u32) -> Result<()>) -> Result<()> {
        let mut reader = Reader(&self.locks);
        let mut path = Vec::new();
        while !reader.0.is_empty() {
            path = reader.path(&path)?;
            each(&path, reader.u32()?)?;
        }
        Ok(())
    }

    pub fn dirs(&self) -> Result<Vec<(Entry, Extra)>> {
        let mut reader = Reader(&self.dirs);
        let mut dirs: Vec<(Entry, Extra)> = Vec::new();
        while !reader.0.is_empty() {
            let dir = match dirs.last() {
                Some((entry, extra)) => {
                    read_dir(&mut reader, &entry.path, entry.mtime.sec, || extra.clone())
                }
                None => read_dir(&mut reader, b"", 0, Extra::default),
            };
            dirs.push(dir?);
        }
        Ok(dirs)
    }
}

fn read_dir(
    reader: &mut Reader<'_>,
    last_path: &[u8],
    last_time: i64,
    last_extra: impl Fn() -> Extra,
) -> Result<(Entry, Extra)> {
    let path = reader.path(last_path)?;
    let (mode, uid, gid, nsec) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let entry = Entry {
        path,
        kind: Kind::Dir,
        mode,
        uid,
        gid,
        mtime: Time { sec: last_time.wrapping_add(reader.int()?), nsec },
        size_bytes: 0,
        link: Vec::new(),
        rdev: (0, 0),
        ctime: Time::default(),
        ino: 0,
    };
    if reader.byte()? == 0 {
        return Ok((entry, last_extra()));
    }
    let mut extra = Extra { flags: reader.u32()?, project: reader.u32()?, ..Extra::default() };
    for _ in 0..reader.uint()? {
        extra.xattrs.push((reader.bytes()?.to_vec(), reader.bytes()?.to_vec()));
    }
    Ok((entry, extra))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str, sec: i64, flags: u32, xattrs: &[(&str, &str)]) -> (Entry, Extra) {
        let entry = Entry {
            path: path.into(),
            kind: Kind::Dir,
            mode: 0o1777,
            uid: u32::MAX,
            gid: 5,
            mtime: Time { sec, nsec: 999_999_999 },
            size_bytes: 0,
            link: Vec::new(),
            rdev: (0, 0),
            ctime: Time::default(),
            ino: 0,
        };
        let xattrs = xattrs.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        (entry, Extra { xattrs: xattrs.collect(), flags, project: flags, sparse: None })
    }

    #[test]
    fn what_waits_comes_out_as_it_went_in() {
        let label = [("security.selinux", "etc_t")];
        let dirs = [
            dir("", i64::MIN, 0, &[]),
            dir("a", i64::MAX, 0, &label),
            dir("a/b", 1, 0, &label),
            dir("a/b/\u{e9}", 1, 0x10, &[("user.a", ""), ("user.b", "\0")]),
            dir("b", 0, 0, &[]),
        ];
        let links: [(&[u8], &[u8]); 4] =
            [(b"a/b/x", b"b/x"), (b"a/b/x", b"b/xy"), (b"a/b/c/y", b"b/x\xff"), (b"a", b"a/x")];
        let locks: [(&[u8], u32); 2] = [(b"a/b", 0x30), (b"a", 0x10)];
        let mut writer = StashWriter::default();
        dirs.iter().for_each(|(entry, extra)| writer.add_dir(entry, extra));
        links.iter().for_each(|(first, path)| writer.add_link(first, path));
        locks.iter().for_each(|(path, flags)| writer.add_lock(path, *flags));
        let stash = writer.finish().unwrap();

        assert_eq!(stash.dirs().unwrap(), dirs);
        let mut found = Vec::new();
        let mut each = |a: &[u8], b: &[u8]| {
            found.push((a.to_vec(), b.to_vec()));
            Ok(())
        };
        stash.for_each_link(&mut each).unwrap();
        assert_eq!(found, links.map(|(first, path)| (first.to_vec(), path.to_vec())));
        let mut found = Vec::new();
        let mut each = |path: &[u8], flags| {
            found.push((path.to_vec(), flags));
            Ok(())
        };
        stash.for_each_lock(&mut each).unwrap();
        assert_eq!(found, locks.map(|(path, flags)| (path.to_vec(), flags)));
        assert!(StashWriter::default().finish().is_none());
    }

    /// A million of them must fit into the memory of a small node.
    #[test]
    fn what_waits_takes_little() {
        let mut writer = StashWriter::default();
        let before = "srv/backup/daily.0/var/lib/some/program/directory";
        let label = [("security.selinux", "system_u:object_r:var_lib_t:s0")];
        for n in 0..1000 {
            let path = format!("{before}/directory-{n:04}");
            let (entry, extra) = dir(&path, 1_700_000_000 + n, 0, &label);
            writer.add_dir(&entry, &extra);
            let path = format!("{path}/file-{n:04}");
            writer.add_link(path.as_bytes(), path.replace("y.0", "y.1").as_bytes());
        }
        let stash = writer.finish().unwrap();
        let each = (stash.dirs.len() / 1000, stash.links.len() / 1000);
        assert!(each.0 < 32 && each.1 < 50, "{each:?} bytes for each");
    }
}
