//! How far a long step is: a bar on a terminal, a line every some seconds elsewhere, JSON on
//! request.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::layout::units::size;

use super::{Paint, Style, Ui};

/// Plain lines come at most this often: a serial console and a log are not a terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
const JSON_EVERY: Duration = Duration::from_millis(200);
/// What is being done changes faster than anybody reads.
const CURRENT_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

/// Counts towards a total from any number of threads. Ends when dropped.
#[derive(Debug)]
pub struct Progress {
    ui: Ui,
    name: String,
    unit: Unit,
    total: u64,
    done: AtomicU64,
    started: Instant,
    bar: Option<indicatif::ProgressBar>,
    said: Mutex<Instant>,
    current: Mutex<Option<(Instant, String)>>,
}

impl Progress {
    pub(super) fn new(ui: Ui, name: &str, total: u64, unit: Unit) -> Progress {
        let bar = (ui.style() == Style::Terminal).then(|| {
            let bar = indicatif::ProgressBar::new(total).with_prefix(name.to_owned());
            set_template(&bar, template(unit, total));
            ui.set_bar(Some(bar.clone()));
            bar
        });
        let now = Instant::now();
        Progress {
            ui,
            name: name.to_owned(),
            unit,
            total,
            done: AtomicU64::new(0),
            started: now,
            bar,
            said: Mutex::new(now),
            current: Mutex::new(None),
        }
    }

    /// What is being done now: a file, for people. Asked for only as often as it is shown.
    pub fn at(&self, what: impl FnOnce() -> String) {
        // Whoever holds the lock is telling it already.
        let Ok(mut current) = self.current.try_lock() else { return };
        if current.as_ref().is_some_and(|(since, _)| since.elapsed() < CURRENT_EVERY) {
            return;
        }
        let what = what();
        if let Some(bar) = &self.bar {
            if current.is_none() {
                let line = template(self.unit, self.total);
                set_template(bar, &format!("{line}\n  {{wide_msg}}"));
            }
            bar.set_message(what.clone());
        }
        *current = Some((Instant::now(), what));
    }

    /// `amount` more is done.
    pub fn add(&self, amount: u64) {
        let done = self.done.fetch_add(amount, Ordering::Relaxed) + amount;
        match (&self.bar, self.ui.style()) {
            (Some(bar), _) => bar.set_position(done),
            (None, Style::Json) => self.say_every(JSON_EVERY, done),
            (None, _) => self.say_every(PLAIN_EVERY, done),
        }
    }

    fn say_every(&self, every: Duration, done: u64) {
        // Whoever holds the lock is saying it already.
        let Ok(mut said) = self.said.try_lock() else { return };
        if said.elapsed() < every {
            return;
        }
        *said = Instant::now();
        let total = self.total;
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let current = self.current.try_lock().ok().and_then(|now| Some(now.as_ref()?.1.clone()));
        if self.ui.style() == Style::Json {
            let line = serde_json::json!({
                "event": "progress", "name": self.name, "done": done, "total": total,
                "unit": if self.unit == Unit::Bytes { "bytes" } else { "items" },
                "seconds": seconds, "per_second": rate(done, seconds),
                "seconds_left": seconds_left(done, total, seconds), "current": current,
            });
            self.ui.write(&line.to_string());
        } else {
            let mut line = self.line(done, total, seconds);
            if let Some(current) = current {
                line += &format!(", at {current}");
            }
            self.ui.say("progress", &Paint::plain(&line));
        }
    }

    // For people, and nothing is below zero.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn line(&self, done: u64, total: u64, seconds: f64) -> String {
        let show = |amount: f64| match self.unit {
            Unit::Bytes => size(amount as u64),
            Unit::Items => format!("{amount:.0}"),
        };
        let mut line = format!("{}: {}", self.name, show(done as f64));
        if total > 0 {
            line += &format!(" of {} ({} %)", show(total as f64), done * 100 / total);
        }
        line += &format!(", {}/s", show(rate(done, seconds)));
        if let Some(left) = seconds_left(done, total, seconds) {
            line += &format!(", {left:.0} s left");
        }
        line
    }
}

#[allow(clippy::cast_precision_loss)] // for people
fn rate(done: u64, seconds: f64) -> f64 {
    done as f64 / seconds
}

/// At the rate so far; None where nothing tells.
#[allow(clippy::cast_precision_loss)] // for people
fn seconds_left(done: u64, total: u64, seconds: f64) -> Option<f64> {
    let left = total.checked_sub(done).filter(|left| *left > 0)?;
    (done > 0).then(|| left as f64 / rate(done, seconds))
}

/// Fits 80 columns. Nothing said of a bar is worth an error.
fn template(unit: Unit, total: u64) -> &'static str {
    match (unit, total) {
        (Unit::Bytes, 0) => "{spinner} {prefix} {bytes} {bytes_per_sec}",
        (Unit::Bytes, _) => "{prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
        (Unit::Items, 0) => "{spinner} {prefix} {human_pos} {per_sec}",
        (Unit::Items, _) => "{prefix} [{bar:24}] {human_pos}/{human_len} {per_sec} ETA {eta}",
    }
}

fn set_template(bar: &indicatif::ProgressBar, template: &str) {
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.ui.set_bar(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_where_there_is_a_rate() {
        assert_eq!(seconds_left(25, 100, 5.0), Some(15.0));
        assert_eq!(seconds_left(0, 100, 5.0), None);
        assert_eq!(seconds_left(100, 100, 5.0), None);
        assert_eq!(seconds_left(7, 0, 5.0), None, "the total is not known");
    }
}
