//! A node with a small tree that is backed up by the program itself.
#![allow(dead_code)] // each test takes what it needs

pub mod image;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rr::archive::{self, ExtractOptions};
use rr::config;
use rr::store::{self, Access, Store, catalog};
use rr::sys::run::{Cmd, Output};
use rr::ui::{Style, Ui};

/// A node with a small tree, a target and a configuration, all in a directory.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    /// The directory that is the target; empty where the target is a server.
    pub target: PathBuf,
    /// The lines of the configuration that say where the target is.
    lines: String,
    pub tree: PathBuf,
    config: PathBuf,
}

impl Node {
    /// One that backs up to a directory. `more` is what the configuration says besides.
    pub fn new(dir: &Path, target: &Path, name: &str, more: &str) -> Node {
        std::fs::create_dir_all(target).unwrap();
        let lines = format!("target = \"file://{}\"\n", target.display());
        let node = Node { target: target.to_owned(), ..Node::at(dir, &lines, name) };
        node.configure(more);
        node
    }

    /// One that backs up to where the `lines` of its configuration say.
    pub fn at(dir: &Path, lines: &str, name: &str) -> Node {
        let node = Node {
            name: name.to_owned(),
            target: PathBuf::new(),
            lines: lines.to_owned(),
            tree: dir.join(format!("{name}.tree")),
            config: dir.join(format!("{name}.toml")),
        };
        std::fs::create_dir_all(&node.tree).unwrap();
        node.configure("");
        node.change(0, 1 << 10);
        node
    }

    pub fn configure(&self, more: &str) {
        let text = format!("node = \"{}\"\n{}{more}", self.name, self.lines);
        std::fs::write(&self.config, text).unwrap();
    }

    /// Gives four files new content that can't be compressed.
    pub fn change(&self, seed: u64, bytes: usize) {
        for number in 0..4 {
            let file = self.tree.join(format!("file{number}"));
            std::fs::write(file, noise(&format!("{} {seed} {number}", self.name), bytes)).unwrap();
        }
    }

    pub fn rr(&self, args: &[&str]) -> Cmd {
        Cmd::new(env!("CARGO_BIN_EXE_rr")).arg("--config").arg(&self.config).args(args)
    }

    pub fn backup(&self) -> Cmd {
        self.rr(&["mkbackuponly", "--include"]).arg(&self.tree)
    }

    /// Backs up and gives the generation.
    pub fn backed_up(&self) -> String {
        let output = self.backup().output().unwrap();
        assert!(output.success(), "{}", said(&output));
        self.generations().pop().unwrap()
    }

    pub fn store(&self) -> Box<dyn Store> {
        self.open(Access::Read)
    }

    pub fn open(&self, access: Access) -> Box<dyn Store> {
        let config = config::load(Some(&self.config)).unwrap().config;
        let url = config.target.unwrap().parse().unwrap();
        store::open(&url, &self.name, access, &config.target_options).unwrap()
    }

    pub fn generations(&self) -> Vec<String> {
        catalog::generations(&*self.store()).unwrap()
    }

    /// Reads every generation in full.
    pub fn verify(&self) -> Vec<String> {
        let (store, generations) = (self.store(), self.generations());
        for generation in &generations {
            let manifest = catalog::manifest(&*store, generation).unwrap();
            archive::check(&manifest, &*store, &ui()).unwrap();
        }
        generations
    }

    /// The newest generation is the tree as it is.
    pub fn comes_back(&self) {
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

    /// A run that is killed at any moment costs nothing: `moments` runs, every `every`th of them
    /// followed by one that must succeed. `size` says how big the files are for each, and how many
    /// microseconds a run with them took; that follows the machine, which others may work on as well.
    pub fn survives_kills(
        &self,
        mut dice: Dice,
        moments: u64,
        every: u64,
        size: impl Fn(u64) -> (usize, u64),
    ) {
        let mut last = self.generations().pop().unwrap();
        let (mut killed, mut pace) = (0, 1000);
        for moment in 0..moments {
            let (bytes, micros) = size(moment);
            self.change(2 + moment, bytes);
            let mut child = start(&self.backup());
            let micros = micros * pace / 1000 * 5 / 4;
            std::thread::sleep(Duration::from_micros(dice.below(micros.max(1))));
            child.kill().unwrap();
            let had_ended = child.wait().unwrap().success();
            killed += u64::from(!had_ended);
            pace = if had_ended { pace * 9 / 10 } else { (pace * 21 / 20).min(1000) };
            let generations = self.verify();
            assert!(generations.last() >= Some(&last), "{generations:?} without {last}");
            if moment % every == every - 1 {
                last = self.backed_up();
                self.comes_back();
                self.nothing_is_left_over();
            } else {
                last.clone_from(generations.last().unwrap());
            }
        }
        assert!(killed > moments / 4, "only {killed} runs were killed before they had ended");
    }

    /// Backs up files of `bytes`, and says how many microseconds that took.
    pub fn backed_up_within(&self, bytes: usize) -> u64 {
        self.change(1, bytes);
        let started = Instant::now();
        self.backed_up();
        u64::try_from(started.elapsed().as_micros()).unwrap()
    }

    /// Everything at the target is named by a manifest, or is one.
    pub fn nothing_is_left_over(&self) {
        let store = self.store();
        let mut named = BTreeSet::from(["latest.json", "machine.json"].map(str::to_owned));
        for generation in self.generations() {
            named.insert(catalog::object(&generation, "manifest.json"));
            let manifest = catalog::manifest(&*store, &generation).unwrap();
            named.extend(manifest.file.into_iter().chain(manifest.pack).map(|record| record.name));
        }
        assert_eq!(self.there(), named);
    }

    fn there(&self) -> BTreeSet<String> {
        if self.target.as_os_str().is_empty() {
            return self.store().list("").unwrap().into_iter().map(|object| object.name).collect();
        }
        // The store does not show what is unfinished.
        let dir = self.target.join(&self.name);
        let entries = walkdir::WalkDir::new(&dir).into_iter().map(Result::unwrap);
        entries
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(&dir).unwrap().display().to_string())
            .collect()
    }
}

/// All nodes back up at once, and each has what is its own.
pub fn publish_at_once(nodes: &[Node]) {
    let mut running: Vec<_> = nodes.iter().map(|node| start(&node.backup())).collect();
    for (node, child) in nodes.iter().zip(&mut running) {
        assert!(child.wait().unwrap().success(), "{}", node.name);
    }
    for node in nodes {
        assert_eq!(node.verify().len(), 1);
        node.comes_back();
        node.nothing_is_left_over();
    }
}

pub fn ui() -> Ui {
    Ui::new(Style::Plain)
}

pub fn said(output: &Output) -> String {
    output.text() + &String::from_utf8_lossy(&output.stderr)
}

pub fn start(cmd: &Cmd) -> std::process::Child {
    cmd.spawn(Stdio::null(), Stdio::null()).unwrap()
}

pub fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Numbers that are others in every run, and are said so that a failure can be told.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(test: &str) -> Dice {
        let seed = u64::from(std::process::id());
        eprintln!("{test}: the dice start at {seed}");
        Dice(seed)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 += 1;
        let hash = blake3::hash(&self.0.to_le_bytes());
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % end
    }
}
