//! Carrying what changed into fstab(5), and changed identities into other text files.

use crate::probe::fstab::{Entry, parse};

/// `text` with `nofail` for the filesystems that a system would wait for and that are `gone`. None
/// where nothing changes.
pub fn with_nofail(text: &str, gone: impl Fn(&Entry) -> bool) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let entry = parse(line.as_bytes()).pop();
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
