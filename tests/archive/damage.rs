//! Whatever happens to a generation's objects at the target is found, and named, before a byte of it
//! is written anywhere.

use std::collections::HashMap;
use std::path::PathBuf;

use rr::archive::{self, ExtractOptions};
use rr::store::{Manifest, catalog};
use rr::sys::run::Cmd;

use super::{FIRST, SECOND, Target, options, skipped, ui};

/// Flips at random places, besides those at every field.
const RANDOM_FLIPS: usize = 1000;
/// How many flips each damaged pack is extracted in spite of, which takes longer.
const EXTRACT_EVERY: usize = 16;

/// As good as random, and always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// An incremental generation of a small tree, with every object that a real one has.
struct Victim {
    target: Target,
    manifest: Manifest,
    source: tempfile::TempDir,
    /// Name and bytes of each object that the generation needs.
    objects: Vec<(String, Vec<u8>)>,
}

impl Victim {
    fn new() -> Victim {
        let source = tempfile::tempdir().unwrap();
        let script = "
            mkdir -p a/b; seq 9000 > a/seq; head -c 30000 /dev/urandom > a/b/random
            ln -s seq a/link; ln a/seq hard; truncate -s 1M a/hole; echo end >> a/hole
            seq 200000 > big; setfattr -n user.x -v y a/b";
        Cmd::new("sh").args(["-ec", script]).dir(source.path()).run().unwrap();
        let target = Target::new();
        let (_, first) = target.create(&options(source.path(), FIRST), None);
        std::fs::write(source.path().join("a/more"), "more").unwrap();
        let (_, manifest) = target.create(&options(source.path(), SECOND), Some(&first));
        let names = manifest.file.iter().chain(&manifest.pack).map(|record| record.name.clone());
        let objects = names.chain([catalog::object(SECOND, "manifest.json")]);
        let read = |name: String| {
            let bytes = std::fs::read(target.node_dir().join(&name)).unwrap();
            (name, bytes)
        };
        let objects: Vec<_> = objects.map(read).collect();
        Victim { target, manifest, source, objects }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.target.node_dir().join(name)
    }

    /// What a recovery does before it touches a disk.
    fn check(&self) -> Result<(), String> {
        let store = self.target.store.as_ref();
        let manifest = catalog::manifest(store, SECOND).map_err(|e| format!("{e:#}"))?;
        archive::check(&manifest, store, &ui()).map_err(|e| format!("{e:#}"))
    }

    /// Runs `look` with one bit of an object flipped.
    fn with_flip(&self, object: usize, at: usize, bit: usize, look: impl FnOnce(&str)) {
        let (name, good) = &self.objects[object];
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        std::fs::write(self.path(name), bad).unwrap();
        look(name);
        std::fs::write(self.path(name), good).unwrap();
    }

    fn is_found(&self, object: usize, at: usize, bit: usize) {
        self.with_flip(object, at, bit, |name| {
            let said = self.check().expect_err(&format!("bit {bit} of byte {at} of {name}"));
            assert!(said.contains(name), "{name}, byte {at}: {said}");
        });
    }

    /// Extracting damaged bytes fails, and what was written by then is right.
    fn is_never_written(&self, object: usize, at: usize, bit: usize) {
        self.with_flip(object, at, bit, |name| {
            let to = tempfile::tempdir().unwrap();
            let options =
                ExtractOptions { root: to.path().to_owned(), ..ExtractOptions::default() };
            let store = self.target.store.as_ref();
            if let Err(error) = archive::extract(&self.manifest, store, &options, &ui()) {
                assert!(format!("{error:#}").contains(name), "{error:#}");
            }
            for file in ["a/seq", "a/b/random", "a/more"] {
                let was = std::fs::read(self.source.path().join(file)).unwrap();
                let is = std::fs::read(to.path().join(file)).ok();
                assert!(is.is_none_or(|is| is == was), "{file}: bit {bit} of byte {at} of {name}");
            }
        });
    }
}

/// Where the fields of an object lie: all of its bytes, but for packs, where the data between the
/// fields of zstd's frames is left to chance.
fn fields(name: &str, bytes: &[u8]) -> Vec<usize> {
    const FRAME: &[u8] = b"\x28\xb5\x2f\xfd";
    if !name.starts_with("packs/") {
        return (0..bytes.len()).collect();
    }
    let starts = bytes.windows(4).enumerate().filter(|(_, window)| *window == FRAME);
    let mut fields: Vec<usize> = starts
        .flat_map(|(start, _)| start.saturating_sub(4)..start + 18) // checksum; head, first block
        .chain(bytes.len() - 4..bytes.len())
        .filter(|&at| at < bytes.len())
        .collect();
    fields.dedup();
    fields
}

#[test]
fn a_flipped_bit_anywhere_is_found_by_name() {
    if skipped() {
        return;
    }
    let victim = Victim::new();
    victim.check().unwrap();
    let mut random = Random(0x0072_722d_6269_7473);
    for (object, (name, bytes)) in victim.objects.iter().enumerate() {
        // A long text is no structure: the random flips below are for it.
        let fields = fields(name, bytes);
        let step = if name.ends_with("RESTORE.txt") { 16 } else { 1 };
        for at in fields.into_iter().step_by(step) {
            victim.is_found(object, at, random.below(8));
        }
    }
    let sizes: HashMap<_, _> = victim.objects.iter().map(|(n, b)| (n.as_str(), b.len())).collect();
    let total: usize = sizes.values().sum();
    for flip in 0..RANDOM_FLIPS {
        let mut at = random.below(total);
        let mut object = 0;
        while at >= victim.objects[object].1.len() {
            at -= victim.objects[object].1.len();
            object += 1;
        }
        let bit = random.below(8);
        victim.is_found(object, at, bit);
        if flip % EXTRACT_EVERY == 0 && victim.objects[object].0.starts_with("packs/") {
            victim.is_never_written(object, at, bit);
        }
    }
    victim.check().unwrap();
}

#[test]
fn what_is_cut_off_or_missing_is_found_by_name() {
    if skipped() {
        return;
    }
    let victim = Victim::new();
    for (name, good) in &victim.objects {
        let path = victim.path(name);
        for len in [0, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..len]).unwrap();
            let said = victim.check().unwrap_err();
            let manifest = name.ends_with("manifest.json");
            let what =
                if manifest { "cut off".to_owned() } else { format!("truncated: it has {len}") };
            assert!(said.contains(name) && said.contains(&what), "{name}: {said}");
        }
        std::fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
        assert!(victim.check().unwrap_err().contains(name));
        std::fs::remove_file(&path).unwrap();
        let said = victim.check().unwrap_err();
        assert!(said.contains(name) || said.contains("has no generation"), "{name}: {said}");
        // Of the RESTORE text and the recipe the rest is whole without.
        if name.starts_with("packs/") {
            let to = tempfile::tempdir().unwrap();
            let options =
                ExtractOptions { root: to.path().to_owned(), ..ExtractOptions::default() };
            let store = victim.target.store.as_ref();
            match archive::extract(&victim.manifest, store, &options, &ui()) {
                Ok(_) => assert!(name.ends_with(".index.zst"), "{name} is not needed?"),
                Err(error) => assert!(format!("{error:#}").contains(name), "{error:#}"),
            }
        }
        std::fs::write(&path, good).unwrap();
    }
    // What RESTORE.txt says of a pack that is cut off.
    let (name, good) = victim.objects.iter().find(|(name, _)| name.ends_with(".tar.zst")).unwrap();
    std::fs::write(victim.path(name), &good[..good.len() - 1]).unwrap();
    let script = victim.path(&catalog::object(SECOND, "RESTORE.txt"));
    let to = tempfile::tempdir().unwrap();
    let said = Cmd::new("sh").arg(script).arg(to.path()).run().unwrap_err();
    assert!(format!("{said:#}").contains("is truncated"), "{said:#}");
}
