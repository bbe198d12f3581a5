//! Which entries and chunks an extraction wants.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::dirs::{Dirs, split};
use super::entry::{Entry, Kind, shown};
use super::extract::ExtractOptions;
use super::index::Index;
use super::select::relative;
use super::table::Row;
use crate::store::Store;

/// Everything, or what lies at and below some paths.
#[derive(Debug)]
pub enum Pick {
    All,
    Some(Box<Chosen>),
}

#[derive(Debug, Default)]
pub struct Chosen {
    wanted: Wanted,
    /// What is below `without` stays out, but for what is at and below a longer one of `but`.
    without: Vec<Vec<u8>>,
    but: Vec<Vec<u8>>,
    /// Directories above the paths that are not there yet: they get what they had, too.
    above: HashSet<Vec<u8>>,
    /// Files outside of the paths that have other names inside: those come instead.
    instead: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// The chunks that are needed.
    chunks: Vec<bool>,
}

impl Pick {
    /// `generation` is the one that the index is of.
    pub fn new(
        (generation, index): (&str, &Index),
        store: &dyn Store,
        options: &ExtractOptions,
    ) -> Result<Pick> {
        if options.paths.is_empty() && options.without.is_empty() {
            return Ok(Pick::All);
        }
        let relative = |paths: &[PathBuf]| paths.iter().map(|path| relative(path)).collect();
        let mut some = Chosen {
            wanted: Wanted::new(&options.paths),
            without: relative(&options.without),
            but: relative(&options.but),
            chunks: vec![false; index.chunks.len()],
            ..Chosen::default()
        };
        some.above = missing_above(some.wanted.paths(), &options.root)?;
        for run in index.runs(store) {
            let (number, rows) = run?;
            for row in &rows {
                some.take(number, row);
            }
        }
        // Files whose first name lies outside of the paths came before; a second look finds them.
        if !some.instead.is_empty() {
            for run in index.runs(store) {
                let (number, rows) = run?;
                for row in &rows {
                    if some.instead.contains_key(&row.entry.path) {
                        some.want(number, row.slices);
                    }
                }
            }
        }
        check_found(&some.wanted, generation)?;
        Ok(Pick::Some(Box::new(some)))
    }

    pub fn wants_chunk(&self, number: usize) -> bool {
        match self {
            Pick::All => true,
            Pick::Some(some) => some.chunks.get(number).copied().unwrap_or(false),
        }
    }

    /// As what an entry of the stream is created: itself, nothing, or under other names.
    pub fn targets(&self, entry: Entry) -> Vec<Entry> {
        let Pick::Some(some) = self else { return vec![entry] };
        if let Some(names) = some.instead.get(&entry.path) {
            let Some((first, more)) = names.split_first() else { return Vec::new() };
            let link = |path: &Vec<u8>| Entry {
                path: path.clone(),
                kind: Kind::HardLink,
                link: first.clone(),
                ..entry.clone()
            };
            let mut targets = vec![Entry { path: first.clone(), ..entry.clone() }];
            targets.extend(more.iter().map(link));
            return targets;
        }
        if entry.kind == Kind::HardLink && some.instead.contains_key(&entry.link) {
            return Vec::new(); // made with the file itself
        }
        if some.selects(&entry.path) || some.above.contains(&entry.path) {
            vec![entry]
        } else {
            Vec::new()
        }
    }
}

impl Chosen {
    fn selects(&self, path: &[u8]) -> bool {
        self.wanted.selects(path) && !self.leaves_out(path)
    }

    fn leaves_out(&self, path: &[u8]) -> bool {
        let above = |dirs: &[Vec<u8>]| {
            dirs.iter().filter(|dir| is_at_or_below(path, dir)).map(Vec::len).max()
        };
        above(&self.without).is_some_and(|len| len < path.len())
            && above(&self.without) > above(&self.but)
    }

    fn take(&mut self, number: usize, row: &Row) {
        let path = &row.entry.path;
        let selected = self.wanted.finds(path) && !self.leaves_out(path);
        if selected || self.above.contains(path) {
            self.want(number, row.slices);
        }
        if selected && row.entry.kind == Kind::HardLink && !self.selects(&row.entry.link) {
            self.instead.entry(row.entry.link.clone()).or_default().push(path.clone());
        }
    }

    fn want(&mut self, run: usize, slices: u32) {
        let end = run.saturating_add(slices as usize).min(self.chunks.len().saturating_sub(1));
        self.chunks[run..=end].fill(true);
    }
}

/// The paths that are asked for, all where there are none; and which of them are there.
#[derive(Debug, Default)]
pub struct Wanted {
    paths: Vec<Vec<u8>>,
    found: Vec<bool>,
}

impl Wanted {
    pub fn new(paths: &[PathBuf]) -> Wanted {
        let paths: Vec<_> = paths.iter().map(|path| relative(path)).collect();
        Wanted { found: vec![false; paths.len()], paths }
    }

    pub fn paths(&self) -> &[Vec<u8>] {
        &self.paths
    }

    pub fn selects(&self, path: &[u8]) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|wanted| is_at_or_below(path, wanted))
    }

    /// As [`Wanted::selects`], of what is there.
    pub fn finds(&mut self, path: &[u8]) -> bool {
        let mut selected = self.paths.is_empty();
        for (wanted, found) in self.paths.iter().zip(&mut self.found) {
            if is_at_or_below(path, wanted) {
                *found = true;
                selected = true;
            }
        }
        selected
    }

    /// Those of which nothing was there.
    pub fn missing(&self) -> Option<String> {
        let missing = self.paths.iter().zip(&self.found).filter(|(_, found)| !**found);
        let missing: Vec<_> = missing.map(|(path, _)| shown(path)).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

/// # Errors
/// The generation has nothing of one of the paths.
pub fn check_found(wanted: &Wanted, generation: &str) -> Result<()> {
    match wanted.missing() {
        Some(missing) => {
            bail!("not in the backup: {missing}\nhint: rr list {generation} lists what is")
        }
        None => Ok(()),
    }
}

pub fn is_at_or_below(path: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty()
        || path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Directories above the paths that are not there yet.
pub fn missing_above(paths: &[Vec<u8>], root: &Path) -> Result<HashSet<Vec<u8>>> {
    let mut dirs = Dirs::plain(root)?;
    let mut missing = HashSet::new();
    for path in paths {
        let mut path = path.as_slice();
        while let Some((parent, _)) = split(path) {
            if !parent.is_empty() && dirs.get(parent).is_err() {
                missing.insert(parent.to_vec());
            }
            path = parent;
        }
    }
    Ok(missing)
}
