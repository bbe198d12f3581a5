//! Who holds a lock, and what can be known of whether it lives.

use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub host: String,
    /// As in `/etc/machine-id`; empty in a rescue system.
    pub machine: String,
    /// As in `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// The inode of `/proc/self/ns/pid`: containers share the boot, and each gives numbers of its own.
    /// None in a lock of an older rr, which reads it by passing it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_ns: Option<u64>,
    pub pid: u32,
    /// In clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub pid_start: u64,
    /// RFC 3339.
    pub since: String,
    pub beat: u64,
}

/// What is known about a lock at first sight.
#[derive(Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    Dead,
    /// It has the name and the id of this machine, and is of another boot.
    Rebooted,
    Unknown,
}

impl Owner {
    pub fn me() -> Owner {
        let read = |path: &str| {
            std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        Owner {
            host: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            machine: read("/etc/machine-id"),
            boot: read("/proc/sys/kernel/random/boot_id"),
            pid_ns: pid_namespace(),
            pid: std::process::id(),
            pid_start: start_of(std::process::id()).unwrap_or(0),
            since: jiff::Timestamp::now().to_string(),
            beat: 0,
        }
    }

    /// Whether it is the same run, however often it has shown life.
    pub fn is(&self, other: &Owner) -> bool {
        *self == Owner { beat: self.beat, ..other.clone() }
    }

    pub fn life_seen_by(&self, me: &Owner) -> Life {
        if self.boot == me.boot {
            if self.pid_ns.is_some() && self.pid_ns != me.pid_ns {
                return Life::Unknown;
            }
            let lives = start_of(self.pid) == Some(self.pid_start);
            return if lives { Life::Alive } else { Life::Dead };
        }
        let here = !me.machine.is_empty() && (&self.machine, &self.host) == (&me.machine, &me.host);
        if here { Life::Rebooted } else { Life::Unknown }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {} since {}", self.pid, self.host, self.since)
    }
}

/// Which numbers of processes are meant.
pub fn pid_namespace() -> Option<u64> {
    std::fs::metadata("/proc/self/ns/pid").ok().map(|found| found.ino())
}

/// When a process started, in ticks since boot. None: there is no such process.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in brackets that may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_an_older_rr_is_judged_as_it_did() {
        let me = Owner { pid_ns: None, ..Owner::me() };
        let text = serde_json::to_string(&me).unwrap();
        assert!(!text.contains("pid_ns"), "{text}");
        let old: Owner = serde_json::from_str(&text).unwrap();
        assert_eq!(old.life_seen_by(&Owner::me()), Life::Alive);
        let dead = Owner { pid: 4_194_305, ..old };
        assert_eq!(dead.life_seen_by(&Owner::me()), Life::Dead);
    }
}
