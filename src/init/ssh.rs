//! The rescue system's ssh server.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::rescue::ssh;
use crate::sys::run::Cmd;
use crate::sys::tools;

/// Kinds of host keys, the best first; in FIPS mode the first one is refused.
const KINDS: &[&str] = &["ed25519", "ecdsa"];
const LOG: &str = "/var/log/sshd.log";
/// Shown to who logs in.
const MOTD: &str = "/etc/motd";

/// Makes a host key and starts the server. Gives the fingerprint of the key; None where the image
/// has no server.
pub fn start(motd: &str) -> Result<Option<String>> {
    if !Path::new(ssh::KEYS).exists() {
        return Ok(None);
    }
    let server = tools::find("sshd".as_ref()).context("finding sshd")?;
    std::fs::write(MOTD, motd).with_context(|| format!("writing {MOTD}"))?;
    std::fs::create_dir_all("/run/sshd").context("making /run/sshd")?;
    let key = host_key(Path::new("/etc/ssh"))?;
    // It goes to the background by itself once it listens.
    Cmd::new(server).args(["-E", LOG]).run().context("starting the ssh server")?;
    Ok(Some(key))
}

/// Makes a host key in `dir` and gives its fingerprint.
fn host_key(dir: &Path) -> Result<String> {
    let mut refused = Vec::new();
    for kind in KINDS {
        let file = dir.join(format!("ssh_host_{kind}_key"));
        let _ = std::fs::remove_file(&file);
        let made = Cmd::new("ssh-keygen").args(["-q", "-t", kind, "-N", ""]).arg("-f").arg(&file);
        if let Err(error) = made.run() {
            refused.push(format!("{error:#}"));
            continue;
        }
        let text = Cmd::new("ssh-keygen").arg("-lf").arg(&file).text()?;
        return fingerprint(&text)
            .with_context(|| format!("reading the fingerprint of {}: {text:?}", file.display()));
    }
    bail!("making a host key: {}", refused.join("; "))
}

/// That of `ssh-keygen -l`: `256 SHA256:ulY... root@rescue (ED25519)`.
fn fingerprint(text: &str) -> Option<String> {
    let hash = text.split_whitespace().find(|word| word.starts_with("SHA256:"))?;
    Some(hash.to_owned())
}

/// Where to log in: `root@10.0.0.5`, the addresses that others can reach.
pub fn logins() -> Vec<String> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| -> Option<IpAddr> {
        let address = interface.address?;
        let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
    };
    let mut found: Vec<IpAddr> = all.filter_map(address).filter(is_reachable).collect();
    found.dedup();
    found.iter().map(|address| format!("root@{address}")).collect()
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => !four.is_loopback() && !four.is_link_local(),
        IpAddr::V6(six) => !six.is_loopback() && !six.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_is_made_and_known_by_its_hash() {
        if tools::find("ssh-keygen".as_ref()).is_none() {
            eprintln!("skipped: no ssh-keygen here");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let key = host_key(dir.path()).unwrap();
        assert_eq!(key.len(), "SHA256:".len() + 43, "{key}");
        assert_ne!(host_key(dir.path()).unwrap(), key);
        assert!(dir.path().join("ssh_host_ed25519_key").exists());
    }

    #[test]
    fn only_what_others_reach_is_told() {
        for (text, told) in [
            ("10.0.2.15", true),
            ("fd00::5", true),
            ("127.0.0.1", false),
            ("169.254.3.4", false),
            ("::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_reachable(&text.parse().unwrap()), told, "{text}");
        }
    }
}
