//! The projects of quotas (XFS, ext4, f2fs): what a file or directory counts for.
//!
//! To ask takes a call for each of them. Directories are always asked, files where their directory
//! belongs to a project, or where they have other names, which may be in one that does: so a tree
//! without projects costs none for its files. What was moved out of a project's directory still counts
//! for it, and is not seen. What is nobody's to open, as symbolic links and devices, can't be asked;
//! it takes next to no room.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::dirs::{Dirs, split};
use super::entry::{Entry, Extra, Kind};
use super::flags;
use super::pick::is_at_or_below;
use super::place::is_fatal;
use super::read;
use super::warnings::Warnings;
use crate::sys::fs::{self, Project};

const UNREAD: &str = "files may belong to a project of a quota, which can't be read, the backup does not say to which (the log says why)";
const LOST: &str =
    "files belonged to a project of a quota, the filesystem that they came to does not say so";

/// Tells to which projects entries belong that come in the order of the stream.
#[derive(Debug, Default)]
pub struct Projects {
    /// The directories on the way to the last entry that are known, and their projects.
    way: Vec<(Vec<u8>, u32)>,
}

impl Projects {
    /// Notes in `extra` what an entry that is open belongs to.
    pub fn add(
        &mut self,
        file: &File,
        entry: &mut Entry,
        extra: &mut Extra,
        (dirs, has_links): (&mut Dirs, bool),
        warnings: &Warnings,
    ) {
        if entry.kind == Kind::File && !has_links && self.of_parent(&entry.path, dirs) == 0 {
            return;
        }
        match fs::project(file.as_fd()) {
            Ok(project) => note(project, extra),
            Err(error) => {
                log::warn!("{}: {error}", entry.shown());
                warnings.lose(UNREAD, entry.shown());
                entry.forget();
            }
        }
        if entry.kind == Kind::Dir {
            self.leave_to(&entry.path);
            self.way.push((entry.path.clone(), extra.project));
        }
    }

    fn of_parent(&mut self, path: &[u8], dirs: &mut Dirs) -> u32 {
        let Some((parent, _)) = split(path) else { return 0 };
        self.leave_to(parent);
        if let Some((last, project)) = self.way.last()
            && last == parent
        {
            return *project;
        }
        // It is in an earlier run. One that can't be opened does not tell what its files have.
        let dir = read::open(dirs, parent);
        let project = dir.and_then(|dir| fs::project(dir.as_fd())).unwrap_or_default();
        self.way.push((parent.to_vec(), project.id));
        project.id
    }

    fn leave_to(&mut self, path: &[u8]) {
        while self.way.last().is_some_and(|(dir, _)| !is_at_or_below(path, dir)) {
            self.way.pop();
        }
    }
}

fn note(project: Project, extra: &mut Extra) {
    extra.project = project.id;
    if project.inherits {
        // Not all kernels tell it with the other flags.
        extra.flags |= flags::PROJECT;
    }
}

/// Gives a file or directory to the project that it belonged to: when all is in place. Before that
/// other threads may have put files into a directory, and no file of another project could be linked.
pub fn restore(
    fd: BorrowedFd<'_>,
    entry: &Entry,
    extra: &Extra,
    warnings: &Warnings,
) -> io::Result<()> {
    let inherits = extra.flags & flags::PROJECT != 0;
    // Earlier backups tell of a directory that it hands its project on, and not which.
    let id = match extra.project {
        0 => fs::project(fd).unwrap_or_default().id,
        id => id,
    };
    match fs::set_project(fd, Project { id, inherits }) {
        Err(error) if is_fatal(&error) => return Err(error),
        Err(error) => {
            log::warn!("{}: its project {id} can't be set: {error}", entry.shown());
            warnings.lose(LOST, entry.shown());
        }
        Ok(()) => {}
    }
    Ok(())
}
