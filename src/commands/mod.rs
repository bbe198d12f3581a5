//! The verbs, one file each: glue between the command line and the modules that do the work.
//!
//! Results go to standard output, everything that happens on the way to standard error.

mod backup;
mod config;
mod format;
mod generation;
mod layout;
mod manual;
mod overview;
mod pxe;
mod recover;
mod rescue;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::{Cli, Global, Verb};
use crate::config::{Config, Loaded};
use crate::recover::Phase;
use crate::store::{self, Access, Store};
use crate::ui::Ui;

/// What a run ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Failed, or the answer is no; nothing on a disk was harmed.
    Failed = 1,
    /// The command line or the configuration.
    Usage = 2,
    /// A recovery failed after disks were touched.
    Harmed = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// What every verb gets.
struct Session<'a> {
    global: &'a Global,
    config: &'a Config,
    ui: &'a Ui,
}

/// The command line or the configuration lacks something that the verb needs.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct UsageError(anyhow::Error);

/// Runs what the command line says.
pub fn run(mut cli: Cli) -> Exit {
    forget_empty(&mut cli.global.target, "RR_TARGET");
    forget_empty(&mut cli.global.node, "RR_NODE");
    let ui = Ui::detect(cli.global.json);
    let loaded = match load(&cli.global) {
        Ok(loaded) => loaded,
        Err(error) => {
            ui.error(&error);
            return Exit::Usage;
        }
    };
    for warning in &loaded.warnings {
        ui.warn(warning);
    }
    let session = Session { global: &cli.global, config: &loaded.config, ui: &ui };
    match dispatch(cli.verb, &session, &loaded) {
        Ok(Exit::Done) if cli.global.strict && !ui.warnings().is_empty() => Exit::Failed,
        Ok(exit) => exit,
        Err(error) => {
            ui.error(&error);
            if error.is::<UsageError>() { Exit::Usage } else { Exit::Failed }
        }
    }
}

/// An environment variable that is empty is one that is not set.
fn forget_empty(option: &mut Option<String>, variable: &str) {
    let is_empty = std::env::var_os(variable).is_some_and(|value| value.is_empty());
    if is_empty && option.as_deref() == Some("") {
        *option = None;
    }
}

fn load(global: &Global) -> Result<Loaded> {
    let mut loaded = crate::config::load(global.config.as_deref())?;
    let info = crate::rescue::RescueInfo::read()?;
    // An image may be made for a target that the command line named: the options for another one stay
    // in its configuration, and must not keep a machine from being recovered.
    if info.is_none()
        && let (None, Some(target)) = (&global.target, &loaded.config.target)
    {
        let tree = loaded.config.pxe.tree.as_ref().map(|tree| tree.parse()).transpose()?;
        loaded.config.target_options.check_for(&target.parse()?, tree.as_ref())?;
    }
    if let Some(info) = info
        && loaded.config.target.as_ref() == Some(&info.target)
    {
        loaded.config.target_options = info.options();
    }
    loaded.set_target(global.target.as_deref(), "--target");
    loaded.set_node(global.node.as_deref(), "--node");
    Ok(loaded)
}

fn dispatch(verb: Verb, session: &Session<'_>, loaded: &Loaded) -> Result<Exit> {
    match verb {
        Verb::Mkbackup(args) => backup::both(session, args),
        Verb::Mkbackuponly(args) => backup::archive(session, args),
        Verb::Mkrescue(args) => backup::rescue(session, args),
        Verb::List { all: true, older_than, .. } => overview::run(session, older_than),
        Verb::List { generation: None, .. } => generation::list(session),
        Verb::List { generation: Some(generation), paths, .. } => {
            generation::files(session, &generation, &paths)
        }
        Verb::Show(arg) => generation::show(session, arg.generation.as_deref()),
        Verb::Verify(args) => generation::verify(session, &args),
        Verb::Diff { old, new } => generation::diff(session, &old, &new),
        Verb::Export(arg) => generation::export(session, arg.generation.as_deref()),
        Verb::Restore(args) => generation::restore(session, args),
        Verb::Prune(args) => generation::prune(session, &args),
        Verb::Layout(verb) => layout::run(session, verb),
        Verb::Savelayout { file } => layout::save(session, file.as_deref()),
        Verb::Checklayout(arg) => layout::check(session, arg.generation.as_deref()),
        Verb::Recover(args) => recover::run(session, args, Phase::All),
        Verb::Restoreonly(args) => recover::run(session, args, Phase::Restore),
        Verb::Layoutonly(args) => recover::run(session, args, Phase::Layout),
        Verb::Finalizeonly(args) => recover::run(session, args, Phase::Finalize),
        Verb::Mountonly(args) => recover::run(session, args, Phase::Mount),
        Verb::Format(args) => format::run(session, args),
        Verb::Rescue(verb) => rescue::run(session, &verb),
        Verb::Pxe(verb) => pxe::run(session, &verb),
        Verb::Config(verb) => config::run(loaded, session.global.json, &verb),
        Verb::Completions { shell } => manual::completions(shell),
        Verb::Manpages { dir } => manual::pages(&dir),
        Verb::Rehearse => recover::rehearse(session),
        Verb::Init => match crate::rescue::RescueInfo::read() {
            Ok(Some(_)) => crate::init::run(),
            _ => Err(usage(anyhow::anyhow!("`rr init` runs only in a rescue system"))),
        },
    }
}

impl Session<'_> {
    /// Opens this node's tree at the target.
    fn store(&self, access: Access) -> Result<Box<dyn Store>> {
        let url = self.config.target_url().map_err(usage)?;
        let node = self.config.node_name().map_err(usage)?;
        store::open(&url, &node, access, &self.config.target_options)
    }
}

fn usage(error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(UsageError(error))
}

/// Prints a result as JSON on standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value).context("writing the result as JSON")? + "\n"))
}

/// Prints a result on standard output. A reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}

/// Prints differences, one a line, and says by the exit code whether there are any.
fn answer(session: &Session<'_>, differences: &[String]) -> Result<Exit> {
    if session.global.json {
        print_json(&differences)?;
    } else {
        print(&differences.iter().map(|d| format!("{d}\n")).collect::<String>())?;
    }
    Ok(if differences.is_empty() { Exit::Done } else { Exit::Failed })
}
