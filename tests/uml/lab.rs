//! The root tree of the machines, and booting them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rr::sys::run::Cmd;
use tempfile::TempDir;

use crate::cases::{self, Case, Expect, Target};
use crate::{network, recover, snapshot};

const UML: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
const SUITE: &str = "bookworm";
const PACKAGES: &str = "age,btrfs-progs,cryptsetup-bin,dmsetup,dnsmasq-base,dosfstools,e2fsprogs,f2fs-tools,fdisk,iproute2,kmod,lvm2,mdadm,mount,\
     thin-provisioning-tools,udev,xfsprogs";
/// For one phase, on a machine that does nothing else; RR_LAB_PATIENCE multiplies it.
const BOOT_TIME: Duration = Duration::from_secs(300);

/// See there.
const XSTATE: &str = include_str!("../fixtures/uml-xstate.c");

/// In the tree: finds the directory of the case, which the kernel command line names.
const FIRST: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
for word in $(cat /proc/cmdline); do
    case $word in rr.case=*) case=${word#rr.case=} ;; esac
done
mkdir /run/case
mount -t hostfs -o "$case" none /run/case
. /run/case/init
"#;

/// Mounts what a machine needs, starts udev, and runs the agent.
const INIT: &str = r#"
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
for dir in /tmp /mnt /node /etc/lvm/archive /etc/lvm/backup; do mount -t tmpfs tmpfs $dir; done
for module in dm-mod md-mod; do modprobe $module; done
echo 1000000 >/proc/sys/dev/raid/speed_limit_min
/usr/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add
udevadm settle
/run/case/agent --agent /run/case >/run/case/console 2>&1
sync
echo o >/proc/sysrq-trigger
sleep 10
"#;

/// Why the machines can't be run here.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    let missing = |path: &&&str| !Path::new(path).exists();
    ["/usr/bin/mmdebstrap", UML, MODULES]
        .iter()
        .find(missing)
        .map(|path| format!("{path} is missing (scripts/install-deps installs it)"))
}

/// What several cases build alike is built once.
#[derive(Debug, Default)]
pub struct Builds(Mutex<BTreeMap<&'static str, Arc<OnceLock<Built>>>>);

/// The directory of a machine that was built: its disks, its layout, what the tools say of it.
type Built = std::result::Result<Arc<TempDir>, String>;

impl Builds {
    fn of(&self, case: &Case) -> Result<Arc<TempDir>> {
        let built = match self.0.lock() {
            Ok(mut all) => all.entry(case.build).or_default().clone(),
            Err(_) => bail!("another case has panicked"),
        };
        let make = || build(case).map(Arc::new).map_err(|error| format!("{error:#}"));
        let built = built.get_or_init(make).clone().map_err(anyhow::Error::msg);
        if cases::all().iter().filter(|other| other.build == case.build).count() == 1
            && let Ok(mut all) = self.0.lock()
        {
            all.remove(case.build);
        }
        built
    }
}

fn build(case: &Case) -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    prepare(dir.path(), case.name)?;
    let old = disks(dir.path(), "old", case.disks)?;
    boot(&tree()?, dir.path(), &old, "build")?;
    Ok(dir)
}

/// Rebuilds what the case builds on its other disks, and compares.
pub fn run(case: &Case, builds: &Builds) -> Result<()> {
    let built = builds.of(case)?;
    let tree = tree()?;
    let work = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    let dir = work.path();
    prepare(dir, case.name)?;
    for name in ["layout.toml", "before.txt"] {
        fs::copy(built.path().join(name), dir.join(name)).context("copying what was built")?;
    }
    let new = match case.target {
        Target::Same => copies(built.path(), dir, case.disks.len())?,
        Target::Swapped => {
            let mut own = copies(built.path(), dir, case.disks.len())?;
            own.reverse();
            own
        }
        Target::Blank(sizes) => disks(dir, "new", sizes)?,
        // Made inside, where they last until the machine is off.
        Target::Scsi(..) => Vec::new(),
        Target::Dirty(sizes, _) => {
            let new = disks(dir, "new", sizes)?;
            boot(&tree, dir, &new, "dirty")?;
            new
        }
    };
    boot(&tree, dir, &new, "rebuild")?;
    if matches!(case.expect, Expect::Refused(_)) {
        return Ok(());
    }
    let compared = |line: &str| {
        let identity = IDENTITY.iter().any(|key| line.contains(key));
        let gone = matches!(case.expect, Expect::Without(disk) if line.contains(disk));
        let wanted = match case.expect {
            Expect::Same => true,
            // LVM's own words too: the groups come back from their metadata.
            Expect::Joined(_) => line.starts_with("lvm ") || TAGS.iter().any(|t| line.contains(t)),
            _ => identity,
        };
        !line.contains(case.ignore) && !gone && wanted
    };
    for again in ["after.txt", "again.txt"] {
        let lines = |text: String| {
            let mut lines: Vec<_> = text.lines().filter(|line| compared(line)).collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        let after = by_old_names(case, &read(dir, again)?);
        compare(&lines(read(dir, "before.txt")?), &lines(after), again)?;
    }
    Ok(())
}

/// What the tools say, with the names that the disks had when the case was built.
fn by_old_names(case: &Case, text: &str) -> String {
    let names: &[(&str, &str)] = match (case.target, case.expect) {
        (Target::Scsi(..), _) => &[("/dev/sda", "/dev/ubdb"), ("/dev/sdb", "/dev/ubdc")],
        (_, Expect::Joined(names)) => names,
        _ => &[],
    };
    names.iter().fold(text.to_owned(), |text, (now, was)| text.replace(now, was))
}

/// What a device has on it.
const TAGS: &[&str] = &[" UUID=", " LABEL=", " TYPE="];

/// What does not change with the size, as blkid(8) names it.
const IDENTITY: &[&str] = &[
    " UUID=",
    " LABEL=",
    " TYPE=",
    " PTUUID=",
    " PART_ENTRY_NAME=",
    " PART_ENTRY_UUID=",
    " PART_ENTRY_TYPE=",
    " PART_ENTRY_FLAGS=",
    " PART_ENTRY_NUMBER=",
];

/// Backs the node up, and recovers it on blank disks.
pub fn run_recovery() -> Result<()> {
    let tree = tree()?;
    let work = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    let dir = work.path();
    prepare(dir, recover::NAME)?;
    let old = disks(dir, "old", recover::DISKS_MIB)?;
    boot(&tree, dir, &old, "back up")?;
    let new = disks(dir, "new", recover::DISKS_MIB)?;
    boot(&tree, dir, &new, "damaged")?;
    boot(&tree, dir, &new, "recover")?;
    let mut new = disks(dir, "newer", recover::DISKS_MIB)?;
    new.push(recover::carry(dir)?);
    boot(&tree, dir, &new, "step by step")
}

/// The same with encrypted disks.
pub fn run_encrypted_recovery() -> Result<()> {
    let tree = tree()?;
    let work = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    let dir = work.path();
    prepare(dir, recover::ENCRYPTED)?;
    let old = disks(dir, "old", recover::DISKS_MIB)?;
    boot(&tree, dir, &old, "back up")?;
    let new = disks(dir, "new", recover::DISKS_MIB)?;
    boot(&tree, dir, &new, "encrypted")
}

/// Recovers beside a disk that is to stay as it is, and beside a blank one in its place.
pub fn run_recovery_beside_data() -> Result<()> {
    let tree = tree()?;
    let work = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    let dir = work.path();
    prepare(dir, recover::BESIDE_DATA)?;
    let all = [recover::DISKS_MIB, &[recover::DATA_MIB]].concat();
    let mut old = disks(dir, "old", &all)?;
    boot(&tree, dir, &old, "back up")?;
    let mut new = disks(dir, "new", recover::DISKS_MIB)?;
    new.extend(old.pop());
    boot(&tree, dir, &new, "beside data")?;
    boot(&tree, dir, &disks(dir, "newer", &all)?, "without data")
}

/// Backs up from snapshots of logical volumes.
pub fn run_snapshots() -> Result<()> {
    let tree = tree()?;
    let work = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    let dir = work.path();
    prepare(dir, snapshot::NAME)?;
    let disks = disks(dir, "disk", snapshot::DISKS_MIB)?;
    boot(&tree, dir, &disks, "back up")
}

/// Sets a network up, and has rr set it up again.
pub fn run_network() -> Result<()> {
    let tree = tree()?;
    let work = tempfile::Builder::new().prefix("rr-uml-").tempdir()?;
    prepare(work.path(), network::NAME)?;
    boot(&tree, work.path(), &[], "network")
}

fn prepare(dir: &Path, name: &str) -> Result<()> {
    // The agent is this program.
    fs::copy(std::env::current_exe()?, dir.join("agent")).context("copying the agent")?;
    write(dir, "case", name)?;
    write(dir, "init", INIT)
}

/// The disks of a machine that was built.
fn copies(from: &Path, to: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let copy = |n| {
        let name = format!("old{n}.img");
        let cp = Cmd::new("/bin/cp").args(["--sparse=always", "--reflink=auto", "-t"]);
        cp.arg(to).arg(from.join(&name)).run()?;
        Ok(to.join(name))
    };
    (0..count).map(copy).collect()
}

/// Sparse images of so many MiB.
fn disks(dir: &Path, prefix: &str, sizes_mib: &[u64]) -> Result<Vec<PathBuf>> {
    let make = |(n, mib): (usize, &u64)| {
        let path = dir.join(format!("{prefix}{n}.img"));
        File::create(&path)?.set_len(mib << 20)?;
        Ok(path)
    };
    sizes_mib.iter().enumerate().map(make).collect()
}

/// Boots a machine that does one phase and powers off.
fn boot(tree: &Path, dir: &Path, disks: &[PathBuf], phase: &str) -> Result<()> {
    write(dir, "phase", phase)?;
    let _ = fs::remove_file(dir.join("done"));
    let mut args: Vec<String> = vec![
        // Sparse, as all of it.
        "mem=1024M".into(),
        "root=/dev/root".into(),
        "rootfstype=hostfs".into(),
        format!("rootflags={}", tree.display()),
        "ro".into(),
        "init=/rr-init".into(),
        "con=null".into(),
        "con0=fd:0,fd:1".into(),
        "quiet".into(),
        format!("uml_dir={}/", dir.display()),
        format!("rr.case={}", dir.display()),
    ];
    for (disk, letter) in disks.iter().zip('b'..='z') {
        args.push(format!("ubd{letter}={}", disk.display()));
    }
    let output = Cmd::new(UML)
        .args(&args)
        .env("TMPDIR", "/dev/shm")
        .env("LD_PRELOAD", tree.join("xstate.so"))
        .timeout(BOOT_TIME * patience())
        .output()?;
    write(dir, &format!("kernel-{phase}.txt"), &output.text())?;
    let console = fs::read_to_string(dir.join("console")).unwrap_or_default();
    if let Some(keep) = std::env::var_os("RR_UML_KEEP") {
        let keep = PathBuf::from(keep).join(read(dir, "case")?);
        fs::create_dir_all(&keep)?;
        for name in ["layout.toml", "before.txt", "after.txt", "again.txt", "plan.txt", "plan.sh"] {
            let _ = fs::copy(dir.join(name), keep.join(name));
        }
        write(&keep, &format!("console-{phase}.txt"), &console)?;
        let _ = fs::copy(dir.join("log"), keep.join(format!("log-{phase}.txt")));
    }
    if dir.join("done").exists() {
        return Ok(());
    }
    bail!("phase {phase} failed\n{console}\n{}", output.text());
}

fn patience() -> u32 {
    std::env::var("RR_LAB_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn compare(before: &str, after: &str, name: &str) -> Result<()> {
    if before == after {
        ensure!(before.lines().count() > 3, "the tools said nothing:\n{before}");
        return Ok(());
    }
    let mut text = format!("{name} differs from what was recorded:\n");
    for line in before.lines().filter(|l| !after.lines().any(|o| o == *l)) {
        text += &format!("- {line}\n");
    }
    for line in after.lines().filter(|l| !before.lines().any(|o| o == *l)) {
        text += &format!("+ {line}\n");
    }
    bail!("{text}")
}

/// The root tree, built once and kept by what made it.
fn tree() -> Result<PathBuf> {
    static TREE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    TREE.get_or_init(|| make_tree().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn make_tree() -> Result<PathBuf> {
    let recipe = format!("{SUITE} {PACKAGES}\n{FIRST}\n{XSTATE}");
    let hash = blake3::hash(recipe.as_bytes()).to_hex();
    let cache = match std::env::var_os("RR_LAB_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?)
            .join(".cache/rr-lab"),
    };
    fs::create_dir_all(&cache)?;
    let tree = cache.join(format!("uml-{}", &hash[..16]));
    let lock = File::create(cache.join("uml.lock"))?;
    lock.lock().context("waiting for another run")?;
    if tree.exists() {
        return Ok(tree);
    }
    eprintln!("making the root tree {} (a minute or two)", tree.display());
    let part = tree.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    Cmd::new("/usr/bin/mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .arg(SUITE)
        .arg(&part)
        .run()?;
    let modules = part.join("usr/lib/modules");
    fs::create_dir_all(&modules)?;
    for entry in fs::read_dir(MODULES)? {
        Cmd::new("/bin/cp").args(["-a", "-t"]).arg(&modules).arg(entry?.path()).run()?;
    }
    for dir in ["node", "etc/lvm/archive", "etc/lvm/backup"] {
        fs::create_dir_all(part.join(dir))?;
    }
    let init = part.join("rr-init");
    fs::write(&init, FIRST)?;
    fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let source = part.join("xstate.c");
    fs::write(&source, XSTATE)?;
    let cc = Cmd::new("/usr/bin/cc").args(["-shared", "-fPIC", "-O2", "-o"]);
    cc.arg(part.join("xstate.so")).arg(&source).run()?;
    fs::rename(&part, &tree)?;
    Ok(tree)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(dir.join(name), text).with_context(|| format!("writing {name}"))
}

fn read(dir: &Path, name: &str) -> Result<String> {
    fs::read_to_string(dir.join(name)).with_context(|| format!("reading {name}"))
}
