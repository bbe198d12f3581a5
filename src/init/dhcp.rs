//! A DHCP client (RFC 2131): smoltcp's state machine on a raw socket. The node's own client is not
//! needed, nor its scripts.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RawSocket};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{DhcpRepr, EthernetAddress, HardwareAddress};

/// What a server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// `ADDRESS/PREFIX`.
    pub address: String,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub server: Ipv4Addr,
    pub lasts: Duration,
}

/// The kernel waits for traffic on the socket at most this long.
const MAX_WAIT_MS: i32 = 500;

/// Asks for an address on the interface `name`, which is up, until one comes or time is out.
pub fn acquire(name: &str, mac: [u8; 6], timeout: Duration) -> Result<Lease> {
    // The raw socket panics when its interface vanishes: that is an error here.
    let asking = || ask(name, mac, timeout);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(asking))
        .map_err(|_| anyhow!("{name} went away while DHCP was under way"))?
}

/// A raw socket that takes packets whose UDP checksum is not made: what another system on the same
/// host sends (that of a hypervisor, a container) has none, as hardware would add it.
struct Unchecked(RawSocket);

impl Device for Unchecked {
    type RxToken<'a> = <RawSocket as Device>::RxToken<'a>;
    type TxToken<'a> = <RawSocket as Device>::TxToken<'a>;

    fn receive(
        &mut self,
        now: smoltcp::time::Instant,
    ) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.0.receive(now)
    }

    fn transmit(&mut self, now: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        self.0.transmit(now)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = self.0.capabilities();
        capabilities.checksum.udp = Checksum::Tx;
        capabilities
    }
}

fn ask(name: &str, mac: [u8; 6], timeout: Duration) -> Result<Lease> {
    let socket = RawSocket::new(name, Medium::Ethernet)
        .with_context(|| format!("opening a raw socket on {name}"))?;
    let mut device = Unchecked(socket);
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
    config.random_seed = seed(mac);
    let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::now());
    let mut buffer = vec![0; 1500];
    let mut socket = dhcpv4::Socket::new();
    socket.set_receive_packet_buffer(&mut buffer);
    let mut retry = dhcpv4::RetryConfig::default();
    // A link that has just come up drops the first frames.
    retry.discover_timeout = smoltcp::time::Duration::from_secs(2);
    retry.initial_request_timeout = smoltcp::time::Duration::from_secs(2);
    socket.set_retry_config(retry);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(socket);
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let now = smoltcp::time::Instant::now();
        interface.poll(now, &mut device, &mut sockets);
        let event = sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll();
        if let Some(dhcpv4::Event::Configured(config)) = event {
            return Ok(lease(&config));
        }
        let wait = interface.poll_delay(now, &sockets).map_or(MAX_WAIT_MS, |delay| {
            i32::try_from(delay.total_millis()).unwrap_or(MAX_WAIT_MS).min(MAX_WAIT_MS)
        });
        let wait = smoltcp::time::Duration::from_millis(u64::try_from(wait.max(1))?);
        smoltcp::phy::wait(device.0.as_raw_fd(), Some(wait))
            .with_context(|| format!("waiting for packets on {name}"))?;
    }
    bail!("no DHCP server answered on {name} within {} s", timeout.as_secs())
}

fn lease(config: &dhcpv4::Config<'_>) -> Lease {
    let seconds = config
        .packet
        .as_ref()
        .and_then(|packet| DhcpRepr::parse(packet).ok())
        .and_then(|repr| repr.lease_duration)
        .unwrap_or(3600);
    Lease {
        address: config.address.to_string(),
        gateway: config.router,
        dns: config.dns_servers.iter().copied().collect(),
        server: config.server.identifier,
        lasts: Duration::from_secs(seconds.into()),
    }
}

/// Transaction numbers differ between machines and between tries.
fn seed(mac: [u8; 6]) -> u64 {
    let time = jiff::Timestamp::now().as_nanosecond().to_le_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&mac).update(&time);
    let bytes = hasher.finalize();
    u64::from_le_bytes(std::array::from_fn(|i| bytes.as_bytes()[i]))
}
