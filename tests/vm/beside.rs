//! rr's rescue medium beside that of ReaR: one node makes both, one machine boots both.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rr::prove::Vm;

use crate::day::Desk;
use crate::lab::{self, Phases};
use crate::matrix::{Scenario, Target};
use crate::nodes::{self, EMULATED};
use crate::scenario::{Stage, visit};
use crate::tree::Tree;
use crate::uml;

/// As its users have it for a node without a server, and with the console that the lab listens to.
const SITE_CONF: &str = "OUTPUT=ISO OUTPUT_URL=file:///backup/rear BACKUP=NETFS \
    BACKUP_URL=file:///backup/rear ISO_DEFAULT=manual USE_SERIAL_CONSOLE=yes";
const MAKE_SECONDS: u64 = 900;

pub fn run() -> Result<()> {
    let scenario = Scenario::new(nodes::WITH_REAR, Target::File);
    let dir = lab::work_dir("beside-rear")?;
    let mut phases = Phases::new("beside-rear");
    let tree = phases.run("tree", || Tree::of(scenario.suite, scenario.node.packages))?;
    let source = phases.run("source disks", || scenario.node.source(&tree))?;
    let stage = Stage { scenario: &scenario, tree: &tree, dir: &dir, switch: None };
    stage.install(&source, None)?;
    make(&stage, &mut phases)?;
    let share = dir.join("take");
    let work = "open_disks; mount_all ro; cp /mnt/node/backup/node001/rr-node001.iso rr.iso; \
                cp $(find /mnt/node/backup/rear -name '*.iso') rear.iso; close_disks";
    uml::run(&tree, &stage.disks(), false, &share, &scenario.node.script(work))?;
    boot(&stage, &share.join("rr.iso"), "rr", "Automatic Recover", &mut phases, |vm| {
        Desk::choose(vm, 2)?;
        vm.wait_token("ready", lab::seconds(300))
    })?;
    boot(&stage, &share.join("rear.iso"), "ReaR", "Relax-and-Recover", &mut phases, |vm| {
        vm.press("ret")?;
        vm.wait_console("node001 login:", lab::seconds(900))
    })
}

/// Both have the node make their rescue system, and nothing else.
fn make(stage: &Stage<'_>, phases: &mut Phases) -> Result<()> {
    let mut conf: String = SITE_CONF.split_whitespace().map(|line| format!("{line}\n")).collect();
    conf += &format!("KERNEL_CMDLINE=\"$KERNEL_CMDLINE console=tty0 console=ttyS0 {EMULATED}\"\n");
    let machine = stage.node().machine(stage.dir, &stage.dir.join("1-node"), "OLD");
    visit(stage.node(), &machine, |_, agent| {
        let put = format!("mkdir -p /backup/rear; cat >/etc/rear/site.conf <<'END'\n{conf}END\n");
        agent.check(&put, lab::seconds(60))?;
        for (who, command) in [("rr", "rr mkrescue"), ("ReaR", "rear -v mkrescue")] {
            phases.run(&format!("{who}: make the rescue system"), || {
                let answer = agent.run(&format!("{command} 2>&1"), lab::seconds(MAKE_SECONDS))?;
                lab::write(&stage.dir.join(format!("{who}.txt")), &answer.output)?;
                ensure!(answer.code == 0, "{command} failed\n{}", answer.text());
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// From power-on to the menu, and from its entry until an admin can work.
fn boot(
    stage: &Stage<'_>,
    iso: &Path,
    who: &str,
    menu: &str,
    phases: &mut Phases,
    start: impl FnOnce(&mut Vm) -> Result<()>,
) -> Result<()> {
    let mib = iso.metadata().with_context(|| iso.display().to_string())?.len() >> 20;
    phases.note(&format!("{mib:6} MiB  {who}: the ISO"));
    let mut machine = stage.node().machine(stage.dir, &stage.dir.join(who), "NEW");
    machine.cdrom = Some(iso.to_owned());
    let mut vm = machine.start()?;
    phases.run(&format!("{who}: firmware to menu"), || vm.wait_console(menu, lab::seconds(180)))?;
    let began = Instant::now();
    start(&mut vm)?;
    phases.note(&format!("{:6.1} s  {who}: menu to shell", began.elapsed().as_secs_f64()));
    vm.screenshot(&stage.dir.join(format!("{who}.png")))?;
    vm.cut_power()
}
