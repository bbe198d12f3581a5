//! What a run did, for people and for programs.

use anyhow::anyhow;
use serde::Serialize;

use super::Options;
use super::preflight::Job;
use crate::layout::Unprotected;
use crate::layout::units::size;
use crate::store::catalog::Manifest;
use crate::ui::{Ui, counted, listed};

/// One half of a backup: the archive or the rescue media.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Half {
    NotAsked,
    /// With `--dry-run`: nothing stands against it.
    Possible,
    Done,
    Failed {
        why: String,
    },
}

/// What the rescue half made.
#[derive(Debug)]
pub(super) struct Media {
    pub iso_bytes: Option<u64>,
    pub pxe_tree: Option<String>,
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub dry_run: bool,
    pub node: String,
    pub target: String,
    pub archive: Half,
    pub rescue: Half,
    /// What a recovery onto this very hardware would be refused for, and other things that leave
    /// the machine without a way back although both halves are done.
    pub problems: Vec<String>,
    pub generation: Option<String>,
    pub seconds: f64,
    /// Mount points, or the trees of `--include`.
    pub trees: Vec<String>,
    pub entries: u64,
    pub files: u64,
    /// What the tar stream is long, and what of it had to be stored anew.
    pub stream_bytes: u64,
    pub stored_bytes: u64,
    /// With `--dry-run`: what is in use on the filesystems that would be archived.
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    pub iso_bytes: u64,
    /// The tree of a boot server that the rescue system was put into.
    pub pxe_tree: Option<String>,
    /// Generations that were deleted.
    pub pruned: Vec<String>,
    pub unprotected: Vec<Unprotected>,
    pub warnings: Vec<String>,
    /// What is in the trees and could not be read.
    pub unread: Option<String>,
    /// Why the run has failed, though it may have done a part: then the exit code is not 0.
    pub failed: Option<String>,
    /// The same, one by one.
    #[serde(skip)]
    failures: Vec<String>,
}

impl Report {
    pub(super) fn new(job: &Job<'_>, options: &Options) -> Report {
        let half = |asked: bool, lacks: &[String]| match (asked, options.dry_run) {
            (false, _) => Half::NotAsked,
            (true, _) if !lacks.is_empty() => Half::Failed { why: lacks.join("\n") },
            (true, true) => Half::Possible,
            (true, false) => Half::Failed { why: "not reached".to_owned() },
        };
        Report {
            dry_run: options.dry_run,
            node: job.node.clone(),
            target: job.url.to_string(),
            archive: half(options.archive, &[]),
            rescue: half(options.rescue, &job.rescue_lacks),
            problems: job.problems.clone(),
            generation: None,
            seconds: 0.0,
            trees: job.tree_names(),
            entries: 0,
            files: 0,
            stream_bytes: 0,
            stored_bytes: 0,
            used_bytes: job.used_bytes,
            free_bytes: job.free_bytes,
            iso_bytes: 0,
            pxe_tree: None,
            pruned: Vec::new(),
            unprotected: job.coverage.unprotected.clone(),
            warnings: Vec::new(),
            unread: None,
            failed: None,
            failures: Vec::new(),
        }
    }

    pub(super) fn archived(&mut self, manifest: &Manifest, unread: Option<String>) {
        self.unread = unread;
        self.archive = Half::Done;
        self.generation = Some(manifest.generation.clone());
        self.entries = manifest.archive.entries;
        self.files = manifest.archive.files;
        self.stream_bytes = manifest.archive.stream_bytes;
        self.stored_bytes = manifest.archive.stored_bytes;
    }

    pub(super) fn rescued(&mut self, media: Media) {
        self.rescue = Half::Done;
        self.iso_bytes = media.iso_bytes.unwrap_or(0);
        self.pxe_tree = media.pxe_tree;
        self.problems.extend(media.problems);
    }

    /// Takes stock, when all is done.
    pub(super) fn finish(&mut self, seconds: f64, warnings: Vec<String>) {
        self.seconds = seconds;
        self.warnings = warnings;
        let mut lines = Vec::new();
        for (name, half) in [("archive", &self.archive), ("rescue image", &self.rescue)] {
            if let Half::Failed { why } = half {
                lines.push(format!("no {name}: {why}"));
            }
        }
        if let Some(unread) = &self.unread {
            lines.push(format!(
                "not everything could be read: {unread}\nhint: the last generation of which all could be is kept until another one is; exclude = [...] in rr.toml names what is not wanted"
            ));
        }
        lines.extend(self.problems.iter().cloned());
        self.failed = (!lines.is_empty()).then(|| lines.join("\n"));
        self.failures = lines;
    }

    /// The summary, as the last lines of the run.
    pub(super) fn say(&self, ui: &Ui) {
        for gap in &self.unprotected {
            ui.info(format!("NOT protected: {}: {}", gap.what, gap.why));
        }
        if !self.dry_run {
            self.say_halves(ui);
        }
        if !self.warnings.is_empty() {
            let warnings = counted(self.warnings.len() as u64, "warning", "warnings");
            ui.info(format!("{warnings}, see above"));
        }
        let seconds = self.seconds;
        match (self.failures.as_slice(), self.dry_run) {
            ([why], _) => ui.error(&anyhow!("{why}")),
            ([_, _, ..], _) => {
                let count = self.failures.len();
                ui.error(&anyhow!("{count} things went wrong:\n{}", listed(&self.failures)));
            }
            ([], true) => ui.success("Nothing stands against it; nothing was written."),
            ([], false) => ui.success(format!("Backup of {} done in {seconds:.0} s", self.node)),
        }
    }

    fn say_halves(&self, ui: &Ui) {
        if let Some(generation) = &self.generation {
            ui.info(format!(
                "archive: generation {generation} of {}: {} in {}, {} newly stored",
                self.trees.join(" "),
                size(self.stream_bytes),
                counted(self.files, "file", "files"),
                size(self.stored_bytes)
            ));
        }
        if let (1.., Some(dir)) = (self.iso_bytes, self.target.strip_prefix("iso://")) {
            let (iso, size) = (format!("{dir}/{0}/rr-{0}.iso", self.node), size(self.iso_bytes));
            ui.info(format!(
                "rescue system and backup on one ISO: {iso}, {size}: keep a copy elsewhere than on this machine"
            ));
        } else if self.iso_bytes > 0 {
            ui.info(format!("rescue image: rr-{}.iso, {}", self.node, size(self.iso_bytes)));
        }
        if let Some(tree) = &self.pxe_tree {
            ui.info(format!("boots from the network as {}: {tree}", self.node));
        }
        if !self.pruned.is_empty() {
            ui.info(format!("no longer kept, deleted: {}", self.pruned.join(", ")));
        }
    }
}
