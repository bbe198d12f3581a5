//! Trees that are hard to archive, there and back: by rr, and by the tools of strangers.
//!
//! The tree is made and listed by a Python program that shares no code with rr.

mod damage;
mod filesystems;
mod foreign;
mod ground;
mod live;
mod there_and_back;
mod worn;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rr::archive::{self, CreateOptions, Created, ExtractOptions};
use rr::config::TargetOptions;
use rr::store::{Access, Manifest, Store, TargetUrl, catalog};
use rr::sys::run::Cmd;
use rr::ui::{Style, Ui};
use tempfile::TempDir;

const NASTY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/archive/nasty.py");

fn ui() -> Ui {
    Ui::new(Style::Plain)
}

/// Says why a test does not run.
fn skipped() -> bool {
    let missing = ["python3", "tar", "bsdtar", "zstd"]
        .into_iter()
        .find(|name| rr::sys::tools::find(name.as_ref()).is_none());
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return true;
    }
    if let Some(name) = missing {
        eprintln!("skipped: needs {name}");
        return true;
    }
    false
}

/// The tree is made once for all tests: they only read it.
fn nasty() -> &'static Path {
    static TREE: OnceLock<TempDir> = OnceLock::new();
    TREE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        Cmd::new("python3").args([NASTY, "make"]).arg(dir.path()).run().unwrap();
        // Files that changed just now are read again the next time.
        std::thread::sleep(std::time::Duration::from_secs(4));
        dir
    })
    .path()
}

/// What is different between two trees, a line each; without the lines that start so, and without
/// the properties that `skip` names.
fn differences(a: &Path, b: &Path, without: &[&str], skip: &[&str]) -> Vec<String> {
    let list = |dir: &Path| {
        let text = Cmd::new("python3").args([NASTY, "list"]).arg(dir).args(skip).text().unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| !without.iter().any(|start| line.starts_with(start)));
        lines
    };
    let (a, b) = (list(a), list(b));
    let only = |these: &[String], others: &[String], sign: &str| -> Vec<String> {
        let only = these.iter().filter(|line| !others.contains(line));
        only.map(|line| format!("{sign}{line}")).collect()
    };
    [only(&a, &b, "-"), only(&b, &a, "+")].concat()
}

#[track_caller]
fn assert_same(a: &Path, b: &Path, skip: &[&str]) {
    let differences = differences(a, b, &[], skip);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

struct Target {
    dir: TempDir,
    store: Box<dyn Store>,
}

impl Target {
    fn new() -> Target {
        let dir = tempfile::tempdir().unwrap();
        let url = TargetUrl::File { dir: dir.path().to_owned() };
        let store =
            rr::store::open(&url, "node001", Access::Write, &TargetOptions::default()).unwrap();
        Target { dir, store }
    }

    fn node_dir(&self) -> PathBuf {
        self.dir.path().join("node001")
    }

    fn create(&self, options: &CreateOptions, parent: Option<&Manifest>) -> (Created, Manifest) {
        let created = archive::create(options, self.store.as_ref(), parent, &ui()).unwrap();
        let mut manifest = Manifest {
            version: catalog::MANIFEST_VERSION,
            generation: options.generation.clone(),
            node: "node001".into(),
            rr: "test".into(),
            started: "2026-11-21T01:35:00Z".into(),
            finished: "2026-11-21T01:36:00Z".into(),
            parent: created.parent.clone(),
            file: created.files.clone(),
            pack: created.packs.clone(),
            archive: created.stats.clone(),
            tree: vec!["/".into()],
            unprotected: Vec::new(),
            warning: created.warnings.clone(),
        };
        let text = archive::restore_text(&manifest);
        let put =
            catalog::put(self.store.as_ref(), &manifest.generation, "RESTORE.txt", text.as_bytes());
        manifest.file.push(put.unwrap());
        let layout = b"version = 1\n[node]\nhostname = \"node001\"\n";
        let put = catalog::put(self.store.as_ref(), &manifest.generation, "layout.toml", layout);
        manifest.file.push(put.unwrap());
        catalog::publish(self.store.as_ref(), &manifest).unwrap();
        (created, manifest)
    }

    fn extract(&self, manifest: &Manifest, paths: &[&str]) -> (TempDir, archive::Extracted) {
        let to = tempfile::tempdir().unwrap();
        let options = ExtractOptions {
            root: to.path().to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            threads: 3,
            ..ExtractOptions::default()
        };
        let extracted = archive::extract(manifest, self.store.as_ref(), &options, &ui()).unwrap();
        (to, extracted)
    }
}

fn options(root: &Path, generation: &str) -> CreateOptions {
    CreateOptions {
        root: root.to_owned(),
        trees: vec!["/".into()],
        generation: generation.into(),
        node: "node001".into(),
        level: 1,
        threads: 3,
        ..CreateOptions::default()
    }
}

const FIRST: &str = "20261121T013500Z";
const SECOND: &str = "20261121T023500Z";

/// Takes the locks off, so that the directory can be removed.
struct Unlock<'a>(&'a Path);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        let _ = Cmd::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(self.0).run();
    }
}
