//! The rescue system's network, as a node had it: interfaces in pairs, whose other ends are in a
//! network namespace that plays the switch and the server.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rr::init::network::plan::Present;
use rr::init::network::{self, Hints};
use rr::layout::Net;
use rr::probe::net;
use rr::sys::run::Cmd;

use crate::agent::script;

pub const NAME: &str = "network_bonds_vlans_bridges";

const CARDS: &str = "\
    touch /run/resolv.conf; mount --bind /run/resolv.conf /etc/resolv.conf; \
    ip link set lo up; ip netns add peer; ip -n peer link set lo up; \
    for n in 0 1; do ip link add eth$n type veth peer name p$n netns peer; done";

/// The other side of a bond with LACP, and a server in VLAN 5.
const SWITCH: &str = "\
    modprobe bonding max_bonds=0; \
    ip -n peer link add trunk type bond mode 802.3ad miimon 100 lacp_rate fast; \
    for n in 0 1; do ip -n peer link set p$n down; ip -n peer link set p$n master trunk; done; \
    ip -n peer link set trunk mtu 9000 up; ip -n peer link add link trunk name trunk.5 type vlan id 5; \
    ip -n peer link set trunk.5 up; ip -n peer address add 10.9.5.1/24 dev trunk.5; \
    ip -n peer address add fd00:5::1/64 dev trunk.5 nodad; \
    ip -n peer address add 198.51.100.1/32 dev lo";

const NODE: &str = "\
    ip link add bond0 type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4; \
    for n in 0 1; do ip link set eth$n down; ip link set eth$n master bond0; done; \
    ip link set bond0 mtu 9000 up; ip link add link bond0 name bond0.5 type vlan id 5; \
    ip link add br0 type bridge; ip link set bond0.5 master br0 up; ip link set br0 up; \
    ip address add 10.9.5.2/24 dev br0; ip address add fd00:5::2/64 dev br0 nodad; \
    ip route add default via 10.9.5.1 metric 7; ip route add 198.51.100.0/24 via 10.9.5.1";

const TEAR_DOWN: &str = "\
    for name in br0 bond0.5 bond0; do ip link delete $name 2>/dev/null || true; done; \
    for n in 0 1; do ip address flush dev eth$n; ip link set eth$n down mtu 1500; done";

/// What ip(8) says, without what differs from one time to the next: in which aggregator LACP has put
/// a port so far, and whether a bridge has seen one come up yet.
const SAY: &str = "\
    for name in eth0 eth1 bond0 bond0.5 br0; do ip -d -o link show $name | \
    grep -oE '^[0-9]+: [^:]+|mtu [0-9]+|master [^ ]+|\\b(xmit_hash_policy|lacp_rate|ad_lacp_rate|mode|miimon|protocol|id|stp_state) [^ ]+' | \
    sed 's/^[0-9]*: //'; done; \
    (ip -brief -4 address; ip -6 -brief address show scope global) | sed -E 's/ +(UP|DOWN|UNKNOWN) +/ /'; \
    ip route; ip -6 route | grep -v fe80";

pub fn run(dir: &Path) -> Result<()> {
    script(CARDS)?;
    let cards = present()?;
    bonds_vlans_and_bridges(dir, &cards)?;
    one_of_two_cards_reaches_the_target()?;
    cards_in_another_order_reach_the_target()?;
    a_gateway_off_the_subnet_leads_on(&cards)?;
    a_slow_switch_is_waited_for(&cards)?;
    the_recorded_gateway_wins_and_that_of_dhcp_is_left(&cards)?;
    a_late_link_is_used(&cards)
}

fn bonds_vlans_and_bridges(dir: &Path, cards: &[Present]) -> Result<()> {
    script(SWITCH)?;
    script(NODE)?;
    let json = Cmd::new("ip").args(["-j", "-d", "addr"]).text()?;
    fs::write(dir.join("before.txt"), &json)?;
    let mut recorded = net::parse_links(&json, &["eth0".into(), "eth1".into()])?.net;
    recorded.route = net::parse_routes(&Cmd::new("ip").args(["-j", "route"]).text()?)?;
    recorded.dns = vec!["10.9.5.1".into()];
    let before = said()?;
    ensure!(before.contains("802.3ad") && before.contains("10.9.5.2"), "{before}");

    script(TEAR_DOWN)?;
    bring_up(&recorded, cards)?;
    let after = said()?;
    ensure!(before == after, "the network was\n{before}\nand is\n{after}");
    ensure!(network::reach::answers("http://198.51.100.1:9/"), "the server can't be reached");
    ensure!(
        network::reach::answers("http://[fd00:5::1]:9/"),
        "by IPv6 the server can't be reached"
    );
    ensure!(fs::read_to_string("/etc/resolv.conf")?.contains("nameserver 10.9.5.1"), "no resolver");

    // Both cards were replaced.
    script(TEAR_DOWN)?;
    let mut other = recorded.clone();
    other.nic.iter_mut().for_each(|nic| nic.mac = nic.mac.replace(':', "0"));
    bring_up(&other, cards)?;
    ensure!(network::reach::answers("http://198.51.100.1:9/"), "with other cards: no server");
    script(TEAR_DOWN)
}

/// The node had one card; the machine has two others, one of which leads to the server.
fn one_of_two_cards_reaches_the_target() -> Result<()> {
    script(
        "ip -n peer link delete trunk; for n in 0 1; do ip -n peer link set p$n up; done; \
         ip -n peer address add 10.9.7.1/24 dev p1; \
         ip netns exec peer sh -c 'echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore'",
    )?;
    let recorded: Net = toml::from_str(
        "[[nic]]\nname = \"eno1\"\nmac = \"02:00:00:00:00:99\"\nmtu = 1400\n\
         address = [\"10.9.7.2/24\"]\n",
    )?;
    bring_up(&recorded, &present()?)?;
    only_the_second_has_it("one card that was replaced")
}

/// Two cards with the addresses of networks of their own: exchanged, and both replaced.
fn cards_in_another_order_reach_the_target() -> Result<()> {
    let mut cards = present()?;
    cards[0].path = Some("pci-0000:01:00.0".to_owned());
    cards[1].path = Some("pci-0000:02:00.0".to_owned());
    let nic = |card: &Present, mac: &str, address: &str| {
        format!(
            "[[nic]]\nname = \"{}\"\nmac = \"{mac}\"\npath = \"{}\"\nmtu = 1500\n\
             address = [\"{address}\"]\n",
            card.name,
            card.path.as_deref().unwrap_or_default()
        )
    };
    let node = |macs: [&str; 2]| -> Result<Net> {
        let second = nic(&cards[1], macs[1], "10.9.7.2/24");
        Ok(toml::from_str(&(nic(&cards[0], macs[0], "192.0.2.2/24") + &second))?)
    };
    script(TEAR_DOWN)?;
    bring_up(&node([&cards[1].mac, &cards[0].mac])?, &cards)?;
    only_the_second_has_it("exchanged cards")?;

    script(TEAR_DOWN)?;
    let others = node(["02:00:00:00:00:98", "02:00:00:00:00:99"])?;
    bring_up(&others, &present()?)?;
    only_the_second_has_it("two cards that were replaced")
}

/// The card that leads to the server has the address, and the other has not.
fn only_the_second_has_it(what: &str) -> Result<()> {
    ensure!(network::reach::answers("http://10.9.7.1:9/"), "{what}: no server");
    let of =
        |card: &str| Cmd::new("ip").args(["-brief", "-4", "address", "show", "dev", card]).text();
    let (first, second) = (of("eth0")?, of("eth1")?);
    let right = !first.contains("10.9.7.2") && second.contains("10.9.7.2");
    ensure!(right, "{what}: the addresses are\n{first}{second}");
    Ok(())
}

/// A server behind a gateway; nobody else has this address.
const FAR: &str = "http://198.51.100.1:9/";

/// The only address has no network, as many providers give them. Nor does the card take the MTU that
/// the old one had.
fn a_gateway_off_the_subnet_leads_on(cards: &[Present]) -> Result<()> {
    script(TEAR_DOWN)?;
    script("ip -n peer route add 203.0.113.7/32 dev p1")?;
    let recorded: Net = toml::from_str(&format!(
        "[[nic]]\nname = \"eth1\"\nmac = \"{}\"\nmtu = 200000\naddress = [\"203.0.113.7/32\"]\n\
         [[route]]\nto = \"default\"\nvia = \"10.9.7.1\"\nnic = \"eth1\"\n",
        cards[1].mac
    ))?;
    bring_up_to(FAR, &recorded, cards)?;
    ensure!(
        network::reach::answers(FAR),
        "no server through a gateway off the subnet:\n{}",
        said()?
    );
    Ok(())
}

/// Nothing is sent on at first, on a port that has just come up.
fn a_slow_switch_is_waited_for(cards: &[Present]) -> Result<()> {
    script(TEAR_DOWN)?;
    let recorded: Net = toml::from_str(&format!(
        "[[nic]]\nname = \"eth1\"\nmac = \"{}\"\nmtu = 1500\naddress = [\"10.9.7.2/24\"]\n",
        cards[1].mac
    ))?;
    let asked = AtomicUsize::new(0);
    let reaches_target = || asked.fetch_add(1, Ordering::Relaxed) == 2;
    let patience = Duration::from_secs(30);
    let hints = Hints { boot_mac: None, reaches_target: Some(&reaches_target), patience };
    network::on(&recorded, cards, hints, &|text| eprintln!("{text}"))?;
    ensure!(asked.into_inner() == 3, "the target is not waited for");
    Ok(())
}

/// DHCP on both cards, whose servers give gateways that lead nowhere; the second gives a single
/// address, too.
const SERVERS: &str = "\
    ip -n peer address add 10.9.6.1/24 dev p0; \
    ip netns exec peer dnsmasq --conf-file=/dev/null --port=0 --no-ping --user=root \
    --pid-file=/run/dnsmasq.pid --dhcp-leasefile=/run/dnsmasq.leases --dhcp-authoritative \
    --dhcp-range=set:first,10.9.6.50,10.9.6.90,1h --dhcp-range=set:second,10.9.7.50,10.9.7.90,1h \
    --dhcp-option=tag:first,3,10.9.6.GATEWAY --dhcp-option=tag:second,3,10.9.7.254 \
    --dhcp-option-force=tag:second,1,255.255.255.255 --dhcp-option=tag:second,6,10.9.7.9";

fn the_recorded_gateway_wins_and_that_of_dhcp_is_left(cards: &[Present]) -> Result<()> {
    let nic = |at: usize| {
        let card = &cards[at];
        let (name, mac) = (&card.name, &card.mac);
        format!("[[nic]]\nname = \"{name}\"\nmac = \"{mac}\"\nmtu = 1500\ndhcp = true\n")
    };
    let with = |gateway: &str| -> Result<Net> {
        let route = format!(
            "[[route]]\nto = \"default\"\nvia = \"{gateway}\"\nnic = \"eth0\"\nmetric = 100\n"
        );
        Ok(toml::from_str(&(nic(0) + &nic(1) + &route))?)
    };
    let routes = || Cmd::new("ip").args(["route"]).text();
    script(TEAR_DOWN)?;
    script(&SERVERS.replace("GATEWAY", "254"))?;
    bring_up_to(FAR, &with("10.9.6.1")?, cards)?;
    ensure!(network::reach::answers(FAR), "not by the recorded gateway:\n{}", routes()?);
    let last = routes()?;
    let last = last.lines().find(|line| line.contains("10.9.7.254")).unwrap_or_default();
    ensure!(last.contains("onlink"), "the gateway of a single address:\n{}", routes()?);
    ensure!(
        fs::read_to_string("/etc/resolv.conf")?.contains("nameserver 10.9.7.9"),
        "no resolver by DHCP"
    );

    // The gateway was replaced since.
    script(TEAR_DOWN)?;
    script("kill $(cat /run/dnsmasq.pid)")?;
    script(&SERVERS.replace("GATEWAY", "1").replace("ip -n peer address add", "true"))?;
    bring_up_to(FAR, &with("10.9.6.77")?, cards)?;
    ensure!(network::reach::answers(FAR), "not by the gateway of DHCP:\n{}", routes()?);
    Ok(())
}

/// The other end comes up when nobody waits for it any more.
fn a_late_link_is_used(cards: &[Present]) -> Result<()> {
    script(TEAR_DOWN)?;
    script("ip -n peer link set p1 down")?;
    let recorded: Net = toml::from_str(&format!(
        "[[nic]]\nname = \"eth1\"\nmac = \"{}\"\nmtu = 1500\ndhcp = true\n\
         [[route]]\nto = \"10.9.7.0/24\"\nnic = \"eth1\"\n",
        cards[1].mac
    ))?;
    let started = Instant::now();
    let reaches_target = || {
        if started.elapsed() > network::LINK_TIMEOUT {
            script("ip -n peer link set p1 up").unwrap();
        }
        network::reach::answers("http://10.9.7.1:9/")
    };
    let patience = network::LINK_TIMEOUT + Duration::from_secs(30);
    let hints = Hints { boot_mac: None, reaches_target: Some(&reaches_target), patience };
    network::on(&recorded, cards, hints, &|text| eprintln!("{text}"))?;
    ensure!(network::reach::answers("http://10.9.7.1:9/"), "a late link is not used:\n{}", said()?);
    Ok(())
}

fn bring_up(recorded: &Net, cards: &[Present]) -> Result<()> {
    bring_up_to("http://10.9.7.1:9/", recorded, cards)
}

fn bring_up_to(target: &str, recorded: &Net, cards: &[Present]) -> Result<()> {
    let reaches_target = || network::reach::answers(target);
    let patience = Duration::from_secs(1);
    let hints = Hints { boot_mac: None, reaches_target: Some(&reaches_target), patience };
    network::on(recorded, cards, hints, &|text| eprintln!("{text}"))
}

fn said() -> Result<String> {
    Cmd::new("sh").args(["-c", SAY]).text()
}

fn present() -> Result<Vec<Present>> {
    ["eth0", "eth1"]
        .into_iter()
        .map(|name| {
            let mac = fs::read_to_string(format!("/sys/class/net/{name}/address"))?;
            Ok(Present { name: name.into(), mac: mac.trim().into(), path: None })
        })
        .collect()
}
