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
}

#[test]
fn what_config_init_prints_is_a_sound_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rr.toml");
    std::fs::write(&file, rr(&["config", "init"]).stdout).unwrap();
    assert!(rr(&["--config", file.to_str().unwrap(), "config", "check"]).status.success());
}
