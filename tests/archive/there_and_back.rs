//! By rr there and back, by strangers' tools back, and what a second backup stores.

use std::path::{Path, PathBuf};

use rr::archive::{self, CreateOptions, ExtractOptions};
use rr::sys::run::Cmd;

use super::{FIRST, SECOND, Target, Unlock, assert_same, differences, nasty, options, skipped, ui};

#[test]
fn everything_comes_back_as_it_was() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let (created, manifest) = target.create(&options(nasty(), FIRST), None);
    assert_eq!(created.warnings, Vec::<String>::new());
    archive::check(&manifest, target.store.as_ref(), &ui()).unwrap();
    let (to, extracted) = target.extract(&manifest, &[]);
    let _unlock = Unlock(to.path());
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_eq!(extracted.entries, created.stats.entries);
    assert_same(nasty(), to.path(), &[]);

    // Once more over what is there, as a second recovery does.
    let over = ExtractOptions { root: to.path().to_owned(), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &over, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_same(nasty(), to.path(), &[]);
}

/// What waits for the end of a restore comes from all runs, whichever thread had them.
#[test]
fn links_and_directories_of_many_runs_come_back() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let dirs: Vec<_> =
        (0..2000).map(|n| source.path().join(format!("{:02}/{n:04}", n / 100))).collect();
    for (n, dir) in dirs.iter().enumerate() {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("file"), n.to_string()).unwrap();
        // Of this file, or of one in an earlier run.
        let other = &dirs[n.saturating_sub(n % 2 * 700)];
        std::fs::hard_link(other.join("file"), dir.join("link")).unwrap();
    }
    for (n, dir) in dirs.iter().enumerate() {
        let file = std::fs::File::open(dir).unwrap();
        let mode = 0o500 + u32::try_from(n % 64).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let time = std::time::Duration::from_secs(1_600_000_000 + n as u64);
        file.set_modified(std::time::UNIX_EPOCH + time).unwrap();
    }
    let target = Target::new();
    let (created, manifest) = target.create(&options(source.path(), FIRST), None);
    assert!(created.stats.chunks > 4, "{:?}", created.stats);
    let (to, extracted) = target.extract(&manifest, &[]);
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_same(source.path(), to.path(), &[]);
}

#[test]
fn gnu_tar_restores_what_was_stored_by_the_restore_text_and_by_cat() {
    if skipped() {
        return;
    }
    let target = Target::new();
    // GNU tar can't create paths of more than 4096 bytes, and knows no inode flags.
    let short = CreateOptions { exclude: vec!["/deep".into()], ..options(nasty(), FIRST) };
    let (_, manifest) = target.create(&short, None);
    let script = target.node_dir().join(format!("generations/{FIRST}/RESTORE.txt"));
    let to = tempfile::tempdir().unwrap();
    Cmd::new("sh").arg(&script).arg(to.path()).run().unwrap();
    let differences = differences(nasty(), to.path(), &["b'/deep"], &["flags"]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    // Run inside the directory, with a relative path.
    let dir = target.node_dir().join(format!("generations/{FIRST}"));
    let by_script = Cmd::new("sh").arg("RESTORE.txt").dir(dir).stdout().unwrap();
    let by_cat = Cmd::new("sh")
        .args(["-c", &format!("cat packs/{FIRST}-*.tar.zst | zstd -dc")])
        .dir(target.node_dir())
        .stdout()
        .unwrap();
    assert!(by_script == by_cat, "the recipe and cat give different streams");
    assert_eq!(by_cat.len() as u64, manifest.archive.stream_bytes);
}

#[test]
fn bsdtar_restores_what_was_stored() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let short = CreateOptions { exclude: vec!["/deep".into()], ..options(nasty(), FIRST) };
    target.create(&short, None);
    let to = tempfile::tempdir().unwrap();
    let _unlock = Unlock(to.path());
    let script = format!("cat packs/{FIRST}-*.tar.zst | bsdtar --numeric-owner -xpf - -C \"$1\"");
    let output =
        Cmd::new("sh").args(["-c", &script, "sh"]).arg(to.path()).dir(target.node_dir()).output();
    let output = output.unwrap();
    // What libarchive 3.6 gets wrong: fractions of seconds before 1970, ids of ACLs above 2^31,
    // names of attributes with an equals sign, the times of its own working directory.
    let without = [
        "b'/deep",
        "b'' ",
        "b'/empty'",
        "b'/metadata/negative'",
        "b'/metadata/old'",
        "b'/metadata/acl",
        "b'/metadata/xattr'",
    ];
    let differences = differences(nasty(), to.path(), &without, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(differences.is_empty(), "{said}\n{}", differences.join("\n"));
}

#[test]
fn an_unchanged_tree_stores_nearly_nothing_again() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let (first, parent) = target.create(&options(nasty(), FIRST), None);
    let (second, manifest) = target.create(&options(nasty(), SECOND), Some(&parent));
    assert_eq!(second.stats.stored_bytes, 0, "{:?}", second.stats);
    assert_eq!(second.stats.new_chunks, 0);
    assert_eq!(second.stats.stream_blake3, first.stats.stream_blake3);
    assert_eq!(second.stats.entries, first.stats.entries);
    assert_eq!(second.stats.files, first.stats.files);
    let (to, _) = target.extract(&manifest, &[]);
    let _unlock = Unlock(to.path());
    assert_same(nasty(), to.path(), &[]);
}

#[test]
fn changes_between_two_backups_are_found() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let script = "
        mkdir -p a b c; seq 1 300000 > a/big; seq 1 5000 > a/small; seq 1 9 > b/keep
        for n in $(seq 1 2000); do echo $n > c/$n; done
        head -c 20000000 /dev/urandom > b/random; sleep 4";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let target = Target::new();
    let (_, parent) = target.create(&options(root, FIRST), None);
    let script = "
        echo more >> a/big; rm c/700; echo new > c/1500; touch -d 2001-01-01 c/3; mv b/keep b/kept
        ln c/9 a/link; printf x | dd of=b/random bs=1 seek=10000000 conv=notrunc; chmod 600 c/12";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let (second, manifest) = target.create(&options(root, SECOND), Some(&parent));
    assert!(second.stats.stored_bytes < 6_000_000, "{:?}", second.stats);
    let (to, _) = target.extract(&manifest, &[]);
    assert_same(root, to.path(), &[]);

    // With nothing but what the RESTORE text says that one needs.
    let script = target.node_dir().join(format!("generations/{SECOND}/RESTORE.txt"));
    let (to, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for program in ["sh", "dd", "zstd", "tar"] {
        let found = rr::sys::tools::find(program.as_ref()).unwrap();
        std::os::unix::fs::symlink(found, bin.path().join(program)).unwrap();
    }
    let restore = Cmd::new(bin.path().join("sh")).arg(&script).arg(to.path());
    restore.env("PATH", bin.path()).run().unwrap();
    assert_same(root, to.path(), &[]);
}

#[test]
fn some_paths_come_back_alone() {
    if skipped() {
        return;
    }
    let target = Target::new();
    let (_, manifest) = target.create(&options(nasty(), FIRST), None);
    // The second one is another name of a file outside.
    let (to, extracted) =
        target.extract(&manifest, &["/contents/sub", "names/other", "/metadata/acl"]);
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert!(extracted.bytes < 16 << 20, "{extracted:?}");
    let mut found: Vec<_> = Cmd::new("find")
        .args([".", "-mindepth", "1"])
        .dir(to.path())
        .text()
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    let expected = [
        "./contents",
        "./contents/sub",
        "./contents/sub/small",
        "./metadata",
        "./metadata/acl",
        "./names",
        "./names/other",
    ];
    assert_eq!(found, expected);
    for name in ["contents/sub/small", "names/other"] {
        let read = |root: &Path| std::fs::read(root.join(name)).unwrap();
        assert!(read(to.path()) == read(nasty()), "{name}");
    }
    let options = ExtractOptions {
        root: to.path().to_owned(),
        paths: vec!["/contents/no".into()],
        ..ExtractOptions::default()
    };
    let said = archive::extract(&manifest, target.store.as_ref(), &options, &ui()).unwrap_err();
    assert!(said.to_string().contains("/contents/no"), "{said}");
    // All but what is below a directory, though with what is deeper below that.
    let to = tempfile::tempdir().unwrap();
    let options = ExtractOptions {
        root: to.path().to_owned(),
        without: vec!["/contents".into()],
        but: vec!["/".into(), "/contents/sub".into()],
        ..ExtractOptions::default()
    };
    archive::extract(&manifest, target.store.as_ref(), &options, &ui()).unwrap();
    let read = |root: &Path, dir: &str| {
        let names = std::fs::read_dir(root.join(dir)).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(read(to.path(), "contents"), ["sub"]);
    for dir in ["", "contents/sub", "names"] {
        assert_eq!(read(to.path(), dir), read(nasty(), dir), "{dir:?}");
    }
}

/// Databases and images of machines fill their holes: with zeros first.
#[test]
fn a_hole_that_is_filled_with_zeros_is_no_difference() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let script = "for file in small big; do truncate -s 1M $file; echo end >>$file; done
        truncate -s 40M big; echo end >>big; truncate -s 3M empty; touch -r small big empty";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let target = Target::new();
    let store = target.store.as_ref();
    let (created, manifest) = target.create(&options(root, FIRST), None);
    assert!(created.stats.stream_bytes < 1 << 20, "here are no holes");
    let write = |from: &str| {
        let script = format!(
            "for file in small big empty; do
                dd if={from} of=$file bs=64K seek=3 count=5 conv=notrunc; touch -d @1 $file
            done"
        );
        Cmd::new("sh").args(["-ec", &script]).dir(root).run().unwrap();
        let differences = archive::verify_root(&manifest, store, root, &ui()).unwrap().differences;
        differences.into_iter().filter(|line| !line.contains("another time")).collect::<Vec<_>>()
    };
    assert_eq!(write("/dev/zero"), Vec::<String>::new());
    let expected =
        ["big", "empty", "small"].map(|file| format!("/{file} has data where it had holes"));
    assert_eq!(write("/dev/urandom"), expected);
}

#[test]
fn a_tree_is_verified_listed_exported_and_compared() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let script = "mkdir d; echo 1 > d/a; echo 2 > b; seq 500000 > big; ln -s b l; ln b c; sleep 4";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let target = Target::new();
    let store = target.store.as_ref();
    let (created, first) = target.create(&options(root, FIRST), None);
    let verify = |manifest| archive::verify_root(manifest, store, root, &ui()).unwrap();
    assert_eq!(verify(&first).differences, Vec::<String>::new());
    assert_eq!(verify(&first).entries, created.stats.entries);

    let mut paths = Vec::new();
    let each = |entry: &archive::Entry| {
        paths.push(String::from_utf8(entry.path.clone()).unwrap());
        Ok(())
    };
    archive::list(&first, store, &[], each).unwrap();
    assert_eq!(paths, ["", "b", "big", "c", "d", "d/a", "l"]);

    let mut tar = Vec::new();
    archive::export(&first, store, &mut tar).unwrap();
    assert_eq!(tar.len() as u64, created.stats.stream_bytes);
    let listed = Cmd::new("tar").args(["-tf", "-"]).stdin(tar).text().unwrap();
    assert_eq!(listed, "./\nb\nbig\nc\nd/\nd/a\nl\n");

    let script = "echo 3 > new; rm l; chmod 600 d/a; printf x | dd of=big bs=1 seek=9 conv=notrunc";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let differences = verify(&first).differences;
    for expected in ["/big has other content", "/d/a has another mode", "/l is missing"] {
        assert!(differences.iter().any(|line| line == expected), "{differences:?}");
    }
    let (_, second) = target.create(&options(root, SECOND), Some(&first));
    let mut changes = Vec::new();
    let each = |change, entry: &archive::Entry| {
        changes.push(format!("{change:?} {}", entry.shown()));
        Ok(())
    };
    archive::diff(&first, &second, store, each).unwrap();
    assert_eq!(changes, ["Modified /big", "Metadata /d/a", "Removed /l", "Added /new"]);
}

#[test]
fn loop_filesystems_are_archived_only_when_chosen_and_hide_nothing_otherwise() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    let script = "mkdir chosen foreign; chmod 711 foreign; echo hidden > chosen/hidden; echo 1 > z";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let mount = |name: &str| {
        let path = root.join(name);
        rr::sys::mount::MountGuard::mount(&["-t", "tmpfs", "tmpfs"], &path)
    };
    let (Ok(chosen), Ok(foreign)) = (mount("chosen"), mount("foreign")) else {
        eprintln!("skipped: can't mount");
        return;
    };
    let script = "
        echo 1 > chosen/file; chmod 750 chosen; mkdir -p foreign/way/tree foreign/no
        echo 2 > foreign/no/file; echo 3 > foreign/way/tree/file";
    Cmd::new("sh").args(["-ec", script]).dir(root).run().unwrap();
    let target = Target::new();
    let trees = ["/", "/chosen", "/foreign/way/tree"].map(PathBuf::from).to_vec();
    let options = CreateOptions { trees, exclude: vec!["/z".into()], ..options(root, FIRST) };
    let (created, manifest) = target.create(&options, None);
    assert_eq!(created.warnings, Vec::<String>::new());
    let mut found = Vec::new();
    let each = |entry: &archive::Entry| {
        found.push(format!("{} {:o}", entry.shown(), entry.mode));
        Ok(())
    };
    archive::list(&manifest, target.store.as_ref(), &[], each).unwrap();
    assert_eq!(
        found[1..],
        [
            "/chosen 750",
            "/chosen/file 644",
            "/foreign 1777",
            "/foreign/way 755",
            "/foreign/way/tree 755",
            "/foreign/way/tree/file 644",
        ]
    );
    let trees = vec!["/".into()];
    let options = CreateOptions { trees, generation: SECOND.into(), ..options };
    let (_, manifest) = target.create(&options, None);
    let (to, _) = target.extract(&manifest, &[]);
    let listed = Cmd::new("find").args([".", "-printf", "%p %m\\n"]).dir(to.path()).text().unwrap();
    assert!(listed.contains("./foreign 711\n"), "the mode below the mount: {listed}");
    assert!(listed.contains("./chosen/hidden 644\n"), "what is below the mount: {listed}");
    assert!(!listed.contains("file"), "{listed}");
    chosen.close().unwrap();
    foreign.close().unwrap();
}

#[test]
fn loop_fat_takes_files_without_complaints() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let (mnt, source) = (dir.path().join("mnt"), dir.path().join("source"));
    std::fs::create_dir_all(source.join("esp/EFI/debian")).unwrap();
    std::fs::create_dir(&mnt).unwrap();
    std::fs::write(source.join("esp/EFI/debian/shimx64.efi"), vec![7; 3 << 20]).unwrap();
    let script = format!("truncate -s 64M {0} && mkfs.vfat {0}", image.display());
    let made = Cmd::new("sh").args(["-ec", &script]).run();
    Cmd::new("sh")
        .args(["-c", "chown -R 7:7 esp; chmod -R 640 esp/EFI/debian/*; touch -d @1234567890 esp/EFI/debian/*"])
        .dir(&source)
        .run()
        .unwrap();
    let mounted = made.and_then(|()| {
        let args = ["-o", "loop", &image.to_string_lossy()];
        rr::sys::mount::MountGuard::mount(&args, &mnt)
    });
    let Ok(guard) = mounted else {
        eprintln!("skipped: can't mount a FAT image here");
        return;
    };
    let target = Target::new();
    let (_, manifest) = target.create(&options(&source, FIRST), None);
    let to = ExtractOptions { root: mnt.clone(), ..ExtractOptions::default() };
    for _ in 0..2 {
        let extracted = archive::extract(&manifest, target.store.as_ref(), &to, &ui()).unwrap();
        assert_eq!(extracted.warnings, Vec::<String>::new());
    }
    let verified = archive::verify_root(&manifest, target.store.as_ref(), &mnt, &ui()).unwrap();
    assert_eq!(verified.differences, Vec::<String>::new());
    guard.close().unwrap();
}

#[test]
fn caches_and_what_needs_no_dump_are_left_out_on_request() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let script = "
        mkdir -p cache/sub no-dump not-a-cache; echo 1 > cache/sub/file; echo 1 > no-dump/file
        echo 'Signature: 8a477f597d28d172789f06886806bc55 # by hand' > cache/CACHEDIR.TAG
        echo 'Signature: other' > not-a-cache/CACHEDIR.TAG; echo 1 > not-a-cache/file
        echo 1 > flagged; chattr +d flagged no-dump";
    Cmd::new("sh").args(["-ec", script]).dir(source.path()).run().unwrap();
    let target = Target::new();
    let listed = |options: &CreateOptions| {
        let (_, manifest) = target.create(options, None);
        let mut found = Vec::new();
        let each = |entry: &archive::Entry| {
            found.push(entry.shown());
            Ok(())
        };
        archive::list(&manifest, target.store.as_ref(), &[], each).unwrap();
        found
    };
    assert_eq!(listed(&options(source.path(), FIRST)).len(), 11);
    let options = CreateOptions {
        exclude_nodump: true,
        exclude_caches: true,
        ..options(source.path(), SECOND)
    };
    let expected = [
        "/",
        "/cache",
        "/cache/CACHEDIR.TAG",
        "/not-a-cache",
        "/not-a-cache/CACHEDIR.TAG",
        "/not-a-cache/file",
    ];
    assert_eq!(listed(&options), expected);
    // A tree below is there all the same, without what is beside it.
    let trees = ["/cache/sub/in", "/no-dump/sub/in"].map(PathBuf::from);
    let script = "mkdir -p cache/sub/in no-dump/sub/in; echo 1 | tee cache/sub/in/f no-dump/sub/in/f; chattr -R -d no-dump/sub";
    Cmd::new("sh").args(["-ec", script]).dir(source.path()).run().unwrap();
    let below =
        |top: &str| ["", "/sub", "/sub/in", "/sub/in/f"].map(|path| format!("/{top}{path}"));
    let expected: Vec<String> =
        [vec!["/".to_owned()], below("cache").into(), below("no-dump").into()].concat();
    let again = |hour: &str, trees: Vec<PathBuf>| CreateOptions {
        generation: format!("20261121T{hour}3500Z"),
        trees,
        ..options.clone()
    };
    let named = again("03", trees.to_vec());
    assert_eq!(listed(&named), expected);
    let whole = again("04", [vec!["/".into()], trees.to_vec()].concat());
    let found: Vec<String> =
        listed(&whole).into_iter().filter(|path| !path.contains("a-cache")).collect();
    assert_eq!(
        found,
        [&expected[..2], &["/cache/CACHEDIR.TAG".to_owned()], &expected[2..]].concat()
    );
    // Who names a cache wants it.
    assert_eq!(listed(&again("05", vec!["/cache".into()])).len(), 7);
}

#[test]
fn of_a_swap_file_comes_back_the_header_and_no_memory() {
    if skipped() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    // As fallocate makes one: its blocks are there, and have no data yet but where was swapped to.
    let script = "
        fallocate -l 20M swapfile; chmod 600 swapfile; mkswap -q -L swap swapfile
        head -c 1M /dev/urandom | dd of=swapfile bs=1M seek=7 conv=notrunc status=none; sleep 4";
    Cmd::new("sh").args(["-ec", script]).dir(source.path()).run().unwrap();
    let target = Target::new();
    let swapped = std::fs::read(source.path().join("swapfile")).unwrap();
    // One that was made before it was swapped to has all of it.
    let (_, before) = target.create(&options(source.path(), FIRST), None);
    let now =
        CreateOptions { swap_files: vec!["/swapfile".into()], ..options(source.path(), SECOND) };
    let (_, manifest) = target.create(&now, Some(&before));
    let (to, _) = target.extract(&manifest, &[]);
    let back = std::fs::read(to.path().join("swapfile")).unwrap();
    assert!(back[..4096] == swapped[..4096], "another header");
    assert!(back.len() == swapped.len() && back[4096..].iter().all(|byte| *byte == 0), "memory");
    let blocks = std::os::unix::fs::MetadataExt::blocks(
        &std::fs::metadata(to.path().join("swapfile")).unwrap(),
    );
    assert!(blocks * 512 >= 20 << 20, "swapon(8) takes no file with holes: {blocks} blocks");
}
