//! Packs of which little is in use any more are done without, so that what is stored and read stays
//! near to what there is.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rr::archive::{self, CreateOptions};
use rr::config::{TargetOptions, TargetUrl};
use rr::store::catalog::FileRecord;
use rr::store::keep::Keep;
use rr::store::{Access, Manifest, Store, lock, retain};
use rr::sys::run::Cmd;

use super::filesystems::mount;
use super::{FIRST, SECOND, Target, assert_same, options, skipped, ui};

const THIRD: &str = "20261121T033500Z";
const FOURTH: &str = "20261121T043500Z";

fn sh(dir: &Path, script: &str) {
    Cmd::new("sh").args(["-ec", script]).dir(dir).run().unwrap();
}

fn bytes(packs: &[FileRecord]) -> u64 {
    packs.iter().map(|pack| pack.size_bytes).sum()
}

/// Whether a generation needs packs that `other` made.
fn needs(manifest: &Manifest, other: &str) -> bool {
    manifest.pack.iter().any(|pack| pack.name.contains(other))
}

/// What changed just now is read again the next time.
fn settle() {
    std::thread::sleep(Duration::from_secs(4));
}

/// Each day one file stays, and others are gone the next day.
#[test]
fn what_comes_and_goes_does_not_fill_the_target() {
    const STAYS: u64 = 1_200_000;
    const GOES: u64 = 8 * STAYS;
    const DAYS: u64 = 8;
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path().join("root");
    sh(
        source.path(),
        "mkdir -p root/etc root/keep; for n in $(seq 500); do echo $n > root/etc/$n; done",
    );
    let target = Target::new();
    let url = TargetUrl::File { dir: target.dir.path().to_owned() };
    let store: Arc<dyn Store> =
        rr::store::open(&url, "node001", Access::Write, &TargetOptions::default()).unwrap().into();
    let keep = Keep { last: 2, ..Keep::default() };
    let mut kept: Vec<Manifest> = Vec::new();
    let mut make = |day: u64| {
        let generation = format!("202611{day:02}T013500Z");
        let (created, manifest) = target.create(&options(&root, &generation), kept.last());
        let guard = lock::lock(&store, &ui()).unwrap();
        retain::prune(&guard, &keep, &ui()).unwrap();
        drop(guard);
        kept.push(manifest);
        (created, kept.clone())
    };
    for day in 1..=DAYS {
        let script = format!(
            "rm -rf was; cp -a root was; cd root; rm -rf go; mkdir go
             head -c {STAYS} /dev/urandom > keep/{day:02}
             for n in 1 2 3 4 5 6 7 8; do head -c {STAYS} /dev/urandom > go/$n; done"
        );
        sh(source.path(), &script);
        let (_, made) = make(day);
        let live = day * STAYS + GOES;
        let needed = bytes(&made.last().unwrap().pack);
        assert!(needed < 3 * live, "day {day}: of {needed} bytes {live} are in use");
        let there: u64 = store.list("packs/").unwrap().iter().map(|o| o.size_bytes).sum();
        assert!(there < 3 * live + GOES, "day {day}: {there} bytes for {live}");
        // Each of the kept ones is whole.
        let last_two = &made[made.len().saturating_sub(2)..];
        last_two.iter().for_each(|m| archive::check(m, target.store.as_ref(), &ui()).unwrap());
        if day == DAYS {
            let [before, last] = last_two else { panic!("{}", last_two.len()) };
            for (manifest, root) in [(before, source.path().join("was")), (last, root.clone())] {
                let (to, _) = target.extract(manifest, &[]);
                assert_same(&root, to.path(), &[]);
            }
        }
    }
    // Nothing changes any more. What the last day left is stored anew, and that was it.
    settle();
    make(DAYS + 1);
    let (_, made) = make(DAYS + 2);
    let (created, _) = make(DAYS + 3);
    assert_eq!(created.stats.stored_bytes, 0, "{:?}", created.stats);
    assert_eq!(created.packs, made.last().unwrap().pack);
}

#[test]
fn of_a_little_used_pack_only_what_is_in_use_is_read() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let script = "
        mkdir a b gone; head -c 12000000 /dev/urandom > a/big; seq 1 5000 > b/left-out
        for n in $(seq 300); do echo $n > b/$n; done; head -c 20000000 /dev/urandom > gone/x";
    sh(root, script);
    settle();
    let target = Target::new();
    let (_, first) = target.create(&options(root, FIRST), None);
    // A slice of three is of the second generation.
    sh(root, "rm -r gone; printf x | dd of=a/big bs=1 seek=5000000 conv=notrunc status=none");
    settle();
    let (created, second) = target.create(&options(root, SECOND), Some(&first));
    assert!(created.stats.stored_bytes < 5_000_000, "{:?}", created.stats);
    assert!(needs(&second, FIRST));

    // The end of the stream is in one of those packs, too.
    let third = CreateOptions { exclude: vec!["/b/left-out".into()], ..options(root, THIRD) };
    let (created, third) = target.create(&third, Some(&second));
    assert_eq!(created.warnings, Vec::<String>::new());
    assert!(!needs(&third, FIRST) && needs(&third, SECOND), "{:?}", third.pack);
    assert!(created.stats.stored_bytes < 8_200_000, "{:?}", created.stats);
    for pack in first.pack.iter().filter(|pack| !third.pack.contains(pack)) {
        std::fs::remove_file(target.node_dir().join(&pack.name)).unwrap();
    }
    archive::check(&third, target.store.as_ref(), &ui()).unwrap();
    let (to, _) = target.extract(&third, &[]);
    assert!(!to.path().join("b/left-out").exists());
    sh(root, "rm b/left-out");
    assert_same(root, to.path(), &["mtime"]);
    let fourth = CreateOptions { exclude: vec!["/b/left-out".into()], ..options(root, FOURTH) };
    let (created, _) = target.create(&fourth, Some(&third));
    assert!(created.stats.stored_bytes < 20_000, "{:?}", created.stats);
}

/// As of any other file that is read: zeros stand there, it is told, and it is read the next time.
#[test]
fn loop_what_can_not_be_read_any_more_is_told_of() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, mnt) = (dir.path().join("image"), dir.path().join("mnt"));
    let Some(_guard) = mount("mkfs.ext4 -q -O ^has_journal", &image, &mnt) else { return };
    let source = mnt.join("source");
    std::fs::create_dir(&source).unwrap();
    sh(
        &source,
        "head -c 12000000 /dev/urandom > big; head -c 30000000 /dev/urandom > gone; echo 1 > small",
    );
    settle();
    let target = Target::new();
    let (_, first) = target.create(&options(&source, FIRST), None);
    sh(&source, "rm gone");
    settle();
    let (_, second) = target.create(&options(&source, SECOND), Some(&first));
    assert!(needs(&second, FIRST));
    let big = std::fs::read(source.join("big")).unwrap();
    Cmd::new("mount").args(["-o", "remount,ro"]).arg(&mnt).run().unwrap();
    Cmd::new("dd").args(["if=big", "iflag=nocache", "count=0"]).dir(&source).run().unwrap();

    // The disk ends within the file.
    let blocks = Cmd::new("debugfs").args(["-R", "blocks /source/big"]).arg(&image).text().unwrap();
    let block: u64 = blocks.split_whitespace().filter_map(|n| n.parse().ok()).max().unwrap();
    let disk = std::fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let len = disk.metadata().unwrap().len();
    let mut end = vec![0; usize::try_from(len - block * 4096).unwrap()];
    disk.read_exact_at(&mut end, block * 4096).unwrap();
    disk.set_len(block * 4096).unwrap();
    let (created, third) = target.create(&options(&source, THIRD), Some(&second));
    let said = &created.warnings;
    assert!(said.len() == 1 && said[0].starts_with("/big can't be read at byte "), "{said:?}");
    assert_eq!(created.unread.as_deref(), Some("1 (/big)"));
    assert!(!needs(&third, FIRST), "{:?}", third.pack);

    disk.set_len(len).unwrap();
    disk.write_all_at(&end, block * 4096).unwrap();
    let (created, fourth) = target.create(&options(&source, FOURTH), Some(&third));
    assert_eq!((created.warnings, created.unread), (Vec::new(), None));
    let (to, _) = target.extract(&fourth, &[]);
    assert!(std::fs::read(to.path().join("big")).unwrap() == big);
}
