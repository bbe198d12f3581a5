//! What is in a tree of files, as sorted text: the independent witness of a recovery.
//!
//! It shares no code with rr's archive, on purpose: what both got wrong in the same way would not
//! be seen. One line an inode name: type, mode, owner, modification time to the nanosecond, size,
//! BLAKE3 of the content, the map of holes, the first name of a hard-link group, device numbers,
//! the target of a symbolic link, extended attributes (ACLs and capabilities are such) and inode
//! flags. Every directory given is walked without leaving its filesystem.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::{Whence, lseek};
use rustix::fs::IFlags;

/// The flags that an administrator sets; all others are the filesystem's own business.
const FLAGS: IFlags = IFlags::APPEND
    .union(IFlags::COMPRESSED)
    .union(IFlags::DIRSYNC)
    .union(IFlags::IMMUTABLE)
    .union(IFlags::JOURNALING)
    .union(IFlags::NOATIME)
    .union(IFlags::NOCOW)
    .union(IFlags::NODUMP)
    .union(IFlags::NOTAIL)
    .union(IFlags::PROJECT_INHERIT)
    .union(IFlags::SYNC)
    .union(IFlags::TOPDIR);

/// Prints the lines of `root` and of the mount points below it (`/home`) that follow.
pub fn print(args: &[OsString]) -> Result<()> {
    let (root, points) = args.split_first().context("treecheck needs a directory")?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in walk(Path::new(root), points)? {
        out.write_all(&line)?;
        out.write_all(b"\n")?;
    }
    out.flush().context("writing the lines")
}

/// The lines of all names below `root` on its own filesystem and on those mounted at `points`.
pub fn walk(root: &Path, points: &[OsString]) -> Result<Vec<Vec<u8>>> {
    let mut walk = Walk { root: root.to_owned(), ..Walk::default() };
    for point in [OsString::from("/")].iter().chain(points) {
        let relative = Path::new(point).strip_prefix("/").unwrap_or(Path::new(point));
        let top = root.join(relative);
        let device = metadata(&top)?.dev();
        walk.visit(&top, device)?;
    }
    let mut lines = walk.lines;
    lines.sort();
    lines.dedup();
    Ok(lines)
}

#[derive(Debug, Default)]
struct Walk {
    root: PathBuf,
    lines: Vec<Vec<u8>>,
    /// Device and inode of what has several names, and the first of them.
    links: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Walk {
    fn visit(&mut self, path: &Path, device: u64) -> Result<()> {
        let meta = metadata(path)?;
        if meta.dev() != device {
            // A mount point: it is another filesystem's top that is seen here.
            return Ok(());
        }
        let line = self.line(path, &meta).with_context(|| format!("reading {}", path.display()))?;
        self.lines.push(line);
        if meta.is_dir() {
            let mut names = Vec::new();
            for entry in
                std::fs::read_dir(path).with_context(|| format!("listing {}", path.display()))?
            {
                names.push(entry?.file_name());
            }
            names.sort();
            for name in names {
                self.visit(&path.join(name), device)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, meta: &Metadata) -> Result<Vec<u8>> {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        let mut name = b"/".to_vec();
        name.extend(escape(relative.as_os_str()));
        let mut line = name.clone();
        let mut say = |text: String| {
            line.push(b'\t');
            line.extend(text.into_bytes());
        };
        let kind = meta.file_type();
        say(format!("mode={:o}", meta.mode()));
        say(format!("owner={}:{}", meta.uid(), meta.gid()));
        say(format!("mtime={}.{:09}", meta.mtime(), meta.mtime_nsec()));
        if !kind.is_dir() && meta.nlink() > 1 {
            let first = self.links.entry((meta.dev(), meta.ino())).or_insert(name);
            say(format!("links={}:{}", meta.nlink(), String::from_utf8_lossy(first)));
        }
        if kind.is_file() {
            let file = File::open(path)?;
            say(format!("size={}", meta.size()));
            say(format!("hash={}", hash(&file)?));
            say(format!("data={}", data_map(&file, meta.size())?));
        } else if kind.is_symlink() {
            let target = std::fs::read_link(path)?;
            say(format!("target={}", String::from_utf8_lossy(&escape(target.as_os_str()))));
        } else if kind.is_char_device() || kind.is_block_device() {
            say(format!("device={:#x}", meta.rdev()));
        }
        for attribute in attributes(path)? {
            say(attribute);
        }
        if kind.is_file() || kind.is_dir() {
            // Some filesystems (vfat) have no flags.
            if let Ok(flags) = rustix::fs::ioctl_getflags(File::open(path)?) {
                say(format!("flags={:#x}", (flags & FLAGS).bits()));
            }
        }
        Ok(line)
    }
}

fn metadata(path: &Path) -> Result<Metadata> {
    path.symlink_metadata().with_context(|| format!("looking at {}", path.display()))
}

fn hash(mut file: &File) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..count]);
    }
}

/// `all`, or the extents that hold data.
fn data_map(file: &File, size: u64) -> Result<String> {
    let size = i64::try_from(size)?;
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno).context("seeking data"),
        };
        at = lseek(file, start, Whence::SeekHole).context("seeking a hole")?.min(size);
        extents.push(format!("{start}-{at}"));
    }
    let all = size == 0 || extents == [format!("0-{size}")];
    Ok(if all { "all".to_owned() } else { format!("[{}]", extents.join(",")) })
}

fn attributes(path: &Path) -> Result<Vec<String>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error).context("listing extended attributes"),
    };
    let mut all = Vec::new();
    for name in names {
        let value = xattr::get(path, &name)?.unwrap_or_default();
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        all.push(format!("xattr:{}={hex}", String::from_utf8_lossy(&escape(&name))));
    }
    all.sort();
    Ok(all)
}

/// A name as printable ASCII without spaces and tabs.
fn escape(name: &OsStr) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in name.as_bytes() {
        if byte.is_ascii_graphic() && byte != b'\\' {
            text.push(byte);
        } else {
            text.extend(format!("\\{byte:03o}").into_bytes());
        }
    }
    OsString::from_vec(text).into_vec()
}
