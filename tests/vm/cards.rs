//! The network cards of a node, and which ones it has after its bad day.

use std::path::Path;

use anyhow::Result;
use rr::prove::Machine;

use crate::lab;
use crate::switch::{Ports, Switch};

/// Of the two cards of a node on a switch.
const MACS: [&str; 2] = ["52:54:00:00:00:0a", "52:54:00:00:00:0b"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cards {
    /// One, which asks by DHCP.
    Usual,
    /// Two in a bond, with a VLAN on it and a bridge on that, which has a fixed address. Both are
    /// others afterwards.
    Bond,
    /// Two with fixed addresses, one of which leads to the backup. They change places.
    Swapped,
}

/// Files for systemd-networkd.
const BOND: &[(&str, &str)] = &[
    (
        "bond0.netdev",
        "[NetDev]\nName=bond0\nKind=bond\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n",
    ),
    ("bond0.5.netdev", "[NetDev]\nName=bond0.5\nKind=vlan\n[VLAN]\nId=5\n"),
    ("br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n"),
    ("cards.network", "[Match]\nName=enp0s*\n[Network]\nBond=bond0\n"),
    ("bond0.network", "[Match]\nName=bond0\n[Network]\nVLAN=bond0.5\nLinkLocalAddressing=no\n"),
    ("vlan.network", "[Match]\nName=bond0.5\n[Network]\nBridge=br0\n"),
    ("br0.network", "[Match]\nName=br0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"),
];
const FIXED: &[(&str, &str)] = &[
    ("lan.network", "[Match]\nName=enp0s16\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"),
    ("other.network", "[Match]\nName=enp0s17\n[Network]\nAddress=192.0.2.15/24\n"),
];

impl Cards {
    /// What the cards are plugged into.
    pub fn switch(self) -> Result<Option<Switch>> {
        match self {
            Cards::Usual => Ok(None),
            Cards::Bond => Switch::start(Ports::Tagged(5)).map(Some),
            Cards::Swapped => Switch::start(Ports::FirstOnly).map(Some),
        }
    }

    /// Puts them into the machine: those that it is backed up with, or what it has when it is recovered.
    pub fn plug(self, switch: Option<&Switch>, machine: &mut Machine, recovered: bool) {
        let macs = match self {
            _ if !recovered => MACS,
            Cards::Usual | Cards::Bond => ["52:54:00:00:00:1a", "52:54:00:00:00:1b"],
            Cards::Swapped => [MACS[1], MACS[0]],
        };
        machine.wires = switch.map(|switch| switch.wires(macs)).unwrap_or_default();
    }

    /// Writes the node's configuration into `share`; gives what puts it in place.
    pub fn configure(self, share: &Path) -> Result<&'static str> {
        let files = match self {
            Cards::Usual => return Ok(""),
            Cards::Bond => BOND,
            Cards::Swapped => FIXED,
        };
        lab::make_dir(&share.join("network"))?;
        for (name, text) in files {
            lab::write(&share.join("network").join(name), text)?;
        }
        Ok("rm /mnt/node/etc/systemd/network/*; \
            for file in $(ls network); do put network/$file /etc/systemd/network/$file; done; ")
    }

    /// What the rescue system must have said about them.
    pub fn said(self) -> &'static [&'static str] {
        match self {
            Cards::Usual => &[],
            Cards::Bond => &["(by its place)"],
            Cards::Swapped => &["by its address", "taking interfaces by their places"],
        }
    }
}
