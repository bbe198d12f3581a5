//! The rescue system's network: as the node had it, on the interfaces that are here now.
//!
//! A recorded interface is matched by its hardware address, then by where it is plugged in; what is
//! left over on both sides is matched if there is only one way to do it. Where nothing fits, or
//! nothing was recorded, every interface with a link asks a DHCP server.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cmdline::Given;
use super::dhcp;
use crate::layout::{Net, Nic, Route};
use crate::sys::run::Cmd;

/// Where it is told what happens: the console, or only the log.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// How long a switch may take to forward on a port that came up (spanning tree takes 30 s).
const LINK_TIMEOUT: Duration = Duration::from_secs(45);
const DHCP_TIMEOUT: Duration = Duration::from_secs(45);
/// A lease that could not be renewed is tried again this often.
const RENEW_RETRY: Duration = Duration::from_secs(60);

/// An interface that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    pub name: String,
    pub mac: String,
    /// As udev's `ID_PATH`.
    pub path: Option<String>,
}

/// What is to be done with one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setup {
    name: String,
    mac: String,
    mtu: u32,
    dhcp: bool,
    address: Vec<String>,
}

/// Brings the network up as `net` says it was.
///
/// # Errors
/// No interface has an address in the end.
pub fn node(net: &Net, say: Say<'_>) -> Result<()> {
    let present = present()?;
    let usable: Vec<&Nic> =
        net.nic.iter().filter(|nic| nic.dhcp || !nic.address.is_empty()).collect();
    let pairs = pair(&usable, &present);
    if pairs.is_empty() {
        if usable.is_empty() {
            say("no network was recorded: asking for addresses by DHCP");
        } else {
            let list = list(&usable);
            say(&format!("none of the node's interfaces ({list}) is here: trying DHCP"));
        }
        return dhcp_everywhere(say);
    }
    let mut problems = Vec::new();
    for (nic, here, how) in &pairs {
        if nic.name != here.name || *how != "address" {
            say(&format!("{} is {} here (by its {how})", nic.name, here.name));
        }
        let setup = Setup {
            name: here.name.clone(),
            mac: here.mac.clone(),
            mtu: nic.mtu,
            dhcp: nic.dhcp,
            address: nic.address.clone(),
        };
        if let Err(error) = set_up(&setup, say) {
            problems.push(format!("{error:#}"));
        }
    }
    resolver(&net.dns, &net.search)?;
    for route in &net.route {
        let Some((_, here, _)) = pairs.iter().find(|(nic, ..)| nic.name == route.nic) else {
            continue;
        };
        if let Err(error) = add_route(route, &here.name) {
            problems.push(format!("{error:#}"));
        }
    }
    finish(&problems, say)
}

/// DHCP on every interface, all at once; the link decides which answer.
pub fn dhcp_everywhere(say: Say<'_>) -> Result<()> {
    let present = present()?;
    let setups = present.iter().map(|nic| Setup {
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        mtu: 0,
        dhcp: true,
        address: Vec::new(),
    });
    let problems: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> =
            setups.map(|setup| scope.spawn(move || set_up(&setup, say).err())).collect();
        running
            .into_iter()
            .filter_map(|thread| thread.join().ok().flatten())
            .map(|error| format!("{error:#}"))
            .collect()
    });
    finish(&problems, say)
}

/// One interface as the kernel command line gives it.
pub fn given(given: &Given, say: Say<'_>) -> Result<()> {
    let present = present()?;
    let wanted = given.device.as_deref();
    let fits = |nic: &&Present| wanted.is_none_or(|w| w == nic.name || w == nic.mac);
    let Some(nic) = present.iter().find(fits) else {
        bail!(
            "no interface fits the ip= on the kernel command line; here are: {}",
            names(&present)
        );
    };
    let setup = Setup {
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        mtu: 0,
        dhcp: false,
        address: vec![given.address.clone()],
    };
    set_up(&setup, say)?;
    if let Some(gateway) = &given.gateway {
        let to = "default".to_owned();
        let route = Route { to, via: Some(gateway.clone()), nic: String::new(), metric: None };
        add_route(&route, &nic.name)?;
    }
    finish(&[], say)
}

fn finish(problems: &[String], say: Say<'_>) -> Result<()> {
    let addresses = Cmd::new("ip")
        .args(["-brief", "address", "show", "up", "scope", "global"])
        .text()
        .context("asking for the addresses")?;
    if addresses.trim().is_empty() {
        let here = names(&present()?);
        bail!(
            "no network: {}\nhint: interfaces here: {here}; set one up with ip(8), or boot with rr.net=dhcp or ip=ADDRESS/PREFIX::GATEWAY",
            if problems.is_empty() {
                "no interface got an address".into()
            } else {
                problems.join("; ")
            },
        );
    }
    for problem in problems {
        say(&format!("warning: {problem}"));
    }
    Ok(())
}

/// Physical interfaces, by name.
fn present() -> Result<Vec<Present>> {
    let mut nics = Vec::new();
    let dir = Path::new("/sys/class/net");
    for entry in dir.read_dir().context("listing the network interfaces")? {
        let path = entry.context("listing the network interfaces")?.path();
        let read = |name: &str| {
            std::fs::read_to_string(path.join(name))
                .map(|t| t.trim().to_owned())
                .unwrap_or_default()
        };
        // 1 is ARPHRD_ETHER; virtual interfaces have no device.
        if !path.join("device").exists() || read("type") != "1" {
            continue;
        }
        nics.push(Present {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            mac: read("address").to_lowercase(),
            path: udev_path(&read("ifindex")),
        });
    }
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nics)
}

fn udev_path(index: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/run/udev/data/n{index}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("E:ID_PATH=")).map(str::to_owned)
}

/// Which recorded interface is which present one, and how that is known.
fn pair<'a>(
    recorded: &[&'a Nic],
    present: &'a [Present],
) -> Vec<(&'a Nic, &'a Present, &'static str)> {
    let mut pairs: Vec<(&Nic, &Present, &'static str)> = Vec::new();
    let mut left: Vec<&Nic> = recorded.to_vec();
    let mut free: Vec<&Present> = present.iter().collect();
    type Same = fn(&Nic, &Present) -> bool;
    let rules: [(&'static str, Same); 2] = [
        ("address", |nic, here| nic.mac.eq_ignore_ascii_case(&here.mac)),
        ("place", |nic, here| nic.path.is_some() && nic.path == here.path),
    ];
    for (how, same) in rules {
        left.retain(|nic| {
            let Some(at) = free.iter().position(|here| same(nic, here)) else { return true };
            pairs.push((nic, free.remove(at), how));
            false
        });
    }
    if let ([nic], [here]) = (&left[..], &free[..]) {
        pairs.push((nic, here, "being the only one left"));
    }
    pairs
}

fn set_up(setup: &Setup, say: Say<'_>) -> Result<()> {
    let name = setup.name.as_str();
    if setup.mtu >= 576 && setup.mtu != 1500 {
        Cmd::new("ip").args(["link", "set", "dev", name, "mtu", &setup.mtu.to_string()]).run()?;
    }
    Cmd::new("ip").args(["link", "set", "dev", name, "up"]).run()?;
    for address in &setup.address {
        let mut command = Cmd::new("ip").args(["address", "replace", address, "dev", name]);
        if address.contains(':') {
            // Nobody waits here for duplicates to be found.
            command = command.arg("nodad");
        }
        command.run()?;
        say(&format!("{name} has {address}"));
    }
    wait_for_link(name)?;
    if setup.dhcp {
        let mac = parse_mac(&setup.mac)
            .with_context(|| format!("{name} has no hardware address: {:?}", setup.mac))?;
        let lease = dhcp::acquire(name, mac, DHCP_TIMEOUT)?;
        apply(name, &lease)?;
        say(&format!("{name} has {} from the DHCP server {}", lease.address, lease.server));
        keep_lease(name.to_owned(), mac, lease);
    }
    Ok(())
}

fn wait_for_link(name: &str) -> Result<()> {
    let started = Instant::now();
    let path = format!("/sys/class/net/{name}/carrier");
    while started.elapsed() < LINK_TIMEOUT {
        if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
        // Interfaces without a cable must not hold up those that have one.
        if started.elapsed() > Duration::from_secs(10) && has_other_link(name) {
            break;
        }
    }
    bail!("{name} has no link after {} s", started.elapsed().as_secs())
}

fn has_other_link(name: &str) -> bool {
    present().unwrap_or_default().iter().filter(|nic| nic.name != name).any(|nic| {
        let path = format!("/sys/class/net/{}/carrier", nic.name);
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    })
}

fn apply(name: &str, lease: &dhcp::Lease) -> Result<()> {
    Cmd::new("ip").args(["address", "replace", &lease.address, "dev", name]).run()?;
    if let Some(gateway) = lease.gateway {
        let to = "default".to_owned();
        let via = Some(gateway.to_string());
        add_route(&Route { to, via, nic: String::new(), metric: None }, name)?;
    }
    let dns: Vec<String> = lease.dns.iter().map(ToString::to_string).collect();
    resolver(&dns, &[])
}

/// Asks again before the lease ends: a recovery may take longer than a lease lasts.
fn keep_lease(name: String, mac: [u8; 6], first: dhcp::Lease) {
    std::thread::spawn(move || {
        let mut lease = first;
        let mut pause = lease.lasts / 2;
        loop {
            std::thread::sleep(pause.max(RENEW_RETRY));
            match dhcp::acquire(&name, mac, DHCP_TIMEOUT).and_then(|new| {
                if new.address != lease.address {
                    apply(&name, &new)?;
                }
                Ok(new)
            }) {
                Ok(new) => {
                    pause = new.lasts / 2;
                    lease = new;
                }
                Err(error) => {
                    log::warn!("renewing the lease of {name}: {error:#}");
                    pause = RENEW_RETRY;
                }
            }
        }
    });
}

fn add_route(route: &Route, name: &str) -> Result<()> {
    let mut command = Cmd::new("ip").args(["route", "replace", &route.to]);
    if let Some(via) = &route.via {
        command = command.args(["via", via]);
    }
    command = command.args(["dev", name]);
    if let Some(metric) = route.metric {
        command = command.args(["metric", &metric.to_string()]);
    }
    command.run()
}

/// Adds name servers to /etc/resolv.conf.
fn resolver(dns: &[String], search: &[String]) -> Result<()> {
    const FILE: &str = "/etc/resolv.conf";
    let old = std::fs::read_to_string(FILE).unwrap_or_default();
    let text = resolv_conf(&old, dns, search);
    std::fs::write(FILE, text).with_context(|| format!("writing {FILE}"))
}

fn resolv_conf(old: &str, dns: &[String], search: &[String]) -> String {
    // A stub on the node itself (systemd-resolved, dnsmasq) does not run here.
    let real = |server: &&String| !server.starts_with("127.") && *server != "::1";
    let new = dns.iter().filter(real).map(|server| format!("nameserver {server}"));
    let new = new.chain((!search.is_empty()).then(|| format!("search {}", search.join(" "))));
    let mut seen = BTreeSet::new();
    let lines = old.lines().map(str::to_owned).chain(new).filter(|line| seen.insert(line.clone()));
    lines.map(|line| line + "\n").collect()
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn list(nics: &[&Nic]) -> String {
    nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn names(nics: &[Present]) -> String {
    if nics.is_empty() {
        return "none".to_owned();
    }
    nics.iter().map(|nic| format!("{} ({})", nic.name, nic.mac)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(name: &str, mac: &str, path: Option<&str>) -> Nic {
        Nic {
            name: name.into(),
            mac: mac.into(),
            path: path.map(str::to_owned),
            driver: None,
            mtu: 1500,
            dhcp: true,
            address: Vec::new(),
        }
    }

    fn here(name: &str, mac: &str, path: Option<&str>) -> Present {
        Present { name: name.into(), mac: mac.into(), path: path.map(str::to_owned) }
    }

    fn said(recorded: &[Nic], present: &[Present]) -> Vec<String> {
        let recorded: Vec<&Nic> = recorded.iter().collect();
        pair(&recorded, present)
            .iter()
            .map(|(nic, here, how)| format!("{}={} {how}", nic.name, here.name))
            .collect()
    }

    #[test]
    fn interfaces_are_known_by_address_then_by_place_then_by_being_left_over() {
        let recorded = [nic("a", "AA:00", None), nic("b", "bb:00", Some("pci-2"))];
        let present = [here("x", "cc:00", Some("pci-2")), here("y", "aa:00", Some("pci-1"))];
        assert_eq!(said(&recorded, &present), ["a=y address", "b=x place"]);
        let other = [here("z", "dd:00", None)];
        assert_eq!(said(&recorded[..1], &other), ["a=z being the only one left"]);
    }

    #[test]
    fn what_is_ambiguous_is_not_guessed() {
        let recorded = [nic("a", "aa:00", None)];
        let present = [here("x", "cc:00", None), here("y", "dd:00", None)];
        assert_eq!(said(&recorded, &present), [""; 0]);
    }

    #[test]
    fn name_servers_add_up_and_a_local_stub_is_left_out() {
        let old = resolv_conf("", &["10.0.0.1".into(), "127.0.0.53".into()], &["a.b".into()]);
        assert_eq!(old, "nameserver 10.0.0.1\nsearch a.b\n");
        let both = resolv_conf(&old, &["10.0.0.1".into(), "10.0.0.2".into()], &[]);
        assert_eq!(both, "nameserver 10.0.0.1\nsearch a.b\nnameserver 10.0.0.2\n");
    }

    #[test]
    fn hardware_addresses_are_six_bytes() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(parse_mac("52:54:00"), None);
        assert_eq!(parse_mac(""), None);
    }
}
