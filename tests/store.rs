//! A directory as a store: whole objects, clear refusals, and what a kill leaves.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rr::config::{TargetOptions, TargetUrl};
use rr::store::catalog::{self, ArchiveStats, FileRecord, MANIFEST_VERSION, Manifest};
use rr::store::keep::Keep;
use rr::store::{self, Access, Store, StoreError, lock, retain};
use rr::sys::mount::{self, MountGuard};
use rr::sys::run::Cmd;
use rr::ui::{Style, Ui};

fn open(dir: &Path, access: Access) -> anyhow::Result<Arc<dyn Store>> {
    let url = TargetUrl::File { dir: dir.to_owned() };
    Ok(store::open(&url, "node001", access, &TargetOptions::default())?.into())
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|o| o.name).collect()
}

/// All files below `dir`, those that are not objects too.
fn files(dir: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let mut found: Vec<_> = entries
        .filter(|e| e.file_type().is_file())
        .map(|e| e.path().strip_prefix(dir).unwrap().display().to_string())
        .collect();
    found.sort();
    found
}

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test} is skipped: it mounts, which needs root");
    }
    root
}

#[test]
fn objects_are_put_found_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    store.put("packs/a", b"hello").unwrap();
    store.put("packs/a", b"hello world").unwrap();
    store.put("generations/1/layout.toml", b"").unwrap();
    let big = dir.path().join("big");
    std::fs::write(&big, vec![7; 3 << 20]).unwrap();
    store.put_file("rr-node001.iso", &big).unwrap();
    assert_eq!(store.get("packs/a").unwrap(), b"hello world");
    assert_eq!(store.get_range("packs/a", 6, 5).unwrap(), b"world");
    assert_eq!(store.size_bytes("rr-node001.iso").unwrap(), 3 << 20);
    let mut read = Vec::new();
    store
        .read_range("rr-node001.iso", 9, (3 << 20) - 9, &mut |p| read.extend_from_slice(p))
        .unwrap();
    assert!(read == vec![7; (3 << 20) - 9]);
    assert!(store.read_range("rr-node001.iso", 9, 3 << 20, &mut |_| ()).is_err());
    assert_eq!(names(&*store, ""), ["generations/1/layout.toml", "packs/a", "rr-node001.iso"]);
    assert_eq!(names(&*store, "pa"), ["packs/a"]);
    assert_eq!(names(&*store, "packs/b"), [""; 0]);
    assert_eq!(names(&*store, "nothing/"), [""; 0]);
    assert!(store.free_bytes().unwrap().unwrap() > 0);

    for (path, mode) in
        [("node001", 0o700), ("node001/packs", 0o700), ("node001/rr-node001.iso", 0o600)]
    {
        let found = std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{path}");
    }

    store.delete("packs/a").unwrap();
    store.delete("packs/a").unwrap();
    store.delete("never/there").unwrap();
    assert!(!dir.path().join("node001/packs").exists(), "an empty directory goes too");
    store.put("packs/a", b"again").unwrap();
    assert_eq!(names(&*store, "packs/"), ["packs/a"]);
}

#[test]
fn what_is_not_there_or_cut_off_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    for missing in ["a", "no/such/object"] {
        match store.get(missing) {
            Err(StoreError::NotFound { name, .. }) => assert_eq!(name, missing),
            other => panic!("{other:?}"),
        }
    }
    store.put("a", b"12345").unwrap();
    for (offset, len) in [(0, 6), (5, 1), (u64::MAX, 2)] {
        let text = store.get_range("a", offset, len).unwrap_err().to_string();
        assert!(text.contains("a is cut off") && text.contains("it has 5 bytes"), "{text}");
    }
    for bad in ["../a", "/etc/passwd", "a/../../b", "x.part", ""] {
        assert!(matches!(store.put(bad, b""), Err(StoreError::Other { .. })), "{bad}");
        assert!(matches!(store.get(bad), Err(StoreError::Other { .. })), "{bad}");
        assert!(matches!(store.delete(bad), Err(StoreError::Other { .. })), "{bad}");
    }
    assert!(store.put_file("b", Path::new("/no/such/file")).is_err());
}

#[test]
fn one_of_many_makes_a_new_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    let wins: Vec<usize> = std::thread::scope(|scope| {
        let put = |nr: usize| {
            let store = &store;
            move || store.put_new("deep/down/lock", nr.to_string().as_bytes()).is_ok()
        };
        let tries: Vec<_> = (0..8).map(|nr| (nr, scope.spawn(put(nr)))).collect();
        tries.into_iter().filter_map(|(nr, t)| t.join().unwrap().then_some(nr)).collect()
    });
    assert_eq!(wins.len(), 1);
    assert_eq!(store.get("deep/down/lock").unwrap(), wins[0].to_string().as_bytes());
    assert!(matches!(store.put_new("deep/down/lock", b""), Err(StoreError::Exists { .. })));
    assert_eq!(files(dir.path()), ["node001/deep/down/lock"]);
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("mnt/usb");
    let text = format!("{:#}", open(&gone, Access::Write).unwrap_err());
    assert!(text.contains("mnt/usb is not there\nhint: mount the disk"), "{text}");
    assert!(!gone.exists());

    let error = open(dir.path(), Access::Read).unwrap_err();
    let found = error.downcast_ref::<StoreError>();
    assert!(matches!(found, Some(StoreError::NotFound { .. })), "{error:#}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "reading makes nothing");

    let url = TargetUrl::File { dir: dir.path().to_owned() };
    for bad in ["", "..", "a/b", ".x"] {
        assert!(store::open(&url, bad, Access::Write, &TargetOptions::default()).is_err(), "{bad}");
    }
}

#[test]
fn a_symbolic_link_in_the_tree_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), b"precious").unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("node001/packs")).unwrap();
    assert!(store.put("packs/new", b"").is_err());
    assert!(store.get("packs/x").is_err());
    assert!(store.delete("packs/x").is_err());
    assert_eq!(names(&*store, ""), [""; 0]);
    assert_eq!(files(outside.path()), ["x"]);
}

#[test]
fn a_symbolic_link_at_the_target_hides_no_node() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), Access::Write).unwrap().put("generations/1/recipe", b"").unwrap();
    std::os::unix::fs::symlink("node001", dir.path().join("node000")).unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("node002")).unwrap();
    let url = TargetUrl::File { dir: dir.path().to_owned() };
    let all = store::open_all(&url, &TargetOptions::default()).unwrap();
    let [(node, Ok(_))] = &all[..] else { panic!("{all:?}") };
    assert_eq!(node, "node001");
}

#[test]
fn loop_a_full_target_is_told_and_left_clean() {
    if !is_root("loop_a_full_target_is_told_and_left_clean") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let args = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let _mounted = MountGuard::mount(&args, dir.path()).unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    store.put("packs/first", &[1; 600_000]).unwrap();
    let error = store.put("packs/second", &[2; 600_000]).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("second: No space left on device\nhint: "), "{text}");
    assert_eq!(files(dir.path()), ["node001/packs/first"]);
    assert_eq!(store.get("packs/first").unwrap(), [1; 600_000]);
    assert!(store.put_new("packs/second", &[2; 600_000]).is_err());
    store.put("packs/small", b"fits").unwrap();
    assert_eq!(files(dir.path()), ["node001/packs/first", "node001/packs/small"]);
}

#[test]
fn loop_a_big_object_leaves_room_for_the_small_ones_of_others() {
    if !is_root("loop_a_big_object_leaves_room_for_the_small_ones_of_others") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let args = ["-t", "tmpfs", "-o", "size=40m", "tmpfs"];
    let _mounted = MountGuard::mount(&args, dir.path()).unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    store.put("packs/first", &vec![1; 20 << 20]).unwrap();
    let big = dir.path().join("big");
    std::fs::File::create(&big).unwrap().set_len(8 << 20).unwrap();
    for error in [store.put("packs/second", &vec![2; 8 << 20]), store.put_file("initrd", &big)] {
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("16 MiB of them are for manifests and locks\nhint: "), "{text}");
    }
    assert_eq!(names(&*store, ""), ["packs/first"]);
    store.put("generations/x/index.zst", &vec![3; 3 << 20]).unwrap();
}

#[test]
fn loop_a_read_only_target_is_refused_at_once_for_writing() {
    if !is_root("loop_a_read_only_target_is_refused_at_once_for_writing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = MountGuard::mount(&["-t", "tmpfs", "tmpfs"], dir.path()).unwrap();
    open(dir.path(), Access::Write).unwrap().put("latest.json", b"{}").unwrap();
    Cmd::new("mount").args(["-o", "remount,ro"]).arg(mounted.path()).run().unwrap();
    let error = open(dir.path(), Access::Write).unwrap_err();
    let found = error.downcast_ref::<StoreError>();
    assert!(matches!(found, Some(StoreError::Denied { .. })), "{error:#}");
    assert!(format!("{error:#}").contains("Read-only file system\nhint: "), "{error:#}");
    let store = open(dir.path(), Access::Read).unwrap();
    assert_eq!(store.get("latest.json").unwrap(), b"{}");
    assert!(matches!(store.delete("latest.json"), Err(StoreError::Denied { .. })));
}

#[test]
fn loop_a_mount_that_goes_away_redirects_nothing() {
    if !is_root("loop_a_mount_that_goes_away_redirects_nothing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let below = open(dir.path(), Access::Write).unwrap();
    below.put("packs/below", b"on the disk below").unwrap();
    let mounted = MountGuard::mount(&["-t", "tmpfs", "tmpfs"], dir.path()).unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    store.put("packs/a", b"a").unwrap();

    // Another filesystem in the middle of the tree is not gone into.
    let packs = dir.path().join("node001/packs");
    let over = MountGuard::mount(&["-t", "tmpfs", "tmpfs"], &packs).unwrap();
    std::fs::write(packs.join("stranger"), b"").unwrap();
    for result in [store.put("packs/b", b""), store.delete("packs/stranger")] {
        assert!(result.unwrap_err().to_string().contains("another filesystem"));
    }
    over.close().unwrap();

    mount::detach(dir.path()).unwrap();
    mounted.keep();
    store.put("packs/after", b"after").unwrap();
    store.delete("packs/below").unwrap();
    assert_eq!(names(&*store, ""), ["packs/a", "packs/after"]);
    assert_eq!(files(dir.path()), ["node001/packs/below"]);
}

#[test]
fn loop_a_private_mount_is_seen_by_nobody_else_and_lives_while_it_is_open() {
    if !is_root("loop_a_private_mount_is_seen_by_nobody_else_and_lives_while_it_is_open") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let opened = mount::in_private_namespace(|| {
        Cmd::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(dir.path()).run()?;
        std::fs::write(dir.path().join("inside"), b"x")?;
        let opened = nix::fcntl::open(
            dir.path(),
            nix::fcntl::OFlag::O_DIRECTORY,
            nix::sys::stat::Mode::empty(),
        )?;
        mount::detach(dir.path())?;
        Ok(opened)
    })
    .unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()));
    nix::sys::stat::mkdirat(&opened, "still-here", nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::sys::stat::fstatat(&opened, "inside", nix::fcntl::AtFlags::empty()).unwrap();
}

const CHILD: &str = "RR_TEST_STORE_CHILD";

fn manifest_of(generation: &str, pack: Vec<FileRecord>) -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        generation: generation.to_owned(),
        node: "node001".to_owned(),
        rr: "test".to_owned(),
        started: String::new(),
        finished: String::new(),
        parent: None,
        file: Vec::new(),
        pack,
        archive: ArchiveStats::default(),
        tree: Vec::new(),
        unprotected: Vec::new(),
        warning: Vec::new(),
    }
}

/// A run: lock, sweep, `packs` packs, manifest, retention.
fn run(store: &Arc<dyn Store>, packs: u8) -> String {
    let ui = Ui::new(Style::Plain);
    let guard = lock::lock(store, &ui).unwrap();
    retain::sweep(&guard, &ui).unwrap();
    let generation = catalog::new_generation(&**store).unwrap();
    let records = (0..packs).map(|nr| {
        let bytes = vec![nr; 1 << 20];
        let blake3 = blake3::hash(&bytes).to_string();
        let name = format!("packs/{generation}-{nr}-{}.tar.zst", &blake3[..16]);
        store.put(&name, &bytes).unwrap();
        FileRecord { name, size_bytes: bytes.len() as u64, blake3 }
    });
    let manifest = manifest_of(&generation, records.collect());
    guard.check().unwrap();
    catalog::publish(&**store, &manifest).unwrap();
    retain::prune(&guard, &Keep { last: 3, ..Keep::default() }, &ui).unwrap();
    generation
}

fn verify_all(store: &dyn Store) -> usize {
    let generations = catalog::generations(store).unwrap();
    for generation in &generations {
        let manifest = catalog::manifest(store, generation).unwrap();
        for record in manifest.pack.iter().chain(&manifest.file) {
            catalog::fetch(store, record).unwrap();
        }
    }
    generations.len()
}

/// Does nothing unless it is started by the test below, in a process that is then killed.
#[test]
fn child_that_is_killed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let store = open(Path::new(&dir), Access::Write).unwrap();
        loop {
            run(&store, 5);
        }
    }
}

#[test]
fn a_kill_at_any_time_costs_no_published_generation() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Access::Write).unwrap();
    run(&store, 2);
    let own_exe = std::env::current_exe().unwrap();
    for round in 0..12_u64 {
        let mut child = Cmd::new(&own_exe)
            .args(["child_that_is_killed", "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .spawn(Stdio::null(), Stdio::null())
            .unwrap();
        // Its lock has a number above that of the one it took over, or is the first; then it is
        // killed at another moment each time.
        let started = Instant::now();
        let pid = format!("\"pid\": {}", child.id());
        while !store.list("lock-").unwrap().iter().any(|lock| {
            store.get(&lock.name).is_ok_and(|text| String::from_utf8_lossy(&text).contains(&pid))
        }) {
            assert!(started.elapsed() < Duration::from_secs(20), "the child does not start");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(round * 7 % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(verify_all(&*store) >= 1, "round {round}");
    }
    let last = run(&store, 1);
    assert_eq!(catalog::latest(&*store).unwrap(), Some(last));
    let mut needed: BTreeSet<String> = BTreeSet::from(["latest.json".to_owned()]);
    for generation in catalog::generations(&*store).unwrap() {
        needed.insert(catalog::object(&generation, "manifest.json"));
        let manifest = catalog::manifest(&*store, &generation).unwrap();
        needed.extend(manifest.pack.into_iter().map(|pack| pack.name));
    }
    let left: BTreeSet<String> = files(&dir.path().join("node001")).into_iter().collect();
    assert_eq!(left, needed, "nothing of the killed runs is left");
}
