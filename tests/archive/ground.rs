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
        let options =
            TarOptions { file: file.to_owned(), root: to.path().to_owned(), paths, sync: true };
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
