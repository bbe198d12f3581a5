//! The initial RAM disk: the tree as a compressed cpio archive of the `newc` format, see the
//! kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! The last file is `/etc/rr/files.b3` with the BLAKE3 of all others: a kernel unpacks what it can
//! of a damaged archive and boots with the rest, so the rescue system checks itself.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::tree::{Node, Tree};

/// Where the hashes are, relative to the root.
pub const HASHES: &str = "etc/rr/files.b3";

/// Measured with an image of 102 MiB on two cores: level 3 makes 32.7 MiB in 0.4 s, 6 30.2 in 1.0, 9
/// 29.2 in 1.9, 12 29.0 in 3.7. Images are built on slow nodes, and read from slow virtual CDs.
const ZSTD_LEVEL: i32 = 6;
const GZIP_LEVEL: u32 = 4;
/// A dictionary of 8 MiB, which the kernel has room for everywhere. Measured with 61 MiB of a node's
/// own: 16.6 MiB for 50 s of CPU time.
const XZ_PRESET: u32 = 6;

/// What the kernel that boots can unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Smaller than the others and slow to make.
    Xz,
    Zstd,
    Gzip,
}

/// Writes the initrd for `tree` to `path`.
pub fn write(tree: &Tree, path: &Path, compression: Compression) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    let out = BufWriter::with_capacity(1 << 20, file);
    match compression {
        Compression::Xz => {
            let encoder = write_cpio(tree, liblzma::write::XzEncoder::new_stream(out, xz()?))?;
            finish(encoder.finish().context("compressing the initrd")?)
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL).context("starting zstd")?;
            encoder.multithread(threads()).context("starting zstd's threads")?;
            encoder.include_checksum(true).context("setting up zstd")?;
            let encoder = write_cpio(tree, encoder)?;
            finish(encoder.finish().context("compressing the initrd")?)
        }
        Compression::Gzip => {
            let level = flate2::Compression::new(GZIP_LEVEL);
            let encoder = write_cpio(tree, flate2::write::GzEncoder::new(out, level))?;
            finish(encoder.finish().context("compressing the initrd")?)
        }
    }
    .with_context(|| format!("writing {}", path.display()))
}

/// As the kernel's decoder wants it, which knows no other check than CRC32.
fn xz() -> Result<liblzma::stream::Stream> {
    liblzma::stream::MtStreamBuilder::new()
        .preset(XZ_PRESET)
        .check(liblzma::stream::Check::Crc32)
        .threads(threads().min(xz_threads()))
        .encoder()
        .context("starting xz")
}

/// Each takes some 150 MiB at this preset; together no more than a quarter of what is free.
fn xz_threads() -> u32 {
    const THREAD_KIB: u64 = 150 << 10;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = free.and_then(|free| free.split_whitespace().next()?.parse::<u64>().ok());
    u32::try_from(free.unwrap_or(0) / 4 / THREAD_KIB).unwrap_or(u32::MAX).max(1)
}

fn threads() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(threads).unwrap_or(1)
}

fn finish(mut out: BufWriter<File>) -> Result<()> {
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(())
}

fn write_cpio<W: Write>(tree: &Tree, out: W) -> Result<W> {
    let mut cpio = Cpio { out, inode: 0 };
    let mut hashes = String::new();
    for (path, node) in tree.iter() {
        let hash = cpio
            .entry(path, node)
            .with_context(|| format!("adding {} to the initrd", path.display()))?;
        if let Some(hash) = hash {
            let name = crate::layout::mount::escape(path.as_os_str().as_bytes());
            writeln!(hashes, "{hash}  {name}").context("writing to memory")?;
        }
    }
    let list = Node::Text { bytes: hashes.into_bytes(), mode: 0o644 };
    cpio.entry(Path::new(HASHES), &list)?;
    cpio.end()
}

struct Cpio<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    /// Writes one entry; the hash of its content where it is a regular file.
    fn entry(&mut self, path: &Path, node: &Node) -> Result<Option<blake3::Hash>> {
        let name = path.as_os_str().as_bytes();
        match node {
            Node::Dir { mode } => self.header(name, libc::S_IFDIR | mode, 0, (0, 0))?,
            Node::CharDevice { major, minor, mode } => {
                self.header(name, libc::S_IFCHR | mode, 0, (*major, *minor))?;
            }
            Node::Symlink { to } => {
                self.header(name, libc::S_IFLNK | 0o777, to.as_bytes().len(), (0, 0))?;
                self.data(to.as_bytes())?;
            }
            Node::Text { bytes, mode } => {
                self.header(name, libc::S_IFREG | mode, bytes.len(), (0, 0))?;
                self.data(bytes)?;
                return Ok(Some(blake3::hash(bytes)));
            }
            Node::Copy { from, mode } => return self.copy(name, from, *mode).map(Some),
        }
        Ok(None)
    }

    fn copy(&mut self, name: &[u8], from: &PathBuf, mode: u32) -> Result<blake3::Hash> {
        let mut file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
        let size_bytes = usize::try_from(file.metadata()?.len())?;
        self.header(name, libc::S_IFREG | mode, size_bytes, (0, 0))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        let mut left = size_bytes;
        while left > 0 {
            let want = left.min(buffer.len());
            let got = file.read(&mut buffer[..want])?;
            if got == 0 {
                bail!("{} became shorter while it was read", from.display());
            }
            hasher.update(&buffer[..got]);
            self.out.write_all(&buffer[..got])?;
            left -= got;
        }
        self.pad(size_bytes)?;
        Ok(hasher.finalize())
    }

    fn header(&mut self, name: &[u8], mode: u32, size: usize, rdev: (u32, u32)) -> Result<()> {
        // Each entry has an inode number of its own, so that the kernel links nothing together.
        self.inode += 1;
        let links = if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        let size = u32::try_from(size).context("a file in an initrd is smaller than 4 GiB")?;
        ensure!(!name.contains(&0), "a name in an initrd holds no zero byte");
        let name_size = u32::try_from(name.len() + 1)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}").context("writing to memory")?;
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + name.len() + 1)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Headers and data start at multiples of four.
    fn pad(&mut self, written: usize) -> Result<()> {
        let zeros = written.next_multiple_of(4) - written;
        Ok(self.out.write_all(&[0; 3][..zeros])?)
    }

    fn end(mut self) -> Result<W> {
        self.inode = 0;
        self.header(b"TRAILER!!!", 0, 0, (0, 0))?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run::Cmd;

    fn sample(dir: &Path) -> Tree {
        let mut tree = Tree::new();
        std::fs::write(dir.join("copied"), vec![7; 300_001]).unwrap();
        tree.text("/etc/rr/a", 0o600, "abc");
        tree.text("/etc/na\nme", 0o644, "");
        tree.symlink("/bin", "usr/bin");
        tree.copy_as("/usr/bin/rr", &dir.join("copied"), 0o755);
        tree.char_device("/dev/null", 0o666, 1, 3);
        tree
    }

    #[test]
    fn gnu_cpio_and_bsdtar_agree_with_what_was_written() {
        if crate::sys::tools::find("bsdtar".as_ref()).is_none() {
            eprintln!("skipped: bsdtar is not installed (libarchive-tools)");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = sample(dir.path());
        for (name, compression) in
            [("x", Compression::Xz), ("z", Compression::Zstd), ("g", Compression::Gzip)]
        {
            let path = dir.path().join(name);
            write(&tree, &path, compression).unwrap();
            let out = dir.path().join(format!("{name}.d"));
            std::fs::create_dir(&out).unwrap();
            Cmd::new("bsdtar").arg("-xf").arg(&path).arg("-C").arg(&out).run().unwrap();
            assert_eq!(std::fs::read(out.join("usr/bin/rr")).unwrap(), vec![7; 300_001]);
            assert_eq!(std::fs::read_link(out.join("bin")).unwrap(), Path::new("usr/bin"));
            assert!(out.join("etc/na\nme").exists());
            let hashes = std::fs::read_to_string(out.join(HASHES)).unwrap();
            assert!(hashes.contains(&format!("{}  etc/rr/a\n", blake3::hash(b"abc"))), "{hashes}");
            assert!(hashes.contains("  etc/na\\x0ame\n"), "{hashes}");
        }
    }
}
