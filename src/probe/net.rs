//! Network: `ip -json`, sysfs, resolv.conf(5).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::block::Properties;
use crate::layout::{Net, Nic, Route};
use crate::sys::run::Cmd;

const CLASS_NET: &str = "/sys/class/net";

/// The network and what of it a rescue system does not bring up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub net: Net,
    pub notes: Vec<(String, String)>,
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
    routes.retain(|route| found.net.nic.iter().any(|nic| nic.name == route.nic));
    found.net.route = routes;
    (found.net.dns, found.net.search) = read_resolvers();
    Ok(found)
}

#[derive(Deserialize)]
struct Link {
    ifname: String,
    flags: Vec<String>,
    mtu: u32,
    #[serde(default)]
    address: String,
    permaddr: Option<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
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

/// Parses `ip -j -d addr`. `physical` names the interfaces that are hardware.
pub fn parse_links(text: &str, physical: &[String]) -> Result<Found> {
    let links: Vec<Link> = serde_json::from_str(text).context("parsing the output of ip addr")?;
    let mut found = Found::default();
    for link in links.into_iter().filter(|link| link.flags.iter().any(|flag| flag == "UP")) {
        let global = |a: &Address| a.scope.as_deref() == Some("global") && !a.temporary;
        let addresses: Vec<&Address> = link.addr_info.iter().filter(|a| global(a)).collect();
        if !physical.contains(&link.ifname) {
            let kind = link.linkinfo.as_ref().and_then(|info| info.info_kind.as_deref());
            if let Some(kind @ ("bond" | "vlan" | "bridge" | "team")) = kind
                && !addresses.is_empty()
            {
                found.notes.push((
                    format!("network interface {}", link.ifname),
                    format!(
                        "a network of kind {kind} is not brought up by the rescue system, which \
                         falls back to DHCP"
                    ),
                ));
            }
            continue;
        }
        let address = addresses.iter().filter_map(|a| Some((a.local.clone()?, a.prefixlen?)));
        found.net.nic.push(Nic {
            mac: link.permaddr.unwrap_or(link.address).to_lowercase(),
            path: None,
            driver: None,
            mtu: link.mtu,
            // IPv6 addresses have a lifetime with router advertisements as well.
            dhcp: addresses.iter().any(|a| a.dynamic && is_ipv4(a.local.as_deref())),
            address: address.map(|(local, prefix)| format!("{local}/{prefix}")).collect(),
            name: link.ifname,
        });
    }
    Ok(found)
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
            Some(Route { to: row.dst, via: row.gateway, nic: row.dev?, metric: row.metric })
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
