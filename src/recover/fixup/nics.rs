//! Network cards that were replaced: whatever names them by hardware address names cards that are gone.

use std::path::{Path, PathBuf};

use crate::layout::Net;
use crate::probe::net::physical;
use crate::sys::inside;

/// Where a card is named by its address: `HWADDR=`, `macaddress:`, `mac-address=`, udev's rules.
const DIRS: &[&str] = &[
    "/etc/netplan",
    "/etc/network",
    "/etc/network/interfaces.d",
    "/etc/NetworkManager/system-connections",
    "/etc/sysconfig/network",
    "/etc/sysconfig/network-scripts",
    "/etc/systemd/network",
    "/etc/udev/rules.d",
];

/// The addresses of the cards that are here; a port of a bond shows that of the bond, and its own.
pub fn here() -> Vec<String> {
    let files = ["address", "bonding_slave/perm_hwaddr"];
    let paths = physical()
        .into_iter()
        .flat_map(|name| files.map(|file| Path::new("/sys/class/net").join(&name).join(file)));
    paths.filter_map(|path| Some(std::fs::read_to_string(path).ok()?.trim().to_owned())).collect()
}

/// What there is to be said of recorded cards that are not among those that are `here`.
pub fn told(root: &Path, recorded: &Net, here: &[String]) -> Option<String> {
    let is_here = |mac: &str| here.iter().any(|other| other.eq_ignore_ascii_case(mac));
    let gone: Vec<_> = recorded.nic.iter().filter(|nic| !is_here(&nic.mac)).collect();
    if gone.is_empty() {
        return None;
    }
    let names: Vec<_> = gone.iter().map(|nic| format!("{} ({})", nic.name, nic.mac)).collect();
    let is_named = |path: &PathBuf| {
        let text = inside::read(root, path).unwrap_or_default().to_lowercase();
        gone.iter().any(|nic| text.contains(&nic.mac.to_lowercase()))
    };
    let files = DIRS
        .iter()
        .flat_map(|dir| inside::names(root, dir).into_iter().map(|name| Path::new(dir).join(name)));
    let files: Vec<_> = files.filter(is_named).map(|path| path.display().to_string()).collect();
    let what = if files.is_empty() {
        "look whether the network comes up with those that are".to_owned()
    } else {
        format!("put the addresses of those that are into {}", files.join(", "))
    };
    Some(format!("network cards of the node are not here: {}: {what}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_name_a_card_that_is_gone_are_told() {
        let text = "[[nic]]\nname = 'eth0'\nmac = '52:54:00:ab:00:01'\n\n[[nic]]\nname = 'eth1'\nmac = '52:54:00:ab:00:02'\n";
        let net: Net = toml::from_str(text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let scripts = dir.path().join("etc/sysconfig/network-scripts");
        std::fs::create_dir_all(&scripts).unwrap();
        std::fs::write(scripts.join("ifcfg-eth0"), "HWADDR=52:54:00:AB:00:01\n").unwrap();
        std::fs::write(scripts.join("ifcfg-eth1"), "HWADDR=52:54:00:AB:00:02\n").unwrap();
        let here = |macs: &[&str]| macs.iter().map(|mac| (*mac).to_owned()).collect::<Vec<_>>();
        let all = here(&["52:54:00:AB:00:01", "52:54:00:ab:00:02"]);
        assert_eq!(told(dir.path(), &net, &all), None);
        assert_eq!(
            told(dir.path(), &net, &all[1..]).unwrap(),
            "network cards of the node are not here: eth0 (52:54:00:ab:00:01): put the addresses of those that are into /etc/sysconfig/network-scripts/ifcfg-eth0"
        );
        std::fs::remove_file(scripts.join("ifcfg-eth0")).unwrap();
        let text = told(dir.path(), &net, &all[1..]).unwrap();
        assert!(text.ends_with("comes up with those that are"), "{text}");
    }
}
