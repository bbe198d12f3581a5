//! Bad days of a target that is a directory: what a run that ends anywhere leaves, who may do what to
//! whose tree, and what the retention deletes. Most run the program itself.
//!
//! * [`cuts`] kill -9, a power cut, a filesystem that is full, each at every moment
//! * [`others`] other runs, other nodes, readers, wrong clocks
//! * [`usb`] disks made by `rr format`

mod cuts;
mod others;
mod usb;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rr::archive::{self, ExtractOptions};
use rr::config::{TargetOptions, TargetUrl};
use rr::store::{self, Access, Store, catalog};
use rr::sys::run::{Cmd, Output};
use rr::ui::{Style, Ui};

/// A node with a small tree, a target and a configuration, all in a directory.
#[derive(Debug)]
struct Node {
    name: String,
    target: PathBuf,
    tree: PathBuf,
    config: PathBuf,
}

impl Node {
    /// `more` is what the configuration says besides.
    fn new(dir: &Path, target: &Path, name: &str, more: &str) -> Node {
        let node = Node {
            name: name.to_owned(),
            target: target.to_owned(),
            tree: dir.join(format!("{name}.tree")),
            config: dir.join(format!("{name}.toml")),
        };
        for dir in [&node.target, &node.tree] {
            std::fs::create_dir_all(dir).unwrap();
        }
        node.configure(more);
        node.change(0, 1 << 10);
        node
    }

    fn configure(&self, more: &str) {
        let url =
            format!("target = \"file://{}\"\nnode = \"{}\"\n", self.target.display(), self.name);
        std::fs::write(&self.config, url + more).unwrap();
    }

    /// Gives four files new content that can't be compressed.
    fn change(&self, seed: u64, bytes: usize) {
        for number in 0..4 {
            let file = self.tree.join(format!("file{number}"));
            std::fs::write(file, noise(&format!("{} {seed} {number}", self.name), bytes)).unwrap();
        }
    }

    fn rr(&self, args: &[&str]) -> Cmd {
        Cmd::new(env!("CARGO_BIN_EXE_rr")).arg("--config").arg(&self.config).args(args)
    }

    fn backup(&self) -> Cmd {
        self.rr(&["mkbackuponly", "--include"]).arg(&self.tree)
    }

    /// Backs up and gives the generation.
    fn backed_up(&self) -> String {
        let output = self.backup().output().unwrap();
        assert!(output.success(), "{}", said(&output));
        self.generations().pop().unwrap()
    }

    fn store(&self) -> Box<dyn Store> {
        self.open(Access::Read)
    }

    fn open(&self, access: Access) -> Box<dyn Store> {
        let url = TargetUrl::File { dir: self.target.clone() };
        store::open(&url, &self.name, access, &TargetOptions::default()).unwrap()
    }

    fn generations(&self) -> Vec<String> {
        catalog::generations(&*self.store()).unwrap()
    }

    /// Reads every generation in full.
    fn verify(&self) -> Vec<String> {
        let (store, generations) = (self.store(), self.generations());
        for generation in &generations {
            let manifest = catalog::manifest(&*store, generation).unwrap();
            archive::check(&manifest, &*store, &ui()).unwrap();
        }
        generations
    }

    /// The newest generation is the tree as it is.
    fn comes_back(&self) {
        let store = self.store();
        let manifest = catalog::manifest(&*store, self.generations().last().unwrap()).unwrap();
        let root = tempfile::tempdir().unwrap();
        let options = ExtractOptions { root: root.path().to_owned(), ..ExtractOptions::default() };
        archive::extract(&manifest, &*store, &options, &ui()).unwrap();
        let back = root.path().join(self.tree.strip_prefix("/").unwrap());
        for number in 0..4 {
            let read = |dir: &Path| std::fs::read(dir.join(format!("file{number}"))).unwrap();
            assert!(read(&back) == read(&self.tree), "file{number} of {}", self.name);
        }
    }

    /// Every file at the target is named by a manifest, or is one.
    fn nothing_is_left_over(&self) {
        let store = self.store();
        let mut named = BTreeSet::from(["latest.json".to_owned()]);
        for generation in self.generations() {
            named.insert(catalog::object(&generation, "manifest.json"));
            let manifest = catalog::manifest(&*store, &generation).unwrap();
            named.extend(manifest.file.into_iter().chain(manifest.pack).map(|record| record.name));
        }
        let dir = self.target.join(&self.name);
        let entries = walkdir::WalkDir::new(&dir).into_iter().map(Result::unwrap);
        let there: BTreeSet<String> = entries
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(&dir).unwrap().display().to_string())
            .collect();
        assert_eq!(there, named);
    }
}

fn ui() -> Ui {
    Ui::new(Style::Plain)
}

fn said(output: &Output) -> String {
    output.text() + &String::from_utf8_lossy(&output.stderr)
}

fn start(cmd: &Cmd) -> std::process::Child {
    cmd.spawn(Stdio::null(), Stdio::null()).unwrap()
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Numbers that are others in every run, and are said so that a failure can be told.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(test: &str) -> Dice {
        let seed = u64::from(std::process::id());
        eprintln!("{test}: the dice start at {seed}");
        Dice(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 += 1;
        let hash = blake3::hash(&self.0.to_le_bytes());
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % end
    }
}

/// Whether a test can run that mounts.
fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test} is skipped: it mounts, which needs root");
    }
    root
}
