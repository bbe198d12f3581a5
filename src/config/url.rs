//! Target URLs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where backups go, as `file:///dir`, `nfs://host/export[/path]`, `http[s]://host[:port]/path`,
/// `s3://bucket[/prefix]`, `usb://LABEL` or `iso:///dir`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetUrl {
    /// A directory that is there already.
    File { dir: PathBuf },
    /// `host:/path`. Which part of the path is the export is for the server to know.
    Nfs { host: String, path: String },
    /// A WebDAV server, or one that takes PUT, GET and DELETE. `path` is empty or starts with `/`.
    Http { tls: bool, host: String, path: String },
    /// `prefix` has no slash at either end, and may be empty.
    S3 { bucket: String, prefix: String },
    /// A disk that is plugged in for it.
    Usb(Stick),
    /// The rescue ISO itself.
    Iso(Iso),
}

/// How the disk of a `usb://` target is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stick {
    /// By its filesystem's label.
    Label(String),
    /// By a path in `/dev`: the disk, or the partition.
    Device(PathBuf),
}

/// Which ISO an `iso://` target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Iso {
    /// The directory in which it is made; or, to read it, the image, or the drive that it is in.
    Path(PathBuf),
    /// The one in this machine that has this volume identifier.
    Medium(String),
}

/// Where `target = "iso"` makes it. The one directory for backups that rr makes by itself.
pub const ISO_DIR: &str = "/var/lib/rr/iso";

impl TargetUrl {
    pub fn is_iso(&self) -> bool {
        matches!(self, TargetUrl::Iso(_))
    }

    pub fn is_on_network(&self) -> bool {
        !matches!(self, TargetUrl::File { .. } | TargetUrl::Usb(_) | TargetUrl::Iso(_))
    }

    /// The directory of this machine that a backup goes to, where it is one.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            TargetUrl::File { dir } | TargetUrl::Iso(Iso::Path(dir)) => Some(dir),
            _ => None,
        }
    }
}

impl std::str::FromStr for TargetUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "iso" {
            return Ok(TargetUrl::Iso(Iso::Path(PathBuf::from(ISO_DIR))));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.starts_with('/') {
                bail!("{text:?} is no target URL\nhint: file://{text}");
            }
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
            "iso" if rest.starts_with('/') => {
                Ok(TargetUrl::Iso(Iso::Path(PathBuf::from(normal(rest)))))
            }
            "iso" if is_volume_id(rest) => Ok(TargetUrl::Iso(Iso::Medium(rest.to_owned()))),
            "iso" => bail!(
                "{text:?} names neither a directory nor an ISO\nhint: iso:///directory makes it there; iso:///directory/rr-NODE.iso and iso://RR_NODE read it"
            ),
            "http" | "https" => http(scheme == "https", text, rest),
            "s3" => s3(text, rest),
            other => bail!(
                "targets of the kind {other}:// are not known\nhint: this rr knows file://, nfs://, usb://, http://, https://, s3:// and iso://"
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
            TargetUrl::Iso(Iso::Path(path)) => write!(f, "iso://{}", path.display()),
            TargetUrl::Iso(Iso::Medium(id)) => write!(f, "iso://{id}"),
            TargetUrl::Http { tls, host, path } => {
                write!(f, "http{}://{host}{path}", if *tls { "s" } else { "" })
            }
            TargetUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            TargetUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
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

/// As ISO 9660 allows them.
fn is_volume_id(id: &str) -> bool {
    let known = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    (1..=32).contains(&id.len()) && id.bytes().all(known)
}

fn http(tls: bool, text: &str, rest: &str) -> Result<TargetUrl> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        // Not said back: a URL is shown and logged everywhere.
        bail!(
            "a target URL can't hold a user or a password\nhint: user and password in [target_options.login]"
        );
    }
    let port = match host.rsplit_once(':') {
        Some((_, port)) if !host.ends_with(']') => port.parse().unwrap_or(0),
        _ => 80_u16,
    };
    if host.is_empty() || host.starts_with(':') || port == 0 || !is_plain(host, "[]:") {
        bail!("{text:?} names no server\nhint: https://server.example.com/backups");
    }
    let path = checked_path(text, path)?;
    let path = if path.is_empty() { path } else { format!("/{path}") };
    Ok(TargetUrl::Http { tls, host: host.to_owned(), path })
}

fn s3(text: &str, rest: &str) -> Result<TargetUrl> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        // Not said back: a URL is shown and logged everywhere.
        bail!(
            "a target URL can't hold keys\nhint: access_key and secret_key in [target_options.login], and s3://bucket/prefix"
        );
    }
    if bucket.is_empty() || !is_plain(bucket, "") {
        bail!("{text:?} names no bucket\nhint: s3://bucket or s3://bucket/prefix");
    }
    Ok(TargetUrl::S3 { bucket: bucket.to_owned(), prefix: checked_path(text, prefix)? })
}

/// Without slashes at its ends. Only what means the same to every server, however it is quoted.
fn checked_path(text: &str, path: &str) -> Result<String> {
    let path = normal(path).trim_start_matches('/').to_owned();
    let odd = |part: &str| part == "." || part == "..";
    if !is_plain(&path, "/~+=,@") || path.split('/').any(odd) {
        bail!(
            "{text:?} has a path that not every server understands\nhint: letters, digits and - _ . ~ + = , @ between slashes"
        );
    }
    Ok(path)
}

fn is_plain(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
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
            ("iso", "iso:///var/lib/rr/iso"),
            ("iso:///srv//iso/", "iso:///srv/iso"),
            ("iso://RR_NODE001", "iso://RR_NODE001"),
            ("https://backup.example.com", "https://backup.example.com"),
            ("http://10.0.2.2:8080/a//b/", "http://10.0.2.2:8080/a/b"),
            ("https://[fe80::1]:8443/", "https://[fe80::1]:8443"),
            ("s3://work001", "s3://work001"),
            ("s3://work001//site/nodes/", "s3://work001/site/nodes"),
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
            "iso://",
            "iso://srv",
            "http:///x",
            "http://:80/x",
            "http://host:0/x",
            "http://host:x/x",
            "https://host/a/../b",
            "https://host/a%2fb",
            "https://host/a?b",
            "s3:///x",
            "s3://b/../x",
        ] {
            assert!(bad.parse::<TargetUrl>().is_err(), "{bad}");
        }
        let secret = "https://me:sesame@host/x".parse::<TargetUrl>().unwrap_err().to_string();
        assert!(secret.contains("target_options.login") && !secret.contains("sesame"), "{secret}");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        let error = |text: &str| text.parse::<TargetUrl>().unwrap_err().to_string();
        assert!(error("/tmp/x").ends_with("hint: file:///tmp/x"), "{}", error("/tmp/x"));
        assert!(error("srv/x").contains("nfs://server/export"), "{}", error("srv/x"));
        for url in ["s3://key:sesame@bucket/p", "https://user:sesame@host/p"] {
            let said = error(url);
            assert!(!said.contains("sesame") && said.contains("[target_options.login]"), "{said}");
        }
    }
}
