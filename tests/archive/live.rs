//! Files that change, or that do not give all they have, while a backup reads them.

use std::time::Duration;

use rr::sys::run::Cmd;

use super::filesystems::mount;
use super::{FIRST, SECOND, Target, options, skipped};

/// Maps files, stores into them, and does so again when it is told. The kernel sets no new ctime for
/// a store into a page that is dirty already.
const STORE_TWICE: &str = "import mmap, os, sys, time
maps = [mmap.mmap(os.open(path, os.O_RDWR), 0) for path in sys.argv[2:]]
def store(value):
    for map in maps:
        map[5000:5001] = value
def tell(name):
    open(sys.argv[1] + '/' + name, 'w').close()
store(b'1')
tell('first')
while not os.path.exists(sys.argv[1] + '/go'):
    time.sleep(0.05)
store(b'2')
for map in maps:
    map.flush()
";

/// Databases write like this.
#[test]
fn loop_stores_through_a_mapping_are_found() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut guards = Vec::new();
    for kind in ["ext4", "xfs", "btrfs"] {
        let (image, mnt) = (dir.path().join(format!("{kind}.img")), dir.path().join(kind));
        let Some(guard) = mount(&format!("mkfs.{kind} -q"), &image, &mnt) else { return };
        // Two pages, and one that is in slices.
        std::fs::write(mnt.join("small"), [b'0'; 8192]).unwrap();
        std::fs::write(mnt.join("big"), vec![b'0'; 3 << 20]).unwrap();
        Cmd::new("sync").arg("-f").arg(&mnt).run().unwrap();
        guards.push((guard, mnt));
    }
    let files: Vec<_> = guards.iter().flat_map(|(_, m)| [m.join("small"), m.join("big")]).collect();
    let signals = dir.path().to_owned();
    let writer = std::thread::spawn(move || {
        Cmd::new("python3").args(["-c", STORE_TWICE]).arg(signals).args(files).run().unwrap();
    });
    while !dir.path().join("first").exists() {
        assert!(!writer.is_finished());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Long enough for the ctime to be an old one, and too short for the pages to be written.
    std::thread::sleep(Duration::from_secs(4));
    let firsts: Vec<_> = guards
        .iter()
        .map(|(_, mnt)| {
            let target = Target::new();
            let (_, first) = target.create(&options(mnt, FIRST), None);
            (target, first)
        })
        .collect();
    std::fs::write(dir.path().join("go"), "").unwrap();
    writer.join().unwrap();
    for ((_, mnt), (target, first)) in guards.iter().zip(&firsts) {
        let (_, second) = target.create(&options(mnt, SECOND), Some(first));
        let (to, _) = target.extract(&second, &[]);
        for name in ["small", "big"] {
            let [is, was] = [to.path(), mnt].map(|dir| std::fs::read(dir.join(name)).unwrap());
            assert_eq!((was[5000], is == was), (b'2', true), "{} of {}", name, mnt.display());
        }
    }
    for (guard, _) in guards {
        guard.close().unwrap();
    }
}

/// Anybody can give a file of XFS or btrfs more names of attributes than the kernel ever lists.
#[test]
fn loop_a_file_whose_attributes_can_not_be_read_is_archived_without_them() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    let Some(guard) = mount("mkfs.xfs -q", &dir.path().join("image"), &mnt) else { return };
    let script = "import os
for name, count in (('few', 3), ('many', 300)):
    open(name, 'w').write('data of ' + name)
    for n in range(count):
        os.setxattr(name, f'user.{n:0250}', b'')";
    Cmd::new("python3").args(["-c", script]).dir(&mnt).run().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    let target = Target::new();
    let (created, first) = target.create(&options(&mnt, FIRST), None);
    let [lost] = created.warnings.as_slice() else { panic!("{:?}", created.warnings) };
    assert!(lost.contains("attributes that can't be read"), "{lost}");
    assert!(lost.ends_with(": 1 (/many)"), "{lost}");
    let (to, _) = target.extract(&first, &[]);
    assert_eq!(std::fs::read(to.path().join("many")).unwrap(), b"data of many");

    // The next one lacks them, too, and says so.
    let (created, _) = target.create(&options(&mnt, SECOND), Some(&first));
    assert_eq!(created.warnings.len(), 1, "{:?}", created.warnings);
    guard.close().unwrap();
}

/// Holds leases on files and gives them back when it is asked, but not at once: so does Samba, which
/// asks its clients first.
const LEASE: &str = "import fcntl, os, signal, sys, time
asked = []
signal.signal(signal.SIGIO, lambda *_: asked.append(True))
files = [os.open(path, os.O_RDWR) for path in sys.argv[2:]]
for file in files:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open(sys.argv[1] + '/held', 'w').close()
while not os.path.exists(sys.argv[1] + '/end'):
    time.sleep(0.1)
    if asked:
        time.sleep(0.4)
        for file in files:
            os.pwrite(file, b'!', 0)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(file)
        files = []
";

#[test]
fn what_another_program_has_a_lease_on_is_archived() {
    if skipped() {
        return;
    }
    let (dir, signals) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // One of a run, one of slices, and one that is held open as it has two names.
    for (name, size) in [("big", 3 << 20), ("small", 10), ("two", 10)] {
        std::fs::write(dir.path().join(name), vec![b'0'; size]).unwrap();
    }
    std::fs::hard_link(dir.path().join("two"), dir.path().join("two-too")).unwrap();
    std::thread::scope(|scope| {
        let files = ["big", "small", "two"].map(|name| dir.path().join(name));
        let holder = Cmd::new("python3").args(["-c", LEASE]).arg(signals.path()).args(files);
        let holder = scope.spawn(move || holder.run());
        while !signals.path().join("held").exists() {
            assert!(!holder.is_finished(), "{:?}", holder.join());
            std::thread::sleep(Duration::from_millis(50));
        }
        let target = Target::new();
        let (created, manifest) = target.create(&options(dir.path(), FIRST), None);
        std::fs::write(signals.path().join("end"), "").unwrap();
        assert_eq!(created.unread, None, "{:?}", created.warnings);
        let (to, _) = target.extract(&manifest, &[]);
        for name in ["big", "small", "two", "two-too"] {
            let was = std::fs::read(dir.path().join(name)).unwrap();
            let is = std::fs::read(to.path().join(name));
            // What was written before the lease was given back is in it.
            assert!(is.is_ok_and(|is| is == was && is[0] == b'!'), "{name}: {created:?}");
        }
    });
}
