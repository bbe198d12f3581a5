//! What a restore finds where it puts files: others' directories stay as they are, and disks may fail.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rr::archive::{self, ExtractOptions, TarOptions};
use rr::store::Manifest;
use rr::sys::run::Cmd;

use super::filesystems::mount;
use super::{FIRST, Target, Unlock, options, skipped, ui};

/// ACLs and flags of the directories that are there before and after a restore.
fn state(root: &Path) -> String {
    let script = "for dir in . srv srv/share; do getfacl -n $dir; lsattr -d $dir; done";
    Cmd::new("sh").args(["-ec", script]).dir(root).text().unwrap()
}

/// Where one file of many is missing and another one is old. Whatever is created in these
/// directories inherits an ACL, if it can be created at all.
fn lived_in() -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let script = "mkdir -p srv/share/sub; echo old > srv/share/file; chmod 2770 srv/share
        setfacl -d -m u:1234:rwx,g:55:r . srv srv/share srv/share/sub
        chattr +a srv; chattr +i srv/share";
    Cmd::new("sh").args(["-ec", script]).dir(to.path()).run().unwrap();
    to
}

fn source() -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    let script = "mkdir -p srv/share/sub srv/share/more; echo new > srv/share/file
        echo inner > srv/share/sub/inner; echo more > srv/share/more/file; echo top > top";
    Cmd::new("sh").args(["-ec", script]).dir(source.path()).run().unwrap();
    source
}

#[track_caller]
fn assert_only_files_are_new(root: &Path, before: &str) {
    assert_eq!(state(root), before);
    let script = "cat srv/share/file srv/share/more/file srv/share/sub/inner top
        getfacl -n srv/share/file srv/share/more srv/share/more/file srv/share/sub top |
            grep 1234 || :
        lsattr srv/share/file | cut -c 5";
    let said = Cmd::new("sh").args(["-ec", script]).dir(root).text().unwrap();
    assert_eq!(said, "new\nmore\ninner\ntop\n-\n");
}

const PATHS: [&str; 4] = ["/srv/share/file", "/srv/share/more", "/srv/share/sub", "/top"];

#[test]
fn directories_above_what_is_restored_stay_as_they_are() {
    if skipped() {
        return;
    }
    let (source, target) = (source(), Target::new());
    let (_, manifest) = target.create(&options(source.path(), FIRST), None);
    let to = lived_in();
    let _unlock = Unlock(to.path());
    let before = state(to.path());
    let restore = ExtractOptions {
        root: to.path().to_owned(),
        paths: PATHS.map(PathBuf::from).to_vec(),
        threads: 3,
        ..ExtractOptions::default()
    };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &restore, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_only_files_are_new(to.path(), &before);
}

#[test]
fn directories_above_what_comes_from_a_tar_archive_stay_as_they_are() {
    if skipped() {
        return;
    }
    let source = source();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive.tar");
    let cut = dir.path().join("cut.tar");
    Cmd::new("tar").arg("-cf").arg(&file).arg(".").dir(source.path()).run().unwrap();
    let script = "head -c 6000 archive.tar > cut.tar";
    Cmd::new("sh").args(["-ec", script]).dir(dir.path()).run().unwrap();
    let to = lived_in();
    let _unlock = Unlock(to.path());
    let before = state(to.path());
    let restore = |file: &Path| {
        let paths = PATHS.map(PathBuf::from).to_vec();
        let options = TarOptions {
            file: file.to_owned(),
            root: to.path().to_owned(),
            paths,
            ..TarOptions::default()
        };
        archive::restore_tar(&options, &ui())
    };
    restore(&cut).unwrap_err();
    assert_eq!(state(to.path()), before, "after a failure");
    assert_eq!(restore(&file).unwrap().warnings, Vec::<String>::new());
    assert_only_files_are_new(to.path(), &before);
}

/// On btrfs it can be set only while a file is empty.
#[test]
fn loop_files_without_copy_on_write_come_back_so_whatever_their_size() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.btrfs -q", &dir.path().join("image"), &mnt) else { return };
    let script = "mkdir source to; cd source; touch small big; chattr +C small big
        seq 100 > small; seq 500000 > big";
    Cmd::new("sh").args(["-ec", script]).dir(&mnt).run().unwrap();
    let target = Target::new();
    let (_, manifest) = target.create(&options(&mnt.join("source"), FIRST), None);
    let extracted = extract(&target, &manifest, &mnt.join("to")).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    let script = "lsattr to/small to/big | grep -c '^[^ ]*C'; cmp source/big to/big";
    let said = Cmd::new("sh").args(["-ec", script]).dir(&mnt).text().unwrap();
    assert_eq!(said.trim(), "2");
    guard.close().unwrap();
}

fn extract(target: &Target, manifest: &Manifest, to: &Path) -> anyhow::Result<archive::Extracted> {
    let options = ExtractOptions { root: to.to_owned(), sync: true, ..ExtractOptions::default() };
    archive::extract(manifest, target.store.as_ref(), &options, &ui())
}

/// A thin volume whose pool is full, or a disk that breaks: the kernel takes files into its memory,
/// and loses them later.
#[test]
fn loop_what_a_disk_does_not_take_ends_a_restore() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    let data = std::fs::File::create(source.path().join("data")).unwrap();
    data.write_all_at(&vec![7; 24 << 20], 0).unwrap();
    let target = Target::new();
    let (_, manifest) = target.create(&options(source.path(), FIRST), None);

    let (pool, mnt) = (dir.path().join("pool"), dir.path().join("mnt"));
    let Some(pool_guard) = mount("tmpfs", Path::new(""), &pool) else { return };
    Cmd::new("mount").args(["-o", "remount,size=12m"]).arg(&pool).run().unwrap();
    let mkfs = "mkfs.ext4 -q -O ^has_journal";
    let Some(guard) = mount(mkfs, &pool.join("image"), &mnt) else { return };
    let error = extract(&target, &manifest, &mnt).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("did not take all that was written") && text.contains("dmesg"), "{text}");

    // The same with room.
    Cmd::new("mount").args(["-o", "remount,size=100m"]).arg(&pool).run().unwrap();
    extract(&target, &manifest, &mnt).unwrap();
    guard.close().unwrap();
    pool_guard.close().unwrap();
}

fn sh(dir: &Path, script: &str) -> String {
    Cmd::new("sh").args(["-ec", script]).dir(dir).text().unwrap()
}

fn all_of(root: &Path) -> ExtractOptions {
    ExtractOptions { root: root.to_owned(), threads: 3, ..ExtractOptions::default() }
}

fn tar_of(file: &Path, root: &Path, paths: &[&str]) -> TarOptions {
    let paths = paths.iter().map(PathBuf::from).collect();
    TarOptions { file: file.to_owned(), root: root.to_owned(), paths, ..TarOptions::default() }
}

/// On a live system `/srv` may lead to another disk by now: one file that comes back must not take
/// that away, nor be written to where nobody said.
#[test]
fn a_link_above_what_is_restored_stays() {
    if skipped() {
        return;
    }
    let (source, target) = (source(), Target::new());
    let (_, manifest) = target.create(&options(source.path(), FIRST), None);
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir -p live/big; ln -s big live/srv; echo file > live/top");
    let (live, file) = (dir.path().join("live"), dir.path().join("archive.tar"));
    let before = "big\nlive/big\n";
    let state = || sh(dir.path(), "readlink live/srv; find live/big");
    let refused = |error: anyhow::Error, path: &str| {
        let text = format!("{error:#}");
        let link = live.join("srv");
        assert!(
            text.contains(&format!("{} is a symbolic link here, and ", link.display())),
            "{text}"
        );
        let behind = format!("{} would be behind it\nhint: ", live.join(path).display());
        assert!(text.contains(&behind), "{text}");
        assert_eq!(state(), before, "{text}");
    };

    let paths = vec!["/top".into(), "/srv/share/file".into()];
    let some = ExtractOptions { paths, ..all_of(&live) };
    let store = target.store.as_ref();
    let said = archive::extract(&manifest, store, &some, &ui()).unwrap_err();
    refused(said, "srv/share/file");
    assert_eq!(sh(&live, "cat top"), "file\n", "before anything is written");
    let of_tree = Manifest { tree: vec!["/srv/share".into()], ..manifest.clone() };
    let said = archive::extract(&of_tree, store, &all_of(&live), &ui()).unwrap_err();
    refused(said, "srv/share");
    let none = ExtractOptions { paths: vec!["/srv/none".into()], ..all_of(&live) };
    let said = archive::extract(&manifest, store, &none, &ui()).unwrap_err().to_string();
    assert!(said.starts_with("not in the backup: /srv/none"), "{said}");
    let not_dir = ExtractOptions { paths: vec!["/srv/share/sub/inner".into()], ..all_of(&live) };
    sh(&live, "rm srv; mkdir srv; echo file > srv/share");
    let said = archive::extract(&manifest, store, &not_dir, &ui()).unwrap_err().to_string();
    assert!(said.contains("/srv/share is no directory here, and "), "{said}");
    sh(&live, "rm -r srv; ln -s big srv");

    sh(source.path(), &format!("tar -cf {} .", file.display()));
    let one = tar_of(&file, &live, &["srv/share/file"]);
    refused(archive::restore_tar(&one, &ui()).unwrap_err(), "srv/share/file");
    // Without directories, as an archive that was made of a list.
    let list = dir.path().join("list.tar");
    sh(source.path(), &format!("find . -type f | tar -cf {} -T -", list.display()));
    let restored = archive::restore_tar(&tar_of(&list, &live, &[]), &ui()).unwrap();
    assert!(restored.not_restored.is_some_and(|files| files.starts_with("3 (/srv/")));
    let said = &restored.warnings;
    assert!(
        said.iter().all(|line| line.contains("/srv is a symbolic link here, and ")),
        "{said:?}"
    );
    assert_eq!(state(), before);
    assert_eq!(sh(&live, "cat top"), "top\n");

    // What has the directory itself replaces the link, and says so.
    let replaced =
        ["/srv was a symbolic link to big: it is a directory now, as in the backup".to_owned()];
    for whole in [true, false] {
        let restored = match whole {
            true => archive::extract(&manifest, store, &all_of(&live), &ui()),
            false => archive::restore_tar(&tar_of(&file, &live, &[]), &ui()),
        };
        assert_eq!(restored.unwrap().warnings, replaced);
        assert_eq!(sh(&live, "cat srv/share/file; find big"), "new\nbig\n");
        sh(&live, "rm -r srv; ln -s big srv");
    }
}

#[test]
fn directories_that_no_archive_tells_of_are_for_everybody() {
    if skipped() {
        return;
    }
    let source = source();
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (dir.path().join("list.tar"), dir.path().join("to"));
    sh(dir.path(), "mkdir -p like-others to");
    sh(
        source.path(),
        "chmod 700 srv/share/sub; tar -cf list.tar srv/share/sub/inner top srv/share/more",
    );
    sh(source.path(), &format!("mv list.tar {}", file.display()));
    archive::restore_tar(&tar_of(&file, &to, &[]), &ui()).unwrap();
    let modes = sh(dir.path(), "stat -c %a like-others to/srv to/srv/share to/srv/share/sub");
    let modes: Vec<_> = modes.lines().collect();
    assert!(modes.iter().all(|mode| *mode == modes[0]), "{modes:?}");
}

#[test]
fn what_is_only_on_the_way_is_not_dressed() {
    if skipped() {
        return;
    }
    let (source, target) = (source(), Target::new());
    let script = "chmod 755 .; chmod 750 srv; chmod 711 srv/share; setfattr -n user.a -v 1 srv .";
    sh(source.path(), script);
    let (_, whole) = target.create(&options(source.path(), FIRST), None);
    let tree = Manifest { tree: vec!["/srv/share/more".into()], ..whole.clone() };
    let dir = tempfile::tempdir().unwrap();
    let restore = |manifest, keep_root| {
        let options = ExtractOptions { keep_root, ..all_of(&dir.path().join("to")) };
        archive::extract(manifest, target.store.as_ref(), &options, &ui()).unwrap();
        sh(dir.path(), "stat -c %a to to/srv to/srv/share; getfattr -d --absolute-names to to/srv")
    };
    let fresh = "rm -rf to; mkdir -pm 700 to/srv; chmod 700 to; setfattr -n user.b -v 2 to to/srv";
    sh(dir.path(), fresh);
    let kept = "# file: to\nuser.b=\"2\"\n\n";
    let (kept_srv, srv) = (kept.replace("to", "to/srv"), "# file: to/srv\nuser.a=\"1\"\n\n");
    assert_eq!(restore(&tree, true), format!("700\n700\n711\n{kept}{kept_srv}"));
    assert_eq!(restore(&whole, true), format!("700\n750\n711\n{kept}{srv}"));
    let root = "# file: to\nuser.a=\"1\"\n\n";
    assert_eq!(restore(&whole, false), format!("755\n750\n711\n{root}{srv}"));

    // A directory that rr makes gets what the root had.
    sh(source.path(), &format!("tar -cf {}/archive.tar .", dir.path().display()));
    let script = "rm -rf to; mkdir -m 700 to
        for dir in to made; do $0 restore --from-tar archive.tar --to $dir; done
        stat -c %a to made to/srv";
    let rr = env!("CARGO_BIN_EXE_rr");
    let said = Cmd::new("sh").args(["-ec", script, rr]).dir(dir.path()).text().unwrap();
    assert!(said.ends_with("700\n755\n750\n"), "{said}");
}

/// ext4 and others give what is made in a directory some of its flags.
#[test]
fn loop_no_file_inherits_the_flags_of_a_directory_that_was_there() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.ext4 -q", &dir.path().join("image"), &mnt) else { return };
    let _unlock = Unlock(&mnt);
    let script = "mkdir -p source/srv/share/sub to/srv/share/sub; cd source
        echo 1 > srv/share/file; echo 2 > srv/share/sub/inner; mkfifo srv/share/fifo
        chattr +d srv/share/sub; cd ../to; chattr +AdS srv srv/share; chattr +Ti srv/share";
    sh(&mnt, script);
    let target = Target::new();
    let (_, manifest) = target.create(&options(&mnt.join("source"), FIRST), None);
    let to = mnt.join("to");
    let one = ExtractOptions { paths: vec!["/srv/share/file".into()], ..all_of(&to) };
    let flags = || {
        let dirs = "srv srv/share srv/share/file srv/share/sub";
        let said = sh(&to, &format!("lsattr -d {dirs} | cut -d ' ' -f 1 | tr -d e-"));
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &one, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_eq!(flags(), ["SdA", "SidAT", "", ""]);
    let extracted = archive::extract(&manifest, target.store.as_ref(), &all_of(&to), &ui());
    assert_eq!(extracted.unwrap().warnings, Vec::<String>::new());
    assert_eq!(flags(), ["", "", "", "d"]);
    let verified = archive::verify_root(&manifest, target.store.as_ref(), &to, &ui()).unwrap();
    assert_eq!(verified.differences, Vec::<String>::new());
    drop(_unlock);
    guard.close().unwrap();
}

/// The flag alone would say another compression.
#[test]
fn loop_a_directory_that_was_there_compresses_as_before() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.btrfs -q", &dir.path().join("image"), &mnt) else { return };
    let script = "mkdir -p source/srv to/srv to/new; echo 1 > source/srv/file
        setfattr -n btrfs.compression -v zstd to/srv";
    sh(&mnt, script);
    let target = Target::new();
    let (_, manifest) = target.create(&options(&mnt.join("source"), FIRST), None);
    let to = mnt.join("to");
    let one = ExtractOptions { paths: vec!["/srv/file".into()], ..all_of(&to) };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &one, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    let script = "getfattr -n btrfs.compression --only-values srv; echo
        getfattr -d -m - srv/file; lsattr -d srv srv/file | cut -d ' ' -f 1 | tr -d -";
    assert_eq!(sh(&to, script), "zstd\nc\n\n");
    guard.close().unwrap();
}

#[test]
fn loop_files_are_compressed_as_they_were() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.btrfs -q", &dir.path().join("image"), &mnt) else { return };
    let script = "mkdir -p source/dir to; echo 1 > source/file; touch source/plain
        setfattr -n btrfs.compression -v zstd source/file source/dir";
    sh(&mnt, script);
    let target = Target::new();
    let (_, manifest) = target.create(&options(&mnt.join("source"), FIRST), None);
    let to = mnt.join("to");
    let extracted =
        archive::extract(&manifest, target.store.as_ref(), &all_of(&to), &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    let script = "getfattr -n btrfs.compression --only-values file dir; echo
        getfattr -d -m - plain; lsattr -d file dir plain | cut -d ' ' -f 1 | tr -d -";
    assert_eq!(sh(&to, script), "zstdzstd\nc\nc\n\n");
    guard.close().unwrap();
}

/// They are one file on the node, and two filesystems where they come to.
#[test]
fn loop_links_between_filesystems_become_files() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("source"), dir.path().join("to"));
    std::fs::create_dir_all(&source).unwrap();
    let Some(guard) = mount("mkfs.ext4 -q", &dir.path().join("image"), &to.join("sub")) else {
        return;
    };
    let (unlock, unlock_source) = (Unlock(&to), Unlock(&source));
    let script = "mkdir sub; echo start > file; truncate -s 40M file; echo end >> file
        setfattr -n user.note -v hello file; chown 7:8 file; chmod 4751 file
        touch -d '2001-02-03 04:05:06.789' file; ln file sub/1; ln file sub/2; chattr +i file
        ln -s nowhere link; ln link sub/link";
    sh(&source, script);
    let target = Target::new();
    let (_, manifest) = target.create(&options(&source, FIRST), None);
    let extracted =
        archive::extract(&manifest, target.store.as_ref(), &all_of(&to), &ui()).unwrap();
    let [said] = extracted.warnings.as_slice() else { panic!("{:?}", extracted.warnings) };
    assert!(said.starts_with("hard links became files of their own, "), "{said}");
    assert!(said.ends_with(": 3 (/sub/1, /sub/2, /sub/link)"), "{said}");
    assert_eq!(extracted.not_restored, None);
    let script =
        "cmp file sub/1; readlink sub/link; getfattr -n user.note --only-values sub/2; echo
        stat -c '%a %u:%g %s %y %h' file sub/1; lsattr file sub/1 | cut -c 5; stat -c %b sub/1";
    let (found, was) = (sh(&to, script), sh(&source, script));
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines[2].strip_suffix(" 1"), lines[3].strip_suffix(" 2"), "{found}");
    assert!(was.contains(lines[2].trim_end_matches(" 1")), "{was}");
    assert_eq!((lines[0], lines[1], lines[4], lines[5]), ("nowhere", "hello", "i", "i"), "{found}");
    assert!(lines[6].parse::<u64>().unwrap() < 100, "it has lost its hole: {found}");
    drop((unlock, unlock_source));
    guard.close().unwrap();
}

/// systemd ends what it started by a signal, and people do by Ctrl-C.
#[test]
fn a_restore_that_is_ended_by_a_signal_puts_back_what_it_took() {
    if skipped() {
        return;
    }
    let source = source();
    let dir = tempfile::tempdir().unwrap();
    // Longer than what is read ahead.
    sh(source.path(), "truncate -s 30M zeros");
    sh(source.path(), &format!("tar -cf {}/archive.tar --sort=name .", dir.path().display()));
    let to = lived_in();
    let _unlock = Unlock(to.path());
    sh(to.path(), "chattr +d srv");
    let before = state(to.path());
    // The archive comes slowly: its second half never does.
    let script = "mkfifo pipe; exec 3<>pipe; $0 restore --from-tar - --to $1 3<&- <pipe &
        head -c 20000000 archive.tar >&3; tries=0
        until grep -q new $1/srv/share/file; do
            sleep 0.1; tries=$((tries + 1)); test $tries -lt 300
        done
        lsattr -d $1/srv/share | cut -c 5
        kill -TERM $!; status=0; wait $! || status=$?; echo $status";
    let rr = env!("CARGO_BIN_EXE_rr");
    let cmd = Cmd::new("sh").args(["-ec", script, rr]).arg(to.path()).dir(dir.path());
    assert_eq!(cmd.text().unwrap(), "-\n143\n");
    assert_eq!(state(to.path()), before);
}

#[test]
fn other_names_of_a_locked_file_stay_locked() {
    if skipped() {
        return;
    }
    let (source, target) = (source(), Target::new());
    let (_, manifest) = target.create(&options(source.path(), FIRST), None);
    let to = tempfile::tempdir().unwrap();
    let _unlock = Unlock(to.path());
    sh(to.path(), "echo old > top; ln top other; chattr +i top");
    let one = ExtractOptions { paths: vec!["/top".into()], ..all_of(to.path()) };
    archive::extract(&manifest, target.store.as_ref(), &one, &ui()).unwrap();
    let said = sh(to.path(), "cat top other; lsattr top other | cut -c 5");
    assert_eq!(said, "top\nold\n-\ni\n");
}
