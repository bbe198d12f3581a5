//! The two halves of a backup: the archive, and the rescue media.

use anyhow::{Context, Result};

use super::headers::Header;
use super::hooks::Hooks;
use super::media;
use super::preflight::Job;
use super::report::Media;
use super::snapshot::Snapshots;
use super::workdir::WorkDir;
use crate::archive::{self, CreateOptions, Created, Settled};
use crate::config::Output;
use crate::config::schema::SnapshotMode;
use crate::layout::schema;
use crate::probe::swaps;
use crate::rescue::{self, BuildRequest, Image};
use crate::store::Store;
use crate::store::catalog::{self, MANIFEST_VERSION, Manifest, Subject};
use crate::store::lock::LockGuard;
use crate::ui::{self, Ui};

/// Archives the files and publishes the generation. Says what could not be read, too.
pub(super) fn archive(
    job: &Job<'_>,
    guard: &LockGuard,
    generation: &str,
    headers: &[Header],
    problems: &[String],
    ui: &Ui,
) -> Result<(Manifest, Option<String>)> {
    let started = jiff::Timestamp::now();
    let bandwidth = job.options.bandwidth_mib_per_second;
    let bandwidth = bandwidth.unwrap_or(job.config.backup.bandwidth_mib_per_second);
    let options = CreateOptions {
        root: "/".into(),
        stand_ins: Vec::new(),
        settled: None,
        trees: job.coverage.trees.clone(),
        mount_points: job.mount_points.clone(),
        exclude: job.exclude.clone(),
        swap_files: swaps::read().into_iter().filter(|s| s.file).map(|s| s.path).collect(),
        exclude_nodump: job.config.backup.exclude_nodump,
        exclude_caches: job.config.backup.exclude_caches,
        generation: generation.to_owned(),
        node: job.node.clone(),
        bandwidth_bytes_per_second: bandwidth.saturating_mul(1 << 20),
        level: job.config.backup.level,
        threads: job.config.backup.threads,
    };
    let parent = if job.options.full { None } else { newest_good(guard, &job.subject())? };
    let read = || read_at_rest(job, guard.store(), options, parent.as_ref(), ui);
    let created = ui.step("Archiving", read)?;
    let mut manifest = Manifest {
        version: MANIFEST_VERSION,
        generation: generation.to_owned(),
        node: job.node.clone(),
        rr: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.to_string(),
        finished: jiff::Timestamp::now().to_string(),
        parent: created.parent,
        file: created.files,
        pack: created.packs,
        archive: created.stats,
        tree: job.tree_names(),
        unprotected: job.coverage.unprotected.clone(),
        warning: Vec::new(),
    };
    // The overview of all nodes has nothing but the manifest to go by.
    manifest.note(problems, ui.warnings());
    let unread = created.unread;
    ui.step("Publishing", || publish(job, guard, &mut manifest, headers, unread.as_deref()))?;
    Ok((manifest, unread))
}

/// Archives the files between the admin's commands, from snapshots where they are wanted.
fn read_at_rest(
    job: &Job<'_>,
    store: &dyn Store,
    options: CreateOptions,
    parent: Option<&Manifest>,
    ui: &Ui,
) -> Result<Created> {
    let (backup, generation) = (&job.config.backup, options.generation.clone());
    // Before hooks stop services and snapshots stop the disks: nobody waits for it then.
    let settled = Some(Settled::wait_for(&options.root, &options.trees, ui));
    let options = CreateOptions { settled, ..options };
    let create = |options: &CreateOptions| {
        // What systemd mounts when somebody looks at it may be gone again.
        for tree in &options.mount_points {
            let _ = std::fs::read_dir(tree.join("."));
        }
        archive::create(options, store, parent, ui)
    };
    let hooks = Hooks::start(backup, &job.node, &generation, ui)?;
    let snapshots = match backup.snapshot {
        SnapshotMode::None => return with_hooks(hooks, ui, || create(&options)),
        SnapshotMode::Auto => {
            // Of a whole machine they are trees of their own, as far as they are to come back.
            let nested = !job.options.include.is_empty();
            with_hooks(hooks, ui, || Snapshots::take(&options.trees, nested, &generation, ui))?
        }
    };
    let created =
        snapshots.stand_ins().and_then(|stand_ins| create(&CreateOptions { stand_ins, ..options }));
    let removed = snapshots.remove(ui);
    created.and_then(|created| removed.map(|()| created))
}

/// Stores what a generation has besides its archive, and publishes it.
fn publish(
    job: &Job<'_>,
    guard: &LockGuard,
    manifest: &mut Manifest,
    headers: &[Header],
    unread: Option<&str>,
) -> Result<()> {
    let mut texts = Vec::new();
    let mut add = |manifest: &mut Manifest, file: &str, bytes: Vec<u8>| {
        manifest.file.push(catalog::record(&manifest.generation, file, &bytes));
        texts.push(bytes);
    };
    for header in headers {
        add(manifest, &header.file, header.bytes.clone());
    }
    if let Some(layout) = &job.layout {
        add(manifest, "layout.toml", schema::render(layout)?.into());
    }
    if let Some(unread) = unread {
        add(manifest, catalog::UNREAD, format!("{unread}\n").into());
    }
    add(manifest, "rr.log", ui::log::text());
    let restore_text = archive::restore_text(manifest);
    add(manifest, "RESTORE.txt", restore_text.into());
    let records = &manifest.file[manifest.file.len() - texts.len()..];
    catalog::put_all(guard.store(), records.iter().zip(texts).collect())?;
    catalog::publish_locked(guard, manifest)
}

/// Runs the admin's last commands when `work` is done.
fn with_hooks<T>(hooks: Hooks, ui: &Ui, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = work();
    hooks.finish(result.is_ok(), ui);
    result
}

/// The newest generation that can be read and lacks nothing: what is unchanged since then is not
/// stored again. One of another subject only where there is none of this one, as it has less of it.
/// The others are for the log: the sweep at the start of the run has told of them.
fn newest_good(guard: &LockGuard, subject: &Subject) -> Result<Option<Manifest>> {
    let store = guard.store();
    let mut other = None;
    for generation in catalog::generations(store)?.iter().rev() {
        let manifest = match catalog::manifest(store, generation) {
            Ok(manifest) => manifest,
            Err(error) => {
                log::warn!("the generation {generation} is passed by: {error:#}");
                continue;
            }
        };
        let alike = manifest.subject() == *subject;
        if !alike && other.is_some() {
            continue;
        }
        let missing = catalog::missing(store, &manifest)?;
        match (missing.is_empty(), alike) {
            (true, true) => return Ok(Some(manifest)),
            (true, false) => other = Some(manifest),
            (false, _) => {
                log::warn!("the generation {generation} is not built upon: {}", missing.join(", "));
            }
        }
    }
    Ok(other)
}

/// An image, for as long as this lives.
pub(super) struct Built {
    pub image: Image,
    _dir: WorkDir,
}

/// Builds the rescue image and puts it under its stable names, and into the tree of a boot server.
pub(super) fn rescue(job: &Job<'_>, guard: &LockGuard, ui: &Ui) -> Result<(Media, Built)> {
    if let Some(refusal) = job.rescue_refusal() {
        return Err(refusal);
    }
    let layout = job.layout.as_ref().context("the layout was not read")?;
    let (carried, unfinished) = media::inside(job, guard)?.unzip();
    let dir = WorkDir::make()?;
    let info = job.rescue_info()?;
    if info.asks_login {
        ui.info(format!(
            "the rescue image gets no login for {}: a recovery asks for one, and an automatic one stops before anything is erased (target_options.read_login)",
            info.target
        ));
    }
    let carried = carried.as_ref();
    let request = BuildRequest { layout, config: job.config, info, out: &dir.path, carried };
    let tools = job.plan.as_ref().map(crate::plan::Plan::tools).unwrap_or_default();
    let image = ui.step("Building the rescue image", || rescue::build(&request, &tools, ui))?;
    for warning in &image.warnings {
        ui.warn(warning);
    }
    let iso_bytes = ui.step("Storing the rescue image", || {
        guard.check()?;
        media::put(job, guard, &image, unfinished)
    })?;
    let pxe_tree = if job.config.rescue.output.contains(&Output::Pxe) {
        let publish = || rescue::publish_pxe(&request, &image);
        let (warnings, tree) = ui.step("Publishing for PXE", publish)?;
        for warning in warnings {
            ui.warn(warning);
        }
        Some(tree)
    } else {
        None
    };
    let media = Media { iso_bytes, pxe_tree, problems: image.problems.clone() };
    Ok((media, Built { image, _dir: dir }))
}
