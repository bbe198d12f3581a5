//! What happens in a scenario: a node is backed up, loses its disks, is recovered from the rescue
//! ISO, boots, and is compared with what it was.
//!
//! The comparison is made while the machine is off, in user-mode Linux: of the old disks after the
//! shutdown that followed the backup, and of the new disks right after the recovery. Nothing that
//! a booted system does to its files can hide or excuse a difference.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rr::layout::Firmware;
use rr::prove::{Agent, Bus, Disk, Machine, StandsStill, Vm};
use rr::sys::run::Cmd;

use crate::compare::{VOLATILE, differences, line_differences};
use crate::day::Desk;
use crate::lab::{self, Phases};
use crate::matrix::{Medium, Scenario, Target};
use crate::newdisks::NewDisks;
use crate::nodes::{EMULATED, Node, POWER_OFF, boot_silence, boot_timeout, command_timeout};
use crate::peers::{Peer, READER, WRITER};
use crate::pxe::{self, BootServer};
use crate::servers;
use crate::slowcd::{self, SlowCd};
use crate::switch::Switch;
use crate::tree::Tree;
use crate::uml;

const BACKUP_SECONDS: u64 = 900;
/// Where the rescue system tells its milestones.
const VERDICT: &str = "rr.verdict=/dev/virtio-ports/rr.verdict";
/// Made in the node after its backup: must not come back.
const TOO_LATE: &str = "/root/made-after-the-backup";
/// Seen on the console while it runs, for who watches.
const BACKUP: &str =
    "{ rr mkbackup 2>&1; echo $? >/run/rr-code; } | tee /dev/ttyS0; exit $(cat /run/rr-code)";
const FORMAT: &str = "rr format /dev/disk/by-id/virtio-STICK --erase STICK";
const STICK_MIB: u64 = 2048;
/// In the background: what answers the agent goes down with the node.
const KEXEC: &str = "echo too late as well >/root/lost; \
    setsid rr rescue boot --yes --recover auto >/dev/ttyS0 2>&1 & sleep 1";
/// The lab's nodes wait a second only.
const PATIENT_MENU: &str = "sed -i 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=60/' /etc/default/grub.d/lab.cfg && update-grub && sync";
/// What is not as it was where the rescue system is in the node's menu.
const LOCAL_ENTRY: [(&str, &str); 5] = [
    ("/boot/rr", "made after the archive"),
    ("/boot/rr/", "images are in no backup"),
    ("/boot", "the directory of /boot/rr, which is made after the archive"),
    ("/boot/grub/custom.cfg", "leads to the image, and is made with it"),
    ("/boot/grub", "the directory of that file"),
];
const ONLINE: &str =
    "for try in $(seq 60); do ip -4 route | grep -q default && exit 0; sleep 1; done; exit 1";
/// What the rescue system says where the firmware enforces it.
const SECURE_BOOT: &str = "Secure Boot is on";
/// Asked in the node before and after. By identity, and compared without order: Linux 6.12 numbers
/// NVMe disks as they answer, and /proc/mdstat lists arrays as they were assembled. Of an array the
/// name is enough, as lsblk gives the level.
const FACTS: &str = "set -e; export LC_ALL=C; uname -n; \
    findmnt --real --noheadings --list --output TARGET,UUID,FSTYPE; \
    swapon --show=UUID,SIZE --noheadings; \
    lsblk --noheadings --list --output TYPE,SIZE,PARTUUID,UUID,MOUNTPOINT; \
    ls /dev/mapper; grep -o '^md[^ ]*' /proc/mdstat || true; \
    od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-* 2>/dev/null || true; \
    cat /sys/kernel/security/lockdown 2>/dev/null || true";

impl Scenario {
    pub fn run(&self) -> Result<()> {
        let name = self.name();
        let dir = lab::work_dir(&name)?;
        let mut phases = Phases::new(&name);
        let mut result = self.play(&dir, &mut phases);
        if let Err(error) = &result
            && error.is::<StandsStill>()
        {
            phases.note(&format!("once more from the start, as {error:#}"));
            let seen = lab::work_dir(&format!("{name}.stood-still"))?;
            std::fs::rename(&dir, seen).context("keeping what it said")?;
            lab::work_dir(&name)?;
            result = self.play(&dir, &mut phases);
        }
        phases.note(&format!(
            "{:6.1} s  in all; logs and pictures: {}",
            phases.total(),
            dir.display()
        ));
        lab::write(&dir.join("timings.txt"), phases.text())?;
        result.with_context(|| format!("{name}; everything that was said is in {}", dir.display()))
    }

    /// Boots the node twice without any disaster: nothing but what is listed may differ then, or the
    /// list is wrong.
    pub fn boot_twice(&self) -> Result<()> {
        let name = format!("lab.{}", self.node.name);
        let dir = lab::work_dir(&name)?;
        let mut phases = Phases::new(&name);
        let tree = phases.run("tree", || Tree::of(self.suite, self.node.packages))?;
        let source = phases.run("source disks", || self.node.source(&tree))?;
        let stage = Stage { scenario: self, tree: &tree, dir: &dir, switch: None };
        phases.run("install rr", || stage.install(&source, None))?;
        phases.run("read the disks", || stage.read("before"))?;
        let machine = self.node.machine(&dir, &dir.join("boot"), "OLD");
        phases.run("boot", || {
            visit(&self.node, &machine, |vm, _| vm.screenshot(&dir.join("login.png")))
        })?;
        phases.run("read the disks", || stage.read("after"))?;
        stage.differ(VOLATILE)
    }

    fn play(&self, dir: &Path, phases: &mut Phases) -> Result<()> {
        let tree = phases.run("tree", || Tree::of(self.suite, self.node.packages))?;
        let source = phases.run("source disks", || self.node.source(&tree))?;
        let switch = self.cards.switch()?;
        let stage = Stage { scenario: self, tree: &tree, dir, switch: switch.as_ref() };
        let mut peer = Peer::start(self.target, dir)?;
        phases.run("install rr", || stage.install(&source, peer.as_ref()))?;
        let facts = phases.run("back up", || stage.back_up())?;
        if let Some(peer) = &peer {
            peer.was_asked_by(WRITER.0)?;
        }
        phases.run("read the old disks", || stage.read("before"))?;
        match self.medium {
            Medium::Pxe(loaders) => return stage.recover_by_network(loaders, &facts, phases),
            Medium::Kexec => {
                stage.recover_by_kexec(phases)?;
                return stage.finish(&facts, phases);
            }
            Medium::LocalEntry => {
                stage.recover_by_local_entry(phases)?;
                return stage.finish(&facts, phases);
            }
            Medium::Cd | Medium::SlowCd | Medium::Stick => {}
        }
        let medium = match self.target {
            Target::Usb => stage.stick(),
            _ => phases.run("take the ISO", || stage.take_iso(peer.as_ref()))?,
        };
        phases.note(&format!("{:6.1} MiB medium", size_mib(&medium)?));
        stage.lose_disks()?;
        stage.recover(&medium, peer.as_mut(), phases)?;
        if let Some(peer) = &peer {
            peer.was_asked_by(READER.0)?;
        }
        stage.finish(&facts, phases)
    }
}

#[allow(clippy::cast_precision_loss)] // for people
fn size_mib(file: &Path) -> Result<f64> {
    Ok(file.metadata().with_context(|| file.display().to_string())?.len() as f64 / 1_048_576.0)
}

/// A scenario under way.
#[derive(Debug)]
pub struct Stage<'a> {
    pub scenario: &'a Scenario,
    pub tree: &'a Tree,
    pub dir: &'a Path,
    /// What the node's cards are plugged into, where it is not QEMU's own network.
    pub switch: Option<&'a Switch>,
}

impl Stage<'_> {
    pub fn node(&self) -> &Node {
        &self.scenario.node
    }

    pub fn disks(&self) -> Vec<PathBuf> {
        self.node().files(self.dir)
    }

    /// Puts a copy of the node's disks, with rr and its configuration on them, into the stage.
    pub fn install(&self, source: &Path, peer: Option<&Peer>) -> Result<()> {
        for (from, to) in self.node().files(source).iter().zip(self.disks()) {
            lab::copy_sparse(from, &to)?;
        }
        let variables = source.join("variables.fd");
        if variables.exists() {
            lab::copy_sparse(&variables, &self.dir.join("variables.fd"))?;
        }
        let share = self.dir.join("install");
        lab::make_dir(&share)?;
        let target = match (peer, self.scenario.target) {
            (Some(peer), _) => peer.rr_toml(),
            (None, Target::Usb) => "target = \"usb://RR-BACKUP\"\n".to_owned(),
            (None, Target::Iso) => "target = \"iso:///backup\"\n".to_owned(),
            (None, _) => "target = \"file:///backup\"\n".to_owned(),
        };
        let agreed = self.scenario.new_disks.agreed(self.node());
        let mut rescue = format!("[rescue]\ncmdline = \"{EMULATED} {VERDICT}{agreed}\"\n");
        if self.scenario.medium == Medium::SlowCd {
            rescue += "drivers = \"this-node\"\n";
        }
        if self.scenario.medium == Medium::LocalEntry {
            rescue += "local_entry = true\n";
        }
        if let Medium::Pxe(_) = self.scenario.medium {
            rescue += &format!("output = [\"pxe\"]\n[pxe]\nhttp = \"{}\"\n", pxe::HTTP);
        }
        lab::write(&share.join("rr.toml"), target + &rescue)?;
        let program = std::env::var_os("RR_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_rr").into());
        Cmd::new("strip").arg("-o").arg(share.join("rr")).arg(program).run()?;
        let etc = share.join("etc");
        lab::make_dir(&etc)?;
        let mut keys = "";
        if self.scenario.medium == Medium::Kexec {
            let key = self.dir.join("admin");
            Cmd::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).run()?;
            lab::copy_sparse(&key.with_extension("pub"), &share.join("authorized_keys"))?;
            keys = "put authorized_keys /root/.ssh/authorized_keys; ";
        }
        for file in peer.iter().flat_map(|peer| peer.files()) {
            lab::copy_sparse(&file, &etc)?;
        }
        let network = self.scenario.cards.configure(&share)?;
        let work = format!(
            "open_disks; mount_all defaults; {network}put rr /usr/local/sbin/rr; \
             chmod 755 /mnt/node/usr/local/sbin/rr; put rr.toml /etc/rr/rr.toml; \
             chmod 600 /mnt/node/etc/rr/rr.toml; {keys}\
             for file in $(ls etc); do put etc/$file /etc/rr/$file; done; close_disks"
        );
        uml::run(self.tree, &self.disks(), true, &share, &self.node().script(&work))
    }

    /// Boots the node, backs it up, and makes a file afterwards. Gives what it says of itself.
    pub fn back_up(&self) -> Result<String> {
        let mut machine = self.node().machine(self.dir, &self.dir.join("1-node"), "OLD");
        self.scenario.cards.plug(self.switch, &mut machine, false);
        if self.scenario.target == Target::Usb {
            lab::blank(&self.stick(), STICK_MIB)?;
            machine.disks.push(plugged(self.stick()));
        }
        visit(self.node(), &machine, |_, agent| {
            if self.scenario.target == Target::Usb {
                let said = agent.check(FORMAT, command_timeout())?;
                lab::write(&self.dir.join("format.txt"), said)?;
            }
            let facts = agent.check(FACTS, command_timeout())?;
            if !matches!(self.scenario.target, Target::File | Target::Usb | Target::Iso) {
                agent.check(ONLINE, command_timeout()).context("waiting for the network")?;
            }
            let answer = agent.run(BACKUP, lab::seconds(BACKUP_SECONDS))?;
            lab::write(&self.dir.join("mkbackup.txt"), &answer.output)?;
            ensure!(answer.code == 0, "rr mkbackup failed ({})\n{}", answer.code, answer.text());
            agent.check(&format!("echo too late >{TOO_LATE}; sync"), command_timeout())?;
            Ok(facts)
        })
    }

    /// The image of the disk that is made for the backup.
    fn stick(&self) -> PathBuf {
        self.dir.join("stick.raw")
    }

    /// Writes what is on the disks to `WHEN.disks` and what is in the files to `WHEN.tree`.
    pub fn read(&self, when: &str) -> Result<()> {
        let share = self.dir.join(format!("read-{when}"));
        lab::make_dir(&share)?;
        // By this name it can be read even when a new build has replaced the file.
        let program = format!("/proc/{}/exe", std::process::id());
        Cmd::new("strip").arg("-o").arg(share.join("vm")).arg(program).run()?;
        let work = "open_disks; describe >disks.txt 2>&1; mount_all ro; \
                    points=$(echo \"$mounts\" | awk '$2 != \"/\" && $2 != \"/backup\" {print $2}'); \
                    points=\"$points ${nested-}\"; \
                    ./vm treecheck /mnt/node $points >tree.txt; close_disks";
        uml::run(self.tree, &self.disks(), false, &share, &self.node().script(work))?;
        for kind in ["disks", "tree"] {
            let file = self.dir.join(format!("{when}.{kind}"));
            std::fs::rename(share.join(format!("{kind}.txt")), file)?;
        }
        std::fs::remove_file(share.join("vm"))?;
        Ok(())
    }

    /// The rescue ISO, from where the backup went.
    pub fn take_iso(&self, peer: Option<&Peer>) -> Result<PathBuf> {
        let iso = self.dir.join("rr-node001.iso");
        if let Some(peer) = peer {
            lab::copy_sparse(&peer.trees().join("node001/rr-node001.iso"), &iso)?;
        } else {
            let share = self.dir.join("take-iso");
            let work = match self.scenario.target {
                // It is all that is left of the backup then.
                Target::Iso => {
                    "open_disks; mount_all defaults; \
                     cp /mnt/node/backup/node001/rr-node001.iso .; \
                     rm -r /mnt/node/backup/node001; close_disks"
                }
                _ => {
                    "open_disks; mount_all ro; \
                     cp /mnt/node/backup/node001/rr-node001.iso .; close_disks"
                }
            };
            let writes = self.scenario.target == Target::Iso;
            uml::run(self.tree, &self.disks(), writes, &share, &self.node().script(work))?;
            std::fs::rename(share.join("rr-node001.iso"), &iso)?;
        }
        Ok(iso)
    }

    /// New disks, and a firmware that knows nothing. The backup disk stays.
    pub fn lose_disks(&self) -> Result<()> {
        for (file, size) in self.disks().iter().zip(self.node().disks_mib) {
            std::fs::remove_file(file)?;
            lab::blank(file, self.scenario.new_disks.size_mib(*size))?;
        }
        if self.scenario.new_disks == NewDisks::Dirty {
            let script = self.node().script("make_remains");
            uml::run(self.tree, &self.disks(), true, &self.dir.join("remains"), &script)?;
        }
        let variables = self.dir.join("variables.fd");
        if variables.exists() {
            std::fs::remove_file(variables)?;
        }
        Ok(())
    }

    /// Boots the rescue medium and lets the day take its course.
    pub fn recover(
        &self,
        medium: &Path,
        peer: Option<&mut Peer>,
        phases: &mut Phases,
    ) -> Result<()> {
        let mut machine = self.new_machine("2-rescue");
        machine.memory_mib = self.scenario.memory_mib;
        let (mut slow, mut reading) = (None, Duration::ZERO);
        match (self.scenario.medium, self.scenario.target) {
            (_, Target::Usb) => {
                machine.boots_from = Some(machine.disks.len());
                machine.disks.push(plugged(self.stick()));
            }
            // Not on USB: as with the target `usb`, the rescue system has to see it.
            (Medium::Stick, Target::Iso) => {
                machine.boots_from = Some(machine.disks.len());
                machine.disks.push(plugged(medium.to_owned()));
            }
            (Medium::Stick, _) => machine.stick = Some(medium.to_owned()),
            (Medium::Cd, target) => {
                machine.cdrom = Some(medium.to_owned());
                if target == Target::Iso {
                    machine.cdrom_bus = Bus::Scsi;
                }
            }
            (Medium::SlowCd, _) => {
                machine.cdrom = Some(slow.insert(SlowCd::insert(medium)?).drive());
                reading = slowcd::reading(medium)?;
            }
            (Medium::Pxe(_) | Medium::Kexec | Medium::LocalEntry, _) => {
                bail!("this is not booted from a file")
            }
        }
        machine.reboots = false;
        let mut vm = machine.start()?;
        let server = peer.and_then(Peer::nfs);
        let mut desk = self.desk(&mut vm, phases);
        desk.reading = reading;
        desk.pass(self.scenario.day, server)?;
        let console = vm.console()?;
        let texts = [self.scenario.new_disks.remains(), self.scenario.cards.said()];
        for text in texts.into_iter().flatten() {
            ensure!(console.contains(text), "the rescue system did not say {text:?}");
        }
        if self.scenario.target == Target::Iso {
            ensure!(
                console.contains("may only be read from here"),
                "the medium was not what it read"
            );
        }
        let (enforced, wanted) = (console.contains(SECURE_BOOT), self.node().secure_boot());
        ensure!(enforced == wanted, "{SECURE_BOOT:?} was said: {enforced}");
        Ok(())
    }

    /// The machine with its new disks.
    pub fn new_machine(&self, logs: &str) -> Machine {
        let mut machine = self.node().machine(self.dir, &self.dir.join(logs), "NEW");
        self.scenario.new_disks.fit(&mut machine, self.node().disks_mib.len());
        self.scenario.cards.plug(self.switch, &mut machine, true);
        machine.screen = self.scenario.screen;
        machine
    }

    /// The disks and files are as they were, and the node boots from them.
    fn finish(&self, facts: &str, phases: &mut Phases) -> Result<()> {
        phases.run("read the new disks", || self.read("after"))?;
        self.compare()?;
        phases.run("boot the recovered node", || self.boot_recovered(facts, None))?;
        self.clean()
    }

    /// The running node becomes its rescue system and is recovered onto its own disks.
    fn recover_by_kexec(&self, phases: &mut Phases) -> Result<()> {
        let mut machine = self.node().machine(self.dir, &self.dir.join("2-rescue"), "OLD");
        machine.reboots = false;
        let port = servers::free_port();
        machine.ssh_port = Some(port);
        let mut vm = machine.start()?;
        let mut agent = vm.agent()?;
        phases.run("boot the node", || vm.wait_boot(&mut agent, boot_timeout(), boot_silence()))?;
        phases.run("rr rescue boot", || {
            agent.check(KEXEC, command_timeout())?;
            vm.wait_token("ready", lab::seconds(240))
        })?;
        self.desk(&mut vm, phases).look_on(|| self.look_on_by_ssh(port))
    }

    /// The node's own menu leads to its rescue system, which recovers the disks that it came from.
    fn recover_by_local_entry(&self, phases: &mut Phases) -> Result<()> {
        let mut machine = self.node().machine(self.dir, &self.dir.join("2-rescue"), "OLD");
        phases.run("give the menu time", || {
            visit(self.node(), &machine, |_, agent| agent.check(PATIENT_MENU, command_timeout()))
        })?;
        machine.reboots = false;
        let mut vm = machine.start()?;
        phases.run("firmware to boot menu", || {
            vm.wait_console("rr: the rescue system of node001", lab::seconds(180))
        })?;
        vm.screenshot(&self.dir.join("menu.png"))?;
        Desk::choose_last(&mut vm)?;
        vm.wait_console("Rescue shell", lab::seconds(60))?;
        // The serial line is painted before the screen.
        std::thread::sleep(Duration::from_secs(2));
        vm.screenshot(&self.dir.join("submenu.png"))?;
        Desk::choose_last(&mut vm)?;
        self.desk(&mut vm, phases).look_on(|| Ok(()))
    }

    /// The admin's key opens the rescue system; what runs there is told, and not disturbed.
    fn look_on_by_ssh(&self, port: u16) -> Result<()> {
        let answer = Cmd::new("ssh")
            .args(["-F", "none", "-p", &port.to_string(), "-i"])
            .arg(self.dir.join("admin"))
            .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "ConnectTimeout=60", "root@127.0.0.1"])
            .arg("uname -n; tail -n 3 /var/log/rr.log; rr recover --auto")
            .timeout(command_timeout())
            .output()?;
        let (said, errors) = (answer.text(), String::from_utf8_lossy(&answer.stderr));
        lab::write(&self.dir.join("ssh.txt"), format!("{said}\n{errors}"))?;
        ensure!(said.starts_with("rescue-node001"), "ssh into the rescue system: {said}\n{errors}");
        let refused = errors.contains("another recovery is running") && answer.code() == Some(1);
        ensure!(refused, "a second recovery: {:?}\n{errors}", answer.code());
        Ok(())
    }

    pub fn desk<'a>(&'a self, vm: &'a mut Vm, phases: &'a mut Phases) -> Desk<'a> {
        Desk {
            vm,
            dir: self.dir,
            phases,
            passphrase: self.node().passphrase,
            reading: Duration::ZERO,
        }
    }

    pub fn compare(&self) -> Result<()> {
        let text = |name: &str| lab::read(&self.dir.join(name));
        let (before, after) = (text("before.tree")?, text("after.tree")?);
        ensure!(before.contains(TOO_LATE), "{TOO_LATE} was not made");
        ensure!(!after.contains(TOO_LATE), "{TOO_LATE} came back");
        let mut volatile = VOLATILE.to_vec();
        volatile.push((TOO_LATE, "made after the backup: must be gone, as was just seen"));
        volatile.push(("/root", "the directory of that file"));
        if self.scenario.medium == Medium::LocalEntry {
            volatile.extend(LOCAL_ENTRY);
        }
        self.differ(&volatile)
    }

    /// Fails when the disks and files of before and after differ.
    fn differ(&self, volatile: &[(&str, &str)]) -> Result<()> {
        let text = |name: &str| lab::read(&self.dir.join(name));
        let (before, after) = (text("before.tree")?, text("after.tree")?);
        let mut found = differences(&before, &after, volatile);
        let disks =
            |name: &str| Ok::<_, anyhow::Error>(self.scenario.new_disks.lasting(&text(name)?));
        found.extend(line_differences(&disks("before.disks")?, &disks("after.disks")?));
        lab::write(&self.dir.join("differences.txt"), found.join("\n"))?;
        if !found.is_empty() {
            let some = found[..found.len().min(40)].join("\n  ");
            bail!("{} differences:\n  {some}", found.len());
        }
        Ok(())
    }

    /// Boots the recovered node, which must say of itself what it said before. With a boot server,
    /// it boots from the network first, where nobody chooses anything.
    pub fn boot_recovered(&self, facts: &str, server: Option<&BootServer>) -> Result<()> {
        let mut machine = self.new_machine("3-recovered");
        machine.segment = server.map(BootServer::segment);
        if self.scenario.target == Target::Usb {
            machine.disks.push(plugged(self.stick()));
        }
        visit(self.node(), &machine, |vm, agent| {
            if server.is_some() {
                vm.wait_console("Automatic Recover", Duration::ZERO)?;
            }
            log_in(vm, agent)?;
            vm.screenshot(&self.dir.join("login.png"))?;
            let now = agent.check(FACTS, command_timeout())?;
            self.scenario.new_disks.ensure_facts(facts, &now)?;
            ensure!(now.contains("[integrity]") == self.node().secure_boot(), "locked down: {now}");
            let failed =
                agent.check("systemctl --failed --no-legend --plain", command_timeout())?;
            ensure!(failed.trim().is_empty(), "units of the recovered node failed:\n{failed}");
            // With a boot order of its own QEMU deletes the entries that it does not know.
            if self.node().firmware == Firmware::Uefi && server.is_none() {
                let entries = agent.check("efibootmgr --verbose", command_timeout())?;
                let loader = match self.node().secure_boot() {
                    true => r"\EFI\debian\shimx64.efi",
                    false => r"\EFI\grub\grubx64.efi",
                };
                ensure!(entries.contains(loader), "no boot entry came back:\n{entries}");
            }
            Ok(())
        })
    }

    /// What is large and of no more use.
    pub fn clean(&self) -> Result<()> {
        for file in self.disks() {
            std::fs::remove_file(file)?;
        }
        let mut large = vec![self.stick()];
        if self.scenario.target == Target::Iso {
            large.push(self.dir.join("rr-node001.iso"));
        }
        for file in large.into_iter().filter(|file| file.exists()) {
            std::fs::remove_file(file)?;
        }
        for served in ["nfs/export", "http/files", "s3/files"] {
            let served = self.dir.join(served);
            if served.exists() {
                std::fs::remove_dir_all(served)?;
            }
        }
        Ok(())
    }
}

/// What is plugged in besides the node's disks. Not on USB, which Debian's kernels for virtual machines
/// do not know.
fn plugged(file: PathBuf) -> Disk {
    let serial = "STICK".to_owned();
    Disk { file, bus: Bus::Virtio, serial, wwn: None, sector_bytes: 512 }
}

/// Boots the machine from its own disks, does something in it, and shuts it down.
pub fn visit<T>(
    node: &Node,
    machine: &Machine,
    body: impl FnOnce(&mut Vm, &mut Agent) -> Result<T>,
) -> Result<T> {
    let mut vm = machine.start()?;
    let mut agent = node.wait_up(&mut vm)?;
    let result = body(&mut vm, &mut agent)?;
    agent.check(POWER_OFF, command_timeout())?;
    vm.wait_off(command_timeout())?;
    Ok(result)
}

/// Types root's name and password on the screen's terminal.
fn log_in(vm: &mut Vm, agent: &mut Agent) -> Result<()> {
    vm.wait_console("login:", boot_timeout())?;
    let terminal = vm.terminal();
    let process = |name: &str| {
        format!(
            "for try in $(seq 60); do pgrep -t {terminal} '^{name}$' && exit 0; sleep 1; done; exit 1"
        )
    };
    agent.check(&process("agetty"), command_timeout()).context("waiting for the login prompt")?;
    vm.type_line("root")?;
    agent.check(&process("login"), command_timeout()).context("waiting for the password prompt")?;
    std::thread::sleep(Duration::from_secs(2));
    vm.type_line("rr")?;
    agent.check(&process("bash"), command_timeout()).context("waiting for root's shell")?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}
