//! The conversation of `mkbackup`, `mkbackuponly` and `mkrescue`.
//!
//! ```text
//! preflight: target, layout, coverage, plan against these very disks, what a rescue image lacks
//!   -> lock, sweep what killed runs left
//!   -> archive half: files -> packs, index, recipe; layout.toml, RESTORE.txt, rr.log; manifest
//!   -> rescue half: image -> media under their stable names
//!   -> retention
//! ```
//!
//! Everything that is missing is named before anything is written. What the rescue half lacks does
//! not stop the archive half: the files are safe then, the report says which half failed, and the
//! run has failed. A run that is killed at any point leaves no mount, a lock that the next run
//! knows for dead, and objects that it sweeps.
//!
//! * [`preflight`] what has to be known before; [`included`] what `--include` names
//! * [`place`] where a `file://` target lies, [`coverage`] what is in the backup and what is not,
//!   [`unmounted`] what should be, and is not mounted, [`absent`] what the machine waits for in vain
//! * [`resolver`] whether the rescue system can look up the target's name
//! * [`spare`] what a recovery leaves alone, as nothing of it is in the backup
//! * [`headers`] copies of LUKS headers
//! * [`halves`] the two halves, [`hooks`] the admin's own commands around the first, [`workdir`] where
//!   the second is built,
//!   [`snapshot`] what the files are read from, [`media`] the rescue image at the target,
//!   [`local`] and in the node's own boot menu
//! * [`report`] what was done

mod absent;
pub mod coverage;
mod halves;
pub mod headers;
mod hooks;
mod identity;
mod included;
mod local;
mod media;
pub mod place;
mod preflight;
pub mod report;
mod resolver;
mod snapshot;
pub mod spare;
mod unmounted;
mod workdir;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::config::schema::IoClass;
use crate::rescue::stored;
use crate::store::keep::Keep;
use crate::store::{Store, catalog, lock, retain};
use crate::ui::Ui;
use preflight::Job;
pub use report::{Half, Report};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Archive the files and publish a generation.
    pub archive: bool,
    /// Build the rescue media.
    pub rescue: bool,
    /// Read and store every file, also those that are unchanged since the last generation.
    pub full: bool,
    /// In place of the configuration's.
    pub bandwidth_mib_per_second: Option<u64>,
    /// Archive just these trees. Empty: the whole machine.
    pub include: Vec<PathBuf>,
    /// Globs of paths that are left out, besides those of the configuration.
    pub exclude: Vec<String>,
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
}

/// Makes a backup, a rescue image, or both.
///
/// # Errors
/// What was asked for failed as a whole; nothing was published. Where one half is done and the
/// other failed, the report says so in [`Report::failed`].
pub fn backup(config: &Config, options: &Options, ui: &Ui) -> Result<Report> {
    let started = Instant::now();
    let mut job = ui.step("Checking", || preflight::check(config, options, ui))?;
    let mut report = Report::new(&job, options);
    if let Some(refusal) = job.rescue_refusal() {
        ui.info(format!("The archive will be made, the rescue image can't be: {refusal:#}"));
    }
    if options.dry_run {
        job.describe(ui);
    } else {
        run(&mut job, &mut report, ui)?;
    }
    report.finish(started.elapsed().as_secs_f64(), ui.warnings());
    report.say(ui);
    Ok(report)
}

fn run(job: &mut Job<'_>, report: &mut Report, ui: &Ui) -> Result<()> {
    be_nice(job.config, ui);
    let store: Arc<dyn Store> = Arc::clone(job.store()?);
    let guard = lock::lock(&store, ui)?;
    retain::sweep(&guard, ui).context("removing what runs left that did not end")?;
    identity::claim(&guard, job.config.backup.shared_node, ui)?;
    if job.options.archive {
        let generation = catalog::new_generation(&*store)?;
        let headers = job.luks_headers(ui).unwrap_or_else(|error| {
            report.problems.push(format!("LUKS headers are not in the backup: {error:#}"));
            Vec::new()
        });
        // As far as they are known before the rescue half.
        let lacks = job.rescue_lacks.iter().map(|lack| format!("no rescue image: {lack}"));
        let problems: Vec<String> = lacks.chain(report.problems.iter().cloned()).collect();
        let (manifest, unread) =
            halves::archive(job, &guard, &generation, &headers, &problems, ui)?;
        report.archived(&manifest, unread);
    }
    let mut built = None;
    let mut of_image = Vec::new();
    if job.options.rescue {
        match halves::rescue(job, &guard, ui) {
            Ok((media, image)) => {
                of_image.clone_from(&media.problems);
                report.rescued(media);
                built = Some(image);
            }
            // Said at the end, with the rest.
            Err(error) if job.options.archive => {
                let why = format!("{error:#}");
                of_image.push(format!("no rescue image: {why}"));
                report.rescue = Half::Failed { why };
            }
            Err(error) => {
                note_image(&*store, &[format!("no rescue image: {error:#}")], ui);
                return Err(error);
            }
        }
    }
    if job.options.archive {
        match retain::prune(&guard, &Keep::from(&job.config.backup), ui) {
            Ok(pruned) => report.pruned = pruned.generations,
            Err(error) => ui.warn(format!("deleting old generations: {error:#}")),
        }
    }
    media::menu(job, &guard).context("writing the boot menu of the backup disk")?;
    // Last: it is a copy for convenience, and what fails it has failed nothing else.
    if let Some(built) = built
        && job.local_entry
        && let Err(error) = local::keep(job, &built.image, ui)
    {
        let problem = format!("{error:#}");
        of_image.push(problem.clone());
        report.problems.push(problem);
    }
    if job.options.rescue {
        note_image(&*store, &of_image, ui);
    }
    Ok(())
}

/// For the overview of all nodes, which sees no exit code.
fn note_image(store: &dyn Store, problems: &[String], ui: &Ui) {
    let newest = catalog::latest(store).ok().flatten();
    if let Err(error) = stored::note(store, newest, problems) {
        ui.warn(format!("{error:#}"));
    }
}

/// Lets others go first, if the configuration says so. Threads and programs inherit it.
fn be_nice(config: &Config, ui: &Ui) {
    let backup = &config.backup;
    if backup.nice != 0
        && let Err(error) = crate::sys::priority::set_nice(backup.nice)
    {
        ui.warn(format!("backup.nice can't be set: {error}"));
    }
    let class = match backup.ionice {
        IoClass::None => return,
        IoClass::BestEffort => crate::sys::priority::IoClass::LowestBestEffort,
        IoClass::Idle => crate::sys::priority::IoClass::Idle,
    };
    if let Err(error) = crate::sys::priority::set_io_class(class) {
        ui.warn(format!("backup.ionice can't be set: {error}"));
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::layout::{Disk, Fs, Id, Layout, Mount};
    use crate::probe::mounts::MountInfo;

    /// `MAJOR:MINOR`, root, path and kind of each mount.
    pub fn mounts(lines: &[(&str, &str, &str, &str)]) -> Vec<MountInfo> {
        let text: String = lines
            .iter()
            .map(|(device, root, path, kind)| {
                format!("1 1 {device} {root} {path} rw shared:1 - {kind} /dev/x rw\n")
            })
            .collect();
        crate::sys::mount::parse(text.as_bytes())
    }

    /// `/` and `/srv` on sda, `/mnt/usb` on sdb, `/data` nowhere.
    pub fn layout() -> Layout {
        let mut layout = empty();
        for name in ["sda", "sdb"] {
            layout.disk.push(
                toml::from_str::<Disk>(&format!(
                    "id = \"disk:{name}\"\nname = \"{name}\"\nsize_bytes = 1000\nsector_bytes = 512"
                ))
                .unwrap(),
            );
        }
        for (name, disk, kind, path) in [
            ("sda1", "sda", "ext4", "/"),
            ("sda2", "sda", "xfs", "/srv"),
            ("sdb1", "sdb", "ext4", "/mnt/usb"),
        ] {
            let on = Id::partition(name);
            layout.partition.push(
                toml::from_str(&format!(
                    "id = \"{on}\"\ndisk = \"disk:{disk}\"\nnumber = 1\nname = \"{name}\"\nkind = \"gpt\"\nstart_bytes = 0\nsize_bytes = 10\ntype = \"x\""
                ))
                .unwrap(),
            );
            let fs = Id::content("fs", &on);
            layout.fs.push(
                toml::from_str::<Fs>(&format!(
                    "id = \"{fs}\"\non = \"{on}\"\nkind = \"{kind}\"\nuuid = \"uuid-{name}\""
                ))
                .unwrap(),
            );
            layout.mount.push(Mount {
                path: path.into(),
                fs,
                options: String::new(),
                root: None,
                target: false,
            });
        }
        layout
    }

    fn empty() -> Layout {
        toml::from_str("version = 1\n[node]\nhostname = \"n\"\narch = \"x86_64\"\nkernel = \"6.1\"\n[boot]\nfirmware = \"bios\"\n").unwrap()
    }
}
