//! fstab(5): reading it, and carrying changed identities into it and into other text files.

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

/// `text` with `nofail` for the filesystems that a system would wait for and that are `gone`. None
/// where nothing changes.
pub fn with_nofail(text: &str, gone: impl Fn(&Entry) -> bool) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let entry = parse(line).pop();
        if !entry.is_some_and(|entry| entry.needed_at_boot() && gone(&entry)) {
            out.push_str(line);
            continue;
        }
        let is_field = |field: &&str| !field.trim().is_empty();
        let fields: Vec<&str> = line.split_inclusive(|c: char| c.is_ascii_whitespace()).collect();
        let options = fields.iter().enumerate().filter(|(_, field)| is_field(field)).nth(3);
        let options = options.map_or(fields.len(), |(at, _)| at);
        for (at, field) in fields.iter().enumerate() {
            let word = field.trim_end();
            out.push_str(word);
            if at == options {
                out.push_str(",nofail");
            }
            out.push_str(&field[word.len()..]);
        }
        if options == fields.len() {
            let end = if out.ends_with('\n') { out.pop() } else { None };
            out.push_str(" nofail");
            out.extend(end);
        }
    }
    (out != text).then_some(out)
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

/// `text` with every whole word `old` replaced by its `new`, all at once, so that two names can
/// swap. None where nothing changes.
///
/// A word ends where a letter, digit, `-` or `_` ends: `/dev/sda1` is not in `/dev/sda10`.
/// Comments are left alone: they tell what was once.
pub fn replace_words(text: &str, changes: &[(String, String)]) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut changed = false;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('#') {
            out.push_str(line);
            continue;
        }
        let mut at = 0;
        while let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) {
            let hit = changes
                .iter()
                .filter(|(old, _)| !old.is_empty() && stands_at(line, at, old))
                .max_by_key(|(old, _)| old.len());
            if let Some((old, new)) = hit {
                out.push_str(new);
                changed |= old != new;
                at += old.len();
            } else {
                let c = rest.chars().next().unwrap_or_default();
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    changed.then_some(out)
}

/// Whether `word` stands at `at` with a border on both sides. UUIDs match in either case.
fn stands_at(line: &str, at: usize, word: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let Some(found) = line.get(at..at + word.len()) else { return false };
    let is_uuid = word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let same = if is_uuid { found.eq_ignore_ascii_case(word) } else { found == word };
    same && !line[at + word.len()..].starts_with(inside)
        && (!line[..at].ends_with(inside) || !word.starts_with(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_not_waited_for() {
        let text = "# /srv\nUUID=1 / ext4 defaults 0 1\nUUID=2\t/srv  ext4\tnoatime,acl\t0 2\n\
                    UUID=2 /mnt/srv ext4\nUUID=2 /net ext4 nofail 0 0\n";
        let new = with_nofail(text, |entry| entry.spec == "UUID=2").unwrap();
        assert_eq!(
            new,
            "# /srv\nUUID=1 / ext4 defaults 0 1\nUUID=2\t/srv  ext4\tnoatime,acl,nofail\t0 2\n\
             UUID=2 /mnt/srv ext4 nofail\nUUID=2 /net ext4 nofail 0 0\n"
        );
        assert_eq!(with_nofail(&new, |entry| entry.spec == "UUID=2"), None);
    }

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
    fn identities_change_as_whole_words_and_all_at_once() {
        let changes = [
            ("e28e-5404", "1111-2222"),
            ("/dev/sda1", "/dev/sdb1"),
            ("/dev/sdb1", "/dev/sda1"),
            ("vg0", "vg1"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()));
        let text = "UUID=E28E-5404 /efi\n# /dev/sda1 was here\n/dev/sda1 /dev/sda10 /dev/sdb1 xvg0 vg0 vg0-x\n";
        assert_eq!(
            replace_words(text, &changes).unwrap(),
            "UUID=1111-2222 /efi\n# /dev/sda1 was here\n/dev/sdb1 /dev/sda10 /dev/sda1 xvg0 vg1 vg0-x\n"
        );
        assert_eq!(replace_words("nothing ä here\n", &changes), None);
        assert_eq!(replace_words("ä vg0\n", &changes).unwrap(), "ä vg1\n");
    }
}
