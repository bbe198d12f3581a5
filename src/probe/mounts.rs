//! What is mounted: `/proc/self/mountinfo`, see proc(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// A line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Device number of the filesystem: of its block device where it has one.
    pub device: (u32, u32),
    /// What of the filesystem is mounted.
    pub root: PathBuf,
    pub path: PathBuf,
    /// The options of the mount and of the superblock, each once.
    pub options: String,
    pub kind: String,
    pub source: PathBuf,
}

/// Filesystems that live in memory or show what the kernel knows: nothing of them is on a disk.
const VIRTUAL: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "none",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "iso9660",
    "udf",
    "hostfs",
];

/// Filesystems that live on another machine. Asking them anything may hang for ever.
const REMOTE: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "virtiofs",
];

impl MountInfo {
    /// It has files of its own on a disk of this machine, or may have.
    pub fn is_local(&self) -> bool {
        let fuse_without_disk = (self.kind == "fuse" || self.kind.starts_with("fuse."))
            && !self.source.starts_with("/dev");
        !VIRTUAL.contains(&self.kind.as_str())
            && !REMOTE.contains(&self.kind.as_str())
            && !fuse_without_disk
    }
}

/// The mounts of this process's namespace that can be seen: one that is hidden by a later mount on
/// the same path is left out.
pub fn read() -> Result<Vec<MountInfo>> {
    let text = std::fs::read("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    Ok(visible(parse(&text)))
}

fn visible(all: Vec<MountInfo>) -> Vec<MountInfo> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<MountInfo> =
        all.into_iter().rev().filter(|m| seen.insert(m.path.clone())).collect();
    kept.reverse();
    kept
}

/// Parses mountinfo; lines that are not understood are skipped.
pub fn parse(text: &[u8]) -> Vec<MountInfo> {
    text.split(|b| *b == b'\n').filter_map(parse_line).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAG...] - KIND SOURCE SUPER_OPTIONS`
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().skip(6).position(|f| *f == b"-")? + 6;
    let text = |field: &[u8]| String::from_utf8_lossy(&unescape_octal(field)).into_owned();
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescape_octal(field)));
    let (major, minor) = std::str::from_utf8(fields[2]).ok()?.split_once(':')?;
    let options = text(fields[5]);
    let super_options = text(fields.get(dash + 3)?);
    Some(MountInfo {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: path(fields[3]),
        path: path(fields[4]),
        options: join_options(&options, &super_options),
        kind: text(fields.get(dash + 1)?),
        source: path(fields.get(dash + 2)?),
    })
}

/// `ro` or `rw` is the mount's; of the superblock's options those are added that are new.
fn join_options(mount: &str, superblock: &str) -> String {
    let mut joined: Vec<&str> = mount.split(',').collect();
    for option in superblock.split(',') {
        if !matches!(option, "rw" | "ro") && !joined.contains(&option) {
            joined.push(option);
        }
    }
    joined.join(",")
}

/// The kernel writes blank, tab, newline and backslash as `\NNN`.
pub fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            out.push(code);
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}
