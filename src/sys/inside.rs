//! Paths inside the restored tree, followed as the recovered system will follow them: a symbolic
//! link to `/usr/lib` means the tree's `/usr/lib`, not the rescue system's.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows in one path.
const LINKS: usize = 40;

/// Where `path` is, seen from outside, all links followed within `root`. None where nothing is.
pub fn find(root: &Path, path: impl AsRef<Path>) -> Option<PathBuf> {
    let mut todo: VecDeque<OsString> = parts(path.as_ref());
    let mut at: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        let here = join(root, &at);
        let meta = here.symlink_metadata().ok()?;
        if meta.is_symlink() {
            links += 1;
            if links > LINKS {
                return None;
            }
            let target = std::fs::read_link(&here).ok()?;
            at.pop();
            if target.is_absolute() {
                at.clear();
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
        }
    }
    Some(join(root, &at))
}

/// The text of a file in the tree; what is not UTF-8 is replaced. None where there is no file.
pub fn read(root: &Path, path: impl AsRef<Path>) -> Option<String> {
    let file = find(root, path).filter(|file| file.is_file())?;
    std::fs::read(file).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Where a program is in the tree, as a path that is true in a chroot.
pub fn program(root: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().find_map(|name| {
        crate::sys::tools::PATH
            .split(':')
            .map(|dir| Path::new(dir).join(name))
            .find(|path| find(root, path).is_some_and(|file| file.is_file()))
    })
}

/// The names in a directory of the tree, sorted; none where it is not there.
pub fn names(root: &Path, dir: impl AsRef<Path>) -> Vec<String> {
    let Some(entries) = find(root, dir).and_then(|dir| std::fs::read_dir(dir).ok()) else {
        return Vec::new();
    };
    let mut names: Vec<_> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn join(root: &Path, parts: &[OsString]) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(parts);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/sbin")).unwrap();
        std::fs::write(root.join("usr/sbin/init"), "x").unwrap();
        symlink("usr/sbin", root.join("sbin")).unwrap();
        symlink("/usr/sbin/init", root.join("usr/abs")).unwrap();
        symlink("../../../../usr/sbin/init", root.join("usr/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/etc/hostname", root.join("escape")).unwrap();
        let init = root.join("usr/sbin/init");
        for path in ["/sbin/init", "usr/abs", "/usr/up", "/usr/../sbin/./init"] {
            assert_eq!(find(root, path), Some(init.clone()), "{path}");
        }
        for path in ["/loop", "/escape", "/usr/nothing", "/etc/hostname"] {
            assert_eq!(find(root, path), None, "{path}");
        }
        assert_eq!(read(root, "/sbin/init").as_deref(), Some("x"));
        assert_eq!(program(root, &["no", "init"]), Some(PathBuf::from("/usr/sbin/init")));
        assert_eq!(names(root, "/sbin"), ["init"]);
    }
}
