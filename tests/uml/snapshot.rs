//! Backups from snapshots of logical volumes, in user-mode Linux: of a linear one with ext4, of a
//! striped one with xfs and of a thin one. What is written as soon as they are taken is not in the
//! backup, and no snapshot is left, also when rr was killed or the power was cut; a snapshot that runs
//! full ends the run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rr::archive::{self, ExtractOptions};
use rr::backup::{self, Options, Report};
use rr::config::schema::SnapshotMode;
use rr::config::{Config, TargetOptions, TargetUrl};
use rr::store::{self, Access, Store, catalog};
use rr::sys::run::Cmd;
use rr::ui::Ui;

pub const NAME: &str = "snapshot_lvm";
pub const DISKS_MIB: &[u64] = &[700, 700];

const BUILD: &str = r#"
modprobe dm-snapshot
lvm vgcreate vg0 /dev/ubdb /dev/ubdc
lvm lvcreate -y -n root -L 100M vg0
lvm lvcreate -y -n data -i 2 -L 320M vg0
lvm lvcreate -y -n pool --type thin-pool -L 200M --poolmetadatasize 4M vg0
lvm lvcreate -y -n thin -V 150M --thinpool pool vg0
mke2fs -q -t ext4 /dev/vg0/root
mkfs.xfs -q /dev/vg0/data
mke2fs -q -t ext4 /dev/vg0/thin
mount /dev/vg0/root /node
mkdir /node/data /node/thin
mount /dev/vg0/data /node/data
mount /dev/vg0/thin /node/thin
for dir in /node /node/data /node/thin; do
    echo "as it was" >$dir/file
    ln $dir/file $dir/hard
done
sync
"#;
const TREES: [&str; 3] = ["/node", "/node/data", "/node/thin"];
const CHANGE: &str = "for d in /node /node/data /node/thin; do echo changed >$d/file; done; sync";

/// Everything, in one machine: nothing here needs a boot in between.
pub fn run(dir: &Path) -> Result<()> {
    Cmd::new("sh").args(["-eux", "-c", BUILD]).run()?;
    let before = volumes()?;
    read_what_was(dir)?;
    leave_nothing(dir, &before).context("killed")?;
    delete_what_a_power_cut_left(dir).context("after a power cut")?;
    ensure!(volumes()? == before, "was {before}\nis {}", volumes()?);
    run_full(dir).context("running full")?;
    ensure!(volumes()? == before, "was {before}\nis {}", volumes()?);
    Ok(())
}

fn volumes() -> Result<String> {
    Cmd::new("lvm").args(["lvs", "-a", "-o", "vg_name,lv_name,lv_size,lv_tags"]).text()
}

fn config(dir: &Path, post: &str) -> Result<Config> {
    let target = dir.join("backups");
    fs::create_dir_all(&target)?;
    let mut config = Config {
        target: Some(format!("file://{}", target.display())),
        node: Some("node001".to_owned()),
        ..Config::default()
    };
    config.backup.snapshot = SnapshotMode::Auto;
    // Runs when the snapshots are taken, before a file is read.
    config.backup.post = vec![post.to_owned()];
    Ok(config)
}

fn back_up(dir: &Path, post: &str) -> Result<Report> {
    let include = TREES.iter().map(PathBuf::from).collect();
    let options = Options { archive: true, include, ..Options::default() };
    backup::backup(&config(dir, post)?, &options, &Ui::detect(false))
}

fn open(dir: &Path) -> Result<Box<dyn Store>> {
    let url = TargetUrl::File { dir: dir.join("backups") };
    store::open(&url, "node001", Access::Read, &TargetOptions::default())
}

fn published(dir: &Path) -> Result<Vec<String>> {
    catalog::generations(&*open(dir)?)
}

fn read_what_was(dir: &Path) -> Result<()> {
    let report = back_up(dir, CHANGE)?;
    ensure!(report.failed.is_none(), "{report:?}");
    ensure!(report.warnings.is_empty(), "{:?}", report.warnings);
    ensure!(fs::read_to_string("/node/data/file")? == "changed\n", "the hook did not run");

    let store = open(dir)?;
    let latest = catalog::latest(&*store)?.context("nothing is published")?;
    let manifest = catalog::manifest(&*store, &latest)?;
    let root = Path::new("/tmp/restored");
    fs::create_dir(root)?;
    let options = ExtractOptions { root: root.to_owned(), ..ExtractOptions::default() };
    archive::extract(&manifest, &*store, &options, &Ui::detect(false))?;
    for tree in TREES {
        let file = root.join(tree.trim_start_matches('/')).join("hard");
        let read = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(read == "as it was\n", "{tree}: {read}");
    }
    Ok(())
}

/// The hook kills the very run that it belongs to.
fn leave_nothing(dir: &Path, before: &str) -> Result<()> {
    let agent = std::env::current_exe()?;
    let script = "echo $$ >/tmp/pid; exec \"$0\" --agent \"$1\"";
    let killed = Cmd::new("sh").args(["-c", script]).arg(agent).arg(dir.join("killed"));
    fs::create_dir(dir.join("killed"))?;
    fs::write(dir.join("killed/case"), NAME)?;
    fs::write(dir.join("killed/phase"), "be killed")?;
    ensure!(killed.output()?.code().is_none(), "it was not killed");
    let mut seen = String::new();
    for _ in 0..60 {
        seen = volumes()?;
        if seen == before {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    anyhow::bail!("snapshots are left: {seen}")
}

/// What `leave_nothing` starts.
pub fn be_killed(dir: &Path) -> Result<()> {
    let taken = "lvm lvs vg0 -o lv_tags --noheadings | grep -o 'rr_snapshot_[0-9a-f]*' >/tmp/taken";
    back_up(dir, &format!("{taken}; kill -9 $(cat /tmp/pid); sleep 1")).map(drop)
}

fn delete_what_a_power_cut_left(dir: &Path) -> Result<()> {
    let taken = fs::read_to_string("/tmp/taken").context("the killed run took no snapshots")?;
    ensure!(taken.lines().count() == 3, "the killed run took these snapshots: {taken}");
    let ours = taken.lines().next().unwrap_or_default();
    let theirs = "rr_snapshot_0123456789abcdef";
    for (name, tag) in [("left", ours), ("theirs", theirs), ("older", "rr_snapshot")] {
        let leave = ["lvcreate", "-s", "-n", name, "-L", "12M", "--addtag", tag];
        Cmd::new("lvm").args(leave).arg("vg0/root").run()?;
    }
    let report = back_up(dir, "true")?;
    ensure!(report.failed.is_none(), "{report:?}");
    let (seen, said) = (volumes()?, report.warnings.join("\n"));
    ensure!(!seen.contains("left") && seen.contains("theirs") && seen.contains("older"), "{seen}");
    ensure!(said.contains("vg0/older") && !said.contains("vg0/theirs"), "{said}");
    Cmd::new("lvm").args(["lvremove", "-f", "vg0/theirs", "vg0/older"]).run()
}

/// The group has room for some changes, but not for these.
fn run_full(dir: &Path) -> Result<()> {
    let fill = "lvm lvcreate -y -n fill -l 95%FREE vg0";
    Cmd::new("sh").args(["-c", fill]).run()?;
    let before = published(dir)?;
    let report = back_up(dir, "head -c 60M /dev/urandom >/node/new; sync");
    Cmd::new("sh").args(["-c", "rm /node/new; lvm lvremove -f vg0/fill"]).run()?;
    let said = match report {
        Ok(report) => format!("{:?}", report.failed),
        Err(error) => format!("{error:#}"),
    };
    ensure!(said.contains("ran full"), "{said}");
    ensure!(published(dir)? == before, "it was published");
    Ok(())
}
