//! The settings of `rr.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that can be configured. Each field's comment is what `etc/rr.toml` says about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where backups go: `nfs://172.16.1.5/work001` or `file:///srv/backup`.
    pub target: Option<String>,
    /// The name of this node's directory at the target. Default: the host name up to the first dot.
    pub node: Option<String>,
    pub target_options: TargetOptions,
    pub backup: BackupConfig,
    pub rescue: RescueConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct TargetOptions {
    /// More mount options for NFS targets, as in nfs(5): `vers=3,nolock`.
    pub nfs: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Globs of paths that are not archived, besides what is never archived (other machines'
    /// filesystems, /proc, /sys, /run ...).
    pub exclude: Vec<String>,
    /// zstd level.
    pub level: i32,
    /// 0: as many as there are cores.
    pub threads: usize,
    /// How many generations are kept.
    pub keep_last: usize,
}

impl Default for BackupConfig {
    fn default() -> Self {
        BackupConfig {
            exclude: vec![
                "/tmp/*".into(),
                "/var/tmp/*".into(),
                "/var/cache/apt/archives/*.deb".into(),
            ],
            level: 1,
            threads: 0,
            keep_last: 7,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RescueConfig {
    /// `all`: drivers of all common servers. `this-node`: what this node has loaded.
    pub drivers: Drivers,
    /// `node`: as the node has it now. `dhcp`: DHCP on every interface with a link.
    pub network: Network,
    /// The kernel to boot; default: the newest in /boot whose modules are there.
    pub kernel: Option<PathBuf>,
    /// Consoles besides the screen. Default: every serial console on the running kernel's command
    /// line, and ttyS0.
    pub console: Vec<Console>,
    /// More kernel parameters for the rescue system.
    pub cmdline: String,
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
