//! Recoveries by a boot server.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::day::Desk;
use crate::lab::{self, Phases};
use crate::pxe::{self, BootServer, Loader};
use crate::scenario::Stage;
use crate::uml;

impl Stage<'_> {
    /// Boots the rescue system by each of `loaders`, recovers by the first, and boots the recovered
    /// node with the network still first: it must come up from its disk.
    pub fn recover_by_network(
        &self,
        loaders: &[Loader],
        facts: &str,
        phases: &mut Phases,
    ) -> Result<()> {
        let tree = phases.run("take the PXE tree", || self.take_pxe_tree())?;
        self.lose_disks()?;
        let (first, others) = loaders.split_first().context("a network has a boot loader")?;
        let serve = |loader: Loader| {
            if !loader.is_the_nodes() {
                pxe::set_up(&tree, self.dir)?;
            }
            BootServer::start(&self.dir.join(loader.name()), &tree, loader)
        };
        let server = serve(*first)?;
        let mut machine = self.new_machine("2-rescue");
        machine.memory_mib = self.scenario.memory_mib;
        machine.segment = Some(server.segment());
        machine.reboots = false;
        let mut vm = machine.start()?;
        self.desk(&mut vm, phases).pass(self.scenario.day, None)?;
        server.ensure_http()?;
        phases.run("read the new disks", || self.read("after"))?;
        self.compare()?;
        phases.run("boot the recovered node", || self.boot_recovered(facts, Some(&server)))?;
        drop(server);
        for loader in others {
            let server = serve(*loader)?;
            phases.run(&format!("rescue shell by {}", loader.name()), || {
                self.boot_to_shell(*loader, &server)
            })?;
        }
        self.clean()
    }

    fn take_pxe_tree(&self) -> Result<PathBuf> {
        let share = self.dir.join("take-pxe");
        let work = "open_disks; mount_all ro; cp -r /mnt/node/backup/pxe .; close_disks";
        uml::run(self.tree, &self.disks(), false, &share, &self.node().script(work))?;
        Ok(share.join("pxe"))
    }

    fn boot_to_shell(&self, loader: Loader, server: &BootServer) -> Result<()> {
        let logs = self.dir.join(format!("4-{}", loader.name()));
        let mut machine = self.node().machine(self.dir, &logs, "NEW");
        machine.segment = Some(server.segment());
        machine.variables = logs.join("variables.fd");
        let mut vm = machine.start()?;
        server.wait_menu(&mut vm, lab::seconds(300))?;
        vm.screenshot(&self.dir.join(format!("menu-{}.png", loader.name())))?;
        Desk::choose(&mut vm, 2)?;
        vm.wait_token("ready", lab::seconds(240))?;
        server.ensure_http()?;
        vm.cut_power()
    }
}
