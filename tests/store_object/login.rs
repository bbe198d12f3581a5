//! A login that is typed in when a node is recovered, on a terminal.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::loopback;
use crate::node::Node;
use crate::servers::{self, NGINX_ASKS, NGINX_DAV, PASSWORD, USER};

/// Runs rr as in a rescue system, with `$0/etc` for `/etc`, on a terminal that script(1) makes.
const RESCUE: &str = "mount --bind \"$0/etc\" /etc; mount -t tmpfs none /run; mount -t tmpfs none /var/log; \
    mkdir /run/rr; exec script -qec \"$1 recover --dry-run\" /dev/null";

#[test]
fn a_login_that_is_typed_in_at_a_recovery_is_used_and_not_shown() {
    const NAME: &str = "a_login_that_is_typed_in_at_a_recovery_is_used_and_not_shown";
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{NAME} is skipped: it mounts, which needs root");
        return;
    }
    if servers::lacks(NAME, &["nginx", "script"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    servers::write_users(dir.path());
    let (port, listen) = loopback();
    let _server = servers::nginx(dir.path(), port, &listen, &format!("{NGINX_ASKS} {NGINX_DAV}"));
    let target = format!("target = \"http://127.0.0.1:{port}/backups\"\n");
    let login = format!("[target_options.login]\nuser = \"{USER}\"\npassword = \"{PASSWORD}\"\n");
    Node::at(dir.path(), &format!("{target}{login}"), "node001").backed_up();

    // What the rescue image of such a node knows.
    let etc = dir.path().join("etc/rr");
    std::fs::create_dir_all(&etc).unwrap();
    let info =
        format!("version = 1\nnode = \"node001\"\nrr = \"test\"\nasks_login = true\n{target}");
    std::fs::write(etc.join("rescue.toml"), info).unwrap();
    let said = recover(dir.path(), PASSWORD);
    assert!(said.contains("no layout to recover it from"), "{said}");
    assert!(said.contains(USER) && !said.contains(PASSWORD), "{said}");
    let said = recover(dir.path(), "poppy");
    assert!(said.contains("401") && !said.contains("poppy"), "{said}");
}

/// What the terminal shows of a recovery whose admin types a login.
#[allow(clippy::disallowed_methods)] // sys::run has no terminals: an admin sits at one
fn recover(dir: &Path, password: &str) -> String {
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-euc", RESCUE])
        .arg(dir)
        .arg(env!("CARGO_BIN_EXE_rr"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut said = String::new();
    for (question, answer) in [("User for ", USER), ("Password: ", password)] {
        while !said.contains(question) {
            let mut bytes = [0; 256];
            let got = screen.read(&mut bytes).unwrap();
            assert!(got > 0, "it ended before it asked {question:?}: {said}");
            said += &String::from_utf8_lossy(&bytes[..got]);
        }
        keys.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    screen.read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said
}
