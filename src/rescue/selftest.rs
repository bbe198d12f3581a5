//! The programs of a finished tree are run inside it, on the day of the backup: a library or an
//! interpreter that is missing there would otherwise be found on the day of the disaster.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::tree::{Node, Tree};
use crate::sys::run::Cmd;
use crate::sys::{mount, tools};

/// Programs and arguments with which each starts, does nothing, and ends well.
const CALLS: &[(&str, &[&str])] = &[
    ("blkid", &["--version"]),
    ("blockdev", &["--version"]),
    ("dmsetup", &["--help"]),
    ("dumpe2fs", &["-V"]),
    ("ip", &["-V"]),
    ("lvm", &["version"]),
    ("mdadm", &["--version"]),
    ("mkfs.ext4", &["-V"]),
    ("mkfs.f2fs", &["-V"]),
    ("mkfs.vfat", &["--help"]),
    ("mkfs.xfs", &["-V"]),
    ("mkswap", &["--version"]),
    ("modprobe", &["--version"]),
    ("mount", &["--version"]),
    ("mount.nfs", &["-V"]),
    ("sfdisk", &["--version"]),
    ("sh", &["-c", ":"]),
    ("ssh-keygen", &["-?"]),
    ("sshd", &["-?"]),
    ("tune2fs", &["-V"]),
    ("udevadm", &["--version"]),
    ("umount", &["--version"]),
    ("wipefs", &["--version"]),
    ("xfs_admin", &["-V"]),
];

/// The exit status of a program that could not be run, or whose libraries were not found.
const NOT_STARTED: [i32; 3] = [125, 126, 127];

/// Unpacks the programs of `tree` below `dir`, tests them, and removes them again.
pub fn unpacked<T>(tree: &Tree, dir: &Path, test: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let root = dir.join("selftest");
    unpack(tree, &root)?;
    let result = test(&root);
    let removed = mount::remove_tree(&root);
    let tested = result?;
    removed?;
    Ok(tested)
}

/// Runs the programs of `tree`, which is unpacked below `root`.
pub fn run(tree: &Tree, root: &Path) -> Result<()> {
    match in_own_mount(root, || run_in(tree, root))? {
        Some(()) => Ok(()),
        // As in a container: they may run all the same.
        None => run_in(tree, root),
    }
}

/// Runs `body` where `root` is a mount of its own, which only this process sees: the image's programs
/// take it for one, and where they lie may be mounted `noexec`, as many make /var/tmp. None where this
/// process may not mount.
pub(super) fn in_own_mount<T: Send>(
    root: &Path,
    body: impl FnOnce() -> Result<T> + Send,
) -> Result<Option<T>> {
    let root = root.canonicalize().with_context(|| format!("looking for {}", root.display()))?;
    let mut is_mounted = false;
    let done = mount::in_private_namespace(|| {
        let mount = |args: &[&str]| Cmd::new("mount").args(args).arg(&root).run();
        mount(&["--bind", &root.to_string_lossy()])?;
        // What is mounted below is nobody else's, whatever the mounts above are.
        mount(&["--make-private"])?;
        mount(&["-o", "remount,bind,exec"])?;
        is_mounted = true;
        body()
    });
    // Where rr itself runs in a chroot whose mounts are shared, others see the first of these.
    let detached = mount::below(&root)
        .and_then(|seen| seen.iter().rev().try_for_each(|mount| mount::detach(&mount.path)));
    let done = match done {
        Err(error) if !is_mounted && mount::is_forbidden(&error) => {
            log::info!("no mount for the rescue system's programs: {error:#}");
            None
        }
        done => Some(done?),
    };
    detached?;
    Ok(done)
}

fn run_in(tree: &Tree, root: &Path) -> Result<()> {
    let mut failed = Vec::new();
    for (name, args) in CALLS {
        let Some(path) = tools::find(name.as_ref()).filter(|path| tree.resolve(path).is_some())
        else {
            continue;
        };
        let output = Cmd::new(&path)
            .args(*args)
            .chroot(root)
            .timeout(Duration::from_secs(60))
            .output()
            .with_context(|| format!("running {name} inside the rescue system"))?;
        // Some of them say their version and fail; what counts is that they start.
        if output.code().is_none_or(|code| NOT_STARTED.contains(&code)) {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            failed.push(format!("{name} ({}): {said}", output.status));
        }
    }
    if !failed.is_empty() {
        bail!("programs that do not run inside the rescue system:\n{}", failed.join("\n"));
    }
    Ok(())
}

pub(super) fn unpack(tree: &Tree, root: &Path) -> Result<()> {
    std::fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    for (path, node) in tree.iter() {
        // Modules and firmware are most of the bytes, and nothing runs them here.
        if path.starts_with("lib/modules")
            || path.starts_with("usr/lib/modules")
            || path.starts_with("lib/firmware")
            || path.starts_with("usr/lib/firmware")
        {
            continue;
        }
        let to = root.join(path);
        let set_mode = |mode| std::fs::set_permissions(&to, Permissions::from_mode(mode));
        let unpacked = match node {
            Node::Dir { .. } => std::fs::create_dir_all(&to),
            Node::Symlink { to: target } => std::os::unix::fs::symlink(target, &to),
            Node::Copy { from, mode } => std::fs::copy(from, &to).and_then(|_| set_mode(*mode)),
            Node::Text { bytes, mode } => std::fs::write(&to, bytes).and_then(|()| set_mode(*mode)),
            Node::CharDevice { .. } => Ok(()),
        };
        unpacked.with_context(|| format!("unpacking {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_found() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: chroot needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.add_program(&tools::find("sh".as_ref()).unwrap()).unwrap();
        let run = |tree: &Tree| unpacked(tree, dir.path(), |root| run(tree, root));
        run(&tree).unwrap();
        // mount without the libraries that it needs besides the shell's
        tree.add(&tools::find("mount".as_ref()).unwrap()).unwrap();
        let error = run(&tree).unwrap_err().to_string();
        assert!(error.contains("mount") && error.contains("libmount"), "{error}");
        assert!(!dir.path().join("selftest").exists());
    }

    #[test]
    fn what_is_mounted_below_is_not_removed_and_the_tests_own_error_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.text("etc/precious", 0o600, "x");
        let root = dir.path().join("selftest");
        let mut is_mounted = false;
        let error = unpacked::<()>(&tree, dir.path(), |root| {
            let own = ["-t", "tmpfs", "tmpfs"];
            let mounted = mount::MountGuard::mount(&own, &root.join("etc"));
            is_mounted = mounted.map(mount::MountGuard::keep).is_ok();
            std::fs::write(root.join("etc/of-others"), "x").unwrap();
            bail!("its own")
        });
        let kept = root.join("etc/of-others").exists();
        if is_mounted {
            mount::unmount(&root.join("etc")).unwrap();
        }
        assert_eq!(error.unwrap_err().to_string(), "its own");
        assert_eq!(kept, is_mounted, "removed only where nothing is mounted");
    }

    const BARE: &str = "RR_TEST_SELFTEST_WITHOUT_MOUNTS";

    #[test]
    fn programs_are_tested_where_nothing_may_be_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.add_program(&tools::find("sh".as_ref()).unwrap()).unwrap();
        if std::env::var_os(BARE).is_some() {
            let none = unpacked(&tree, dir.path(), |root| in_own_mount(root, || Ok(())));
            assert_eq!(none.unwrap(), None, "nothing may be mounted");
            return unpacked(&tree, dir.path(), |root| run(&tree, root)).unwrap();
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: chroot needs root");
            return;
        }
        let name = "rescue::selftest::tests::programs_are_tested_where_nothing_may_be_mounted";
        let this = std::env::current_exe().unwrap();
        let cmd = Cmd::new("setpriv").arg("--bounding-set=-sys_admin").arg(this);
        cmd.args(["--exact", name]).env(BARE, "1").run().unwrap();
    }

    #[test]
    fn loop_programs_run_although_the_scratch_directory_is_mounted_noexec() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: it mounts, which needs root");
            return;
        }
        let tmpfs = ["-t", "tmpfs", "-o", "noexec,nosuid,nodev", "tmpfs"];
        let mounted = mount::TempMount::mount(&tmpfs).unwrap();
        let mut tree = Tree::new();
        tree.add_program(&tools::find("sh".as_ref()).unwrap()).unwrap();
        unpacked(&tree, mounted.path(), |root| run(&tree, root)).unwrap();
        mounted.close().unwrap();
    }
}
