//! The clock of a machine whose battery is empty: it can't be earlier than the backup. In 1970 no
//! certificate is valid, and no server of https or S3 would be believed.

use jiff::Timestamp;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// Puts the clock forward to `recorded` (RFC 3339) where it is behind.
pub fn not_before(recorded: &str) {
    let now = Timestamp::now();
    let Some(then) = later(recorded, now) else { return };
    log::warn!("the clock says {now:.0}: put forward to {then:.0}, when the image was made");
    let time = TimeSpec::new(then.as_second(), 0);
    if let Err(errno) = clock_settime(ClockId::CLOCK_REALTIME, time) {
        log::warn!("setting the clock: {errno}");
    }
}

/// `recorded`, where it is later than `now`.
fn later(recorded: &str, now: Timestamp) -> Option<Timestamp> {
    recorded.parse().ok().filter(|then| *then > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_only_ever_goes_forward() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let recorded = "2026-11-21T20:00:00Z";
        assert_eq!(later(recorded, at("2000-01-01T00:00:00Z")), Some(at(recorded)));
        assert_eq!(later(recorded, at("2026-11-22T00:00:00Z")), None);
        assert_eq!(later("", at("2000-01-01T00:00:00Z")), None);
    }
}
