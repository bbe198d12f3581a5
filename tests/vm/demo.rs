//! The main job as a story: what an admin does and sees.

use anyhow::Result;

use crate::lab::{self, Phases};
use crate::matrix::{Scenario, Target};
use crate::nodes;
use crate::scenario::Stage;
use crate::tree::Tree;

/// Backs a small node up, takes its disk away, recovers it, and shows the pictures.
pub fn run() -> Result<()> {
    let scenario = Scenario::new(nodes::BIOS_MBR_EXT4, Target::File);
    let dir = lab::work_dir("demo")?;
    let mut phases = Phases::new("demo");
    println!("A small Debian node in a virtual machine without hardware acceleration.");
    let tree = Tree::of(scenario.suite, scenario.node.packages)?;
    let source = phases.run("the node is installed", || scenario.node.source(&tree))?;
    let stage = Stage { scenario: &scenario, tree: &tree, dir: &dir, switch: None };
    phases.run("rr and its two-line configuration are put into it", || {
        stage.install(&source, None)
    })?;
    let facts = phases.run("it boots, and backs itself up: rr mkbackup", || stage.back_up())?;
    println!("\n{}", lab::read(&dir.join("mkbackup.txt"))?);
    let iso = phases.run("the rescue ISO is taken from the backup", || stage.take_iso(None))?;
    println!("its disk dies; a blank one of the same size is put in");
    stage.lose_disks()?;
    println!("the ISO is booted; in the menu: Automatic Recover");
    stage.recover(&iso, None, &mut phases)?;
    phases.run("the recovered node boots to its login", || stage.boot_recovered(&facts, None))?;
    let console = lab::read(&dir.join("3-recovered/console.log"))?;
    // Without what is still said of the start behind it.
    let login = console.lines().rev().find_map(|line| Some(line.split_once("login:")?.0));
    println!(
        "\n{}login: _\n\nThe same host name, disks, filesystems and files as before the disaster.",
        login.unwrap_or_default()
    );
    for (picture, what) in
        [("menu.png", "boot menu"), ("success.png", "Success!"), ("login.png", "login")]
    {
        println!("  {:12} {}", what, dir.join(picture).display());
    }
    println!("done in {:.0} s", phases.total());
    Ok(())
}
