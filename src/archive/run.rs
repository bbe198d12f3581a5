//! Builds the bytes of chunks out of files, and the table of a run beside them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::codec::Id;
use super::dirs::Dirs;
use super::entry::{Entry, Extra, Kind, shown};
use super::pax::{self, padding};
use super::project::Projects;
use super::read::{self, Held, Item};
use super::table::{self, Row, TableWriter};
use super::warnings::Warnings;

/// A slice of a big file.
#[derive(Debug)]
pub struct Slice {
    pub file: Arc<Held>,
    pub entry: Arc<Entry>,
    /// Offset and length in the file.
    pub ranges: Vec<(u64, u64)>,
    /// How many zeros end the last slice.
    pub padding: usize,
    /// How many slices of the file are not read yet: they are read by many at once.
    pub left: Arc<AtomicUsize>,
}

/// A run whose files have big heads is cut after this.
const RUN_MAX_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
pub struct Built {
    pub plain: Vec<u8>,
    pub table: Vec<u8>,
    pub entries: u64,
    pub files: u64,
}

/// Reads the files of a run: all of them, unless their heads are so big that more than one chunk is
/// needed. One that is gone or can't be read is left out, with a warning.
pub fn build(
    items: &mut std::vec::IntoIter<Item>,
    dirs: &mut Dirs,
    warnings: &Warnings,
    plain: Vec<u8>,
) -> Built {
    let mut built = Built { plain, ..Built::default() };
    built.plain.clear();
    let (mut table, mut projects) = (TableWriter::default(), Projects::default());
    while built.plain.len() < RUN_MAX_BYTES
        && let Some(item) = items.next()
    {
        let start = built.plain.len();
        match append(&item, dirs, &mut projects, warnings, &mut built.plain) {
            Ok(row) => {
                built.entries += 1;
                built.files += u64::from(row.entry.kind == Kind::File);
                table.push(&row);
            }
            Err(error) => {
                built.plain.truncate(start);
                warn_not_archived(warnings, &item.entry, &error);
            }
        }
    }
    built.table = table.finish();
    built
}

pub fn warn_not_archived(warnings: &Warnings, entry: &Entry, error: &io::Error) {
    let path = entry.shown();
    if error.kind() == io::ErrorKind::NotFound {
        warnings.add(format!("{path} vanished before it was read"));
    } else {
        warnings.passed_by(&path, format!("{path} is not archived: {error}"), error);
    }
}

/// Appends an entry. The row's is forgotten when it is not, or not all of it, what the walk saw.
fn append(
    item: &Item,
    dirs: &mut Dirs,
    projects: &mut Projects,
    warnings: &Warnings,
    plain: &mut Vec<u8>,
) -> io::Result<Row> {
    let entry = &item.entry;
    let start = plain.len();
    let mut row =
        Row { entry: entry.clone(), head_bytes: 0, data_bytes: 0, slices: 0, head_hash: [0; 16] };
    if let Some(head) = &item.head {
        plain.extend_from_slice(&head.bytes);
        row.head_bytes = head.bytes.len() as u64;
        row.data_bytes = head.data_bytes + padding(head.data_bytes) as u64;
        row.slices = head.slices;
        row.head_hash = head_hash(&head.bytes);
        return Ok(row);
    }
    match entry.kind {
        Kind::File => append_file(item, dirs, projects, warnings, plain, &mut row)?,
        Kind::HardLink => {
            // What the file has besides is told by its first name.
            pax::append_head(plain, entry, &Extra::default());
        }
        Kind::Dir => {
            let dir = read::open(dirs, &entry.path)?;
            let mut extra = read::extra(&dir, &mut row.entry, 0, warnings)?;
            projects.add(&dir, &mut row.entry, &mut extra, (dirs, false), warnings);
            pax::append_head(plain, entry, &extra);
        }
        Kind::Symlink | Kind::Char | Kind::Block | Kind::Fifo => {
            let extra = extra_of_special(item, dirs, &mut row.entry, warnings)?;
            pax::append_head(plain, entry, &extra);
        }
    }
    if entry.kind != Kind::File {
        row.head_bytes = (plain.len() - start) as u64;
    }
    Ok(row)
}

fn append_file(
    item: &Item,
    dirs: &mut Dirs,
    projects: &mut Projects,
    warnings: &Warnings,
    plain: &mut Vec<u8>,
    row: &mut Row,
) -> io::Result<()> {
    let entry = &item.entry;
    let opened;
    let file = match &item.open {
        Some(held) => &held.file,
        None => {
            opened = read::open(dirs, &entry.path)?;
            &opened
        }
    };
    let start = plain.len();
    let mut extra = read::extra_of_file(file, &mut row.entry, item.blocks, warnings)?;
    projects.add(file, &mut row.entry, &mut extra, (dirs, item.has_links), warnings);
    pax::append_head(plain, entry, &extra);
    let data = plain.len();
    row.head_bytes = (data - start) as u64;
    for range in extra.data_ranges(entry.size_bytes) {
        if !read::append_data(file, || entry.shown(), range, plain, warnings)? {
            row.entry.forget();
        }
    }
    plain.resize(plain.len() + padding((plain.len() - data) as u64), 0);
    row.data_bytes = (plain.len() - data) as u64;
    if !read::check_unchanged(file, entry, warnings) {
        row.entry.forget();
    }
    Ok(())
}

/// What these are is known without them, so that those with other names need not be there any more.
fn extra_of_special(
    item: &Item,
    dirs: &mut Dirs,
    entry: &mut Entry,
    warnings: &Warnings,
) -> io::Result<Extra> {
    let read = dirs
        .at(&item.entry.path)
        .and_then(|(dir, name)| read::extra_of_special(dir, name, entry, warnings));
    match read {
        Err(error) if item.has_links => {
            let shown = entry.shown();
            warnings.add(format!("{shown} is archived without its attributes: {error}"));
            entry.forget();
            Ok(Extra::default())
        }
        read => read,
    }
}

/// The table of a run that ends with a big file whose data could not be read.
pub fn without_big(table: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rows = table::read(table)?;
    rows.last_mut().into_iter().for_each(|row| row.entry.forget());
    let mut table = TableWriter::default();
    rows.iter().for_each(|row| table.push(row));
    Ok(table.finish())
}

/// Reads a slice. False when no later backup may take it over.
pub fn build_slice(slice: &Slice, warnings: &Warnings, plain: &mut Vec<u8>) -> io::Result<bool> {
    plain.clear();
    let mut whole = true;
    for &(offset, len) in &slice.ranges {
        let name = || shown(&slice.entry.path);
        let read = slice.file.limit_bytes.saturating_sub(offset).min(len);
        whole &= read::append_data(&slice.file.file, name, (offset, read), plain, warnings)?;
        let zeros = usize::try_from(len - read).map_err(|_| io::ErrorKind::OutOfMemory)?;
        plain.resize(plain.len() + zeros, 0);
    }
    plain.resize(plain.len() + slice.padding, 0);
    // Only then nothing of it is read any more that could be of another moment.
    if slice.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        whole &= read::check_unchanged(&slice.file.file, &slice.entry, warnings);
    }
    Ok(whole)
}

/// What a head must be for the slices of an earlier backup to be the data behind it.
pub fn head_hash(head: &[u8]) -> [u8; 16] {
    let id: Id = *blake3::hash(head).as_bytes();
    id.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::entry::Time;
    use super::super::tar;
    use super::*;
    use crate::sys::fs;

    /// An item as the walk saw the file, before `size_bytes` was made something else.
    fn item(dirs: &mut Dirs, name: &[u8], size_bytes: u64) -> Item {
        let c_name = fs::c_name(name).unwrap();
        let stat = fs::stat_at(dirs.get(b"").unwrap(), &c_name).unwrap();
        let mut entry = Entry::new(name.to_vec(), Kind::File, &stat);
        entry.size_bytes = size_bytes;
        Item { entry, blocks: u64::MAX, open: None, has_links: false, head: None }
    }

    #[test]
    fn files_that_change_under_the_reader_leave_a_valid_stream() {
        let dir = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        for name in ["grew", "gone", "shrank\n", "steady"] {
            std::fs::write(dir.path().join(name), b"0123456789").unwrap();
        }
        let names: [(&[u8], u64); 4] =
            [(b"grew", 4), (b"gone", 10), (b"shrank\n", 1000), (b"steady", 10)];
        let items: Vec<_> = names.map(|(name, size)| item(&mut dirs, name, size)).into();
        std::fs::remove_file(dir.path().join("gone")).unwrap();
        let warnings = Warnings::default();
        let built = build(&mut items.into_iter(), &mut dirs, &warnings, Vec::new());
        assert_eq!((built.entries, built.files), (3, 3));

        let (mut at, mut found) = (0, Vec::new());
        while let Some(head) = tar::read_head(&built.plain, at).unwrap() {
            let len = usize::try_from(head.data_bytes).unwrap();
            found.push((head.entry.path.clone(), built.plain[head.data_at..][..len].to_vec()));
            at = head.next(&built.plain).unwrap();
        }
        let mut padded = b"0123456789".to_vec();
        padded.resize(1000, 0);
        let expected: [(&[u8], &[u8]); 3] =
            [(b"grew", b"0123"), (b"shrank\n", &padded), (b"steady", b"0123456789")];
        let expected = expected.map(|(path, data)| (path.to_vec(), data.to_vec()));
        assert_eq!(found, expected);
        let said = warnings.into_vec();
        assert_eq!(said[0], "/gone vanished before it was read");
        assert_eq!(said[1], "/grew grew while it was read: its new end is missing");
        assert!(said[2].starts_with("/shrank\\x0a "), "{said:?}");
        assert!(said.iter().all(|line| !line.contains("steady")), "{said:?}");
    }

    /// Workers read slices at once, and so in any order.
    #[test]
    fn a_change_is_seen_whichever_slice_is_read_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        std::fs::write(dir.path().join("file"), "0123456789").unwrap();
        let entry = Arc::new(item(&mut dirs, b"file", 10).entry);
        let file = Arc::new(Held::new(read::open(&mut dirs, b"file").unwrap(), None));
        let left = Arc::new(AtomicUsize::new(2));
        let slice = |at| {
            let (file, entry, left) = (Arc::clone(&file), Arc::clone(&entry), Arc::clone(&left));
            Slice { file, entry, ranges: vec![(at, 5)], padding: 0, left }
        };
        let (first, second) = (slice(0), slice(5));
        let warnings = Warnings::default();
        assert!(build_slice(&second, &warnings, &mut Vec::new()).unwrap());
        std::fs::write(dir.path().join("file"), "98765").unwrap();
        assert!(!build_slice(&first, &warnings, &mut Vec::new()).unwrap());
        assert_eq!(warnings.into_vec(), ["/file changed while it was read"]);
    }

    #[test]
    fn what_was_replaced_meanwhile_is_read_again_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        for side in ["was", "is"] {
            let dir = dir.path().join(side);
            std::fs::create_dir_all(dir.join("dir")).unwrap();
            std::fs::write(dir.join("file"), "0123456789").unwrap();
            std::os::unix::fs::symlink("target", dir.join("link")).unwrap();
            std::fs::write(dir.join("steady"), "0123456789").unwrap();
        }
        let see = |dirs: &mut Dirs, name: &[u8]| {
            let stat = dirs.stat(name).unwrap();
            let kind = Kind::of_mode(stat.mode).unwrap();
            let mut item = item(dirs, b"was", 0);
            item.entry = Entry::new(name.to_vec(), kind, &stat);
            item
        };
        let names: [&[u8]; 4] = [b"was/dir", b"was/file", b"was/link", b"was/steady"];
        let items: Vec<_> = names.map(|name| see(&mut dirs, name)).into();
        let mut slice = |last: &Item| Slice {
            file: Arc::new(Held::new(read::open(&mut dirs, b"is/file").unwrap(), None)),
            entry: Arc::new(last.entry.clone()),
            ranges: vec![(0, 10)],
            padding: 0,
            left: Arc::new(AtomicUsize::new(1)),
        };
        let (mut slice, warnings) = (slice(&items[1]), Warnings::default());
        assert!(!build_slice(&slice, &warnings, &mut Vec::new()).unwrap());
        slice.left = Arc::new(AtomicUsize::new(1));
        slice.file = Arc::new(Held::new(read::open(&mut dirs, b"was/file").unwrap(), None));
        assert!(build_slice(&slice, &warnings, &mut Vec::new()).unwrap());

        // As who swaps a directory does it: no file in it has a new ctime.
        let path = |name: &str| dir.path().join(name);
        std::fs::rename(path("was"), path("before")).unwrap();
        std::fs::rename(path("is"), path("was")).unwrap();
        std::fs::remove_file(path("was/steady")).unwrap();
        let mut dirs = Dirs::plain(dir.path()).unwrap();
        let held = read::open(&mut dirs, b"before/steady").unwrap();
        let mut items = items;
        items[3].open = Some(Arc::new(Held::new(held, None)));
        let built = build(&mut items.into_iter(), &mut dirs, &warnings, Vec::new());
        let rows = table::read(&built.table).unwrap();
        let forgotten: Vec<_> = rows.iter().map(|row| row.entry.is_forgotten()).collect();
        assert_eq!(forgotten, [true, true, true, false]);
    }

    #[test]
    fn what_can_not_be_read_is_read_again_the_next_time() {
        // No memory is mapped at its start, so the kernel says EIO.
        let mut dirs = Dirs::plain(std::path::Path::new("/proc/self")).unwrap();
        let items = vec![item(&mut dirs, b"mem", 1000), item(&mut dirs, b"comm", 1)];
        assert_ne!(items[0].entry.ctime, Time::default());
        let warnings = Warnings::default();
        let built = build(&mut items.into_iter(), &mut dirs, &warnings, Vec::new());
        let rows = table::read(&built.table).unwrap();
        assert_eq!(rows[0].entry.ctime, Time::default());
        assert_ne!(rows[1].entry.ctime, Time::default());
        let forgotten = table::read(&without_big(&built.table).unwrap()).unwrap();
        assert_eq!(forgotten[0], rows[0]);
        assert_eq!(forgotten[1].entry.ctime, Time::default());
        let said = warnings.into_vec();
        assert!(said[1].starts_with("/mem can't be read at byte 0, zeros stand there"), "{said:?}");
    }
}
