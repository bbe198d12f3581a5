//! Directories, locks and small helpers of the lab.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rr::sys::run::Cmd;

/// How long something may take that takes this many seconds at most on two idle cores, emulated:
/// `$RR_LAB_PATIENCE` times as long on a machine that is busy with other things.
pub fn seconds(count: u64) -> Duration {
    let patience = std::env::var("RR_LAB_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(count * patience.unwrap_or(1))
}

/// What is made once and used by every run: `$RR_LAB_CACHE` or `~/.cache/rr-lab`.
pub fn cache() -> Result<PathBuf> {
    let dir = match std::env::var_os("RR_LAB_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
            PathBuf::from(home).join(".cache/rr-lab")
        }
    };
    make_dir(&dir)?;
    Ok(dir)
}

/// Where a scenario leaves its logs and pictures: `target/vm/NAME`, emptied.
pub fn work_dir(name: &str) -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    make_dir(&dir)?;
    Ok(dir)
}

pub fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))
}

pub fn write(file: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

pub fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// Copies a file and leaves its holes.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    Cmd::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to).run()
}

/// A file full of nothing.
pub fn blank(file: &Path, size_mib: u64) -> Result<()> {
    let made = File::create(file).with_context(|| format!("creating {}", file.display()))?;
    made.set_len(size_mib << 20).with_context(|| format!("sizing {}", file.display()))
}

/// Some letters that are others when any of the recipe's texts is another.
pub fn key(recipe: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in recipe {
        hasher.update(text.as_bytes()).update(b"\0");
    }
    hasher.finalize().to_hex().as_str()[..12].to_owned()
}

/// The directory `kind/name-key` of the cache, filled by `make` when it is not there yet. Two runs
/// that want the same wait for each other.
pub fn cached(
    kind: &str,
    name: &str,
    key: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let parent = cache()?.join(kind);
    make_dir(&parent)?;
    let lock = File::create(parent.join(format!("{name}.lock"))).context("creating a lock")?;
    lock.lock().context("waiting for a lock of the lab's cache")?;
    let dir = parent.join(format!("{name}-{key}"));
    if !dir.exists() {
        let part = parent.join(format!("{name}-{key}.part"));
        if part.exists() {
            std::fs::remove_dir_all(&part)?;
        }
        make_dir(&part)?;
        make(&part).with_context(|| format!("making {}", dir.display()))?;
        std::fs::rename(&part, &dir)?;
    }
    Ok(dir)
}

/// Says what is done and how long it took: the timings of a scenario.
#[derive(Debug)]
pub struct Phases {
    name: String,
    began: Instant,
    lines: Vec<String>,
}

impl Phases {
    pub fn new(name: &str) -> Phases {
        Phases { name: name.to_owned(), began: Instant::now(), lines: Vec::new() }
    }

    pub fn run<T>(&mut self, what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = body().with_context(|| what.to_owned());
        let ended = if result.is_ok() { "" } else { "  FAILED" };
        self.note(&format!("{:6.1} s  {what}{ended}", began.elapsed().as_secs_f64()));
        result
    }

    pub fn note(&mut self, line: &str) {
        println!("[{}] {line}", self.name);
        self.lines.push(line.to_owned());
    }

    pub fn total(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}
