//! One recovery from its first step to its last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::fetch::{self, Backup};
use super::fixup::{self, Tree};
use super::report::{self, Check, DiskTaken, Report};
use super::sysfs::{Sysfs, kernel_name};
use super::target::Target;
use super::trees::Trees;
use super::{MEDIUM, Options, Outcome, Phase, Unnamed, check, confirm, login, machine, mounts};
use crate::archive::{self, ExtractOptions};
use crate::config::{Config, TargetOptions, TargetUrl};
use crate::layout::{Firmware, Layout, units};
use crate::plan::{self, Answers, KeptDisk, Plan, Refusal};
use crate::probe::devices::Devices;
use crate::rescue::info::RescueInfo;
use crate::store::{StoreError, usb};
use crate::sys::hook::{self, Hook};
use crate::sys::secret::Secret;
use crate::sys::tools;
use crate::ui::{self, Ui};
use crate::{apply, probe};

/// Everything that a recovery knows so far.
#[derive(Debug)]
pub(super) struct Run<'a> {
    config: &'a Config,
    info: Option<&'a RescueInfo>,
    options: &'a Options,
    ui: &'a Ui,
    started: Instant,
    target: Option<Target>,
    /// With the login that was typed in, if one was.
    target_options: TargetOptions,
    node: String,
    report: Report,
    /// How many files could not be restored, and which.
    not_restored: Option<String>,
}

const RUNNING: &str = "the running system is on it: a machine is rebuilt from its rescue system";

/// The disks of the system that runs, where that is no rescue system.
fn running_system() -> Result<BTreeSet<String>> {
    let mounts = crate::sys::mount::mounts()?;
    let Some(root) = mounts::at(&mounts, Path::new("/")) else { return Ok(BTreeSet::new()) };
    // A live system's root is no device.
    let Ok(name) = kernel_name(&root.source) else { return Ok(BTreeSet::new()) };
    Sysfs::default().disks_below(&name)
}

impl<'a> Run<'a> {
    pub fn new(
        config: &'a Config,
        info: Option<&'a RescueInfo>,
        options: &'a Options,
        ui: &'a Ui,
    ) -> Self {
        let report = Report {
            version: report::VERSION,
            rr: env!("CARGO_PKG_VERSION").into(),
            started: now(),
            ..Report::default()
        };
        let (started, target, node) = (Instant::now(), None, String::new());
        let (target_options, not_restored) = (TargetOptions::default(), None);
        Run {
            config,
            info,
            options,
            ui,
            started,
            target,
            target_options,
            node,
            report,
            not_restored,
        }
    }

    pub fn go(&mut self) -> Result<Outcome> {
        let Options { phase, verdict, root, .. } = self.options;
        let fresh = matches!(phase, Phase::All | Phase::Layout | Phase::Mount);
        let ui = self.ui;
        if fresh && !self.options.dry_run {
            mounts::unmount_all(root).context("unmounting what a former run left")?;
        }
        let backup = ui.step("Fetching the backup", || self.fetch())?;
        verdict.say("fetched");
        if self.erases() {
            self.make_ready()?;
        }
        let (plan, present) = ui.step("Planning", || self.plan(&backup))?;
        self.describe(&plan, &present);
        self.check_firmware(&backup.layout)?;
        verdict.say("planned");
        if self.options.dry_run {
            ui.info(
                "the parts of the backup were not read for this: rr verify reads and checks them",
            );
            return Ok(Outcome::Planned(Box::new(plan)));
        }
        let passphrase = self.passphrase(&plan)?;
        if self.erases() && !self.options.auto {
            confirm::confirm(&plan, ui)?;
        }
        self.check_parts(&backup)?;
        let plan = self.still(plan, &backup)?;
        match phase {
            Phase::All | Phase::Layout => {
                self.rebuild(&plan, passphrase.as_ref())?;
                verdict.say("applied");
            }
            Phase::Mount => {
                ui.step("Mounting", || apply::mount(&plan, root, passphrase.as_ref(), ui))?;
            }
            Phase::Restore | Phase::Finalize => {}
        }
        self.guard(&plan)?;
        if self.restores() {
            ui.step("Restoring the files", || self.extract(&backup, &plan))?;
            verdict.say("extracted");
        }
        if !matches!(phase, Phase::All | Phase::Finalize) {
            ui.info(format!("the node's filesystems are mounted at {}", root.display()));
            self.check_files()?;
            return Ok(Outcome::Mounted);
        }
        self.finish(&backup, &plan, passphrase.as_ref())
    }

    /// What the plan is made of. The files' data is left where it is.
    fn fetch(&mut self) -> Result<Backup> {
        let (url, options) = self.target_url()?;
        self.node = self.node_name()?;
        let info = self.info_of(&url);
        let asks = info.is_some_and(|info| info.asks_login);
        self.target_options = login::complete(&url, options, asks, self.options.auto)?;
        let target = Target::locate(&url, info, self.ui)?;
        self.report.target = target.shown().to_owned();
        let store = target.open(&self.node, &self.target_options)?;
        self.target = Some(target);
        let mut backup = fetch::fetch(store, self.options.generation.as_deref(), self.ui)?;
        if let Some(file) = &self.options.layout {
            backup.edited(file, self.ui)?;
        }
        self.report.generation.clone_from(&backup.manifest.generation);
        self.report.node.clone_from(&backup.manifest.node);
        let headers = backup.manifest.luks_headers().into_iter().map(str::to_owned);
        self.report.luks_headers = headers.collect();
        Ok(backup)
    }

    /// Reads and checks all that will be restored, while what is on the disks still stands. It may
    /// take hours, so nothing is asked and nothing is refused any more that could have been before.
    fn check_parts(&self, backup: &Backup) -> Result<()> {
        if !self.options.verify || !self.restores() {
            return Ok(());
        }
        self.ui.step("Checking every part of the backup", || {
            archive::check(&backup.manifest, backup.store.as_ref(), self.ui)
        })
    }

    /// What has to be done before the machine is looked at.
    fn make_ready(&self) -> Result<()> {
        let commands = &self.config.recover.pre;
        if self.options.dry_run {
            if !commands.is_empty() {
                self.ui.info("recover.pre is not run for this");
            }
            return Ok(());
        }
        ensure!(
            commands.is_empty() || self.info.is_some() || running_system()?.is_empty(),
            "recover.pre is set, which is for the rescue system, and this is a running one: nothing was done\nhint: start the rescue system; from here, rr recover --dry-run shows the plan"
        );
        self.run_hook("recover.pre", commands)
            .context("making the machine ready; rr itself has touched nothing")
    }

    /// The admin's own commands in the rescue system.
    fn run_hook(&self, key: &str, commands: &[String]) -> Result<()> {
        let env = [
            ("RR_NODE", self.report.node.as_ref()),
            ("RR_GENERATION", self.report.generation.as_ref()),
            ("RR_ROOT", self.options.root.as_os_str()),
        ];
        let timeout = hook::timeout(self.config.recover.hook_timeout_seconds);
        let hook = Hook { key, commands, env: &env, timeout };
        hook.run(|name| self.ui.info(format!("Running {name}")))
    }

    /// The plan for the machine as it is now: since the one that was shown, hours may have gone by.
    fn still(&mut self, shown: Plan, backup: &Backup) -> Result<Plan> {
        if !self.erases() {
            return Ok(shown);
        }
        let (now, present) =
            self.ui.step("Looking at the disks once more", || self.plan(backup))?;
        if let Some(changed) = confirm::changed(&shown, &now) {
            // What was agreed to is nothing else than what was shown. The rules hold for both.
            ensure!(
                self.options.auto,
                "{changed}; nothing was touched\nhint: give the same command again: it shows what is there now"
            );
            self.ui.warn(&changed);
            self.describe(&now, &present);
        }
        Ok(now)
    }

    fn target_url(&self) -> Result<(TargetUrl, TargetOptions)> {
        let info = self.info;
        let text = self.options.target.as_ref().or(info.map(|i| &i.target));
        let text = text.or(self.config.target.as_ref()).ok_or(Unnamed(
            "no target is known\nhint: rr --target nfs://server/export recover, or target = in rr.toml",
        ))?;
        let url: TargetUrl = text.parse()?;
        let options = match self.info_of(&url) {
            Some(info) => info.options(),
            None => self.config.target_options.clone(),
        };
        Ok((url, options))
    }

    /// What the rescue image knows, where it was made for this target.
    fn info_of(&self, url: &TargetUrl) -> Option<&'a RescueInfo> {
        self.info.filter(|info| info.target.parse().is_ok_and(|known: TargetUrl| known == *url))
    }

    fn node_name(&self) -> Result<String> {
        let known = self.options.node.as_ref().or(self.info.map(|i| &i.node));
        let known = known.or(self.config.node.as_ref()).cloned().ok_or(Unnamed(
            "which node this is, is not known\nhint: rr --node NAME recover, or node = in rr.toml",
        ))?;
        Ok(known)
    }

    /// The plan, and the machine that it was made for.
    fn plan(&self, backup: &Backup) -> Result<(Plan, Layout)> {
        let present = probe::read(self.ui).context("looking at this machine")?;
        let mut answers = Answers {
            auto: self.options.auto,
            map: self.options.map.clone(),
            erase: self.options.erase.clone(),
            grow: self.options.grow,
            keep: self.kept()?,
            lacks: apply::stack::lacking(&backup.layout)?,
            ..Answers::default()
        };
        if self.erases() {
            let here = probe::node::product_uuid();
            answers.elsewhere = machine::elsewhere(self.info, &self.node, here);
            answers.begun = machine::begun(Path::new(machine::ERASED))?;
        }
        let plan = plan::plan(&backup.layout, &present, &answers)
            .map_err(|refusal| self.refused(refusal, backup))?;
        let mut programs = plan.tools();
        programs.extend(super::tools(&backup.layout));
        let efi = fixup::efi::has_variables();
        programs.retain(|program| efi || *program != "efibootmgr");
        tools::require(&programs)?;
        Ok((plan, present))
    }

    /// In the rescue system, with what is to be edited where that helps.
    fn refused(&self, refusal: Refusal, backup: &Backup) -> anyhow::Error {
        if !refusal.is_of_layout() || self.info.is_none() || self.options.layout.is_some() {
            return anyhow!(refusal);
        }
        match backup.put_layout(Path::new(super::REFUSED)) {
            Ok(said) => anyhow!("{refusal}\nhint: {said}"),
            Err(error) => {
                log::warn!("{error:#}");
                anyhow!(refusal)
            }
        }
    }

    fn erases(&self) -> bool {
        matches!(self.options.phase, Phase::All | Phase::Layout)
    }

    fn restores(&self) -> bool {
        matches!(self.options.phase, Phase::All | Phase::Restore)
    }

    /// A machine in the other mode of its firmware would get all of the node and not start it.
    fn check_firmware(&self, recorded: &Layout) -> Result<()> {
        let other = machine::other_firmware(recorded.boot.firmware, probe::boot::firmware());
        let Some(other) = other.filter(|_| self.erases()) else { return Ok(()) };
        ensure!(
            !self.options.auto || self.options.other_firmware,
            "{other}; nothing was touched\nhint: switch it in the firmware's setup and start the \
             rescue system again; or switch it afterwards: --other-firmware, or rr.other-firmware \
             on the kernel command line"
        );
        self.ui.warn(format!("{other}: switch it in the firmware's setup"));
        Ok(())
    }

    /// The disks that are never erased.
    fn kept(&self) -> Result<Vec<KeptDisk>> {
        let mut kept: Vec<KeptDisk> = Vec::new();
        let mut keep = |name: &str, why: &str| {
            if kept.iter().all(|disk| disk.name != name) {
                kept.push(KeptDisk { name: name.to_owned(), why: why.to_owned() });
            }
        };
        for name in self.target.iter().flat_map(|target| &target.disks) {
            keep(name, "holds the backup");
        }
        if self.info.is_none() && !self.options.dry_run {
            for name in running_system()? {
                keep(&name, RUNNING);
            }
        }
        // Those of other nodes, too, and what the machine may have been started from.
        for device in Devices::read()?.with("PARTLABEL", usb::PARTITION) {
            for name in Sysfs::default().disks_below(&kernel_name(device)?)? {
                keep(&name, "was made by rr format to hold backups");
            }
        }
        match std::fs::read_to_string(MEDIUM) {
            Ok(text) => text
                .split_whitespace()
                .for_each(|name| keep(name, "is what this rescue system was started from")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {MEDIUM}")),
        }
        Ok(kept)
    }

    fn describe(&mut self, plan: &Plan, present: &Layout) {
        let text = if self.options.dry_run {
            plan.render_beside(present, ui::columns())
        } else {
            plan.render_text()
        };
        self.ui.sections(&text);
        self.report.identity_changes = plan.identity_changes().to_vec();
        let taken = plan.disks.iter().map(|found| DiskTaken {
            recorded: found.old.name.clone(),
            present: found.new.name.clone(),
            serial: found.new.serial.clone(),
            why: found.why.clone(),
        });
        self.report.disks = taken.collect();
    }

    /// What opens the plan's encrypted volumes.
    fn passphrase(&self, plan: &Plan) -> Result<Option<Secret>> {
        if !plan.needs_passphrase() || self.options.phase == Phase::Restore {
            return Ok(None);
        }
        if let Some(file) = &self.config.recover.luks_passphrase_file {
            return Secret::read(file).map(Some);
        }
        ensure!(
            !self.options.auto,
            "the node's LUKS volumes need their passphrase, and nobody is asked in an automatic \
             recovery: nothing was touched\nhint: rr recover asks for it; or name a file: \
             recover.luks_passphrase_file in rr.toml"
        );
        confirm::passphrase(plan).map(Some)
    }

    /// From here on disks are written to.
    fn rebuild(&mut self, plan: &Plan, passphrase: Option<&Secret>) -> Result<()> {
        machine::begin(plan, Path::new(machine::ERASED))?;
        self.report.touched = true;
        self.ui.step("Rebuilding the disks", || {
            apply::apply(plan, &self.options.root, passphrase, self.ui)
        })
    }

    /// The tree must be on the planned disks: a rescue system's memory would take some files, too.
    fn guard(&mut self, plan: &Plan) -> Result<()> {
        let root = &self.options.root;
        let all = crate::sys::mount::mounts()?;
        let planned: Vec<_> = plan.disks.iter().map(|disk| disk.new.name.as_str()).collect();
        let sysfs = Sysfs::default();
        for mount in plan.mounts() {
            let point = mount.path.as_path();
            let point = root.join(point.strip_prefix("/").unwrap_or(point));
            // A path with a slash at its end is another one to the kernel.
            let point: PathBuf = point.components().collect();
            let found = mounts::at(&all, &point)
                .with_context(|| format!("nothing is mounted on {}", point.display()))?;
            let disks = sysfs.disks_below(&kernel_name(&found.source)?)?;
            if let Some(other) = disks.iter().find(|disk| !planned.contains(&disk.as_str())) {
                bail!("{} is mounted from {other}, which is not in the plan", point.display());
            }
        }
        ensure!(mounts::at(&all, root).is_some(), "nothing is mounted on {}", root.display());
        self.report.touched |= self.options.phase != Phase::Mount;
        Ok(())
    }

    fn extract(&mut self, backup: &Backup, plan: &Plan) -> Result<()> {
        let root = &self.options.root;
        let trees = Trees::of(&backup.manifest.tree, &plan.layout, root)?;
        if let Some(left) = trees.told(&backup.manifest.generation) {
            self.ui.warn(left);
        }
        let options = ExtractOptions {
            root: root.clone(),
            without: trees.left,
            but: trees.come,
            threads: self.config.backup.threads,
            sync: true,
            ..ExtractOptions::default()
        };
        let extracted =
            archive::extract(&backup.manifest, backup.store.as_ref(), &options, self.ui)?;
        self.report.entries = extracted.entries;
        self.report.bytes = extracted.bytes;
        self.report.warnings.extend(extracted.warnings);
        self.not_restored = extracted.not_restored;
        Ok(())
    }

    /// Files that could not be restored don't keep the system from being made bootable, but nobody
    /// may take it for whole.
    fn check_files(&self) -> Result<()> {
        let Some(files) = &self.not_restored else { return Ok(()) };
        bail!(
            "files are NOT restored: {files}\nhint: look for them with rr restore --gen {} --to DIRECTORY",
            self.report.generation
        );
    }

    /// From the restored tree to a machine that starts, and what tells of it.
    fn finish(
        &mut self,
        backup: &Backup,
        plan: &Plan,
        passphrase: Option<&Secret>,
    ) -> Result<Outcome> {
        let (ui, root) = (self.ui, self.options.root.as_path());
        let recorded = &backup.layout;
        let mounted = &backup.recorded.mount;
        let devices = settled_devices()?;
        let tree = Tree { root, recorded, mounted, plan, devices: &devices, passphrase };
        let fixed = ui.step("Making the system bootable", || fixup::fix(&tree, ui))?;
        self.report.changed = fixed.changed;
        self.options.verdict.say("fixed");
        // Before the check, which finds what they have broken.
        let changed = self.run_post()?;
        let tree = Tree { devices: changed.as_ref().unwrap_or(&devices), ..tree };
        ui.step("Checking that it boots", || self.check(&tree, fixed.checks))?;
        self.options.verdict.say("checked");
        let kept = self.leave(plan)?;
        self.check_files().context("the system is done and boots")?;
        self.summary(&kept);
        Ok(Outcome::Recovered(Box::new(self.report.clone())))
    }

    /// What has to be done in the restored system. Gives the devices as they are then, where anything was.
    fn run_post(&self) -> Result<Option<Devices>> {
        let commands = &self.config.recover.post;
        if commands.is_empty() {
            return Ok(None);
        }
        self.run_hook("recover.post", commands).with_context(|| {
            format!(
                "running what must be done in the recovered system, which is mounted at {} (rr finalizeonly goes on from there)",
                self.options.root.display()
            )
        })?;
        settled_devices().map(Some)
    }

    /// Would it start?
    fn check(&mut self, tree: &Tree<'_>, mut checks: Vec<Check>) -> Result<()> {
        checks.extend(check::check_kernel(tree.root, tree.devices));
        checks.extend(check::check_fstab(tree.root, tree.devices));
        checks.push(check::check_init(tree.root));
        match tree.recorded.boot.firmware {
            Firmware::Bios => checks.extend(check::check_boot_sectors(tree)),
            Firmware::Uefi => checks.extend(check::check_loaders(tree)),
        }
        for check in &checks {
            match &check.problem {
                None => log::info!("{}: in place", check.what),
                Some(problem) => self.ui.info(format!("{}: {problem}", check.what)),
            }
        }
        let failed: Vec<_> = checks
            .iter()
            .filter_map(|check| Some(format!("{}: {}", check.what, check.problem.as_ref()?)))
            .collect();
        self.report.checks = checks;
        ensure!(
            failed.is_empty(),
            "the system would not boot: {}\nhint: it is mounted at {}; when it is mended: rr finalizeonly",
            failed.join("; "),
            tree.root.display()
        );
        Ok(())
    }

    /// Leaves the result in the recovered system and at the target, and unmounts all.
    fn leave(&mut self, plan: &Plan) -> Result<PathBuf> {
        let whole = self.not_restored.is_none();
        self.report.result = if whole { "success" } else { "incomplete" }.into();
        self.close_report();
        let log = crate::ui::log::text();
        let kept = self.report.write_into(&self.options.root, &log)?;
        self.put_report();
        self.ui.step("Unmounting", || {
            nix::unistd::sync();
            apply::unmount(plan, &self.options.root)
        })?;
        Ok(kept)
    }

    fn close_report(&mut self) {
        self.report.finished = now();
        self.report.seconds = self.started.elapsed().as_secs();
        let mut warnings = self.ui.warnings();
        warnings.retain(|warning| !self.report.warnings.contains(warning));
        self.report.warnings.extend(warnings);
    }

    /// Log and result at the target, if it takes them.
    fn put_report(&self) {
        let Some(target) = &self.target else { return };
        let put = || -> Result<()> {
            let log = crate::ui::log::text();
            target.write(&self.node, &self.target_options, |store| self.report.put(store, &log))
        };
        match put() {
            Ok(()) => {}
            // As it should be: a rescue image has no more than a login for reading.
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Denied { .. })) => {
                log::info!("the log could not be put to the target: {error:#}");
                self.ui.info("the log is not put to the target, which may only be read from here");
            }
            Err(error) => {
                self.ui.info(format!("the log could not be put to the target: {error:#}"));
            }
        }
    }

    fn summary(&self, log: &Path) {
        let report = &self.report;
        for warning in &report.warnings {
            self.ui.info(format!("note: {warning}"));
        }
        if !report.luks_headers.is_empty() {
            self.ui.info(format!(
                "copies of the headers of the lost LUKS volumes stay in the backup, encrypted, and are not for those that were made now: {}",
                report.luks_headers.join(", ")
            ));
        }
        self.ui.info(format!("the log is in the recovered system: {}", log.display()));
        self.ui.success(format!(
            "Success! {} is back as it was at {}: {} entries, {}, in {} s",
            report.node,
            report.generation,
            report.entries,
            units::size(report.bytes),
            report.seconds
        ));
    }

    /// What can be said of a recovery that failed; where somebody finds it, if disks were touched.
    pub fn report_failure(&mut self, error: &anyhow::Error) -> Report {
        if self.report.result != "incomplete" {
            self.report.result = "failed".into();
        }
        self.report.error = Some(format!("{error:#}"));
        self.close_report();
        if self.report.touched {
            self.put_report();
        }
        self.report.clone()
    }
}

/// What is on which device, when udev has looked at all.
fn settled_devices() -> Result<Devices> {
    crate::sys::udev::settle()?;
    Devices::read()
}

fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}
