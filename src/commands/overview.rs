//! `rr list --all`: the newest backup of every node at the target, and what is wrong with it

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::layout::units::size;
use crate::rescue::stored;
use crate::store::{self, Store, catalog};

use super::{Exit, Session, print, print_json, usage};

/// What `rr list --all` says of a node.
#[derive(Debug, Default, Serialize)]
struct NodeState {
    node: String,
    /// The newest generation of the whole machine.
    generation: Option<String>,
    finished: Option<String>,
    age_seconds: Option<i64>,
    stream_bytes: u64,
    warnings: usize,
    /// Whether a rescue image lies beside it.
    rescue: bool,
    /// What is wrong with it.
    problem: Option<String>,
}

/// `rr list --all`: a line for each node.
pub(super) fn run(session: &Session<'_>, older_than: Option<jiff::SignedDuration>) -> Result<Exit> {
    let url = session.config.target_url().map_err(usage)?;
    let stores = store::open_all(&url, &session.config.target_options)?;
    let now = jiff::Timestamp::now();
    ensure!(!stores.is_empty(), "no node has a backup at {url}\nhint: is the target right?");
    let state = |(node, store): (String, store::Opened)| match store {
        Ok(store) => state_of(node, &*store, now, older_than),
        Err(error) => NodeState { node, problem: Some(in_a_line(&error)), ..NodeState::default() },
    };
    let states: Vec<NodeState> = stores.into_iter().map(state).collect();
    let late = states.iter().any(|state| state.problem.is_some());
    if session.global.json {
        print_json(&states)?;
    } else {
        print(&table(&states))?;
    }
    Ok(if late { Exit::Failed } else { Exit::Done })
}

fn state_of(
    node: String,
    store: &dyn Store,
    now: jiff::Timestamp,
    older_than: Option<jiff::SignedDuration>,
) -> NodeState {
    let image = stored::newest(store).and_then(|dir| stored::size_bytes(store, &dir));
    let rescue = matches!(image, Ok(Some(_)));
    let mut state = NodeState { node, rescue, ..NodeState::default() };
    let manifest = match catalog::find_machine(store, None) {
        Ok(manifest) => manifest,
        Err(error) => {
            state.problem = Some(in_a_line(&error));
            return state;
        }
    };
    let age = manifest.finished.parse().ok().map(|at| now.duration_since(at));
    let late =
        older_than.is_some_and(|most| age.is_none_or(|age: jiff::SignedDuration| age > most));
    let mut problems = Vec::new();
    if late {
        problems.push("late");
    }
    if !manifest.is_complete() {
        problems.push("not everything could be read");
    }
    problems.extend(manifest.problems().filter_map(|problem| problem.lines().next()));
    // What the manifest says already, in other words.
    let told = problems.iter().any(|problem| problem.starts_with("no rescue image"));
    let of_image = if told { Ok(Vec::new()) } else { stored::problems(store) };
    let of_image = of_image.unwrap_or_else(|error| vec![in_a_line(&error)]);
    problems.extend(of_image.iter().filter_map(|problem| problem.lines().next()));
    if !rescue && !problems.iter().any(|problem| problem.starts_with("no rescue image")) {
        problems.push("no rescue image");
    }
    state.problem = (!problems.is_empty()).then(|| problems.join("; "));
    state.age_seconds = age.map(|age| age.as_secs());
    state.stream_bytes = manifest.archive.stream_bytes;
    state.warnings = manifest.warnings().count();
    state.generation = Some(manifest.generation);
    state.finished = Some(manifest.finished);
    state
}

fn in_a_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

fn table(states: &[NodeState]) -> String {
    let width = states.iter().map(|state| state.node.len()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$} {:<16} {:>6} {:>11} {:>8}  {}\n",
        "NODE", "GENERATION", "AGE", "SIZE", "WARNINGS", "PROBLEM"
    );
    for state in states {
        let age = state.age_seconds.map_or_else(String::new, shown_age);
        text += format!(
            "{:<width$} {:<16} {:>6} {:>11} {:>8}  {}",
            state.node,
            state.generation.as_deref().unwrap_or("-"),
            age,
            size(state.stream_bytes),
            state.warnings,
            state.problem.as_deref().unwrap_or_default()
        )
        .trim_end();
        text += "\n";
    }
    text
}

/// In hours, and in days where it is more than two.
fn shown_age(seconds: i64) -> String {
    match seconds / 3600 {
        hours @ ..48 => format!("{hours} h"),
        hours => format!("{} d", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescue::stored::FILES;
    use crate::store::catalog::tests::example;
    use crate::store::test_store;

    fn problem_of(problems: &[&str], warnings: &[&str]) -> (Option<String>, usize) {
        let (_dir, store) = test_store();
        FILES.iter().for_each(|file| store.put(file, b"x").unwrap());
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let mut made = example("20261121T013500Z");
        made.file
            .push(catalog::put(&*store, &made.generation, "layout.toml", b"x".to_vec()).unwrap());
        made.note(&owned(problems), owned(warnings));
        catalog::publish(&*store, &made).unwrap();
        let state = state_of("node001".to_owned(), &*store, jiff::Timestamp::now(), None);
        (state.problem, state.warnings)
    }

    #[test]
    fn an_image_that_fails_night_by_night_is_in_the_overview() {
        let (_dir, store) = test_store();
        FILES.iter().for_each(|file| store.put(file, b"x").unwrap());
        let mut made = example("20261121T013500Z");
        let layout = catalog::put(&*store, &made.generation, "layout.toml", b"x".to_vec());
        made.file.push(layout.unwrap());
        made.warning.clear();
        catalog::publish(&*store, &made).unwrap();
        let told = || state_of("node001".to_owned(), &*store, jiff::Timestamp::now(), None).problem;
        assert_eq!(told(), None);
        let problems = ["no rescue image: /var/tmp is full\nhint: x".to_owned()];
        stored::note(&*store, None, &problems).unwrap();
        assert_eq!(told().as_deref(), Some("no rescue image: /var/tmp is full"));
        let newer = br#"{"version": 9, "generation": "x", "problems": ["y"], "more": {}}"#;
        store.put("rescue.json", newer).unwrap();
        assert_eq!(told().as_deref(), Some("y"));
        stored::note(&*store, None, &[]).unwrap();
        stored::note(&*store, None, &[]).unwrap();
        assert_eq!(told(), None);
        assert!(store.list("").unwrap().iter().all(|object| object.name != "rescue.json"));
    }

    #[test]
    fn a_backup_that_ended_with_problems_has_them_in_the_overview() {
        assert_eq!(problem_of(&[], &["a file changed", "problems: none"]), (None, 2));
        let (problem, warnings) = problem_of(
            &["/boot is not mounted: no kernel\nhint: mount /boot", "no GRUB"],
            &["a file changed"],
        );
        assert_eq!(problem.as_deref(), Some("/boot is not mounted: no kernel; no GRUB"));
        assert_eq!(warnings, 1);
    }
}
