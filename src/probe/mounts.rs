//! What is mounted, and what of it is on this machine's disks.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::Result;

pub use crate::sys::mount::MountInfo;
use crate::sys::mount::{IN_MEMORY, unescape_octal, visible_mounts};

/// Besides those that live in [memory](IN_MEMORY): what the kernel knows, other filesystems in another
/// form, media that are only read. Nothing of them is on a disk of the node.
const VIRTUAL: &[&str] = &[
    "binfmt_misc",
    "fusectl",
    "nfsd",
    "none",
    "nsfs",
    "overlay",
    "rpc_pipefs",
    "selinuxfs",
    "squashfs",
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
        let is_of_device = self.source.starts_with("/dev");
        (is_of_device || !is_fuse(&self.kind)) && is_local_kind(&self.kind)
    }

    /// Asking it anything may hang for ever, or mount something.
    pub fn is_far(&self) -> bool {
        let is_of_device = self.source.starts_with("/dev");
        REMOTE.contains(&self.kind.as_str())
            || self.is_waiting()
            || (!is_of_device && is_fuse(&self.kind))
    }

    /// Nothing is mounted there until somebody looks.
    pub fn is_waiting(&self) -> bool {
        self.kind == "autofs"
    }

    /// It is in memory, or something else in another form: of a container, of a live system.
    pub fn is_made_up(&self) -> bool {
        IN_MEMORY.contains(&self.kind.as_str()) || VIRTUAL.contains(&self.kind.as_str())
    }
}

fn is_fuse(kind: &str) -> bool {
    kind == "fuse" || kind.starts_with("fuse.")
}

fn is_local_kind(kind: &str) -> bool {
    ![IN_MEMORY, VIRTUAL, REMOTE].iter().any(|kinds| kinds.contains(&kind))
}

/// The mounts of this process's namespace that can be seen. A filesystem that is hidden by another is
/// as good as not mounted: its files can't be read.
pub fn read() -> Result<Vec<MountInfo>> {
    visible_mounts()
}

/// A line of fstab(5), its escapes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FstabEntry {
    pub spec: String,
    pub path: PathBuf,
    /// Several are tried in turn: `udf,iso9660`.
    pub kind: String,
    pub options: Vec<String>,
}

impl FstabEntry {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|own| own == option)
    }

    /// It is mounted when somebody looks there, and may be unmounted again when nobody does.
    pub fn is_on_demand(&self) -> bool {
        self.has("x-systemd.automount")
    }

    /// It is mounted when the system starts, or when somebody looks there.
    pub fn is_expected(&self) -> bool {
        self.is_on_demand() || !self.has("noauto")
    }

    /// The system starts without its device, and complains of nothing.
    pub fn may_be_absent(&self) -> bool {
        self.has("nofail") || self.is_on_demand()
    }

    /// Neither swap space nor in memory: there are files to be missed where it is not mounted.
    pub fn has_files(&self) -> bool {
        self.path.is_absolute()
            && self.kind != "swap"
            && self.kinds().any(|kind| !IN_MEMORY.contains(&kind))
    }

    /// It has files of its own on a disk of this machine. What is bound to a place, or an image in a
    /// file, is in the filesystem that it is of.
    pub fn is_local(&self) -> bool {
        let tags = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="];
        let on_device = self.spec.starts_with("/dev/")
            || tags.iter().any(|tag| self.spec.starts_with(tag))
            || self.kind == "zfs";
        let is_bound = self.has("bind") || self.has("rbind");
        self.has_files() && on_device && !is_bound && self.kinds().any(is_local_kind)
    }

    fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kind.split(',')
    }
}

/// The lines of fstab(5).
pub fn parse_fstab(text: &[u8]) -> Vec<FstabEntry> {
    let mut entries = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (Some(spec), Some(path), kind, options) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if spec.starts_with(b"#") {
            continue;
        }
        let text = |field: &[u8]| String::from_utf8_lossy(&unescape_octal(field)).into_owned();
        let path = PathBuf::from(OsString::from_vec(unescape_octal(path)));
        entries.push(FstabEntry {
            spec: text(spec),
            path: path.components().collect(),
            kind: text(kind.unwrap_or(b"auto")),
            options: text(options.unwrap_or_default()).split(',').map(str::to_owned).collect(),
        });
    }
    entries
}

/// Where fstab(5) has something mounted when the system starts, or when somebody looks there.
pub fn of_fstab(text: &[u8]) -> Vec<PathBuf> {
    let entries = parse_fstab(text).into_iter().filter(FstabEntry::is_expected);
    entries.map(|entry| entry.path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_at_the_start_is_in_fstab() {
        let fstab = b"# /mnt/x\nUUID=1 / ext4\nLABEL=d\t/mnt/a\\040b/  ext4 noatime 0 2\n\
                      /dev/sr0 /media/cdrom udf user,noauto 0 0\n\n\
                      LABEL=e /mnt/e ext4 noauto,x-systemd.automount\n";
        assert_eq!(of_fstab(fstab), ["/", "/mnt/a b", "/mnt/e"].map(PathBuf::from));
    }
}
