//! What has to be known before a byte is written, and everything that stands against it at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::Options;
use super::absent::absent;
use super::coverage::{self, Coverage, NOT_IN_LAYOUT};
use super::headers::{self, Header};
use super::identity;
use super::included::included;
use super::local;
use super::place::{self, Place, PlaceKind};
use super::resolver;
use super::spare;
use super::unmounted::{self, Device, Fstab};
use crate::config::url::ISO_DIR;
use crate::config::{Config, Iso, Output, TargetUrl};
use crate::layout::units::size;
use crate::layout::{BytesPath, Layout, Unprotected};
use crate::plan::{self, Answers, Plan};
use crate::probe::devices::Devices;
use crate::probe::fstab::{self, Entry};
use crate::probe::{self, mounts};
use crate::rescue::iso::{new_id, volume_id};
use crate::store::catalog::Subject;
use crate::store::{self, Access, Store, StoreError, nfs, object, retain, usb};
use crate::sys::{fs, tools};
use crate::ui::{Ui, listed};

/// No backup of a machine is smaller: a target with less room than this is as good as full.
const LEAST_FREE_BYTES: u64 = 16 << 20;

/// A checked order.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub config: &'a Config,
    pub options: &'a Options,
    pub url: TargetUrl,
    pub node: String,
    /// None only in a dry run of a node that has no tree yet.
    store: Option<Arc<dyn Store>>,
    /// None where it can't be read, or is not needed.
    pub layout: Option<Layout>,
    pub place: Option<Place>,
    pub coverage: Coverage,
    /// Those of the trees where a filesystem is mounted.
    pub mount_points: Vec<PathBuf>,
    pub exclude: Vec<String>,
    pub plan: Option<Plan>,
    /// What a rescue image can't be built without.
    pub rescue_lacks: Vec<String>,
    /// Whether the node's boot menu is to be seen to: to get the image, or to lose it.
    pub local_entry: bool,
    /// Whether copies of LUKS headers can be made, where they are asked for.
    headers: bool,
    /// What stands against a recovery onto this very hardware, and what else fails the run.
    pub problems: Vec<String>,
    pub used_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
}

/// Checks everything; what makes the whole order impossible is one error that names it all.
pub(super) fn check<'a>(config: &'a Config, options: &'a Options, ui: &Ui) -> Result<Job<'a>> {
    let url = config.target_url()?;
    let node = config.node_name()?;
    let mut fatal = Vec::new();
    let include = included(&options.include, &mut fatal);
    let whole_machine = options.include.is_empty();
    if whole_machine {
        // What systemd mounts when somebody looks at it is mounted by that.
        for dir in ["/boot/efi/.", "/efi/.", "/boot/."] {
            let _ = std::fs::read_dir(dir);
        }
    }
    let mounts = mounts::read()?;
    let fstab = Fstab::read(&mounts);
    fstab.wake(&include, &mounts);
    let mounts = mounts::read()?;
    let store = match no_target(&url, &mounts) {
        Some(problem) => {
            fatal.push(problem);
            None
        }
        None => opened(&url, &node, config, options, &mut fatal),
    };
    let mut job = Job {
        config,
        options,
        url,
        node,
        store,
        layout: None,
        place: None,
        coverage: Coverage::default(),
        mount_points: Vec::new(),
        exclude: Vec::new(),
        plan: None,
        rescue_lacks: Vec::new(),
        local_entry: true,
        headers: true,
        problems: Vec::new(),
        used_bytes: None,
        free_bytes: None,
    };
    if whole_machine {
        job.look_at_machine(ui);
    }
    job.find_place(&mounts, ui);
    job.cover(&include, &mounts, &mut fatal);
    if options.archive {
        job.check_fstab(&fstab, &include, &mounts, unmounted::device_of);
    }
    if options.rescue {
        job.check_rescue();
    }
    job.check_iso(&mut fatal, ui);
    let shared = config.backup.shared_node;
    if let Some(Err(error)) = job.store.as_deref().map(|store| identity::check(store, shared)) {
        fatal.push(format!("{error:#}"));
    }
    job.check_room(&mut fatal, ui)?;
    if options.archive && options.include.is_empty() && job.coverage.trees.is_empty() {
        fatal.push("there is no local filesystem to archive".to_owned());
    }
    if options.rescue && !options.archive {
        fatal.append(&mut job.rescue_lacks);
    }
    match fatal.len() {
        0 => Ok(job),
        1 => bail!("{}", fatal[0]),
        count => bail!("{count} things stand against it:\n{}", listed(&fatal)),
    }
}

/// A `file://` target below a mount point that is not mounted now.
fn no_target(url: &TargetUrl, mounts: &[mounts::MountInfo]) -> Option<String> {
    let dir = url.dir()?;
    let missing = place::missing_mount(dir, &fstab::read(), mounts)?;
    let missing = missing.display();
    Some(format!(
        "the target {} is below {missing}, which is in /etc/fstab and is not mounted\nhint: mount {missing}",
        dir.display()
    ))
}

/// A dry run makes no directory, neither its own nor for the node; without one there is nothing to open.
fn opened(
    url: &TargetUrl,
    node: &str,
    config: &Config,
    options: &Options,
    fatal: &mut Vec<String>,
) -> Option<Arc<dyn Store>> {
    if options.dry_run && url.dir() == Some(Path::new(ISO_DIR)) && !Path::new(ISO_DIR).exists() {
        return None;
    }
    let access = if options.dry_run { Access::Read } else { Access::Write };
    match store::open(url, node, access, &config.target_options) {
        Ok(store) => Some(store.into()),
        Err(error) => {
            let no_tree = matches!(error.downcast_ref(), Some(StoreError::NotFound { name, .. }) if name == node);
            if !(options.dry_run && no_tree) {
                fatal.push(format!("{error:#}"));
            }
            None
        }
    }
}

impl Job<'_> {
    pub(super) fn store(&self) -> Result<&Arc<dyn Store>> {
        self.store.as_ref().context("the target is not open")
    }

    /// What the archive is of.
    pub(super) fn subject(&self) -> Subject {
        match &self.layout {
            Some(_) => Subject::Machine,
            None => Subject::of_trees(&self.tree_names()),
        }
    }

    pub(super) fn tree_names(&self) -> Vec<String> {
        self.coverage.trees.iter().map(|tree| BytesPath(tree.clone()).to_string()).collect()
    }

    /// Says what is archived and what is left out, and what that means for a recovery.
    fn cover(
        &mut self,
        include: &[PathBuf],
        mounts: &[mounts::MountInfo],
        fatal: &mut Vec<String>,
    ) {
        let whole_machine = self.options.include.is_empty();
        self.coverage = if whole_machine {
            let is_dir = |path: &Path| path.is_dir();
            coverage::of_machine(mounts, self.layout.as_ref(), self.place.as_ref(), is_dir)
        } else {
            coverage::of_trees(include, mounts)
        };
        self.check_place(include, fatal);
        let mut unwanted = self.options.exclude.clone();
        unwanted.extend(coverage::excludes_for(include, &self.config.backup.exclude));
        let emptied = coverage::emptied(&self.coverage.trees, &unwanted);
        self.tell_emptied(emptied.trees);
        self.mount_points = coverage::mount_points(&self.coverage.trees, mounts, Path::is_dir);
        if let Some(layout) = &self.layout {
            // Others come and go, as containers do.
            self.mount_points.retain(|tree| layout.mount.iter().any(|m| m.path.as_path() == tree));
        }
        if let Some(own) = local::own_dir()
            && let Some((pattern, gap)) =
                coverage::of_own_image(&own, &self.coverage.trees, include)
        {
            self.exclude.push(pattern);
            self.coverage.unprotected.push(gap);
        }
        if whole_machine && self.options.archive {
            self.problems.extend(emptied.problems);
            self.check_boot(mounts, &unwanted);
            self.check_headers();
        }
        self.exclude.extend(self.coverage.exclude.iter().cloned());
        self.exclude.extend(unwanted);
    }

    /// What nothing is archived of is left alone by a recovery, or said to be lost in one.
    fn tell_emptied(&mut self, emptied: Vec<Unprotected>) {
        let marked = match &mut self.layout {
            Some(layout) => spare::mark(layout, emptied),
            None => spare::Marked { notes: emptied, ..spare::Marked::default() },
        };
        let coverage = &mut self.coverage;
        // Its files are not in the backup, as it turns out.
        let emptied = |note: &Unprotected| {
            note.why == NOT_IN_LAYOUT && marked.notes.iter().any(|tree| tree.what == note.what)
        };
        coverage.unprotected.retain(|note| !marked.is_moot(note) && !emptied(note));
        let is_left = |tree: &PathBuf| marked.left.contains(&BytesPath(tree.clone()).to_string());
        coverage.trees.retain(|tree| !is_left(tree));
        coverage.unprotected.extend(marked.notes);
    }

    /// Reads the layout. A machine whose layout can't be read can still have its files archived.
    fn look_at_machine(&mut self, ui: &Ui) {
        match probe::read(ui) {
            Ok(layout) => self.layout = Some(layout),
            Err(error) => {
                let text = format!("the layout of this machine can't be read: {error:#}");
                if self.options.rescue {
                    self.rescue_lacks.push(text);
                } else {
                    ui.warn(text);
                }
            }
        }
    }

    /// What the machine boots from must be in the archive: a recovery would only find out at its end.
    fn check_boot(&mut self, mounts: &[mounts::MountInfo], exclude: &[String]) {
        let Some(layout) = &self.layout else { return };
        // In a container, which shows the firmware of its host.
        let root = layout.mount.iter().find(|mount| mount.path.as_path() == Path::new("/"));
        if root.is_none_or(|root| layout.disks_below(&root.fs).is_empty()) {
            return;
        }
        let mut fstab = fstab::read();
        let in_fstab =
            |path: &Path| place::missing_mount(path, &fstab, mounts).is_some_and(|at| at == path);
        let unmounted = coverage::unmounted_boot(layout, in_fstab);
        if unmounted.is_empty() {
            self.problems.extend(coverage::unknown_kernel(Path::new("/")));
        }
        self.problems.extend(unmounted);
        let names = std::fs::read_dir("/boot").into_iter().flatten().flatten();
        let names: Vec<_> = names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        self.problems.extend(coverage::without_kernels(&names, exclude));
        let has_grub = probe::boot::has_bios_grub(Path::new("/"));
        self.problems.extend(coverage::unknown_loader(layout, has_grub));
        self.problems.extend(coverage::unknown_efi_loader(layout, Path::new("/")));
        let crypttab = std::fs::read_to_string("/etc/crypttab").unwrap_or_default();
        match Devices::read() {
            Ok(devices) => {
                let is_mounted = |path: &Path| mounts.iter().any(|mount| mount.path == path);
                let told = |entry: &Entry| {
                    self.problems.iter().any(|problem| unmounted::is_about(problem, &entry.path))
                };
                fstab.retain(|entry| !told(entry));
                self.problems.extend(absent(fstab, &crypttab, &devices, is_mounted));
            }
            Err(error) => log::warn!("whether all of /etc/fstab is there is not known: {error:#}"),
        }
    }

    /// What should be mounted, and so be in the backup. Patterns that leave out all of it are obeyed.
    fn check_fstab(
        &mut self,
        fstab: &Fstab,
        include: &[PathBuf],
        mounts: &[mounts::MountInfo],
        device: impl Fn(&str) -> Device,
    ) {
        for (tree, path) in fstab.around_trees(include, mounts) {
            self.problems.push(unmounted::problem_of_tree(tree, path));
        }
        let own = self.place.as_ref().filter(|place| place.kind == PlaceKind::Own);
        let target = own.map(|place| place.devices(mounts)).unwrap_or_default();
        let mut missing = fstab.missing(mounts, &target, device);
        missing.retain(|missing| {
            let path = &missing.path;
            let below = |tree: &PathBuf| path.starts_with(tree) && path != tree;
            (include.is_empty() || include.iter().any(below))
                && !self.place.as_ref().is_some_and(|place| place.holds(path))
                && coverage::emptied(std::slice::from_ref(path), &self.exclude).trees.is_empty()
                && !self.problems.iter().any(|problem| unmounted::is_about(problem, path))
        });
        for missing in missing {
            if missing.is_away && !self.was_backed_up(&missing.path) {
                self.coverage.unprotected.push(missing.note());
            } else {
                self.problems.push(missing.problem());
            }
        }
    }

    /// Whether a generation at the target has the files of what is mounted there.
    fn was_backed_up(&self, path: &Path) -> bool {
        let Some(store) = &self.store else { return false };
        let name = BytesPath(path.to_owned()).to_string();
        let all = store::catalog::generations(&**store).unwrap_or_default();
        let mut manifests =
            all.iter().rev().filter_map(|name| store::catalog::manifest(&**store, name).ok());
        // A tree that was named is there, whatever was below it.
        let lacked = |problem: &str| unmounted::is_about(problem, path);
        manifests.any(|made| made.tree.contains(&name) && !made.problems().any(lacked))
    }

    fn check_headers(&mut self) {
        let recipients = &self.config.backup.luks_header_recipients;
        let encrypted = self.layout.as_ref().is_some_and(|layout| !layout.luks.is_empty());
        if encrypted
            && !recipients.is_empty()
            && let Err(error) = headers::check(recipients)
        {
            // The files are worth more than the headers.
            self.problems.push(format!("LUKS headers will not be in the backup: {error:#}"));
            self.headers = false;
        }
    }

    /// The headers of the machine's LUKS volumes, encrypted, where they are asked for.
    pub(super) fn luks_headers(&self, ui: &Ui) -> Result<Vec<Header>> {
        let recipients = &self.config.backup.luks_header_recipients;
        match &self.layout {
            Some(layout) if self.headers && !recipients.is_empty() && !layout.luks.is_empty() => {
                ui.step("Copying LUKS headers", || headers::back_up(layout, recipients))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn find_place(&mut self, mounts: &[mounts::MountInfo], ui: &Ui) {
        // Where it is not there, opening the target has said so.
        let place = match &self.url {
            TargetUrl::Usb(stick) => {
                let found = usb::find(stick).ok();
                found.and_then(|found| place::of_stick(&found, mounts, self.layout.as_ref()))
            }
            url => {
                let dir = url.dir().and_then(|dir| dir.canonicalize().ok());
                dir.and_then(|dir| place::find(&dir, mounts, self.layout.as_ref()))
            }
        };
        let Some(place) = place else { return };
        // An ISO is carried elsewhere.
        let is_iso = self.url.is_iso();
        if self.options.include.is_empty()
            && !is_iso
            && let Some(warning) = place.warning()
        {
            ui.warn(warning);
        }
        self.exclude.extend(place.exclude());
        if let Some(layout) = &mut self.layout {
            place.mark(layout);
        }
        self.place = Some(place);
    }

    /// Nothing in the directory of the target is archived, whatever it is.
    fn check_place(&mut self, include: &[PathBuf], fatal: &mut Vec<String>) {
        let Some(place) = &self.place else { return };
        let dir = place.dir.display();
        for tree in include.iter().filter(|tree| place.holds(tree)) {
            fatal.push(format!(
                "{} can't be included: the target is {dir}, and what is in there is left out\nhint: another target, a directory for backups alone",
                tree.display()
            ));
        }
        let is_shared = matches!(place.kind, PlaceKind::Shared { .. });
        if !is_shared || !self.options.include.is_empty() || !self.options.archive {
            return;
        }
        let why = format!("the target is {dir}, and what is in there is left out");
        if let Some(lost) = coverage::ESSENTIAL.iter().find(|dir| place.holds(dir.as_ref())) {
            self.problems.push(format!(
                "{lost} is not in the backup: {why}; a machine that is recovered without it does not start\nhint: another target, a directory for backups alone"
            ));
        }
        let others = place.others(&self.node);
        if !others.is_empty() {
            let what = BytesPath(place.dir.clone()).to_string();
            let why = format!("{why}, also what is no backup: {}", others.join(", "));
            self.coverage.unprotected.push(Unprotected { what, why });
        }
    }

    /// The dry run of a recovery onto these very disks, and what the image needs.
    fn check_rescue(&mut self) {
        let Some(layout) = &self.layout else { return };
        self.rescue_lacks.extend(crate::rescue::missing(layout, self.config));
        if self.config.rescue.local_entry
            && let Some(lacks) = local::lacks(Some(layout))
        {
            // A copy for convenience: the medium is made all the same.
            self.problems.push(lacks);
            self.local_entry = false;
        }
        let security = self.store.as_deref().and_then(|store| store.security());
        let options = &self.config.target_options;
        self.problems.extend(
            security.and_then(|security| nfs::kerberos_problem(&self.url, options, security)),
        );
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        self.problems.extend(resolver::problem(self.config, &self.url, &layout.net, &hosts));
        let answers = Answers { auto: true, ..Answers::default() };
        match plan::plan(layout, layout, &answers) {
            Ok(plan) => {
                if let Err(error) = tools::require(&plan.tools()) {
                    self.rescue_lacks.push(format!("for the recovery: {error:#}"));
                }
                self.plan = Some(plan);
            }
            Err(refusal) => self.problems.push(format!(
                "a recovery of this machine onto its own disks would be refused:\n{refusal}"
            )),
        }
    }

    /// What is put on the ISO is the machine, by a run that makes it.
    fn check_iso(&self, fatal: &mut Vec<String>, ui: &Ui) {
        if !self.url.is_iso() {
            return;
        }
        if self.options.rescue && !self.config.rescue.output.contains(&Output::Iso) {
            fatal.push(format!(
                "the target {} is an ISO, and none is to be made\nhint: rescue.output = [\"iso\"] in rr.toml, or --output iso",
                self.url
            ));
        }
        if !self.options.rescue {
            ui.warn(if self.options.include.is_empty() {
                "the ISO stays as it is: rr mkrescue puts this backup on it"
            } else {
                "the ISO stays as it is: only the whole machine is put on it (rr mkbackup)"
            });
        }
    }

    /// Refuses a target that has no room at all, and warns about one that has probably too little.
    fn check_room(&mut self, fatal: &mut Vec<String>, ui: &Ui) -> Result<()> {
        if self.options.archive && self.options.include.is_empty() {
            let used = self.coverage.trees.iter().filter_map(|tree| fs::used_bytes(tree).ok());
            self.used_bytes = Some(used.sum());
        }
        let Some(store) = &self.store else { return Ok(()) };
        self.free_bytes = store.free_bytes()?;
        let Some(mut free) = self.free_bytes else { return Ok(()) };
        // The first generation has to hold everything, the next about what the last one had to.
        let newest = store::catalog::latest(&**store)?;
        let newest = newest.and_then(|name| store::catalog::manifest(&**store, &name).ok());
        let is_iso = self.url.is_iso() && self.options.rescue;
        let used = self.used_bytes.unwrap_or_default();
        let needed = match &newest {
            None => used / if is_iso { 2 } else { 4 },
            Some(last) => {
                let stored = last.parent.as_ref().map_or(0, |_| last.archive.stored_bytes);
                // On an ISO all of it is once more, beside the one before.
                let whole: u64 = last.pack.iter().map(|pack| pack.size_bytes).sum();
                stored + if is_iso { whole } else { 0 }
            }
        };
        if free < needed.max(LEAST_FREE_BYTES) {
            // What killed runs left goes before anything is stored.
            free = free.saturating_add(retain::swept_bytes(&**store, ui)?);
        }
        if free < LEAST_FREE_BYTES {
            fatal.push(format!(
                "{} is full: {} free\nhint: make room there, or keep fewer generations (rr prune --dry-run)",
                store.url(),
                size(free)
            ));
        } else if free < needed {
            ui.warn(match newest {
                None => format!(
                    "the target has {} free and {} are to be archived for the first time: compressed to a quarter they would not fit",
                    size(free),
                    size(used)
                ),
                Some(_) => format!(
                    "the target has {} free, and the last generation needed {}",
                    size(free),
                    size(needed)
                ),
            });
        }
        Ok(())
    }

    /// What a dry run says.
    pub(super) fn describe(&self, ui: &Ui) {
        ui.info(format!("node {}, target {}", self.node, self.url));
        if self.options.archive {
            ui.info(format!("would archive: {}", self.tree_names().join(" ")));
            ui.info(format!("left out: {}", self.exclude.join(" ")));
            if let Some(used) = self.used_bytes {
                ui.info(format!("in use there: {}", size(used)));
            }
        }
        if let Some(free) = self.free_bytes {
            ui.info(format!("free at the target: {}", size(free)));
        }
        if let Some(plan) = &self.plan {
            ui.info("a recovery onto this very hardware would do this:");
            ui.info(plan.render_text());
        }
    }

    /// The facts for the rescue system.
    pub(super) fn rescue_info(&self) -> Result<crate::rescue::RescueInfo> {
        let options = &self.config.target_options;
        let is_iso = self.url.is_iso();
        // Of an ISO it is where the earlier backups are: on a disk of its own they are not lost.
        let on_local_disk = |place: &&Place| match place.kind {
            PlaceKind::Own => true,
            PlaceKind::Shared { .. } => !is_iso,
            PlaceKind::Elsewhere { .. } => false,
        };
        // Of a node that boots its ISO, that is the medium.
        let medium = TargetUrl::Iso(Iso::Medium(volume_id(&self.node)));
        let target = if is_iso { &medium } else { &self.url };
        Ok(crate::rescue::RescueInfo {
            version: crate::rescue::info::VERSION,
            node: self.node.clone(),
            target: target.to_string(),
            rr: env!("CARGO_PKG_VERSION").to_owned(),
            consoles: Vec::new(),
            cmdline: String::new(),
            asks_login: object::asks_login(&self.url, options)?,
            target_options: object::for_rescue(&self.url, options),
            read_login: options.read_login.clone(),
            target_device: self
                .place
                .as_ref()
                .filter(on_local_disk)
                .and_then(|place| place.target_device.clone()),
            medium: is_iso.then(new_id),
            product_uuid: crate::probe::node::product_uuid(),
        })
    }

    /// Why the rescue half can't even begin.
    pub(super) fn rescue_refusal(&self) -> Option<anyhow::Error> {
        (!self.rescue_lacks.is_empty()).then(|| {
            anyhow!("a rescue image of this machine lacks:\n{}", self.rescue_lacks.join("\n"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::testing;

    fn job<'a>(config: &'a Config, options: &'a Options, layout: Option<Layout>) -> Job<'a> {
        Job {
            config,
            options,
            url: "nfs://server/export".parse().unwrap(),
            node: "node001".to_owned(),
            store: None,
            layout,
            place: None,
            coverage: Coverage::default(),
            exclude: Vec::new(),
            plan: None,
            rescue_lacks: Vec::new(),
            local_entry: false,
            headers: false,
            problems: Vec::new(),
            used_bytes: None,
            free_bytes: None,
            mount_points: Vec::new(),
        }
    }

    #[test]
    fn what_the_target_leaves_out_of_the_machine_is_told() {
        let (config, mut options) = (Config::default(), Options::default());
        options.archive = true;
        let mounts = testing::mounts(&[("8:1", "/", "/", "ext4")]);
        let told = |dir: &Path| {
            let mut job = job(&config, &options, None);
            job.place = place::find(dir, &mounts, None);
            let mut fatal = Vec::new();
            job.check_place(&[], &mut fatal);
            assert_eq!(fatal, [""; 0]);
            (job.coverage.unprotected, job.problems)
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("node001")).unwrap();
        assert_eq!(told(dir.path()), (Vec::new(), Vec::new()));
        std::fs::create_dir_all(dir.path().join("www/html")).unwrap();
        let (gaps, problems) = told(dir.path());
        assert!(gaps[0].why.ends_with("also what is no backup: www"), "{gaps:?}");
        assert!(problems.is_empty());
        let (_, problems) = told(Path::new("/usr"));
        assert!(
            problems[0].starts_with("/usr is not in the backup: the target is"),
            "{problems:?}"
        );
    }

    #[test]
    fn what_is_left_alone_is_no_tree_of_the_archive() {
        let (config, options) = (Config::default(), Options::default());
        let mut layout = testing::layout();
        let why = "made anew".to_owned();
        layout.unprotected.push(Unprotected { what: "/dev/sdb1 (ext4)".into(), why });
        let coverage = Coverage {
            trees: ["/", "/mnt/usb", "/srv"].map(PathBuf::from).into(),
            unprotected: layout.unprotected.clone(),
            ..Coverage::default()
        };
        let mut job = Job { coverage, ..job(&config, &options, Some(layout)) };
        job.coverage.trees.insert(0, "/lost".into());
        job.coverage
            .unprotected
            .push(Unprotected { what: "/lost".into(), why: NOT_IN_LAYOUT.to_owned() });
        let exclude = ["/mnt/usb/*", "/srv/*", "/lost"].map(str::to_owned);
        job.tell_emptied(coverage::emptied(&job.coverage.trees, &exclude).trees);
        assert_eq!(job.tree_names(), ["/lost", "/", "/srv"]);
        let told: Vec<_> = job.coverage.unprotected.iter().map(|u| u.what.as_str()).collect();
        assert_eq!(told, ["/lost", "/mnt/usb", "/srv"]);
        assert!(job.coverage.unprotected[0].why.starts_with("exclude = "), "{:?}", job.coverage);
        let layout = job.layout.unwrap();
        assert!(layout.mount.iter().any(|m| m.target && m.path.as_path() == Path::new("/mnt/usb")));
        assert!(layout.unprotected[0].why.starts_with(Unprotected::ERASED));
    }
}
