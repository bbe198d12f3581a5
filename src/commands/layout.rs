//! `rr layout show|save|diff|plan`, `rr savelayout`, `rr checklayout`

use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::cli::{DiskArgs, LayoutSource, LayoutVerb};
use crate::layout::{self, Layout, schema};
use crate::plan::{Answers, plan};
use crate::probe;
use crate::recover::fetch;
use crate::store::{Access, catalog};
use crate::ui;

use super::{Exit, Session, answer, print, print_json, usage};

pub(super) fn run(session: &Session<'_>, verb: LayoutVerb) -> Result<Exit> {
    match verb {
        LayoutVerb::Show(source) => {
            let layout = read(session, &source)?;
            if session.global.json {
                print_json(&layout)?;
            } else {
                print(&layout::render_tree(&layout))?;
            }
            Ok(Exit::Done)
        }
        LayoutVerb::Diff(source) => diff(session, &recorded(session, &source)?),
        LayoutVerb::Save { generation, file } => {
            let layout = read(session, &LayoutSource { file: None, generation })?;
            write(session, &layout, file.as_deref())
        }
        LayoutVerb::Plan { source, disks, script } => show_plan(session, &source, disks, script),
    }
}

/// Writes this machine's layout.
pub(super) fn save(session: &Session<'_>, file: Option<&Path>) -> Result<Exit> {
    write(session, &probe::read(session.ui)?, file)
}

fn write(session: &Session<'_>, layout: &Layout, file: Option<&Path>) -> Result<Exit> {
    match file {
        Some(file) => std::fs::write(file, schema::render(layout)?)
            .with_context(|| format!("writing the layout to {}", file.display()))?,
        None if session.global.json => print_json(layout)?,
        None => print(&schema::render(layout)?)?,
    }
    Ok(Exit::Done)
}

/// `rr checklayout`: for a timer that backs up only when something changed.
pub(super) fn check(session: &Session<'_>, generation: Option<&str>) -> Result<Exit> {
    let generation = Some(generation.unwrap_or("latest").to_owned());
    diff(session, &recorded(session, &LayoutSource { file: None, generation })?)
}

fn diff(session: &Session<'_>, recorded: &Layout) -> Result<Exit> {
    answer(session, &layout::differences(recorded, &probe::read(session.ui)?))
}

fn show_plan(
    session: &Session<'_>,
    source: &LayoutSource,
    disks: DiskArgs,
    script: bool,
) -> Result<Exit> {
    if script && session.global.json {
        return Err(usage(anyhow!("a plan is printed as a script or as JSON, not as both")));
    }
    let recorded = recorded(session, source)?;
    let DiskArgs { map, erase, grow } = disks;
    let answers = Answers { map, erase, grow, ..Answers::default() };
    let present = probe::read(session.ui)?;
    let plan = plan(&recorded, &present, &answers)?;
    if session.global.json {
        print_json(&plan)?;
    } else if script {
        print(&plan.render_script())?;
    } else {
        print(&plan.render_beside(&present, ui::columns()))?;
    }
    Ok(Exit::Done)
}

/// This machine, unless the source names a file or a generation.
fn read(session: &Session<'_>, source: &LayoutSource) -> Result<Layout> {
    if source.file.is_none() && source.generation.is_none() {
        return probe::read(session.ui);
    }
    recorded(session, source)
}

/// A file, or a generation: the newest unless one is named.
fn recorded(session: &Session<'_>, source: &LayoutSource) -> Result<Layout> {
    if let Some(file) = &source.file {
        return fetch::read_layout(file);
    }
    let store = session.store(Access::Read)?;
    let manifest = catalog::find_machine(&*store, source.generation.as_deref())?;
    catalog::layout(&*store, &manifest)
}
