//! Logging into the rescue system over ssh: as root, with the public keys that the admin names.
//!
//! Nothing secret of the node goes into the image: the rescue system makes a host key of its own at
//! every start, and there are no passwords.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::tree::Tree;
use crate::config::schema::{RescueConfig, default_ssh_keys};
use crate::sys::tools;

/// Who may log in, as in sshd(8), AUTHORIZED_KEYS FILE FORMAT.
pub const KEYS: &str = "/etc/ssh/authorized_keys";

/// What a server of newer versions runs for each connection, where distributions have it.
const HELPERS: &[&str] = &["sshd-session", "sshd-auth"];
const HELPER_DIRS: &[&str] =
    &["/usr/lib/openssh", "/usr/libexec/openssh", "/usr/libexec/ssh", "/usr/lib/ssh"];

/// Where servers lock their unprivileged half up; besides /run/sshd, which is made at the start.
const EMPTY_DIRS: &[&str] = &["/var/empty/sshd", "/var/lib/empty", "/usr/share/empty.sshd"];

/// What an admin has to put right before the image is what the configuration says.
pub fn missing(config: &RescueConfig) -> Vec<String> {
    let asked = config.ssh_keys != default_ssh_keys();
    if !asked {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for file in config.ssh_keys.iter().filter(|file| !file.exists()) {
        problems.push(format!("{} of rescue.ssh_keys is not there", file.display()));
    }
    match keys(config) {
        Ok(keys) => problems.extend(keys.problem(config)),
        Err(error) => problems.push(format!("{error:#}")),
    }
    if !config.ssh_keys.is_empty() {
        problems.extend(tools::require(&["sshd", "ssh-keygen"]).err().map(|e| format!("{e:#}")));
    }
    problems
}

/// What is told of keys that nobody asked for.
pub fn warning(config: &RescueConfig) -> Option<String> {
    let is_default = config.ssh_keys == default_ssh_keys();
    let has_server = tools::find("sshd".as_ref()).is_some();
    keys(config).ok()?.problem(config).filter(|_| is_default && has_server)
}

/// Adds the server and who may log in, where both are there. Gives whether they are.
pub fn add(tree: &mut Tree, config: &RescueConfig) -> Result<bool> {
    let keys = match keys(config) {
        Ok(keys) => keys,
        // Nobody asked for these: a node without ssh into its rescue system is better than none.
        Err(error) if config.ssh_keys == default_ssh_keys() => {
            log::warn!("no ssh into the rescue system: {error:#}");
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let (Some(server), Some(keygen)) =
        (tools::find("sshd".as_ref()), tools::find("ssh-keygen".as_ref()))
    else {
        return Ok(false);
    };
    if keys.lines.is_empty() {
        return Ok(false);
    }
    // The last is what root logs in with.
    for program in [server.as_path(), &keygen, Path::new("/bin/sh")] {
        tree.add_program(program)?;
    }
    for dir in HELPER_DIRS.iter().map(Path::new) {
        for path in HELPERS.iter().map(|name| dir.join(name)).filter(|path| path.exists()) {
            tree.add_program(&path)?;
        }
    }
    for dir in EMPTY_DIRS.iter().filter(|dir| Path::new(dir).exists()) {
        tree.dir(dir, 0o711);
    }
    tree.text("etc/ssh/sshd_config", 0o600, include_str!("../../rescue/etc/ssh/sshd_config"));
    tree.text(KEYS, 0o600, keys.lines);
    Ok(true)
}

/// Public keys.
#[derive(Debug, Default)]
struct Keys {
    /// Those that open a shell, a line each.
    lines: String,
    /// How many have a command of their own instead. Without that it would be more than the admin allowed.
    left_out: usize,
}

impl Keys {
    /// Where there are keys, and nobody gets in with them.
    fn problem(&self, config: &RescueConfig) -> Option<String> {
        if self.left_out == 0 || !self.lines.is_empty() {
            return None;
        }
        let files: Vec<_> = config.ssh_keys.iter().map(|f| f.display().to_string()).collect();
        Some(format!(
            "no key of {} opens a shell, each runs a command of its own (command=\"...\"): nobody gets into the rescue system over ssh\nhint: rescue.ssh_keys names a file with the admins' public keys; [] leaves the server out",
            files.join(", ")
        ))
    }
}

fn keys(config: &RescueConfig) -> Result<Keys> {
    let mut all = Keys::default();
    for file in &config.ssh_keys {
        let text = match std::fs::read(file) {
            // Comments are in whatever encoding.
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        parse(&text, &mut all).with_context(|| format!("reading {}", file.display()))?;
    }
    Ok(all)
}

/// Adds the lines that are keys.
fn parse(text: &str, keys: &mut Keys) -> Result<()> {
    if text.contains("PRIVATE KEY-----") {
        bail!(
            "this is a private key, which no rescue image may hold\nhint: rescue.ssh_keys names files of public keys, like /root/.ssh/authorized_keys"
        );
    }
    let is_key = |line: &&str| !line.is_empty() && !line.starts_with('#');
    for line in text.lines().map(str::trim).filter(is_key) {
        if has_command(line) {
            keys.left_out += 1;
        } else {
            keys.lines += line;
            keys.lines.push('\n');
        }
    }
    Ok(())
}

/// Whether a command is among a key's options: those come first, with commas between them, up to the
/// first blank that is not inside of quotes. Images for clouds tell root's visitors so to log in as
/// somebody else, and send them away.
fn has_command(line: &str) -> bool {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    let is_command = |option: &str| {
        option.split_once('=').is_some_and(|(name, _)| name.eq_ignore_ascii_case("command"))
    };
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ',' | ' ' | '\t' if !quoted => {
                if is_command(&line[start..at]) {
                    return true;
                }
                if c != ',' {
                    return false;
                }
                start = at + 1;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run::Cmd;

    fn config(files: &[&Path]) -> RescueConfig {
        let ssh_keys = files.iter().map(|file| file.to_path_buf()).collect();
        RescueConfig { ssh_keys, ..RescueConfig::default() }
    }

    #[test]
    fn public_keys_come_and_private_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        let text = "# admins\n\nssh-ed25519 AAAA a\n  from=\"10.0.0.0/8\" ssh-rsa BBBB b\n";
        std::fs::write(&file, text).unwrap();
        let latin1 = [b"ssh-rsa CCCC m\xfcller\n".as_slice(), text.as_bytes()].concat();
        let latin = dir.path().join("latin1");
        std::fs::write(&latin, latin1).unwrap();
        assert!(keys(&config(&[&latin])).unwrap().lines.starts_with("ssh-rsa CCCC m"));
        let all = keys(&config(&[&file, &dir.path().join("none")])).unwrap().lines;
        assert_eq!(all, "ssh-ed25519 AAAA a\nfrom=\"10.0.0.0/8\" ssh-rsa BBBB b\n");
        std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n").unwrap();
        let error = format!("{:#}", keys(&config(&[&file])).unwrap_err());
        assert!(error.contains("private key"), "{error}");
    }

    /// As cloud-init writes them for root.
    const SENDS_AWAY: &str = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command=\"echo 'Please login as the user \\\"debian\\\" rather than the user \\\"root\\\".';echo;sleep 10;exit 142\" ssh-rsa AAAA";

    #[test]
    fn keys_that_open_no_shell_are_left_out_and_told() {
        for line in
            [SENDS_AWAY, "Command=\"x\" ssh-rsa A", "from=\"a,b c\",command=\"x\" ssh-rsa A"]
        {
            assert!(has_command(line), "{line}");
        }
        for line in [
            "ssh-rsa AAAA command=\"x\" ssh-rsa",
            "environment=\"A=b,command=c \\\",command=d\" ssh-rsa AAAA",
            "from=\"10.0.0.0/8\",no-pty ssh-ed25519 AAAA restrict,command=\"x\"",
        ] {
            assert!(!has_command(line), "{line}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("authorized_keys");
        std::fs::write(&file, format!("# cloud\n{SENDS_AWAY} root\n")).unwrap();
        let config = config(&[&file]);
        let problems = missing(&config);
        let expected = format!("no key of {} opens a shell", file.display());
        assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{problems:?}");
        std::fs::write(&file, format!("{SENDS_AWAY} root\nssh-rsa BBBB admin\n")).unwrap();
        let keys = keys(&config).unwrap();
        assert_eq!(keys.lines, "ssh-rsa BBBB admin\n");
        assert_eq!(keys.problem(&config), None);
    }

    /// The server as it will run, in the rescue system's own tree.
    #[test]
    fn the_admins_key_opens_the_rescue_system_and_nothing_else_does() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: chroot and an ssh server need root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let make_key = |name: &str| {
            let file = dir.path().join(name);
            let keygen = Cmd::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            keygen.arg(&file).run().unwrap();
            file
        };
        let (admin, stranger) = (make_key("admin"), make_key("stranger"));
        let mut tree = Tree::new();
        tree.add_program(&tools::find("sh".as_ref()).unwrap()).unwrap();
        super::super::add_skeleton(&mut tree, b"");
        assert!(add(&mut tree, &config(&[&admin.with_extension("pub")])).unwrap());
        let root = dir.path().join("root");
        super::super::selftest::unpack(&tree, &root).unwrap();
        std::fs::create_dir_all(root.join("run/sshd")).unwrap();
        std::fs::copy(make_key("host"), root.join("etc/ssh/ssh_host_ed25519_key")).unwrap();
        let null = Cmd::new("mknod").args(["-m", "666"]).arg(root.join("dev/null"));
        null.args(["c", "1", "3"]).run().unwrap();

        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let sshd = Cmd::new(tools::find("sshd".as_ref()).unwrap()).chroot(&root);
        let said = std::fs::File::create(dir.path().join("sshd.log")).unwrap();
        let server = sshd.args(["-D", "-e", "-o", "ListenAddress=127.0.0.1", "-p", &port]);
        let mut server = server.spawn(said.try_clone().unwrap().into(), said.into()).unwrap();
        let log_in = |key: &Path| {
            let ssh = Cmd::new("ssh").args(["-F", "none", "-p", &port, "-i"]).arg(key);
            ssh.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
                .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
                .args(["-o", "ConnectionAttempts=50", "root@127.0.0.1", "echo in; pwd"])
                .output()
                .unwrap()
        };
        let (let_in, kept_out) = (log_in(&admin), log_in(&stranger));
        server.kill().unwrap();
        server.wait().unwrap();
        let log = std::fs::read_to_string(dir.path().join("sshd.log")).unwrap();
        assert_eq!(String::from_utf8_lossy(&let_in.stdout), "in\n/root\n", "{let_in:?}\n{log}");
        let refusal = String::from_utf8_lossy(&kept_out.stderr).into_owned();
        assert!(refusal.contains("Permission denied (publickey)"), "{refusal}\n{log}");
    }

    #[test]
    fn keys_that_were_asked_for_must_be_there_and_the_default_ones_need_not() {
        let problems = missing(&config(&[Path::new("/nowhere/keys")]));
        assert!(problems[0].contains("/nowhere/keys"), "{problems:?}");
        assert_eq!(missing(&config(&[])), Vec::<String>::new());
        let mut tree = Tree::new();
        assert!(!add(&mut tree, &config(&[])).unwrap());
        assert!(!tree.contains(KEYS));
    }
}
