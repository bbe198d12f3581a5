//! There and back on the filesystems that nodes have, on loop devices: each keeps other things.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rr::archive::{self, CreateOptions, ExtractOptions};
use rr::sys::mount::MountGuard;
use rr::sys::run::Cmd;

use super::{FIRST, NASTY, SECOND, Target, Unlock, assert_same, differences, options, skipped, ui};

/// Mounts a new filesystem at `dir`; None where that can't be done here.
pub fn mount(mkfs: &str, image: &Path, dir: &Path) -> Option<MountGuard> {
    std::fs::create_dir_all(dir).unwrap();
    let mounted = if mkfs == "tmpfs" {
        MountGuard::mount(&["-t", "tmpfs", "tmpfs"], dir)
    } else {
        let script = format!("truncate -s 2G {0}; {mkfs} {0}", image.display());
        Cmd::new("sh")
            .args(["-ec", &script])
            .run()
            .and_then(|()| MountGuard::mount(&["-o", "loop", &image.to_string_lossy()], dir))
    };
    if let Err(error) = &mounted {
        eprintln!("skipped: can't mount what {mkfs} makes: {error:#}");
    }
    mounted.ok()
}

/// The tree of nasty.py from and to such a filesystem, by rr and by GNU tar.
fn there_and_back_on(mkfs: &str) {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount(mkfs, &dir.path().join("image"), &mnt) else { return };
    let unlock = Unlock(&mnt);
    let (source, to, by_tar) = (mnt.join("source"), mnt.join("to"), mnt.join("by-tar"));
    for dir in [&to, &by_tar] {
        std::fs::create_dir(dir).unwrap();
    }
    Cmd::new("python3").args([NASTY, "make"]).arg(&source).run().unwrap();
    Cmd::new("sync").arg("-f").arg(&mnt).run().unwrap();
    let target = Target::new();
    let store = target.store.as_ref();
    let (created, manifest) = target.create(&options(&source, FIRST), None);
    assert_eq!(created.warnings, Vec::<String>::new());
    let options_to = ExtractOptions { root: to.clone(), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, store, &options_to, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_same(&source, &to, &[]);
    let verified = archive::verify_root(&manifest, store, &to, &ui()).unwrap();
    assert_eq!(verified.differences, Vec::<String>::new());

    // GNU tar creates no paths of more than 4096 bytes, and knows no inode flags.
    let short = CreateOptions { exclude: vec!["/deep".into()], ..options(&source, FIRST) };
    let target = Target::new();
    target.create(&short, None);
    let script = target.node_dir().join(format!("generations/{FIRST}/RESTORE.txt"));
    Cmd::new("sh").arg(&script).arg(&by_tar).run().unwrap();
    let differences = differences(&source, &by_tar, &["b'/deep"], &["flags"]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    drop(unlock);
    guard.close().unwrap();
}

#[test]
fn loop_ext4_there_and_back() {
    there_and_back_on("mkfs.ext4 -q");
}

#[test]
fn loop_xfs_there_and_back() {
    there_and_back_on("mkfs.xfs -q");
}

#[test]
fn loop_btrfs_there_and_back() {
    there_and_back_on("mkfs.btrfs -q");
}

#[test]
fn loop_tmpfs_there_and_back() {
    there_and_back_on("tmpfs");
}

#[test]
fn loop_what_a_smaller_filesystem_can_not_keep_is_said() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    // Times in 32 bits.
    let Some(guard) = mount("mkfs.ext4 -q -I 128", &dir.path().join("image"), &mnt) else { return };
    let source = tempfile::tempdir().unwrap();
    let script = "touch -d @5000000000 future; touch -d @1234567890 now; mkdir d; touch -d @-9 old
        touch -d @5000000001 d; mkdir more; echo 1 > more/a; echo 2 > more/b";
    Cmd::new("sh").args(["-c", script]).dir(source.path()).run().unwrap();
    let target = Target::new();
    let (_, manifest) = target.create(&options(source.path(), FIRST), None);
    let to = ExtractOptions { root: mnt.clone(), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &to, &ui()).unwrap();
    let said = extracted.warnings;
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("/: this filesystem keeps no fractions of seconds"), "{said:?}");
    assert!(said[1].starts_with("/d: its time can't be set"), "{said:?}");
    assert!(said[2].starts_with("/future: its time can't be set"), "{said:?}");
    guard.close().unwrap();
}

/// XFS takes attributes of 64 KiB. ext4 says that the disk is full, which ends a restore elsewhere.
#[test]
fn loop_an_attribute_that_is_too_big_for_the_filesystem_is_all_that_is_lost() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let Some(xfs) = mount("mkfs.xfs -q", &at("xfs"), &at("from")) else { return };
    let Some(ext4) = mount("mkfs.ext4 -q", &at("ext4"), &at("to")) else { return };
    let source = at("from").join("source");
    std::fs::create_dir(&source).unwrap();
    let script = "import os; os.umask(0o22)
for name in 'abc': open(name, 'w').write(name)
os.setxattr('b', 'user.large', b'x' * 9000); os.setxattr('b', 'user.z', b'z')";
    Cmd::new("python3").args(["-c", script]).dir(&source).run().unwrap();
    let target = Target::new();
    let (_, manifest) = target.create(&options(&source, FIRST), None);
    let to = ExtractOptions { root: at("to"), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, target.store.as_ref(), &to, &ui()).unwrap();
    let said = extracted.warnings;
    assert_eq!(said.len(), 1, "{said:?}");
    let lost = "/b: its attribute user.large can't be set: it is too big for this filesystem";
    assert!(said[0].starts_with(lost), "{said:?}");
    let restored = Cmd::new("getfattr").args(["-d", "a", "b", "c"]).dir(at("to")).text().unwrap();
    assert_eq!(restored.trim(), "# file: b\nuser.z=\"z\"");
    ext4.close().unwrap();
    xfs.close().unwrap();
}

#[test]
fn loop_a_hundred_thousand_names_of_one_file() {
    const LINKS: u64 = 100_000;
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("tmpfs", &dir.path().join("image"), &mnt) else { return };
    let (source, to) = (mnt.join("source"), mnt.join("to"));
    for dir in [&source, &to] {
        std::fs::create_dir(dir).unwrap();
    }
    let first = source.join("0");
    std::fs::write(&first, "one of many").unwrap();
    for n in 1..LINKS {
        std::fs::hard_link(&first, source.join(n.to_string())).unwrap();
    }
    let target = Target::new();
    let (created, manifest) = target.create(&options(&source, FIRST), None);
    assert_eq!(created.stats.entries, LINKS + 1);
    let options = ExtractOptions { root: to.clone(), ..ExtractOptions::default() };
    archive::extract(&manifest, target.store.as_ref(), &options, &ui()).unwrap();
    let found = std::fs::metadata(to.join("99999")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&found), LINKS);
    assert_eq!(std::fs::read(to.join("50000")).unwrap(), b"one of many");
    guard.close().unwrap();
}

#[test]
fn loop_what_no_archive_keeps_is_said() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.ext4 -q", &dir.path().join("image"), &mnt) else { return };
    let source = mnt.join("source");
    std::fs::create_dir(&source).unwrap();
    Cmd::new("sh").args(["-ec", "mkdir a b; chattr +x a b"]).dir(&source).run().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(source.join("listens")).unwrap();
    let target = Target::new();
    let (created, _) = target.create(&options(&source, FIRST), None);
    let [dax, socket] = created.warnings.as_slice() else { panic!("{:?}", created.warnings) };
    assert!(dax.starts_with("files were for direct access"), "{dax}");
    assert!(dax.ends_with(": 2 (/a, /b)"), "{dax}");
    assert!(socket.starts_with("sockets are not archived"), "{socket}");
    assert!(socket.ends_with(": 1 (/listens)"), "{socket}");
    drop(listener);
    guard.close().unwrap();
}

/// XFS keeps them without quotas, too.
#[test]
fn loop_projects_of_quotas_come_back() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.xfs -q", &dir.path().join("image"), &mnt) else { return };
    let (source, to, by_tar) = (mnt.join("source"), mnt.join("to"), mnt.join("by-tar"));
    for dir in [&source, &to, &by_tar] {
        std::fs::create_dir(dir).unwrap();
    }
    let make = "mkdir p plain; chattr -p 42 p; chattr +P p; mkdir p/below p/none
        chattr -p 0 p/none; chattr -P p/none
        echo a | tee p/a p/below/a p/none/a p/other p/zero plain/a > plain/b
        truncate -s 2M p/big; chattr -p 7 p/other; chattr -p 0 p/zero
        ln p/a plain/link; ln -s a p/symlink; mkdir a; ln p/below/a a/early";
    Cmd::new("sh").args(["-ec", make]).dir(&source).run().unwrap();
    let projects = |dir: &Path| {
        let script = "find . ! -type l | sort | xargs lsattr -dp";
        Cmd::new("sh").args(["-ec", script]).dir(dir).text().unwrap()
    };
    let before = projects(&source);
    let of = |project: &str| before.lines().filter(|l| l.trim_start().starts_with(project)).count();
    assert_eq!((of("42 "), of("7 "), of("0 ")), (7, 1, 8), "{before}");

    let target = Target::new();
    let store = target.store.as_ref();
    let (created, manifest) = target.create(&options(&source, FIRST), None);
    assert_eq!(created.warnings, Vec::<String>::new());
    let options = ExtractOptions { root: to.clone(), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, store, &options, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_eq!(projects(&to), before);
    assert_same(&source, &to, &[]);
    // Once more, into directories that hand their project on by now.
    let extracted = archive::extract(&manifest, store, &options, &ui()).unwrap();
    assert_eq!(extracted.warnings, Vec::<String>::new());
    assert_eq!(projects(&to), before);
    let verified = archive::verify_root(&manifest, store, &to, &ui()).unwrap();
    assert_eq!(verified.differences, Vec::<String>::new());
    Cmd::new("chattr").args(["-p", "8"]).arg(to.join("p/a")).run().unwrap();
    let verified = archive::verify_root(&manifest, store, &to, &ui()).unwrap();
    assert_eq!(verified.differences, ["/p/a belongs to another project"]);

    // What knows no projects takes the rest, and rr says what is lost.
    let script = target.node_dir().join(format!("generations/{FIRST}/RESTORE.txt"));
    Cmd::new("sh").arg(script).arg(&by_tar).run().unwrap();
    assert_same(&source, &by_tar, &["flags"]);
    let tmpfs = dir.path().join("tmpfs");
    let Some(other) = mount("tmpfs", &dir.path().join("none"), &tmpfs) else { return };
    let options = ExtractOptions { root: tmpfs.clone(), ..ExtractOptions::default() };
    let extracted = archive::extract(&manifest, store, &options, &ui()).unwrap();
    let [lost] = extracted.warnings.as_slice() else { panic!("{:?}", extracted.warnings) };
    assert!(lost.starts_with("files belonged to a project of a quota, "), "{lost}");
    assert!(lost.ends_with(": 6 (/a/early, /p, /p/a, /p/below, /p/big, /p/other)"), "{lost}");
    other.close().unwrap();
    guard.close().unwrap();
}

/// With the layout edited, or chosen too small by hand, the files may not fit.
#[test]
fn loop_a_full_disk_ends_a_restore_and_names_the_file() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("source"), dir.path().join("to"));
    for dir in [&source, &to] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(source.join("fits"), vec![1; 1 << 20]).unwrap();
    std::fs::write(source.join("too big"), vec![2; 16 << 20]).unwrap();
    let target = Target::new();
    let (_, manifest) = target.create(&options(&source, FIRST), None);
    let Ok(guard) = MountGuard::mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], &to) else {
        eprintln!("skipped: can't mount");
        return;
    };
    let options = ExtractOptions { root: to, ..ExtractOptions::default() };
    let error = archive::extract(&manifest, target.store.as_ref(), &options, &ui()).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("too big") && text.contains("No space left on device"), "{text}");
    guard.close().unwrap();
}

/// Unmounted since it was chosen, or hidden by another one: its tree is an empty directory, or none.
#[test]
fn loop_a_filesystem_that_is_gone_is_not_archived_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (source, none) = (dir.path().join("source"), dir.path().join("none"));
    std::fs::create_dir_all(source.join("srv/data")).unwrap();
    let trees: Vec<PathBuf> = ["/", "/srv", "/srv/data"].map(PathBuf::from).into();
    let target = Target::new();
    let chosen = CreateOptions { trees, ..options(&source, FIRST) };
    let chosen = CreateOptions { mount_points: chosen.trees.clone(), ..chosen };
    let archive = |generation: &str| {
        let options = CreateOptions { generation: generation.into(), ..chosen.clone() };
        let (created, _) = target.create(&options, None);
        created.unread
    };
    assert_eq!(archive(FIRST).as_deref(), Some("2 (/srv, /srv/data)"));
    let Some(data) = mount("tmpfs", &none, &source.join("srv/data")) else { return };
    assert_eq!(archive(SECOND).as_deref(), Some("1 (/srv)"));
    let over = mount("tmpfs", &none, &source.join("srv")).unwrap();
    assert_eq!(archive("20261121T033500Z").as_deref(), Some("1 (/srv/data)"));
    std::fs::create_dir(source.join("srv/data")).unwrap();
    assert_eq!(archive("20261121T043500Z").as_deref(), Some("1 (/srv/data)"));
    over.close().unwrap();
    let again = mount("tmpfs", &none, &source.join("srv")).unwrap();
    std::fs::create_dir(source.join("srv/data")).unwrap();
    let below = mount("tmpfs", &none, &source.join("srv/data")).unwrap();
    assert_eq!(archive("20261121T053500Z"), None);
    for guard in [below, again, data] {
        guard.close().unwrap();
    }
}

/// Zeros stand for what a disk does not give: in that one generation, and not in all that come.
#[test]
fn loop_a_read_error_is_not_inherited() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, mnt) = (dir.path().join("image"), dir.path().join("mnt"));
    let Some(guard) = mount("mkfs.ext4 -q -O ^has_journal", &image, &mnt) else { return };
    let source = mnt.join("source");
    std::fs::create_dir(&source).unwrap();
    let big: Vec<u8> = (1..9 << 17).flat_map(u64::to_be_bytes).collect();
    std::fs::write(source.join("big"), &big).unwrap();
    // Files that changed just now are read again the next time in any case.
    std::thread::sleep(std::time::Duration::from_secs(4));
    Cmd::new("mount").args(["-o", "remount,ro"]).arg(&mnt).run().unwrap();
    Cmd::new("dd").args(["if=big", "iflag=nocache", "count=0"]).dir(&source).run().unwrap();

    // The disk ends within the file.
    let blocks = Cmd::new("debugfs").args(["-R", "blocks /source/big"]).arg(&image).text().unwrap();
    let block: u64 = blocks.split_whitespace().filter_map(|n| n.parse().ok()).max().unwrap();
    let disk = std::fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let (mut end, len) = (vec![0; 4096], disk.metadata().unwrap().len());
    disk.read_exact_at(&mut end, block * 4096).unwrap();
    disk.set_len(block * 4096).unwrap();
    let target = Target::new();
    let (created, first) = target.create(&options(&source, FIRST), None);
    let said = &created.warnings;
    assert!(said.len() == 1 && said[0].starts_with("/big can't be read at byte "), "{said:?}");
    assert_eq!(created.unread.as_deref(), Some("1 (/big)"));

    disk.set_len(len).unwrap();
    disk.write_all_at(&end, block * 4096).unwrap();
    let (created, second) = target.create(&options(&source, SECOND), Some(&first));
    assert_eq!((created.warnings, created.unread), (Vec::new(), None));
    let (to, _) = target.extract(&second, &[]);
    assert!(std::fs::read(to.path().join("big")).unwrap() == big);
    let third = CreateOptions { generation: "20261121T013502Z".into(), ..options(&source, FIRST) };
    let (created, _) = target.create(&third, Some(&second));
    assert_eq!(created.stats.new_chunks, 0);
    guard.close().unwrap();
}

/// Whoever may write one file can give it more attributes than fit in memory.
#[test]
fn loop_attributes_without_measure_are_bounded() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.xfs -q", &dir.path().join("image"), &mnt) else { return };
    let source = mnt.join("source");
    std::fs::create_dir(&source).unwrap();
    // 3 MiB each, which is more than a run may have, and 8 MiB.
    let script = "import os
for file in range(8):
    open(str(file), 'w').close()
    for n in range(128 if file == 5 else 48):
        os.setxattr(str(file), f'user.{n:03}', bytes([n]) * 65536)";
    Cmd::new("python3").args(["-c", script]).dir(&source).run().unwrap();
    let target = Target::new();
    let (created, manifest) = target.create(&options(&source, FIRST), None);
    let [lost] = created.warnings.as_slice() else { panic!("{:?}", created.warnings) };
    assert!(lost.ends_with("of them: 1 (/5)"), "{lost}");
    assert_eq!(created.stats.chunks, 3, "two parts of the run, and the end");
    let to = mnt.join("to");
    std::fs::create_dir(&to).unwrap();
    let options_to = ExtractOptions { root: to.clone(), ..ExtractOptions::default() };
    archive::extract(&manifest, target.store.as_ref(), &options_to, &ui()).unwrap();
    std::fs::remove_file(source.join("5")).unwrap();
    std::fs::remove_file(to.join("5")).unwrap();
    assert_same(&source, &to, &["mtime"]);
    guard.close().unwrap();
}
