//! The disks as they are and as they will be, next to each other.

use std::fmt::Write;

use super::Plan;
use crate::layout::{Layout, show};

const NOW: &str = "The disks are now:";
const THEN: &str = "The machine will be:";
const INDENT: &str = "  ";
const BETWEEN: &str = " │ ";
/// With fewer columns than this, half of them is too little for the lines of a tree.
const TWO_HALVES: usize = 100;

/// The trees of the disks that are erased, before and after: side by side, or where there is no room
/// for that, one below the other.
pub(super) fn text(plan: &Plan, present: &Layout, columns: usize) -> String {
    let room = columns.saturating_sub(width(INDENT));
    let names = names(plan);
    let mut present = present.clone();
    // To a rescue system all are; the plan uses them.
    present.disk.iter_mut().for_each(|disk| disk.unused = false);
    let now = |room: usize| show::render_disks(&present, &names, room);
    let then = |room: usize| show::render_disks(&plan.layout, &names, room);
    if columns < TWO_HALVES {
        return below(NOW, &now(room)) + &below(THEN, &then(room));
    }
    let now = now((room - width(BETWEEN)) / 2);
    let widest = now.iter().flatten().map(|line| width(line)).max().unwrap_or(0);
    let left = widest.max(width(NOW));
    side_by_side(&now, &then(room - left - width(BETWEEN)), left)
}

/// Each disk begins on the same line on both sides, of which the left one has `left` columns.
fn side_by_side(now: &[Vec<String>], then: &[Vec<String>], left: usize) -> String {
    let mut out = String::new();
    let mut row = |indent: &str, now: &str, then: &str| {
        let left = left + width(INDENT) - width(indent);
        let line = format!("{indent}{now:left$}{BETWEEN}{then}");
        let _ = writeln!(out, "{}", line.trim_end());
    };
    row("", NOW, THEN);
    for (now, then) in now.iter().zip(then) {
        for at in 0..now.len().max(then.len()) {
            let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_default();
            row(INDENT, &line(now), &line(then));
        }
    }
    out
}

/// The trees as they will be, in 80 columns.
pub(super) fn then(plan: &Plan) -> String {
    below(THEN, &show::render_disks(&plan.layout, &names(plan), 80 - width(INDENT)))
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.disks.iter().map(|found| found.new.name.as_str()).collect()
}

fn below(title: &str, disks: &[Vec<String>]) -> String {
    let mut out = format!("{title}\n");
    for line in disks.iter().flatten() {
        let _ = writeln!(out, "{INDENT}{line}");
    }
    out
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{GIB, MIB, disk, empty, fs, gpt, partition, raid_node};
    use super::super::{Answers, plan};
    use crate::layout::{Id, Layout};

    /// Of two disks for a node that is a mirror, one holds what a stranger left.
    fn dirty(label: &str) -> Layout {
        let mut present = empty();
        present.disk.extend(["vda", "vdb"].map(|name| disk(name, 20 * GIB)));
        gpt(&mut present.disk[0], 9);
        present.disk[0].serial = Some("NEW0".into());
        present.disk[0].unused = true;
        present.partition.push(partition("vda", 1, MIB, 900 * MIB));
        present.partition.push(partition("vda", 2, 901 * MIB, 900 * MIB));
        present.fs.push(fs(&Id::partition("vda1"), "ext4", 900 * MIB));
        present.fs[0].label = label.into();
        present
    }

    /// The plan for it, where the node's root filesystem has that label, too.
    fn shown(label: &str, columns: usize) -> String {
        let answers = Answers { erase: vec!["NEW0".into()], ..Answers::default() };
        let (mut recorded, present) = (raid_node(), dirty(label));
        recorded.fs[0].label = label.into();
        plan(&recorded, &present, &answers).unwrap().render_beside(&present, columns)
    }

    #[test]
    fn with_room_for_both_each_disk_begins_on_one_line() {
        let expected = include_str!("../../tests/fixtures/plan/beside-110.txt");
        assert!(shown("data", 110).contains(expected), "{}", shown("data", 110));
    }

    #[test]
    fn on_a_small_screen_one_tree_is_below_the_other() {
        let expected = include_str!("../../tests/fixtures/plan/beside-80.txt");
        assert!(shown("data", 80).contains(expected), "{}", shown("data", 80));
    }

    #[test]
    fn without_the_present_the_future_has_the_same_tree() {
        let both = include_str!("../../tests/fixtures/plan/beside-80.txt");
        let then = &both[both.find(super::THEN).unwrap()..];
        let answers = Answers { erase: vec!["NEW0".into()], ..Answers::default() };
        let mut recorded = raid_node();
        recorded.fs[0].label = "data".into();
        let text = plan(&recorded, &dirty("data"), &answers).unwrap().render_text();
        assert!(text.contains(then), "{text}");
    }

    #[test]
    fn no_line_is_longer_than_the_screen() {
        for columns in [80, 99, 100, 101, 132, 400] {
            let text = shown(&"x".repeat(60), columns);
            let most = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(most <= columns, "{columns}: {most}\n{text}");
        }
    }
}
