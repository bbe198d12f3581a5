//! NFS targets, on the kernel's own NFS server and client.
//!
//! The test boots a user-mode Linux on this very root filesystem (read-only), starts an NFS server
//! in it, and runs itself there: [`child_in_uml`] then is the test.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rr::config::{TargetOptions, TargetUrl};
use rr::store::{self, Access, Store, StoreError, lock};
use rr::sys::run::Cmd;
use rr::ui::{Style, Ui};

#[path = "node/image.rs"]
mod image;

const CHILD: &str = "RR_TEST_NFS_CHILD";

/// PID 1 of the user-mode Linux. An NFSv4 server needs a root directory that can be exported, which
/// hostfs can't: so all runs in a chroot in memory.
const INIT: &str = r#"#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
cd /mnt
mkdir dev etc export host mnt proc run sys tmp usr var share
mkdir -p run/m/lib var/lib/nfs/v4recovery var/lib/nfs/rpc_pipefs var/lib/nfs/sm
touch var/lib/nfs/etab var/lib/nfs/rmtab var/lib/nfs/state
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
ln -s /usr/lib/uml/modules run/m/lib/modules
mount --rbind / host
mount --rbind /usr usr
mount --rbind /etc etc
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mount -t tmpfs -o size=8m tmpfs export
mount -t hostfs -o @SHARE@ none share
exec chroot /mnt /bin/sh /share/job >share/log 2>&1
"#;

const JOB: &str = r#"
for module in nfsd nfs nfsv3 nfsv4; do modprobe -d /run/m $module || exit 1; done
ip link set lo up
hostname uml
mount -t nfsd nfsd /proc/fs/nfsd
rpcbind -w
rpc.mountd
rpc.nfsd --no-udp --grace-time 10 --lease-time 10 2
exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=1 127.0.0.1:/export
RR_TEST_NFS_CHILD=1 RUST_BACKTRACE=0 /host/@EXE@ child_in_uml --exact --nocapture
echo "child ended with $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
"#;

/// Room for the register state of any CPU, see there.
const XSTATE: &str = include_str!("fixtures/uml-xstate.c");

#[test]
fn uml_nfs_targets_of_both_versions() {
    const NAME: &str = "uml_nfs_targets_of_both_versions";
    for needed in [
        "linux.uml",
        "cc",
        "mkfs.vfat",
        "rpc.nfsd",
        "rpc.mountd",
        "exportfs",
        "mount.nfs",
        "rpcbind",
    ] {
        if rr::sys::tools::find(needed.as_ref()).is_none() {
            eprintln!("{NAME} is skipped: {needed} is not installed");
            return;
        }
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{NAME} is skipped: it needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let own_exe = std::env::current_exe().unwrap();
    let fill = |text: &str| {
        text.replace("@SHARE@", dir.path().to_str().unwrap())
            .replace("@EXE@", own_exe.to_str().unwrap())
    };
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, fill(text)).unwrap();
        path
    };
    let init = file("init", INIT);
    Cmd::new("chmod").arg("755").arg(&init).run().unwrap();
    file("job", JOB);
    let shim = dir.path().join("xstate.so");
    let cc = Cmd::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]);
    cc.arg(&shim).arg(file("xstate.c", XSTATE)).run().unwrap();
    let mut machine = Cmd::new("linux.uml")
        .env("LD_PRELOAD", &shim)
        .args(["mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
        .args(["con=null", "con0=null,null", "quiet"])
        .arg(format!("init={}", init.display()))
        .arg(format!("uml_dir={}/", dir.path().display()))
        .spawn(Stdio::null(), Stdio::null())
        .unwrap();
    let started = Instant::now();
    while machine.try_wait().unwrap().is_none() {
        // Some 80 s on an idle machine.
        if started.elapsed() > Duration::from_secs(600) {
            end(&mut machine);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    assert!(log.contains("child ended with 0") && log.contains("1 passed"), "{log}");
    eprintln!("{log}");
}

/// Ends a machine with the processes that it consists of.
fn end(machine: &mut std::process::Child) {
    let pid = machine.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    machine.kill().unwrap();
    for child in children.unwrap_or_default().split_whitespace() {
        let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
        // It may have ended with its parent.
        let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    }
}

fn open(path: &str, options: &str, access: Access) -> anyhow::Result<Arc<dyn Store>> {
    let url = TargetUrl::Nfs { host: "127.0.0.1".into(), path: path.into() };
    let options = TargetOptions { nfs: options.into(), ..TargetOptions::default() };
    Ok(store::open(&url, "node001", access, &options)?.into())
}

fn export(options: &str) {
    let options = format!("{options},no_subtree_check,fsid=1");
    Cmd::new("exportfs").args(["-i", "-o", &options, "127.0.0.1:/export"]).run().unwrap();
    Cmd::new("exportfs").arg("-f").run().unwrap();
}

/// The test itself, where [`CHILD`] says that this is the machine for it.
#[test]
fn child_in_uml() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    for (options, version) in [("", "4"), ("vers=3", "3"), ("vers=4.0", "4")] {
        objects_come_and_go(options, version);
    }
    only_part_of_the_path_is_exported();
    refusals_say_what_to_do();
    an_image_mounts_it_with_its_own_programs();
    a_full_server_is_told();
    a_server_that_goes_away_ends_in_an_error();
    a_dead_mount_elsewhere_does_not_hang_a_backup();
}

fn objects_come_and_go(options: &str, version: &str) {
    eprintln!("== objects come and go: {options:?}");
    std::fs::create_dir_all("/export/sub").unwrap();
    let started = Instant::now();
    let store = open("/export/sub", options, Access::Write).unwrap();
    eprintln!("opened after {:.2?}", started.elapsed());
    assert_eq!(store.url(), "nfs://127.0.0.1/export/sub/node001");
    let servers = std::fs::read_to_string("/proc/fs/nfsfs/servers").unwrap();
    assert!(servers.lines().any(|line| line.starts_with(&format!("v{version} "))), "{servers}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(" - nfs ") && !mounts.contains(" - nfs4 "),
        "the mount is nobody else's: {mounts}"
    );
    assert_eq!(store.security(), Some("sys"));
    // Had the node mounted it with Kerberos, the server would take a rescue system without all the same.
    let url = TargetUrl::Nfs { host: "127.0.0.1".into(), path: "/export/sub".into() };
    let given = TargetOptions { nfs: options.into(), ..TargetOptions::default() };
    assert_eq!(store::nfs::kerberos_problem(&url, &given, "krb5i"), None);

    let pack = vec![7_u8; 1 << 20];
    store.put("packs/a", &pack).unwrap();
    store.put("packs/a", &pack[1..]).unwrap();
    assert_eq!(store.get("packs/a").unwrap(), pack[1..]);
    assert_eq!(store.get_range("packs/a", 5, 3).unwrap(), [7; 3]);
    store.put_new("packs/b", b"b").unwrap();
    assert!(matches!(store.put_new("packs/b", b"c"), Err(StoreError::Exists { .. })));
    assert_eq!(store.get("packs/b").unwrap(), b"b");
    let names: Vec<_> = store.list("").unwrap().into_iter().map(|o| o.name).collect();
    assert_eq!(names, ["packs/a", "packs/b"]);
    let on_server = std::fs::read_dir("/export/sub/node001/packs").unwrap().count();
    assert_eq!(on_server, 2, "no unfinished file is left");
    assert!(store.free_bytes().unwrap().unwrap() > 1 << 20);

    let guard = lock::lock(&store, &Ui::new(Style::Plain)).unwrap();
    guard.check().unwrap();
    drop(guard);
    store.delete("packs/a").unwrap();
    store.delete("packs/b").unwrap();
    assert!(store.list("").unwrap().is_empty());
    drop(store);
    Cmd::new("umount").arg("/run/rr/target").run().unwrap_err();
}

fn only_part_of_the_path_is_exported() {
    eprintln!("== only part of the path is exported");
    std::fs::create_dir_all("/export/deep/down").unwrap();
    for options in ["vers=3", ""] {
        let store = open("/export/deep/down", options, Access::Write).unwrap();
        store.put("a", b"a").unwrap();
        assert_eq!(std::fs::read("/export/deep/down/node001/a").unwrap(), b"a");
        let text = format!("{:#}", open("/export/none", options, Access::Write).unwrap_err());
        eprintln!("{text}");
        assert!(text.contains("/export/none") && text.contains("\nhint: "), "{text}");
    }
}

fn refusals_say_what_to_do() {
    eprintln!("== refusals");
    for options in ["", "vers=3"] {
        let text = format!("{:#}", open("/other", options, Access::Write).unwrap_err());
        eprintln!("{text}");
        assert!(text.contains("127.0.0.1:/other") && text.contains("\nhint: "), "{text}");
        let text = format!("{:#}", open("/export", "nonsense=1", Access::Read).unwrap_err());
        eprintln!("{text}");
        assert!(text.contains("target_options.nfs") && text.contains("nonsense=1"), "{text}");

        open("/export", options, Access::Write).unwrap().put("a", b"a").unwrap();
        export("ro,no_root_squash");
        let error = open("/export", options, Access::Write).unwrap_err();
        eprintln!("{error:#}");
        assert!(matches!(error.downcast_ref(), Some(StoreError::Denied { .. })), "{error:#}");
        let reading = open("/export", options, Access::Read).unwrap();
        assert_eq!(reading.get("a").unwrap(), b"a");
        drop(reading);

        export("rw,root_squash");
        let error = open("/export", options, Access::Write).unwrap_err();
        eprintln!("{error:#}");
        assert!(matches!(error.downcast_ref(), Some(StoreError::Denied { .. })), "{error:#}");
        assert!(format!("{error:#}").contains("no_root_squash"), "{error:#}");
        export("rw,no_root_squash");
    }
}

fn an_image_mounts_it_with_its_own_programs() {
    eprintln!("== rehearsal");
    let rr = format!("/host{}", env!("CARGO_BIN_EXE_rr"));
    let image = |options: &str| {
        let mut info = image::info("node001", "nfs://127.0.0.1/export");
        info.target_options.nfs = options.into();
        image::image(&info, Path::new(&rr))
    };
    for options in ["", "vers=3"] {
        let rehearsed = image::rehearse(&image(options)).unwrap();
        assert_eq!((rehearsed.generation, rehearsed.left_out), (None, None));
    }
    // As where it lacks what it runs by.
    let mut lacks = image("");
    let program = rr::sys::tools::find("mount.nfs".as_ref()).unwrap().canonicalize().unwrap();
    lacks.text(program.to_str().unwrap(), 0o755, "#!/bin/none\n");
    let text = format!("{:#}", image::rehearse(&lacks).unwrap_err());
    eprintln!("{text}");
    assert!(text.contains("mount.nfs") && text.contains("no recovery would begin"), "{text}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn a_full_server_is_told() {
    eprintln!("== full");
    for options in ["vers=3", ""] {
        let store = open("/export", options, Access::Write).unwrap();
        store.put("packs/first", &vec![1; 1 << 20]).unwrap();
        let error = store.put("packs/second", &vec![2; 16 << 20]).unwrap_err();
        eprintln!("{error}");
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert_eq!(store.list("packs/").unwrap().len(), 1);
        // The client renames what it deletes while writes to it are on their way (.nfs...).
        let left = || names(Path::new("/export/node001/packs"));
        let started = Instant::now();
        while left().len() > 1 && started.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(left(), ["first"], "the unfinished file is gone");
        store.delete("packs/first").unwrap();
        // The server may keep a deleted file open for a while: the next round needs its room.
        let started = Instant::now();
        while store.free_bytes().unwrap().unwrap() < 7 << 20 {
            assert!(started.elapsed() < Duration::from_secs(90), "the room does not come back");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn start_server() {
    let serve = ["--no-udp", "--grace-time", "10", "--lease-time", "10", "2"];
    Cmd::new("rpc.nfsd").args(serve).run().unwrap();
}

fn a_server_that_goes_away_ends_in_an_error() {
    for options in ["timeo=20,retrans=1", "timeo=20,retrans=1,vers=3"] {
        eprintln!("== the server goes away: {options}");
        let store = open("/export", options, Access::Write).unwrap();
        Cmd::new("rpc.nfsd").arg("0").run().unwrap();
        let started = Instant::now();
        let error = store.put("packs/late", b"late").unwrap_err();
        eprintln!("after {:.1?}: {error}", started.elapsed());
        assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(60));

        let started = Instant::now();
        let text = format!("{:#}", open("/export", "", Access::Read).unwrap_err());
        eprintln!("after {:.1?}: {text}", started.elapsed());
        assert!(text.contains("127.0.0.1:/export") && text.contains("\nhint: "), "{text}");
        assert!(started.elapsed() < Duration::from_secs(80));
        start_server();
        store.put("packs/again", b"again").unwrap();
    }
}

/// The last one: the server stays down, and nothing after it has to share a connection with a dead mount.
fn a_dead_mount_elsewhere_does_not_hang_a_backup() {
    eprintln!("== a dead mount elsewhere");
    for dir in ["/tmp/target", "/tmp/tree/dead"] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write("/tmp/tree/file", "alive").unwrap();
    // Nothing is remembered of it: whoever looks at it has to ask the server.
    let mount = ["-t", "nfs4", "-o", "vers=4.1,hard,noac", "127.0.0.1:/export", "/tmp/tree/dead"];
    Cmd::new("mount").args(mount).run().unwrap();
    Cmd::new("rpc.nfsd").arg("0").run().unwrap();
    let rr = |args: &[&str]| {
        let program = format!("/host{}", env!("CARGO_BIN_EXE_rr"));
        let target = ["--config", "/dev/null", "--target", "file:///tmp/target", "--node", "n"];
        let started = Instant::now();
        let rr = Cmd::new(program).args(target).args(args).timeout(Duration::from_secs(40));
        let output = rr.output().unwrap();
        let said = output.text() + &String::from_utf8_lossy(&output.stderr);
        eprintln!("rr {} took {:.1?}", args[0], started.elapsed());
        assert!(output.success(), "{args:?}: {said}");
        said
    };
    rr(&["mkbackuponly", "--include", "/tmp/tree"]);
    let listed = rr(&["list", "latest"]);
    assert!(listed.contains("tmp/tree/file") && listed.contains("tmp/tree/dead"), "{listed}");
    rr(&["layout", "show"]);
    // Were the mount not dead, all this would show nothing.
    let mut looker = Cmd::new("stat").arg("/tmp/tree/dead").spawn(Stdio::null(), Stdio::null());
    let looker = looker.as_mut().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(looker.try_wait().unwrap().is_none(), "the mount answers");
    looker.kill().unwrap();
}
