//! Arrays, volume groups and volumes.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::wipe::{wipe_area, wipe_data_start, wipe_new};
use crate::layout::{Layout, Md};
use crate::plan::step::{Argv, CreateMd, CreateVg, KeepUuids, MakeLuks};
use crate::plan::{Plan, Step, fscmd, groups, lvmtext, stackcmd};
use crate::sys::run::Cmd;
use crate::sys::secret::Secret;
use crate::sys::{ioctl, udev};

/// Accept every device whatever the node's lvm.conf says, and keep no backups of metadata: the
/// recovered system has its own.
const LVM_CONFIG: &str = "devices { use_devicesfile=0 filter=[\"a|.*|\"] global_filter=[\"a|.*|\"] } \
     backup { backup=0 archive=0 } global { event_activation=0 }";
/// Where no udev rules answer lvm, it makes the device nodes itself.
const LVM_NO_UDEV: &str = "activation { udev_sync=0 udev_rules=0 }";
const DM_RULES: &[&str] =
    &["/usr/lib/udev/rules.d/95-dm-notify.rules", "/lib/udev/rules.d/95-dm-notify.rules"];

pub fn create_md(step: &Step, create: &CreateMd) -> Result<()> {
    modprobe(&create.md.level);
    for member in create.members.iter().filter(|member| *member != "missing") {
        wipe_data_start(member, create.md.data_offset_bytes.unwrap_or(0))?;
    }
    run_all(&step.commands(""))?;
    let name = &create.md.name;
    let found = wait_for(Path::new(&create.md.dev()))?;
    if found < create.md.size_bytes {
        bail!("{name} came out with {found} bytes, it had {}", create.md.size_bytes);
    }
    link_by_name(Path::new("/dev/md"), &create.md);
    // What an earlier array had in the same place would be there again.
    wipe_new(name)
}

/// `/dev/md/NAME`, by which fstab may mount it: udev has that only of arrays that mdadm names by itself.
fn link_by_name(dir: &Path, md: &Md) {
    let name = md.array_name.as_deref().filter(|name| !name.contains('/'));
    let Some(name) = name else { return };
    // `HOST:NAME`, of which the host is left out on that host.
    for name in [name.split_once(':').map_or(name, |(_, name)| name), name] {
        let (link, array) = (dir.join(name), Path::new("..").join(&md.name));
        let leads_there = || link.canonicalize().ok() == dir.join(&array).canonicalize().ok();
        if name.is_empty() || (link.exists() && leads_there()) {
            continue;
        }
        // One that an array of before left leads nowhere, and that of another one to what is not meant.
        let _ = std::fs::remove_file(&link);
        let made =
            std::fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(&array, &link));
        if let Err(error) = made {
            log::warn!("making {}: {error}", link.display());
        }
    }
}

/// Makes the volume and opens it, and sees to it that nothing old shows in it.
pub fn make_luks(step: &Step, make: &MakeLuks, passphrase: Option<&Secret>) -> Result<()> {
    let passphrase = passphrase.context("there is no passphrase for an encrypted volume")?;
    modprobe("dm_crypt");
    wait_for(Path::new(&make.dev))?;
    Cmd::new("wipefs").args(["--all", "--force", &make.dev]).run()?;
    for argv in step.commands("") {
        command(&argv)?.secret_stdin(passphrase).run()?;
    }
    let found = wait_for(Path::new(&make.luks.dev()))?;
    if found < make.luks.size_bytes {
        bail!("{} came out with {found} bytes, it had {}", make.luks.name, make.luks.size_bytes);
    }
    Ok(())
}

pub fn create_vg(step: &Step, create: &CreateVg) -> Result<()> {
    modprobe("dm_mod");
    let mut file = tempfile::NamedTempFile::new().context("making a file for LVM's metadata")?;
    file.write_all(create.vg.metadata.as_bytes()).context("writing LVM's metadata")?;
    file.flush().context("writing LVM's metadata")?;
    let path = file.path().to_str().context("the path of a temporary file")?;
    let commands = step.commands(path);
    let (activate, before) = commands.split_last().context("a group without commands")?;
    run_all(before)?;
    for (dev, at, bytes) in &create.clear {
        wipe_area(dev, *at, *bytes)?;
    }
    run_all(std::slice::from_ref(activate))?;
    udev::settle()
}

pub fn create_lv(step: &Step) -> Result<()> {
    run_all(&step.commands(""))?;
    udev::settle()
}

/// Where LVM refuses, the volumes work all the same, with other UUIDs: the answer says why.
pub fn keep_uuids(step: &Step, keep: &KeepUuids) -> Result<Option<String>> {
    let file = tempfile::NamedTempFile::new().context("making a file for LVM's metadata")?;
    let path = file.path().to_str().context("the path of a temporary file")?;
    let commands = step.commands(path);
    let (activate, before) = commands.split_last().context("a step without commands")?;
    let (back_up, restore) = before.split_first().context("a step without commands")?;
    let change = || {
        command(back_up)?.run()?;
        let text = std::fs::read_to_string(path).context("reading what vgcfgbackup wrote")?;
        let uuids = keep.uuids.iter().map(|(name, uuid)| (name.as_str(), uuid.as_str())).collect();
        let text = lvmtext::with_uuids(&text, &keep.vg, &uuids)
            .context("what vgcfgbackup wrote is not understood")?;
        std::fs::write(path, text).context("writing LVM's metadata")?;
        // Whoever looks at new volumes has them open.
        udev::settle()?;
        run_all(restore)
    };
    let changed = change();
    command(activate)?.run()?;
    udev::settle()?;
    let checked = changed.and_then(|()| has_uuids(keep));
    let told = |error| {
        format!("volumes of {} come back with other UUIDs than they had: {error:#}", keep.vg)
    };
    Ok(checked.err().map(told))
}

fn has_uuids(keep: &KeepUuids) -> Result<()> {
    let fields = ["lvm", "lvs", "--all", "--noheadings", "-o", "lv_name,lv_uuid", &keep.vg];
    let text = lvm(&fields.map(str::to_owned)).text()?;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(uuid)) = (words.next(), words.next()) else { continue };
        // Hidden parts stand in brackets.
        let name = name.trim_matches(['[', ']']);
        let wanted = keep.uuids.iter().find(|(wanted, _)| wanted == name);
        if let Some((_, wanted)) = wanted.filter(|(_, wanted)| wanted != uuid) {
            bail!("{name} has the UUID {uuid}, not {wanted}");
        }
    }
    Ok(())
}

/// The kinds of cached volumes in `layout` that the kernel does not know. They come back without
/// their caches then; what else it lacks, there is no doing without.
pub fn lacking(layout: &Layout) -> Result<Vec<String>> {
    let mut kinds: Vec<_> = layout.lv.iter().filter(|lv| groups::is_cached(lv)).collect();
    kinds.sort_by_key(|lv| &lv.kind);
    kinds.dedup_by_key(|lv| &lv.kind);
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    modprobe("dm_mod");
    for lv in &kinds {
        modprobe(&format!("dm_{}", lv.kind));
    }
    let targets = Cmd::new("dmsetup").arg("targets").text()?;
    let has = |kind: &str| targets.lines().any(|l| l.split_whitespace().next() == Some(kind));
    Ok(kinds.iter().filter(|lv| !has(&lv.kind)).map(|lv| lv.kind.clone()).collect())
}

/// Starts the plan's arrays and volume groups from what is on the disks.
pub fn assemble(plan: &Plan, passphrase: Option<&Secret>) -> Result<()> {
    for step in &plan.steps {
        match step {
            Step::CreateMd(create) => {
                let md = &create.md;
                modprobe(&md.level);
                let state = format!("/sys/class/block/{}/md/array_state", md.name);
                if !Path::new(&state).exists() {
                    let uuid = format!("--uuid={}", md.uuid);
                    Cmd::new("mdadm").args(["--assemble", "--run", &md.dev(), &uuid]).run()?;
                    udev::settle()?;
                }
                link_by_name(Path::new("/dev/md"), md);
            }
            Step::MakeLuks(make) if !Path::new(&make.luks.dev()).exists() => {
                modprobe("dm_crypt");
                let passphrase = passphrase.context("an encrypted volume needs its passphrase")?;
                command(&stackcmd::luks_open(make))?.secret_stdin(passphrase).run()?;
                udev::settle()?;
            }
            Step::CreateVg(create) => {
                modprobe("dm_mod");
                lvm(&["lvm", "vgchange", "--activate", "y", &create.vg.name].map(str::to_owned))
                    .run()?;
                udev::settle()?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Loads a module that the kernel may have built in, or may load by itself.
pub fn modprobe(module: &str) {
    if let Err(error) = Cmd::new("modprobe").args(["--quiet", module]).run() {
        log::debug!("{error:#}");
    }
}

pub fn run_all(commands: &[Argv]) -> Result<()> {
    commands.iter().try_for_each(|argv| {
        let result = command(argv)?.run();
        match fscmd::for_older_tool(argv) {
            Some(older) if result.is_err() => command(&older)?.run(),
            _ => result,
        }
    })
}

fn command(argv: &[String]) -> Result<Cmd> {
    let (program, args) = argv.split_first().context("an empty command")?;
    Ok(if program == "lvm" { lvm(argv) } else { Cmd::new(program).args(args) })
}

fn lvm(argv: &[String]) -> Cmd {
    let udev = Path::new("/run/udev/control").exists()
        && DM_RULES.iter().any(|rules| Path::new(rules).exists());
    let config = if udev { LVM_CONFIG.to_owned() } else { format!("{LVM_CONFIG} {LVM_NO_UDEV}") };
    let mut args = argv.iter().skip(1);
    let verb = args.next().map(String::as_str).unwrap_or_default();
    Cmd::new("lvm").args([verb, "--config", &config]).args(args)
}

/// Waits for a device node, and tells the device's size.
pub fn wait_for(dev: &Path) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        udev::settle()?;
        match File::open(dev).map_err(anyhow::Error::from).and_then(|f| ioctl::size_bytes(&f)) {
            Ok(bytes) if bytes > 0 => return Ok(bytes),
            Ok(_) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(100)),
            Ok(_) => bail!("{} has no size", dev.display()),
            Err(error) => return Err(error).with_context(|| format!("opening {}", dev.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::raid_node;

    #[test]
    fn an_array_is_also_called_by_its_name() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("md");
        let mut md = raid_node().md.remove(0);
        std::fs::write(tmp.path().join(&md.name), "").unwrap();
        md.array_name = None;
        link_by_name(&dir, &md);
        assert!(!dir.exists());
        md.array_name = Some("node001:data".into());
        for _ in 0..2 {
            link_by_name(&dir, &md);
            for name in ["data", "node001:data"] {
                let link = dir.join(name).canonicalize().unwrap();
                assert_eq!(link, tmp.path().join(&md.name).canonicalize().unwrap());
            }
        }
        // As an array of before left it, and as another one that is there has it.
        std::fs::write(tmp.path().join("md9"), "").unwrap();
        for other in ["../gone", "../md9"] {
            std::fs::remove_file(dir.join("data")).unwrap();
            std::os::unix::fs::symlink(other, dir.join("data")).unwrap();
            link_by_name(&dir, &md);
            let link = dir.join("data").canonicalize().unwrap();
            assert_eq!(link, tmp.path().join(&md.name).canonicalize().unwrap());
        }
    }
}
