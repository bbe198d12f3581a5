//! A configuration of dnsmasq(8) that serves a tree.

use std::path::Path;

use super::loaders::{HTTP_FIRST, UEFI_FIRST};

/// The boot server.
#[derive(Debug)]
pub struct Server<'a> {
    /// The tree, as the server sees it.
    pub root: &'a Path,
    /// As dnsmasq's `dhcp-range` takes it.
    pub range: &'a str,
    pub interface: Option<&'a str>,
    /// The tree's URL.
    pub http: Option<&'a str>,
}

/// The text of `dnsmasq.conf`. The machine's kind decides what it loads first; iPXE says that it is
/// iPXE, whatever it runs on.
pub fn render(server: &Server<'_>) -> String {
    let http = server.http.map(|http| http.trim_end_matches('/'));
    let root = server.root.display();
    let mut lines = vec![
        "# DHCP and TFTP for the rescue systems of rr; printed by `rr pxe dnsmasq`.".to_owned(),
        "# Save as /etc/dnsmasq.d/rr.conf. This dnsmasq gives out addresses: there must be no"
            .into(),
        "# other DHCP server on that network.".into(),
        "port=0".into(),
        format!("dhcp-range={},12h", server.range),
        "# This server leads nowhere else, unless you name a router: dhcp-option=3,ADDRESS".into(),
        "dhcp-option=3".into(),
    ];
    if let Some(interface) = server.interface {
        lines.push(format!("interface={interface}"));
        lines.push("bind-interfaces".into());
    }
    lines.extend([
        "enable-tftp".into(),
        format!("tftp-root={root}"),
        String::new(),
        "# iPXE, in a network card or started by something else: a script, and the rest by HTTP"
            .into(),
        "# where rr.toml has pxe.http.".into(),
        "dhcp-userclass=set:ipxe,iPXE".into(),
        "dhcp-boot=tag:ipxe,boot.ipxe".into(),
        String::new(),
        "# BIOS".into(),
        "dhcp-match=set:bios,option:client-arch,0".into(),
    ]);
    if let Some(http) = http {
        lines.extend([
            "# lpxelinux gets all files from here, by HTTP. To use TFTP only: pxelinux.0 instead, and".into(),
            "# without the option.".into(),
            "dhcp-boot=tag:bios,tag:!ipxe,lpxelinux.0".into(),
            format!("dhcp-option-force=tag:bios,tag:!ipxe,210,{http}/"),
        ]);
    } else {
        lines.push("dhcp-boot=tag:bios,tag:!ipxe,pxelinux.0".into());
    }
    lines.extend([
        String::new(),
        "# UEFI".into(),
        "dhcp-match=set:uefi,option:client-arch,7".into(),
        "dhcp-match=set:uefi,option:client-arch,9".into(),
        format!("dhcp-boot=tag:uefi,tag:!ipxe,{UEFI_FIRST}"),
    ]);
    if let Some(http) = http {
        lines.extend([
            String::new(),
            "# UEFI HTTP boot".into(),
            "dhcp-match=set:http,option:client-arch,16".into(),
            "dhcp-option-force=tag:http,60,HTTPClient".into(),
            format!("dhcp-boot=tag:http,{http}/{HTTP_FIRST}"),
        ]);
    }
    lines.join("\n") + "\n"
}
