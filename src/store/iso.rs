//! A rescue ISO that holds the backup itself, as a directory.
//!
//! It is written to where it is made, an ordinary directory with the trees of the nodes: a generation
//! is published there as at any other target, and the ISO beside it then gets the newest one (see
//! [`crate::rescue::carried`]). It is read from there as well, from the image, or from the medium that
//! the image is on: a CD, a virtual drive of a management board, a stick. Those are mounted in a mount
//! namespace that ends at once, as a backup disk is ([`super::usb`]). The node's tree on them is in
//! [`DIR`], laid out as everywhere.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::{Access, StoreError};
use crate::config::Iso;
use crate::config::url::ISO_DIR;
use crate::sys::mount;
use crate::sys::run::Cmd;

/// Where the nodes' trees are on the medium.
pub const DIR: &str = "rr/backup";
pub const KIND: &str = "iso9660";
const OPTIONS: &str = "ro,nosuid,nodev,noexec";

/// ISO 9660: the primary volume descriptor is the sixteenth sector of 2048 bytes. From byte 40 it has
/// the volume identifier, from 190 that of the volume set.
const DESCRIPTOR_BYTES: u64 = 16 * 2048;
const VOLUME: std::ops::Range<usize> = 40..72;
const SET: std::ops::Range<usize> = 190..318;

/// A disk or drive with an ISO 9660 filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// The kernel's name of the device.
    pub name: String,
    pub volume: String,
    /// What tells this image from all others of its node.
    pub set: String,
}

impl Medium {
    pub fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// What is in this machine's drives, and on its disks as a whole. Not asked of blkid(8), which passes
/// by drives that it was not told of.
pub fn media() -> Result<Vec<Medium>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").context("listing the disks")? {
        let name = entry.context("listing the disks")?.file_name().to_string_lossy().into_owned();
        if ["loop", "ram", "zram", "dm-", "md", "fd"].iter().any(|kind| name.starts_with(kind)) {
            continue;
        }
        // A drive without a medium can't be opened.
        if let Some((volume, set)) = identifiers(&Path::new("/dev").join(&name)) {
            found.push(Medium { name, volume, set });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn identifiers(device: &Path) -> Option<(String, String)> {
    let mut file = std::fs::File::open(device).ok()?;
    file.seek(SeekFrom::Start(DESCRIPTOR_BYTES)).ok()?;
    let mut sector = [0; 2048];
    file.read_exact(&mut sector).ok()?;
    if &sector[..6] != b"\x01CD001" {
        return None;
    }
    let text = |field| String::from_utf8_lossy(&sector[field]).trim_end().to_owned();
    Some((text(VOLUME), text(SET)))
}

/// The one medium among these that has this volume identifier. With a `set`, only the one that is of
/// it: another image of the node may hold another backup.
pub fn choose<'a>(media: &'a [Medium], volume: &str, set: Option<&str>) -> Result<&'a Medium> {
    let named: Vec<&Medium> = media.iter().filter(|medium| medium.volume == volume).collect();
    let wanted: Vec<&&Medium> =
        named.iter().filter(|medium| set.is_none_or(|set| medium.set == set)).collect();
    let list = || named.iter().map(|m| m.device().display().to_string()).collect::<Vec<_>>();
    match (wanted.as_slice(), named.as_slice()) {
        ([medium], _) => Ok(medium),
        ([], []) => bail!(
            "no medium with the volume {volume} is here\nhint: insert or plug in the ISO with the backup; the image itself is read too: --target iso:///directory/rr-NODE.iso"
        ),
        ([], _) => bail!(
            "{} has the volume {volume}, and is not the ISO that this rescue system came with: its backup may be another one\nhint: insert the ISO that this was started from, or name that one: --target iso://{}",
            list().join(", "),
            list()[0]
        ),
        _ => bail!(
            "{} have the volume {volume}\nhint: take out all but one, or name one: --target iso://{}",
            list().join(", "),
            list()[0]
        ),
    }
}

/// What an `iso://` target is, here and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The directory that ISOs are made in.
    Dir(PathBuf),
    Image(PathBuf),
    Device(PathBuf),
}

impl Source {
    pub fn find(iso: &Iso, set: Option<&str>) -> Result<Source> {
        let path = match iso {
            Iso::Medium(volume) => {
                return Ok(Source::Device(choose(&media()?, volume, set)?.device()));
            }
            Iso::Path(path) => path,
        };
        match path.metadata() {
            Ok(meta) if meta.is_file() => Ok(Source::Image(path.clone())),
            Ok(meta) if meta.file_type().is_block_device() => {
                ensure!(identifiers(path).is_some(), "{} holds no ISO", path.display());
                Ok(Source::Device(path.clone()))
            }
            // It may come.
            Err(error) if path.starts_with("/dev") => {
                Err(error).with_context(|| format!("looking for {}", path.display()))
            }
            // What is wrong with it is said when it is opened.
            _ => Ok(Source::Dir(path.clone())),
        }
    }

    /// What mount(8) is called with for it; None for a directory.
    pub fn mount_args(&self) -> Option<Vec<OsString>> {
        let (path, options) = match self {
            Source::Dir(_) => return None,
            Source::Image(path) => (path, format!("{OPTIONS},loop")),
            Source::Device(path) => (path, OPTIONS.to_owned()),
        };
        let words = ["-t".into(), KIND.into(), "-o".into(), options.into(), path.into()];
        Some(words.into())
    }
}

/// Opens the directory with the nodes' trees.
pub fn open(iso: &Iso, access: Access) -> Result<OwnedFd> {
    let source = Source::find(iso, None)?;
    match (&source, source.mount_args()) {
        (Source::Dir(dir), _) => {
            if access == Access::Write && dir == Path::new(ISO_DIR) {
                let mut builder = std::fs::DirBuilder::new();
                let made = builder.recursive(true).mode(0o700).create(dir);
                made.with_context(|| format!("creating {}", dir.display()))?;
            }
            super::open_dir(dir)
        }
        (Source::Image(path) | Source::Device(path), _) if access != Access::Read => {
            Err(denied(&path.display().to_string()).into())
        }
        (Source::Image(path) | Source::Device(path), args) => {
            let point = Path::new(super::usb::MOUNT_POINT);
            let mount = || Cmd::new("mount").args(args.unwrap_or_default()).arg(point).run();
            mount::held(point, mount, |()| {
                let dir = point.join(DIR);
                ensure!(dir.is_dir(), no_backup(path));
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                Ok(nix::fcntl::open(&dir, flags, Mode::empty())?)
            })
        }
    }
}

/// What is said of an ISO that was made for another target.
pub fn no_backup(iso: &Path) -> String {
    format!(
        "{} holds no backup\nhint: rr --target iso:///directory mkbackup makes an ISO with the backup in it",
        iso.display()
    )
}

/// What is said when something is to be written to it.
pub fn denied(iso: &str) -> StoreError {
    let detail = "an ISO is made anew, and not written to\nhint: give the directory that it is made in: iso:///directory";
    StoreError::Denied { store: iso.to_owned(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_identifiers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut image = vec![0; 20 * 2048];
        std::fs::write(&path, &image).unwrap();
        assert_eq!(identifiers(&path), None);
        let descriptor = &mut image[16 * 2048..17 * 2048];
        descriptor[..6].copy_from_slice(b"\x01CD001");
        descriptor[VOLUME].copy_from_slice(b"RR_NODE001                      ");
        descriptor[SET].fill(b' ');
        descriptor[SET.start..SET.start + 2].copy_from_slice(b"A1");
        std::fs::write(&path, &image).unwrap();
        assert_eq!(identifiers(&path), Some(("RR_NODE001".to_owned(), "A1".to_owned())));
        std::fs::write(&path, "short").unwrap();
        assert_eq!(identifiers(&path), None);
    }

    #[test]
    fn only_the_medium_that_is_meant_is_taken() {
        let medium = |name: &str, volume: &str, set: &str| Medium {
            name: name.to_owned(),
            volume: volume.to_owned(),
            set: set.to_owned(),
        };
        let other = medium("sdb", "RR_NODE002", "A1");
        let old = medium("sdc", "RR_NODE001", "B2");
        let booted = medium("sr0", "RR_NODE001", "C3");
        let all = [other.clone(), old.clone(), booted.clone()];
        let said =
            |media: &[Medium], set| choose(media, "RR_NODE001", set).unwrap_err().to_string();
        assert_eq!(choose(&all, "RR_NODE001", Some("C3")).unwrap(), &booted);
        assert_eq!(choose(&all[..2], "RR_NODE001", None).unwrap(), &old);
        assert!(said(&all, None).starts_with("/dev/sdc, /dev/sr0 have the volume"));
        // The virtual drive that it was started from is not there yet.
        let text = said(&all[..2], Some("C3"));
        assert!(text.contains("not the ISO") && text.ends_with("iso:///dev/sdc"), "{text}");
        assert!(said(&[other], Some("C3")).starts_with("no medium"));
    }
}
