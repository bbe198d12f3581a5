//! The backup that an ISO carries: one generation, with all that it needs and nothing else, laid out as
//! at any target. xorriso(1) takes the files from where they are, so that they need room only once
//! more. When the image is written it is read back: where on it each file lies is said by xorriso, and
//! what lies there must be what the manifest says. An image that differs anywhere is not published.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::layout::units::size;
use crate::store::catalog::{self, FileRecord, Manifest};
use crate::store::iso::DIR;
use crate::sys::fs;
use crate::sys::run::Cmd;
use crate::ui::Ui;
use crate::ui::progress::Unit;

/// Larger files are not read by every BIOS, firmware and driver.
const LARGEST_BYTES: u64 = (2 << 30) - 1;
const SECTOR_BYTES: u64 = 2048;
/// For the boot loaders, and to leave to others.
const MORE_BYTES: u64 = 48 << 20;
/// For root only, also where the medium is mounted.
const MODES: [&str; 4] = ["-file-mode", "0400", "-dir-mode", "0500"];

#[derive(Debug)]
pub struct Carried {
    generation: String,
    /// Every object of it, besides `latest.json`.
    records: Vec<FileRecord>,
    node: String,
    /// Where the node's tree is.
    tree: PathBuf,
    /// Where the image is written to.
    pub iso: PathBuf,
}

impl Carried {
    /// The generation that `manifest` describes, whose objects are in `tree`.
    ///
    /// # Errors
    /// It can't be on an ISO.
    pub fn new(manifest: &Manifest, tree: PathBuf, iso: PathBuf) -> Result<Carried> {
        let own = catalog::render(manifest)?;
        let mut records = vec![FileRecord {
            name: catalog::object(&manifest.generation, "manifest.json"),
            size_bytes: own.len() as u64,
            blake3: blake3::hash(&own).to_string(),
        }];
        records.extend(manifest.file.iter().chain(&manifest.pack).cloned());
        if let Some(large) = records.iter().find(|record| record.size_bytes > LARGEST_BYTES) {
            bail!(
                "{} has {}, and no file on an ISO may have 2 GiB\nhint: another kind of target",
                large.name,
                size(large.size_bytes)
            );
        }
        if tree.as_os_str().as_bytes().contains(&b'\n') {
            bail!("{} has a line break in its name\nhint: another directory", tree.display());
        }
        let (generation, node) = (manifest.generation.clone(), manifest.node.clone());
        Ok(Carried { generation, records, node, tree, iso })
    }

    /// How much of the image it takes.
    fn bytes(&self) -> u64 {
        self.records.iter().map(|r| r.size_bytes.next_multiple_of(SECTOR_BYTES)).sum()
    }

    /// Refuses to begin where the image, with so much besides, would not fit.
    pub fn check_room(&self, besides_bytes: u64) -> Result<()> {
        let dir = self.iso.parent().context("an image without a directory")?;
        let free = fs::free_bytes(dir).with_context(|| format!("looking at {}", dir.display()))?;
        let needed = self.bytes() + besides_bytes + MORE_BYTES;
        ensure!(
            free >= needed,
            "the ISO with the backup needs {}, and {} has {} free\nhint: make room there (the ISO that is there stays until the new one is whole), keep fewer generations (rr prune --dry-run), or name another directory: target = \"iso:///directory\"",
            size(needed),
            dir.display(),
            size(free)
        );
        Ok(())
    }

    /// Puts what is not in the tree into the image's own files, which are below `stage`. Gives the
    /// options with which xorriso, as mkisofs, takes the rest; `list` is written for it.
    pub fn stage(&self, stage: &Path, list: &Path) -> Result<Vec<String>> {
        let dir = stage.join(DIR).join(&self.node);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let latest = dir.join("latest.json");
        let text = catalog::latest_json(&self.generation, std::slice::from_ref(&self.generation));
        std::fs::write(&latest, text).with_context(|| format!("writing {}", latest.display()))?;
        let mut lines = Vec::new();
        for record in &self.records {
            let target = format!("/{DIR}/{}/{}=", self.node, record.name);
            lines.extend_from_slice(target.as_bytes());
            for byte in self.tree.join(&record.name).as_os_str().as_bytes() {
                if b"=\\".contains(byte) {
                    lines.push(b'\\');
                }
                lines.push(*byte);
            }
            lines.push(b'\n');
        }
        std::fs::write(list, lines).with_context(|| format!("writing {}", list.display()))?;
        let mut options = vec!["-path-list".to_owned(), list.to_string_lossy().into_owned()];
        options.extend(MODES.map(str::to_owned));
        // Behind kernel and initrd: not every firmware reads what is far from the start.
        options.extend(["--sort-weight", "-1", &format!("/{DIR}")].map(str::to_owned));
        Ok(options)
    }

    /// Reads all of it back from the image, and from the disk that it is on.
    pub fn check(&self, ui: &Ui) -> Result<()> {
        let iso = &self.iso;
        let file = File::open(iso).with_context(|| format!("opening {}", iso.display()))?;
        file.sync_all().with_context(|| format!("writing {}", iso.display()))?;
        // Else memory would say what the disk should.
        if let Err(errno) = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
            log::debug!("forgetting {}: {errno}", iso.display());
        }
        let places = Cmd::new("xorriso").arg("-indev").arg(iso);
        let places = places.args(["-find", &format!("/{DIR}"), "-type", "f"]);
        let places = places.args(["-exec", "report_lba", "--"]).text()?;
        let places = places_of(&places, &format!("/{DIR}/{}/", self.node))?;
        ensure!(
            places.len() == self.records.len() + 1,
            "the ISO has {} files of the backup, and {} were put there",
            places.len(),
            self.records.len() + 1
        );
        let progress = ui.progress("read back", self.bytes(), Unit::Bytes);
        for record in &self.records {
            let place = places.get(record.name.as_str()).context("it is not there").copied();
            let found = place.and_then(|place| read(&file, place, |n| progress.add(n)));
            let same = found.and_then(|found| differs(record, found).map_or(Ok(()), Err));
            same.map_err(|error| anyhow!(
                "{} is not on the ISO as the backup has it: {error:#}\nhint: rr verify tells whether the backup itself is whole; if so, the disk with {} is not to be trusted",
                record.name,
                iso.display()
            ))?;
        }
        Ok(())
    }
}

/// Where a file is in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start_bytes: u64,
    size_bytes: u64,
}

/// What `report_lba` says of the files below `dir`, by their names there.
fn places_of<'a>(report: &'a str, dir: &str) -> Result<HashMap<&'a str, Place>> {
    let mut places = HashMap::new();
    for line in report.lines() {
        let Some(rest) = line.strip_prefix("File data lba:") else { continue };
        let place = || {
            let mut fields = rest.splitn(5, ',').map(str::trim);
            let mut number = || fields.next()?.parse::<u64>().ok();
            let (extent, start, _, size_bytes) = (number()?, number()?, number()?, number()?);
            let path = fields.next()?.strip_prefix('\'')?.strip_suffix('\'')?;
            Some((extent, path, Place { start_bytes: start * SECTOR_BYTES, size_bytes }))
        };
        let (extent, path, place) = place().with_context(|| format!("xorriso says {line:?}"))?;
        ensure!(extent == 0, "{path} is in several pieces on the ISO");
        if let Some(name) = path.strip_prefix(dir) {
            places.insert(name, place);
        }
    }
    Ok(places)
}

fn read(file: &File, place: Place, mut done: impl FnMut(u64)) -> Result<(u64, blake3::Hash)> {
    let mut buffer = vec![0; 1 << 20];
    let mut hasher = blake3::Hasher::new();
    let (mut at, end) = (place.start_bytes, place.start_bytes + place.size_bytes);
    while at < end {
        let part = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..part], at).context("reading it back")?;
        hasher.update(&buffer[..part]);
        at += part as u64;
        done(part as u64);
    }
    Ok((place.size_bytes, hasher.finalize()))
}

fn differs(record: &FileRecord, (size_bytes, hash): (u64, blake3::Hash)) -> Option<anyhow::Error> {
    if size_bytes != record.size_bytes {
        return Some(anyhow!("{size_bytes} bytes instead of {}", record.size_bytes));
    }
    (hash.to_hex().as_str() != record.blake3).then(|| anyhow!("its BLAKE3 is another"))
}
