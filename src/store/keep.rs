//! Which generations the retention keeps, and why.
//!
//! The rules are those of `restic forget` and `borg prune`: what any rule keeps is kept. `keep_last`
//! counts generations. `keep_daily`, `keep_weekly` and `keep_monthly` count days (in UTC, so that
//! every machine that prunes says the same), ISO weeks and months that have a generation, and keep
//! the newest of each; a rule that finds fewer keeps the oldest generation as well, so that a new
//! node has something to grow a history from. What is younger than `keep_min_age_days` is kept
//! whatever the others say. The newest is always kept.
//!
//! The rules are for each [`Subject`] on its own: hourly backups of one directory use up no place of
//! the nightly ones of the machine.
//!
//! Of what was not read in full (a disk with bad sectors), any number is worth less than one that
//! was: the newest generation that is complete is kept as well, however old. So is the newest that
//! has no problem besides: nobody may have seen for weeks that /boot was not mounted.
//!
//! Clocks are wrong at times, and a wrong one must not cost a backup:
//!
//! * The order is that of the names, which rises whatever the clock says ([`super::catalog`]).
//! * A day counts once, also where the clock went back to it, so that a clock that comes and goes
//!   does not use up a rule.
//! * No rule but the minimum age asks what time it is now. There, a time that is still to come, or
//!   before that of an earlier generation, is not believed: such a generation was made before the
//!   next one, and for all that is known just before.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::catalog::{self, Manifest, Subject};
use crate::config::BackupConfig;

/// The rules. 0 switches one off, except that the newest generation stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    pub last: usize,
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
    pub min_age_days: u32,
}

impl From<&BackupConfig> for Keep {
    fn from(config: &BackupConfig) -> Keep {
        Keep {
            last: config.keep_last,
            daily: config.keep_daily,
            weekly: config.keep_weekly,
            monthly: config.keep_monthly,
            min_age_days: config.keep_min_age_days,
        }
    }
}

/// A generation as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub generation: String,
    /// When it was begun, as the clock of then told.
    pub at: Timestamp,
    pub subject: Subject,
    /// All that was selected could be read.
    pub complete: bool,
    /// That, and nothing leaves the machine without a way back.
    pub sound: bool,
}

impl Made {
    pub fn of(manifest: &Manifest) -> Made {
        let generation = manifest.generation.clone();
        let told = manifest.started.parse().ok();
        let at = told.or_else(|| catalog::time_of(&generation)).unwrap_or(Timestamp::MIN);
        let complete = manifest.is_complete();
        let sound = complete && manifest.problems().next().is_none();
        Made { generation, at, subject: manifest.subject(), complete, sound }
    }
}

/// What becomes of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub generation: String,
    /// The rules that keep it; it is deleted where there is none.
    pub kept: Vec<String>,
}

impl Verdict {
    pub fn is_kept(&self) -> bool {
        !self.kept.is_empty()
    }
}

/// The name of the day, week or month that a time is in.
type PeriodOf = fn(Timestamp) -> String;

/// Judges all generations, which are in the order in which they were made.
pub fn judge(made: &[Made], keep: &Keep, now: Timestamp) -> Vec<Verdict> {
    let subjects: BTreeSet<&Subject> = made.iter().map(|made| &made.subject).collect();
    let of = |subject: &Subject| {
        let alike: Vec<&Made> = made.iter().filter(|made| made.subject == *subject).collect();
        judge_alike(&alike, keep, now)
    };
    let mut verdicts: Vec<Verdict> = subjects.into_iter().flat_map(of).collect();
    // Names rise in the order in which generations were made.
    verdicts.sort_by(|a, b| a.generation.cmp(&b.generation));
    verdicts
}

/// Judges all generations of one subject.
fn judge_alike(made: &[&Made], keep: &Keep, now: Timestamp) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = made
        .iter()
        .map(|made| Verdict { generation: made.generation.clone(), kept: Vec::new() })
        .collect();
    for verdict in verdicts.iter_mut().rev().take(keep.last.max(1)) {
        verdict.kept.push("last".to_owned());
    }
    let newest = [
        ("the newest of which all could be read", made.iter().rposition(|made| made.complete)),
        ("the newest without a problem", made.iter().rposition(|made| made.sound)),
    ];
    for (why, at) in newest {
        if let Some(at) = at
            && verdicts[at].kept.is_empty()
        {
            verdicts[at].kept.push(why.to_owned());
        }
    }
    let rules: [(&str, usize, PeriodOf); 3] = [
        ("daily", keep.daily, day),
        ("weekly", keep.weekly, week),
        ("monthly", keep.monthly, month),
    ];
    for (rule, count, period) in rules {
        let mut seen = BTreeSet::new();
        for (verdict, made) in verdicts.iter_mut().zip(made).rev() {
            let period = period(made.at);
            if seen.len() < count && !seen.contains(&period) {
                verdict.kept.push(format!("{rule} {period}"));
                seen.insert(period);
            }
        }
        if let Some(oldest) = verdicts.first_mut()
            && seen.len() < count
            && !oldest.kept.iter().any(|why| why.starts_with(rule))
        {
            oldest.kept.push(format!("{rule}, as the oldest"));
        }
    }
    if keep.min_age_days > 0 {
        let min_age = SignedDuration::from_hours(24 * i64::from(keep.min_age_days));
        for (verdict, made) in verdicts.iter_mut().zip(latest_possible(made, now)) {
            if now.duration_since(made) < min_age {
                verdict.kept.push(format!("younger than {} days", keep.min_age_days));
            }
        }
    }
    verdicts
}

/// When each was made at the latest, going by the times that can be believed.
fn latest_possible(made: &[&Made], now: Timestamp) -> Vec<Timestamp> {
    let mut believed = Timestamp::MIN;
    let mut times: Vec<Option<Timestamp>> = Vec::new();
    for made in made {
        let time = (believed..=now).contains(&made.at).then_some(made.at);
        believed = time.unwrap_or(believed);
        times.push(time);
    }
    let mut next = now;
    let mut latest: Vec<Timestamp> = times
        .into_iter()
        .rev()
        .map(|time| {
            next = time.unwrap_or(next);
            next
        })
        .collect();
    latest.reverse();
    latest
}

fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).date().to_string()
}

fn week(time: Timestamp) -> String {
    let week = time.to_zoned(TimeZone::UTC).date().iso_week_date();
    format!("{}-W{:02}", week.year(), week.week())
}

fn month(time: Timestamp) -> String {
    let date = time.to_zoned(TimeZone::UTC).date();
    format!("{}-{:02}", date.year(), date.month())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NIGHT: i64 = 24 * 3600;

    fn made(times: &[Timestamp]) -> Vec<Made> {
        let name = |(number, at): (usize, &Timestamp)| Made {
            generation: format!("{number:05}"),
            at: *at,
            subject: Subject::Machine,
            complete: true,
            sound: true,
        };
        times.iter().enumerate().map(name).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn date(text: &str) -> Timestamp {
        format!("{text}T01:35:00Z").parse().unwrap()
    }

    fn kept(verdicts: &[Verdict]) -> Vec<&str> {
        verdicts.iter().filter(|v| v.is_kept()).map(|v| v.generation.as_str()).collect()
    }

    /// The generations that are left after a year of nights, pruned every night.
    fn year(keep: Keep, clock: impl Fn(i64) -> i64) -> Vec<Made> {
        let start = date("2026-01-01").as_second();
        let mut left: Vec<Made> = Vec::new();
        for night in 0..365 {
            let now = at(start + NIGHT * clock(night));
            let generation = format!("{night:05}");
            left.push(Made {
                generation,
                at: now,
                subject: Subject::Machine,
                complete: true,
                sound: true,
            });
            let verdicts = judge(&left, &keep, now);
            left = left
                .into_iter()
                .zip(verdicts)
                .filter(|(_, v)| v.is_kept())
                .map(|(m, _)| m)
                .collect();
        }
        left
    }

    #[test]
    fn each_rule_says_what_it_keeps() {
        let all = made(
            &["2026-09-30", "2026-10-30", "2026-10-31", "2026-11-01", "2026-11-02", "2026-11-03"]
                .map(date),
        );
        let keep = Keep { last: 1, daily: 2, weekly: 2, monthly: 3, min_age_days: 0 };
        let why: Vec<String> =
            judge(&all, &keep, date("2026-11-04")).iter().map(|v| v.kept.join(", ")).collect();
        assert_eq!(
            why,
            [
                "monthly 2026-09",
                "",
                "monthly 2026-10",
                "weekly 2026-W44",
                "daily 2026-11-02",
                "last, daily 2026-11-03, weekly 2026-W45, monthly 2026-11",
            ]
        );
        let keep = Keep { last: 1, min_age_days: 3, ..Keep::default() };
        let verdicts = judge(&all, &keep, date("2026-11-04"));
        assert_eq!(kept(&verdicts), ["00004", "00005"], "the third day is over");
    }

    #[test]
    fn a_year_of_nights_leaves_days_weeks_and_months() {
        let keep = Keep { last: 1, daily: 7, weekly: 4, monthly: 12, min_age_days: 0 };
        let left = year(keep, |night| night);
        let dates: Vec<String> = left.iter().map(|m| day(m.at)).collect();
        // The last of each month, Sundays, and a week; the year began on a Thursday.
        let expected = "2026-01-31 2026-02-28 2026-03-31 2026-04-30 2026-05-31 2026-06-30 \
                        2026-07-31 2026-08-31 2026-09-30 2026-10-31 2026-11-30 2026-12-13 \
                        2026-12-20 2026-12-25 2026-12-26 2026-12-27 2026-12-28 2026-12-29 \
                        2026-12-30 2026-12-31";
        assert_eq!(dates.join(" "), expected);
    }

    #[test]
    fn backups_of_some_trees_use_up_no_place_of_the_machine() {
        let mut all = made(&["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"].map(date));
        let etc = Subject::of_trees(&["/etc".to_owned()]);
        all[2].subject = etc.clone();
        all[3].subject = etc;
        let keep = Keep { last: 1, ..Keep::default() };
        assert_eq!(kept(&judge(&all, &keep, date("2026-11-05"))), ["00001", "00003"]);
    }

    #[test]
    fn what_could_not_be_read_does_not_cost_the_last_that_could() {
        let mut all = made(&["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"].map(date));
        all[2].complete = false;
        all[3].complete = false;
        let keep = Keep { last: 2, ..Keep::default() };
        let verdicts = judge(&all, &keep, date("2026-11-05"));
        assert_eq!(kept(&verdicts), ["00001", "00002", "00003"]);
        assert_eq!(verdicts[1].kept, ["the newest of which all could be read"]);
    }

    #[test]
    fn nights_with_a_problem_do_not_cost_the_last_without_one() {
        let mut all = made(&["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"].map(date));
        (all[1].sound, all[2].sound) = (false, false);
        (all[3].complete, all[3].sound) = (false, false);
        let keep = Keep { last: 1, ..Keep::default() };
        let verdicts = judge(&all, &keep, date("2026-11-05"));
        assert_eq!(kept(&verdicts), ["00000", "00002", "00003"]);
        assert_eq!(verdicts[0].kept, ["the newest without a problem"]);
    }

    #[test]
    fn a_clock_that_was_wrong_for_a_time_costs_no_month() {
        let keep = Keep { last: 3, daily: 7, weekly: 4, monthly: 12, min_age_days: 0 };
        let months =
            |left: &[Made]| -> BTreeSet<String> { left.iter().map(|m| month(m.at)).collect() };
        let right = months(&year(keep, |night| night));
        // In 1970 every other night of October; a week in the far future.
        let broken = |night: i64| match night {
            280..310 if night % 2 == 0 => -20_000,
            320..327 => 30_000,
            _ => night,
        };
        let lost: Vec<_> = right.difference(&months(&year(keep, broken))).cloned().collect();
        // Each wrong time has used one place of the twelve.
        assert_eq!(lost, ["2026-01", "2026-02"]);
    }

    #[test]
    fn times_that_can_not_be_are_not_believed() {
        let now = at(100);
        let latest = |times: &[i64]| -> Vec<i64> {
            let times: Vec<_> = times.iter().map(|t| at(*t)).collect();
            let made = made(&times);
            let made: Vec<&Made> = made.iter().collect();
            latest_possible(&made, now).into_iter().map(Timestamp::as_second).collect()
        };
        assert_eq!(latest(&[10, 20, 30]), [10, 20, 30]);
        assert_eq!(latest(&[10, 5, 30]), [10, 30, 30], "set back");
        assert_eq!(latest(&[10, 500, 30]), [10, 30, 30], "set forward");
        assert_eq!(latest(&[10, 500, 5]), [10, 100, 100]);
        assert_eq!(latest(&[500, 501]), [100, 100], "the clock of now is behind");
    }

    fn keeps() -> impl Strategy<Value = Keep> {
        (0..5_usize, 0..5_usize, 0..5_usize, 0..5_usize, 0..40_u32).prop_map(
            |(last, daily, weekly, monthly, min_age_days)| Keep {
                last,
                daily,
                weekly,
                monthly,
                min_age_days,
            },
        )
    }

    /// Rising times, and which of them a wrong clock told, and as what.
    fn histories() -> impl Strategy<Value = Vec<(i64, Option<i64>)>> {
        let wrong = proptest::option::weighted(0.2, 0..4_000_000_000_i64);
        proptest::collection::vec((60..20 * NIGHT, wrong), 0..40).prop_map(|steps| {
            let mut time = 1_700_000_000;
            let next = |(step, wrong)| {
                time += step;
                (time, wrong)
            };
            steps.into_iter().map(next).collect()
        })
    }

    fn told(history: &[(i64, Option<i64>)]) -> Vec<Made> {
        let times: Vec<_> =
            history.iter().map(|(time, wrong)| at(wrong.unwrap_or(*time))).collect();
        made(&times)
    }

    proptest! {
        #[test]
        fn whatever_clocks_say(history in histories(), keep in keeps(), wait in 0..10 * NIGHT) {
            let all = told(&history);
            let now = history.last().map_or(0, |(time, _)| *time) + wait;
            let verdicts = judge(&all, &keep, at(now));
            prop_assert_eq!(verdicts.len(), all.len());
            // The newest ones stay.
            for verdict in verdicts.iter().rev().take(keep.last.max(1)) {
                prop_assert!(verdict.is_kept(), "{verdict:?}");
            }
            // So does what is young, where its own clock was right.
            for ((time, wrong), verdict) in history.iter().zip(&verdicts) {
                let young = now - time < i64::from(keep.min_age_days) * NIGHT;
                prop_assert!(!young || wrong.is_some() || verdict.is_kept(), "{verdict:?}");
            }
            // As many periods as asked for, where there are as many.
            let asked: [(usize, PeriodOf); 3] =
                [(keep.daily, day), (keep.weekly, week), (keep.monthly, month)];
            for (count, period) in asked {
                let periods = |only_kept: bool| {
                    let some = all.iter().zip(&verdicts).filter(|(_, v)| !only_kept || v.is_kept());
                    some.map(|(made, _)| period(made.at)).collect::<BTreeSet<_>>().len()
                };
                prop_assert!(periods(true) >= count.min(periods(false)));
            }
            // No more than the rules ask for.
            let rules = keep.last.max(1) + keep.daily + keep.weekly + keep.monthly;
            prop_assert!(keep.min_age_days > 0 || kept(&verdicts).len() <= rules);
        }

        #[test]
        fn what_is_kept_once_is_kept_again(history in histories(), keep in keeps()) {
            let keep = Keep { min_age_days: 0, ..keep };
            let all = told(&history);
            let verdicts = judge(&all, &keep, at(0));
            let left: Vec<Made> = all
                .iter()
                .zip(&verdicts)
                .filter(|(_, v)| v.is_kept())
                .map(|(made, _)| made.clone())
                .collect();
            let again = judge(&left, &keep, at(i64::from(u32::MAX)));
            prop_assert_eq!(kept(&again), kept(&verdicts));
        }

        #[test]
        fn who_asks_for_more_loses_nothing(history in histories(), keep in keeps(), more in keeps()) {
            let more = Keep {
                last: keep.last + more.last,
                daily: keep.daily + more.daily,
                weekly: keep.weekly + more.weekly,
                monthly: keep.monthly + more.monthly,
                min_age_days: keep.min_age_days + more.min_age_days,
            };
            let all = told(&history);
            let now = at(2_000_000_000);
            let fewer = judge(&all, &keep, now);
            let more = judge(&all, &more, now);
            for (fewer, more) in fewer.iter().zip(&more) {
                prop_assert!(!fewer.is_kept() || more.is_kept(), "{fewer:?} {more:?}");
            }
        }
    }
}
