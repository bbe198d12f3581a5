//! A server that is killed while rr works with it, and is back some seconds later. It is reached by
//! a name, which has more than one address.

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rr::sys::run::Cmd;

use crate::loopback;
use crate::node::{Dice, Node};
use crate::servers::{self, ACCESS_KEY, BUCKET, NGINX_DAV, SECRET_KEY, Server};

const AWAY: Duration = Duration::from_secs(4);
/// Of each of the four files of a node: two packs.
const FILE_BYTES: usize = 12 << 20;
const ALL_BYTES: u64 = 4 * FILE_BYTES as u64;

const READ: &str = "rchar";
const WRITTEN: &str = "wchar";

/// A server, and how it is started again at the same port.
struct Place<'a> {
    server: Server,
    serve: &'a dyn Fn() -> Server,
    dice: Dice,
}

impl Place<'_> {
    fn new<'a>(test: &str, serve: &'a dyn Fn() -> Server) -> Place<'a> {
        Place { server: serve(), serve, dice: Dice::new(test) }
    }

    /// Runs a command, and kills the server when it has read or written a part of the backup. `away`
    /// is what happens until it is back.
    fn dies_during(
        &mut self,
        cmd: &Cmd,
        counter: &str,
        away: impl FnOnce(&mut std::process::Child),
    ) -> (ExitStatus, String) {
        let after = ALL_BYTES * (10 + self.dice.below(40)) / 100;
        let end = self.server.moved_bytes(counter) + after;
        let mut said = tempfile::tempfile().unwrap();
        let mut child = cmd.spawn(Stdio::null(), Stdio::from(said.try_clone().unwrap())).unwrap();
        while self.server.moved_bytes(counter) < end {
            assert!(child.try_wait().unwrap().is_none(), "it ended before {after} bytes had come");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.server.kill();
        away(&mut child);
        self.server = (self.serve)();
        let status = child.wait().unwrap();
        let mut text = String::new();
        said.rewind().unwrap();
        said.read_to_string(&mut text).unwrap();
        (status, text)
    }

    /// The command waits for the server, and goes on.
    fn is_survived_by(&mut self, cmd: &Cmd, counter: &str) {
        let mut waits = false;
        let (status, text) = self.dies_during(cmd, counter, |child| {
            std::thread::sleep(AWAY);
            waits = child.try_wait().unwrap().is_none();
        });
        assert!(waits && status.success(), "{} ({status}): {text}", cmd.to_shell());
    }

    /// The command has not the patience to wait, and says so.
    fn is_given_up_by(&mut self, cmd: &Cmd, counter: &str) {
        let started = Instant::now();
        let (status, text) = self.dies_during(cmd, counter, |child| {
            child.wait().unwrap();
        });
        assert_eq!(status.code(), Some(1), "{text}");
        assert!(text.contains("given up after "), "{text}");
        assert!(
            text.contains("hint: is the server up") && text.contains("patience_seconds"),
            "{text}"
        );
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }
}

/// `lines` are those of a node's configuration before and after `[target_options]`.
fn a_server_may_be_killed(test: &str, dir: &Path, lines: [&str; 2], serve: &dyn Fn() -> Server) {
    let with_patience = |seconds: u32| {
        let [target, more] = lines;
        format!("{target}[target_options]\npatience_seconds = {seconds}\n{more}")
    };
    let node = Node::at(dir, &with_patience(120), "node001");
    let mut place = Place::new(test, serve);
    for seed in 1..=2 {
        node.change(seed, FILE_BYTES);
        place.is_survived_by(&node.backup(), WRITTEN);
    }
    place.is_survived_by(&node.rr(&["verify"]), READ);
    let to = dir.join("to");
    place.is_survived_by(&node.rr(&["restore", "--to", to.to_str().unwrap()]), READ);
    let back = to.join(node.tree.strip_prefix("/").unwrap());
    for number in 0..4 {
        let read = |dir: &Path| std::fs::read(dir.join(format!("file{number}"))).unwrap();
        assert!(read(&back) == read(&node.tree), "file{number}");
    }
    let generations = node.verify();
    assert_eq!(generations.len(), 2);
    node.comes_back();

    // Where the server is away for longer than it may be, that is what is told, and nothing is lost.
    let hasty = Node::at(dir, &with_patience(3), "node001");
    hasty.change(3, FILE_BYTES);
    place.is_given_up_by(&hasty.backup(), WRITTEN);
    assert_eq!(node.verify(), generations);
    place.is_given_up_by(&hasty.rr(&["verify"]), READ);
    let node = Node::at(dir, &with_patience(120), "node001");
    node.change(4, FILE_BYTES);
    node.backed_up();
    assert_eq!(node.verify().len(), 3);
    node.comes_back();
    node.nothing_is_left_over();
}

#[test]
fn nginx_may_be_killed_and_come_back() {
    const NAME: &str = "nginx_may_be_killed_and_come_back";
    if servers::lacks(NAME, &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let target = format!("target = \"http://localhost:{port}/site\"\n");
    let serve = || servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    a_server_may_be_killed(NAME, dir.path(), [&target, ""], &serve);
}

#[test]
fn a_server_of_s3_may_be_killed_and_come_back() {
    const NAME: &str = "a_server_of_s3_may_be_killed_and_come_back";
    if servers::lacks(NAME, &["s3s-fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = servers::free_port();
    let target = format!("target = \"s3://{BUCKET}/site\"\n");
    let options = format!(
        "endpoint = \"http://localhost:{port}\"\n[target_options.login]\n\
         access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n"
    );
    let serve = || servers::s3s_at(dir.path(), port);
    a_server_may_be_killed(NAME, dir.path(), [&target, &options], &serve);
}

/// Names are looked up in `$0/hosts`.
const OWN_NAMES: &str = "mount --bind \"$0/hosts\" /etc/hosts; \
    mount --bind \"$0/nsswitch.conf\" /etc/nsswitch.conf; eval \"exec $1\"";

/// As where the machine that is away is the one that knows the names.
#[test]
fn a_server_may_be_killed_together_with_its_name() {
    const NAME: &str = "a_server_may_be_killed_together_with_its_name";
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{NAME} is skipped: it mounts, which needs root");
        return;
    }
    if servers::lacks(NAME, &["nginx"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (port, listen) = loopback();
    let serve = || servers::nginx(dir.path(), port, &listen, NGINX_DAV);
    let hosts = dir.path().join("hosts");
    // Nobody listens at the first address.
    let known = "::1 backups.site\n127.0.0.1 backups.site\n";
    std::fs::write(&hosts, known).unwrap();
    std::fs::write(dir.path().join("nsswitch.conf"), "hosts: files\n").unwrap();
    let lines = format!("target = \"http://backups.site:{port}/site\"\n");
    let node = Node::at(dir.path(), &lines, "node001");
    node.change(1, FILE_BYTES);
    let named = |cmd: &Cmd| {
        let unshare = Cmd::new("unshare").args(["--mount", "sh", "-euc", OWN_NAMES]);
        unshare.arg(dir.path()).arg(cmd.to_shell())
    };
    let mut place = Place::new(NAME, &serve);
    for (cmd, counter) in [(node.backup(), WRITTEN), (node.rr(&["verify"]), READ)] {
        let (status, text) = place.dies_during(&named(&cmd), counter, |child| {
            std::fs::write(&hosts, "").unwrap();
            std::thread::sleep(AWAY);
            assert!(child.try_wait().unwrap().is_none(), "it does not wait");
            std::fs::write(&hosts, known).unwrap();
        });
        assert!(status.success(), "{text}");
    }
    std::fs::write(&hosts, "").unwrap();
    let output = named(&node.rr(&["list"])).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.success() && said.contains("its name can't be resolved"), "{said}");
}
