//! POSIX ACLs: the kernel's binary form (`system.posix_acl_*`) and the text in `SCHILY.acl.*`,
//! which is the one form that both GNU tar and bsdtar restore.

use std::fmt::Write;

/// The attribute and the pax keyword that stands for it.
pub const KEYS: [(&[u8], &str); 2] = [
    (b"system.posix_acl_access", "SCHILY.acl.access"),
    (b"system.posix_acl_default", "SCHILY.acl.default"),
];

const VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// Tag as in `linux/posix_acl.h`, its name, and whether it has an id.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// `user::rw-\nuser:1000:r--\n...`, or None for what is not an ACL of the known version.
pub fn to_text(binary: &[u8]) -> Option<String> {
    let (version, entries) = binary.split_first_chunk::<4>()?;
    let entries = entries.chunks_exact(8);
    if u32::from_le_bytes(*version) != VERSION || !entries.remainder().is_empty() {
        return None;
    }
    let mut text = String::new();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let perm = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (_, name, has_id) = TAGS.iter().find(|(t, ..)| *t == tag)?;
        if perm > 7 || (!has_id && id != NO_ID) {
            return None;
        }
        let id = if *has_id { id.to_string() } else { String::new() };
        let bit = |bit: u16, c: char| if perm & bit != 0 { c } else { '-' };
        let _ = writeln!(text, "{name}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
    }
    Some(text)
}

/// The inverse of [`to_text`]; ids must be numbers.
pub fn from_text(text: &str) -> Option<Vec<u8>> {
    from_text_with(text, |_, _| None)
}

/// As [`from_text`]. What is no number is looked up: whether it is a user's name, and the name.
pub fn from_text_with(
    text: &str,
    mut look_up: impl FnMut(bool, &str) -> Option<u32>,
) -> Option<Vec<u8>> {
    let mut entries = Vec::new();
    let lines = text.split('\n').map(|line| line.split('#').next().unwrap_or(line));
    for line in lines.flat_map(|line| line.split(',')).map(str::trim).filter(|l| !l.is_empty()) {
        let mut fields = line.split(':');
        let (name, id, perm) = (fields.next()?, fields.next()?, fields.next()?);
        // libarchive puts the number of a named id into a fourth field.
        let id = fields.next().unwrap_or(id);
        let (tag, ..) = TAGS.iter().find(|(_, n, has)| *n == name && *has != id.is_empty())?;
        let id = match id {
            "" => NO_ID,
            id => id.parse().ok().or_else(|| look_up(name == "user", id))?,
        };
        let mut bits = 0u16;
        for c in perm.chars() {
            bits |= match c {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                '-' => 0,
                _ => return None,
            };
        }
        entries.push((*tag, bits, id));
    }
    // libarchive tells named ids last; the kernel takes tags in their order only.
    entries.sort_by_key(|(tag, ..)| *tag);
    let mut binary = VERSION.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        binary.extend_from_slice(&tag.to_le_bytes());
        binary.extend_from_slice(&bits.to_le_bytes());
        binary.extend_from_slice(&id.to_le_bytes());
    }
    Some(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_survive_the_text_form() {
        let text =
            "user::rw-\nuser:1000:r--\ngroup::r--\ngroup:4294967294:rwx\nmask::rwx\nother::---\n";
        let binary = from_text(text).unwrap();
        assert_eq!(binary.len(), 4 + 6 * 8);
        assert_eq!(to_text(&binary).as_deref(), Some(text));
        assert_eq!(from_text("user:root:rwx:0,group::r-x").unwrap().len(), 20);
        for bad in [&binary[..9], b"", b"\x03\0\0\0"] {
            assert_eq!(to_text(bad), None);
        }
        assert_eq!(from_text("user:root:rwx"), None);
        let libarchive = from_text("user::rw-,group::r--,other::---,user:x:r--:7,mask::rwx");
        assert_eq!(libarchive, from_text("user::rw-,user:7:r--,group::r--,mask::rwx,other::---"));
        assert_eq!(from_text("mask::q"), None);
    }
}
