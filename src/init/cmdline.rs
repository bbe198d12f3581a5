//! What the kernel command line tells the rescue system.

/// What to do once the rescue system is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    Auto,
    Ask,
    #[default]
    Shell,
}

/// Where the rescue system's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// As it is in the image's configuration.
    #[default]
    Configured,
    /// As the node had it.
    Node,
    Dhcp,
    None,
    /// `ip=`: one interface as it is given here.
    Given(Given),
}

/// The kernel's `ip=CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE:AUTOCONF:DNS:DNS`, see the kernel's
/// Documentation/admin-guide/nfs/nfsroot.rst. CLIENT may be `ADDRESS/PREFIX` as well, an IPv6 one is
/// in brackets, and DEVICE may be a hardware address with dashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// `ADDRESS/PREFIX`.
    pub address: String,
    pub gateway: Option<String>,
    /// A name or a hardware address.
    pub device: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub mode: Mode,
    /// `rr.gen=`: this generation and not the newest.
    pub generation: Option<String>,
    /// `rr.map=OLD=NEW`, as often as needed.
    pub map: Vec<String>,
    /// `rr.erase=SERIAL`, as often as needed.
    pub erase: Vec<String>,
    /// `rr.grow`: larger disks are used in full.
    pub grow: bool,
    /// `rr.other-firmware`: also where the firmware is in the other mode than the node's.
    pub other_firmware: bool,
    /// `rr.target=URL`: another one than the image was made for.
    pub target: Option<String>,
    pub network: Network,
    /// `BOOTIF=01-aa-bb-cc-dd-ee-ff`, as boot loaders say which interface they used.
    pub boot_mac: Option<String>,
    pub debug: bool,
    /// Words that look like ours and are not understood.
    pub unknown: Vec<String>,
}

/// Parses /proc/cmdline. A later word wins over an earlier one.
pub fn parse(text: &str) -> Options {
    let mut options = Options::default();
    for word in words(text) {
        let (key, value) = word.split_once('=').unwrap_or((&word, ""));
        match (key, value) {
            ("rr.recover", "auto") => options.mode = Mode::Auto,
            ("rr.recover", "ask") => options.mode = Mode::Ask,
            ("rr.recover", "shell") => options.mode = Mode::Shell,
            ("rr.gen", id) if !id.is_empty() => options.generation = Some(id.to_owned()),
            ("rr.map", map) if map.contains('=') => options.map.push(map.to_owned()),
            ("rr.erase", serial) if !serial.is_empty() => options.erase.push(serial.to_owned()),
            ("rr.grow", "") => options.grow = true,
            ("rr.other-firmware", "") => options.other_firmware = true,
            ("rr.target", url) if !url.is_empty() => options.target = Some(url.to_owned()),
            ("rr.net", "node") => options.network = Network::Node,
            ("rr.net", "dhcp") | ("ip", "dhcp" | "on" | "any") => options.network = Network::Dhcp,
            ("rr.net", "none") | ("ip", "none" | "off") => options.network = Network::None,
            ("ip", value) => match parse_ip(value) {
                Some(given) => options.network = Network::Given(given),
                None => options.unknown.push(word),
            },
            ("BOOTIF", name) => options.boot_mac = parse_bootif(name),
            ("rr.debug", _) => options.debug = true,
            // Read by crate::ui::verdict.
            ("rr.verdict", _) => {}
            (key, _) if key.starts_with("rr.") => options.unknown.push(word),
            _ => {}
        }
    }
    options
}

/// Splits at blanks, but not inside double quotes, which are dropped, as the kernel does.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().into_iter().for_each(|word| word.push(c)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse_ip(value: &str) -> Option<Given> {
    let fields = fields(value);
    let field = |i: usize| fields.get(i).copied().filter(|text| !text.is_empty());
    let bare = |text: &str| text.trim_start_matches('[').replace(']', "");
    let client = bare(field(0)?);
    let address =
        if client.contains('/') { client } else { format!("{client}/{}", prefix(field(3)?)?) };
    let (host, length) = address.split_once('/')?;
    let longest = if host.parse::<std::net::IpAddr>().ok()?.is_ipv6() { 128 } else { 32 };
    if length.parse::<u8>().ok()? > longest {
        return None;
    }
    let device = field(5).map(|name| mac_of(name).unwrap_or_else(|| name.to_owned()));
    let dns = (7..=8).filter_map(field).map(bare).collect();
    Some(Given { gateway: field(2).map(bare), device, dns, address })
}

/// Splits at colons, but not inside brackets.
fn fields(value: &str) -> Vec<&str> {
    let mut inside = false;
    value
        .split(|c: char| {
            inside = (inside || c == '[') && c != ']';
            c == ':' && !inside
        })
        .collect()
}

/// `aa-bb-cc-dd-ee-ff` with colons.
fn mac_of(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('-').collect();
    let hex = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    (parts.len() == 6 && parts.iter().all(hex)).then(|| parts.join(":").to_lowercase())
}

fn parse_bootif(name: &str) -> Option<String> {
    mac_of(name.strip_prefix("01-").unwrap_or(name))
}

/// `255.255.255.0` is 24.
fn prefix(mask: &str) -> Option<u32> {
    let bits = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
    (bits.leading_ones() == bits.count_ones()).then(|| bits.count_ones())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_our_words_are_understood() {
        let options = parse(
            "BOOT_IMAGE=/rr/kernel rr.recover=auto console=ttyS0 rr.map=sda=vdb rr.map=sdb=vdc \
             rr.erase=\"S 1\" rr.gen=20261121T020000Z rr.net=dhcp rr.debug rr.verdict=/dev/x rr.grow \
             rr.other-firmware rr.target=nfs://s/x rr.wrong=1\n",
        );
        assert_eq!(options.mode, Mode::Auto);
        assert_eq!(options.map, ["sda=vdb", "sdb=vdc"]);
        assert_eq!(options.erase, ["S 1"]);
        assert!(options.grow && options.other_firmware);
        assert_eq!(options.generation.as_deref(), Some("20261121T020000Z"));
        assert_eq!(options.network, Network::Dhcp);
        assert_eq!(options.target.as_deref(), Some("nfs://s/x"));
        assert!(options.debug);
        assert_eq!(options.unknown, ["rr.wrong=1"]);
    }

    #[test]
    fn nothing_said_means_a_shell_and_no_disk_is_touched() {
        assert_eq!(parse("quiet").mode, Mode::Shell);
        assert_eq!(parse("rr.recover=atuo").mode, Mode::Shell);
        assert_eq!(parse("rr.recover=atuo").unknown, ["rr.recover=atuo"]);
    }

    #[test]
    fn addresses_come_in_the_kernels_form_or_with_a_prefix() {
        let given = |text: &str| match parse(text).network {
            Network::Given(given) => Some(given),
            _ => None,
        };
        let kernel = given("ip=10.0.0.5::10.0.0.1:255.255.255.0:host:eth1:none").unwrap();
        assert_eq!(kernel.address, "10.0.0.5/24");
        assert_eq!(kernel.gateway.as_deref(), Some("10.0.0.1"));
        assert_eq!(kernel.device.as_deref(), Some("eth1"));
        assert_eq!(given("ip=10.0.0.5/16").unwrap().address, "10.0.0.5/16");
        let six = given("ip=[fd00::5]/64::[fd00::1]:::52-54-00-12-34-56::[fd00::53]:10.0.0.53");
        let six = six.unwrap();
        assert_eq!((six.address.as_str(), six.gateway.as_deref()), ("fd00::5/64", Some("fd00::1")));
        assert_eq!(six.device.as_deref(), Some("52:54:00:12:34:56"));
        assert_eq!(six.dns, ["fd00::53", "10.0.0.53"]);
        for bad in ["ip=10.0.0.5", "ip=10.0.0.5:::255.0.255.0", "ip=x/24", "ip=10.0.0.1/99"] {
            assert_eq!(given(bad), None, "{bad}");
            assert_eq!(parse(bad).unknown.len(), 1, "{bad}");
        }
        assert_eq!(parse("ip=dhcp").network, Network::Dhcp);
    }

    #[test]
    fn the_interface_that_booted_is_named_by_the_boot_loader() {
        let mac = |text: &str| parse(text).boot_mac;
        assert_eq!(mac("BOOTIF=01-52-54-00-AB-00-01").as_deref(), Some("52:54:00:ab:00:01"));
        assert_eq!(mac("BOOTIF=eth0"), None);
    }
}
