//! Links: cables that are plugged in at both ends, and switches that forward.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{CLASS_NET, LINK_TIMEOUT, link_up};
use crate::probe::block;
use crate::sys::run::Cmd;

/// Those of these interfaces that have a link, though nobody has brought them up yet.
pub(super) fn with_links(names: &[String]) -> Vec<&String> {
    for name in names {
        if let Err(error) = Cmd::new("ip").args(link_up(name)).run() {
            log::info!("{error:#}");
        }
    }
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            names.iter().map(|name| (name, scope.spawn(|| wait_for_link(name)))).collect();
        let linked = waiting
            .into_iter()
            .filter_map(|(name, thread)| matches!(thread.join(), Ok(Ok(()))).then_some(name));
        linked.collect()
    })
}

pub(super) fn wait_for_link(name: &str) -> Result<()> {
    let started = Instant::now();
    let dir = Path::new(CLASS_NET);
    while started.elapsed() < LINK_TIMEOUT {
        if has_link(dir, name) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
        // Interfaces without a cable must not hold up those that have one.
        if started.elapsed() > Duration::from_secs(10) && only_others_have_links(dir, name) {
            break;
        }
    }
    bail!("{name} has no link after {} s", started.elapsed().as_secs())
}

/// Whether this interface has a link now.
pub(super) fn is_linked(name: &str) -> bool {
    has_link(Path::new(CLASS_NET), name)
}

fn has_link(class_net: &Path, name: &str) -> bool {
    let path = class_net.join(name).join("carrier");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// How management boards (iDRAC, iLO, MegaRAC) are seen over their USB cable, which always has a link.
const DRIVERS_OF_BOARDS: &[&str] = &["cdc_eem", "cdc_ether", "cdc_ncm", "cdc_subset", "rndis_host"];

/// Whether hardware has a link, and none of it is what this interface is or rests on. A bridge that
/// its ports have a link for waits for spanning tree.
fn only_others_have_links(class_net: &Path, name: &str) -> bool {
    let mut own = vec![name.to_owned()];
    let mut at = 0;
    while let Some(upper) = own.get(at) {
        let names = block::names_in(&class_net.join(upper));
        let lower = names.iter().filter_map(|name| name.strip_prefix("lower_"));
        let lower: Vec<String> =
            lower.filter(|name| !own.iter().any(|o| o == name)).map(str::to_owned).collect();
        own.extend(lower);
        at += 1;
    }
    let physical = |name: &String| {
        let device = class_net.join(name).join("device");
        let driver = device.join("driver").read_link().unwrap_or_default();
        let driver = driver.file_name().unwrap_or_default();
        device.exists() && !DRIVERS_OF_BOARDS.iter().any(|board| driver == *board)
    };
    let linked: Vec<String> = block::names_in(class_net)
        .into_iter()
        .filter(|name| physical(name) && has_link(class_net, name))
        .collect();
    !linked.is_empty() && !linked.iter().any(|name| own.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_no_cable_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let nic = |name: &str, files: &[(&str, &str)]| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            for (file, text) in files {
                std::fs::write(dir.path().join(name).join(file), text).unwrap();
            }
        };
        let up = [("device", ""), ("carrier", "1\n")];
        nic("eth0", &up);
        nic("eth1", &[("device", ""), ("carrier", "0\n")]);
        nic("bond0", &[("carrier", "1\n"), ("lower_eth0", "")]);
        // It forwards nothing yet.
        nic("br0", &[("carrier", "0\n"), ("lower_bond0", "")]);
        nic("br1", &[("carrier", "0\n"), ("lower_eth1", "")]);
        let given_up = |name: &str| only_others_have_links(dir.path(), name);
        std::fs::create_dir_all(dir.path().join("bmc0/device")).unwrap();
        std::fs::write(dir.path().join("bmc0/carrier"), "1\n").unwrap();
        let driver = dir.path().join("bmc0/device/driver");
        std::os::unix::fs::symlink("/sys/bus/usb/drivers/cdc_ether", &driver).unwrap();
        std::fs::write(dir.path().join("eth0/carrier"), "0\n").unwrap();
        assert!(!given_up("eth1"), "only the management board has a link");
        std::fs::write(dir.path().join("eth0/carrier"), "1\n").unwrap();
        assert!(given_up("eth1") && given_up("br1"));
        assert!(!given_up("br0"), "its own port has the link");
        nic("eth2", &up);
        assert!(!given_up("br0"), "whatever else has one");
    }
}
