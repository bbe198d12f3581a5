//! A rescue image rehearses a recovery with its own programs: over TLS with its own certificates and
//! login, and from a disk that the node has mounted. (From an NFS server: tests/store_nfs.rs.)

use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rr::rescue::{RescueInfo, TargetDevice};
use rr::store::Access;
use rr::sys::blkid;
use rr::sys::mount::TempMount;
use rr::sys::run::Cmd;

use crate::loopback;
use crate::node::Node;
use crate::node::image::{self, image, info, rehearse, rehearse_in};
use crate::servers::{self, Authority, NGINX_ASKS, NGINX_DAV, PASSWORD, USER};

const CHILD: &str = "RR_TEST_REHEARSAL_CHILD";

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test} is skipped: it mounts, which needs root");
    }
    root
}

fn rr() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_rr"))
}

/// What stands against it.
fn refused(info: &RescueInfo, more: &[&Path]) -> String {
    let mut tree = image(info, rr());
    more.iter().for_each(|file| tree.add(file).unwrap());
    let text = format!("{:#}", rehearse(&tree).unwrap_err());
    assert!(text.contains("no recovery would begin") && text.contains("hint: "), "{text}");
    assert!(!text.contains(PASSWORD), "{text}");
    text
}

/// Damages the end of every pack.
fn damage(packs: &Path) {
    for pack in std::fs::read_dir(packs).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn over_tls_with_what_is_in_the_image() {
    const NAME: &str = "over_tls_with_what_is_in_the_image";
    if servers::lacks(NAME, &["nginx", "openssl"]) || !is_root(NAME) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::make(dir.path());
    let (pem, key) = authority.sign("good", 30);
    let ca = dir.path().join("ca.pem");
    let at = dir.path().join("nginx");
    std::fs::create_dir(&at).unwrap();
    servers::write_users(&at);
    let (port, listen) = loopback();
    let (pem, key) = (pem.display(), key.display());
    let lines =
        format!("ssl_certificate {pem}; ssl_certificate_key {key}; {NGINX_ASKS} {NGINX_DAV}");
    let server = servers::nginx(&at, port, &format!("{listen} ssl"), &lines);
    let url = format!("https://localhost:{port}/backups");
    let login = format!("user = '{USER}'\npassword = '{PASSWORD}'\n");
    let options = format!("[target_options]\nca_file = '{}'\n", ca.display());
    let text = format!("target = '{url}'\n{options}[target_options.login]\n{login}");
    let node = Node::at(dir.path(), &text, "node001");
    let mut info = info("node001", &url);
    info.target_options.ca_file = Some(ca.clone());
    info.read_login = toml::from_str(&login).unwrap();
    let with_ca = |info: &RescueInfo| {
        let mut tree = image(info, rr());
        tree.add(&ca).unwrap();
        tree
    };
    // Before there is any backup; then one that holds no machine.
    let rehearsed = rehearse(&with_ca(&info)).unwrap();
    assert_eq!((rehearsed.generation, rehearsed.left_out), (None, None));
    node.backed_up();
    assert_eq!(rehearse(&with_ca(&info)).unwrap().generation, None);
    let manifest = image::of_machine(&*node.open(Access::Write));
    let rehearsed = rehearse(&with_ca(&info)).unwrap();
    assert_eq!(rehearsed.generation, Some(manifest.generation.clone()));
    assert!(rehearsed.checked_bytes > 4096, "{rehearsed:?}");

    // What an image lacks: the certificate, the login, a name that can be looked up.
    let text = refused(&info, &[]);
    assert!(text.contains("ca.pem") || text.contains("certificate"), "{text}");
    let mut asks = info.clone();
    asks.read_login = toml::from_str("").unwrap();
    let text = refused(&asks, &[&ca]);
    assert!(text.contains("401"), "{text}");
    asks.asks_login = true;
    let rehearsed = rehearse(&with_ca(&asks)).unwrap();
    assert!(rehearsed.shown().contains("typed in"), "{rehearsed:?}");
    let nowhere = RescueInfo { target: "https://no-such-host.invalid/x".into(), ..info.clone() };
    assert!(refused(&nowhere, &[&ca]).contains("no-such-host.invalid"));
    // No login mends what the certificate lacks.
    let text = refused(&asks, &[]);
    assert!(text.contains("ca.pem") || text.contains("certificate"), "{text}");
    asks.target_options.ca_file = None;
    let text = refused(&asks, &[]);
    assert!(text.contains("certificate is not valid"), "{text}");
    // A backup that does not come back is a problem, and not the image's.
    let problem = || {
        let rehearsed = rehearse(&with_ca(&info)).unwrap();
        rehearsed.problem.unwrap()
    };
    let files = server.files.join("backups/node001");
    damage(&files.join("packs"));
    let text = problem();
    assert!(text.contains(&manifest.generation) && text.contains("is damaged"), "{text}");
    std::fs::write(files.join("generations").join(&manifest.generation).join("manifest.json"), "{")
        .unwrap();
    assert!(problem().contains("manifest.json"));
}

#[test]
fn s3_whose_keys_are_typed_in_is_not_asked() {
    if !is_root("s3_whose_keys_are_typed_in_is_not_asked") {
        return;
    }
    let mut info = info("node001", "s3://backups/x");
    info.target_options.endpoint = Some("http://127.0.0.1:1".into());
    info.asks_login = true;
    let rehearsed = rehearse(&image(&info, rr())).unwrap();
    assert!(rehearsed.shown().contains("typed in"), "{rehearsed:?}");
    info.read_login = toml::from_str("access_key = 'a'\nsecret_key = 's'").unwrap();
    assert!(refused(&info, &[]).contains("did not answer"));
}

/// A filesystem on a loop device.
struct Disk(String);

impl Disk {
    fn make(file: &Path) -> Option<Disk> {
        std::fs::File::create(file).unwrap().set_len(2 << 30).unwrap();
        let device = Cmd::new("losetup").args(["--find", "--show"]).arg(file).text();
        let disk = device.map(|device| Disk(device.trim().to_owned()));
        let disk =
            disk.inspect_err(|error| eprintln!("skipped: no loop device: {error:#}")).ok()?;
        Cmd::new("mkfs.ext4").args(["-q", &disk.0]).run().unwrap();
        Some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Cmd::new("losetup").args(["--detach", &self.0]).run();
    }
}

#[test]
fn loop_from_a_disk_whether_it_is_mounted_or_not() {
    if !is_root("loop_from_a_disk_whether_it_is_mounted_or_not") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::make(&dir.path().join("disk")) else { return };
    let mounted = TempMount::mount(&[&disk.0]).unwrap();
    let target = mounted.path().join("backups");
    let node = Node::new(dir.path(), &target, "node001", "");
    node.backed_up();
    let manifest = image::of_machine(&*node.open(Access::Write));
    let mut info = info("node001", &format!("file://{}", target.display()));
    let rehearsed = rehearse(&image(&info, rr())).unwrap();
    assert!(rehearsed.left_out.is_some(), "{rehearsed:?}");
    let device = TargetDevice {
        fs_uuid: blkid::tag(&disk.0, "UUID").unwrap(),
        fs_kind: "ext4".into(),
        subdir: Path::new("/backups").to_owned().into(),
    };
    info.target_device = Some(device.clone());
    // Mounted for writing: the kernel gives no other mount of it that is read-only as a whole.
    let rehearsed = rehearse(&image(&info, rr())).unwrap();
    assert_eq!(rehearsed.generation.as_ref(), Some(&manifest.generation));
    // The same, where the image is unpacked on that disk: its root is one more mount of it.
    let rehearsed = rehearse_in(&image(&info, rr()), mounted.path()).unwrap();
    assert_eq!(rehearsed.generation.as_ref(), Some(&manifest.generation));
    std::fs::write(target.join("still"), "writable").unwrap();
    mounted.close().unwrap();
    let rehearsed = rehearse(&image(&info, rr())).unwrap();
    assert_eq!(rehearsed.generation, Some(manifest.generation));

    info.target_device = Some(TargetDevice { fs_uuid: "0-1-2".into(), ..device });
    assert!(refused(&info, &[]).contains("0-1-2"));
}

/// Rehearses with a target that takes connections and never answers, until it is killed.
#[test]
fn child_that_is_killed() {
    let Some(target) = std::env::var_os(CHILD) else { return };
    let info = info("node001", target.to_str().unwrap());
    let error = rehearse(&image(&info, rr())).unwrap_err();
    panic!("it ended: {error:#}");
}

#[test]
fn a_killed_backup_leaves_no_mount_and_no_program() {
    if !is_root("a_killed_backup_leaves_no_mount_and_no_program") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}/x", listener.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut child = Cmd::new(std::env::current_exe().unwrap())
        .args(["rehearsal::child_that_is_killed", "--exact", "--nocapture"])
        .env(CHILD, &target)
        .env("TMPDIR", dir.path())
        .spawn(Stdio::null(), Stdio::inherit())
        .unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    let root = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let root = root.join("selftest");
    assert_eq!(inside(&root).len(), 1, "rr runs in the image");
    child.kill().unwrap();
    child.wait().unwrap();
    let started = Instant::now();
    while !inside(&root).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20), "rr in the image outlives its backup");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()), "{mounts}");
    assert!(root.join("dev").read_dir().unwrap().next().is_none());
    let _ = connection.read(&mut [0; 16]);
}

/// The processes whose root is this directory.
fn inside(root: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    all.filter(|dir| std::fs::read_link(dir.join("root")).is_ok_and(|path| path == root)).collect()
}
