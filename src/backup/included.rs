//! What `--include` names.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The trees of `--include`, where they really are: the walk follows no links.
pub(super) fn included(include: &[PathBuf], fatal: &mut Vec<String>) -> Vec<PathBuf> {
    let real = |path: &Path| {
        let path = std::path::absolute(path)?;
        path.symlink_metadata()?;
        // The last part is looked at by the caller; what leads there may be links.
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
            _ => path.canonicalize(),
        }
    };
    let mut trees = Vec::new();
    for path in include {
        match real(path) {
            Ok(path) if path.is_symlink() && path.is_dir() => fatal.push(format!(
                "{} is a symbolic link\nhint: --include {}",
                path.display(),
                path.canonicalize().unwrap_or_default().display()
            )),
            Ok(path) if is_socket(&path) => {
                fatal.push(format!("{} can't be included: it is a socket", path.display()));
            }
            Ok(path) => trees.push(path),
            Err(error) => {
                let globbing = path.to_string_lossy().contains(['*', '?', '[']);
                let hint = match globbing {
                    true => {
                        "\nhint: --include takes paths, each by an --include of its own; --exclude takes globs"
                    }
                    false => "",
                };
                fatal.push(format!("{} can't be included: {error}{hint}", path.display()));
            }
        }
    }
    trees
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket())
}
