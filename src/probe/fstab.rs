//! fstab(5): what a system mounts when it starts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::crypttab;
use super::mounts::is_local_kind;
use crate::sys::mount::{IN_MEMORY, unescape_octal};

/// One line of fstab(5), escapes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub spec: String,
    /// `none` for swap space.
    pub path: PathBuf,
    /// Several are tried in turn: `udf,iso9660`.
    pub kind: String,
    pub options: Vec<String>,
}

impl Entry {
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

    /// Whether a system that can't find the device waits for it and then stops: not for what is
    /// `noauto`, `nofail` or on the network, not for what is mounted when somebody looks at it, not
    /// for swap space, and not for what is made at boot.
    pub fn needed_at_boot(&self) -> bool {
        self.kind != "swap"
            && !self.spec.starts_with("/dev/zram")
            && self.is_expected()
            && !self.may_be_absent()
            && !self.has("_netdev")
    }

    /// Whether `spec` names a block device of this machine.
    pub fn on_a_device(&self) -> bool {
        let tags = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="];
        self.spec.starts_with("/dev/") || tags.iter().any(|tag| self.spec.starts_with(tag))
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
        let on_disk = self.on_a_device() || self.kind == "zfs";
        let is_bound = self.has("bind") || self.has("rbind");
        self.has_files() && on_disk && !is_bound && self.kinds().any(is_local_kind)
    }

    fn kinds(&self) -> impl Iterator<Item = &str> {
        self.kind.split(',')
    }
}

/// The entries, in order. Lines that are none (fewer than three fields) are left out, as mount(8)
/// does.
pub fn parse(text: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let fields: Vec<&[u8]> = fields.collect();
        let [spec, path, kind, rest @ ..] = fields.as_slice() else { continue };
        if spec.starts_with(b"#") {
            continue;
        }
        let text = |field: &[u8]| String::from_utf8_lossy(&unescape_octal(field)).into_owned();
        let options = text(rest.first().unwrap_or(&b"defaults".as_slice()));
        let path = PathBuf::from(OsString::from_vec(unescape_octal(path)));
        entries.push(Entry {
            spec: unquote(&text(spec)),
            path: path.components().collect(),
            kind: text(kind),
            options: options.split(',').map(str::to_owned).collect(),
        });
    }
    entries
}

/// As [`parse`], of this system.
pub fn read() -> Vec<Entry> {
    parse(&std::fs::read("/etc/fstab").unwrap_or_default())
}

/// Where something is mounted when the system starts, or when somebody looks there.
pub fn expected(entries: &[Entry]) -> impl Iterator<Item = &Path> {
    entries.iter().filter(|entry| entry.is_expected()).map(|entry| entry.path.as_path())
}

/// What a system waits for when it starts, and stops without: filesystems on devices, but for those
/// that crypttab(5) has made anew.
pub fn awaited(mut entries: Vec<Entry>, crypttab: &str) -> Vec<Entry> {
    let volatile = crypttab::parse(crypttab).into_iter().filter(crypttab::Entry::is_volatile);
    let made_at_boot: Vec<String> =
        volatile.map(|entry| format!("/dev/mapper/{}", entry.name)).collect();
    entries.retain(|entry| {
        entry.on_a_device() && entry.needed_at_boot() && !made_at_boot.contains(&entry.spec)
    });
    entries
}

/// `UUID="..."` without its quotes.
fn unquote(spec: &str) -> String {
    match spec.split_once('=') {
        Some((tag, value)) => format!("{tag}={}", value.trim_matches('"')),
        None => spec.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian 12's installer writes it for a UEFI machine with LVM, and lines that admins add.
    const DEBIAN: &str = r#"# /etc/fstab: static file system information.
#
# Use 'blkid' to print the universally unique identifier for a
# device; this may be used with UUID= as a more robust way to name devices
# that works even if disks are added and removed. See fstab(5).
#
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
/dev/mapper/vg0-root /               ext4    errors=remount-ro 0       1
# /boot was on /dev/sda2 during installation
UUID=0f3c6a1e-5b3c-4f58-8a5b-8d4e3b2f9c10 /boot           ext4    defaults        0       2
# /boot/efi was on /dev/sda1 during installation
UUID=E28E-5404  /boot/efi       vfat    umask=0077      0       1
/dev/mapper/vg0-swap none            swap    sw              0       0
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto     0       0
srv:/export /mnt nfs defaults 0 0
tmpfs /tmp tmpfs
broken line
"#;

    #[test]
    fn entries_are_read_as_mount_reads_them() {
        let entries = parse(DEBIAN.as_bytes());
        let seen: Vec<_> = entries
            .iter()
            .map(|e| {
                (e.spec.as_str(), e.path.to_str().unwrap(), e.on_a_device(), e.needed_at_boot())
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("/dev/mapper/vg0-root", "/", true, true),
                ("UUID=0f3c6a1e-5b3c-4f58-8a5b-8d4e3b2f9c10", "/boot", true, true),
                ("UUID=E28E-5404", "/boot/efi", true, true),
                ("/dev/mapper/vg0-swap", "none", true, false),
                ("/dev/sr0", "/media/cdrom0", true, false),
                ("srv:/export", "/mnt", false, true),
                ("tmpfs", "/tmp", false, true),
            ]
        );
        assert_eq!(entries[0].options, ["errors=remount-ro"]);
        let text = "UUID=1 /lun xfs _netdev\n/dev/zram0 /scratch ext4 defaults\n\
                    UUID=3 /a ext4 defaults,x-systemd.automount\nUUID=2 /x xfs x\n";
        let needed: Vec<_> = parse(text.as_bytes()).iter().map(Entry::needed_at_boot).collect();
        assert_eq!(needed, [false, false, false, true]);
    }

    #[test]
    fn a_quoted_label_and_octal_escapes_are_undone() {
        let entries = parse(b"LABEL=\"my\\040data\" /srv/my\\040data xfs noatime,nofail\n");
        assert_eq!(entries[0].spec, "LABEL=my data");
        assert_eq!(entries[0].path, Path::new("/srv/my data"));
        assert!(!entries[0].needed_at_boot());
    }

    #[test]
    fn what_is_made_at_boot_is_not_waited_for() {
        let fstab = "UUID=1 / ext4\n/dev/mapper/scratch /tmp ext4\n/dev/mapper/data /srv xfs\n\
                     UUID=2 /usb ext4 nofail\nsrv:/export /mnt nfs\n";
        let crypttab = "scratch /dev/sda2 /dev/urandom tmp\ndata /dev/sda3 none luks\n";
        let specs: Vec<_> =
            awaited(parse(fstab.as_bytes()), crypttab).into_iter().map(|e| e.spec).collect();
        assert_eq!(specs, ["UUID=1", "/dev/mapper/data"]);
    }

    #[test]
    fn what_is_mounted_at_the_start_is_expected() {
        let fstab = b"# /mnt/x\nUUID=1 / ext4\nLABEL=d\t/mnt/a\\040b/  ext4 noatime 0 2\n\
                      /dev/sr0 /media/cdrom udf user,noauto 0 0\n\n\
                      LABEL=e /mnt/e ext4 noauto,x-systemd.automount\n";
        let entries = parse(fstab);
        assert!(expected(&entries).eq(["/", "/mnt/a b", "/mnt/e"].map(Path::new)));
    }
}
