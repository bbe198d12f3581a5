//! By what boot loaders know a machine: the hardware addresses of its interfaces, the UUID that its
//! firmware tells, and its name.

use std::path::Path;

use uuid::Uuid;

use crate::layout::Layout;
use crate::probe::node::parse_uuid;

/// Names of files: `01-52-54-00-12-34-56`, a UUID, a node's name. Lower case but for the last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names(pub Vec<String>);

impl Names {
    /// Those of the machine that runs this.
    pub fn of_this_machine(layout: &Layout, node: &str) -> Names {
        let mut macs: Vec<String> = layout.net.nic.iter().map(|nic| nic.mac.clone()).collect();
        // The interface that boots may be down once the system runs.
        macs.extend(crate::probe::net::physical().iter().filter_map(|name| {
            let path = Path::new("/sys/class/net").join(name).join("address");
            std::fs::read_to_string(path).ok()
        }));
        let uuid = std::fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
        Names::new(&macs, &uuid, node)
    }

    pub fn new(macs: &[String], uuid: &str, node: &str) -> Names {
        let mut names: Vec<String> = macs.iter().filter_map(|mac| of_mac(mac)).collect();
        names.extend(of_uuid(uuid));
        // pxelinux reads a file of this name where it finds no other.
        names.extend(Some(node.to_owned()).filter(|node| node != "default"));
        names.sort();
        names.dedup();
        Names(names)
    }
}

/// As pxelinux has it: 01 is Ethernet.
fn of_mac(mac: &str) -> Option<String> {
    let mac = mac.trim().to_lowercase();
    let parts: Vec<&str> = mac.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    let sound = parts.len() == 6 && parts.iter().all(hex) && mac != "00:00:00:00:00:00";
    sound.then(|| format!("01-{}", parts.join("-")))
}

/// A UUID in both orders of bytes: firmware tells its first three fields in little-endian order, and
/// boot loaders do not agree on whether to turn them.
fn of_uuid(text: &str) -> Vec<String> {
    let Some(uuid) = parse_uuid(text) else { return Vec::new() };
    vec![uuid.to_string(), Uuid::from_bytes_le(*uuid.as_bytes()).to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_addresses_uuid_and_name() {
        let macs = ["52:54:00:AB:00:01\n".to_owned(), "00:00:00:00:00:00".to_owned(), "x".into()];
        let names = Names::new(&macs, "b8945908-d6a6-41a9-611d-74a6ab80b83d\n", "node001");
        assert_eq!(
            names.0,
            [
                "01-52-54-00-ab-00-01",
                "085994b8-a6d6-a941-611d-74a6ab80b83d",
                "b8945908-d6a6-41a9-611d-74a6ab80b83d",
                "node001",
            ]
        );
    }

    #[test]
    fn what_boards_without_a_uuid_say_is_none() {
        for none in [
            "",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "03000200-0400-0500-0006-000700080009",
        ] {
            assert_eq!(of_uuid(none), Vec::<String>::new(), "{none}");
        }
    }
}
