//! The command line as a user meets it.

use std::process::{Command, Output};

#[allow(clippy::disallowed_methods)] // the tests stand outside
fn rr(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rr"))
        .args(args)
        .env_remove("RR_TARGET")
        .env_remove("RR_NODE")
        .output()
        .expect("starting rr")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Of an image that was made with `--target`, while the options are for the configured target.
#[test]
#[allow(clippy::disallowed_methods)] // the tests stand outside
fn options_for_another_target_do_not_stop_a_rescue_system() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: it mounts, which needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (etc, target) = (dir.path().join("etc/rr"), dir.path().join("target"));
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::create_dir_all(target.join("node001")).unwrap();
    let target = format!("node = \"node001\"\ntarget = \"file://{}\"\n", target.display());
    let options = "[target_options]\nnfs = \"vers=3\"\nregion = \"x\"\n";
    std::fs::write(etc.join("rr.toml"), format!("{target}{options}")).unwrap();
    let list = || {
        let script = "mount --bind \"$0/etc\" /etc; exec \"$1\" list";
        let mut list = Command::new("unshare");
        list.args(["--mount", "sh", "-euc", script]).arg(dir.path());
        text(&list.arg(env!("CARGO_BIN_EXE_rr")).output().unwrap())
    };
    let said = list();
    assert!(said.contains("target_options.nfs means nothing to the target file://"), "{said}");
    let info = format!("version = 1\nrr = \"test\"\n{target}");
    std::fs::write(etc.join("rescue.toml"), info).unwrap();
    let said = list();
    assert!(!said.contains("means nothing") && said.contains("generation"), "{said}");
}

/// As in a container. What an init does there it does in a user namespace, where it gets at no device.
#[test]
#[allow(clippy::disallowed_methods)] // the tests stand outside
fn pid_1_of_a_container_does_what_it_is_told_and_that_of_a_rescue_system_is_its_init() {
    let dir = tempfile::tempdir().unwrap();
    let console = dir.path().join("dev/console");
    for made in ["etc/rr", "dev", "target"] {
        std::fs::create_dir_all(dir.path().join(made)).unwrap();
    }
    let namespaces = ["--user", "--map-root-user", "--pid", "--fork", "--mount", "--mount-proc"];
    let run = |name: &str, verb: &str| {
        std::fs::write(&console, "").unwrap();
        let script = "mount --bind \"$0/etc\" /etc; mount --bind \"$0/dev\" /dev; \
            exec -a \"$2\" \"$1\" --node node001 --target \"file://$0/target\" $3";
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "5", "unshare", "--kill-child"]).args(namespaces);
        command.args(["bash", "-euc", script]).arg(dir.path());
        let said = text(&command.args([env!("CARGO_BIN_EXE_rr"), name, verb]).output().unwrap());
        (said, std::fs::read_to_string(&console).unwrap())
    };
    let (said, shown) = run("rr", "list");
    if said.starts_with("unshare: ") {
        eprintln!("skipped: it makes user namespaces, which is not allowed here: {said}");
        return;
    }
    assert!(said.contains("no backup of node001"), "{said}");
    assert_eq!(shown, "");
    // The program lies in an image that is made of it, or is called so.
    assert!(run("/init", "list").0.contains("no backup of node001"));
    std::fs::write(dir.path().join("etc/rr/rescue.toml"), "").unwrap();
    assert_eq!(run("rr", "list").1, "");
    // The kernel starts it with the words that it does not know.
    let (said, shown) = run("/init", "quiet");
    assert!(shown.contains("rr: "), "{said}{shown}");
}

/// Every verb, found by walking the tree of commands.
fn verbs() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
            let mut path = path.to_vec();
            path.push(sub.get_name().to_owned());
            walk(sub, &path, found);
            found.push(path);
        }
    }
    let mut found = vec![vec![]];
    walk(&<rr::cli::Cli as clap::CommandFactory>::command(), &[], &mut found);
    found
}

#[test]
fn help_of_every_verb_fits_80_columns() {
    let verbs = verbs();
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        for flag in ["-h", "--help"] {
            let mut args: Vec<&str> = verb.iter().map(String::as_str).collect();
            args.push(flag);
            let output = rr(&args);
            assert!(output.status.success(), "{args:?}: {}", text(&output));
            for line in text(&output).lines() {
                assert!(line.chars().count() <= 80, "{args:?}: {line}");
            }
        }
    }
}

#[test]
fn a_usage_error_exits_with_2_and_a_missing_target_says_what_to_do() {
    assert_eq!(rr(&["--no-such-option"]).status.code(), Some(2));
    assert_eq!(rr(&["recover", "--map", "sda"]).status.code(), Some(2));
    let output = rr(&["--config", "/dev/null", "list"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("hint: target = "), "{}", text(&output));
}

/// Each before anything is opened: the target is not there.
#[test]
fn what_can_not_be_meant_is_a_usage_error() {
    let mut wrong = Vec::new();
    let bad_glob = "/x/[1-3/*";
    for (args, said) in [
        (&["mkbackuponly", "--exclude", bad_glob][..], "--exclude: reading the exclude pattern"),
        (&["mkbackup", "--dry-run", "--exclude", bad_glob], "--exclude: reading the exclude pat"),
        (&["mkbackuponly", "--output", "iso"], "unexpected argument '--output'"),
        (&["mkbackup", "--include", "/x", "--output", "iso"], "cannot be used with"),
        (&["prune", "--drop", "20261121T013500Z", "--dry-run"], "cannot be used with"),
        (&["prune", "--drop", "20261121T013500Z", "--keep-last", "1"], "cannot be used with"),
        (&["prune", "--drop", "latest"], "rr list names the generations"),
        (&["prune", "--keep-last", "0"], "at least one generation is kept"),
        (&["list", "--all", "--older-than", "soon"], "it looks like 48h or 2d"),
        (&["list", "--all", "--older-than", "0h"], "it looks like 48h or 2d"),
        (&["pxe", "dnsmasq", "--range", "1,2"], "it looks like 172.16.1.100,172.16.1.200"),
        (&["pxe", "dnsmasq", "--range", "10.0.0.9,10.0.0.1"], "it looks like 172.16.1.100"),
    ] {
        let output =
            rr(&[&["--target", "file:///rr-no-such-target", "--node", "n"], args].concat());
        if output.status.code() != Some(2) || !text(&output).contains(said) {
            wrong.push(format!("{args:?}: {:?}: {}", output.status.code(), text(&output)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_age_is_in_hours_days_or_weeks() {
    use clap::Parser as _;
    let hours = |text: &str| {
        let words = ["rr", "list", "--all", "--older-than", text];
        match rr::cli::Cli::parse_from(words).verb {
            rr::cli::Verb::List { older_than, .. } => older_than.unwrap().as_hours(),
            other => panic!("{other:?}"),
        }
    };
    let found = ["36h", "48h", "2d", "1w", "PT36H", "90m"].map(hours);
    assert_eq!(found, [36, 48, 48, 168, 36, 1]);
}

/// On a terminal that is as wide as any.
#[test]
#[allow(clippy::disallowed_methods)] // the tests stand outside
fn a_tar_stream_is_not_written_to_a_terminal() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rr"))
        .args(["--target", "file:///rr-no-such-target", "--node", "n", "export"])
        .stdout(terminal.slave)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("hint: rr export >FILE"), "{}", text(&output));
}

#[test]
#[allow(clippy::disallowed_methods)] // the tests stand outside
fn an_empty_variable_is_none() {
    let show = |variable: &str, args: &[&str]| {
        let mut show = Command::new(env!("CARGO_BIN_EXE_rr"));
        show.args(["--config", "/dev/null"]).args(args).args(["config", "show"]);
        text(&show.env("RR_TARGET", variable).env("RR_NODE", variable).output().unwrap())
    };
    let said = show("", &[]);
    assert!(said.contains("# target is not set\n"), "{said}");
    let said = show("", &["--target", "file:///srv"]);
    assert!(said.contains("target = \"file:///srv\""), "{said}");
    let said = show("n1", &["--target", ""]);
    assert!(said.contains("target = \"\"") && said.contains("# --target"), "{said}");
}

#[test]
fn global_options_have_a_heading_of_their_own() {
    let help = text(&rr(&["list", "--help"]));
    let (own, global) = help.split_once("Global options:\n").expect(&help);
    assert!(own.contains("--older-than") && !own.contains("--strict"), "{help}");
    assert!(global.contains("--strict") && !global.contains("--older-than"), "{help}");
}

#[test]
fn a_recovery_of_who_knows_what_and_two_forms_at_once_are_usage_errors() {
    let bare = ["--config", "/dev/null"];
    let file = ["--target", "file:///nowhere"];
    let both = ["--json", "layout", "plan", "--script", "--file", "/nowhere"];
    for (args, said) in [
        ([&bare[..], &["recover", "--dry-run"]].concat(), "no target is known"),
        ([&bare[..], &file, &["mountonly", "--dry-run"]].concat(), "which node this is"),
        ([&bare[..], &both].concat(), "not as both"),
    ] {
        let output = rr(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(said), "{args:?}: {}", text(&output));
    }
}

#[test]
fn a_broken_configuration_exits_with_2_and_names_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rr.toml");
    std::fs::write(&file, "[backup]\nlevel = 'high'\n").unwrap();
    let file = file.to_str().unwrap();
    for verb in [&["config", "check"][..], &["mkbackup"], &["list"]] {
        let mut args = vec!["--config", file];
        args.extend(verb);
        let output = rr(&args);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("line 2"), "{}", text(&output));
    }
}

#[test]
fn config_show_names_the_origin_of_each_value() {
    let output = rr(&["--config", "/dev/null", "--target", "file:///srv", "config", "show"]);
    let text = text(&output);
    assert!(text.contains("target = \"file:///srv\"") && text.contains("# --target"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("backup.level = 1") && l.ends_with("# default")));
    for unset in ["pxe.tree", "target_options.region", "target_options.login.password"] {
        assert!(text.contains(&format!("\n# {unset} is not set\n")), "{unset}: {text}");
    }
    let node = text.lines().find(|l| l.trim_start_matches("# ").starts_with("node ")).unwrap();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    match host.split('.').next().unwrap() {
        "localhost" => assert_eq!(node, "# node is not set"),
        host => {
            assert!(node.starts_with(&format!("node = \"{host}\"")), "{node}");
            assert!(node.ends_with("# the host name"), "{node}");
        }
    }
}

#[test]
fn what_config_init_prints_is_a_sound_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rr.toml");
    std::fs::write(&file, rr(&["config", "init"]).stdout).unwrap();
    assert!(rr(&["--config", file.to_str().unwrap(), "config", "check"]).status.success());
}

#[test]
fn a_whole_target_is_looked_at_and_a_wrong_node_is_told_the_right_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, target) = (dir.path().join("tree"), dir.path().join("target"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    std::fs::write(tree.join("file"), "x").unwrap();
    let url = format!("file://{}", target.display());
    let include = tree.to_str().unwrap();
    for more in [&["list", "--all"][..], &["--json", "list", "--all", "--older-than", "48h"]] {
        let none = rr(&[&["--target", &url], more].concat());
        assert_eq!(none.status.code(), Some(1), "{}", text(&none));
        let said = format!("no node has a backup at {url}");
        assert!(text(&none).contains(&said) && none.stdout.is_empty(), "{}", text(&none));
    }
    for node in ["node001", "node002"] {
        let made = rr(&["--target", &url, "--node", node, "mkbackuponly", "--include", include]);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    }
    // None of its backups was ever done.
    let failing = dir.path().join("failing.toml");
    std::fs::write(&failing, "[backup]\npre = [\"false\"]\n").unwrap();
    let config = ["--config", failing.to_str().unwrap(), "--target", &url, "--node", "node003"];
    let failed = rr(&[&config[..], &["mkbackuponly", "--include", include]].concat());
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    std::fs::create_dir(target.join("lost+found")).unwrap();
    let all = rr(&["--target", &url, "list", "--all", "--older-than", "48h"]);
    let said = text(&all);
    // Files alone are no backup of a machine.
    assert_eq!(all.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("no layout")).collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("node001 ") && lines[1].starts_with("node002 "), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("node003 ") && last.contains("no complete backup"), "{said}");

    // What is looked for and is not there.
    let of_node = ["--target", &url, "--node", "node001"];
    for verb in
        [&["list", "latest", "/no-such", include][..], &["restore", "--to", include, "/no-such"]]
    {
        let none = rr(&[&of_node[..], verb].concat());
        let said = text(&none);
        assert_eq!(none.status.code(), Some(1), "{verb:?}: {said}");
        assert!(said.contains("not in the backup: /no-such\nhint: rr list 20"), "{verb:?}: {said}");
    }
    // The file has one byte, what is read for it has more.
    let to = dir.path().join("to");
    let restored = rr(&[&of_node[..], &["restore", "--to", to.to_str().unwrap()]].concat());
    assert!(text(&restored).contains(" restored, 1 B\n"), "{}", text(&restored));

    let empty = format!("file://{include}");
    let said = text(&rr(&["--target", &empty, "--node", "node1", "list"]));
    let none = format!("there is no backup of node1: node1 is not in {empty}\nhint: no node has a");
    assert!(said.contains(&none), "{said}");

    let wrong = rr(&["--target", &url, "--node", "node1", "list"]);
    assert_eq!(wrong.status.code(), Some(1));
    let said = text(&wrong);
    assert!(said.contains("there is no backup of node1: node1 is not in file://"), "{said}");
    assert!(said.ends_with("there are 3 nodes: node001, node002, node003\n"), "{said}");
}

#[test]
fn with_json_every_result_is_json() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let (tree, target) = (dir.path().join("tree"), dir.path().join("target"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    let url = format!("file://{}", target.display());
    let common = ["--json", "--target", &url, "--node", "node001"];
    let run = |args: &[&str]| {
        let output = rr(&[&common, args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = |args: &[&str]| -> Vec<serde_json::Value> {
        run(args).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    };
    let include = tree.to_str().unwrap();
    std::fs::write(tree.join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    run(&["mkbackuponly", "--include", include]);
    std::os::unix::fs::symlink("there", tree.join("link")).unwrap();
    // Generations are named by the second.
    std::thread::sleep(std::time::Duration::from_secs(1));
    run(&["mkbackuponly", "--include", include]);

    let files = lines(&["list", "latest"]);
    let of = |name: &str| {
        let path = format!("{include}/{name}");
        files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("{files:?}"))
    };
    assert_eq!(of("caf\\xe9")["size_bytes"], 1);
    assert_eq!((&of("link")["kind"], &of("link")["link"]), (&"symlink".into(), &"there".into()));
    let all: serde_json::Value = serde_json::from_str(&run(&["list"])).unwrap();
    let name = |at: usize| all[at]["generation"].as_str().unwrap();
    let changes = lines(&["diff", name(0), name(1)]);
    let path = format!("{include}/link");
    assert!(changes.iter().any(|c| c["change"] == "added" && c["path"] == path), "{changes:?}");

    let settings: serde_json::Value = serde_json::from_str(&run(&["config", "show"])).unwrap();
    let target = settings.as_array().unwrap().iter().find(|s| s["key"] == "target").unwrap();
    assert_eq!((&target["value"], &target["from"]), (&url.as_str().into(), &"--target".into()));
    let layout: serde_json::Value = serde_json::from_str(&run(&["savelayout"])).unwrap();
    assert!(layout["node"]["kernel"].is_string(), "{layout}");
}

#[test]
#[allow(clippy::disallowed_methods)] // the tests stand outside
fn what_is_installed_is_what_the_units_start() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let install = || {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install"))
            .env("DESTDIR", dir.path())
            .env("RR_BIN", env!("CARGO_BIN_EXE_rr"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    };
    install();
    let config = dir.path().join("etc/rr/rr.toml");
    assert_eq!(config.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let units = dir.path().join("usr/lib/systemd/system");
    for verb in ["mkbackup", "verify"] {
        assert!(units.join(format!("rr-{verb}.timer")).exists());
        let unit = std::fs::read_to_string(units.join(format!("rr-{verb}.service"))).unwrap();
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/")).unwrap();
        let (program, arguments) = start.split_once(' ').unwrap();
        assert!(dir.path().join(program).exists(), "{program}");
        assert_eq!(arguments, verb);
        assert!(rr(&[arguments, "--help"]).status.success());
    }
    // A second time it keeps what the admin wrote.
    std::fs::write(&config, "node = \"n1\"\n").unwrap();
    install();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "node = \"n1\"\n");
}

#[test]
fn every_verb_has_a_manual_page_and_a_completion() {
    let dir = tempfile::tempdir().unwrap();
    let output = rr(&["manpages", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    let completions = rr(&["completions", "bash"]);
    assert!(completions.status.success(), "{}", text(&completions));
    let completions = text(&completions);
    for verb in verbs() {
        let page =
            dir.path().join(format!("{}.1", [&["rr".to_owned()], &*verb].concat().join("-")));
        let page = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{page:?}: {e}"));
        assert!(page.contains(".SH SYNOPSIS"), "{page}");
        for word in verb {
            assert!(completions.contains(&word), "{word}");
        }
    }
}

#[test]
fn restore_takes_a_generation_before_the_paths() {
    use clap::Parser as _;
    let taken = |words: &[&str]| {
        let words = [&["rr", "restore", "--to", "/mnt"], words].concat();
        let rr::cli::Verb::Restore(mut args) = rr::cli::Cli::parse_from(words).verb else {
            panic!()
        };
        args.take_generation();
        let paths: Vec<_> =
            args.paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect();
        (args.generation, paths.join(" "))
    };
    let named = |generation: &str, paths: &str| (Some(generation.to_owned()), paths.to_owned());
    assert_eq!(taken(&["latest", "/etc"]), named("latest", "/etc"));
    assert_eq!(taken(&["20261122T051009Z"]), named("20261122T051009Z", ""));
    assert_eq!(taken(&["/latest", "etc"]), (None, "/latest etc".to_owned()));
    assert_eq!(taken(&["--gen", "latest", "latest"]), named("latest", "latest"));
    assert_eq!(taken(&["--from-tar", "a.tar", "latest"]), (None, "latest".to_owned()));
}

/// A generation of `node001` with a layout that mounts nothing at `/`, and of whose packs one is gone.
fn generation_of_a_machine(target: &str) {
    use rr::store::catalog::{self, FileRecord, MANIFEST_VERSION, Manifest};
    use rr::store::{self, Access};
    let url = target.parse().unwrap();
    let store = store::open(&url, "node001", Access::Write, &rr::config::TargetOptions::default());
    let store = store.unwrap();
    let generation = catalog::new_generation(&*store).unwrap();
    let layout = include_str!("fixtures/layout/node.toml");
    let file: FileRecord = catalog::put(&*store, &generation, "layout.toml", layout).unwrap();
    let gone: FileRecord = catalog::put(&*store, &generation, "gone", "gone").unwrap();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        generation,
        node: "node001".to_owned(),
        rr: "test".to_owned(),
        started: "2026-11-21T01:35:00Z".to_owned(),
        finished: "2026-11-21T01:36:00Z".to_owned(),
        parent: None,
        file: vec![file],
        pack: vec![gone.clone()],
        archive: rr::store::manifest::ArchiveStats::default(),
        tree: vec!["/".to_owned()],
        unprotected: Vec::new(),
        warning: Vec::new(),
    };
    catalog::publish(&*store, &manifest).unwrap();
    store.delete(&gone.name).unwrap();
}

#[test]
fn a_layout_that_cannot_be_made_is_edited_and_planned() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    generation_of_a_machine(&url);
    let of_node = ["--config", "/dev/null", "--target", &url, "--node", "node001"];
    let run = |args: &[&str]| text(&rr(&[&of_node[..], args].concat()));
    // Packs are read when a plan was agreed to, so nothing tells here that one is gone.
    let recover = ["recover", "--dry-run"];
    let said = run(&recover);
    assert!(said.contains("the recorded layout mounts nothing at /"), "{said}");
    assert!(said.contains("rr layout save --gen GENERATION FILE"), "{said}");
    assert!(said.contains("rr recover --layout FILE"), "{said}");

    // The plan that was refused is a result, too.
    let output = rr(&[&of_node[..], &["--json"], &recover].concat());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["result"], &report["node"]), (&"failed".into(), &"node001".into()));
    assert_eq!((output.status.code(), &report["touched"]), (Some(1), &false.into()));
    assert!(report["error"].as_str().unwrap().contains("mounts nothing at /"), "{report}");

    let file = dir.path().join("edited.toml");
    let path = file.to_str().unwrap();
    let said = run(&["layout", "save", "--gen", "latest", path]);
    let saved = std::fs::read_to_string(&file).unwrap();
    assert_eq!(saved, include_str!("fixtures/layout/node.toml"), "{said}");
    std::fs::write(&file, saved.replace("\"/mnt/srv\"", "\"/\"")).unwrap();
    let edited = [&recover[..], &["--layout", path]].concat();
    let said = run(&edited);
    assert!(!said.contains("mounts nothing at /"), "{said}");
    assert!(said.contains("no disk for recorded ubdb"), "{said}");
    assert!(said.contains("the disks are made as ") && said.contains("edited.toml says"), "{said}");
    let said = run(&["layout", "plan", "--file", path, "--erase", "nope"]);
    assert!(said.contains("--erase nope: no disk here has this name"), "{said}");

    std::fs::write(&file, saved.replace("\"node001\"", "\"node002\"")).unwrap();
    let said = run(&edited);
    assert!(said.contains("it is of node002, the generation is of node001"), "{said}");
    std::fs::write(&file, saved.replace("[boot]", "[boots]")).unwrap();
    assert!(run(&edited).contains("parsing the layout"), "{}", run(&edited));
}
