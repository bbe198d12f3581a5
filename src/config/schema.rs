//! The settings of `rr.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{TargetOptions, TargetUrl};

/// Everything that can be configured. Each field's comment is what `etc/rr.toml` says about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where backups go: `nfs://172.16.1.5/work001`, `https://server/backups`, `s3://bucket/prefix`,
    /// `file:///srv/backup`, `usb://RR-BACKUP` or `iso:///srv/iso`.
    pub target: Option<String>,
    /// The name of this node's directory at the target. Default: the host name up to the first dot.
    pub node: Option<String>,
    pub target_options: TargetOptions,
    pub backup: BackupConfig,
    pub rescue: RescueConfig,
    pub pxe: PxeConfig,
    pub recover: RecoverConfig,
}

/// The tree that a boot server serves over TFTP and HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct PxeConfig {
    /// The tree, as a URL like the target's. Default: the directory `pxe` at the target.
    pub tree: Option<String>,
    /// The URL under which machines that boot find the same tree. None: everything goes over TFTP.
    pub http: Option<String>,
}

/// What a recovery goes by, in the rescue system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecoverConfig {
    /// A file in the rescue system that holds the passphrase of the node's LUKS volumes. It is not
    /// put into the image.
    pub luks_passphrase_file: Option<PathBuf>,
    /// Shell commands that run before the machine is looked at: what makes its disks appear.
    pub pre: Vec<String>,
    /// Shell commands that run when the recovered system is mounted and bootable, before that is
    /// checked.
    pub post: Vec<String>,
    /// How long each of them may take. 0: for ever.
    pub hook_timeout_seconds: u64,
}

impl Default for RecoverConfig {
    fn default() -> Self {
        RecoverConfig {
            luks_passphrase_file: None,
            pre: Vec::new(),
            post: Vec::new(),
            hook_timeout_seconds: HOOK_TIMEOUT_SECONDS,
        }
    }
}

const HOOK_TIMEOUT_SECONDS: u64 = 600;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Globs of paths that are not archived, besides what is never archived (other machines'
    /// filesystems, /proc, /sys, /run ...).
    pub exclude: Vec<String>,
    /// Leave out files and directories that have the `nodump` inode flag (`chattr +d`).
    pub exclude_nodump: bool,
    /// Leave out what is in directories that a CACHEDIR.TAG marks as caches.
    pub exclude_caches: bool,
    /// Shell commands that run before files are read, in this order: one that fails stops the backup.
    pub pre: Vec<String>,
    /// Shell commands that run when the files are read, whatever happened since `pre` began: a
    /// failure, a panic, a kill.
    pub post: Vec<String>,
    /// How long each of them may take. 0: for ever.
    pub hook_timeout_seconds: u64,
    /// Who can read the copies of LUKS headers that a backup gets, as age(1) names them: `age1...`,
    /// `ssh-ed25519 ...`. None: no copies.
    pub luks_header_recipients: Vec<String>,
    /// Read snapshots instead of the files that change: `none` or `auto`, of every filesystem that
    /// can (on btrfs or a logical volume). `post` runs as soon as they are taken.
    pub snapshot: SnapshotMode,
    /// Whether another machine may back up to the same tree.
    pub shared_node: bool,
    /// As nice(1): 0 to 19.
    pub nice: i32,
    /// As ionice(1): `none` (leave it as it is), `best-effort` (the lowest of it) or `idle`.
    pub ionice: IoClass,
    /// How much is sent to the target, in MiB a second. 0: as much as it takes.
    pub bandwidth_mib_per_second: u64,
    /// zstd level.
    pub level: i32,
    /// 0: as many as there are cores.
    pub threads: usize,
    /// How many of the newest generations are kept; the rules below keep others besides.
    pub keep_last: usize,
    /// How many days, weeks and months keep their newest generation.
    pub keep_daily: usize,
    pub keep_weekly: usize,
    pub keep_monthly: usize,
    /// Generations younger than this are kept anyway.
    pub keep_min_age_days: u32,
}

impl Default for BackupConfig {
    fn default() -> Self {
        BackupConfig {
            exclude: vec![
                "/tmp/*".into(),
                "/var/tmp/*".into(),
                "/var/cache/apt/archives/*.deb".into(),
            ],
            exclude_nodump: false,
            exclude_caches: false,
            pre: Vec::new(),
            post: Vec::new(),
            hook_timeout_seconds: HOOK_TIMEOUT_SECONDS,
            luks_header_recipients: Vec::new(),
            snapshot: SnapshotMode::None,
            shared_node: false,
            nice: 0,
            ionice: IoClass::None,
            bandwidth_mib_per_second: 0,
            level: 1,
            threads: 0,
            keep_last: 7,
            keep_daily: 0,
            keep_weekly: 0,
            keep_monthly: 0,
            keep_min_age_days: 0,
        }
    }
}

/// Whether files are read from snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotMode {
    #[default]
    None,
    Auto,
}

/// How disks serve a backup when others want them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum IoClass {
    #[default]
    None,
    BestEffort,
    Idle,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RescueConfig {
    /// What `mkbackup` and `mkrescue` make: `iso`, `pxe` (see `[pxe]`), or both.
    pub output: Vec<Output>,
    /// `all`: drivers of all common servers. `this-node`: what this node has loaded.
    pub drivers: Drivers,
    /// `node`: as the node has it now. `dhcp`: DHCP on every interface with a link.
    pub network: Network,
    /// The kernel to boot; default: the running one, else the newest in /boot whose modules are there.
    pub kernel: Option<PathBuf>,
    /// Consoles besides the screen. Default: every serial console on the running kernel's command
    /// line, and ttyS0. The boot menu is on the last of them.
    pub console: Vec<Console>,
    /// More kernel parameters for the rescue system.
    pub cmdline: String,
    /// What the boot menu starts by itself.
    pub default: MenuDefault,
    /// What the keys of the rescue system's keyboard mean.
    pub keymap: Keymap,
    /// Files with the public keys that may log into the rescue system as root over ssh. None: no
    /// ssh.
    pub ssh_keys: Vec<PathBuf>,
    /// More files and directories of the node for the rescue system. Programs come with what they need.
    pub files: Vec<PathBuf>,
    /// Keep the rescue system in /boot/rr too, and an entry for it in the node's own GRUB menu.
    pub local_entry: bool,
    /// Whether a new image has to read the target, in a chroot, before it is published.
    pub rehearse: bool,
}

/// Who may log into the node as root may log into its rescue system.
pub fn default_ssh_keys() -> Vec<PathBuf> {
    vec!["/root/.ssh/authorized_keys".into()]
}

impl Default for RescueConfig {
    fn default() -> Self {
        RescueConfig {
            output: vec![Output::Iso],
            drivers: Drivers::default(),
            network: Network::default(),
            kernel: None,
            console: Vec::new(),
            cmdline: String::new(),
            default: MenuDefault::default(),
            keymap: Keymap::default(),
            ssh_keys: default_ssh_keys(),
            files: Vec::new(),
            local_entry: false,
            rehearse: true,
        }
    }
}

/// What keys mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(from = "String", into = "String")]
pub enum Keymap {
    /// What they mean on the node's console.
    #[default]
    Node,
    /// What they mean to every kernel: an American keyboard.
    None,
    /// As loadkeys(1) takes it: a name, or a file.
    Named(String),
}

impl From<String> for Keymap {
    fn from(text: String) -> Self {
        match text.as_str() {
            "node" => Keymap::Node,
            "none" => Keymap::None,
            _ => Keymap::Named(text),
        }
    }
}

impl From<Keymap> for String {
    fn from(keymap: Keymap) -> String {
        match keymap {
            Keymap::Node => "node".into(),
            Keymap::None => "none".into(),
            Keymap::Named(name) => name,
        }
    }
}

/// A medium that a machine boots the rescue system from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    Iso,
    Pxe,
}

impl std::str::FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "iso" => Ok(Output::Iso),
            "pxe" => Ok(Output::Pxe),
            _ => Err("known are iso and pxe".into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum MenuDefault {
    /// Boot from the first disk: an image that is left in a drive harms nothing.
    #[default]
    Local,
    Auto,
    Ask,
    Shell,
}

impl std::str::FromStr for MenuDefault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(MenuDefault::Auto),
            "ask" => Ok(MenuDefault::Ask),
            "shell" => Ok(MenuDefault::Shell),
            _ => Err("known are auto, ask and shell".into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Drivers {
    #[default]
    All,
    ThisNode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    #[default]
    Node,
    Dhcp,
}

/// A console as the kernel's `console=` takes it: `ttyS0,115200`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Console(pub String);

impl Config {
    /// Checks the values; `origin` says which file to name for which key.
    pub(super) fn validate(&self, origin: &BTreeMap<String, String>) -> Result<()> {
        let set_in = |key: &str| format!("{key} in {}", origin.get(key).map_or("rr", |f| f));
        if let Some(target) = &self.target {
            target.parse::<TargetUrl>().with_context(|| set_in("target"))?;
        }
        self.target_options.check()?;
        if let Some(node) = &self.node {
            check_node(node).with_context(|| set_in("node"))?;
        }
        if let Some(tree) = &self.pxe.tree {
            tree.parse::<crate::config::TargetUrl>().with_context(|| set_in("pxe.tree"))?;
        }
        if let Some(http) = &self.pxe.http {
            check_http(http).with_context(|| set_in("pxe.http"))?;
        }
        if self.rescue.output.is_empty() {
            bail!("{}: at least one of iso and pxe is made", set_in("rescue.output"));
        }
        if let Some(file) = self.rescue.files.iter().find(|file| !file.is_absolute()) {
            bail!(
                "{}: {} is no absolute path\nhint: programs too are named by their path",
                set_in("rescue.files"),
                file.display()
            );
        }
        if let Some(word) = self.rescue.cmdline.split_whitespace().find(|word| !is_parameter(word))
        {
            bail!(
                "{}: boot loaders would read {word} as something else\nhint: no quotes, and none of $ ` {{ }} ; & | < > \\; for once, type it in the boot menu (docs/rescue-system.md)",
                set_in("rescue.cmdline")
            );
        }
        if !(1..=19).contains(&self.backup.level) {
            bail!("{}: {} is not between 1 and 19", set_in("backup.level"), self.backup.level);
        }
        if !(0..=19).contains(&self.backup.nice) {
            bail!("{}: {} is not between 0 and 19", set_in("backup.nice"), self.backup.nice);
        }
        if self.backup.keep_last == 0 {
            bail!("{}: at least one generation is kept", set_in("backup.keep_last"));
        }
        for recipient in &self.backup.luks_header_recipients {
            check_recipient(recipient).with_context(|| set_in("backup.luks_header_recipients"))?;
        }
        for glob in &self.backup.exclude {
            globset::Glob::new(glob).with_context(|| set_in("backup.exclude"))?;
        }
        Ok(())
    }

    /// Where backups go.
    ///
    /// # Errors
    /// None is configured.
    pub fn target_url(&self) -> Result<TargetUrl> {
        match &self.target {
            Some(target) => target.parse(),
            None => bail!(
                "no target is set\nhint: target = \"nfs://server/export\" in /etc/rr/rr.toml, or --target URL"
            ),
        }
    }

    /// As it is put into the rescue image: without what has to stay on the node.
    pub fn for_rescue(&self) -> Config {
        // The admin's commands may hold passwords, and everybody can read what a PXE server serves.
        let backup = BackupConfig { pre: Vec::new(), post: Vec::new(), ..self.backup.clone() };
        Config { target_options: self.target_options.for_rescue(), backup, ..self.clone() }
    }

    /// The name of this node's directory at the target.
    pub fn node_name(&self) -> Result<String> {
        if let Some(node) = &self.node {
            check_node(node)?;
            return Ok(node.clone());
        }
        let host = nix::unistd::gethostname().context("asking for the host name")?;
        let host = host.to_string_lossy();
        let node = host.split('.').next().unwrap_or_default().to_owned();
        check_node(&node).context("using the host name as the node's name")?;
        if node == "localhost" {
            bail!(
                "this machine has no name of its own, and would share the backups of all others that have none\nhint: node = \"NAME\" in rr.toml, --node NAME, or hostnamectl hostname NAME"
            );
        }
        Ok(node)
    }
}

/// Whether boot loaders hand a word over to the kernel as it is.
pub fn is_parameter(word: &str) -> bool {
    !word.contains(['$', '"', '\'', '`', '{', '}', ';', '&', '|', '<', '>', '\\'])
        && !word.starts_with('#')
}

/// What age(1) makes of it is said when a backup is checked. It is not shown here: people mistake the
/// other half of a key pair for this one.
fn check_recipient(recipient: &str) -> Result<()> {
    if recipient.to_uppercase().starts_with("AGE-SECRET-KEY-") {
        bail!(
            "one of them is a secret key\nhint: age-keygen -y prints the recipient that belongs to it"
        );
    }
    let known = ["age1", "ssh-ed25519 ", "ssh-rsa "].iter().any(|kind| recipient.starts_with(kind));
    if !known || recipient.chars().any(char::is_control) {
        bail!(
            "one of them is none\nhint: \"age1...\" as age-keygen prints it, or the line of an ssh key's .pub file (ssh-ed25519, ssh-rsa)"
        );
    }
    Ok(())
}

/// What boot loaders take: no user, no query, and nothing that means something in their menus.
fn check_http(url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let sound = |c: char| c.is_ascii_alphanumeric() || "-._:/[]".contains(c);
    if host.is_empty() || !rest.chars().all(sound) {
        bail!("{url:?} is no URL that boot loaders understand\nhint: http://172.16.1.5/pxe");
    }
    Ok(())
}

/// A node's name is a directory, a file name and a volume label.
fn check_node(node: &str) -> Result<()> {
    let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if node.is_empty() || node.len() > 64 || node.starts_with('.') || !node.chars().all(sound) {
        bail!(
            "{node:?} can't be a node's name\nhint: letters, digits, dot, dash and underscore, 64 at most; --node NAME"
        );
    }
    Ok(())
}
