//! Names of objects, and of the files that are not objects yet.
//!
//! An object is written as `<name>.<boot>-<pid>-<random>.part` beside its place and renamed once it
//! is durable. The tag says which process wrote it: `boot` is the start of the kernel's boot id, so
//! that a process number counts only on the machine, and in the boot, that gave it. In a container
//! the PID namespace is told behind it: one of the host, or of another container, that has the same
//! number is somebody else.

use super::owner::{self, Process};

/// Says whose the tree is. It is there before the first generation.
pub const OWNER: &str = "machine.json";
/// What ends the name of a file that is not an object yet.
const PART: &str = ".part";
/// Longest part of a name that every filesystem takes, less the tag of an unfinished file.
const LONGEST: usize = 255 - 40;

/// The inode of the PID namespace that the kernel starts with (PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether `name` can be the name of an object.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.split('/').all(is_part_of_name)
}

/// One part of a name: a directory, a node, the last part. Names that start with a dot are not
/// ours to give, and those that end in `.part` are unfinished objects.
pub fn is_part_of_name(part: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !part.is_empty()
        && part.len() <= LONGEST
        && !part.starts_with('.')
        && !part.ends_with(PART)
        && part.bytes().all(known)
}

/// Who writes an unfinished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    boot: String,
    pid: u32,
}

impl Tag {
    /// The tag of this process.
    pub fn own() -> Tag {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Tag { boot: boot_of(&boot, owner::pid_namespace()), pid: std::process::id() }
    }

    /// A new name to write the object `leaf` under.
    pub fn part_name(&self, leaf: &str) -> String {
        let random = uuid::Uuid::new_v4().simple().to_string();
        format!("{leaf}.{}-{}-{}{PART}", self.boot, self.pid, &random[..8])
    }

    /// The tag in the name of an unfinished file. None: it is none, or not one of ours.
    pub fn of_part(file: &str) -> Option<Tag> {
        let (_, tag) = file.strip_suffix(PART)?.rsplit_once('.')?;
        let mut fields = tag.split('-');
        let (boot, pid, random) = (fields.next()?, fields.next()?, fields.next()?);
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
        if fields.next().is_some() || !plain(boot) || random.len() != 8 || !plain(random) {
            return None;
        }
        Some(Tag { boot: boot.to_owned(), pid: pid.parse().ok()? })
    }

    /// Whether the process is known to run. One of another boot or machine is not.
    pub fn is_alive(&self) -> bool {
        self.boot == Tag::own().boot && Process::of(self.pid) != Process::Gone
    }
}

/// What tells one number of a process from the same one elsewhere.
fn boot_of(boot_id: &str, pid_ns: Option<u64>) -> String {
    let known: String = boot_id.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    match pid_ns {
        Some(inode) if inode != FIRST_PID_NAMESPACE => format!("{known}{inode:x}"),
        _ => known,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_can_not_leave_the_tree() {
        for good in ["a", "latest.json", "packs/20261121T013500Z-1-ab.tar.zst", "a/b-c/d_e"] {
            assert!(is_name(good), "{good}");
        }
        for bad in
            ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".", "./a", ".a", "a b", "a\0", "x.part"]
        {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(!is_name(&"a".repeat(300)));
    }

    #[test]
    fn an_unfinished_file_names_its_writer() {
        let own = Tag::own();
        let part = own.part_name("x.tar.zst");
        assert!(!is_name(&part), "{part}");
        assert_eq!(Tag::of_part(&part), Some(own.clone()));
        assert!(own.is_alive());
        for no in ["x.part", "x.a-b-c.part", "x.a-1-12345678", "x.a-1-12345678-9.part"] {
            assert_eq!(Tag::of_part(no), None, "{no}");
        }
        assert!(!Tag { boot: "00000000".into(), ..own }.is_alive());
    }

    #[test]
    fn a_container_has_numbers_of_its_own() {
        let (boot_id, inode) = ("1a2b3c4d-5e6f-4a1b-8c2d-3e4f5a6b7c8d\n", FIRST_PID_NAMESPACE);
        assert_eq!(boot_of(boot_id, None), "1a2b3c4d");
        assert_eq!(boot_of(boot_id, Some(inode)), "1a2b3c4d");
        let inside = Tag { boot: boot_of(boot_id, Some(inode + 3)), pid: 4_194_304 };
        assert_eq!(inside.boot, "1a2b3c4defffffff");
        let part = inside.part_name("x");
        assert!(part.len() <= 1 + 40, "{part}");
        assert_eq!(Tag::of_part(&part), Some(inside));
    }

    proptest! {
        #[test]
        fn any_accepted_name_is_a_plain_relative_path(name in "[a-z./_ \\-]{0,12}|\\PC{0,8}") {
            if is_name(&name) {
                let parts: Vec<_> = Path::new(&name).components().collect();
                prop_assert!(parts.iter().all(|p| matches!(p, std::path::Component::Normal(_))));
                prop_assert_eq!(parts.len(), name.split('/').count());
                prop_assert!(name.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
