//! Target URLs.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Where backups go, as `file:///dir` or `nfs://host/export[/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetUrl {
    /// A directory that is there already.
    File { dir: PathBuf },
    /// `host:/path`. Which part of the path is the export is for the server to know.
    Nfs { host: String, path: String },
    /// A disk that is plugged in for it.
    Usb(Stick),
}

/// How the disk of a `usb://` target is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stick {
    /// By its filesystem's label.
    Label(String),
    /// By a path in `/dev`: the disk, or the partition.
    Device(PathBuf),
}

impl TargetUrl {
    pub fn is_on_network(&self) -> bool {
        !matches!(self, TargetUrl::File { .. } | TargetUrl::Usb(_))
    }
}

impl std::str::FromStr for TargetUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            bail!(
                "{text:?} is no target URL\nhint: it looks like nfs://server/export or file:///directory"
            );
        };
        match scheme {
            "file" if rest.starts_with('/') => {
                Ok(TargetUrl::File { dir: PathBuf::from(normal(rest)) })
            }
            "file" => bail!(
                "{text:?} names no absolute directory\nhint: file:///srv/backup has three slashes"
            ),
            "nfs" => {
                let Some((host, path)) = rest.split_once('/') else {
                    bail!("{text:?} names no export\nhint: nfs://server/export");
                };
                let path = normal(&format!("/{path}"));
                if host.is_empty() || path == "/" {
                    bail!("{text:?} lacks the server or the export\nhint: nfs://server/export");
                }
                Ok(TargetUrl::Nfs { host: host.to_owned(), path })
            }
            "usb" => Ok(TargetUrl::Usb(stick(text, rest)?)),
            other => bail!(
                "targets of the kind {other}:// are not known\nhint: this rr knows file://, nfs:// and usb://"
            ),
        }
    }
}

impl std::fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetUrl::File { dir } => write!(f, "file://{}", dir.display()),
            TargetUrl::Nfs { host, path } => write!(f, "nfs://{host}{path}"),
            TargetUrl::Usb(Stick::Label(label)) => write!(f, "usb://{label}"),
            TargetUrl::Usb(Stick::Device(path)) => write!(f, "usb://{}", path.display()),
        }
    }
}

fn stick(text: &str, rest: &str) -> Result<Stick> {
    if rest.starts_with("/dev/") {
        return Ok(Stick::Device(PathBuf::from(normal(rest))));
    }
    if !is_label(rest) {
        bail!(
            "{text:?} names no disk\nhint: usb://LABEL, of {LONGEST_LABEL} letters, digits, dots, dashes and underscores at most, or usb:///dev/disk/by-id/..."
        );
    }
    Ok(Stick::Label(rest.to_owned()))
}

/// As long as that of an ext4 filesystem can be.
const LONGEST_LABEL: usize = 16;

/// Whether the filesystem of a backup disk can have this label.
pub fn is_label(label: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(known)
}

/// One slash between parts and none at the end.
fn normal(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_said_back() {
        for (text, said) in [
            ("file:///srv/backup/", "file:///srv/backup"),
            ("nfs://172.16.1.5/work001", "nfs://172.16.1.5/work001"),
            ("nfs://[fe80::1]/a//b/", "nfs://[fe80::1]/a/b"),
            ("usb://RR-BACKUP", "usb://RR-BACKUP"),
            ("usb:///dev/disk//by-id/usb-A_B-0:0/", "usb:///dev/disk/by-id/usb-A_B-0:0"),
        ] {
            assert_eq!(text.parse::<TargetUrl>().unwrap().to_string(), said);
        }
        for bad in [
            "",
            "/srv",
            "file://srv",
            "nfs://host",
            "nfs://host/",
            "nfs:///x",
            "ftp://a/b",
            "usb://",
            "usb:///mnt",
            "usb://a b",
            "usb://a-label-of-18-char",
        ] {
            assert!(bad.parse::<TargetUrl>().is_err(), "{bad}");
        }
    }
}
