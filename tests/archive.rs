//! Trees that are hard to archive, there and back: by rr, and by the tools of strangers.
//!
//! The tree is made and listed by a Python program that shares no code with rr.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rr::archive::{self, CreateOptions, Created, ExtractOptions};
use rr::config::schema::TargetOptions;
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
        catalog::publish(self.store.as_ref(), &manifest).unwrap();
        (created, manifest)
    }

    fn extract(&self, manifest: &Manifest, paths: &[&str]) -> (TempDir, archive::Extracted) {
        let to = tempfile::tempdir().unwrap();
        let options = ExtractOptions {
            root: to.path().to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            threads: 3,
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

#[test]
fn everything_comes_back_as_it_was() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let (created, manifest) = target.create(&options(nasty(), FIRST), None);
    assert_eq!(created.warnings, Vec::<String>::new());
    archive::check(&manifest, target.store.as_ref(), &ui()).unwrap();
    let (to, extracted) = target.extract(&manifest, &[]);
    let _unlock = Unlock(to.path());
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_eq!(extracted.entries, created.stats.entries);
    assert_same(nasty(), to.path(), &[]);

    // Once more over what is there, as a second recovery does.
    let over = ExtractOptions { root: to.path().to_owned(), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &over, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_same(nasty(), to.path(), &[]);
}

#[test]
fn gnu_tar_restores_what_was_stored_by_the_restore_text_and_by_cat() {
    if skipped() {
        return;
    }
    let target = Target::new();
    // GNU tar can't create paths of more than 4096 bytes, and knows no inode flags.
    let short = CreateOptions { exclude: vec!["/deep".into()], ..options(nasty(), FIRST) };
    let (_, manifest) = target.create(&short, None);
    let script = target.node_dir().join(format!("generations/{FIRST}/RESTORE.txt"));
    let to = tempfile::tempdir().unwrap();
    Cmd::new("sh").arg(&script).arg(to.path()).run().unwrap();
    let differences = differences(nasty(), to.path(), &["b'/deep"], &["flags"]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    // Run inside the directory, with a relative path.
    let dir = target.node_dir().join(format!("generations/{FIRST}"));
    let by_script = Cmd::new("sh").arg("RESTORE.txt").dir(dir).stdout().unwrap();
    let by_cat = Cmd::new("sh")
        .args(["-c", &format!("cat packs/{FIRST}-*.tar.zst | zstd -dc")])
        .dir(target.node_dir())
        .stdout()
        .unwrap();
    assert!(by_script == by_cat, "the recipe and cat give different streams");
    assert_eq!(by_cat.len() as u64, manifest.archive.stream_bytes);
}

#[test]
fn bsdtar_restores_what_was_stored() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let short = CreateOptions { exclude: vec!["/deep".into()], ..options(nasty(), FIRST) };
    target.create(&short, None);
    let to = tempfile::tempdir().unwrap();
    let _unlock = Unlock(to.path());
    let script = format!("cat packs/{FIRST}-*.tar.zst | bsdtar --numeric-owner -xpf - -C \"$1\"");
    let output =
        Cmd::new("sh").args(["-c", &script, "sh"]).arg(to.path()).dir(target.node_dir()).output();
    let output = output.unwrap();
    // What libarchive 3.6 gets wrong: fractions of seconds before 1970, ids of ACLs above 2^31,
    // names of attributes with an equals sign, the times of its own working directory.
    let without = [
        "b'/deep",
        "b'' ",
        "b'/empty'",
        "b'/metadata/negative'",
        "b'/metadata/old'",
        "b'/metadata/acl",
        "b'/metadata/xattr'",
    ];
    let differences = differences(nasty(), to.path(), &without, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(differences.is_empty(), "{said}\n{}", differences.join("\n"));
}

#[test]
fn an_unchanged_tree_stores_nearly_nothing_again() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let (first, parent) = target.create(&options(nasty(), FIRST), None);
    let (second, manifest) = target.create(&options(nasty(), SECOND), Some(&parent));
    assert_eq!(second.stats.stored_bytes, 0, "{:?}", second.stats);
    assert_eq!(second.stats.new_chunks, 0);
    assert_eq!(second.stats.stream_blake3, first.stats.stream_blake3);
    assert_eq!(second.stats.entries, first.stats.entries);
    assert_eq!(second.stats.files, first.stats.files);
    let (to, _) = target.extract(&manifest, &[]);
    let _unlock = Unlock(to.path());
    assert_same(nasty(), to.path(), &[]);

    let full = CreateOptions { full: true, ..options(nasty(), "20261121T033500Z") };
    let (full, _) = target.create(&full, Some(&parent));
    assert_eq!(full.stats.new_chunks, 0, "the bytes are the same");
    assert_eq!(full.stats.stream_blake3, first.stats.stream_blake3);
}

#[test]
fn changes_between_two_backups_are_found() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let script = "
        mkdir -p a b c; seq 1 300000 > a/big; seq 1 5000 > a/small; seq 1 9 > b/keep
        for n in $(seq 1 2000); do echo $n > c/$n; done
        head -c 20000000 /dev/urandom > b/random; sleep 4";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let target = Target::new();
    let (_, parent) = target.create(&options(root, FIRST), None);
    let script = "
        echo more >> a/big; rm c/700; echo new > c/1500; touch -d 2001-01-01 c/3; mv b/keep b/kept
        ln c/9 a/link; printf x | dd of=b/random bs=1 seek=10000000 conv=notrunc; chmod 600 c/12";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let (second, manifest) = target.create(&options(root, SECOND), Some(&parent));
    assert!(second.stats.stored_bytes < 6_000_000, "{:?}", second.stats);
    let (to, _) = target.extract(&manifest, &[]);
    assert_same(root, to.path(), &[]);
    let script = target.node_dir().join(format!("generations/{SECOND}/RESTORE.txt"));
    let to = tempfile::tempdir().unwrap();
    Cmd::new("sh").arg(&script).arg(to.path()).run().unwrap();
    assert_same(root, to.path(), &[]);
}
