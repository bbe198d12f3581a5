//! What an ELF program needs at run time: its interpreter and its shared libraries, found by
//! reading the files as ld.so(8) would. `ldd` is not used: it runs what it looks at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use goblin::elf::Elf;

/// What one file names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    pub interpreter: Option<PathBuf>,
    /// Sonames that must be there.
    pub libraries: Vec<String>,
    /// Sonames that the program opens later if they are there: systemd notes them in
    /// `.note.dlopen` (<https://systemd.io/ELF_DLOPEN_METADATA/>).
    pub optional: Vec<String>,
    /// Where it wants them looked for, `$ORIGIN` replaced.
    search: Vec<PathBuf>,
    class: Class,
}

/// A library fits only a program of its own class and machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Class {
    is_64: bool,
    machine: u16,
}

/// Reads what `path` needs. None where it is no ELF file.
pub fn needs(path: &Path, bytes: &[u8]) -> Result<Option<Needs>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let elf = Elf::parse(bytes).with_context(|| format!("reading {} as ELF", path.display()))?;
    let origin = path.parent().unwrap_or(Path::new("/"));
    // DT_RPATH counts only where there is no DT_RUNPATH, see ld.so(8).
    let wanted = if elf.runpaths.is_empty() { &elf.rpaths } else { &elf.runpaths };
    let search = wanted
        .iter()
        .flat_map(|list| list.split(':'))
        .filter(|dir| !dir.is_empty())
        .map(|dir| {
            let origin = origin.to_string_lossy();
            PathBuf::from(dir.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
        })
        .collect();
    Ok(Some(Needs {
        interpreter: elf.interpreter.map(PathBuf::from),
        libraries: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
        optional: dlopen_notes(&elf, bytes),
        search,
        class: class(&elf),
    }))
}

fn class(elf: &Elf<'_>) -> Class {
    Class { is_64: elf.is_64, machine: elf.header.e_machine }
}

fn dlopen_notes(elf: &Elf<'_>, bytes: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Note {
        #[serde(default)]
        soname: Vec<String>,
    }
    let Some(notes) = elf.iter_note_sections(bytes, Some(".note.dlopen")) else {
        return Vec::new();
    };
    let mut sonames = BTreeSet::new();
    for note in notes.flatten() {
        let text = note.desc.split(|&b| b == 0).next().unwrap_or_default();
        if let Ok(list) = serde_json::from_slice::<Vec<Note>>(text) {
            sonames.extend(list.into_iter().flat_map(|note| note.soname));
        }
    }
    sonames.into_iter().collect()
}

/// Finds libraries where the loader of this machine would.
#[derive(Debug)]
pub struct Resolver {
    /// Directories of /etc/ld.so.conf.
    configured: Vec<PathBuf>,
}

/// Where glibc's loader looks without any configuration, on Debian and on RHEL.
const DEFAULT_DIRS: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

impl Resolver {
    /// Reads /etc/ld.so.conf and what it includes.
    pub fn read() -> Resolver {
        let mut configured = Vec::new();
        read_conf(Path::new("/etc/ld.so.conf"), &mut configured, 0);
        Resolver { configured }
    }

    /// The file for `soname` as the program with these `needs` would get it.
    pub fn find(&self, soname: &str, needs: &Needs) -> Option<PathBuf> {
        if soname.contains('/') {
            return Some(PathBuf::from(soname)).filter(|path| fits(path, needs.class));
        }
        let dirs = needs.search.iter().chain(&self.configured).map(PathBuf::as_path);
        dirs.chain(DEFAULT_DIRS.iter().map(Path::new))
            .map(|dir| dir.join(soname))
            .find(|path| fits(path, needs.class))
    }

    /// As [`Resolver::find`], for a library that must be there.
    pub fn require(&self, soname: &str, needs: &Needs, user: &Path) -> Result<PathBuf> {
        match self.find(soname, needs) {
            Some(path) => Ok(path),
            None => bail!("{} needs {soname}, which is nowhere on this node", user.display()),
        }
    }

    /// Whether the loader finds what is in `dir` without its cache and without a `RUNPATH`.
    pub fn is_default(dir: &Path) -> bool {
        DEFAULT_DIRS.iter().any(|default| dir == Path::new(default))
    }
}

fn fits(path: &Path, wanted: Class) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    Elf::parse(&bytes).is_ok_and(|elf| class(&elf) == wanted)
}

/// ld.so.conf: a directory a line, `include GLOB`, comments from `#`.
fn read_conf(path: &Path, dirs: &mut Vec<PathBuf>, depth: u32) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").map(str::trim) {
            if depth < 8 {
                for file in expand(Path::new("/etc"), pattern) {
                    read_conf(&file, dirs, depth + 1);
                }
            }
        } else if line.starts_with('/') {
            dirs.push(PathBuf::from(line));
        }
    }
}

/// The files that a glob names whose last part alone has wildcards, sorted.
fn expand(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = base.join(pattern);
    let (Some(dir), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Vec::new();
    };
    let Ok(glob) = globset::Glob::new(&name.to_string_lossy()) else { return Vec::new() };
    let matcher = glob.compile_matcher();
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| matcher.is_match(name)))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_loader_and_its_libc() {
        let path = Path::new("/bin/sh").canonicalize().unwrap();
        let needs = needs(&path, &std::fs::read(&path).unwrap()).unwrap().unwrap();
        assert!(needs.interpreter.as_ref().unwrap().exists());
        assert!(needs.libraries.iter().any(|name| name == "libc.so.6"));
        let libc = Resolver::read().require("libc.so.6", &needs, &path).unwrap();
        assert!(libc.ends_with("libc.so.6"));
    }

    #[test]
    fn a_library_that_is_nowhere_is_named_with_its_user() {
        let needs = Needs::default();
        let error = Resolver::read().require("librr-none.so.1", &needs, Path::new("/bin/x"));
        assert_eq!(
            error.unwrap_err().to_string(),
            "/bin/x needs librr-none.so.1, which is nowhere on this node"
        );
    }

    #[test]
    fn what_is_no_elf_needs_nothing_and_a_torn_one_is_an_error() {
        assert_eq!(needs(Path::new("x"), b"#!/bin/sh\n").unwrap(), None);
        assert!(needs(Path::new("x"), b"\x7fELF\x02\x01").is_err());
    }

    #[test]
    fn includes_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("conf.d");
        std::fs::create_dir(&sub).unwrap();
        std::fs::write(sub.join("b.conf"), "/opt/b # why\n").unwrap();
        std::fs::write(sub.join("a.conf"), "/opt/a\n").unwrap();
        std::fs::write(sub.join("c.other"), "/opt/c\n").unwrap();
        let main = dir.path().join("ld.so.conf");
        std::fs::write(&main, format!("include {}/*.conf\n/opt/last\n", sub.display())).unwrap();
        let mut dirs = Vec::new();
        read_conf(&main, &mut dirs, 0);
        assert_eq!(dirs, ["/opt/a", "/opt/b", "/opt/last"].map(PathBuf::from));
    }
}
