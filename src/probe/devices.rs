//! The block devices that are here now, by the names that fstab(5), boot loaders and kernels use
//! for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sys::run::Cmd;

/// What `blkid` says about one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub dev: PathBuf,
    /// `UUID`, `LABEL`, `PARTUUID`, `PARTLABEL`, `TYPE` ...
    pub tags: BTreeMap<String, String>,
}

/// All devices with something on them that libblkid knows, and all partitions.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    pub found: Vec<Found>,
    /// Where device nodes are: `/dev`.
    nodes: PathBuf,
}

impl Devices {
    pub fn read() -> Result<Devices> {
        Ok(Devices { found: parse(&export(&[])?), nodes: PathBuf::from("/dev") })
    }

    #[cfg(test)]
    pub fn new(blkid: &str, nodes: &Path) -> Devices {
        Devices { found: parse(blkid), nodes: nodes.to_owned() }
    }

    /// The device that has `tag` with this value. Letters of UUIDs count alike.
    pub fn by_tag(&self, tag: &str, value: &str) -> Option<&Path> {
        self.with(tag, value).next()
    }

    /// All devices that have `tag` with this value.
    pub fn with<'a>(&'a self, tag: &str, value: &str) -> impl Iterator<Item = &'a Path> {
        let same = move |found: &&Found| {
            found.tags.get(tag).is_some_and(|v| match tag {
                "LABEL" | "PARTLABEL" => v == value,
                _ => v.eq_ignore_ascii_case(value),
            })
        };
        self.found.iter().filter(same).map(|found| found.dev.as_path())
    }

    /// The device that `spec` means: `UUID=...` and its like as in fstab(5), or a path in `/dev`.
    pub fn resolve(&self, spec: &str) -> Option<PathBuf> {
        if let Some((tag, value)) = spec.split_once('=')
            && matches!(tag, "UUID" | "LABEL" | "PARTUUID" | "PARTLABEL")
        {
            return self.by_tag(tag, value.trim_matches('"')).map(Path::to_owned);
        }
        let rest = spec.strip_prefix("/dev/")?;
        let linked = [
            ("disk/by-uuid/", "UUID"),
            ("disk/by-label/", "LABEL"),
            ("disk/by-partuuid/", "PARTUUID"),
            ("disk/by-partlabel/", "PARTLABEL"),
        ];
        for (dir, tag) in linked {
            if let Some(name) = rest.strip_prefix(dir)
                && let Some(dev) = self.by_tag(tag, &unhex(name))
            {
                return Some(dev.to_owned());
            }
        }
        let node = self.nodes.join(rest);
        node.exists().then_some(node)
    }

    /// Whether `spec` means a device that is not there. What means none (`ZFS=rpool/ROOT`, `/dev/nfs`,
    /// `/dev/root`) is not to be judged.
    pub fn lacks(&self, spec: &str) -> bool {
        let device = spec.starts_with("/dev/") || spec.contains("UUID=") || spec.contains("LABEL=");
        device && !matches!(spec, "/dev/nfs" | "/dev/root") && self.resolve(spec).is_none()
    }
}

/// Asks about these devices, or about all.
fn export(devices: &[&Path]) -> Result<String> {
    // Without the cache file, and with names as they are: without -d, "Grün" is "GrM-CM-\<n".
    // Status 2 only means that nothing was found.
    let cmd = Cmd::new("blkid").args(["-d", "-c", "/dev/null", "-o", "export"]).args(devices);
    Ok(cmd.output()?.text())
}

/// Parses `blkid -d -o export`: one block of `KEY=value` lines a device, blank lines between.
fn parse(text: &str) -> Vec<Found> {
    let mut all = Vec::new();
    for block in text.split("\n\n") {
        let mut found = Found::default();
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
            if key == "DEVNAME" {
                found.dev = PathBuf::from(value);
            } else {
                found.tags.insert(key.to_owned(), value.to_owned());
            }
        }
        if !found.dev.as_os_str().is_empty() {
            all.push(found);
        }
    }
    all
}

/// Undoes udev's `\x20` in the names of links.
fn unhex(name: &str) -> String {
    crate::layout::mount::unescape(name)
        .map_or_else(|| name.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `blkid -d -c /dev/null -o export` of util-linux 2.38.
    const EXPORT: &str = "\
DEVNAME=/dev/vda1
PARTLABEL=bios boot
PARTUUID=0d2f3f5e-28f9-4a1b-8f1e-1f2a4c4a0001

DEVNAME=/dev/vda2
LABEL=EFI SYS
UUID=ABCD-1234
BLOCK_SIZE=512
TYPE=vfat
PARTLABEL=EFI System Partition
PARTUUID=0d2f3f5e-28f9-4a1b-8f1e-1f2a4c4a0002

DEVNAME=/dev/mapper/vg0-root
UUID=5f0d1e0c-77aa-4a3f-9d6e-0a7b2f6f0003
BLOCK_SIZE=4096
TYPE=ext4
";

    #[test]
    fn a_label_in_any_letters_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        for label in ["Gr\u{fc}n \u{2603}", "a \\b\"$", "M-x^A"] {
            Cmd::new("mke2fs").args(["-q", "-F", "-L", label]).arg(file.path()).run().unwrap();
            let devices = Devices::new(&export(&[file.path()]).unwrap(), Path::new("/none"));
            let found = devices.resolve(&format!("LABEL={label}"));
            assert_eq!(found.as_deref(), Some(file.path()), "{label}");
        }
    }

    #[test]
    fn devices_are_found_by_every_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vg0")).unwrap();
        std::fs::write(dir.path().join("vg0/root"), "").unwrap();
        let devices = Devices::new(EXPORT, dir.path());
        assert_eq!(devices.found.len(), 3);
        for (spec, dev) in [
            ("UUID=abcd-1234", "/dev/vda2"),
            ("UUID=\"ABCD-1234\"", "/dev/vda2"),
            ("LABEL=EFI SYS", "/dev/vda2"),
            ("PARTLABEL=bios boot", "/dev/vda1"),
            ("PARTUUID=0D2F3F5E-28F9-4A1B-8F1E-1F2A4C4A0001", "/dev/vda1"),
            ("/dev/disk/by-uuid/5f0d1e0c-77aa-4a3f-9d6e-0a7b2f6f0003", "/dev/mapper/vg0-root"),
            ("/dev/disk/by-label/EFI\\x20SYS", "/dev/vda2"),
        ] {
            assert_eq!(devices.resolve(spec).as_deref(), Some(Path::new(dev)), "{spec}");
        }
        assert_eq!(devices.resolve("/dev/vg0/root"), Some(dir.path().join("vg0/root")));
        for spec in ["UUID=none", "LABEL=efi sys", "/dev/vg0/swap", "tmpfs", "srv:/export"] {
            assert_eq!(devices.resolve(spec), None, "{spec}");
        }
    }
}
