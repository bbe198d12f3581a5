//! Whether QEMU still runs what is in it.
//!
//! Under emulation QEMU now and then stands still for good, the guest in the middle of its kernel's
//! start. Nothing that the guest did caused that, and waiting for it to speak would take all the
//! time that a slow guest is given. So it is told apart: by the processor time that QEMU uses, as a
//! guest that waits for something still has its clock tick, a few hundredths of a second in each
//! second; and while it boots, by a console that says no more ([`super::Vm::wait_boot`]).

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long no processor time is used by one that stands still. A process that is merely starved by
/// others gets some of it in that time.
const SPAN: Duration = Duration::from_secs(90);
/// What the main loop's own timers may take in that time, in clock ticks (hundredths of a second).
const NOTHING_TICKS: u64 = 5;

/// QEMU stands still: not the guest's fault, and the same may be tried again.
#[derive(Debug, thiserror::Error)]
#[error("QEMU stands still: {why}; its threads: {threads}")]
pub struct StandsStill {
    why: String,
    threads: String,
}

/// Of one process.
#[derive(Debug, Clone)]
pub struct Pulse {
    pid: u32,
    /// When it had used how many clock ticks, the last time that it was seen to run.
    seen: Option<(Instant, u64)>,
}

impl Pulse {
    pub fn of(pid: u32) -> Pulse {
        Pulse { pid, seen: None }
    }

    /// To be asked again and again while somebody waits.
    ///
    /// # Errors
    /// [`StandsStill`]. A process that is gone has no pulse and is no error: that is for its owner
    /// to see.
    pub fn check(&mut self) -> Result<()> {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return Ok(());
        };
        let ticks = ticks_used(&stat).with_context(|| format!("parsing {stat:?}"))?;
        if self.stands_still(Instant::now(), ticks) {
            let why = format!("no processor time used in {} s", SPAN.as_secs());
            return Err(self.stopped(why).into());
        }
        Ok(())
    }

    pub(super) fn stopped(&self, why: String) -> StandsStill {
        StandsStill { why, threads: self.threads() }
    }

    fn stands_still(&mut self, now: Instant, ticks: u64) -> bool {
        match self.seen {
            Some((then, used)) if ticks <= used + NOTHING_TICKS => now - then > SPAN,
            _ => {
                self.seen = Some((now, ticks));
                false
            }
        }
    }

    /// What each thread is and where in the kernel it waits, for who looks for the cause.
    fn threads(&self) -> String {
        let read = |task: &fs::DirEntry, name: &str| {
            let text = fs::read_to_string(task.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten();
        let described = tasks.flatten().map(|task| {
            let stat = read(&task, "stat");
            let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]);
            format!("{} ({state} in {})", read(&task, "comm"), read(&task, "wchan"))
        });
        described.collect::<Vec<_>>().join(", ")
    }
}

/// User and system time of a process in clock ticks, from `/proc/PID/stat`: proc_pid_stat(5). The
/// second field is a name with anything in it, in parentheses.
fn ticks_used(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_uses_no_time_for_the_whole_span_stands_still() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut pulse = Pulse::of(1);
        for (seconds, ticks, still) in [
            (0, 1000, false),
            (60, 1003, false),
            (89, 1005, false),
            // One that runs slowly is given the span anew.
            (90, 1006, false),
            (180, 1006, false),
            (181, 1006, true),
            (182, 1012, false),
            (272, 1012, false),
        ] {
            assert_eq!(pulse.stands_still(after(seconds), ticks), still, "after {seconds} s");
        }
    }

    #[test]
    fn the_times_of_a_process_are_found_behind_any_name() {
        // Of qemu-system-x86, renamed.
        let stat =
            "4242 (a) 1 (b c) S 1 4242 4242 0 -1 4194304 5 0 0 0 731 269 0 0 20 0 5 0 99 1 2 3";
        assert_eq!(ticks_used(stat), Some(1000));
        assert_eq!(ticks_used("4242 (short) S 1"), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(ticks_used(&own).is_some());
    }

    #[test]
    fn a_process_that_is_gone_is_no_error_and_threads_are_told() {
        assert!(Pulse::of(u32::MAX).check().is_ok());
        assert!(Pulse::of(std::process::id()).threads().contains(" in "));
    }
}
