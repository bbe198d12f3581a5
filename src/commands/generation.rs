//! The verbs about generations at a target: `rr list`, `show`, `verify`, `diff`, `export`,
//! `restore`, `prune`

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use crate::archive::{self, Change, Entry, Kind};
use crate::cli::{PruneArgs, RestoreArgs, VerifyArgs};
use crate::layout::mount::escape;
use crate::layout::units::{shown_time, size};
use crate::rescue::menu::{self, MENU};
use crate::store::catalog::Subject;
use crate::store::keep::{Keep, Verdict};
use crate::store::lock::LockGuard;
use crate::store::retain::{Order, Pruned};
use crate::store::{Access, Manifest, StoreError, catalog, lock, retain};
use crate::ui::{counted, hanging};

use super::{Exit, Session, answer, print, print_json, usage};

pub(super) fn list(session: &Session<'_>) -> Result<Exit> {
    let store = session.store(Access::Read)?;
    let mut manifests = Vec::new();
    for generation in catalog::generations(&*store)? {
        match catalog::manifest(&*store, &generation) {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => session.ui.warn(format!("{error:#}")),
        }
    }
    if session.global.json {
        print_json(&manifests)?;
        return Ok(Exit::Done);
    }
    if manifests.is_empty() {
        print(&format!("{} holds no generation yet\n", store.url()))?;
        return Ok(Exit::Done);
    }
    let mut text =
        format!("{:<18} {:>10} {:>11} {:>11}  {}\n", "GENERATION", "FILES", "SIZE", "STORED", "OF");
    for m in &manifests {
        text += &format!(
            "{:<18} {:>10} {:>11} {:>11}  {}{}\n",
            m.generation,
            m.archive.files,
            size(m.archive.stream_bytes),
            size(m.archive.stored_bytes),
            subject(m),
            match (m.is_complete(), m.problems().next()) {
                (false, _) => " (not all could be read)",
                (true, Some(_)) => " (with problems: rr show)",
                (true, None) => "",
            },
        );
    }
    print(&text)?;
    Ok(Exit::Done)
}

fn subject(manifest: &Manifest) -> String {
    match manifest.subject() {
        Subject::Machine => "the machine".to_owned(),
        Subject::Trees(trees) => format!("just {}", trees.join(" ")),
    }
}

pub(super) fn show(session: &Session<'_>, generation: Option<&str>) -> Result<Exit> {
    let store = session.store(Access::Read)?;
    let manifest = catalog::find(&*store, generation)?;
    if session.global.json {
        print_json(&manifest)?;
    } else {
        // What is damaged is told by rr verify.
        let used = archive::used_bytes(&manifest, &*store);
        print(&describe(&manifest, used.ok()))?;
    }
    Ok(Exit::Done)
}

fn describe(m: &Manifest, used_bytes: Option<u64>) -> String {
    let packs: u64 = m.pack.iter().map(|p| p.size_bytes).sum();
    let mut text = format!(
        "generation  {}\nnode        {}\nof          {}\nwritten by  rr {}\nfinished    {}\nfiles       {} in {}\nstored      {} new, {} in {} in all{}\n",
        m.generation,
        m.node,
        subject(m),
        m.rr,
        shown_time(&m.finished),
        m.archive.files,
        size(m.archive.stream_bytes),
        size(m.archive.stored_bytes),
        size(packs),
        counted(m.pack.len() as u64, "pack", "packs"),
        used_bytes.map(|used| format!(", {} of it in use", size(used))).unwrap_or_default()
    );
    for (at, tree) in m.tree.iter().enumerate() {
        text += &format!("{:<11} {tree}\n", if at == 0 { "trees" } else { "" });
    }
    for lost in &m.unprotected {
        text += &format!("NOT protected: {}: {}\n", lost.what, lost.why);
    }
    for problem in m.problems() {
        text += &format!("problem: {}\n", hanging(problem));
    }
    for warning in m.warnings() {
        text += &format!("warning: {}\n", hanging(warning));
    }
    text
}

pub(super) fn verify(session: &Session<'_>, args: &VerifyArgs) -> Result<Exit> {
    let store = session.store(Access::Read)?;
    let named = args.generation.as_deref();
    if let Some(root) = &args.root {
        let manifest = catalog::find(&*store, named)?;
        let verified = archive::verify_root(&manifest, &*store, root, session.ui)?;
        return answer(session, &verified.differences);
    }
    let manifests = match named {
        Some(named) => vec![catalog::find(&*store, Some(named))],
        None => catalog::to_verify(&*store)?,
    };
    // What is wrong with one of them says nothing of the other.
    let mut failed = None;
    for manifest in manifests {
        match manifest.and_then(|manifest| {
            archive::check(&manifest, &*store, session.ui)?;
            session.ui.success(format!("{} verifies", manifest.generation));
            Ok(())
        }) {
            Err(error) if failed.is_some() => session.ui.warn(format!("{error:#}")),
            result => failed = failed.or(result.err()),
        }
    }
    failed.map_or(Ok(Exit::Done), Err)
}

pub(super) fn prune(session: &Session<'_>, args: &PruneArgs) -> Result<Exit> {
    let configured = Keep::from(&session.config.backup);
    let keep = Keep {
        last: args.keep_last.unwrap_or(configured.last),
        daily: args.keep_daily.unwrap_or(configured.daily),
        weekly: args.keep_weekly.unwrap_or(configured.weekly),
        monthly: args.keep_monthly.unwrap_or(configured.monthly),
        min_age_days: args.keep_min_age_days.unwrap_or(configured.min_age_days),
    };
    let pruned = if args.dry_run {
        retain::forecast(&*session.store(Access::Read)?, &keep, session.ui)?
    } else {
        let mut order = match args.drop.as_slice() {
            [] => Order::Keep(keep),
            names => Order::Drop(names.to_vec()),
        };
        let (guard, before) = lock_to_delete(session, &mut order)?;
        let mut pruned = retain::carry_out(&guard, &order, session.ui)?;
        pruned.add(before);
        refresh_menu(&guard)?;
        pruned
    };
    if session.global.json {
        print_json(&pruned)?;
        return Ok(Exit::Done);
    }
    let line = |verdict: &Verdict| match verdict.is_kept() {
        true => format!("keep    {}  {}\n", verdict.generation, verdict.kept.join(", ")),
        false => format!("delete  {}\n", verdict.generation),
    };
    print(&pruned.verdicts.iter().map(line).collect::<String>())?;
    session.ui.info(format!(
        "{} and {} {}, {} freed",
        counted(pruned.generations.len() as u64, "generation", "generations"),
        counted(pruned.objects as u64, "object", "objects"),
        if args.dry_run { "would be deleted" } else { "deleted" },
        size(pruned.freed_bytes)
    ));
    Ok(Exit::Done)
}

/// Takes the lock. Where the target is too full for that, some of what is ordered is deleted before, and
/// is given.
fn lock_to_delete(session: &Session<'_>, order: &mut Order) -> Result<(LockGuard, Pruned)> {
    let mut before = Pruned::default();
    loop {
        let store = session.store(Access::Change).map(Arc::from);
        let locked = store.and_then(|store| lock::lock(&store, session.ui));
        match locked {
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Full { .. })) => {}
            other => return Ok((other?, before)),
        }
        let store = session.store(Access::Delete)?;
        let mut gone = retain::make_room(&*store, order, session.ui)?;
        if gone.objects == 0 {
            bail!(
                "{} is so full that no lock can be made there, and nothing that is to be deleted makes room for one\nhint: make room there; or rr prune --keep-last N for fewer generations, --drop GEN for one that is not the newest",
                store.url()
            );
        }
        if let Order::Drop(names) = order {
            names.retain(|name| !gone.generations.contains(name));
        }
        gone.add(before);
        before = gone;
    }
}

/// Takes what is deleted out of the boot menu of a backup disk.
fn refresh_menu(guard: &LockGuard) -> Result<()> {
    let store = guard.store();
    let entries = match store.get(MENU) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(StoreError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let fresh = menu::only(&entries, &catalog::generations(store)?);
    if fresh != entries {
        guard.check()?;
        store.put(MENU, fresh.as_bytes())?;
    }
    Ok(())
}

pub(super) fn restore(session: &Session<'_>, mut args: RestoreArgs) -> Result<Exit> {
    args.take_generation();
    let to = args.to.clone();
    let made: Vec<_> = to.ancestors().take_while(|dir| !dir.exists()).collect();
    let keep_root = made.is_empty();
    let make_root =
        || std::fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()));
    let restored = if let Some(file) = args.from_tar {
        make_root()?;
        let options = archive::TarOptions {
            file,
            root: args.to,
            keep_root,
            paths: args.paths,
            sync: args.sync,
        };
        archive::restore_tar(&options, session.ui)
    } else {
        let store = session.store(Access::Read)?;
        let manifest = catalog::find(&*store, args.generation.as_deref())?;
        make_root()?;
        let options = archive::ExtractOptions {
            root: args.to,
            keep_root,
            paths: args.paths,
            threads: session.config.backup.threads,
            sync: args.sync,
            ..archive::ExtractOptions::default()
        };
        archive::extract(&manifest, &*store, &options, session.ui)
    };
    let restored = restored.inspect_err(|_| {
        // Nothing was restored: the empty directory that was made for it would only mislead.
        made.iter().all(|dir| std::fs::remove_dir(dir).is_ok());
    })?;
    let done = format!(
        "{} restored, {}",
        counted(restored.entries, "entry", "entries"),
        size(restored.bytes)
    );
    if let Some(files) = restored.not_restored {
        session.ui.info(done);
        bail!("files that are NOT restored: {files}");
    }
    session.ui.success(done);
    Ok(Exit::Done)
}

/// `rr list GEN [PATH]...`: a line a file, as `ls -l` would say it.
pub(super) fn files(session: &Session<'_>, generation: &str, paths: &[PathBuf]) -> Result<Exit> {
    let store = session.store(Access::Read)?;
    let manifest = catalog::find(&*store, Some(generation))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    unless_reader_left(archive::list(&manifest, &*store, paths, |entry| {
        let text = if session.global.json { json_line(&FileLine::of(entry))? } else { line(entry) };
        writeln!(out, "{text}").context("writing the list")
    }))?;
    unless_reader_left(out.flush().context("writing the list"))?;
    Ok(Exit::Done)
}

pub(super) fn diff(session: &Session<'_>, old: &str, new: &str) -> Result<Exit> {
    let store = session.store(Access::Read)?;
    let old = catalog::find(&*store, Some(old))?;
    let new = catalog::find(&*store, Some(new))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    unless_reader_left(archive::diff(&old, &new, &*store, |change, entry| {
        let text = if session.global.json {
            json_line(&ChangeLine { change: word(change), path: entry.shown() })?
        } else {
            format!("{} {}", sign(change), entry.shown())
        };
        writeln!(out, "{text}").context("writing the differences")
    }))?;
    unless_reader_left(out.flush().context("writing the differences"))?;
    Ok(Exit::Done)
}

pub(super) fn export(session: &Session<'_>, generation: Option<&str>) -> Result<Exit> {
    if std::io::stdout().is_terminal() {
        return Err(usage(anyhow!(
            "a tar stream is nothing for a terminal\nhint: rr export >FILE, or rr export | tar -tv"
        )));
    }
    let store = session.store(Access::Read)?;
    let manifest = catalog::find(&*store, generation)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    archive::export(&manifest, &*store, &mut out)?;
    out.flush().context("writing the tar stream to standard output")?;
    Ok(Exit::Done)
}

/// A line of `rr --json list GEN`. Paths are as layouts have them: what is not UTF-8, control
/// characters and the backslash are `\xNN`.
#[derive(Debug, Serialize)]
struct FileLine {
    path: String,
    kind: &'static str,
    /// Octal.
    mode: String,
    uid: u32,
    gid: u32,
    size_bytes: u64,
    mtime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

impl FileLine {
    fn of(entry: &Entry) -> FileLine {
        FileLine {
            path: entry.shown(),
            kind: match entry.kind {
                Kind::Dir => "directory",
                Kind::Symlink => "symlink",
                Kind::HardLink => "hardlink",
                Kind::Fifo => "fifo",
                Kind::Char => "char",
                Kind::Block => "block",
                Kind::File => "file",
            },
            mode: format!("{:04o}", entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            size_bytes: entry.size_bytes,
            mtime: shown_mtime(entry),
            link: (!entry.link.is_empty()).then(|| escape(&entry.link)),
        }
    }
}

/// A line of `rr --json diff`.
#[derive(Debug, Serialize)]
struct ChangeLine {
    change: &'static str,
    path: String,
}

fn json_line(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context("writing the result as JSON")
}

fn shown_mtime(entry: &Entry) -> String {
    jiff::Timestamp::new(entry.mtime.sec, 0)
        .map_or_else(|_| entry.mtime.sec.to_string(), |t| t.to_string())
}

fn line(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::HardLink => 'h',
        Kind::Fifo => 'p',
        Kind::Char => 'c',
        Kind::Block => 'b',
        Kind::File => '-',
    };
    let time = shown_mtime(entry);
    let mut line = format!(
        "{kind}{:04o} {:>6} {:>6} {:>13} {time} {}",
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size_bytes,
        entry.shown()
    );
    if !entry.link.is_empty() {
        line += &format!(" -> {}", escape(&entry.link));
    }
    line
}

fn sign(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Modified => 'M',
        Change::Metadata => 'm',
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Modified => "modified",
        Change::Metadata => "metadata",
    }
}

/// A reader of our output that has seen enough (`| head`) is no failure.
fn unless_reader_left(result: Result<()>) -> Result<()> {
    let left = |error: &anyhow::Error| {
        error
            .chain()
            .filter_map(|e| e.downcast_ref::<std::io::Error>())
            .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    match result {
        Err(error) if left(&error) => Ok(()),
        other => other,
    }
}
