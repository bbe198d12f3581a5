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

/// The kernel's `ip=CLIENT:SERVER:GATEWAY:NETMASK:HOST:DEVICE:AUTOCONF`, see the kernel's
/// Documentation/admin-guide/nfs/nfsroot.rst. CLIENT may be `ADDRESS/PREFIX` as well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// `ADDRESS/PREFIX`.
    pub address: String,
    pub gateway: Option<String>,
    pub device: Option<String>,
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
    /// `rr.target=URL`: another one than the image was made for.
    pub target: Option<String>,
    pub network: Network,
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
            ("rr.target", url) if !url.is_empty() => options.target = Some(url.to_owned()),
            ("rr.net", "node") => options.network = Network::Node,
            ("rr.net", "dhcp") | ("ip", "dhcp" | "on" | "any") => options.network = Network::Dhcp,
            ("rr.net", "none") | ("ip", "none" | "off") => options.network = Network::None,
            ("ip", value) => match parse_ip(value) {
                Some(given) => options.network = Network::Given(given),
                None => options.unknown.push(word),
            },
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
    let fields: Vec<&str> = value.split(':').collect();
    let field = |i: usize| fields.get(i).copied().filter(|text| !text.is_empty());
    let client = field(0)?;
    let address = if client.contains('/') {
        client.to_owned()
    } else {
        format!("{client}/{}", prefix(field(3)?)?)
    };
    let (bare, length) = address.split_once('/')?;
    bare.parse::<std::net::Ipv4Addr>().ok()?;
    if length.parse::<u8>().ok()? > 32 {
        return None;
    }
    let gateway = field(2).map(str::to_owned);
    Some(Given { address, gateway, device: field(5).map(str::to_owned) })
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
             rr.erase=\"S 1\" rr.gen=20261121T020000Z rr.net=dhcp rr.debug rr.verdict=/dev/x \
             rr.target=nfs://s/x rr.wrong=1\n",
        );
        assert_eq!(options.mode, Mode::Auto);
        assert_eq!(options.map, ["sda=vdb", "sdb=vdc"]);
        assert_eq!(options.erase, ["S 1"]);
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
        for bad in ["ip=10.0.0.5", "ip=10.0.0.5:::255.0.255.0", "ip=x/24", "ip=10.0.0.1/99"] {
            assert_eq!(given(bad), None, "{bad}");
            assert_eq!(parse(bad).unknown.len(), 1, "{bad}");
        }
        assert_eq!(parse("ip=dhcp").network, Network::Dhcp);
    }
}
