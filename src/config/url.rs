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
            other => bail!(
                "targets of the kind {other}:// are not known\nhint: this rr knows file:// and nfs://"
            ),
        }
    }
}

impl std::fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetUrl::File { dir } => write!(f, "file://{}", dir.display()),
            TargetUrl::Nfs { host, path } => write!(f, "nfs://{host}{path}"),
        }
    }
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
        ] {
            assert_eq!(text.parse::<TargetUrl>().unwrap().to_string(), said);
        }
        for bad in ["", "/srv", "file://srv", "nfs://host", "nfs://host/", "nfs:///x", "ftp://a/b"]
        {
            assert!(bad.parse::<TargetUrl>().is_err(), "{bad}");
        }
    }
}
