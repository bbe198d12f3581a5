//! The rescue image, made on the node from the node's own files: kernel, initrd, ISO.
//!
//! The initrd holds this very program as `/init`, the programs that a recovery runs with all that
//! they need, udev, kernel modules and firmware, and what is known about the backup. Everything
//! that could be missing is found here, on the day of the backup: by [`missing`] before the backup
//! starts, and by running the programs of the finished tree inside it.
//!
//! * [`info`] what the rescue system knows about its backup
//! * [`kernel`] which kernel boots
//! * [`programs`] which programs and files are taken, [`ssh`] the server to log in by, [`keymap`] the
//!   keyboard
//! * [`modules`] which kernel modules and firmware are taken
//! * [`tree`] the file tree in memory, [`elf`] what programs need
//! * [`stored`] where the image is at the target, [`boot`] the rescue system started from the one
//!   that runs
//! * [`selftest`] the programs run inside the tree, [`rehearsal`] and what a recovery begins with
//! * [`initrd`] the tree as an archive that the kernel unpacks
//! * [`menu`] the boot menu, [`iso`] the bootable image, [`carried`] the backup in it, [`pxe`] the tree
//!   of a boot server, [`signed`] boot loaders for Secure Boot

pub mod boot;
pub mod carried;
pub mod elf;
pub mod files;
pub mod info;
pub mod initrd;
pub mod iso;
pub mod kernel;
pub mod keymap;
pub mod menu;
pub mod modules;
pub mod programs;
pub mod pxe;
pub mod rehearsal;
pub mod selftest;
pub mod signed;
pub mod ssh;
pub mod stored;
pub mod tree;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::{Config, Drivers, Output};
use crate::layout::Layout;
use crate::layout::units::size;
use crate::store::object;
use crate::sys::tools;
use crate::ui::Ui;

use carried::Carried;
pub use info::{RescueInfo, TargetDevice};
use kernel::Kernel;
use modules::Index;
use tree::Tree;

/// The names that this program has in the rescue system besides `rr` and `init`; see `init`.
pub const NAMES: &[&str] = &["reboot", "poweroff", "halt"];

#[derive(Debug)]
pub struct BuildRequest<'a> {
    pub layout: &'a Layout,
    pub config: &'a Config,
    pub info: RescueInfo,
    /// An empty directory with room for twice the image.
    pub out: &'a Path,
    /// What the ISO is to hold besides.
    pub carried: Option<&'a Carried>,
}

/// The finished files, mode 0600, in the request's directory.
#[derive(Debug)]
pub struct Image {
    pub iso: Option<PathBuf>,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub warnings: Vec<String>,
    /// What was found wrong that the image is none the worse for.
    pub problems: Vec<String>,
}

/// Builds the image with these programs besides the rescue system's own.
pub fn build(request: &BuildRequest<'_>, programs: &[&str], ui: &Ui) -> Result<Image> {
    let problems = missing(request.layout, request.config);
    if !problems.is_empty() {
        bail!("the rescue image can't be built:\n{}", problems.join("\n"));
    }
    let mut warnings = Vec::new();
    let kernel = kernel::find(request.config.rescue.kernel.as_deref())?;
    let tree = ui.step("Collecting the rescue system", || {
        let mut tree = Tree::new();
        collect(&mut tree, request, &kernel, programs)?;
        warnings.extend(keymap::add(&mut tree, &request.config.rescue.keymap)?);
        warnings.extend(ssh::warning(&request.config.rescue));
        Ok(tree)
    })?;
    let problem = selftest::unpacked(&tree, request.out, |root| test(&tree, root, request, ui))?;
    let initrd_path = request.out.join("initrd");
    let compression = kernel.compression(request.config.rescue.drivers);
    ui.step("Packing the initrd", || initrd::write(&tree, &initrd_path, compression))?;
    let kernel_path = request.out.join("kernel");
    copy_private(&kernel.image, &kernel_path)?;
    let size_bytes = file_bytes(&initrd_path)? + file_bytes(&kernel_path)?;
    warnings.extend(too_big(&tree, size_bytes));
    let iso = if request.config.rescue.output.contains(&Output::Iso) {
        let media = (kernel_path.as_path(), initrd_path.as_path());
        let iso = ui.step("Building the ISO", || build_iso(request, media, size_bytes))?;
        if let Some(carried) = request.carried {
            ui.step("Reading the ISO back", || carried.check(ui))?;
        }
        Some(iso)
    } else {
        None
    };
    if iso.is_some() {
        let platforms = platforms(request.layout, request.config);
        if request.config.rescue.drivers == Drivers::All {
            warnings.extend(platforms.warning());
        }
        if request.layout.boot.secure_boot && platforms.signed.is_none() {
            warnings.push(
                "this node has Secure Boot on, and no signed boot loader for the rescue ISO: it would boot only with Secure Boot switched off in the firmware\nhint: install shim-signed and grub-efi-amd64-signed".into(),
            );
        }
    }
    ui.info(format!(
        "rescue image: kernel {}, initrd {}{}",
        size(file_bytes(&kernel_path)?),
        size(file_bytes(&initrd_path)?),
        match &iso {
            Some(iso) => format!(", ISO {}", size(file_bytes(iso)?)),
            None => String::new(),
        }
    ));
    Ok(Image {
        iso,
        kernel: kernel_path,
        initrd: initrd_path,
        warnings,
        problems: problem.into_iter().collect(),
    })
}

/// Tests the image that is unpacked below `root`. Says what is wrong with the backup that it reads.
fn test(tree: &Tree, root: &Path, request: &BuildRequest<'_>, ui: &Ui) -> Result<Option<String>> {
    ui.step("Testing the rescue system", || selftest::run(tree, root))?;
    if !request.config.rescue.rehearse {
        ui.info("no recovery is rehearsed: rescue.rehearse is false");
        return Ok(None);
    }
    let patience = Duration::from_secs(request.config.target_options.patience_seconds);
    let rehearsed = ui.step("Rehearsing a recovery", || rehearsal::run(root, patience))?;
    if rehearsed.problem.is_some() {
        return Ok(Some(rehearsed.shown()));
    }
    ui.info(rehearsed.shown());
    Ok(None)
}

fn platforms(layout: &Layout, config: &Config) -> iso::Platforms {
    iso::Platforms::wanted(config.rescue.drivers, layout.boot.firmware)
}

fn build_iso(
    request: &BuildRequest<'_>,
    (kernel, initrd): (&Path, &Path),
    size_bytes: u64,
) -> Result<PathBuf> {
    let path = match request.carried {
        Some(carried) => {
            // They are stored beside the ISO as well.
            carried.check_room(2 * size_bytes)?;
            carried.iso.clone()
        }
        None => request.out.join(format!("rr-{}.iso", request.info.node)),
    };
    let font = iso::font();
    let id = request.info.medium.clone().unwrap_or_else(iso::new_id);
    let menu = menu::Menu {
        layout: request.layout,
        config: request.config,
        info: &request.info,
        id: &id,
        size_mib: size_bytes.div_ceil(1 << 20),
        font: font.as_ref().map_or("", |(_, name)| name),
    };
    let font = font.as_ref().map(|(path, _)| path.as_path());
    let content = iso::Content { menu: &menu, kernel, initrd, font, carried: request.carried };
    iso::build(&content, &platforms(request.layout, request.config), request.out, &path)?;
    Ok(path)
}

/// Puts the image into the tree of a boot server. Gives what an admin should know, and where the
/// tree is.
pub fn publish_pxe(request: &BuildRequest<'_>, image: &Image) -> Result<(Vec<String>, String)> {
    let tree = pxe::Tree::open(request.config)?;
    let size_bytes = file_bytes(&image.kernel)? + file_bytes(&image.initrd)?;
    let menu = menu::Menu {
        layout: request.layout,
        config: request.config,
        info: &request.info,
        id: "",
        size_mib: size_bytes.div_ceil(1 << 20),
        font: "",
    };
    let content = pxe::Content {
        menu: &menu,
        kernel: &image.kernel,
        initrd: &image.initrd,
        names: pxe::Names::of_this_machine(request.layout, &request.info.node),
    };
    Ok((pxe::publish(&tree, &content)?, tree.label().to_owned()))
}

/// What a rescue image for this layout can't be built without, all at once.
pub fn missing(layout: &Layout, config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    match kernel::find(config.rescue.kernel.as_deref()) {
        Ok(kernel) => match Index::read(&kernel) {
            Ok(index) => problems.extend(modules::missing(&index, layout, config, &kernel.release)),
            Err(error) => problems.push(format!("{error:#}")),
        },
        Err(error) => problems.push(format!("{error:#}")),
    }
    let mut names = programs::required(layout, is_nfs(config.target.as_deref()));
    names.extend(resolver(config.target.as_deref()));
    if config.rescue.output.contains(&Output::Iso) {
        let platforms = platforms(layout, config);
        problems.extend(platforms.missing(layout.boot.firmware));
        names.extend(platforms.programs());
    }
    if config.rescue.output.contains(&Output::Pxe)
        && let Err(error) = pxe::check(config)
    {
        problems.push(format!("{error:#}"));
    }
    problems.extend(ssh::missing(&config.rescue));
    problems.extend(files::missing(&config.rescue.files));
    if let Err(error) = tools::require(&names) {
        problems.push(format!("{error:#}"));
    }
    problems
}

fn is_nfs(target: Option<&str>) -> bool {
    target.is_some_and(|target| target.starts_with("nfs:"))
}

/// The program that looks names up, for targets that rr itself connects to.
fn resolver(target: Option<&str>) -> Option<&'static str> {
    let direct = |target: &str| ["http:", "https:", "s3:"].iter().any(|s| target.starts_with(s));
    target.is_some_and(direct).then_some("getent")
}

const CACHE_POLICY: &str = "dm_cache_smq";

fn collect(
    tree: &mut Tree,
    request: &BuildRequest<'_>,
    kernel: &Kernel,
    more_programs: &[&str],
) -> Result<()> {
    let mut names = programs::required(request.layout, is_nfs(Some(&request.info.target)));
    names.extend(resolver(Some(&request.info.target)));
    names.extend(more_programs.iter().copied());
    names.sort_unstable();
    names.dedup();
    let drivers = request.config.rescue.drivers;
    programs::add(tree, &names, drivers)?;
    let index = Index::read(kernel)?;
    let needed = modules::needed(request.layout, request.config);
    let mut needed: Vec<&str> = needed.into_keys().collect();
    // What is cached decides a module of its own, which older kernels call otherwise.
    if needed.contains(&"dm_cache") && index.has(CACHE_POLICY) {
        needed.push(CACHE_POLICY);
    }
    modules::add(tree, kernel, &index, drivers, &needed)?;
    add_skeleton(tree, &std::fs::read("/etc/hosts").unwrap_or_default());
    ssh::add(tree, &request.config.rescue).context("adding the ssh server")?;
    add_trust(tree, &request.info)?;
    add_rr(tree, request)?;
    files::add(tree, &request.config.rescue.files)
}

/// Whom the rescue system trusts when it reads the target, and what it shows of itself.
fn add_trust(tree: &mut Tree, info: &RescueInfo) -> Result<()> {
    if object::is_tls(&info.target.parse()?, &info.target_options)
        && let Some(bundle) = object::tls::bundle()
    {
        let bundle = bundle.canonicalize().with_context(|| bundle.display().to_string())?;
        tree.copy_as(object::tls::OWN_BUNDLE, &bundle, 0o644);
    }
    for file in info.target_options.ca_file.iter().chain(info.read_login.files()) {
        tree.add(file).with_context(|| format!("adding {}", file.display()))?;
    }
    Ok(())
}

/// The files that every rescue system has, from `rescue/`. Where a cluster has no DNS, the node's own list of
/// `hosts` is what knows the target.
fn add_skeleton(tree: &mut Tree, hosts: &[u8]) {
    for dir in ["dev", "etc", "mnt", "proc", "root", "run", "sys", "var/lib/nfs", "var/log"] {
        tree.dir(dir, 0o755);
    }
    tree.dir("tmp", 0o1777);
    tree.dir("mnt/rr", 0o755);
    tree.symlink("var/run", "../run");
    tree.symlink("var/lock", "../run/lock");
    tree.symlink("etc/mtab", "../proc/self/mounts");
    tree.char_device("dev/console", 0o600, 5, 1);
    tree.char_device("dev/null", 0o666, 1, 3);
    tree.text("etc/hosts", 0o644, [include_bytes!("../../rescue/etc/hosts"), hosts].concat());
    let files: [(&str, &str); 8] = [
        ("etc/lvm/lvm.conf", include_str!("../../rescue/etc/lvm/lvm.conf")),
        // Without a section LVM refuses the file as soon as --config has a filter.
        ("etc/lvm/lvmlocal.conf", "local {\n}\n"),
        ("etc/mdadm.conf", include_str!("../../rescue/etc/mdadm.conf")),
        ("etc/mdadm/mdadm.conf", include_str!("../../rescue/etc/mdadm.conf")),
        ("etc/nsswitch.conf", include_str!("../../rescue/etc/nsswitch.conf")),
        ("etc/passwd", include_str!("../../rescue/etc/passwd")),
        ("etc/profile", include_str!("../../rescue/etc/profile")),
        ("etc/shells", "/bin/sh\n/bin/bash\n"),
    ];
    for (path, text) in files {
        tree.text(path, 0o644, text);
    }
}

/// This program under its names, and what it knows.
fn add_rr(tree: &mut Tree, request: &BuildRequest<'_>) -> Result<()> {
    let own = std::fs::read_link("/proc/self/exe").context("finding this program")?;
    tree.copy_as("usr/bin/rr", Path::new("/proc/self/exe"), 0o755);
    log::info!("/init is {}", own.display());
    tree.symlink("init", "usr/bin/rr");
    for name in NAMES {
        tree.symlink(&format!("usr/sbin/{name}"), "../bin/rr");
    }
    let info =
        toml::to_string_pretty(&request.info).context("writing the rescue system's facts")?;
    tree.text("etc/rr/rescue.toml", 0o600, info);
    tree.text("etc/rr/layout.toml", 0o600, crate::layout::schema::render(request.layout)?);
    // Of an ISO it is another one there.
    let target = Some(request.info.target.clone());
    let config = Config { target, ..request.config.for_rescue() };
    let config = toml::to_string_pretty(&config).context("writing the configuration")?;
    tree.text("etc/rr/rr.toml", 0o600, config);
    Ok(())
}

/// A warning with what makes an image big, once firmware and virtual drives get trouble with it.
fn too_big(tree: &Tree, size_bytes: u64) -> Option<String> {
    const LIMIT_BYTES: u64 = 300 << 20;
    if size_bytes <= LIMIT_BYTES {
        return None;
    }
    let mut files: Vec<(u64, &PathBuf)> = tree
        .iter()
        .filter_map(|(path, node)| match node {
            tree::Node::Copy { from, .. } => Some((from.metadata().ok()?.len(), path)),
            _ => None,
        })
        .collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    let biggest: Vec<String> = files
        .iter()
        .take(10)
        .map(|(bytes, path)| format!("{} {}", path.display(), size(*bytes)))
        .collect();
    Some(format!(
        "kernel and initrd have {}: not every firmware loads that; the biggest files: {}",
        size(size_bytes),
        biggest.join(", ")
    ))
}

fn copy_private(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let copy = || {
        let mut input = std::fs::File::open(from)?;
        let mut output = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(to)?;
        std::io::copy(&mut input, &mut output)
    };
    copy().map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn file_bytes(path: &Path) -> Result<u64> {
    let meta = path.metadata().with_context(|| format!("looking at {}", path.display()))?;
    Ok(meta.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn layout() -> Layout {
        crate::layout::schema::parse(include_str!("../../tests/fixtures/rescue/layout.toml"))
            .unwrap()
    }

    #[test]
    fn hosts_that_the_node_alone_knows_are_known() {
        let mut tree = Tree::new();
        add_skeleton(&mut tree, b"192.0.2.7 backup\n");
        let (_, node) = tree.iter().find(|(path, _)| *path == Path::new("etc/hosts")).unwrap();
        let tree::Node::Text { bytes, .. } = node else { panic!("{node:?}") };
        let text = String::from_utf8_lossy(bytes);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"), "{text}");
        assert!(text.ends_with("\n192.0.2.7 backup\n"), "{text}");
    }

    #[test]
    fn the_image_has_the_login_for_reading_and_never_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, "x").unwrap();
        let text = format!(
            "target = 'https://server/backups'\n[target_options]\nca_file = '{}'\n\
             [target_options.login]\nuser = 'writer'\npassword = 'sesame'\n\
             [target_options.read_login]\nuser = 'reader'\npassword = 'poppy'\n",
            ca.display()
        );
        let config: Config = toml::from_str(&text).unwrap();
        let url = config.target_url().unwrap();
        let options = &config.target_options;
        let info = RescueInfo {
            version: info::VERSION,
            node: "node001".into(),
            target: url.to_string(),
            rr: "0".into(),
            consoles: Vec::new(),
            cmdline: String::new(),
            asks_login: object::asks_login(&url, options).unwrap(),
            target_options: object::for_rescue(&url, options),
            read_login: options.read_login.clone(),
            target_device: None,
            medium: None,
            product_uuid: None,
        };
        assert!(!info.asks_login);
        let layout = layout();
        let request =
            BuildRequest { layout: &layout, config: &config, info, out: dir.path(), carried: None };
        let mut tree = Tree::new();
        add_trust(&mut tree, &request.info).unwrap();
        add_rr(&mut tree, &request).unwrap();

        assert!(tree.contains(ca.to_str().unwrap()));
        if object::tls::bundle().is_some() {
            assert!(tree.contains(object::tls::OWN_BUNDLE));
        }
        let texts = tree.iter().filter_map(|(_, node)| match node {
            tree::Node::Text { bytes, mode } => Some((String::from_utf8_lossy(bytes), *mode)),
            _ => None,
        });
        let texts: Vec<_> = texts.collect();
        assert!(texts.iter().all(|(text, _)| !text.contains("sesame") && !text.contains("writer")));
        let (text, mode) = texts.iter().find(|(text, _)| text.contains("poppy")).unwrap();
        assert_eq!(*mode, 0o600);
        let found: RescueInfo = toml::from_str(text).unwrap();
        assert_eq!(found.options().login, options.read_login);
    }
}
