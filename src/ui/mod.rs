//! What rr says: steps, messages, progress, questions, and the log file.
//!
//! One [`Ui`] is made in `main` (or in `init`) and handed down. Everything that it says also goes
//! to the log. On a terminal it is coloured and moves; elsewhere it is plain lines; with `--json`
//! each event is one JSON object a line.

pub mod ask;
pub mod log;
pub mod progress;
pub mod verdict;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Result;

use crate::sys::sync::lock;

pub use progress::Progress;

/// How many columns a line may have: 80 where no terminal says more. A serial console says none.
pub fn columns() -> usize {
    let terminal = terminal_size::terminal_size();
    terminal.map_or(80, |(width, _)| usize::from(width.0)).max(80)
}

/// `1 file`, `2 files`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Terminal,
    Plain,
    Json,
}

/// What was written to the terminal so far: lines of ours, questions and their answers.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// A line of at most this many columns is one line on every terminal.
const ONE_LINE: usize = 79;

/// A handle to the one place that output goes through; clones are cheap.
#[derive(Debug, Clone)]
pub struct Ui {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    style: Style,
    depth: AtomicUsize,
    /// Everything that was warned about, for the summary at the end.
    warnings: Mutex<Vec<String>>,
    /// The bar that is on the screen now, to be cleared before a line is written.
    bar: Mutex<Option<indicatif::ProgressBar>>,
}

impl Ui {
    pub fn new(style: Style) -> Ui {
        Ui {
            inner: Arc::new(Inner {
                style,
                depth: AtomicUsize::new(0),
                warnings: Mutex::new(Vec::new()),
                bar: Mutex::new(None),
            }),
        }
    }

    /// Terminal or plain, by what standard error is; JSON on request.
    pub fn detect(json: bool) -> Ui {
        Ui::new(if json {
            Style::Json
        } else if std::io::stderr().is_terminal() {
            Style::Terminal
        } else {
            Style::Plain
        })
    }

    pub fn style(&self) -> Style {
        self.inner.style
    }

    /// Announces a step, runs it, and says how long it took. Steps nest. On a terminal the second line
    /// takes the place of the first where nothing was said in between.
    pub fn step<T>(&self, name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        self.say("step", &Paint::bold(name));
        let announced = WRITTEN.load(Ordering::Relaxed);
        self.inner.depth.fetch_add(1, Ordering::Relaxed);
        let result = body();
        self.inner.depth.fetch_sub(1, Ordering::Relaxed);
        let seconds = started.elapsed().as_secs_f64();
        match &result {
            Ok(_) if seconds >= 0.1 => {
                let done = format!("{name}: done in {seconds:.1} s");
                if self.takes_back(announced, &done) {
                    self.say("done", &Paint::again(&done));
                } else {
                    self.say("done", &Paint::dim(&done));
                }
            }
            // Done at once: only what was bold while it ran is no longer.
            Ok(_) if self.takes_back(announced, name) => self.show(&Paint::again(name)),
            Ok(_) => {}
            Err(_) => {
                self.say("failed", &Paint::red(&format!("{name}: failed after {seconds:.1} s")));
            }
        }
        result
    }

    /// Whether the last line can be written anew, as `line`: it is the one that was written when
    /// `announced` were.
    fn takes_back(&self, announced: u64, line: &str) -> bool {
        let columns = self.inner.depth.load(Ordering::Relaxed) * 2 + line.chars().count();
        self.inner.style == Style::Terminal
            && WRITTEN.load(Ordering::Relaxed) == announced
            && columns <= ONE_LINE
    }

    /// Lines of which those that are not indented are headings.
    pub fn sections(&self, text: &str) {
        for line in text.lines() {
            let is_heading = line.starts_with(|first: char| first != ' ');
            self.say("info", &if is_heading { Paint::bold(line) } else { Paint::plain(line) });
        }
    }

    /// What must not be overlooked.
    pub fn alarm(&self, text: impl AsRef<str>) {
        self.say("alarm", &Paint::red(text.as_ref()));
    }

    pub fn info(&self, text: impl AsRef<str>) {
        self.say("info", &Paint::plain(text.as_ref()));
    }

    /// Said at once and again in the summary at the end.
    pub fn warn(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        lock(&self.inner.warnings).push(text.to_owned());
        self.say("warning", &Paint::yellow(&format!("warning: {text}")));
    }

    /// As [`Ui::warn`], where it was not said yet: for what more than one step comes upon.
    pub fn warn_once(&self, text: impl AsRef<str>) {
        let said = lock(&self.inner.warnings).iter().any(|said| said == text.as_ref());
        if !said {
            self.warn(text);
        }
    }

    pub fn success(&self, text: impl AsRef<str>) {
        self.say("success", &Paint::green(text.as_ref()));
    }

    /// A failure, with its chain of causes in one line; lines after the first are hints.
    pub fn error(&self, error: &anyhow::Error) {
        self.say("error", &Paint::red(&format!("error: {error:#}")));
    }

    pub fn warnings(&self) -> Vec<String> {
        lock(&self.inner.warnings).clone()
    }

    /// A bar (or its plain or JSON form) towards `total` of `unit`s. Zero: the total is not known.
    pub fn progress(&self, name: &str, total: u64, unit: progress::Unit) -> Progress {
        Progress::new(self.clone(), name, total, unit)
    }

    pub(crate) fn say(&self, event: &str, text: &Paint<'_>) {
        let depth = self.inner.depth.load(Ordering::Relaxed);
        let indented = indented(&text.text, depth);
        ::log::info!(target: "rr::ui", "{indented}");
        match self.inner.style {
            Style::Json => {
                let line = serde_json::json!({ "event": event, "depth": depth, "text": text.text });
                self.write(&line.to_string());
            }
            Style::Plain => self.write(&indented),
            Style::Terminal => self.show(text),
        }
    }

    /// On a terminal.
    fn show(&self, text: &Paint<'_>) {
        let lines = indented(&text.text, self.inner.depth.load(Ordering::Relaxed));
        let up = if text.again { ONE_UP } else { "" };
        self.write(&format!("{up}\x1b[{}m{lines}\x1b[0m", text.code));
    }

    pub(crate) fn write(&self, line: &str) {
        wrote();
        let write = || {
            let mut err = std::io::stderr().lock();
            // Nobody is left to be told when standard error is gone.
            let _ = writeln!(err, "{line}");
        };
        match lock(&self.inner.bar).as_ref() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub(crate) fn set_bar(&self, bar: Option<indicatif::ProgressBar>) {
        *lock(&self.inner.bar) = bar;
    }
}

/// Each line of it.
fn indented(text: &str, depth: usize) -> String {
    let indent = " ".repeat(depth * 2);
    format!("{indent}{}", text.replace('\n', &format!("\n{indent}")))
}

/// An item of a list: its further lines stand below its first.
pub fn hanging(text: &str) -> String {
    text.replace('\n', "\n  ")
}

/// One marked item each, with its further lines below the first.
pub fn listed(items: &[String]) -> String {
    items.iter().map(|item| format!("* {}", hanging(item))).collect::<Vec<_>>().join("\n")
}

/// Something was written to the terminal.
fn wrote() {
    WRITTEN.fetch_add(1, Ordering::Relaxed);
}

/// To the line above, and erases it: CUU and EL of ECMA-48.
const ONE_UP: &str = "\x1b[1A\r\x1b[2K";

/// A text and the SGR code (ECMA-48) that colours it on a terminal.
pub(crate) struct Paint<'a> {
    text: std::borrow::Cow<'a, str>,
    code: &'static str,
    /// In the place of the line above.
    again: bool,
}

impl<'a> Paint<'a> {
    fn new(text: &'a str, code: &'static str) -> Self {
        Paint { text: text.into(), code, again: false }
    }
    fn again(text: &'a str) -> Self {
        Paint { again: true, ..Self::plain(text) }
    }
    pub(crate) fn plain(text: &'a str) -> Self {
        Self::new(text, "0")
    }
    fn bold(text: &'a str) -> Self {
        Self::new(text, "1")
    }
    fn dim(text: &'a str) -> Self {
        Self::new(text, "2")
    }
    fn red(text: &'a str) -> Self {
        Self::new(text, "1;31")
    }
    fn green(text: &'a str) -> Self {
        Self::new(text, "1;32")
    }
    fn yellow(text: &'a str) -> Self {
        Self::new(text, "33")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_message_is_indented() {
        assert_eq!(indented("warning: x\nhint: y\nz", 2), "    warning: x\n    hint: y\n    z");
        assert_eq!(indented("warning: x\nhint: y", 0), "warning: x\nhint: y");
    }

    #[test]
    fn one_is_not_many() {
        let said = [0, 1, 2].map(|count| counted(count, "entry", "entries"));
        assert_eq!(said, ["0 entries", "1 entry", "2 entries"]);
    }

    #[test]
    fn what_was_warned_of_is_not_said_again() {
        let ui = Ui::new(Style::Plain);
        ["a", "b", "a"].iter().for_each(|text| ui.warn_once(text));
        assert_eq!(ui.warnings(), ["a", "b"]);
    }

    #[test]
    fn a_line_is_written_anew_only_where_it_is_the_last_one() {
        let ui = Ui::new(Style::Terminal);
        // Other tests write as well.
        let lasts =
            |line: &str| (0..1000).any(|_| ui.takes_back(WRITTEN.load(Ordering::Relaxed), line));
        assert!(lasts("erase sda: done in 0.2 s"));
        assert!(!lasts(&"long ".repeat(20)), "it may be two lines");
        let announced = WRITTEN.load(Ordering::Relaxed);
        ui.info("something else");
        assert!(!ui.takes_back(announced, "erase sda"));
        let plain = Ui::new(Style::Plain);
        assert!(!plain.takes_back(WRITTEN.load(Ordering::Relaxed), "erase sda"));
    }

    #[test]
    fn each_thing_that_went_wrong_is_an_item() {
        let items = ["no kernel\nhint: look".to_owned(), "no GRUB".to_owned()];
        assert_eq!(listed(&items), "* no kernel\n  hint: look\n* no GRUB");
    }
}
