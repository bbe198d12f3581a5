//! Which machine this is.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::Path;

use uuid::Uuid;

use crate::layout::Node;

/// What proc, sysfs and os-release(5) say; empty where they say nothing.
pub fn read() -> Node {
    let line = |path: &str| {
        let text = read_to_string(Path::new(path)).unwrap_or_default();
        text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
    };
    let os_release = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| read_to_string(path).ok())
        .unwrap_or_default();
    Node {
        hostname: line("/proc/sys/kernel/hostname"),
        arch: std::env::consts::ARCH.to_owned(),
        kernel: line("/proc/sys/kernel/osrelease"),
        os: pretty_name(&os_release),
        vendor: line("/sys/class/dmi/id/sys_vendor"),
        product: line("/sys/class/dmi/id/product_name"),
        recorded: jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
    }
}

/// What tells this installed system from others, see machine-id(5); None where it has none. It is not for
/// others to know.
pub fn machine_id() -> Option<String> {
    let id = read_to_string("/etc/machine-id").unwrap_or_default();
    Some(id.trim().to_owned()).filter(|id| id.len() == 32)
}

/// What the firmware says which machine this is.
pub fn product_uuid() -> Option<Uuid> {
    parse_uuid(&read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default())
}

/// A machine's UUID. What boards without a number say is none.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid: Uuid = text.trim().parse().ok()?;
    let few = uuid.as_bytes().iter().collect::<BTreeSet<_>>().len() < 5;
    let sample = uuid.to_string().starts_with("03000200-0400-0500-0006");
    (!few && !sample).then_some(uuid)
}

/// `PRETTY_NAME` of os-release(5), without its quotes.
fn pretty_name(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_system_is_without_quotes() {
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(text), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=Alpine"), "Alpine");
        assert_eq!(pretty_name(""), "");
    }
}
