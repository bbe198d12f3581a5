//! A target that is shared: with another run of the same node, with readers, with other nodes; and
//! with clocks that are wrong.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rr::archive::{self, ExtractOptions};
use rr::store::keep::Keep;
use rr::store::{Access, Store, catalog, lock, retain};
use rr::sys::run::Cmd;

use crate::node::{Node, publish_at_once, said, start, ui};

#[test]
fn the_second_run_of_a_node_says_who_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let first = node.backed_up();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    node.configure(&format!(
        "[backup]\npre = [\"touch {}; while [ ! -e {} ]; do sleep 0.02; done\"]\n",
        begun.display(),
        go.display()
    ));
    let mut running = start(&node.backup());
    let started = Instant::now();
    while !begun.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "the first run does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    for cmd in [node.backup(), node.rr(&["prune"])] {
        let output = cmd.output().unwrap();
        assert_eq!(output.code(), Some(1), "{}", said(&output));
        let holder = format!("another rr works in file://{}", node.target.display());
        assert!(said(&output).contains(&holder), "{}", said(&output));
        assert!(
            said(&output).contains(&format!("process {} on ", running.id())),
            "{}",
            said(&output)
        );
        assert!(said(&output).contains("hint: "), "{}", said(&output));
    }
    // Who only reads is not stopped.
    for args in [&["list"][..], &["show"], &["verify"], &["prune", "--dry-run"]] {
        let output = node.rr(args).output().unwrap();
        assert!(output.success() && said(&output).contains(&first), "{args:?}: {}", said(&output));
    }
    std::fs::write(go, "").unwrap();
    assert!(running.wait().unwrap().success());
    assert_eq!(node.verify().len(), 2);
    node.nothing_is_left_over();
}

#[test]
fn who_only_reads_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let first = node.backed_up();
    node.change(1, 1000);
    let second = node.backed_up();
    // Names, times and sizes of everything, on both sides.
    let seen = || -> Vec<String> {
        let entries = walkdir::WalkDir::new(dir.path()).sort_by_file_name().into_iter();
        let line = |entry: walkdir::DirEntry| {
            let meta = entry.metadata().unwrap();
            format!("{} {:?} {}", entry.path().display(), meta.modified().unwrap(), meta.len())
        };
        entries.map(|entry| line(entry.unwrap())).collect()
    };
    let before = seen();
    for args in [
        &["list"][..],
        &["list", "latest"],
        &["show"],
        &["show", &first],
        &["verify"],
        &["diff", &first, &second],
        &["export"],
        &["prune", "--dry-run", "--keep-last", "1"],
    ] {
        // From anywhere: all that is said is where the backup is, and whose.
        let target = format!("file://{}", node.target.display());
        let rr = Cmd::new(env!("CARGO_BIN_EXE_rr")).args(["--config", "/dev/null"]);
        let rr = rr.args(["--target", &target, "--node", &node.name]).args(args);
        let output = rr.output().unwrap();
        assert!(output.success(), "{args:?}: {}", said(&output));
    }
    assert!(node.backup().arg("--dry-run").output().unwrap().success());
    assert_eq!(seen(), before);
}

#[test]
fn a_reader_of_what_is_deleted_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let first = node.backed_up();
    let store = node.store();
    let manifest = catalog::manifest(&*store, &first).unwrap();
    node.change(1, 1000);
    node.backed_up();
    let output = node.rr(&["prune", "--keep-last", "1"]).output().unwrap();
    assert!(output.text().starts_with(&format!("delete  {first}\nkeep    ")), "{}", said(&output));
    let to = tempfile::tempdir().unwrap();
    let options = ExtractOptions { root: to.path().to_owned(), ..ExtractOptions::default() };
    let errors = [
        archive::extract(&manifest, &*store, &options, &ui()).unwrap_err(),
        archive::export(&manifest, &*store, &mut Vec::new()).unwrap_err(),
        archive::check(&manifest, &*store, &ui()).unwrap_err(),
    ];
    for error in errors {
        let text = format!("{error:#}");
        assert!(text.contains(&format!("the generation {first} was deleted")), "{text}");
        assert!(text.contains("\nhint: "), "{text}");
    }
    assert_eq!(std::fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn a_node_that_is_not_there_is_not_made_by_a_prune() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    Node::new(dir.path(), &target, "node001", "").backed_up();
    let node = Node::new(dir.path(), &target, "node100", "");
    for args in [&["prune"][..], &["prune", "--drop", "20261121T013500Z"]] {
        let output = node.rr(args).output().unwrap();
        assert_eq!(output.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("there is no backup of node100"), "{}", said(&output));
    }
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1);
}

#[test]
fn nodes_that_publish_at_once_do_not_harm_each_other() {
    const NODES: usize = 254;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let one = "[backup]\nthreads = 1\n";
    let nodes: Vec<Node> = (1..=NODES)
        .map(|number| Node::new(dir.path(), &target, &format!("node{number:03}"), one))
        .collect();
    publish_at_once(&nodes);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), NODES);
}

#[test]
fn no_path_of_its_own_making_leads_a_node_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let (victim, thief) = ("node001", "node002");
    let victim = Node::new(dir.path(), &target, victim, "");
    let generation = victim.backed_up();
    for name in ["..", ".", "../target/node001", "node001/packs", "/etc", "", "a\\u0000b"] {
        let mut node = Node::new(dir.path(), &target, thief, "");
        name.clone_into(&mut node.name);
        node.configure("");
        for cmd in [node.backup(), node.rr(&["list"]), node.rr(&["prune", "--keep-last", "1"])] {
            let output = cmd.output().unwrap();
            assert_eq!(output.code(), Some(2), "{name}: {}", said(&output));
        }
    }
    // A link in place of its own directory, and one inside of that.
    let thief = Node::new(dir.path(), &target, thief, "");
    symlink("node001", target.join("node002")).unwrap();
    for cmd in [thief.backup(), thief.rr(&["list"]), thief.rr(&["restore", "--to", "/nowhere"])] {
        let output = cmd.output().unwrap();
        assert_eq!(output.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("symbolic link"), "{}", said(&output));
    }
    std::fs::remove_file(target.join("node002")).unwrap();
    std::fs::create_dir(target.join("node002")).unwrap();
    for part in ["packs", "generations"] {
        symlink(format!("../node001/{part}"), target.join("node002").join(part)).unwrap();
    }
    assert!(catalog::generations(&*thief.store()).is_err());
    assert!(!thief.backup().output().unwrap().success());
    // A manifest that names another node's objects.
    let store = victim.store();
    let mut manifest = catalog::manifest(&*store, &generation).unwrap();
    for record in &mut manifest.pack {
        record.name = format!("../node001/{}", record.name);
    }
    let thief = Node::new(dir.path(), &target, "node003", "");
    thief.backed_up();
    assert!(archive::check(&manifest, &*thief.store(), &ui()).is_err());
    assert_eq!(victim.verify(), [generation]);
    victim.nothing_is_left_over();
}

/// A generation of the year 2999, made when the clock said so, does no harm to those that come when
/// it is right again, and takes none.
#[test]
fn a_clock_that_was_set_back_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let before = node.backed_up();
    let future = as_if_made_in_2999(&node, &before);
    node.change(1, 1000);
    let after = node.backed_up();
    assert_eq!(after, "30000101T000000Z", "the newest by name is the newest");
    node.comes_back();
    assert_eq!(node.verify(), [before.clone(), future.clone(), after.clone()]);

    let store: Arc<dyn Store> = node.open(Access::Write).into();
    let guard = lock::lock(&store, &ui()).unwrap();
    let keep = Keep { last: 1, daily: 2, min_age_days: 1, ..Keep::default() };
    let young = retain::prune(&guard, &keep, &ui()).unwrap();
    assert_eq!(young.generations, [""; 0], "all three were made today: {young:?}");
    // Two days have a generation: today, of which `before` is not the newest, and one in 2999.
    let pruned = retain::prune(&guard, &Keep { min_age_days: 0, ..keep }, &ui()).unwrap();
    assert_eq!(pruned.generations, [before]);
    drop(guard);
    assert_eq!(node.verify(), [future, after]);
    node.nothing_is_left_over();
}

/// Publishes a copy of a generation as a run would have done by a wrong clock.
fn as_if_made_in_2999(node: &Node, generation: &str) -> String {
    let future = "29991231T235959Z".to_owned();
    let store = node.open(Access::Write);
    let mut manifest = catalog::manifest(&*store, generation).unwrap();
    for record in &mut manifest.file {
        let bytes = store.get(&record.name).unwrap();
        let file = record.name.rsplit('/').next().unwrap();
        *record = catalog::put(&*store, &future, file, bytes).unwrap();
    }
    manifest.generation.clone_from(&future);
    manifest.started = "2999-12-31T23:59:59Z".to_owned();
    manifest.finished.clone_from(&manifest.started);
    catalog::publish(&*store, &manifest).unwrap();
    future
}

/// What node001.b finds in the tree of node001.a, and what becomes of trees of an older rr.
#[test]
fn another_machine_of_the_same_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(dir.path(), &dir.path().join("target"), "node001", "");
    let first = node.backed_up();
    let file = node.target.join("node001/machine.json");
    let own = std::fs::read_to_string(&file).unwrap();
    let other = "{\"version\": 1, \"host\": \"node001.a\", \"machine\": \"0123\"}";
    std::fs::write(&file, other).unwrap();
    for args in [&["mkbackuponly", "--dry-run"][..], &["mkbackuponly"]] {
        let output = node.rr(args).arg("--include").arg(&node.tree).output().unwrap();
        let said = said(&output);
        assert_eq!(output.code(), Some(1), "{said}");
        assert!(said.contains("another machine, node001.a") && said.contains("node = "), "{said}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), other);
    assert_eq!(node.verify(), [first.as_str()]);
    // Two that share it on purpose take turns, and neither takes the tree for its own.
    node.configure("[backup]\nshared_node = true\n");
    for args in [&["mkbackuponly", "--dry-run"][..], &["mkbackuponly"]] {
        let output = node.rr(args).arg("--include").arg(&node.tree).output().unwrap();
        assert!(output.success(), "{}", said(&output));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), other);
    assert_eq!((node.verify().len(), &node.verify()[0]), (2, &first));
    node.configure("");
    // By another name it has a tree of its own; the tree of an older rr has no such file.
    Node::new(dir.path(), &node.target, "node001.b", "").backed_up();
    std::fs::remove_file(&file).unwrap();
    node.backed_up();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), own);
    // One of a later rr stays as it is, and one that is damaged does not.
    let later = "{\"version\": 2, \"who\": 7}";
    for (text, after) in [(later, later), ("{", own.as_str())] {
        std::fs::write(&file, text).unwrap();
        node.backed_up();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
    }
}
