//! Who holds a lock, and what can be known of whether it lives.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
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
            pid_start: match Process::of(std::process::id()) {
                Process::Since(start) => start,
                _ => 0,
            },
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
            return match Process::of(self.pid) {
                Process::Since(start) if start == self.pid_start => Life::Alive,
                Process::Since(_) | Process::Gone => Life::Dead,
                Process::Hidden => Life::Unknown,
            };
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

/// What the kernel says of a number of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// It runs, since so many ticks after boot.
    Since(u64),
    Gone,
    /// It is there, and not for us to look at.
    Hidden,
}

impl Process {
    pub fn of(pid: u32) -> Process {
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => Process::told_by(&stat),
            // It may also end while it is read.
            Err(error) if error.kind() == ErrorKind::NotFound => Process::Gone,
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Process::Gone,
            Err(_) => Process::Hidden,
        }
    }

    /// By `/proc/PID/stat`. One that has ended is there until its parent has asked how, which in a
    /// container nobody may ever do. It writes no more, but for threads that still have to end: one
    /// may hang in a write to a server that is away.
    fn told_by(stat: &[u8]) -> Process {
        // The second field is a name in brackets that may hold anything.
        let Some(end) = stat.iter().rposition(|&byte| byte == b')') else {
            return Process::Hidden;
        };
        let rest = String::from_utf8_lossy(&stat[end + 1..]);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let (has_ended, threads) = (matches!(field(3), "Z" | "X" | "x"), field(20).parse::<u64>());
        match field(22).parse() {
            _ if has_ended && threads.is_ok_and(|threads| threads <= 1) => Process::Gone,
            Ok(start) => Process::Since(start),
            Err(_) => Process::Hidden,
        }
    }
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

    #[test]
    fn one_that_was_killed_is_dead_though_nobody_has_asked_for_it() {
        let mut child = crate::sys::run::Cmd::new("sleep")
            .arg("600")
            .spawn(std::process::Stdio::null(), std::process::Stdio::null())
            .unwrap();
        let Process::Since(pid_start) = Process::of(child.id()) else { panic!("it runs") };
        let owner = Owner { pid: child.id(), pid_start, ..Owner::me() };
        assert_eq!(owner.life_seen_by(&Owner::me()), Life::Alive);
        child.kill().unwrap();
        let started = std::time::Instant::now();
        while owner.life_seen_by(&Owner::me()) == Life::Alive {
            assert!(started.elapsed().as_secs() < 20, "it counts as alive for ever");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(owner.life_seen_by(&Owner::me()), Life::Dead);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        assert!(stat.contains(" Z "), "{stat}");
        child.wait().unwrap();
        assert_eq!(Process::of(child.id()), Process::Gone);
    }

    #[test]
    fn what_a_process_is_is_told_whatever_its_name_is() {
        let stat = |name: &str, state: &str, threads: u32| {
            let text = format!(
                "77 ({name}) {state} 1 77 77 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 {threads} 0 4711 8 9\n"
            );
            Process::told_by(text.as_bytes())
        };
        for name in ["rr", "a b) Z 1 (c", ") Z 1 77 77 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 1 0 5"] {
            for (state, threads) in [("S", 1), ("R", 9), ("D", 1), ("Z", 2), ("T", 1)] {
                assert_eq!(stat(name, state, threads), Process::Since(4711), "{state} {threads}");
            }
            for (state, threads) in [("Z", 1), ("Z", 0), ("X", 1)] {
                assert_eq!(stat(name, state, threads), Process::Gone, "{state} {threads}");
            }
        }
        let mut strange =
            b"77 (\xff) S 1 77 77 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 1 0 4711 8".to_vec();
        assert_eq!(Process::told_by(&strange), Process::Since(4711));
        strange.truncate(20);
        assert_eq!(Process::told_by(&strange), Process::Hidden);
        assert_eq!(Process::told_by(b""), Process::Hidden);
    }
}
