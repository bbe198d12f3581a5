//! What an admin wants in the rescue system besides: `rescue.files`, for the tool of a RAID controller
//! or a vendor's agent.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use walkdir::WalkDir;

use super::tree::Tree;

/// What of it is not there to be taken.
pub fn missing(files: &[PathBuf]) -> Vec<String> {
    let gone = files.iter().filter(|file| !file.exists());
    gone.map(|file| format!("{} of rescue.files is not there", file.display())).collect()
}

/// Adds it: directories with all that is in them, programs with what they need to run. It comes last:
/// what the rescue system has of its own is not replaced.
pub fn add(tree: &mut Tree, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let doing = || format!("adding {} of rescue.files", file.display());
        add_one(tree, file).with_context(doing)?;
    }
    Ok(())
}

fn add_one(tree: &mut Tree, file: &Path) -> Result<()> {
    ensure!(!tree.is_own(file), "the rescue system has a file of its own there");
    if !file.is_dir() {
        return if is_program(file) { tree.add_program(file) } else { tree.add(file) };
    }
    tree.add(file)?;
    for entry in WalkDir::new(file).sort_by_file_name() {
        let entry = entry.context("listing it")?;
        let path = entry.path();
        // Sockets, and links into nowhere, are of no use there.
        if !path.is_file() && !path.is_dir() {
            continue;
        }
        if !is_program(path) {
            tree.add(path)?;
        } else if let Err(error) = tree.add_program(path) {
            // Vendors deliver for systems that this one is not.
            log::info!("{} will not run in the rescue system: {error:#}", path.display());
        }
    }
    Ok(())
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_programs_come_whole_and_nothing_of_our_own_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let vendor = dir.join("vendor");
        std::fs::create_dir_all(vendor.join("empty")).unwrap();
        std::fs::write(vendor.join("readme"), "x").unwrap();
        let tool = vendor.join("tool");
        std::fs::write(&tool, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o750)).unwrap();
        let foreign = vendor.join("foreign");
        std::fs::write(&foreign, "#!/no/such/interpreter\n").unwrap();
        std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("nowhere", vendor.join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(vendor.join("socket")).unwrap();
        std::os::unix::fs::symlink("vendor", dir.join("link")).unwrap();

        let mut tree = Tree::new();
        let own = vendor.join("readme");
        tree.text(own.to_str().unwrap(), 0o644, "ours");
        // A directory with a file of our own in it comes beside that.
        add(&mut tree, &[dir.join("link")]).unwrap();
        for name in ["link/readme", "link/tool", "vendor/foreign", "vendor/empty"] {
            assert!(tree.resolve(&dir.join(name)).is_some(), "{name}");
        }
        assert!(tree.resolve(Path::new("/bin/sh")).is_some(), "the interpreter of the tool");
        for name in ["dangling", "socket"] {
            assert!(tree.resolve(&vendor.join(name)).is_none(), "{name}");
        }
        assert!(tree.is_own(&own) && !tree.is_own(&tool));

        let error = add(&mut tree, std::slice::from_ref(&own)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("readme of rescue.files: the rescue system has a file"), "{text}");
        let none = dir.join("none");
        let text = missing(&[dir.clone(), none]).join("\n");
        assert!(text.ends_with("none of rescue.files is not there"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
