//! `rr restore --from-tar`: restores what others wrote, an old backup of ReaR for example.
//!
//! ```text
//! source (file, gzip, zstd, xz) -> members (headers, pax, sparse maps) -> head -> place
//! ```
//!
//! Files are created as those of a generation are, by [`super::place`]: nothing is ever written
//! through a symbolic link, no path leaves the root, and what is in the way is replaced. Owners are
//! numbers; names count only in ACLs, where the files restored say who they are. As with GNU tar,
//! root gets devices and the suid bits that the archive tells of: an archive that is not trusted is
//! for a directory of its own, on a filesystem mounted `nodev,nosuid`.
//!
//! Of members with the same name the last one counts, with what waits until all files are there.
//! A hard link is made only to what this run has put there: the file that happens to have that name
//! may be another one.

pub mod head;
pub mod members;
mod names;
mod records;
mod source;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{Uid, ftruncate};

use super::dirs::check_way;
use super::entry::{Entry, Extra, Kind, shown};
use super::extract::Extracted;
use super::ground::{Brought, Ground, LOCKING};
use super::late::Late;
use super::pick::{Wanted, missing_above};
use super::place::{Placer, is_fatal, prepare_file, signed};
use super::warnings::Warnings;
use crate::ui::Ui;
use crate::ui::progress::{Progress, Unit};
use head::ForeignHead;
use members::{Member, Members};

const COPY_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Default)]
pub struct TarOptions {
    /// The archive; `-` is standard input.
    pub file: PathBuf,
    /// Where the files go, which must be there.
    pub root: PathBuf,
    /// The root was there before, and stays as it is unless `paths` name it.
    pub keep_root: bool,
    /// Only these and what is below them; none: all.
    pub paths: Vec<PathBuf>,
    /// Waits until the disks have everything, and fails where one did not take it.
    pub sync: bool,
}

/// Restores a tar archive below `options.root`.
///
/// # Errors
/// When the archive is damaged or ends too early (what was restored by then stays), or the
/// filesystem is full or fails. What can't be kept of a single file is a warning.
pub fn restore_tar(options: &TarOptions, ui: &Ui) -> Result<Extracted> {
    let source = source::open(&options.file)?;
    let progress = ui.progress("extracting", source.total_bytes, Unit::Bytes);
    let mut told = 0;
    let done = std::sync::Arc::clone(&source.done);
    let tick = |progress: &Progress| {
        let now = done.load(Ordering::Relaxed);
        progress.add(now - std::mem::replace(&mut told, now));
    };
    let warnings = Warnings::default();
    let wanted = Wanted::new(&options.paths);
    let above = missing_above(wanted.paths(), &options.root)?;
    check_way(&options.root, wanted.paths())?;
    let keeps_root = options.keep_root && options.paths.is_empty();
    let ground = Ground::new(&options.root, Brought::Members, keeps_root)?;
    let placer = Placer::new(&options.root, &ground, &warnings)
        .with_context(|| format!("opening {}", options.root.display()))?;
    let late = Late::new(options.root.clone());
    let (placed, counts) = Default::default();
    let restorer = Restorer {
        placer,
        warnings: &warnings,
        progress: &progress,
        wanted,
        above,
        late,
        placed,
        counts,
    };
    let extracted = restorer.restore(Members::new(source.reader), tick);
    let mut extracted = ground.leave(extracted, &warnings);
    if options.sync {
        extracted = extracted.and_then(|done| ground.sync(ui).map(|()| done));
    }
    drop(progress);
    let (entries, bytes) =
        extracted.with_context(|| format!("restoring {}", options.file.display()))?;
    let not_restored = warnings.failed();
    let warnings = warnings.into_vec();
    for warning in &warnings {
        ui.warn(warning);
    }
    Ok(Extracted { entries, bytes, warnings, not_restored })
}

/// The paths that something was put at, which is no directory. Only hashes: there may be millions.
#[derive(Default)]
struct Placed {
    hasher: RandomState,
    paths: HashSet<u64>,
}

impl Placed {
    fn set(&mut self, path: &[u8], is_there: bool) {
        let hash = self.hasher.hash_one(path);
        if is_there {
            self.paths.insert(hash);
        } else {
            self.paths.remove(&hash);
        }
    }

    fn has(&self, path: &[u8]) -> bool {
        self.paths.contains(&self.hasher.hash_one(path))
    }
}

struct Restorer<'a> {
    placer: Placer<'a>,
    warnings: &'a Warnings,
    progress: &'a Progress,
    wanted: Wanted,
    /// Directories above what is wanted that are not there yet.
    above: HashSet<Vec<u8>>,
    late: Late,
    placed: Placed,
    /// Entries, and bytes of data.
    counts: (u64, u64),
}

impl Restorer<'_> {
    fn restore<R: Read>(
        mut self,
        mut members: Members<R>,
        mut tick: impl FnMut(&Progress),
    ) -> Result<(u64, u64)> {
        if !Uid::effective().is_root() {
            self.warnings
                .add("owners, devices and system attributes are not restored: this is not root");
        }
        while let Some(mut member) = members.next()? {
            self.take(&mut member, &mut members)?;
            tick(self.progress);
        }
        if !members.ended_well {
            self.warnings.add("the archive has no end mark: it may be cut off");
        }
        // What was restored is known to be right only when the checksums at the end are read.
        if let Some(at) = members.drain()? {
            let from = at + 1;
            self.warnings.add(format!(
                "more follows the end of the archive, and is not restored (where it is another archive: tail -c +{from} FILE | rr restore --from-tar - --to DIR, FILE without compression)"
            ));
        }
        self.finish()
    }

    fn take<R: Read>(&mut self, member: &mut Member, members: &mut Members<R>) -> Result<()> {
        let head = match head::read(member) {
            Ok(head) => head,
            Err(error) => {
                let path = member.header.path_bytes();
                self.warnings.fail(&shown(&path), format!("{error:#}"));
                return Ok(());
            }
        };
        let entry = &head.entry;
        let above = entry.kind == Kind::Dir && self.above.contains(&entry.path);
        if !self.wanted.finds(&entry.path) && !above {
            return Ok(());
        }
        let path = entry.path.clone();
        self.progress.at(|| shown(&path));
        for what in &member.own.lost {
            self.warnings.lose(what, shown(&path));
        }
        let is_dir = entry.kind == Kind::Dir;
        let placed = self.place(head, members)?;
        if !is_dir {
            self.placed.set(&path, placed.is_ok());
        }
        match placed {
            Ok(()) => self.counts.0 += 1,
            Err(error) if is_fatal(&error) => bail!("extracting {}: {error}", shown(&path)),
            Err(error) => self.warnings.fail(&shown(&path), error),
        }
        Ok(())
    }

    /// The outer error is the archive's, the inner one the filesystem's.
    fn place<R: Read>(
        &mut self,
        head: ForeignHead,
        members: &mut Members<R>,
    ) -> Result<io::Result<()>> {
        let ForeignHead { entry, extra, named_acls } = head;
        let placed = match entry.kind {
            Kind::File => match self.placer.create_file(&entry.path) {
                Ok(file) => self.fill(&file, &entry, &extra, members)?,
                Err(error) => Err(error),
            },
            Kind::Dir if entry.path.is_empty() => Ok(()),
            Kind::Dir => self.placer.make_dir(&entry.path),
            Kind::HardLink => self.place_link(&entry),
            _ => self.placer.place_special(&entry, &extra),
        };
        if placed.is_err() {
            return Ok(placed);
        }
        let locks = extra.flags & LOCKING != 0;
        match entry.kind {
            Kind::Dir => self.late.add(entry, extra, named_acls)?,
            // The file has what its first name told.
            Kind::HardLink => self.late.forget(&entry.path),
            _ if locks || !named_acls.is_empty() => {
                let extra = Extra { flags: extra.flags & LOCKING, ..Extra::default() };
                self.late.add(entry, extra, named_acls)?;
            }
            _ => self.late.forget(&entry.path),
        }
        Ok(placed)
    }

    fn place_link(&mut self, entry: &Entry) -> io::Result<()> {
        if !self.placed.has(&entry.link) {
            let first = shown(&entry.link);
            let hint = match self.wanted.selects(&entry.link) {
                true => String::new(),
                false => format!("\nhint: name {first} as well"),
            };
            let why = format!("it is another name of {first}, which is not restored{hint}");
            return Err(io::Error::other(why));
        }
        self.placer.place_link(&entry.link, &entry.path)
    }

    fn fill<R: Read>(
        &mut self,
        file: &File,
        entry: &Entry,
        extra: &Extra,
        members: &mut Members<R>,
    ) -> Result<io::Result<()>> {
        if let Err(error) = prepare_file(file, extra) {
            return Ok(Err(error));
        }
        if extra.sparse.is_some() {
            let made = signed(entry.size_bytes).and_then(|size| Ok(ftruncate(file, size)?));
            if let Err(error) = made {
                return Ok(Err(error));
            }
        }
        let mut buffer = vec![0; COPY_BYTES];
        for (start, len) in extra.data_ranges(entry.size_bytes) {
            let (mut at, end) = (start, start + len);
            while at < end {
                let most = usize::try_from(end - at).map_or(COPY_BYTES, |n| n.min(COPY_BYTES));
                let got = members
                    .read_data(&mut buffer[..most])
                    .with_context(|| format!("reading the data of {}", entry.shown()))?;
                if let Err(error) = file.write_all_at(&buffer[..got], at) {
                    return Ok(Err(error));
                }
                at += got as u64;
                self.counts.1 += got as u64;
            }
        }
        Ok(self.placer.finish_file(file, entry, extra))
    }

    /// ACLs with names, directories (the deepest first) and locks.
    fn finish(mut self) -> Result<(u64, u64)> {
        let late = self.late;
        let warnings = self.warnings;
        let told = |path: &[u8], result: io::Result<()>| match result {
            Err(error) if is_fatal(&error) => Err(anyhow!("finishing {}: {error}", shown(path))),
            Err(error) => {
                warnings.add(format!("{} is not restored in full: {error}", shown(path)));
                Ok(())
            }
            Ok(()) => Ok(()),
        };
        let names = late.has_acls.then(|| names::Names::read(self.placer.dirs()));
        late.for_each_deepest_first(|entry, mut extra, acls| {
            for (attribute, text) in acls {
                match names.as_ref().map_or(Err(String::new()), |names| names.acl(&text)) {
                    // With all else that it has: what is not among that is taken away.
                    Ok(binary) if entry.kind == Kind::Dir => extra.xattrs.push((attribute, binary)),
                    Ok(binary) => {
                        let set = self.placer.set_attribute(entry, &attribute, &binary);
                        told(&entry.path, set)?;
                    }
                    Err(why) => told(&entry.path, Err(io::Error::other(why)))?,
                }
            }
            let done = match entry.kind {
                Kind::Dir => self.placer.finish_dir(entry, &extra),
                _ if extra.flags != 0 => self.placer.lock(&entry.path, extra.flags),
                _ => Ok(()),
            };
            told(&entry.path, done)
        })?;
        if let Some(missing) = self.wanted.missing() {
            bail!("not in the archive: {missing}\nhint: tar -tf lists what is");
        }
        Ok(self.counts)
    }
}
