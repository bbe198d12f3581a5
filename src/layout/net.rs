//! The network as the node had it: what the rescue system brings up again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Net {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nic: Vec<Nic>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<Link>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Route>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

impl Net {
    /// Whether an interface of this name is recorded.
    pub fn has(&self, name: &str) -> bool {
        self.nic.iter().any(|nic| nic.name == name)
            || self.link.iter().any(|link| link.name == name)
    }
}

/// A physical interface that was up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    pub name: String,
    /// The permanent hardware address, lower case with colons.
    pub mac: String,
    /// As udev's `ID_PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(default)]
    pub mtu: u32,
    /// The address came from DHCP (the kernel marks it with a lifetime, see ip-address(8)).
    #[serde(default)]
    pub dhcp: bool,
    /// IPv6 addresses came from router advertisements.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slaac: bool,
    /// `ADDRESS/PREFIX`, global scope only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
}

/// An interface that rests on others: a bond, a VLAN or a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub name: String,
    pub kind: LinkKind,
    /// The names of the interfaces that it rests on.
    pub over: Vec<String>,
    /// Its properties as ip-link(8) takes them: `mode` is `802.3ad`, `id` is `5`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub option: BTreeMap<String, String>,
    #[serde(default)]
    pub mtu: u32,
    #[serde(default)]
    pub dhcp: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slaac: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    Bond,
    Vlan,
    Bridge,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `default` or `ADDRESS/PREFIX`.
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The interface's name.
    pub nic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

impl Route {
    pub fn is_default_ipv4(&self) -> bool {
        self.to == "default" && !self.via.as_ref().is_some_and(|via| via.contains(':'))
    }
}
