//! The names in other tars' ACLs. Who they are is told by the files that were restored, or else by
//! the system that runs: a rescue system knows nobody.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::super::acl;
use super::super::dirs::Dirs;

const LIMIT_BYTES: u64 = 64 << 20;

#[derive(Debug, Default)]
pub struct Names {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
}

impl Names {
    pub fn read(dirs: &mut Dirs) -> Names {
        let mut names = Names::default();
        for (file, ids) in [("passwd", &mut names.users), ("group", &mut names.groups)] {
            let running = std::fs::read(Path::new("/etc").join(file)).unwrap_or_default();
            ids.extend(parse(&String::from_utf8_lossy(&running)));
            let restored = restored(dirs, file).unwrap_or_default();
            ids.extend(parse(&String::from_utf8_lossy(&restored)));
        }
        names
    }

    /// An ACL that names users and groups, in the kernel's form.
    pub fn acl(&self, text: &str) -> Result<Vec<u8>, String> {
        let mut unknown = None;
        let id = |is_user: bool, name: &str| {
            let ids = if is_user { &self.users } else { &self.groups };
            let id = ids.get(name).copied();
            if id.is_none() {
                unknown = Some(name.to_owned());
            }
            id
        };
        let binary = acl::from_text_with(text, id);
        binary.ok_or_else(|| match unknown {
            Some(name) => {
                format!("its ACL names {name:?}, whom neither etc/passwd nor etc/group know")
            }
            None => "its ACL can't be read".to_owned(),
        })
    }
}

fn restored(dirs: &mut Dirs, file: &str) -> std::io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(openat(dirs.get(b"etc")?, file, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Name and id of each line of passwd or group.
fn parse(text: &str) -> HashMap<String, u32> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        Some((name.to_owned(), id.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_ids() {
        let names = Names {
            users: parse("root:x:0:0:root:/root:/bin/sh\nbob:x:1001:7::/home/bob:/bin/sh\nbad\n"),
            groups: parse("bob:x:7:\nusers:x:100:bob\n"),
        };
        let text = "user::rwx\nuser:bob:r-x\t#effective:r--\ngroup::r-x\ngroup:bob:rwx\nmask::r--\nother::---\n";
        let numbers = "user::rwx,user:1001:r-x,group::r-x,group:7:rwx,mask::r--,other::---";
        assert_eq!(names.acl(text).unwrap(), acl::from_text(numbers).unwrap());
        assert!(names.acl("user:eve:rwx").unwrap_err().contains("\"eve\""));
    }
}
