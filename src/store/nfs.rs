//! An NFS export as a directory.
//!
//! The export is mounted in a mount namespace that ends at once; what stays is the open directory,
//! and with it the mount, for as long as this process lives. No other process sees it, nothing has
//! to be unmounted, and a killed run leaves nothing behind.
//!
//! Mount options, all of which `target_options.nfs` can override:
//!
//! * `softerr,timeo=600,retrans=4`: a server that does not answer for five minutes (it is asked
//!   again each minute) makes the operation fail with ETIMEDOUT. A hard mount would hang for ever,
//!   and a shorter time would not survive the reboot of a server. What is lost when a soft mount
//!   gives up is no danger: every object is synced, and an error then ends the run, before it gets
//!   its name. Kernels before 5.1 take `soft`, which says EIO. Where the kernel does not keep to it,
//!   [`super::patient`] does.
//! * `nolock`: rr takes no file locks, and so a rescue system needs no rpc.statd for NFSv3.
//! * `vers=4.1`, and where the server has no 4.1, what mount.nfs(8) finds, 3 included. Of what 4.2
//!   adds rr needs nothing, and one thing does harm: kernels from 6.6 on read by READ_PLUS, and
//!   NFS-Ganesha up to 7 answers it with wrong bytes. (Found by a manifest whose hash did not fit,
//!   Linux 6.12 with Ganesha 4.3.) Who gives `vers` gets it.
//! * `retry=0`: no second attempts in mount.nfs; its time is limited here.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::config::{TargetOptions, TargetUrl};
use crate::sys::run::Cmd;
use crate::sys::{mount, names, tools};

const OPTIONS: &str = "timeo=600,retrans=4,nolock,retry=0,nosuid,nodev,noexec";
const CONNECT: Duration = Duration::from_secs(5);
const MOUNT: Duration = Duration::from_secs(60);
/// Each process has a mount namespace of its own on it, so that one name is enough.
const MOUNT_POINT: &str = "/run/rr/target";
const NFS_PORT: u16 = 2049;
const RPCBIND_PORT: u16 = 111;

/// Mounts `host:path` and opens it. Says how it is secured, too: `sec=` of nfs(5).
pub fn open(host: &str, path: &str, options: &TargetOptions) -> Result<(OwnedFd, Option<String>)> {
    tools::require(&["mount.nfs"]).context("mounting an NFS target")?;
    reach(host, &options.nfs)?;
    mount::held(
        Path::new(MOUNT_POINT),
        || mount_export(host, path, &options.nfs),
        |rest| {
            // Of this thread's namespace.
            let mounts = std::fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
            Ok((open_below(host, path, &rest)?, security(&mounts, Path::new(MOUNT_POINT))))
        },
    )
}

/// What a rescue system, which has no Kerberos, can't do with an export that the node has mounted with
/// the `security` that the kernel says. None where it can.
pub fn kerberos_problem(
    url: &TargetUrl,
    options: &TargetOptions,
    security: &str,
) -> Option<String> {
    let TargetUrl::Nfs { host, path } = url else { return None };
    if !security.starts_with("krb5") {
        return None;
    }
    // The server may take others as well, and the node may just have chosen the best.
    let is_chosen = options.nfs.split(',').any(|option| option.trim().starts_with("sec="));
    let plain = || {
        let options = TargetOptions { nfs: format!("{},sec=sys", options.nfs), ..options.clone() };
        open(host, path, &options)
    };
    if !is_chosen {
        let refused = plain().err().map(|error| format!("{error:#}"))?;
        if !is_refusal(&refused) {
            log::info!("whether {url} can be mounted without Kerberos is not known: {refused}");
            return None;
        }
    }
    Some(format!(
        "{url} is mounted with Kerberos (sec={security}): the rescue system can't mount it, as it has no key\nhint: export it with sec=sys as well, read-only is enough{}",
        if is_chosen { ", and take sec= out of target_options.nfs" } else { "" }
    ))
}

/// The `sec=` of what is mounted at `point`.
fn security(mountinfo: &[u8], point: &Path) -> Option<String> {
    let mounts = mount::parse(mountinfo);
    let mounted = mounts.iter().rev().find(|mount| mount.path == point)?;
    mounted.options.split(',').find_map(|option| option.strip_prefix("sec=")).map(str::to_owned)
}

/// Fails soon, and with the reason, where a mount would hang: the server must take connections.
fn reach(host: &str, options: &str) -> Result<()> {
    let mut said = Vec::new();
    for address in addresses(host)? {
        for port in ports(options) {
            match TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT) {
                Ok(_) => return Ok(()),
                Err(error) => said.push(format!("{address} port {port}: {error}")),
            }
        }
    }
    if said.is_empty() {
        return Ok(());
    }
    bail!(
        "the NFS server {host} does not answer ({})\nhint: is it up, is its name right, does a firewall stop TCP port {}?",
        said.join("; "),
        ports(options)[0]
    )
}

/// The port that the options give, or the usual ones: an NFSv3 server may have another, which its
/// rpcbind tells.
pub fn ports(options: &str) -> Vec<u16> {
    let given = options.split(',').rev().find_map(|o| o.strip_prefix("port=")?.parse().ok());
    given.map_or_else(|| vec![NFS_PORT, RPCBIND_PORT], |port| vec![port])
}

/// The addresses of a host; none where they can't be looked up: mount.nfs then has to find out.
fn addresses(host: &str) -> Result<Vec<IpAddr>> {
    match names::addresses(host)? {
        Some(found) if found.is_empty() => bail!(
            "the NFS server's name {host} can't be resolved\nhint: check DNS and /etc/hosts, or give the address: nfs://192.0.2.1/export"
        ),
        found => Ok(found.unwrap_or_default()),
    }
}

/// Mounts `path`, or the nearest part of it that the server exports, and gives what is left of the
/// path. NFSv3 servers export what they list; NFSv4 takes any directory.
fn mount_export(host: &str, path: &str, options: &str) -> Result<String> {
    let mut first_refusal = None;
    for (export, rest) in exports(path) {
        match mount_one(host, export, options)? {
            None => return Ok(rest.to_owned()),
            Some(refusal) => {
                log::info!("{host}:{export} can't be mounted: {refusal}");
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    Err(anyhow!(
        "mounting {host}:{path}: {}\nhint: what does the server export, and to this node? showmount -e {host}",
        first_refusal.unwrap_or_default()
    ))
}

/// `/a/b` as it is, then its parents, each with what of the path is below it.
fn exports(path: &str) -> Vec<(&str, &str)> {
    let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
    ends.push(path.len());
    ends.iter().rev().map(|&end| (&path[..end], path[end..].trim_start_matches('/'))).collect()
}

/// Gives what the server says where it refuses this very path; other failures are errors.
fn mount_one(host: &str, export: &str, options: &str) -> Result<Option<String>> {
    let hint = format!("is the NFS service up there? rpcinfo -p {host}");
    let mut said = String::new();
    for attempt in attempts(options) {
        let output = Cmd::new("mount.nfs")
            .args([&format!("{host}:{export}"), MOUNT_POINT, "-n", "-o", &attempt])
            .timeout(MOUNT)
            .output()
            .map_err(|error| anyhow!("mounting {host}:{export}: {error:#}\nhint: {hint}"))?;
        if output.success() {
            return Ok(None);
        }
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if is_refusal(&said) {
            return Ok(Some(said));
        }
        if !is_about_options(&said) {
            break;
        }
        log::info!("{host}:{export} can't be mounted with {attempt}: {said}");
    }
    let hint = if said.contains("No such device") {
        "this kernel has no NFS client (modprobe nfs)".to_owned()
    } else if is_about_options(&said) {
        format!("target_options.nfs is {options:?}; nfs(5) lists what it can hold")
    } else {
        hint
    };
    bail!("mounting {host}:{export}: {said}\nhint: {hint}")
}

/// The mount options to try, the best first.
fn attempts(options: &str) -> Vec<String> {
    let has_version = options.split(',').map(str::trim).any(|option| {
        ["vers=", "nfsvers=", "minorversion="].iter().any(|name| option.starts_with(name))
            || matches!(option, "v3" | "v4" | "v4.0" | "v4.1" | "v4.2")
    });
    let versions: &[&str] = if has_version { &[""] } else { &["vers=4.1", ""] };
    let mut all = Vec::new();
    for version in versions {
        for soft in ["softerr", "soft"] {
            let parts = [soft, OPTIONS, version, options.trim()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            all.push(parts.join(","));
        }
    }
    all
}

/// Whether mount.nfs(8) says that the kernel does not know an option, or the server the version.
fn is_about_options(said: &str) -> bool {
    ["incorrect mount option", "rotocol not supported", "not supported", "rogram not registered"]
        .iter()
        .any(|text| said.contains(text))
}

/// Whether mount.nfs(8) says that the server does not give this path, or not to us.
fn is_refusal(said: &str) -> bool {
    ["access denied", "No such file or directory", "Not a directory", "Permission denied"]
        .iter()
        .any(|text| said.contains(text))
}

fn open_below(host: &str, path: &str, rest: &str) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(&Path::new(MOUNT_POINT).join(rest), flags, Mode::empty()).map_err(|errno| {
        anyhow!(
            "opening {host}:{path}: {}\nhint: the directory must be there: create it on the server",
            errno.desc()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_whole_path_is_tried_first_then_its_parents() {
        assert_eq!(exports("/a/b/c"), [("/a/b/c", ""), ("/a/b", "c"), ("/a", "b/c")]);
        assert_eq!(exports("/a"), [("/a", "")]);
    }

    #[test]
    fn version_4_1_comes_first_unless_one_is_given() {
        let tried = attempts("port=20490");
        assert_eq!(tried.len(), 4);
        assert_eq!(tried[0], format!("softerr,{OPTIONS},vers=4.1,port=20490"));
        assert_eq!(tried[3], format!("soft,{OPTIONS},port=20490"));
        assert_eq!(attempts("port=1,vers=3").len(), 2);
        assert_eq!(attempts("")[2], format!("softerr,{OPTIONS}"));
    }

    #[test]
    fn kerberos_is_nothing_for_a_rescue_system() {
        let line = |sec: &str| {
            format!(
                "100 30 0:50 / /run rw - tmpfs tmpfs rw\n\
                 1450 1200 0:96 / /run/rr/target rw,nosuid,nodev,noexec,relatime shared:1 - nfs4 store:/export rw,vers=4.1,softerr,proto=tcp,timeo=600,retrans=4,sec={sec},clientaddr=10.0.0.1,local_lock=none,addr=10.0.0.2\n"
            )
        };
        let of = |text: String| security(text.as_bytes(), Path::new(MOUNT_POINT));
        assert_eq!(of(line("krb5i")).as_deref(), Some("krb5i"));
        assert_eq!(of("100 30 0:50 / /run rw - tmpfs tmpfs rw\n".into()), None);
        let url: TargetUrl = "nfs://store/export".parse().unwrap();
        // Chosen, so that no server is asked.
        let options = TargetOptions { nfs: "vers=4.1,sec=krb5i".into(), ..Default::default() };
        let problem = kerberos_problem(&url, &options, "krb5i").unwrap();
        assert!(problem.starts_with("nfs://store/export is mounted with Kerberos (sec=krb5i)"));
        assert!(problem.contains("\nhint: export it with sec=sys"), "{problem}");
        assert_eq!(kerberos_problem(&url, &options, &of(line("sys")).unwrap()), None);
    }

    #[test]
    fn a_port_in_the_options_is_the_one_to_knock_at() {
        assert_eq!(ports(""), [2049, 111]);
        assert_eq!(ports("vers=3,port=20490,mountport=4"), [20490]);
    }

    #[test]
    fn a_dead_server_and_an_unknown_name_are_said_soon() {
        let started = Instant::now();
        // TEST-NET-1 (RFC 5737) and the port "discard", where nothing listens here.
        for (host, options, expected) in [
            ("127.0.0.1", "port=9", "127.0.0.1 port 9: Connection refused"),
            ("rr-no-such-host.invalid", "", "can't be resolved"),
        ] {
            let text = reach(host, options).unwrap_err().to_string();
            assert!(text.contains(expected) && text.contains("\nhint: "), "{text}");
        }
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
