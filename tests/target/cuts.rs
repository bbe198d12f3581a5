//! Runs that end in the middle.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use rr::store::catalog;
use rr::sys::mount::MountGuard;
use rr::sys::run::{Cmd, Output};

use crate::is_root;
use crate::node::{Dice, Node, noise, said, start};

const MOMENTS: u64 = 200;
/// Generations come and go all the time.
const KEEP: &str = "[backup]\nkeep_last = 2\n";

#[test]
fn a_kill_at_any_moment_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", KEEP);
    node.backed_up();
    // A tree that makes one pack, and one that makes two; how long a run takes for each.
    let (small, big) = (300_000, 10 << 20);
    let [small_micros, big_micros] = [small, big].map(|bytes| node.backed_up_within(bytes));
    let dice = Dice::new("a_kill_at_any_moment_costs_nothing");
    node.survives_kills(dice, MOMENTS, 10, |moment| {
        if moment % 20 == 5 { (big, big_micros) } else { (small, small_micros) }
    });
}

/// The filesystem of the target is frozen as a power cut would leave it: with what had reached the
/// disk by then, in the order in which it did. The disk is a file, cloned at once by its filesystem.
#[test]
fn loop_a_power_cut_at_any_moment_costs_nothing() {
    const NAME: &str = "loop_a_power_cut_at_any_moment_costs_nothing";
    if !is_root(NAME) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let script = "truncate -s 600M outer; mkfs.xfs -q -m reflink=1 outer";
    Cmd::new("sh").args(["-ec", script]).dir(dir.path()).run().unwrap();
    for point in ["disks", "target", "after"] {
        std::fs::create_dir(at(point)).unwrap();
    }
    let outer = at("outer");
    let Ok(disks) = MountGuard::mount(&["-o", "loop", outer.to_str().unwrap()], &at("disks"))
    else {
        eprintln!("{NAME} is skipped: no XFS or no loop devices here");
        return;
    };
    let disk = at("disks/disk");
    let script = "truncate -s 48M disk; mkfs.ext4 -q -E lazy_itable_init=0 disk";
    Cmd::new("sh").args(["-ec", script]).dir(disks.path()).run().unwrap();
    let mounted =
        MountGuard::mount(&["-o", "loop", disk.to_str().unwrap()], &at("target")).unwrap();

    let cuts = cut(&Node::new(dir.path(), &at("target"), "node001", KEEP), &disk, disks.path());
    mounted.close().unwrap();
    // The tree is as small as it can be, so that what is looked at is the target.
    let node = Node::new(dir.path(), &at("after"), "node001", KEEP);
    for (number, published) in cuts.iter().enumerate() {
        let cut = disks.path().join(number.to_string());
        let mounted = MountGuard::mount(&["-o", "loop", cut.to_str().unwrap()], &at("after"));
        let mounted = mounted.unwrap();
        let generations = if published.is_some() { node.verify() } else { Vec::new() };
        assert!(generations.last() >= published.as_ref(), "{generations:?} lack {published:?}");
        node.backed_up();
        node.verify();
        node.nothing_is_left_over();
        mounted.close().unwrap();
        std::fs::remove_file(cut).unwrap();
    }
}

/// Clones the disk at random moments while the node is backed up again and again. Gives the newest
/// generation that was said to be published before each.
fn cut(node: &Node, disk: &Path, to: &Path) -> Vec<Option<String>> {
    let mut dice = Dice::new("power cuts");
    let published = Mutex::new(None);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0.. {
                if enough.load(Ordering::Relaxed) {
                    return;
                }
                node.change(seed, 100_000);
                let generation = node.backed_up();
                *published.lock().unwrap() = Some(generation);
            }
        });
        let cuts = (0..MOMENTS).map(|number| {
            std::thread::sleep(Duration::from_micros(dice.below(60_000)));
            let before = published.lock().unwrap().clone();
            let clone = File::create_new(to.join(number.to_string())).unwrap();
            rustix::fs::ioctl_ficlone(&clone, File::open(disk).unwrap()).unwrap();
            before
        });
        let cuts = cuts.collect();
        enough.store(true, Ordering::Relaxed);
        cuts
    })
}

fn is_told_full(output: &Output) {
    let text = said(output);
    assert!(text.contains("is full") && text.contains("hint: "), "{text}");
}

/// Each file and directory that a run makes is the one for which there is no room.
#[test]
fn loop_a_target_without_room_for_one_more_file_keeps_what_it_has() {
    if !is_root("loop_a_target_without_room_for_one_more_file_keeps_what_it_has") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let mounted =
        MountGuard::mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &node.target).unwrap();
    let first = node.backed_up();
    node.change(1, 100_000);
    // (A run that can't write latest.json any more has published, and fails.)
    let limit = |files: u64| {
        let options = format!("remount,nr_inodes={files}");
        Cmd::new("mount").args(["-o", &options]).arg(mounted.path()).run().unwrap();
    };
    let mut refused = 0;
    loop {
        let used = statvfs(mounted.path()).unwrap();
        limit(used.files() - used.files_free() + refused);
        let output = node.backup().output().unwrap();
        limit(10_000);
        assert!(node.verify().contains(&first));
        if output.success() {
            break;
        }
        is_told_full(&output);
        refused += 1;
        // What it left is swept, or there would be more room for the next one.
        assert!(node.rr(&["prune"]).output().unwrap().success());
    }
    assert!(refused > 7, "a run needs only {refused} files and directories?");
    node.comes_back();
    node.nothing_is_left_over();
}

/// The target is full from any byte on, since somebody else fills it while the run goes on.
#[test]
fn loop_a_target_that_others_fill_keeps_what_it_has() {
    if !is_root("loop_a_target_that_others_fill_keeps_what_it_has") {
        return;
    }
    const STEP_KIB: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", KEEP);
    let mounted =
        MountGuard::mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &node.target).unwrap();
    let first = node.backed_up();
    node.change(1, 200_000);
    let ballast = mounted.path().join("ballast");
    let mut refused = 0;
    loop {
        // Leaves so many KiB.
        let leave = refused * STEP_KIB;
        let fill = format!(
            "cd {}; free=$(stat -f -c %a .); truncate -s 0 ballast; \
             fallocate -l $(( (free - {leave} / 4) * 4096 )) ballast",
            mounted.path().display()
        );
        node.configure(&format!("{KEEP}pre = [\"{fill}\"]\n"));
        let output = node.backup().output().unwrap();
        std::fs::remove_file(&ballast).unwrap();
        assert!(node.verify().contains(&first));
        if output.success() {
            break;
        }
        is_told_full(&output);
        refused += 1;
    }
    assert!(refused > 15, "{refused} steps were enough");
    node.comes_back();
    node.nothing_is_left_over();
    let latest = catalog::latest(&*node.store()).unwrap();
    assert!(latest.is_some_and(|latest| latest > first));
}

/// Others have filled the target to the last byte, so that there is no room for a lock either.
#[test]
fn loop_a_target_that_is_full_can_be_pruned() {
    if !is_root("loop_a_target_that_is_full_can_be_pruned") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let mounted =
        MountGuard::mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &node.target).unwrap();
    let mut made: Vec<String> = (1..=5)
        .map(|seed| {
            node.change(seed, 100_000);
            node.backed_up()
        })
        .collect();
    let ballast = mounted.path().join("ballast");
    // No file more, either; what is deleted makes room for both.
    let fill = || {
        let _ = std::fs::remove_file(&ballast);
        let mut file = File::create(&ballast).unwrap();
        let _ = std::io::copy(&mut std::io::repeat(1), &mut file);
        let used = statvfs(mounted.path()).unwrap();
        assert_eq!(used.blocks_free(), 0);
        let options = format!("remount,nr_inodes={}", used.files() - used.files_free());
        Cmd::new("mount").args(["-o", &options]).arg(mounted.path()).run().unwrap();
    };
    let prune = |args: &[&str]| {
        let output = node.rr(&[&["prune"], args].concat()).output().unwrap();
        (output.success(), said(&output))
    };
    fill();
    // Nothing is to go, what is may not, or it is the newest, which latest.json names.
    for (args, why) in [
        (&["--keep-last", "9"][..], "--keep-last N for fewer"),
        (&["--drop", "20201101T000000Z"], "there is no generation"),
        (&["--drop", &made[4]], "one that is not the newest"),
    ] {
        let (done, said) = prune(args);
        assert!(!done && said.contains(why), "{args:?}: {said}");
        assert_eq!(node.verify(), made);
    }
    let (done, said) = prune(&["--drop", &made[1]]);
    assert!(done && said.contains("1 generation and"), "{said}");
    made.remove(1);
    assert_eq!(node.verify(), made);
    fill();
    let (done, said) = prune(&["--keep-last", "2"]);
    let deleted = |name: &String| said.contains(&format!("delete  {name}\n"));
    assert!(done && made[..2].iter().all(deleted) && said.contains("2 generations and"), "{said}");
    made.drain(..2);
    assert_eq!(node.verify(), made);
    // The last one, and what a run left that was killed.
    prune(&["--keep-last", "1"]);
    let left = node.target.join("node001/packs/20261101T000000Z-1-abc.tar.zst");
    std::fs::write(&left, noise("left", 100_000)).unwrap();
    fill();
    let (done, said) = prune(&[]);
    assert!(done && !left.exists(), "{said}");
    assert_eq!(node.verify(), made[1..]);
    std::fs::remove_file(&ballast).unwrap();
    node.comes_back();
    node.nothing_is_left_over();
}

/// No generation is there, and nearly all of the target is what killed runs left.
#[test]
fn loop_a_first_run_that_is_killed_leaves_room_for_the_next() {
    if !is_root("loop_a_first_run_that_is_killed_leaves_room_for_the_next") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let _mounted =
        MountGuard::mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &node.target).unwrap();
    node.change(1, 10 << 20);
    let packs = node.target.join("node001/packs");
    let stored =
        || std::fs::read_dir(&packs).into_iter().flatten().flatten().any(|entry| is_pack(&entry));
    // The second pack comes later.
    node.configure("[backup]\nbandwidth_mib_per_second = 8\n");
    let mut child = start(&node.backup());
    while !stored() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(stored() && node.generations().is_empty());
    std::fs::write(packs.join("20261101T000000Z-1-abc.tar.zst"), vec![1; 20 << 20]).unwrap();
    node.configure("");
    node.backed_up();
    node.comes_back();
    node.nothing_is_left_over();
}

fn is_pack(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().ends_with(".tar.zst")
}
