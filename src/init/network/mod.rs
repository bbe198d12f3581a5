//! The rescue system's network: as the node had it, on the interfaces that are here now.
//!
//! * [`plan`](mod@plan) which interface is which, and the calls of ip(8) that set it up
//! * [`links`] waiting for links, [`late`] those that come later still
//! * [`reach`] whether the target answers
//!
//! Where nothing fits, or nothing was recorded, every interface with a link asks a DHCP server.

mod late;
mod links;
pub mod plan;
pub mod reach;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cmdline::Given;
use super::dhcp;
use crate::layout::{Net, Route};
use crate::sys::run::Cmd;
use crate::sys::sync::lock;
use links::{wait_for_link, with_links};
use plan::{Assume, Open, Plan, Present, Setup};

/// Where it is told what happens: the console, or only the log.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// How long a switch may take to forward on a port that came up (spanning tree takes 30 s).
pub const LINK_TIMEOUT: Duration = Duration::from_secs(45);
const DHCP_TIMEOUT: Duration = Duration::from_secs(45);
/// Routers answer at once when they are asked...
const ROUTER_TIMEOUT: Duration = Duration::from_secs(10);
/// ... once the switch lets the question through.
const SLAAC_TIMEOUT: Duration = Duration::from_secs(45);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const CLASS_NET: &str = "/sys/class/net";

/// Metrics of the default routes that DHCP gives, besides the interface's index: recorded routes win,
/// then those of interfaces that led the node's own default route.
const DHCP_METRIC: u32 = 4096;
const LAST_METRIC: u32 = 8192;

/// Held by whoever changes [`RESOLV_CONF`]: interfaces are set up side by side.
static RESOLVERS: Mutex<()> = Mutex::new(());

/// A lease that could not be renewed is tried again this often.
const RENEW_RETRY: Duration = Duration::from_secs(60);

/// Minimum number of attempts, even after the patience has run out: an address of IPv6 is not in use
/// at once.
const ASKED: usize = 2;

/// What else is known when the network is brought up.
#[derive(Clone, Copy)]
pub struct Hints<'a> {
    /// The hardware address of the interface that the machine booted from.
    pub boot_mac: Option<&'a str>,
    /// Whether the target answers. None where it is on a disk.
    pub reaches_target: Option<&'a (dyn Fn() -> bool + Sync)>,
    /// How long the target is waited for where another way can be tried; usually [`LINK_TIMEOUT`].
    pub patience: Duration,
}

impl std::fmt::Debug for Hints<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hints").field("boot_mac", &self.boot_mac).finish_non_exhaustive()
    }
}

impl Hints<'_> {
    /// Waits for the target, over links that are there since `linked`. Gives true where there is none
    /// to wait for.
    fn reach_target(&self, linked: Instant) -> bool {
        let Some(reaches) = self.reaches_target else { return true };
        for asked in 1.. {
            if reaches() {
                return true;
            }
            if asked >= ASKED && linked.elapsed() > self.patience {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        false
    }
}

/// Brings the network up as `net` says it was.
///
/// # Errors
/// No interface has an address in the end.
pub fn node(net: &Net, hints: Hints<'_>, say: Say<'_>) -> Result<()> {
    on(net, &present()?, hints, say)
}

/// As [`node`], on these interfaces.
pub fn on(net: &Net, present: &[Present], hints: Hints<'_>, say: Say<'_>) -> Result<()> {
    let made = plan::plan(net, present, hints.boot_mac, Assume::Nothing);
    // Without a target on the network there is nothing to try them by.
    if let Some(open) = made.open.as_ref().filter(|_| hints.reaches_target.is_some()) {
        // Those that are known may be enough.
        if made.has_address() {
            let linked = Instant::now();
            let problems = carry_out(&made, net, say)?;
            if reaches(&made, hints, linked, say) {
                return finish(&problems, say);
            }
            undo(&made);
        }
        if let Some(problems) = on_one_of(net, present, open, hints, say)? {
            return finish(&problems, say);
        }
    }
    if made.setups.is_empty() {
        for note in &made.notes {
            say(note);
        }
        say("no interface has an address that was recorded: asking for addresses by DHCP");
        return dhcp_everywhere(hints, say);
    }
    let linked = Instant::now();
    let mut problems = carry_out(&made, net, say)?;
    let by_places = plan::plan(net, present, hints.boot_mac, Assume::Places);
    if !reaches(&made, hints, linked, say) && !by_places.is_same(&made) {
        say("the target does not answer: taking interfaces by their places, not their addresses");
        undo(&made);
        problems = carry_out(&by_places, net, say)?;
        if !reaches(&by_places, hints, linked, say) {
            say("the target does not answer that way either");
            undo(&by_places);
            problems = carry_out(&made, net, say)?;
        }
    }
    finish(&problems, say)
}

/// Waits for the target: a switch may send nothing on at first, and whoever asks next does not wait.
/// Where it does not answer by what was recorded, the gateways that DHCP gave are taken.
fn reaches(plan: &Plan, hints: Hints<'_>, linked: Instant, say: Say<'_>) -> bool {
    if hints.reach_target(linked) {
        return true;
    }
    let taken = take_gateways_of_dhcp(plan, say);
    if !taken.is_empty() && hints.reach_target(linked) {
        return true;
    }
    for route in taken {
        if let Err(error) = add_route(route, false) {
            log::info!("{error:#}");
        }
    }
    false
}

/// Takes the recorded default routes away where DHCP gave one for the same interface, and gives them.
fn take_gateways_of_dhcp<'p>(plan: &'p Plan, say: Say<'_>) -> Vec<&'p Route> {
    let mut taken = Vec::new();
    for route in plan.routes.iter().filter(|route| route.is_default_ipv4()) {
        let by_dhcp = has_gateway_of_dhcp(&route.nic).unwrap_or_else(|error| {
            log::info!("{error:#}");
            false
        });
        if by_dhcp && change_route("delete", route, false).is_ok() {
            say(&format!(
                "the target does not answer: {} takes the gateway that DHCP gave",
                route.nic
            ));
            taken.push(route);
        }
    }
    taken
}

fn has_gateway_of_dhcp(name: &str) -> Result<bool> {
    let routes = Cmd::new("ip").args(["-4", "route", "show", "default", "dev", name]).text()?;
    let metric = dhcp_metric(name, false)?.to_string();
    Ok(routes.split_whitespace().any(|word| word == metric))
}

/// Tries which of several interfaces is a recorded one: the one that reaches the target. Gives what
/// did not work with it, or None where none does.
fn on_one_of(
    net: &Net,
    present: &[Present],
    open: &Open,
    hints: Hints<'_>,
    say: Say<'_>,
) -> Result<Option<Vec<String>>> {
    let (nics, names) = (open.nics.join(" or "), open.candidates.join(" or "));
    say(&format!("{nics} may be {names}: trying which one reaches the target"));
    let linked = with_links(&open.candidates);
    let since = Instant::now();
    let mut tried: Vec<Plan> = Vec::new();
    for nic in &open.nics {
        for candidate in &linked {
            let made = plan::plan(net, present, hints.boot_mac, Assume::Pair(nic, candidate));
            if tried.iter().any(|before| before.is_same(&made)) {
                continue;
            }
            let problems = carry_out(&made, net, say)?;
            if reaches(&made, hints, since, say) {
                return Ok(Some(problems));
            }
            say(&format!("the target does not answer through {candidate} as {nic}"));
            undo(&made);
            tried.push(made);
        }
    }
    say(&format!("none of {names} reaches the target with what {nics} had"));
    Ok(None)
}

/// Sets everything up. Gives what did not work.
fn carry_out(plan: &Plan, net: &Net, say: Say<'_>) -> Result<Vec<String>> {
    for note in &plan.notes {
        say(note);
    }
    if plan.has_bond() {
        // Otherwise the kernel makes a first bond by itself, without our options. Where it is built
        // in, this fails and nothing is to be done.
        let _ = Cmd::new("modprobe").args(["bonding", "max_bonds=0"]).run();
    }
    let mut problems = Vec::new();
    for setup in &plan.setups {
        if let Err(error) = set_up(setup, say) {
            problems.push(format!("{error:#}"));
        }
    }
    resolver(&net.dns, &net.search)?;
    for route in &plan.routes {
        // Where DHCP gave the address, a gateway outside of its network is that of another place.
        let by_dhcp = plan.setups.iter().any(|setup| setup.dhcp && setup.name == route.nic);
        if let Err(error) = add_route(route, !by_dhcp) {
            problems.push(format!("{error:#}"));
        }
    }
    Ok(problems)
}

/// Takes away what a plan gave to interfaces. What was never made can't be taken away.
fn undo(plan: &Plan) {
    late::forget();
    let ip = |words: &[&str]| {
        if let Err(error) = Cmd::new("ip").args(words).run() {
            log::info!("{error:#}");
        }
    };
    for setup in plan.setups.iter().rev() {
        let name = setup.name.as_str();
        if setup.is_made() {
            ip(&["link", "delete", "dev", name]);
            continue;
        }
        ip(&["-4", "address", "flush", "dev", name]);
        // Its link-local address does not come again before the link does.
        ip(&["-6", "address", "flush", "dev", name, "scope", "global"]);
        ip(&["link", "set", "dev", name, "mtu", "1500"]);
    }
    // Name servers of a network that is not ours are asked first, and do not answer.
    let _alone = lock(&RESOLVERS);
    if let Err(error) = std::fs::write(RESOLV_CONF, "") {
        log::info!("emptying {RESOLV_CONF}: {error}");
    }
}

/// DHCP on every interface, all at once; the link decides which answer.
pub fn dhcp_everywhere(hints: Hints<'_>, say: Say<'_>) -> Result<()> {
    let linked = Instant::now();
    let present = present()?;
    let setups = present.iter().map(|nic| Setup {
        name: nic.name.clone(),
        commands: vec![link_up(&nic.name)],
        dhcp: true,
        ..Setup::default()
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
    hints.reach_target(linked);
    finish(&problems, say)
}

/// One interface as the kernel command line gives it.
pub fn given(given: &Given, hints: Hints<'_>, say: Say<'_>) -> Result<()> {
    let linked = Instant::now();
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
        commands: vec![link_up(&nic.name)],
        address: vec![given.address.clone()],
        ..Setup::default()
    };
    set_up(&setup, say)?;
    if let Some(gateway) = &given.gateway {
        add_route(&default_route(gateway, &nic.name, None), true)?;
    }
    resolver(&given.dns, &[])?;
    hints.reach_target(linked);
    finish(&[], say)
}

fn link_up(name: &str) -> Vec<String> {
    ["link", "set", "dev", name, "up"].map(str::to_owned).to_vec()
}

fn default_route(gateway: &str, nic: &str, metric: Option<u32>) -> Route {
    let to = "default".to_owned();
    Route { to, via: Some(gateway.to_owned()), nic: nic.to_owned(), metric }
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
    let dir = Path::new(CLASS_NET);
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

fn set_up(setup: &Setup, say: Say<'_>) -> Result<()> {
    let name = setup.name.as_str();
    for words in &setup.commands {
        match Cmd::new("ip").args(words).run() {
            // Another card may not take what the node's own took: it works with what it has.
            Err(error) if words.iter().any(|word| word == "mtu") => {
                say(&format!("warning: {error:#}"));
            }
            result => result?,
        }
    }
    if setup.is_port {
        return Ok(());
    }
    for address in &setup.address {
        let mut command = Cmd::new("ip").args(["address", "replace", address, "dev", name]);
        if address.contains(':') {
            // Nobody waits here for duplicates to be found.
            command = command.arg("nodad");
        }
        command.run()?;
        say(&format!("{name} has {address}"));
    }
    if !setup.dhcp && !setup.slaac && setup.address.is_empty() {
        return Ok(());
    }
    wait_for_link(name).inspect_err(|_| late::wait(setup.clone()))?;
    obtain(setup, &|| true, say)
}

/// Asks DHCP servers and routers for addresses, over a link that is there. What a server gives is taken
/// if it is still wanted then.
fn obtain(setup: &Setup, is_wanted: &dyn Fn() -> bool, say: Say<'_>) -> Result<()> {
    let name = setup.name.as_str();
    // A network without routers of IPv6 may have a DHCP server all the same.
    let leased = match setup.dhcp {
        true => lease(name, setup.is_last_gateway, is_wanted, say),
        false => Ok(()),
    };
    // Who got a lease is past a switch that is still silent.
    let patience = if setup.dhcp && leased.is_ok() { ROUTER_TIMEOUT } else { SLAAC_TIMEOUT };
    let routed = if setup.slaac { wait_for_router(name, patience, say) } else { Ok(()) };
    leased.and(routed)
}

/// Asks for an address by DHCP, and keeps it.
fn lease(name: &str, is_last: bool, is_wanted: &dyn Fn() -> bool, say: Say<'_>) -> Result<()> {
    let text = std::fs::read_to_string(Path::new(CLASS_NET).join(name).join("address"))
        .unwrap_or_default();
    let mac = parse_mac(text.trim())
        .with_context(|| format!("{name} has no hardware address: {text:?}"))?;
    let metric = dhcp_metric(name, is_last)?;
    let lease = dhcp::acquire(name, mac, DHCP_TIMEOUT)?;
    ensure!(is_wanted(), "{name} is not used as it was meant to be any more");
    apply(name, &lease, metric, say)?;
    say(&format!("{name} has {} from the DHCP server {}", lease.address, lease.server));
    keep_lease(name.to_owned(), mac, lease, metric);
    Ok(())
}

/// The metric of a default route by DHCP: each interface has its own, so that none takes the place of
/// another.
fn dhcp_metric(name: &str, is_last: bool) -> Result<u32> {
    let path = Path::new(CLASS_NET).join(name).join("ifindex");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let index: u32 = text.trim().parse().with_context(|| format!("parsing {}", path.display()))?;
    Ok(index + if is_last { LAST_METRIC } else { DHCP_METRIC })
}

/// Waits until the kernel has an address from a router's advertisement.
fn wait_for_router(name: &str, patience: Duration, say: Say<'_>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < patience {
        let text = Cmd::new("ip")
            .args(["-6", "-brief", "address", "show", "dev", name, "scope", "global", "dynamic"])
            .args(["-tentative"])
            .text()?;
        if let Some(address) = text.split_whitespace().nth(2) {
            say(&format!("{name} has {address} from a router"));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("no IPv6 router answered on {name} within {} s", patience.as_secs())
}

fn apply(name: &str, lease: &dhcp::Lease, metric: u32, say: Say<'_>) -> Result<()> {
    Cmd::new("ip").args(["address", "replace", &lease.address, "dev", name]).run()?;
    if let Some(gateway) = lease.gateway
        && let Err(error) =
            add_route(&default_route(&gateway.to_string(), name, Some(metric)), true)
    {
        // What is on the same network is reached without.
        say(&format!("warning: {error:#}"));
    }
    let dns: Vec<String> = lease.dns.iter().map(ToString::to_string).collect();
    resolver(&dns, &[])
}

/// Asks again before the lease ends: a recovery may take longer than a lease lasts.
fn keep_lease(name: String, mac: [u8; 6], first: dhcp::Lease, metric: u32) {
    std::thread::spawn(move || {
        let mut lease = first;
        let mut pause = lease.lasts / 2;
        loop {
            std::thread::sleep(pause.max(RENEW_RETRY));
            if !has_address(&name, &lease.address) {
                log::info!("{name} is used otherwise now: its lease is not renewed");
                return;
            }
            match dhcp::acquire(&name, mac, DHCP_TIMEOUT).and_then(|new| {
                if new.address != lease.address {
                    apply(&name, &new, metric, &|text| log::warn!("{text}"))?;
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

fn has_address(name: &str, address: &str) -> bool {
    let show = Cmd::new("ip").args(["-brief", "-4", "address", "show", "dev", name]).text();
    show.is_ok_and(|text| text.split_whitespace().any(|word| word == address))
}

/// Adds a route. `may_be_off`: the gateway may be outside of the interface's own network, as where an
/// address has none; that is not recorded.
fn add_route(route: &Route, may_be_off: bool) -> Result<()> {
    match change_route("replace", route, false) {
        Err(error) if may_be_off && route.via.is_some() => {
            change_route("replace", route, true).map_err(|_| error)
        }
        result => result,
    }
}

fn change_route(verb: &str, route: &Route, on_link: bool) -> Result<()> {
    let mut command = Cmd::new("ip").args(["route", verb, &route.to]);
    if let Some(via) = &route.via {
        command = command.args(["via", via]);
    }
    command = command.args(["dev", &route.nic]);
    if on_link {
        command = command.arg("onlink");
    }
    if let Some(metric) = route.metric {
        command = command.args(["metric", &metric.to_string()]);
    }
    command.run()
}

/// Adds name servers to /etc/resolv.conf.
fn resolver(dns: &[String], search: &[String]) -> Result<()> {
    let _alone = lock(&RESOLVERS);
    let old = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let text = resolv_conf(&old, dns, search);
    std::fs::write(RESOLV_CONF, text).with_context(|| format!("writing {RESOLV_CONF}"))
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

fn names(nics: &[Present]) -> String {
    if nics.is_empty() {
        return "none".to_owned();
    }
    nics.iter().map(|nic| format!("{} ({})", nic.name, nic.mac)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
