//! Sizes and times as people read them.

/// `8.0 GiB`; exact below one KiB.
#[allow(clippy::cast_precision_loss)] // for people
pub fn size(bytes: u64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut amount = bytes as f64 / 1024.0;
    if amount < 1.0 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A time of RFC 3339 in UTC, to the minute, for people.
pub fn shown_time(time: &str) -> String {
    match time.get(..16) {
        Some(minute) => format!("{} UTC", minute.replace('T', " ")),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::shown_time;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (8 << 30, "8.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(super::size(bytes), text);
        }
    }

    #[test]
    fn times_are_shown_to_the_minute() {
        assert_eq!(shown_time("2026-11-21T11:41:21.618150169Z"), "2026-11-21 11:41 UTC");
        assert_eq!(shown_time(""), "");
    }
}
