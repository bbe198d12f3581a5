//! The command line. Doc comments here are the help, so keep lines within 80 columns. Types only;
//! what a verb does is in [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{MenuDefault, Output};
use crate::store::catalog::names_generation;

/// Bare-metal recovery for Linux
///
/// `rr mkbackup` records how this machine's disks are built, archives its files
/// to the target and puts a bootable rescue image beside them. Boot that image
/// on the same machine with blank disks, choose "Automatic Recover", and have
/// the machine back as it was.
#[derive(Debug, Parser)]
#[command(name = "rr", version, max_term_width = 80, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, nothing on a disk was harmed (checklayout: the
machine differs; verify: something does not verify; list --all: a node is late,
has no backup, or one that ended with problems);
2 usage or configuration; 3 a recovery failed after disks were touched.";

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Read this instead of /etc/rr/rr.toml and its drop-ins
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where backups are: nfs://server/export, https://server/path, s3://bucket/prefix,
    /// file:///directory, usb://LABEL, or iso:///directory for one ISO that boots and
    /// holds the backup
    #[arg(long, global = true, value_name = "URL", env = "RR_TARGET")]
    pub target: Option<String>,
    /// The node's name at the target (default: the host name)
    #[arg(long, global = true, value_name = "NAME", env = "RR_NODE")]
    pub node: Option<String>,
    /// Say everything as JSON: results on standard output, events on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Show the log as well: each command that is run, and what it said
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Count warnings as failure (exit code 1)
    #[arg(long, global = true)]
    pub strict: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Back this machine up: archive and rescue image
    Mkbackup(BackupArgs),
    /// Only the archive
    Mkbackuponly(ArchiveArgs),
    /// Only the rescue image
    Mkrescue(MkrescueArgs),
    /// List the generations of this node at the target, or the files of one
    ///
    /// With --all the newest backup of every node there, to see at a glance which
    /// nodes are late.
    List {
        /// Every node at the target, with its newest generation of the whole machine
        #[arg(long, conflicts_with = "generation")]
        all: bool,
        /// With --all: exit with 1 when a node's newest is older than this: 48h, 2d, 1w
        #[arg(long, value_name = "TIME", requires = "all", value_parser = parse_age)]
        older_than: Option<jiff::SignedDuration>,
        /// A generation as `rr list` names it, or `latest`: list its files
        #[arg(value_name = "GEN")]
        generation: Option<String>,
        /// Only these (with all below them)
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Show a generation: what it holds and what it does not protect
    Show(GenerationArg),
    /// Read a generation back and check every hash
    Verify(VerifyArgs),
    /// Say what changed between two generations
    Diff {
        /// The older generation
        old: String,
        /// The newer generation
        new: String,
    },
    /// Write a generation as one plain tar stream to standard output
    Export(GenerationArg),
    /// Restore files below a directory
    Restore(RestoreArgs),
    /// Delete the generations that the retention no longer keeps
    ///
    /// As every backup does when it is done. What any rule keeps is kept, and the
    /// newest generation that is whole always is; --dry-run says which and why. The
    /// numbers stand in rr.toml (backup.keep_last and so on); an option here takes
    /// the place of one. A restore that reads what is deleted fails and says so.
    Prune(PruneArgs),
    /// How disks are built: show, save, compare, plan
    #[command(subcommand)]
    Layout(LayoutVerb),
    /// Write this machine's layout as layout.toml (as `layout save`)
    Savelayout {
        /// The file; standard output when missing
        file: Option<PathBuf>,
    },
    /// Exit with 1 when this machine differs from its newest generation
    Checklayout(GenerationArg),
    /// Recreate this machine's disks and restore its newest generation
    ///
    /// Run in the rescue system. Everything is verified before a disk is touched;
    /// only disks that the plan names are erased.
    Recover(RecoverArgs),
    /// Restore files into the mounted tree of an earlier, failed recovery
    Restoreonly(RecoverArgs),
    /// Only recreate and mount the disks
    Layoutonly(RecoverArgs),
    /// Only make the restored system bootable and check it
    Finalizeonly(RecoverArgs),
    /// Only assemble and mount the disks that are there, to repair them
    Mountonly(RecoverArgs),
    /// Make a disk that holds backups and boots: usb://RR-BACKUP
    ///
    /// All that is on DEVICE is lost. It holds the backups of many nodes and boots
    /// their rescue systems on BIOS and UEFI: rr --target usb://RR-BACKUP mkbackup.
    /// A disk that is in use is refused; one that holds data or can't be unplugged
    /// is, unless --erase names it.
    Format(FormatArgs),
    /// Start the rescue system from this one, without a medium
    #[command(subcommand)]
    Rescue(RescueVerb),
    /// Serve rescue systems to machines that boot from the network
    #[command(subcommand)]
    Pxe(PxeVerb),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print the completions of a shell: rr completions bash
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one a verb
    Manpages {
        /// The directory for them
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Do what a recovery begins with, inside a rescue image on the day of the backup
    #[command(hide = true)]
    Rehearse,
    /// Run as PID 1 of the rescue system
    #[command(hide = true)]
    Init,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub archive: ArchiveArgs,
    /// Make these media: iso, pxe, or both with a comma between
    ///
    /// In place of rescue.output in rr.toml.
    #[arg(long, value_name = "MEDIA", value_delimiter = ',', conflicts_with = "include")]
    pub output: Vec<Output>,
}

#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// Archive just this tree (can be given again); no layout, no rescue image
    #[arg(long, value_name = "PATH")]
    pub include: Vec<PathBuf>,
    /// Leave out what matches this glob (can be given again)
    ///
    /// One that starts with a slash is an absolute path, another one matches at any
    /// depth.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Read and store every file, also those unchanged since the last generation
    ///
    /// The new generation needs nothing that earlier ones have stored, and takes as much room as
    /// the first one: for a target whose packs were lost or damaged.
    #[arg(long)]
    pub full: bool,
    /// Send at most this to the target, in MiB a second
    #[arg(long, value_name = "MIB")]
    pub bandwidth: Option<u64>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct MkrescueArgs {
    /// Make these media: iso, pxe, or both with a comma between
    ///
    /// In place of rescue.output in rr.toml.
    #[arg(long, value_name = "MEDIA", value_delimiter = ',')]
    pub output: Vec<Output>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// What means nothing where it is named what goes.
const RULES: [&str; 6] =
    ["keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_min_age_days", "dry_run"];

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Delete just this generation, whatever the rules say (can be given again)
    ///
    /// For one that is damaged, or of trees that are backed up no more. The last
    /// whole one of the machine is never deleted.
    #[arg(long, value_name = "GEN", value_parser = parse_drop, conflicts_with_all = RULES)]
    pub drop: Vec<String>,
    /// Keep this many of the newest generations
    #[arg(long, value_name = "N", value_parser = parse_keep_last)]
    pub keep_last: Option<usize>,
    /// Keep the newest of each of the last N days that have one (UTC)
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<usize>,
    /// Keep the newest of each of the last N ISO weeks that have one
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<usize>,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<usize>,
    /// Keep what is younger than this
    #[arg(long, value_name = "DAYS")]
    pub keep_min_age_days: Option<u32>,
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct GenerationArg {
    /// A generation as `rr list` names it; default: the newest
    #[arg(value_name = "GEN")]
    pub generation: Option<String>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A generation as `rr list` names it; default: the newest, and the newest of
    /// the whole machine
    #[arg(value_name = "GEN")]
    pub generation: Option<String>,
    /// Compare the tree below DIR with the generation's index instead
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(override_usage = "rr restore [OPTIONS] --to <DIR> [GEN] [PATH]...")]
pub struct RestoreArgs {
    /// Restore below this directory
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Restore a tar archive that any program wrote; - is standard input
    ///
    /// An old backup of ReaR for example; plain, or compressed with gzip, zstd or
    /// xz. Owners are restored by number. As with GNU tar, root gets devices and
    /// suid programs too: restore an archive that you do not trust below a
    /// directory on a filesystem mounted nodev,nosuid.
    #[arg(long, value_name = "FILE", conflicts_with = "generation")]
    pub from_tar: Option<PathBuf>,
    /// Wait until the disks have everything, and fail where one did not take it
    ///
    /// Without it the kernel writes what is restored in the background, as after cp
    /// or tar: keep the machine up for a minute, or call sync(1). `rr recover`
    /// always waits.
    #[arg(long)]
    pub sync: bool,
    /// The generation; default: the newest
    #[arg(long = "gen", value_name = "GEN")]
    pub generation: Option<String>,
    /// Restore just these (with all below them); default: everything
    ///
    /// A first word that `rr list` names a generation by, or `latest`, is the generation.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

impl RestoreArgs {
    /// Takes the generation out of the words where it stands before the paths: `restore GEN PATH`.
    /// A file of that name is meant where `--gen` names a generation, or as `./NAME`.
    pub fn take_generation(&mut self) {
        let first = self.paths.first().and_then(|path| path.to_str());
        if self.generation.is_none()
            && self.from_tar.is_none()
            && first.is_some_and(names_generation)
        {
            self.generation = self.paths.remove(0).into_os_string().into_string().ok();
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum LayoutVerb {
    /// Draw a machine's disks as a tree: this one's, or a generation's
    Show(LayoutSource),
    /// Write a layout as layout.toml: this machine's, or a generation's to be edited
    ///
    /// An edited one is for rr layout plan --file, and rr recover --layout.
    Save {
        /// A generation as `rr list` names it, or `latest`
        #[arg(long = "gen", value_name = "GEN")]
        generation: Option<String>,
        /// The file; standard output when missing
        file: Option<PathBuf>,
    },
    /// Say how this machine differs from a generation; exit 1 if it does
    Diff(LayoutSource),
    /// Show the plan that would recreate a layout on the disks that are here
    Plan {
        #[command(flatten)]
        source: LayoutSource,
        #[command(flatten)]
        disks: DiskArgs,
        /// Print an equivalent shell script
        #[arg(long)]
        script: bool,
    },
}

#[derive(Debug, Args)]
pub struct LayoutSource {
    /// A layout.toml
    #[arg(long, value_name = "FILE", conflicts_with = "generation")]
    pub file: Option<PathBuf>,
    /// A generation as `rr list` names it, or `latest`
    #[arg(long = "gen", value_name = "GEN")]
    pub generation: Option<String>,
}

#[derive(Debug, Args, Default)]
pub struct DiskArgs {
    /// Put the recorded disk OLD on the present disk NEW, or do without it (OLD=none);
    /// can be given again, also to put several recorded disks on one
    ///
    /// Without a disk, arrays come back degraded, and what was mounted from it does
    /// not come back: a data filesystem, not / or /boot. Its files stay in the backup.
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_map)]
    pub map: Vec<(String, String)>,
    /// Allow this disk, which holds other data, to be erased: its serial or name
    #[arg(long, value_name = "SERIAL")]
    pub erase: Vec<String>,
    /// Make partitions, volumes and filesystems larger where disks are
    #[arg(long)]
    pub grow: bool,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Ask nothing: what is not certain is an error
    #[arg(long)]
    pub auto: bool,
    /// Show the plan, with the disks before and after, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub disks: DiskArgs,
    /// The generation; default: the newest
    #[arg(long = "gen", value_name = "GEN")]
    pub generation: Option<String>,
    /// Make the disks by this layout.toml in place of the generation's
    ///
    /// Where that can't be made again as it is: rr layout save --gen latest FILE
    /// writes it to be edited, and the rescue system has it in /run/rr when a plan
    /// was refused. What it says is planned and checked like any; files for which it
    /// has no place are not restored. The phases of one recovery take the same file.
    #[arg(long, value_name = "FILE")]
    pub layout: Option<PathBuf>,
    /// Do not read the whole backup before disks are touched
    #[arg(long)]
    pub no_verify: bool,
    /// Go on where the firmware is in the other mode (BIOS, UEFI) than the node's
    ///
    /// With --auto it is an error without this, for the machine would not start. The
    /// mode is switched in the firmware's setup, before or afterwards.
    #[arg(long)]
    pub other_firmware: bool,
}

#[derive(Debug, Args)]
pub struct FormatArgs {
    /// The whole disk, as /dev/sdx or /dev/disk/by-id/...
    #[arg(value_name = "DEVICE")]
    pub device: PathBuf,
    /// The label that usb:// targets find it by
    #[arg(long, value_name = "LABEL", default_value = "RR-BACKUP")]
    pub label: String,
    /// Allow this disk to be erased: its serial or name (can be given again)
    #[arg(long, value_name = "SERIAL")]
    pub erase: Vec<String>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub enum RescueVerb {
    /// Shut this system down and become the node's rescue system (kexec)
    ///
    /// Kernel and initrd come from the target, so that any Linux on any machine can
    /// become the rescue system of a node: rr --target URL --node NODE rescue boot.
    /// No disk is touched by that; what happens then is what --recover says.
    Boot(RescueBootArgs),
}

#[derive(Debug, Args)]
pub struct RescueBootArgs {
    /// What the rescue system does: shell, ask or auto
    #[arg(long, value_name = "MODE", default_value = "shell")]
    pub recover: MenuDefault,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Load it, and leave it to `systemctl kexec` to start it
    #[arg(long)]
    pub load_only: bool,
    /// Only say what would be started
    #[arg(long)]
    pub dry_run: bool,
    /// More kernel parameters: rr.gen=..., rr.map=sda=nvme0n1
    #[arg(value_name = "PARAMETER")]
    pub parameters: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum PxeVerb {
    /// Put this machine's boot loaders into the PXE tree
    ///
    /// pxelinux for BIOS, GRUB for UEFI (the signed one with its shim where it is
    /// installed). Nodes add what is missing when they make their rescue systems;
    /// this replaces what is there, for example by newer ones.
    Setup,
    /// Print a configuration of dnsmasq that serves the PXE tree
    ///
    /// It serves BIOS and UEFI machines by DHCP and TFTP, and with pxe.http set in
    /// rr.toml UEFI HTTP boot as well. HTTP itself is for any web server.
    Dnsmasq(DnsmasqArgs),
}

#[derive(Debug, Args)]
pub struct DnsmasqArgs {
    /// The addresses to give out, as dnsmasq's dhcp-range takes them
    #[arg(long, value_name = "FIRST,LAST[,NETMASK]", value_parser = parse_range)]
    pub range: String,
    /// Where the tree is on the boot server; default: as pxe.tree names it
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Serve only this interface; default: all of the boot server
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print every setting with its value and where it was set
    Show,
    /// Check the configuration files and say nothing when they are sound
    Check,
    /// Print a commented rr.toml to start from
    Init,
}

fn parse_map(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            let bare = |name: &str| name.trim_start_matches("/dev/").to_owned();
            Ok((bare(old), bare(new)))
        }
        _ => Err("it looks like sda=nvme0n1".into()),
    }
}

/// A number of hours, days or weeks, or as ISO 8601 and jiff write a time.
fn parse_age(text: &str) -> Result<jiff::SignedDuration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 7 * 24,
        _ => 0,
    };
    let age = match number.parse::<u32>() {
        Ok(number) if hours > 0 => {
            Some(jiff::SignedDuration::from_hours(i64::from(number) * hours))
        }
        _ => text.parse().ok(),
    };
    age.filter(jiff::SignedDuration::is_positive)
        .ok_or_else(|| "it looks like 48h or 2d".to_owned())
}

fn parse_keep_last(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one generation is kept".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// What is deleted for good is named by its own name.
fn parse_drop(text: &str) -> Result<String, String> {
    if text != "latest" && names_generation(text) {
        return Ok(text.to_owned());
    }
    Err("it looks like 20261121T013500Z: rr list names the generations".to_owned())
}

fn parse_range(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split(',').map(str::parse::<std::net::Ipv4Addr>).collect();
    match parts.as_slice() {
        [Ok(first), Ok(last)] | [Ok(first), Ok(last), Ok(_)] if first <= last => {
            Ok(text.to_owned())
        }
        _ => Err(
            "it looks like 172.16.1.100,172.16.1.200 or 172.16.1.100,172.16.1.200,255.255.255.0"
                .to_owned(),
        ),
    }
}
