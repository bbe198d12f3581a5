//! An Ethernet switch for one scenario. Its ports are UDP sockets of the loopback, a frame each
//! datagram, as QEMU's `-netdev socket,udp=` has them. The uplink is a QEMU without a machine, whose
//! user network is there as in all other scenarios: the host is 10.0.2.2.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rr::prove::Wire;
use rr::sys::run::Cmd;

/// 802.1Q: follows the two addresses.
const VLAN_TAG: [u8; 2] = [0x81, 0x00];
const ADDRESSES: usize = 12;
const FRAME_BYTES: usize = 65_536;
const POLL: Duration = Duration::from_millis(100);

/// How the ports lead to the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// All of them, in this VLAN, tagged; what has no tag or another one leads nowhere.
    Tagged(u16),
    /// The first, without a tag. The other ones lead nowhere.
    FirstOnly,
}

/// Stopped when it is dropped.
#[derive(Debug)]
pub struct Switch {
    wires: Vec<(u16, u16)>,
    uplink: Child,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Switches on a switch with two ports for cards.
    pub fn start(ports: Ports) -> Result<Switch> {
        let socket = || UdpSocket::bind("127.0.0.1:0").context("opening a port of the switch");
        let sockets = [socket()?, socket()?, socket()?];
        let mut wires = Vec::new();
        for socket in &sockets {
            let (card, port) = (free_udp_port()?, socket.local_addr()?.port());
            socket.connect(("127.0.0.1", card)).context("connecting a port of the switch")?;
            socket.set_read_timeout(Some(POLL))?;
            wires.push((card, port));
        }
        let (card, port) = wires.remove(0);
        let uplink = Cmd::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-machine", "none"])
            .args(["-nodefaults", "-display", "none", "-netdev", "user,id=host", "-netdev"])
            .arg(format!("socket,id=wire,udp=127.0.0.1:{port},localaddr=127.0.0.1:{card}"))
            .args(["-netdev", "hubport,id=a,hubid=0,netdev=host"])
            .args(["-netdev", "hubport,id=b,hubid=0,netdev=wire"])
            .spawn(Stdio::null(), Stdio::inherit())?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || forward(&sockets, ports, &stop)
        });
        Ok(Switch { wires, uplink, stop, thread: Some(thread) })
    }

    /// The cables for cards with these addresses.
    pub fn wires(&self, macs: [&str; 2]) -> Vec<Wire> {
        let wires = self.wires.iter().zip(macs);
        wires.map(|(&(own, peer), mac)| Wire { mac: mac.to_owned(), own, peer }).collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it may have panicked with is on the screen.
            let _ = thread.join();
        }
        // It may have ended by itself.
        let _ = self.uplink.kill();
        let _ = self.uplink.wait();
    }
}

/// Each port in a thread of its own. `sockets`: the uplink first.
fn forward(sockets: &[UdpSocket; 3], ports: Ports, stop: &AtomicBool) {
    // By the address of a card, the port that it was last heard on.
    let heard = std::sync::Mutex::new(HashMap::<Vec<u8>, usize>::new());
    std::thread::scope(|scope| {
        for (index, socket) in sockets.iter().enumerate() {
            let heard = &heard;
            scope.spawn(move || {
                let mut frame = vec![0; FRAME_BYTES];
                while !stop.load(Ordering::Relaxed) {
                    // Nothing came for a while, or nobody listens at the other end yet.
                    let Ok(length) = socket.recv(&mut frame) else { continue };
                    let frame = &frame[..length];
                    let Some((to, from)) = frame.get(..6).zip(frame.get(6..ADDRESSES)) else {
                        continue;
                    };
                    if index != 0 {
                        heard.lock().unwrap().insert(from.to_vec(), index);
                        if let Some(frame) = ports.untag_for_uplink(index, frame) {
                            // As a cable does, it loses what nobody takes.
                            let _ = sockets[0].send(&frame);
                        }
                        continue;
                    }
                    let known = heard.lock().unwrap().get(to).copied();
                    for out in known.map_or(1..sockets.len(), |port| port..port + 1) {
                        if let Some(frame) = ports.tag_for_port(out, frame) {
                            let _ = sockets[out].send(&frame);
                        }
                    }
                }
            });
        }
    });
}

impl Ports {
    /// What the uplink gets of a frame that came in at a port.
    fn untag_for_uplink(self, port: usize, frame: &[u8]) -> Option<Vec<u8>> {
        match self {
            Ports::FirstOnly => (port == 1).then(|| frame.to_vec()),
            Ports::Tagged(vlan) => {
                let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
                let rest = rest.strip_prefix(&VLAN_TAG)?;
                let (tag, rest) = rest.split_at_checked(2)?;
                // The upper four bits are the priority.
                let tag = u16::from_be_bytes([tag[0], tag[1]]) & 0xfff;
                (tag == vlan).then(|| [addresses, rest].concat())
            }
        }
    }

    /// What a port gets of a frame from the uplink.
    fn tag_for_port(self, port: usize, frame: &[u8]) -> Option<Vec<u8>> {
        match self {
            Ports::FirstOnly => (port == 1).then(|| frame.to_vec()),
            Ports::Tagged(vlan) => {
                let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
                Some([addresses, &VLAN_TAG, &vlan.to_be_bytes(), rest].concat())
            }
        }
    }
}

fn free_udp_port() -> Result<u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(socket.local_addr()?.port())
}

/// The lab's own test.
pub fn frames_are_tagged_and_untagged() -> Result<()> {
    let plain: Vec<u8> = (0..60).collect();
    let tagged = Ports::Tagged(5).tag_for_port(2, &plain).context("no frame")?;
    ensure!(tagged[ADDRESSES..16] == [0x81, 0, 0, 5] && tagged.len() == 64, "{tagged:?}");
    ensure!(
        Ports::Tagged(5).untag_for_uplink(1, &tagged).as_deref() == Some(&plain[..]),
        "not as it was"
    );
    ensure!(Ports::Tagged(6).untag_for_uplink(1, &tagged).is_none(), "another VLAN's");
    ensure!(Ports::Tagged(5).untag_for_uplink(1, &plain).is_none(), "without a tag");
    ensure!(
        Ports::FirstOnly.untag_for_uplink(2, &plain).is_none(),
        "the second port leads somewhere"
    );
    Ok(())
}
