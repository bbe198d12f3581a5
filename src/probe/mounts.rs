//! What is mounted, and what of it is on this machine's disks.

use anyhow::Result;

pub use crate::sys::mount::MountInfo;
use crate::sys::mount::{IN_MEMORY, visible_mounts};

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

/// Filesystems of this kind have files of their own on a disk of this machine, or may have.
pub fn is_local_kind(kind: &str) -> bool {
    ![IN_MEMORY, VIRTUAL, REMOTE].iter().any(|kinds| kinds.contains(&kind))
}

/// The mounts of this process's namespace that can be seen. A filesystem that is hidden by another is
/// as good as not mounted: its files can't be read.
pub fn read() -> Result<Vec<MountInfo>> {
    visible_mounts()
}
