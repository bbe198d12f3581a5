//! fstab(5): what a system mounts when it starts.

use super::crypttab;
use crate::sys::mount::unescape_octal;

/// One line of fstab(5), escapes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub spec: String,
    pub file: String,
    pub kind: String,
    pub options: Vec<String>,
}

impl Entry {
    /// Whether a system that can't find the device waits for it and then stops: not for what is
    /// `noauto`, `nofail` or on the network, not for what is mounted when somebody looks at it, not
    /// for swap space, and not for what is made at boot.
    pub fn needed_at_boot(&self) -> bool {
        const OPTIONAL: &[&str] = &["noauto", "nofail", "_netdev", "x-systemd.automount"];
        self.kind != "swap"
            && !self.spec.starts_with("/dev/zram")
            && !self.options.iter().any(|option| OPTIONAL.contains(&option.as_str()))
    }

    /// Whether `spec` names a block device of this machine.
    pub fn on_a_device(&self) -> bool {
        self.spec.starts_with("/dev/")
            || ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="]
                .iter()
                .any(|tag| self.spec.starts_with(tag))
    }
}

/// The entries, in order. Lines that are none (fewer than three fields) are left out, as mount(8)
/// does.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [spec, file, kind, rest @ ..] = fields.as_slice() {
            let options = rest.first().unwrap_or(&"defaults");
            entries.push(Entry {
                spec: unquote(&unescape(spec)),
                file: unescape(file),
                kind: (*kind).to_owned(),
                options: options.split(',').map(str::to_owned).collect(),
            });
        }
    }
    entries
}

/// What a system waits for when it starts, and stops without: filesystems on devices, but for those
/// that crypttab(5) has made anew.
pub fn awaited(fstab: &str, crypttab: &str) -> Vec<Entry> {
    let volatile = crypttab::parse(crypttab).into_iter().filter(crypttab::Entry::is_volatile);
    let made_at_boot: Vec<String> =
        volatile.map(|entry| format!("/dev/mapper/{}", entry.name)).collect();
    let mut entries = parse(fstab);
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

/// Undoes `\040` and its like.
fn unescape(field: &str) -> String {
    String::from_utf8_lossy(&unescape_octal(field.as_bytes())).into_owned()
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
        let entries = parse(DEBIAN);
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.spec.as_str(), e.file.as_str(), e.on_a_device(), e.needed_at_boot()))
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
        let needed: Vec<_> = parse(text).iter().map(Entry::needed_at_boot).collect();
        assert_eq!(needed, [false, false, false, true]);
    }

    #[test]
    fn a_quoted_label_and_octal_escapes_are_undone() {
        let entries = parse("LABEL=\"my\\040data\" /srv/my\\040data xfs noatime,nofail\n");
        assert_eq!(entries[0].spec, "LABEL=my data");
        assert_eq!(entries[0].file, "/srv/my data");
        assert!(!entries[0].needed_at_boot());
    }

    #[test]
    fn what_is_made_at_boot_is_not_waited_for() {
        let fstab = "UUID=1 / ext4\n/dev/mapper/scratch /tmp ext4\n/dev/mapper/data /srv xfs\n\
                     UUID=2 /usb ext4 nofail\nsrv:/export /mnt nfs\n";
        let crypttab = "scratch /dev/sda2 /dev/urandom tmp\ndata /dev/sda3 none luks\n";
        let specs: Vec<_> = awaited(fstab, crypttab).into_iter().map(|e| e.spec).collect();
        assert_eq!(specs, ["UUID=1", "/dev/mapper/data"]);
    }
}
