//! What other programs wrote: archives made by the real tools when the test runs.

use std::path::{Path, PathBuf};

use rr::archive::{self, TarOptions};
use rr::sys::run::Cmd;
use tempfile::TempDir;

use super::{FIRST, Target, Unlock, assert_same, differences, nasty, options, skipped, ui};

const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/archive/hostile.py");

const ODD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/archive/odd.py");

/// What [`ODD`] makes.
fn odd(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive");
    let script = "python3 \"$1\" \"$2\" | zstd -q > \"$3\"";
    Cmd::new("sh").args(["-ec", script, "sh", ODD, name]).arg(&file).run().unwrap();
    (dir, file)
}

/// A tree that every format can hold: short names, small numbers, whole seconds.
fn modest() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let script = "
        mkdir -p d/e empty; chmod 1777 empty; chmod 2750 d/e
        seq 100000 > d/big; printf x > d/e/one; : > none; chmod 4755 d/e/one; chmod 000 none
        head -c 1536 /dev/urandom > d/blocks
        ln -s ../nowhere link; ln d/big d/linked; chown 1000:2000 d/blocks; chown -h 7:8 link
        n=$(printf %090d 7); mkdir $n; echo long > $n/file
        find . -depth -exec touch -h -d @1234567890 {} +; touch -d @7 d; touch -d @1 .";
    Cmd::new("sh").args(["-ec", script]).dir(dir.path()).run().unwrap();
    dir
}

/// The archive that `script` writes to standard output in the directory `tree`.
fn archive(tree: &Path, script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive");
    let script = format!("exec > {}; {script}", file.display());
    // GNU tar ends with 2 when it leaves out what its format can't hold.
    Cmd::new("bash").args(["-o", "pipefail", "-c", &script]).dir(tree).output().unwrap();
    (dir, file)
}

fn restore(file: &Path, paths: &[&str]) -> (TempDir, Vec<String>) {
    let to = tempfile::tempdir().unwrap();
    let options = TarOptions {
        file: file.to_owned(),
        root: to.path().to_owned(),
        paths: paths.iter().map(PathBuf::from).collect(),
        ..TarOptions::default()
    };
    let restored = archive::restore_tar(&options, &ui()).unwrap();
    (to, restored.warnings)
}

/// The archive that a script writes comes back as the tree that it was made of.
#[track_caller]
fn comes_back(tree: &Path, script: &str, skip: &[&str]) {
    let (_dir, file) = archive(tree, script);
    let (to, warnings) = restore(&file, &[]);
    let _unlock = Unlock(to.path());
    assert_eq!(warnings, Vec::<String>::new(), "{script}");
    let differences = differences(tree, to.path(), &[], skip);
    assert!(differences.is_empty(), "{script}\n{}", differences.join("\n"));
}

#[test]
fn all_formats_of_gnu_tar_bsdtar_and_python_come_back() {
    if skipped() {
        return;
    }
    let tree = modest();
    for format in ["v7", "ustar", "oldgnu", "gnu", "pax"] {
        comes_back(tree.path(), &format!("tar -cf - --format={format} ."), &[]);
    }
    for format in ["v7", "ustar", "gnutar", "pax"] {
        comes_back(tree.path(), &format!("bsdtar -cf - --format={format} ."), &[]);
    }
    for format in ["USTAR", "GNU", "PAX"] {
        let script = format!(
            "python3 -c 'import sys, tarfile
t = tarfile.open(fileobj=sys.stdout.buffer, mode=\"w|\", format=tarfile.{format}_FORMAT)
t.add(\".\")
t.close()'"
        );
        comes_back(tree.path(), &script, &[]);
    }
}

#[test]
fn every_compression_comes_back_in_one_piece_or_many() {
    if skipped() {
        return;
    }
    let tree = modest();
    for script in [
        "tar -czf - .",
        "tar -cJf - .",
        "tar -c --zstd -f - .",
        // Joined from pieces, as parallel compressors write; with the padding of a tape.
        "tar -cf - . | split -b 100000 --filter='gzip -c' -; head -c 10240 /dev/zero",
        "tar -cf - . | split -b 100000 --filter='zstd -q -c' -",
        "tar -cf - . | split -b 100000 --filter='xz -c' -",
    ] {
        comes_back(tree.path(), script, &[]);
    }
}

#[test]
fn gnu_tars_four_ways_to_store_holes_come_back() {
    if skipped() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    // More parts than the first header and one extension hold; data up to the end, and a hole there.
    let script = "
        for n in $(seq 0 80); do printf $n | dd of=islands bs=1 seek=$((n * 65536)) conv=notrunc; done
        truncate -s 3G hole; truncate -s 5M mixed; echo end >> mixed; echo solid > solid
        cp --sparse=always islands islands-2; truncate -s +1M islands-2
        truncate -s 1T terabyte; echo middle | dd of=terabyte bs=1M seek=500000 conv=notrunc
        touch -d @1234567890 *; touch -d @1 .";
    Cmd::new("sh").args(["-ec", script]).dir(tree.path()).run().unwrap();
    for format in ["oldgnu", "gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax"] {
        comes_back(tree.path(), &format!("tar -cSf - --format={format} ."), &[]);
    }
    comes_back(tree.path(), "bsdtar -cf - --format=pax .", &[]);
}

#[test]
fn what_pax_archives_of_gnu_tar_tell_comes_back_whole() {
    if skipped() {
        return;
    }
    // GNU tar knows no inode flags, and reads no path of more than 4096 bytes.
    let script = "tar -cSf - --format=pax --xattrs --xattrs-include='*' --acls --exclude=./deep .";
    let (_dir, file) = archive(nasty(), script);
    let (to, warnings) = restore(&file, &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let differences = differences(nasty(), to.path(), &["b'/deep"], &["flags"]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn what_bsdtar_tells_comes_back() {
    if skipped() {
        return;
    }
    let script = "bsdtar -cf - --format=pax --acls --xattrs --fflags --exclude=./deep .";
    let (_dir, file) = archive(nasty(), script);
    let (to, warnings) = restore(&file, &[]);
    let _unlock = Unlock(to.path());
    assert_eq!(warnings, Vec::<String>::new());
    // What libarchive 3.6 writes wrong: fractions of seconds before 1970, ids of ACLs above 2^31.
    let without =
        ["b'/deep", "b'/empty' ", "b'/metadata/negative'", "b'/metadata/old'", "b'/metadata/acl"];
    let differences = differences(nasty(), to.path(), &without, &[]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn an_export_comes_back_through_a_pipe() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let (_, manifest) = target.create(&options(nasty(), FIRST), None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("export.tar");
    let mut out = std::fs::File::create(&file).unwrap();
    archive::export(&manifest, target.store.as_ref(), &mut out).unwrap();
    let to = dir.path().join("to");
    let _unlock = Unlock(dir.path());
    let script = "cat \"$1\" | \"$2\" restore --from-tar - --to \"$3\"";
    let rr = env!("CARGO_BIN_EXE_rr");
    Cmd::new("sh").args(["-ec", script, "sh"]).arg(&file).arg(rr).arg(&to).run().unwrap();
    assert_same(nasty(), &to, &[]);
}

/// As ReaR calls GNU tar; names in ACLs are those of the machine that was backed up.
#[test]
fn an_old_backup_of_rear_comes_back() {
    if skipped() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let script = "
        mkdir -p etc srv/named; echo 'daemon:x:4242:1::/:/bin/sh' > etc/passwd; echo 'sys:x:77:' > etc/group
        echo 1 > srv/file; setfacl -m u:daemon:rw,g:sys:r srv/file; setfacl -d -m u:7:r srv
        setfacl -m u:daemon:rwx,d:u:daemon:r srv/named
        setfattr -n user.note -v hello srv/file; truncate -s 40M srv/hole; touch -d @1 srv
        cp /bin/true ping; setcap cap_net_raw+ep ping";
    Cmd::new("sh").args(["-ec", script]).dir(tree.path()).run().unwrap();
    let script = "tar --sparse --block-number --totals --anchored --one-file-system --xattrs \
        --xattrs-include='*' --acls --gzip -c -f - .";
    let (_dir, file) = archive(tree.path(), script);
    let (to, warnings) = restore(&file, &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let acl = Cmd::new("getfacl").args(["-n", "srv/file"]).dir(to.path()).text().unwrap();
    assert!(acl.contains("user:4242:rw-") && acl.contains("group:77:r--"), "{acl}");
    let acl = Cmd::new("getfacl").args(["-n", "srv/named"]).dir(to.path()).text().unwrap();
    assert!(acl.contains("\nuser:4242:rwx") && acl.contains("default:user:4242:r--"), "{acl}");
    // The names are other people here: they are what the test is about.
    let differences = differences(tree.path(), to.path(), &["b'/srv/file'", "b'/srv/named'"], &[]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn some_paths_of_an_archive_come_back_alone() {
    if skipped() {
        return;
    }
    let tree = modest();
    let (_dir, file) = archive(tree.path(), "tar -cf - --sort=name d none");
    let (to, warnings) = restore(&file, &["/d/e"]);
    assert_eq!(warnings, Vec::<String>::new());
    let found = Cmd::new("find").args([".", "-printf", "%p %m %T@\n"]).dir(to.path()).text();
    let found = found.unwrap();
    assert!(found.contains("./d 755 7.0") && found.contains("./d/e/one 4755"), "{found}");
    assert!(!found.contains("big") && !found.contains("none"), "{found}");
    // d/linked is another name of d/big.
    let (_to, warnings) = restore(&file, &["d/linked"]);
    assert!(warnings[0].contains("another name of /d/big"), "{warnings:?}");
    assert!(warnings[0].ends_with("hint: name /d/big as well"), "{warnings:?}");

    let missing = TarOptions {
        file,
        root: to.path().to_owned(),
        paths: vec!["/d/no".into(), "none".into()],
        ..TarOptions::default()
    };
    let said = format!("{:#}", archive::restore_tar(&missing, &ui()).unwrap_err());
    assert!(said.contains("not in the archive: /d/no\n"), "{said}");
}

#[test]
fn an_archive_that_is_cut_off_or_damaged_is_said_to_be() {
    if skipped() {
        return;
    }
    let tree = modest();
    let (_dir, file) = archive(tree.path(), "tar -cf - --sort=name .");
    let good = std::fs::read(&file).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let restore = |bytes: &[u8]| {
        let file = dir.path().join("bad");
        std::fs::write(&file, bytes).unwrap();
        let root = dir.path().join("to");
        std::fs::create_dir_all(&root).unwrap();
        archive::restore_tar(&TarOptions { file, root, ..TarOptions::default() }, &ui())
    };
    let data = good.windows(8).position(|w| w == b"\n1000\n10").unwrap();
    for cut in [100, 512 * 3 + 1, data] {
        let said = format!("{:#}", restore(&good[..cut]).unwrap_err());
        assert!(said.contains("ends in the middle"), "{said}");
    }
    let end = good.iter().rposition(|&b| b != 0).unwrap();
    let said = restore(&good[..(end / 512 + 1) * 512]).unwrap().warnings;
    assert!(said[0].contains("may be cut off"), "{said:?}");
    for (at, expected) in [(0, "this is no tar archive"), (1024, "wrong checksum")] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let said = restore(&bad).map_or_else(|e| format!("{e:#}"), |_| String::new());
        assert!(said.contains(expected), "{at}: {said}");
    }
}

/// `tests/fixtures/archive/hostile.py` makes archives each of which wants to get out of its root.
#[test]
fn no_archive_leaves_its_root() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let names = Cmd::new("python3").args([HOSTILE, "names"]).text().unwrap();
    assert!(names.lines().count() > 10, "{names}");
    for name in names.lines() {
        let _ = std::fs::remove_dir_all(&outside);
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("precious"), "precious").unwrap();
        let file = dir.path().join("archive");
        let bytes = Cmd::new("python3").args([HOSTILE, name]).arg(&outside).stdout().unwrap();
        std::fs::write(&file, bytes).unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        let before = Cmd::new("find").arg(".").args(["-ls"]).dir(&outside).text().unwrap();
        let restored = archive::restore_tar(
            &TarOptions { file, root: root.clone(), ..TarOptions::default() },
            &ui(),
        );
        let after = Cmd::new("find").arg(".").args(["-ls"]).dir(&outside).text().unwrap();
        assert_eq!(before, after, "{name}");
        assert_eq!(std::fs::read(outside.join("precious")).unwrap(), b"precious", "{name}");
        let beside: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(beside.len(), 3, "{name} made something: {beside:?}");
        // Each of them has one good file, behind the bad ones; or is refused as a whole.
        match restored {
            Ok(restored) => {
                assert_eq!(std::fs::read(root.join("good")).unwrap(), b"good", "{name}");
                let quiet = name.starts_with("quiet");
                assert!(quiet || !restored.warnings.is_empty(), "{name} made no warning");
            }
            Err(error) => assert!(name.starts_with("broken"), "{name}: {error:#}"),
        }
        Cmd::new("rm").arg("-rf").arg(&root).run().unwrap();
    }
}

/// The archives are some KiB; what they unpack to is as big as a pax header may be, many times.
#[test]
fn no_archive_takes_all_memory() {
    if skipped() {
        return;
    }
    // ru_maxrss of the one child is the highest VmHWM.
    let measure = "import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    for name in [
        "huge_attributes",
        "many_attributes",
        "many_names",
        "many_records",
        "many_parts",
        "deep_names",
    ] {
        let (dir, file) = odd(name);
        let to = dir.path().join("to");
        let _unlock = Unlock(dir.path());
        assert!(file.metadata().unwrap().len() < 2 << 20, "{name} is big");
        let rr = env!("CARGO_BIN_EXE_rr");
        let measured = Cmd::new("python3")
            .args(["-c", measure, rr, "restore", "--from-tar"])
            .arg(&file)
            .arg("--to")
            .arg(&to)
            .text()
            .unwrap();
        let (code, kib) = measured.trim().split_once(' ').unwrap();
        assert_eq!(code, "0", "{name}");
        assert_eq!(std::fs::read(to.join("good")).unwrap(), b"good", "{name}");
        let mib = kib.parse::<u64>().unwrap() >> 10;
        eprintln!("{name}: {mib} MiB");
        assert!(mib < 160, "{name} took {mib} MiB");
    }
}

#[test]
fn of_members_with_the_same_name_the_last_one_counts_in_everything() {
    if skipped() {
        return;
    }
    let (_dir, file) = odd("last_counts");
    let (to, warnings) = restore(&file, &[]);
    let _unlock = Unlock(to.path());
    assert_eq!(warnings, Vec::<String>::new());
    let read = |path: &str| std::fs::read_to_string(to.path().join(path)).unwrap();
    let found = [read("f"), read("d"), read("up/below"), read("link"), read("locked")];
    assert_eq!(found, ["second", "file", "below", "second", "second"]);
    let flags = Cmd::new("lsattr").args(["-d", "f", "d", "up", "locked"]).dir(to.path()).text();
    let flags = flags.unwrap();
    let locked: Vec<_> =
        flags.lines().map(|line| line.split(' ').next().unwrap().contains('i')).collect();
    assert_eq!(locked, [false, false, false, true], "{flags}");
    let acls = Cmd::new("getfacl").args(["f", "up", "locked"]).dir(to.path()).text().unwrap();
    assert_eq!(acls.matches("user:daemon").count(), 1, "{acls}");
}

#[test]
fn a_hard_link_changes_nothing_of_its_file() {
    if skipped() {
        return;
    }
    let (_dir, file) = odd("link_with_acl");
    let (to, warnings) = restore(&file, &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let acl = Cmd::new("getfacl").arg("a").dir(to.path()).text().unwrap();
    assert!(!acl.contains("daemon"), "{acl}");
}

#[test]
fn no_hard_link_is_made_to_what_was_there_before() {
    if skipped() {
        return;
    }
    let (_dir, file) = odd("links");
    let to = tempfile::tempdir().unwrap();
    let restore = |paths: &[&str]| {
        let options = TarOptions {
            file: file.clone(),
            root: to.path().to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            ..TarOptions::default()
        };
        let restored = archive::restore_tar(&options, &ui()).unwrap();
        (restored.not_restored.unwrap_or_default(), restored.warnings)
    };
    let read = |name: &str| std::fs::read_to_string(to.path().join(name)).ok();
    for name in ["a", "nowhere"] {
        std::fs::write(to.path().join(name), "mine").unwrap();
    }
    let (failed, said) = restore(&["b"]);
    assert_eq!(failed, "1 (/b)");
    assert!(said[0].ends_with("another name of /a, which is not restored\nhint: name /a as well"));
    assert_eq!((read("a").as_deref(), read("b")), (Some("mine"), None));
    let (failed, said) = restore(&[]);
    assert_eq!(failed, "1 (/ghost)");
    assert!(said[0].ends_with("another name of /nowhere, which is not restored"), "{said:?}");
    assert_eq!([read("b"), read("c")], [Some("theirs".into()), Some("theirs".into())]);
    assert_eq!((read("nowhere").as_deref(), read("ghost")), (Some("mine"), None));
}

#[test]
fn records_without_a_value_tell_nothing() {
    if skipped() {
        return;
    }
    let (_dir, file) = odd("no_values");
    let (to, warnings) = restore(&file, &[]);
    assert_eq!(warnings, Vec::<String>::new());
    let found = Cmd::new("stat").args(["-c", "%s %u %Y", "f", "g", "good"]).dir(to.path()).text();
    assert_eq!(found.unwrap(), "4 0 0\n4 77 0\n4 77 0\n");
}

#[test]
fn what_follows_the_end_is_told_and_how_to_get_it() {
    if skipped() {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    let script =
        "echo 1 > a; echo 2 > b; tar -cf a.tar a; tar -cf b.tar b; cat a.tar b.tar > ab.tar
        zstd -q ab.tar";
    Cmd::new("sh").args(["-ec", script]).dir(tree.path()).run().unwrap();
    for name in ["ab.tar", "ab.tar.zst"] {
        let (to, warnings) = restore(&tree.path().join(name), &[]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(to.path().join("a").exists() && !to.path().join("b").exists());
        let (_, hint) = warnings[0].split_once("tail -c ").unwrap();
        let from = hint.split(' ').next().unwrap();
        let script = "tail -c \"$1\" ab.tar | \"$2\" restore --from-tar - --to \"$3\"";
        let rr = env!("CARGO_BIN_EXE_rr");
        let to = to.path().join("rest");
        let sh = Cmd::new("sh").args(["-ec", script, "sh", from, rr]).arg(&to).dir(tree.path());
        sh.run().unwrap();
        assert_eq!(std::fs::read(to.join("b")).unwrap(), b"2\n");
    }
}

#[test]
fn what_is_no_archive_is_an_error_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "
        : > empty; truncate -s 1M zeros; echo 'no archive, some text of one line' > text
        echo > file; tar -cf good.tar file; zip -q file.zip file || printf 'PK\\3\\4and so on' > file.zip";
    Cmd::new("sh").args(["-ec", script]).dir(dir.path()).run().unwrap();
    for (words, expected) in [
        (&["missing"][..], "opening missing"),
        (&["empty"], "there is no archive in it: it is empty"),
        (&["zeros"], "there is no archive in it: it begins with zeros"),
        (&["text"], "ends in the middle of a header"),
        (&["file.zip"], "hint: bsdtar -cf - @FILE | rr restore"),
        (&["good.tar", "nofile"], "not in the archive: /nofile"),
    ] {
        let rr = Cmd::new(env!("CARGO_BIN_EXE_rr"));
        let rr = rr.args(["restore", "--to", "made/for/it", "--from-tar"]).args(words);
        let done = rr.dir(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(expected), "{words:?}: {said}");
        assert!(!dir.path().join("made").exists(), "{words:?} left a directory");
    }
}
