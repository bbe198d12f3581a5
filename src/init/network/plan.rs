//! Which interface gets what, as calls of ip(8). Pure: what is here is given.
//!
//! A recorded interface is matched by its hardware address, then by where it is plugged in. What is
//! left over on both sides is matched if there is only one way to do it: one of each; the ports of
//! one bond, which are all the same; the one that the machine booted from. Where there are several
//! ways, [`Plan::open`] names them, and whoever carries the plan out tries which one reaches the
//! target, with an [`Assume`] each.

use std::collections::BTreeMap;

use crate::layout::{Link, LinkKind, Net, Nic, Route};

/// An interface that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    pub name: String,
    pub mac: String,
    /// As udev's `ID_PATH`.
    pub path: Option<String>,
}

/// What is to be done with one interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setup {
    pub name: String,
    /// Calls of ip(8) that make it and bring it up.
    pub commands: Vec<Vec<String>>,
    pub dhcp: bool,
    pub slaac: bool,
    pub address: Vec<String>,
    /// Part of another one: has no addresses, and nobody waits for its link.
    pub is_port: bool,
    /// The node's default route led through others: the gateway that DHCP gives is for when those
    /// have none.
    pub is_last_gateway: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What rests on others comes after them.
    pub setups: Vec<Setup>,
    /// With the names that interfaces have here.
    pub routes: Vec<Route>,
    /// What is not as it was.
    pub notes: Vec<String>,
    pub open: Option<Open>,
}

impl Setup {
    /// Whether the interface is none of the machine's own.
    pub fn is_made(&self) -> bool {
        self.commands.iter().any(|words| words[..2] == ["link", "add"])
    }
}

impl Plan {
    pub fn has_bond(&self) -> bool {
        let mut commands = self.setups.iter().flat_map(|setup| &setup.commands);
        commands.any(|words| words.iter().any(|word| word == "bond"))
    }
}

impl Plan {
    /// Whether anything gets an address.
    pub fn has_address(&self) -> bool {
        self.setups.iter().any(|setup| setup.dhcp || setup.slaac || !setup.address.is_empty())
    }

    /// Whether both do the same, in whatever order.
    pub fn is_same(&self, other: &Plan) -> bool {
        let sorted = |plan: &Plan| {
            let mut setups = plan.setups.clone();
            setups.sort_by(|a, b| a.name.cmp(&b.name));
            setups
        };
        sorted(self) == sorted(other) && self.routes == other.routes
    }
}

/// Recorded interfaces that are not known among those that are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub nics: Vec<String>,
    pub candidates: Vec<String>,
}

/// What is taken for granted where it can't be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assume<'a> {
    Nothing,
    /// That a recorded and a present interface are the same.
    Pair(&'a str, &'a str),
    /// That the cables are where they were: what is plugged in at the place of a recorded interface
    /// is that one, whatever its address. So it is where cards were put back in another order.
    Places,
}

/// Which recorded interface (by name) is which present one, and how that is known.
pub type Pairs = BTreeMap<String, (String, &'static str)>;

/// What to do with the interfaces that are here. `boot_mac`: the one that the machine booted from.
pub fn plan(net: &Net, present: &[Present], boot_mac: Option<&str>, assume: Assume<'_>) -> Plan {
    let wanted = wanted(net);
    let (pairs, open) = pair(net, &wanted, present, boot_mac, assume);
    let mut plan = Plan { open, ..Plan::default() };
    for (recorded, (here, how)) in &pairs {
        if recorded != here || *how != "address" {
            plan.notes.push(format!("{recorded} is {here} here (by its {how})"));
        }
    }
    let ports: Vec<&String> =
        net.link.iter().filter(|link| takes_ports(link)).flat_map(|l| &l.over).collect();
    for nic in &wanted {
        let Some((here, _)) = pairs.get(&nic.name) else {
            plan.notes.push(format!("{} ({}) is not here", nic.name, nic.mac));
            continue;
        };
        plan.setups.push(nic_setup(nic, here, ports.contains(&&nic.name)));
    }
    // Names of what is there by then, as recorded and as they are here.
    let mut names: BTreeMap<&str, &str> =
        pairs.iter().map(|(was, (is, _))| (was.as_str(), is.as_str())).collect();
    let mut left: Vec<&Link> = net.link.iter().collect();
    loop {
        let ready = |link: &&Link| {
            let waits = |name: &String| left.iter().any(|other| other.name == *name);
            !link.over.iter().any(waits)
        };
        let Some(at) = left.iter().position(ready) else { break };
        let link = left.remove(at);
        let over: Vec<&str> =
            link.over.iter().filter_map(|name| names.get(name.as_str()).copied()).collect();
        if over.is_empty() {
            plan.notes.push(format!("{} is left out: nothing that it rests on is here", link.name));
            continue;
        }
        plan.setups.push(link_setup(link, &over, ports.contains(&&link.name)));
        names.insert(&link.name, &link.name);
    }
    plan.routes = routes(net, &names);
    let leads: Vec<String> =
        plan.routes.iter().filter(|r| r.is_default_ipv4()).map(|r| r.nic.clone()).collect();
    for setup in &mut plan.setups {
        setup.is_last_gateway = !leads.is_empty() && !leads.contains(&setup.name);
    }
    plan
}

fn takes_ports(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Bond | LinkKind::Bridge)
}

/// The interfaces that have addresses, or that something rests on.
fn wanted(net: &Net) -> Vec<&Nic> {
    let rests_on = |nic: &Nic| net.link.iter().any(|link| link.over.contains(&nic.name));
    let has_address = |nic: &Nic| nic.dhcp || nic.slaac || !nic.address.is_empty();
    net.nic.iter().filter(|nic| has_address(nic) || rests_on(nic)).collect()
}

/// Whether a recorded interface is a present one.
type Same<'a> = &'a dyn Fn(&Nic, &Present) -> bool;

fn pair(
    net: &Net,
    wanted: &[&Nic],
    present: &[Present],
    boot_mac: Option<&str>,
    assume: Assume<'_>,
) -> (Pairs, Option<Open>) {
    let mut pairs = Pairs::new();
    let mut left: Vec<&Nic> = wanted.to_vec();
    let mut free: Vec<&Present> = present.iter().collect();
    let same_mac = |nic: &Nic, here: &Present| nic.mac.eq_ignore_ascii_case(&here.mac);
    let same_path = |nic: &Nic, here: &Present| nic.path.is_some() && nic.path == here.path;
    let is_assumed = |nic: &Nic, here: &Present| assume == Assume::Pair(&nic.name, &here.name);
    let mut rules: [(&'static str, Same<'_>); 3] =
        [("address", &same_mac), ("place", &same_path), ("reaching the target", &is_assumed)];
    if assume == Assume::Places {
        rules.swap(0, 1);
    }
    for (how, same) in rules {
        left.retain(|nic| {
            let Some(at) = free.iter().position(|here| same(nic, here)) else { return true };
            pairs.insert(nic.name.clone(), (free.remove(at).name.clone(), how));
            false
        });
    }
    let of_one_bond = |link: &Link| {
        link.kind == LinkKind::Bond && left.iter().all(|nic| link.over.contains(&nic.name))
    };
    let booted: Option<&Present> = boot_mac
        .and_then(|mac| free.iter().copied().find(|here| here.mac.eq_ignore_ascii_case(mac)));
    match (&left[..], &free[..]) {
        ([], _) | (_, []) => {}
        ([nic], [here]) => {
            pairs.insert(nic.name.clone(), (here.name.clone(), "being the only one left"));
        }
        ([nic], _) if booted.is_some() => {
            let here = booted.map(|here| here.name.clone()).unwrap_or_default();
            pairs.insert(nic.name.clone(), (here, "being what booted"));
        }
        (several, free) if several.len() == free.len() && net.link.iter().any(of_one_bond) => {
            for (nic, here) in several.iter().zip(free) {
                pairs.insert(nic.name.clone(), (here.name.clone(), "bond"));
            }
        }
        // With one known, what is left of a recorded network is of no use to reach the target.
        _ if matches!(assume, Assume::Pair(..)) => {}
        (several, free) => {
            let nics = several.iter().map(|nic| nic.name.clone()).collect();
            let candidates = free.iter().map(|here| here.name.clone()).collect();
            return (pairs, Some(Open { nics, candidates }));
        }
    }
    (pairs, None)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn nic_setup(nic: &Nic, here: &str, is_port: bool) -> Setup {
    let mut commands = mtu(here, nic.mtu);
    if !is_port {
        commands.push(words(&format!("link set dev {here} up")));
    }
    Setup {
        name: here.to_owned(),
        commands,
        dhcp: nic.dhcp,
        slaac: nic.slaac,
        address: fixed(nic.dhcp, &nic.address),
        is_port,
        is_last_gateway: false,
    }
}

/// Addresses that do not come from DHCP: by now it may have given them to somebody else.
fn fixed(dhcp: bool, address: &[String]) -> Vec<String> {
    address.iter().filter(|address| !dhcp || address.contains(':')).cloned().collect()
}

/// Without a monitor a bond does not see that a port's link is gone.
const MIIMON: (&str, &str) = ("miimon", "100");

fn link_options(link: &Link) -> String {
    let mut option = link.option.clone();
    if link.kind == LinkKind::Bond {
        let monitor = option.entry(MIIMON.0.to_owned()).or_default();
        if monitor.is_empty() || monitor == "0" {
            *monitor = MIIMON.1.to_owned();
        }
        // The kernel takes it with no other mode, and tells it with all.
        if option.get("mode").is_none_or(|mode| mode != "802.3ad") {
            option.remove("lacp_rate");
        }
    }
    option.iter().map(|(key, value)| format!(" {key} {value}")).collect()
}

fn link_setup(link: &Link, over: &[&str], is_port: bool) -> Setup {
    let name = link.name.as_str();
    let options = link_options(link);
    let mut commands = Vec::new();
    match link.kind {
        LinkKind::Vlan => commands
            .push(words(&format!("link add link {} name {name} type vlan{options}", over[0]))),
        LinkKind::Bond => commands.push(words(&format!("link add name {name} type bond{options}"))),
        LinkKind::Bridge => {
            commands.push(words(&format!("link add name {name} type bridge{options}")));
        }
    }
    for port in over.iter().filter(|_| takes_ports(link)) {
        // A bond takes no interface that is up.
        if link.kind == LinkKind::Bond {
            commands.push(words(&format!("link set dev {port} down")));
        }
        commands.push(words(&format!("link set dev {port} master {name}")));
        commands.push(words(&format!("link set dev {port} up")));
    }
    // A VLAN begins with that of what it is on.
    let is_inherited = link.kind == LinkKind::Vlan && link.mtu == USUAL_MTU;
    commands.extend(if is_inherited { vec![set_mtu(name, link.mtu)] } else { mtu(name, link.mtu) });
    if !is_port {
        commands.push(words(&format!("link set dev {name} up")));
    }
    Setup {
        name: name.to_owned(),
        commands,
        dhcp: link.dhcp,
        slaac: link.slaac,
        address: fixed(link.dhcp, &link.address),
        is_port,
        is_last_gateway: false,
    }
}

const USUAL_MTU: u32 = 1500;

fn mtu(name: &str, mtu: u32) -> Vec<Vec<String>> {
    // 576 is the least that IPv4 asks for; files made by hand may say 0.
    if mtu < 576 || mtu == USUAL_MTU {
        return Vec::new();
    }
    vec![set_mtu(name, mtu)]
}

fn set_mtu(name: &str, mtu: u32) -> Vec<String> {
    words(&format!("link set dev {name} mtu {mtu}"))
}

/// The routes that can be made, those through other routes' gateways last.
fn routes(net: &Net, names: &BTreeMap<&str, &str>) -> Vec<Route> {
    let here = |route: &Route| {
        let nic = names.get(route.nic.as_str())?;
        Some(Route { nic: (*nic).to_owned(), ..route.clone() })
    };
    let (direct, via): (Vec<Route>, Vec<Route>) =
        net.route.iter().filter_map(here).partition(|route| route.via.is_none());
    direct.into_iter().chain(via).collect()
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
            slaac: false,
            address: Vec::new(),
        }
    }

    fn here(name: &str, mac: &str, path: Option<&str>) -> Present {
        Present { name: name.into(), mac: mac.into(), path: path.map(str::to_owned) }
    }

    fn nics(nic: &[Nic]) -> Net {
        Net { nic: nic.to_vec(), ..Net::default() }
    }

    fn bond(over: &[&str]) -> Link {
        Link {
            name: "bond0".into(),
            kind: LinkKind::Bond,
            over: over.iter().map(|&name| name.to_owned()).collect(),
            option: [("mode", "802.3ad"), ("miimon", "100")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            mtu: 9000,
            dhcp: false,
            slaac: false,
            address: Vec::new(),
        }
    }

    fn commands(plan: &Plan) -> Vec<String> {
        plan.setups.iter().flat_map(|setup| &setup.commands).map(|words| words.join(" ")).collect()
    }

    #[test]
    fn interfaces_are_known_by_address_then_by_place_then_by_being_left_over() {
        let recorded = [nic("a", "AA:00", None), nic("b", "bb:00", Some("pci-2"))];
        let present = [here("x", "cc:00", Some("pci-2")), here("y", "aa:00", Some("pci-1"))];
        let made = plan(&nics(&recorded), &present, None, Assume::Nothing);
        assert_eq!(made.notes, ["a is y here (by its address)", "b is x here (by its place)"]);
        let other = [here("z", "dd:00", None)];
        let made = plan(&nics(&recorded[..1]), &other, None, Assume::Nothing);
        assert_eq!(made.notes, ["a is z here (by its being the only one left)"]);
    }

    #[test]
    fn swapped_addresses_win_over_places_unless_these_are_assumed() {
        let recorded = [nic("a", "aa:00", Some("1")), nic("b", "bb:00", Some("2"))];
        let present = [here("a", "bb:00", Some("1")), here("b", "aa:00", Some("2"))];
        let made = plan(&nics(&recorded), &present, None, Assume::Nothing);
        assert_eq!(made.notes, ["a is b here (by its address)", "b is a here (by its address)"]);
        let made = plan(&nics(&recorded), &present, None, Assume::Places);
        assert_eq!(made.notes, ["a is a here (by its place)", "b is b here (by its place)"]);
    }

    #[test]
    fn what_is_ambiguous_is_tried_and_not_guessed() {
        let recorded = nics(&[nic("a", "aa:00", None)]);
        let present = [here("x", "cc:00", None), here("y", "dd:00", None)];
        let made = plan(&recorded, &present, None, Assume::Nothing);
        assert!(made.setups.is_empty(), "{made:?}");
        let open = |nics: &[&str], made: &Plan| {
            let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(made.open, Some(Open { nics: names(nics), candidates: names(&["x", "y"]) }));
        };
        open(&["a"], &made);
        let made = plan(&recorded, &present, None, Assume::Pair("a", "y"));
        assert_eq!(commands(&made), ["link set dev y up"]);
        let made = plan(&recorded, &present, Some("DD:00"), Assume::Nothing);
        assert_eq!(commands(&made), ["link set dev y up"], "what booted");
        // Two lost and two others: each may be each.
        let two = nics(&[nic("a", "aa:00", None), nic("b", "bb:00", None)]);
        let made = plan(&two, &present, None, Assume::Nothing);
        assert!(made.setups.is_empty(), "{made:?}");
        open(&["a", "b"], &made);
        let made = plan(&two, &present, None, Assume::Pair("b", "x"));
        // The other pair follows.
        assert_eq!(commands(&made), ["link set dev y up", "link set dev x up"]);
        assert_eq!(made.open, None);
    }

    #[test]
    fn a_vlan_on_a_bond_in_a_bridge_is_made_from_below() {
        let mut port = nic("eth0", "aa:00", None);
        port.dhcp = false;
        let other = Nic { name: "eth1".into(), mac: "bb:00".into(), ..port.clone() };
        let vlan = Link {
            name: "bond0.5".into(),
            kind: LinkKind::Vlan,
            over: vec!["bond0".into()],
            option: [("id".to_owned(), "5".to_owned())].into(),
            mtu: 1500,
            ..bond(&[])
        };
        let bridge = Link {
            name: "br0".into(),
            kind: LinkKind::Bridge,
            over: vec!["bond0.5".into()],
            option: BTreeMap::new(),
            mtu: 1500,
            address: vec!["10.0.0.2/24".into()],
            ..bond(&[])
        };
        let net = Net {
            nic: vec![port, other],
            link: vec![bridge, vlan, bond(&["eth0", "eth1"])],
            route: vec![Route {
                to: "default".into(),
                via: Some("10.0.0.1".into()),
                nic: "br0".into(),
                metric: None,
            }],
            ..Net::default()
        };
        // One card was replaced; it is the only one that is left over.
        let present = [here("eth0", "aa:00", None), here("enp5s0", "cc:00", None)];
        let made = plan(&net, &present, None, Assume::Nothing);
        assert_eq!(
            commands(&made),
            [
                "link add name bond0 type bond miimon 100 mode 802.3ad",
                "link set dev eth0 down",
                "link set dev eth0 master bond0",
                "link set dev eth0 up",
                "link set dev enp5s0 down",
                "link set dev enp5s0 master bond0",
                "link set dev enp5s0 up",
                "link set dev bond0 mtu 9000",
                "link set dev bond0 up",
                "link add link bond0 name bond0.5 type vlan id 5",
                "link set dev bond0.5 mtu 1500",
                "link add name br0 type bridge",
                "link set dev bond0.5 master br0",
                "link set dev bond0.5 up",
                "link set dev br0 up",
            ]
        );
        assert_eq!(made.routes, net.route);
        let ports: Vec<_> =
            made.setups.iter().filter(|setup| setup.is_port).map(|s| &s.name).collect();
        assert_eq!(ports, ["eth0", "enp5s0", "bond0.5"]);
        // A bond lives with one of its ports; without any it is left out, and what rests on it.
        let made = plan(&net, &present[..1], None, Assume::Nothing);
        assert!(made.notes[0].contains("eth1"), "{:?}", made.notes);
        assert!(made.setups.iter().any(|setup| setup.name == "br0"));
        assert!(plan(&net, &[], None, Assume::Nothing).setups.is_empty());
    }

    #[test]
    fn cards_of_one_bond_that_were_all_replaced_are_taken_in_any_order() {
        let mut port = nic("eth0", "aa:00", None);
        port.dhcp = false;
        let other = Nic { name: "eth1".into(), mac: "bb:00".into(), ..port.clone() };
        let net =
            Net { nic: vec![port, other], link: vec![bond(&["eth0", "eth1"])], ..Net::default() };
        let present = [here("x", "cc:00", None), here("y", "dd:00", None)];
        let made = plan(&net, &present, None, Assume::Nothing);
        assert!(commands(&made).contains(&"link set dev y master bond0".to_owned()), "{made:?}");
    }

    #[test]
    fn a_bond_gets_a_monitor_and_no_lacp_rate_without_lacp() {
        let mut link = bond(&["eth0"]);
        link.option = [("mode", "active-backup"), ("lacp_rate", "slow"), ("miimon", "0")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(link_options(&link), " miimon 100 mode active-backup");
    }

    #[test]
    fn what_dhcp_gave_is_asked_for_again() {
        let mut nic = nic("a", "aa:00", None);
        nic.address = vec!["10.0.0.7/24".into(), "fd00::7/64".into()];
        let made = plan(&nics(&[nic]), &[here("a", "aa:00", None)], None, Assume::Nothing);
        assert_eq!(made.setups[0].address, ["fd00::7/64"]);
    }

    #[test]
    fn a_gateway_by_dhcp_is_the_last_where_the_default_route_led_elsewhere() {
        let mut net = nics(&[nic("a", "aa:00", None), nic("b", "bb:00", None)]);
        let present = [here("x", "aa:00", None), here("y", "bb:00", None)];
        let last = |net: &Net, present: &[Present]| {
            let made = plan(net, present, None, Assume::Nothing);
            let last = made.setups.iter().filter(|setup| setup.is_last_gateway);
            last.map(|setup| setup.name.clone()).collect::<Vec<_>>()
        };
        assert!(last(&net, &present).is_empty());
        let default = Route {
            to: "default".into(),
            via: Some("192.0.2.1".into()),
            nic: "b".into(),
            metric: Some(100),
        };
        net.route = vec![Route { via: Some("fe80::1".into()), nic: "a".into(), ..default.clone() }];
        assert!(last(&net, &present).is_empty(), "IPv6 leads its own way");
        net.route.push(default);
        assert_eq!(last(&net, &present), ["x"]);
        // What led the way is not here.
        assert!(last(&net, &present[..1]).is_empty());
    }

    #[test]
    fn gateways_come_after_what_leads_to_them() {
        let route = |to: &str, via: Option<&str>| Route {
            to: to.into(),
            via: via.map(str::to_owned),
            nic: "a".into(),
            metric: None,
        };
        let mut net = nics(&[nic("a", "aa:00", None)]);
        net.route = vec![route("default", Some("192.0.2.1")), route("192.0.2.1", None)];
        let made = plan(&net, &[here("x", "aa:00", None)], None, Assume::Nothing);
        let said: Vec<_> = made.routes.iter().map(|r| (r.to.as_str(), r.nic.as_str())).collect();
        assert_eq!(said, [("192.0.2.1", "x"), ("default", "x")]);
    }
}
