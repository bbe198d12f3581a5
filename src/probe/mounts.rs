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
        let fuse_without_disk = (self.kind == "fuse" || self.kind.starts_with("fuse."))
            && !self.source.starts_with("/dev");
        let is_one_of = |kinds: &[&str]| kinds.contains(&self.kind.as_str());
        !is_one_of(IN_MEMORY) && !is_one_of(VIRTUAL) && !is_one_of(REMOTE) && !fuse_without_disk
    }
}

/// The mounts of this process's namespace that can be seen. A filesystem that is hidden by another is
/// as good as not mounted: its files can't be read.
pub fn read() -> Result<Vec<MountInfo>> {
    visible_mounts()
}

/// Where fstab(5) has something mounted when the system starts, or when somebody looks there.
pub fn of_fstab(text: &[u8]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (Some(spec), Some(path), _, options) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mut options = options.unwrap_or_default().split(|byte| *byte == b',');
        let on_demand = options.clone().any(|option| option == b"x-systemd.automount");
        let at_start = options.all(|option| option != b"noauto");
        if !spec.starts_with(b"#") && (at_start || on_demand) {
            let path = OsString::from_vec(unescape_octal(path));
            paths.push(PathBuf::from(path).components().collect());
        }
    }
    paths
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
