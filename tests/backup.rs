//! The conversation of mkbackup on this machine, with small trees.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rr::archive::{self, ExtractOptions};
use rr::backup::{self, Half, Options, Report};
use rr::config::{Config, TargetOptions, TargetUrl};
use rr::rescue::stored;
use rr::store::{self, Access, Store, catalog};
use rr::sys::mount::MountGuard;
use rr::sys::run::Cmd;
use rr::ui::{Style, Ui};

fn config(target: &Path) -> Config {
    Config {
        target: Some(format!("file://{}", target.display())),
        node: Some("node001".to_owned()),
        ..Config::default()
    }
}

/// The newest generation of `target`, below a directory of its own.
fn restore_newest(target: &Path) -> tempfile::TempDir {
    let newest = catalog::latest(&*open(target)).unwrap().unwrap();
    restore(target, &newest)
}

fn restore(target: &Path, generation: &str) -> tempfile::TempDir {
    let store = open(target);
    let manifest = catalog::manifest(&*store, generation).unwrap();
    let to = tempfile::tempdir().unwrap();
    let options = ExtractOptions { root: to.path().to_owned(), ..ExtractOptions::default() };
    archive::extract(&manifest, &*store, &options, &ui()).unwrap();
    to
}

fn include(tree: &Path) -> Options {
    Options { archive: true, include: vec![tree.to_owned()], ..Options::default() }
}

fn ui() -> Ui {
    rr::ui::log::start(false);
    Ui::new(Style::Plain)
}

fn run(target: &Path, options: &Options) -> anyhow::Result<Report> {
    backup::backup(&config(target), options, &ui())
}

fn open(target: &Path) -> Box<dyn Store> {
    let url = TargetUrl::File { dir: target.to_owned() };
    store::open(&url, "node001", Access::Read, &TargetOptions::default()).unwrap()
}

fn objects(target: &Path) -> Vec<String> {
    open(target).list("").unwrap().into_iter().map(|o| o.name).collect()
}

/// Every file below, unfinished ones too.
fn count_files(dir: &Path) -> usize {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter(|e| e.as_ref().unwrap().file_type().is_file())
        .count()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The target and a tree with files that can't be compressed.
fn small_tree(mib: usize) -> (tempfile::TempDir, tempfile::TempDir) {
    let (target, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for nr in 0..mib {
        std::fs::write(tree.path().join(format!("file{nr}")), noise(nr as u64, 1 << 20)).unwrap();
    }
    (target, tree)
}

/// Checks a generation in full and extracts the tree; gives the content of `file0`.
fn extract(target: &Path, generation: &str, tree: &Path) -> Vec<u8> {
    let store = open(target);
    let manifest = catalog::manifest(&*store, generation).unwrap();
    archive::check(&manifest, &*store, &ui()).unwrap();
    let root = restore(target, generation);
    std::fs::read(root.path().join(tree.strip_prefix("/").unwrap()).join("file0")).unwrap()
}

#[test]
fn what_lies_in_the_directory_of_the_target_is_not_lost_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let error = format!("{:#}", run(dir.path(), &include(&tree)).unwrap_err());
    assert!(
        error.contains(&format!("{} can't be included: the target is", tree.display())),
        "{error}"
    );
    // Nothing else is said of it.
    let error = format!("{:#}", run(dir.path(), &include(Path::new("/none"))).unwrap_err());
    assert_eq!(error, "/none can't be included: No such file or directory (os error 2)");
}

#[test]
fn a_tree_is_backed_up_and_comes_back() {
    let (target, tree) = small_tree(3);
    let first = run(target.path(), &include(tree.path())).unwrap();
    assert_eq!((first.archive.clone(), first.rescue.clone()), (Half::Done, Half::NotAsked));
    assert_eq!(first.failed, None);
    assert_eq!(first.trees, [tree.path().to_str().unwrap()]);
    assert!(first.stored_bytes > 3 << 20 && first.stream_bytes > 3 << 20, "{first:?}");
    assert_eq!(first.unprotected[0].what, "everything else");
    let generation = first.generation.unwrap();
    assert_eq!(extract(target.path(), &generation, tree.path()), noise(0, 1 << 20));

    let names = objects(target.path());
    for file in ["index.zst", "recipe", "RESTORE.txt", "rr.log", "manifest.json"] {
        assert!(names.contains(&format!("generations/{generation}/{file}")), "{file}: {names:?}");
    }
    assert!(names.contains(&"latest.json".to_owned()));
    assert!(!names.iter().any(|name| name.starts_with("lock")), "{names:?}");
    let log = open(target.path()).get(&format!("generations/{generation}/rr.log")).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("Archiving"));

    // What did not change is not stored again, and the first generation stays as it was.
    let second = run(target.path(), &include(tree.path())).unwrap();
    assert!(second.stored_bytes < first.stored_bytes / 2, "{second:?}");
    let second = second.generation.unwrap();
    let manifest = catalog::manifest(&*open(target.path()), &second).unwrap();
    assert_eq!(manifest.parent.as_deref(), Some(generation.as_str()));
    for generation in [&generation, &second] {
        assert_eq!(extract(target.path(), generation, tree.path()), noise(0, 1 << 20));
    }
}

/// A disk forgets some things, and not all: what is lost must cost no more than what needs it.
#[test]
fn lost_and_damaged_packs_do_not_stop_the_backups_to_come() {
    let (target, tree) = small_tree(2);
    let back_up = |options: &Options| {
        let ui = ui();
        let report = backup::backup(&config(target.path()), options, &ui).unwrap();
        (report.generation.unwrap(), ui.warnings().join("\n"))
    };
    let pack_of = |generation: &str| {
        let manifest = catalog::manifest(&*open(target.path()), generation).unwrap();
        let pack = manifest.pack.into_iter().find(|pack| pack.size_bytes > 1 << 20).unwrap();
        (target.path().join("node001").join(&pack.name), pack.name)
    };
    let (first, _) = back_up(&include(tree.path()));
    let (path, name) = pack_of(&first);
    std::fs::remove_file(path).unwrap();
    let (second, said) = back_up(&include(tree.path()));
    assert_eq!(said.matches(&name).count(), 1, "{said}");
    assert!(said.contains(&format!("the generation {first} is not whole")), "{said}");
    assert_eq!(extract(target.path(), &second, tree.path()), noise(0, 1 << 20));

    // Of the right size, so that only reading it tells.
    let (path, name) = pack_of(&second);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (third, _) = back_up(&Options { full: true, ..include(tree.path()) });
    let manifest = catalog::manifest(&*open(target.path()), &third).unwrap();
    assert!(manifest.parent.is_none() && manifest.pack.iter().all(|pack| pack.name != name));
    assert_eq!(extract(target.path(), &third, tree.path()), noise(0, 1 << 20));
}

#[test]
fn a_file_that_can_not_be_restored_fails_the_restore() {
    let (target, tree) = small_tree(2);
    run(target.path(), &include(tree.path())).unwrap();
    let to = tempfile::tempdir().unwrap();
    let restore = || {
        let url = format!("file://{}", target.path().display());
        let rr = Cmd::new(env!("CARGO_BIN_EXE_rr")).args(["--target", &url, "--node", "node001"]);
        let output = rr.args(["restore", "--to"]).arg(to.path()).output().unwrap();
        (output.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let back = to.path().join(tree.path().strip_prefix("/").unwrap());
    let in_the_way = back.join("file1");
    std::fs::create_dir_all(in_the_way.join("not empty")).unwrap();
    let (done, said) = restore();
    let last = said.lines().last().unwrap();
    let named = format!("NOT restored: 1 ({})", tree.path().join("file1").display());
    assert!(!done && last.ends_with(&named), "{said}");
    assert_eq!(std::fs::read(back.join("file0")).unwrap(), noise(0, 1 << 20));
    std::fs::remove_dir_all(in_the_way).unwrap();
    let (done, said) = restore();
    assert!(done, "{said}");
}

#[test]
fn old_generations_go_by_themselves() {
    let (target, tree) = small_tree(1);
    let mut config = config(target.path());
    config.backup.keep_last = 2;
    let mut made = Vec::new();
    for nr in 0..4_u8 {
        std::fs::write(tree.path().join("changing"), [nr; 5000]).unwrap();
        let report = backup::backup(&config, &include(tree.path()), &ui()).unwrap();
        assert_eq!(report.pruned.len(), usize::from(nr > 1));
        made.push(report.generation.unwrap());
    }
    assert_eq!(catalog::generations(&*open(target.path())).unwrap(), made[2..]);
    for generation in &made[2..] {
        extract(target.path(), generation, tree.path());
    }
}

#[test]
fn a_tree_behind_a_link_is_found_and_a_link_is_refused() {
    let (tree, target) = small_tree(1);
    let tree = tree.path().canonicalize().unwrap();
    std::fs::create_dir(tree.join("real")).unwrap();
    std::fs::write(tree.join("real/file"), "x").unwrap();
    std::os::unix::fs::symlink("real", tree.join("link")).unwrap();
    std::os::unix::fs::symlink(&tree, target.path().join("way")).unwrap();
    for path in [target.path().join("way/real"), tree.join("link/../real")] {
        let report = run(target.path(), &include(&path)).unwrap();
        assert_eq!((report.files, report.failed), (1, None), "{}", path.display());
        assert_eq!(report.trees, [tree.join("real").to_str().unwrap()]);
    }
    let error = format!("{:#}", run(target.path(), &include(&tree.join("link"))).unwrap_err());
    assert!(error.contains("is a symbolic link\nhint: --include"), "{error}");
}

/// A fifo that is opened waits for who writes to it, for ever and with the lock.
#[test]
fn a_fifo_is_a_tree_like_others_and_a_socket_is_none() {
    let (tree, target) = small_tree(0);
    let (fifo, socket) = (tree.path().join("fifo"), tree.path().join("socket"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    let dir = target.path().to_owned();
    let named = include(&fifo);
    std::thread::spawn(move || done.send(run(&dir, &named).map(|report| report.failed)));
    let failed = wait.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits");
    assert_eq!(failed.unwrap(), None);
    let error = format!("{:#}", run(target.path(), &include(&socket)).unwrap_err());
    assert!(error.contains("socket can't be included: it is a socket"), "{error}");
}

#[test]
fn each_set_of_trees_has_a_history_of_its_own() {
    let (tree, target) = small_tree(1);
    for name in ["a", "b"] {
        std::fs::create_dir(tree.path().join(name)).unwrap();
        std::fs::write(tree.path().join(name).join("file"), name).unwrap();
    }
    let mut config = config(target.path());
    config.backup.keep_last = 1;
    let back_up =
        |name: &str| backup::backup(&config, &include(&tree.path().join(name)), &ui()).unwrap();
    let first_of_a = back_up("a").generation.unwrap();
    for _ in 0..2 {
        let report = back_up("b");
        assert!(!report.pruned.contains(&first_of_a), "{:?}", report.pruned);
    }
    // And it is built upon, though it is not the newest.
    let report = back_up("a");
    assert_eq!(report.pruned, std::slice::from_ref(&first_of_a));
    let manifest = catalog::manifest(&*open(target.path()), &report.generation.unwrap()).unwrap();
    assert_eq!(manifest.parent, Some(first_of_a));
}

#[test]
fn a_dry_run_writes_nothing() {
    let (target, tree) = small_tree(1);
    let options = Options { dry_run: true, ..include(tree.path()) };
    let report = run(target.path(), &options).unwrap();
    assert_eq!((report.archive, report.generation), (Half::Possible, None));
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
    // The whole machine.
    let options = Options { archive: true, dry_run: true, ..Options::default() };
    let report = run(target.path(), &options).unwrap();
    assert!(report.trees.contains(&"/".to_owned()), "{:?}", report.trees);
    assert!(report.used_bytes.unwrap() > 1 << 20);
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let target = Path::new("/rr-no-such-target");
    let options = include(Path::new("/rr-no-such-tree"));
    let options =
        Options { include: vec!["/rr-none-*".into(), options.include[0].clone()], ..options };
    let text = format!("{:#}", run(target, &options).unwrap_err());
    let hint = "hint: --include takes paths";
    for missing in ["/rr-no-such-target", "/rr-no-such-tree", "/rr-none-*", hint] {
        assert!(text.contains(missing), "{missing}: {text}");
    }
}

#[test]
fn a_failed_rescue_half_leaves_the_archive_half_done() {
    let (target, _) = small_tree(0);
    let only_rescue = Options { rescue: true, ..Options::default() };
    let Err(error) = run(target.path(), &Options { dry_run: true, ..only_rescue.clone() }) else {
        eprintln!("skipped: a rescue image can be built of this machine");
        return;
    };
    eprintln!("{error:#}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
    assert!(run(target.path(), &only_rescue).is_err());
    // Nothing but the directories of the root is small enough for a test.
    let options = Options { archive: true, exclude: vec!["/*".to_owned()], ..only_rescue };
    let report = run(target.path(), &options).unwrap();
    assert_eq!(report.archive, Half::Done);
    let Half::Failed { why } = &report.rescue else { panic!("{report:?}") };
    let told = stored::problems(&*open(target.path())).unwrap();
    assert_eq!(told, [format!("no rescue image: {why}")]);
    assert!(report.failed.as_ref().unwrap().contains(why.as_str()), "{report:?}");
    assert_eq!(catalog::latest(&*open(target.path())).unwrap(), report.generation);
    // Who looks at all nodes has only the manifest to see it in.
    let manifest = catalog::manifest(&*open(target.path()), &report.generation.unwrap()).unwrap();
    let problems: Vec<&str> = manifest.problems().collect();
    assert!(problems.iter().any(|p| p.starts_with("no rescue image: ")), "{problems:?}");
    for problem in &report.problems {
        assert!(problems.contains(&problem.as_str()), "{problem}: {problems:?}");
    }
    let warnings: Vec<&str> = manifest.warnings().collect();
    assert!(report.warnings.iter().all(|w| warnings.contains(&w.as_str())), "{warnings:?}");
}

#[test]
fn an_entry_in_the_boot_menu_that_cannot_be_takes_away_no_medium() {
    let (target, _) = small_tree(0);
    let options = Options { archive: true, rescue: true, dry_run: true, ..Options::default() };
    let mut with_entry = config(target.path());
    with_entry.rescue.local_entry = true;
    let without = run(target.path(), &options).unwrap();
    let with = backup::backup(&with_entry, &options, &ui()).unwrap();
    assert_eq!(with.rescue, without.rescue);
    let Some(problem) = with.problems.iter().find(|line| line.contains("rescue.local_entry"))
    else {
        eprintln!("skipped: this machine's boot menu can have an entry, or its layout is unknown");
        return;
    };
    assert!(with.failed.as_ref().unwrap().contains(problem.as_str()) && problem.contains("hint: "));
}

#[test]
fn loop_a_target_that_fills_up_keeps_what_it_has() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("loop_a_target_that_fills_up_keeps_what_it_has is skipped: it needs root");
        return;
    }
    let (target, tree) = small_tree(4);
    let _mounted =
        MountGuard::mount(&["-t", "tmpfs", "-o", "size=40m", "tmpfs"], target.path()).unwrap();
    let first = run(target.path(), &include(tree.path())).unwrap().generation.unwrap();
    for nr in 0..60_u64 {
        std::fs::write(tree.path().join(format!("more{nr}")), noise(100 + nr, 1 << 20)).unwrap();
    }
    let text = format!("{:#}", run(target.path(), &include(tree.path())).unwrap_err());
    assert!(text.contains("is full") && text.contains("\nhint: "), "{text}");
    assert_eq!(extract(target.path(), &first, tree.path()), noise(0, 1 << 20));
    assert!(!objects(target.path()).iter().any(|name| name.starts_with("lock")));

    for nr in 0..60 {
        std::fs::remove_file(tree.path().join(format!("more{nr}"))).unwrap();
    }
    let second = run(target.path(), &include(tree.path())).unwrap();
    assert!(second.stored_bytes < 3 << 20, "{second:?}");
    assert_nothing_is_left_over(target.path());
}

/// Every pack is named by a manifest, and every file is an object.
fn assert_nothing_is_left_over(target: &Path) {
    let store = open(target);
    let generations = catalog::generations(&*store).unwrap();
    let manifests = generations.iter().map(|g| catalog::manifest(&*store, g).unwrap());
    let mut named: Vec<String> = manifests.flat_map(|m| m.pack).map(|record| record.name).collect();
    named.sort();
    named.dedup();
    let packs: Vec<_> = store.list("packs/").unwrap().into_iter().map(|o| o.name).collect();
    assert_eq!(packs, named);
    let dirs: BTreeSet<_> = store
        .list("generations/")
        .unwrap()
        .iter()
        .map(|o| o.name.split('/').nth(1).unwrap().to_owned())
        .collect();
    assert!(dirs.iter().eq(&generations));
    assert_eq!(count_files(target), store.list("").unwrap().len(), "no unfinished file is left");
}

/// Runs a script with an fstab(5) of its own, where only it sees what it mounts. `$rr` is rr with the
/// target `$d/target`. None where that can't be.
fn with_fstab(dir: &Path, fstab: &str, script: &str) -> Option<String> {
    std::fs::write(dir.join("fstab"), fstab).unwrap();
    let config = format!(
        "target = \"file://{}/target\"\nnode = \"node001\"\n[backup]\nkeep_last = 1\nkeep_daily = 0\n\
         keep_weekly = 0\nkeep_monthly = 0\n",
        dir.display()
    );
    std::fs::write(dir.join("rr.toml"), config).unwrap();
    std::fs::create_dir_all(dir.join("target")).unwrap();
    let begin = "mount --bind $d/fstab /etc/fstab || exit\necho begun\n\
                 rr=\"$rr --config $d/rr.toml\"\n";
    let unshare = Cmd::new("unshare").args(["-m", "sh", "-c", &format!("{begin}{script}")]);
    let cmd = unshare.env("d", dir).env("rr", env!("CARGO_BIN_EXE_rr"));
    let output = cmd.output().ok().filter(|output| output.text().starts_with("begun"));
    let Some(output) = output else {
        eprintln!("skipped: nothing may be mounted here");
        return None;
    };
    assert_eq!(output.code(), Some(0), "{}", output.text());
    Some(output.text())
}

/// Once a disk did not come up, and nobody saw it for weeks.
#[test]
fn loop_nights_without_a_filesystem_do_not_cost_the_last_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("srv");
    std::fs::create_dir(&tree).unwrap();
    let fstab = format!("UUID=gone {} ext4 defaults,nofail 0 2\n", tree.display());
    let script = "mount -t tmpfs data $d/srv; echo good >$d/srv/file0
        $rr mkbackuponly --include $d/srv; echo rc $?; umount $d/srv
        for night in 1 2 3; do $rr mkbackuponly --include $d/srv 2>&1; echo rc $?; done
        mkdir -p $d/srv/below; $rr mkbackuponly --include $d/srv/below 2>&1; echo rc $?; true";
    let Some(said) = with_fstab(dir.path(), &fstab, script) else { return };
    let ends: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("rc ")).collect();
    assert_eq!(ends, ["0", "1", "1", "1", "1"], "{said}");
    let problem = format!("{} is in /etc/fstab and is not mounted", tree.display());
    assert!(said.contains(&problem), "{said}");
    let target = dir.path().join("target");
    let store = open(&target);
    let kept = catalog::generations(&*store).unwrap();
    assert_eq!(kept.len(), 3, "{kept:?}: the first, and the newest of either tree");
    let came = restore(&target, &kept[0]);
    let file = came.path().join(tree.strip_prefix("/").unwrap()).join("file0");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "good\n");
    let newest = catalog::manifest(&*store, &kept[1]).unwrap();
    assert!(newest.problems().any(|told| told.starts_with(&problem)), "{newest:?}");
}

#[test]
fn loop_what_should_be_mounted_is_missed_in_a_backup_of_the_machine() {
    // What is in /tmp is not missed.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let d = dir.path().display();
    for name in ["real", "data", "usb", "cache", "seen", "never"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    let fstab = format!(
        "/dev/none {d}/data ext4 defaults 0 2\n/dev/none {d}/usb ext4 nofail\n/dev/none {d}/link xfs nofail\n\
         /dev/none {d}/cache ext4 nofail\n/dev/none {d}/there ext4\n/dev/none {d}/seen ext4 nofail\n\
         /dev/none {d}/never ext4 nofail\n"
    );
    let script = "mkdir $d/there; mount -t tmpfs x $d/there
        mount -t tmpfs x $d/seen; $rr mkbackuponly --include $d/seen >$d/log 2>&1 || exit 1
        $rr mkbackuponly --include $d/never >>$d/log 2>&1 && exit 1
        umount $d/seen; $rr mkbackuponly --dry-run --exclude \"$d/cache/*\" 2>&1; true";
    let Some(said) = with_fstab(dir.path(), &fstab, script) else { return };
    let told = |name: &str| {
        let problem = said.contains(&format!("{d}/{name} is in /etc/fstab and is not mounted"));
        (problem, said.contains(&format!("NOT protected: {d}/{name}: ")))
    };
    for name in ["data", "seen"] {
        assert_eq!(told(name), (true, false), "{name}: {said}");
    }
    for name in ["usb", "never", "real"] {
        assert_eq!(told(name), (false, true), "{name}: {said}");
    }
    for name in ["link", "cache", "there"] {
        assert_eq!(told(name), (false, false), "{name}: {said}");
    }
}

/// A hook that kills rr the hard way: the other hook still runs.
#[test]
fn the_last_command_runs_even_when_rr_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (log, tree) = (dir.path().join("log"), dir.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(dir.path().join("target")).unwrap();
    let config = format!(
        "target = \"file://{0}/target\"\nnode = \"n\"\n[backup]\nnice = 5\nionice = \"idle\"\n\
         pre = [\"nice > {0}/log; ionice >> {0}/log; kill -9 $PPID\"]\n\
         post = [\"echo post $RR_RESULT >> {0}/log\"]\n",
        dir.path().display()
    );
    let file = dir.path().join("rr.toml");
    std::fs::write(&file, config).unwrap();
    let rr = Cmd::new(env!("CARGO_BIN_EXE_rr")).arg("--config").arg(&file);
    let output = rr.arg("mkbackuponly").arg("--include").arg(&tree).output().unwrap();
    assert_eq!(output.code(), None, "{}", String::from_utf8_lossy(&output.stderr));
    let deadline = Instant::now() + Duration::from_secs(60);
    let said = loop {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("post") || Instant::now() > deadline {
            break said;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(said, "5\nidle\npost killed\n");
}

#[test]
fn loop_a_snapshot_is_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (image, mnt) = (dir.path().join("image"), dir.path().join("mnt"));
    std::fs::create_dir(&mnt).unwrap();
    let script = format!(
        "truncate -s 300M {0}; mkfs.btrfs -q {0}; mount -o loop {0} {1}
        btrfs subvolume create {1}/@; umount {1}",
        image.display(),
        mnt.display()
    );
    let made = Cmd::new("sh").args(["-ec", &script]).run();
    let options = ["-o", "loop,subvol=@", &image.to_string_lossy()];
    let mounted = made.and_then(|()| MountGuard::mount(&options, &mnt));
    let Ok(guard) = mounted else {
        eprintln!("skipped: can't mount a btrfs here");
        return;
    };
    std::fs::create_dir(mnt.join("d")).unwrap();
    std::fs::write(mnt.join("d/file"), "as it was").unwrap();
    // In a snapshot these are empty directories.
    let script = "btrfs subvolume create d/sub; echo as it was >d/sub/file
        btrfs subvolume create d/sub/deeper; echo as it was >d/sub/deeper/file
        btrfs subvolume snapshot -r d/sub d/ro";
    Cmd::new("sh").args(["-ec", script]).dir(&mnt).run().unwrap();
    Cmd::new("touch").args(["-d", "@1234567890.5"]).arg(&mnt).run().unwrap();
    let target = tempfile::tempdir().unwrap();
    let mut config = config(target.path());
    config.backup.snapshot = rr::config::schema::SnapshotMode::Auto;
    // Runs when the snapshot is taken, before a file is read.
    let change = "for file in file sub/file sub/deeper/file; do echo changed >$file; done";
    config.backup.post = vec![format!("cd {0}/d && {change}", mnt.display())];
    let report = backup::backup(&config, &include(&mnt), &ui()).unwrap();
    assert_eq!(report.failed, None);
    let left: Vec<_> = std::fs::read_dir(&mnt).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["d"], "the snapshot is still there");
    assert_eq!(std::fs::read_to_string(mnt.join("d/file")).unwrap(), "changed\n");

    let to = restore_newest(target.path());
    let restored = to.path().join(mnt.strip_prefix("/").unwrap());
    assert_eq!(std::fs::read_to_string(restored.join("d/file")).unwrap(), "as it was");
    for dir in ["d/sub", "d/sub/deeper", "d/ro"] {
        let text = std::fs::read_to_string(restored.join(dir).join("file")).unwrap();
        assert_eq!(text, "as it was\n", "{dir}");
        let left = std::fs::read_dir(mnt.join(dir)).unwrap().map(|e| e.unwrap().file_name());
        assert!(left.into_iter().all(|name| name == "file" || name == "deeper"), "{dir}");
    }
    let names: Vec<_> =
        std::fs::read_dir(&restored).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["d"]);
    let time = |path: &Path| {
        let meta = path.metadata().unwrap();
        (
            std::os::unix::fs::MetadataExt::mtime(&meta),
            std::os::unix::fs::MetadataExt::mtime_nsec(&meta),
        )
    };
    assert_eq!(time(&restored), (1_234_567_890, 500_000_000));
    assert_eq!(time(&mnt), (1_234_567_890, 500_000_000));

    // One that is a tree of its own, as those of a whole machine's layout are.
    let target = tempfile::tempdir().unwrap();
    let mut config = self::config(target.path());
    config.backup.snapshot = rr::config::schema::SnapshotMode::Auto;
    let trees = Options { include: vec![mnt.clone(), mnt.join("d/sub")], ..include(&mnt) };
    assert_eq!(backup::backup(&config, &trees, &ui()).unwrap().failed, None);
    let to = restore_newest(target.path());
    let restored = to.path().join(mnt.strip_prefix("/").unwrap());
    for dir in ["d/sub", "d/sub/deeper"] {
        let text = std::fs::read_to_string(restored.join(dir).join("file")).unwrap();
        assert_eq!(text, "changed\n", "{dir}");
    }
    guard.close().unwrap();
}

/// Swaps to a file until this is dropped.
struct Swap(std::path::PathBuf);

impl Drop for Swap {
    fn drop(&mut self) {
        Cmd::new("swapoff").arg(&self.0).run().unwrap();
    }
}

/// The kernel makes no snapshot of a subvolume with an active swap file.
#[test]
fn loop_a_subvolume_that_is_swapped_to_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (image, mnt) = (dir.path().join("image"), dir.path().join("mnt"));
    std::fs::create_dir(&mnt).unwrap();
    let script = format!("truncate -s 300M {0}; mkfs.btrfs -q {0}", image.display());
    let made = Cmd::new("sh").args(["-ec", &script]).run();
    let options = ["-o", "loop", &image.to_string_lossy()];
    let mounted = made.and_then(|()| MountGuard::mount(&options, &mnt));
    let Ok(guard) = mounted else {
        eprintln!("skipped: can't mount a btrfs here");
        return;
    };
    let script = "btrfs subvolume create sub; btrfs subvolume create swapped
        for dir in . sub swapped; do echo as it was >$dir/file; done
        for file in swap swapped/swap; do
            touch $file; chattr +C $file; fallocate -l 16M $file; chmod 600 $file; mkswap $file
        done";
    Cmd::new("sh").args(["-ec", script]).dir(&mnt).run().unwrap();
    let mut swaps = Vec::new();
    for file in ["swap", "swapped/swap"].map(|file| mnt.join(file)) {
        if let Err(error) = Cmd::new("swapon").arg(&file).run() {
            eprintln!("skipped: {error:#}");
            return;
        }
        swaps.push(Swap(file));
    }
    let target = tempfile::tempdir().unwrap();
    let mut config = config(target.path());
    config.backup.snapshot = rr::config::schema::SnapshotMode::Auto;
    let change = "for dir in . sub swapped; do echo changed >$dir/file; done";
    config.backup.post = vec![format!("cd {} && {change}", mnt.display())];
    let report = backup::backup(&config, &include(&mnt), &ui()).unwrap();
    drop(swaps);
    assert_eq!(report.failed, None);
    for (tree, swap) in [(mnt.clone(), "swap"), (mnt.join("swapped"), "swapped/swap")] {
        let swap = mnt.join(swap).display().to_string();
        let said = format!(
            "{} is read as it is: it has the active swap file {swap}\nhint: ",
            tree.display()
        );
        assert!(
            report.warnings.iter().any(|line| line.starts_with(&said)),
            "{:?}",
            report.warnings
        );
    }

    // A snapshot of what is below it can be had all the same.
    let to = restore_newest(target.path());
    let restored = to.path().join(mnt.strip_prefix("/").unwrap());
    let read = ["", "sub", "swapped"].map(|dir| restored.join(dir).join("file"));
    let read = read.map(|file| std::fs::read_to_string(file).unwrap());
    assert_eq!(read, ["changed\n", "as it was\n", "changed\n"]);
    guard.close().unwrap();
}
