//! As much of a rescue image as a rehearsal needs, and a backup that it can read.
#![allow(dead_code)] // each test takes what it needs

use std::path::Path;
use std::time::Duration;

use rr::rescue::rehearsal::{self, Rehearsed};
use rr::rescue::tree::Tree;
use rr::rescue::{RescueInfo, info, selftest};
use rr::store::catalog;
use rr::store::{Manifest, Store};
use rr::sys::tools;

const PATIENCE: Duration = Duration::from_secs(60);
const LAYOUT: &str = include_str!("../fixtures/rescue/layout.toml");

/// What an image made for this target knows.
pub fn info(node: &str, target: &str) -> RescueInfo {
    RescueInfo {
        version: info::VERSION,
        node: node.to_owned(),
        target: target.to_owned(),
        rr: env!("CARGO_PKG_VERSION").into(),
        consoles: Vec::new(),
        cmdline: String::new(),
        asks_login: false,
        target_options: rr::config::TargetOptions::default(),
        read_login: rr::config::Login::default(),
        target_device: None,
        medium: None,
        product_uuid: None,
    }
}

/// The image, with `rr` as it is called here.
pub fn image(info: &RescueInfo, rr: &Path) -> Tree {
    let mut tree = Tree::new();
    for name in ["blkid", "getent", "mount", "mount.nfs", "sh", "umount"] {
        if let Some(program) = tools::find(name.as_ref()) {
            tree.add_program(&program).unwrap();
        }
    }
    for file in ["/sbin/mount.nfs", "/etc/protocols", "/etc/netconfig", "/etc/services"] {
        if Path::new(file).exists() {
            tree.add_program(Path::new(file)).unwrap();
        }
    }
    for dir in ["dev", "etc", "mnt", "proc", "run", "sys", "tmp", "var/lib/nfs"] {
        tree.dir(dir, 0o755);
    }
    tree.symlink("etc/mtab", "../proc/self/mounts");
    tree.text("etc/hosts", 0o644, include_str!("../../rescue/etc/hosts"));
    tree.text("etc/nsswitch.conf", 0o644, include_str!("../../rescue/etc/nsswitch.conf"));
    tree.text("etc/passwd", 0o644, include_str!("../../rescue/etc/passwd"));
    tree.text("etc/rr/rescue.toml", 0o600, toml::to_string(info).unwrap());
    tree.copy_as("usr/bin/rr", rr, 0o755);
    tree
}

/// Rehearses with the image, which leaves nothing behind.
pub fn rehearse(tree: &Tree) -> anyhow::Result<Rehearsed> {
    rehearse_in(tree, &std::env::temp_dir())
}

/// The same, unpacked below this directory.
pub fn rehearse_in(tree: &Tree, dir: &Path) -> anyhow::Result<Rehearsed> {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let done = selftest::unpacked(tree, dir.path(), |root| rehearsal::run(root, PATIENCE));
    // Other tests mount elsewhere at the same time.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "it is left mounted: {mounts}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    done
}

/// A generation of a machine, with the files of one that has just some trees.
pub fn of_machine(store: &dyn Store) -> Manifest {
    let mut manifest = catalog::find(store, None).unwrap();
    manifest.generation = catalog::new_generation(store).unwrap();
    let put =
        |file: &str, bytes: &[u8]| catalog::put(store, &manifest.generation, file, bytes).unwrap();
    let mut files = vec![put("layout.toml", LAYOUT.as_bytes())];
    for record in &manifest.file {
        let bytes = catalog::fetch(store, record).unwrap();
        files.push(put(record.name.rsplit('/').next().unwrap(), &bytes));
    }
    manifest.file = files;
    catalog::publish(store, &manifest).unwrap();
    manifest
}
