//! What the rescue system knows about the backup it was made for: `/etc/rr/rescue.toml`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{Login, TargetOptions};
use crate::layout::BytesPath;

/// Where it lies inside the rescue system.
pub const PATH: &str = "/etc/rr/rescue.toml";

/// Where `rr recover` logs to inside the rescue system.
pub const RECOVER_LOG: &str = "/var/log/rr.log";

/// Names the file in which `rr recover` leaves its exit code, for a session that can't wait until it
/// is gone. A recovery that somebody else starts beside it leaves none.
pub const CODE_VARIABLE: &str = "RR_EXIT_CODE_FILE";

/// The version of the file that this program writes.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RescueInfo {
    pub version: u32,
    /// The node's name at the target.
    pub node: String,
    /// The target's URL.
    pub target: String,
    /// The version of rr that made the image.
    pub rr: String,
    /// Serial consoles as `console=` takes them: `ttyS0,115200`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consoles: Vec<String>,
    /// More kernel parameters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
    /// The target wants a login, and none was allowed to be here: who recovers is asked for it.
    #[serde(default)]
    pub asks_login: bool,
    #[serde(default)]
    pub target_options: TargetOptions,
    /// What the target is read with: the one secret that an image may hold.
    #[serde(default, skip_serializing_if = "Login::is_empty", serialize_with = "Login::expose")]
    pub read_login: Login,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_device: Option<TargetDevice>,
    /// The volume set of the ISO that holds the backup, where that is one: only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
    /// What the node's firmware says which machine it is; none where it says nothing of use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_uuid: Option<Uuid>,
}

/// The filesystem that holds a `file://` target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetDevice {
    pub fs_uuid: String,
    pub fs_kind: String,
    /// The target's directory inside the filesystem.
    pub subdir: BytesPath,
}

impl RescueInfo {
    /// Reads [`PATH`]. None where this is no rescue system.
    pub fn read() -> Result<Option<RescueInfo>> {
        Self::read_from(Path::new(PATH))
    }

    /// How the target is reached from here.
    pub fn options(&self) -> TargetOptions {
        TargetOptions { login: self.read_login.clone(), ..self.target_options.clone() }
    }

    fn read_from(path: &Path) -> Result<Option<RescueInfo>> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map(Some)
                .with_context(|| format!("parsing {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let info = RescueInfo {
            version: VERSION,
            node: "node001".into(),
            target: "file:///srv/backup".into(),
            asks_login: false,
            target_options: TargetOptions { nfs: "vers=3".into(), ..TargetOptions::default() },
            read_login: toml::from_str("user = 'rescue'\npassword = 'poppy'").unwrap(),
            target_device: Some(TargetDevice {
                fs_uuid: "b3c1".into(),
                fs_kind: "ext4".into(),
                subdir: "/backup".into(),
            }),
            rr: "0.1.0".into(),
            consoles: vec!["ttyS0,115200".into()],
            cmdline: String::new(),
            medium: None,
            product_uuid: Some(Uuid::from_u128(0x0123_4567_89ab_cdef)),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescue.toml");
        std::fs::write(&path, toml::to_string(&info).unwrap()).unwrap();
        assert!(!format!("{info:?}").contains("poppy"));
        assert_eq!(RescueInfo::read_from(&path).unwrap(), Some(info));
        assert_eq!(RescueInfo::read_from(&dir.path().join("none")).unwrap(), None);
        std::fs::write(&path, "version = 1").unwrap();
        assert!(RescueInfo::read_from(&path).is_err());
    }
}
