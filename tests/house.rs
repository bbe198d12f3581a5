//! The rules of the house that the compiler does not hold: which floor may call which.

use std::path::{Path, PathBuf};

/// Floors from the ground up. A module uses what is on lower floors; on the ground and on the top
/// floor also its neighbours.
const FLOORS: &[&[&str]] = &[
    &["layout", "sys", "ui", "config"],
    &["plan", "probe", "store"],
    &["apply", "rescue", "archive", "prove"],
    &["backup", "recover", "format"],
    &["init", "commands"],
];

struct Use {
    module: String,
    file: PathBuf,
    used: String,
    line: String,
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// Every `crate::MODULE` in src.
fn uses() -> Vec<Use> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut uses = Vec::new();
    for file in files {
        let below = file.strip_prefix(&src).unwrap();
        let first = below.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        if floor(&module).is_none() {
            continue; // main, lib, cli: the roof
        }
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let code = line.split("//").next().unwrap_or_default();
            for (at, path) in code.match_indices("crate::") {
                let after = &code[at + path.len()..];
                let list = after.strip_prefix('{').map(|l| l.split([',', '}']).collect());
                for used in list.unwrap_or_else(|| vec![after]) {
                    let word = |c: &char| c.is_alphanumeric() || *c == '_';
                    uses.push(Use {
                        module: module.clone(),
                        file: file.clone(),
                        used: used.trim().chars().take_while(word).collect(),
                        line: line.trim().to_owned(),
                    });
                }
            }
        }
    }
    assert!(uses.len() > 20, "the scan found too little: {}", uses.len());
    uses
}

fn complain(wrong: impl Iterator<Item = Use>) {
    let lines: Vec<_> = wrong.map(|u| format!("{}: {}", u.file.display(), u.line)).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn an_arrow_only_ever_points_down() {
    complain(uses().into_iter().filter(|u| {
        let (Some(from), Some(to)) = (floor(&u.module), floor(&u.used)) else { return false };
        let neighbours = from == 0 || from == FLOORS.len() - 1;
        u.module != u.used && (to > from || (to == from && !neighbours))
    }));
}

#[test]
fn layout_uses_nothing_of_ours_and_plan_never_sys() {
    complain(uses().into_iter().filter(|u| {
        let layout = u.module == "layout" && u.used != "layout" && floor(&u.used).is_some();
        layout || (u.module == "plan" && u.used == "sys")
    }));
}

#[test]
fn only_sys_starts_processes_and_holds_unsafe() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files.iter().filter(|f| !f.starts_with(src.join("sys"))) {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let code = line.split("//").next().unwrap_or_default();
            if ["unsafe {", "unsafe fn", "unsafe impl", "Command::new", "process::Command"]
                .iter()
                .any(|bad| code.contains(bad))
            {
                wrong.push(format!("{}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whole trees are deleted only where nothing can be mounted: when an unmount fails, what a recursive
/// deletion finds below the mount point is somebody's disk. (A [`tempfile::TempDir`] deletes its tree,
/// too: see `sys::mount::TempMount`; `sys::mount::remove_tree` looks before.)
#[test]
fn trees_are_deleted_only_where_nothing_is_ever_mounted() {
    const ALLOWED: &[&str] = &[
        "rescue/iso.rs", // what the ISO is made of
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        // Tests come last.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let name = file.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        let deletes = code.contains("remove_dir_all") && !ALLOWED.contains(&name.as_str());
        let mounts = code.contains("tempdir()") && code.contains("MountGuard::mount");
        if (deletes || mounts) && name != "sys/mount.rs" {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
