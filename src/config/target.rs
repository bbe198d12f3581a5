//! `[target_options]`: how a target is reached, and with what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::TargetUrl;
use crate::sys::secret::Secret;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetOptions {
    /// More mount options for NFS targets, as in nfs(5): `vers=3,nolock`.
    pub nfs: String,
    /// How long a server may not answer before it is given up: a reboot of it should fit in.
    pub patience_seconds: u64,
    /// The S3 server, where it is not Amazon's: `https://s3.example.com:9000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket is in the path, not in the host name. Default: where an endpoint is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A profile of `~/.aws/credentials` and `~/.aws/config`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Certificates that are trusted for https besides the system's, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Stays on the node.
    #[serde(skip_serializing_if = "Login::is_empty")]
    pub login: Login,
    /// Is put into the rescue image, and so must be allowed to read only.
    #[serde(skip_serializing_if = "Login::is_empty")]
    pub read_login: Login,
}

impl Default for TargetOptions {
    fn default() -> Self {
        TargetOptions {
            nfs: String::new(),
            patience_seconds: 360,
            endpoint: None,
            region: None,
            path_style: None,
            profile: None,
            ca_file: None,
            login: Login::default(),
            read_login: Login::default(),
        }
    }
}

/// What a server knows who asks by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// For http and https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// For s3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<Secret>,
    /// For TLS, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
}

impl Login {
    pub fn is_empty(&self) -> bool {
        *self == Login::default()
    }

    pub fn has_secret(&self) -> bool {
        self.password.is_some() || self.secret_key.is_some()
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.client_cert_file.iter().chain(&self.client_key_file)
    }

    /// Its secrets in plain, for the one file that holds them by the admin's will: that in the
    /// rescue image.
    pub fn expose<S: serde::Serializer>(login: &Login, serializer: S) -> Result<S::Ok, S::Error> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        let secret = |secret: &Option<Secret>| secret.as_ref().map(|s| s.expose_text().to_owned());
        let fields: BTreeMap<&str, String> = [
            ("user", login.user.clone()),
            ("password", secret(&login.password)),
            ("access_key", login.access_key.clone()),
            ("secret_key", secret(&login.secret_key)),
            ("client_cert_file", path(&login.client_cert_file)),
            ("client_key_file", path(&login.client_key_file)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
        fields.serialize(serializer)
    }

    fn check(&self, name: &str) -> Result<()> {
        let pairs = [
            ("user", self.user.is_some(), "password", self.password.is_some()),
            ("access_key", self.access_key.is_some(), "secret_key", self.secret_key.is_some()),
            (
                "client_cert_file",
                self.client_cert_file.is_some(),
                "client_key_file",
                self.client_key_file.is_some(),
            ),
        ];
        for (one, has_one, other, has_other) in pairs {
            if has_one != has_other {
                let (has, lacks) = if has_one { (one, other) } else { (other, one) };
                bail!("target_options.{name} has {has} and no {lacks}\nhint: set both, or none");
            }
        }
        if self.user.as_ref().is_some_and(|user| user.contains(':')) {
            bail!("target_options.{name}.user can't have a colon (RFC 7617)");
        }
        Ok(())
    }
}

impl TargetOptions {
    /// Without what has to stay on the node.
    pub fn for_rescue(&self) -> TargetOptions {
        // The profile's file stays as well: what it has besides keys is resolved before.
        let (login, read_login) = (Login::default(), Login::default());
        TargetOptions { login, read_login, profile: None, ..self.clone() }
    }

    /// Refuses what is half or out of bounds.
    pub(super) fn check(&self) -> Result<()> {
        self.login.check("login")?;
        self.read_login.check("read_login")?;
        if let Some(endpoint) = &self.endpoint
            && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
        {
            bail!(
                "target_options.endpoint {endpoint:?} is no URL\nhint: endpoint = \"https://s3.example.com:9000\""
            );
        }
        let files = self.ca_file.iter().chain(self.login.files()).chain(self.read_login.files());
        for file in files {
            if !file.is_absolute() {
                bail!(
                    "target_options: {} is no absolute path, and a rescue system has another directory",
                    file.display()
                );
            }
        }
        if self.patience_seconds == 0 {
            bail!("target_options.patience_seconds: a server needs a moment to answer");
        }
        Ok(())
    }

    /// Refuses what means nothing to the target, nor to the `tree` for PXE, which is mounted alike. Not
    /// for a target that the command line names: it is another than that which was configured.
    pub fn check_for(&self, url: &TargetUrl, tree: Option<&TargetUrl>) -> Result<()> {
        let mut mounted = [Some(url), tree].into_iter().flatten();
        let nfs = mounted.any(|url| matches!(url, TargetUrl::Nfs { .. }));
        let (s3, http, tls) = match url {
            TargetUrl::S3 { .. } => (true, false, true),
            TargetUrl::Http { tls, .. } => (false, true, *tls),
            _ => (false, false, false),
        };
        for (what, is_set, fits) in [
            ("nfs", !self.nfs.is_empty(), nfs),
            ("endpoint", self.endpoint.is_some(), s3),
            ("region", self.region.is_some(), s3),
            ("path_style", self.path_style.is_some(), s3),
            ("profile", self.profile.is_some(), s3),
            ("ca_file", self.ca_file.is_some(), tls),
            ("login.access_key", self.login.access_key.is_some(), s3),
            ("read_login.access_key", self.read_login.access_key.is_some(), s3),
            ("login.user", self.login.user.is_some(), http),
            ("read_login.user", self.read_login.user.is_some(), http),
            ("login.client_cert_file", self.login.client_cert_file.is_some(), tls),
            ("read_login.client_cert_file", self.read_login.client_cert_file.is_some(), tls),
        ] {
            if is_set && !fits {
                bail!("target_options.{what} means nothing to the target {url}\nhint: remove it");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> TargetOptions {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn halves_and_what_means_nothing_are_refused() {
        let s3: TargetUrl = "s3://b".parse().unwrap();
        let http: TargetUrl = "http://h/x".parse().unwrap();
        let https: TargetUrl = "https://h/x".parse().unwrap();
        for (text, url, expected) in [
            ("[login]\naccess_key = 'a'", &s3, "no secret_key"),
            ("[read_login]\npassword = 'a'", &https, "read_login has password and no user"),
            ("[login]\nuser = 'a:b'\npassword = 'c'", &https, "colon"),
            ("[login]\nuser = 'a'\npassword = 'b'", &s3, "login.user means nothing"),
            ("nfs = 'vers=3'", &s3, "nfs means nothing"),
            ("region = 'x'", &https, "region means nothing"),
            ("ca_file = '/x'", &http, "ca_file means nothing"),
            ("endpoint = 'h:9000'", &s3, "is no URL"),
        ] {
            let options = options(text);
            let result = options.check().and_then(|()| options.check_for(url, None));
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let good =
            "region = 'x'\nendpoint = 'http://h:9000'\n[login]\naccess_key = 'a'\nsecret_key = 'b'";
        options(good).check().unwrap();
        options(good).check_for(&s3, None).unwrap();
        let (nfs, tree) = ("nfs://h/x".parse().unwrap(), "nfs://h/pxe".parse().unwrap());
        let given = options("nfs = 'vers=3'");
        given.check_for(&nfs, Some(&https)).unwrap();
        given.check_for(&https, Some(&tree)).unwrap();
        assert!(given.check_for(&https, Some(&s3)).is_err());
    }

    #[test]
    fn secrets_are_shown_only_to_the_rescue_image() {
        let both = options(
            "profile = 'p'\n[login]\nuser = 'w'\npassword = 'sesame'\n[read_login]\nuser = 'r'\npassword = 'poppy'",
        );
        let shown = format!("{}{both:?}", toml::to_string(&both).unwrap());
        assert!(!shown.contains("sesame") && !shown.contains("poppy"), "{shown}");
        let rescue = both.for_rescue();
        assert!(rescue.login.is_empty() && rescue.read_login.is_empty());
        assert_eq!(rescue.profile, None, "there is no ~/.aws in a rescue system");

        #[derive(Serialize)]
        struct Image {
            #[serde(serialize_with = "Login::expose")]
            login: Login,
        }
        let text = toml::to_string(&Image { login: both.read_login.clone() }).unwrap();
        assert_eq!(text, "[login]\npassword = \"poppy\"\nuser = \"r\"\n");
        let table: BTreeMap<String, Login> = toml::from_str(&text).unwrap();
        assert_eq!(table["login"], both.read_login);
    }
}
