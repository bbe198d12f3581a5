//! Network: `ip -json`, sysfs, resolv.conf(5).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::block::Properties;
use crate::layout::{Link, LinkKind, Net, Nic, Route};
use crate::sys::run::Cmd;

const CLASS_NET: &str = "/sys/class/net";

/// The network and what of it a rescue system does not bring up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub net: Net,
    pub notes: Vec<(String, String)>,
}

impl Found {
    /// Takes the routes through what is recorded. A default route through anything else may be how the
    /// machine is reached.
    pub fn take_routes(&mut self, routes: Vec<Route>) {
        let (taken, others) = routes.into_iter().partition(|route| self.net.has(&route.nic));
        self.net.route = taken;
        for route in others.into_iter().filter(|route: &Route| route.to == "default") {
            let what = format!("network interface {}", route.nic);
            if !self.notes.iter().any(|(noted, _)| *noted == what) {
                let why =
                    "a default route leads through it, and the rescue system does not bring it up";
                self.notes.push((what, why.to_owned()));
            }
        }
    }
}

/// The names of the interfaces that are hardware.
pub fn physical() -> Vec<String> {
    super::block::names_in(Path::new(CLASS_NET))
        .into_iter()
        .filter(|name| Path::new(CLASS_NET).join(name).join("device").exists())
        .collect()
}

/// The interfaces that are up, their addresses and routes.
pub fn read(udev: &BTreeMap<String, Properties>) -> Result<Found> {
    let addresses = Cmd::new("ip").args(["-j", "-d", "addr"]).text()?;
    let mut routes = parse_routes(&Cmd::new("ip").args(["-j", "route"]).text()?)?;
    // A kernel without IPv6 makes this fail.
    let routes6 = Cmd::new("ip").args(["-j", "-6", "route"]).output()?.text();
    routes.extend(parse_routes(&routes6).unwrap_or_default());
    let mut found = parse_links(&addresses, &physical())?;
    for nic in &mut found.net.nic {
        nic.path = udev.get(&nic.name).and_then(|p| p.get("ID_PATH")).cloned();
        let device = Path::new(CLASS_NET).join(&nic.name).join("device");
        nic.driver = std::fs::read_link(device.join("driver"))
            .ok()
            .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    }
    found.take_routes(routes);
    (found.net.dns, found.net.search) = read_resolvers();
    Ok(found)
}

#[derive(Deserialize)]
struct Interface {
    ifname: String,
    flags: Vec<String>,
    mtu: u32,
    #[serde(default)]
    link_type: String,
    #[serde(default)]
    address: String,
    permaddr: Option<String>,
    /// What a VLAN is on.
    link: Option<String>,
    /// The bond or bridge that it is a port of.
    master: Option<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
    #[serde(default)]
    info_data: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    info_slave_data: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<String>,
    prefixlen: Option<u32>,
    scope: Option<String>,
    #[serde(default)]
    dynamic: bool,
    #[serde(default)]
    temporary: bool,
}

/// What is recorded of an interface's addresses.
struct Addresses {
    dhcp: bool,
    slaac: bool,
    /// Those that DHCP gave are told as well: for people.
    list: Vec<String>,
}

impl Interface {
    fn kind(&self) -> Option<&str> {
        self.linkinfo.as_ref()?.info_kind.as_deref()
    }

    /// The hardware address that it has by itself: a port shows that of its bond.
    fn own_address(&self) -> String {
        let before_bond = || {
            let data = &self.linkinfo.as_ref()?.info_slave_data;
            data.get("perm_hwaddr")?.as_str().map(str::to_owned)
        };
        let own = self.permaddr.clone().or_else(before_bond);
        own.unwrap_or_else(|| self.address.clone()).to_lowercase()
    }

    fn addresses(&self) -> Addresses {
        let global = |a: &&Address| a.scope.as_deref() == Some("global") && !a.temporary;
        let all: Vec<&Address> = self.addr_info.iter().filter(global).collect();
        // IPv6 addresses with a lifetime come from router advertisements. Single ones come from DHCPv6,
        // which the rescue system does not speak: it keeps them where there is no other.
        let is_single = |a: &Address| a.prefixlen == Some(128);
        let is_leased = |a: &Address| a.dynamic && !is_ipv4(a.local.as_deref());
        let slaac = all.iter().any(|a| is_leased(a) && !is_single(a));
        let kept = all.iter().filter(|a| !is_leased(a) || (is_single(a) && !slaac));
        Addresses {
            dhcp: all.iter().any(|a| a.dynamic && is_ipv4(a.local.as_deref())),
            slaac,
            list: kept
                .filter_map(|a| Some(format!("{}/{}", a.local.as_ref()?, a.prefixlen?)))
                .collect(),
        }
    }
}

/// Parses `ip -j -d addr`. `physical` names the interfaces that are hardware.
pub fn parse_links(text: &str, physical: &[String]) -> Result<Found> {
    let all: Vec<Interface> =
        serde_json::from_str(text).context("parsing the output of ip addr")?;
    let up: Vec<&Interface> =
        all.iter().filter(|link| link.flags.iter().any(|flag| flag == "UP")).collect();
    let mut found = Found::default();
    for link in up.iter().filter(|link| physical.contains(&link.ifname)) {
        let addresses = link.addresses();
        let is_used = addresses.dhcp || addresses.slaac || !addresses.list.is_empty();
        if is_used && !["", "ether"].contains(&link.link_type.as_str()) {
            found.notes.push((
                format!("network interface {}", link.ifname),
                format!("its link is {}, and the rescue system brings up Ethernet", link.link_type),
            ));
        }
        found.net.nic.push(Nic {
            mac: link.own_address(),
            path: None,
            driver: None,
            mtu: link.mtu,
            dhcp: addresses.dhcp,
            slaac: addresses.slaac,
            address: addresses.list,
            name: link.ifname.clone(),
        });
    }
    let mut left: Vec<&&Interface> =
        up.iter().filter(|link| !physical.contains(&link.ifname)).collect();
    // Those that rest on hardware, step by step; others (of containers, of virtual machines) are not
    // how the machine is reached.
    while let Some(at) = left.iter().position(|link| rests_on(link, &up, &found.net).is_some()) {
        let link = left.remove(at);
        let over = rests_on(link, &up, &found.net).unwrap_or_default();
        match recorded(link, over) {
            Ok(link) => found.net.link.push(link),
            Err(kind) => found.notes.push((
                format!("network interface {}", link.ifname),
                format!("a network of kind {kind} is not brought up by the rescue system"),
            )),
        }
    }
    drop_idle(&mut found.net);
    Ok(found)
}

/// What of the recorded interfaces this one rests on; None where it rests on none.
fn rests_on(link: &Interface, up: &[&Interface], net: &Net) -> Option<Vec<String>> {
    let ports = up.iter().filter(|port| port.master.as_ref() == Some(&link.ifname));
    let mut over: Vec<String> = ports.map(|port| port.ifname.clone()).collect();
    // A team's and a tunnel's `link` mean other things.
    over.extend(link.link.clone().filter(|_| link.kind() == Some("vlan")));
    over.retain(|name| net.has(name));
    (!over.is_empty()).then_some(over)
}

/// Properties that a rescue system needs to be let in by the switches; by what ip-link(8) calls them
/// and what it prints them as.
const BOND: &[(&str, &str)] = &[
    ("mode", "mode"),
    ("miimon", "miimon"),
    ("xmit_hash_policy", "xmit_hash_policy"),
    ("lacp_rate", "ad_lacp_rate"),
];
const VLAN: &[(&str, &str)] = &[("id", "id"), ("protocol", "protocol")];
const BRIDGE: &[(&str, &str)] = &[("stp_state", "stp_state")];

/// The interface as it is recorded, or its kind where that is none that can be made again.
fn recorded(link: &Interface, over: Vec<String>) -> Result<Link, String> {
    let kind = link.kind().unwrap_or("unknown");
    let (known, options) = match kind {
        "bond" => (LinkKind::Bond, BOND),
        "vlan" => (LinkKind::Vlan, VLAN),
        "bridge" => (LinkKind::Bridge, BRIDGE),
        other => return Err(other.to_owned()),
    };
    let data = link.linkinfo.as_ref().map(|info| &info.info_data);
    let option = options.iter().filter_map(|(name, printed)| {
        let value = match data?.get(*printed)? {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(((*name).to_owned(), value))
    });
    let addresses = link.addresses();
    Ok(Link {
        name: link.ifname.clone(),
        kind: known,
        over,
        option: option.collect(),
        mtu: link.mtu,
        dhcp: addresses.dhcp,
        slaac: addresses.slaac,
        address: addresses.list,
    })
}

/// Leaves out what has no address and nothing with one rests on.
fn drop_idle(net: &mut Net) {
    loop {
        let needed: Vec<String> = net.link.iter().flat_map(|link| link.over.clone()).collect();
        let before = net.link.len();
        net.link.retain(|link| {
            link.dhcp || link.slaac || !link.address.is_empty() || needed.contains(&link.name)
        });
        if net.link.len() == before {
            return;
        }
    }
}

fn is_ipv4(address: Option<&str>) -> bool {
    matches!(address.and_then(|a| a.parse().ok()), Some(IpAddr::V4(_)))
}

/// Parses `ip -j route`. Routes that the kernel makes from the addresses are left out.
pub fn parse_routes(text: &str) -> Result<Vec<Route>> {
    #[derive(Deserialize)]
    struct Row {
        dst: String,
        gateway: Option<String>,
        dev: Option<String>,
        protocol: Option<String>,
        metric: Option<u32>,
        #[serde(rename = "type")]
        kind: Option<String>,
        /// Of a route over several ways, in place of `gateway` and `dev`.
        #[serde(default)]
        nexthops: Vec<Hop>,
    }
    #[derive(Deserialize)]
    struct Hop {
        gateway: Option<String>,
        dev: Option<String>,
        /// A gateway of another family.
        via: Option<serde_json::Value>,
        #[serde(default)]
        flags: Vec<String>,
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<Row> = serde_json::from_str(text).context("parsing the output of ip route")?;
    let keep = |row: &Row| {
        let protocol = row.protocol.as_deref();
        !matches!(protocol, Some("kernel" | "ra"))
            && row.kind.as_deref().is_none_or(|kind| kind == "unicast")
            && !row.dst.starts_with("fe80:")
    };
    Ok(rows
        .into_iter()
        .filter(keep)
        .filter_map(|row| {
            // One of the ways is enough, a live one if there is.
            let usable = |hop: &Hop| hop.dev.is_some() && hop.via.is_none();
            let is_dead = |hop: &Hop| hop.flags.iter().any(|flag| flag == "dead");
            let hop = row.nexthops.into_iter().filter(usable).min_by_key(is_dead);
            let (via, dev) = hop.map_or((row.gateway, row.dev), |hop| (hop.gateway, hop.dev));
            Some(Route { to: row.dst, via, nic: dev?, metric: row.metric })
        })
        .collect())
}

/// systemd-resolved leaves only its own address in resolv.conf; the real ones are in a file of
/// its own.
fn read_resolvers() -> (Vec<String>, Vec<String>) {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (dns, search) = parse_resolv_conf(&text("/etc/resolv.conf"));
    let stub = |address: &String| address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if dns.iter().all(stub) {
        let behind = parse_resolv_conf(&text("/run/systemd/resolve/resolv.conf"));
        if !behind.0.is_empty() {
            return behind;
        }
    }
    (dns, search)
}

/// Name servers and search domains of resolv.conf(5).
pub fn parse_resolv_conf(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut dns, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                dns.extend(words.next().filter(|a| is_server(a)).map(str::to_owned));
            }
            // The last of these counts.
            Some("search" | "domain") => search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    (dns, search)
}

/// An address; link-local ones carry their interface (`fe80::1%eth0`).
fn is_server(address: &str) -> bool {
    let (address, zone) = address.split_once('%').unwrap_or((address, ""));
    address.parse::<IpAddr>().is_ok() && (zone.is_empty() || address.parse::<Ipv6Addr>().is_ok())
}
