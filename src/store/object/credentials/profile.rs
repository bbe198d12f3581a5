//! The profiles of `~/.aws/credentials` and `~/.aws/config`, as `aws configure` writes them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Keys, Origin, Source, of_environment, sts, variable};
use crate::config::TargetOptions;
use crate::sys::secret::Secret;

/// How many profiles may build upon each other.
const DEEPEST: usize = 5;
/// With these a profile signs in with a browser.
const BY_BROWSER: [&str; 4] = ["sso_session", "sso_start_url", "sso_account_id", "login_session"];
const INSTEAD: &str = "hint: a profile with role_arn and source_profile or credential_source, with credential_process, or with keys of its own";

/// The settings of all profiles.
#[derive(Debug, Default)]
struct Profiles(BTreeMap<String, Profile>);

#[derive(Debug, Default)]
struct Profile {
    /// Name and value; each with the file that it is from.
    settings: BTreeMap<String, (String, PathBuf)>,
}

/// Where the keys of the profile `named` are to be had; `by` says who named it.
pub(super) fn source(named: &str, by: &str) -> Result<Source> {
    let profiles = Profiles::read()?;
    ensure!(
        profiles.0.contains_key(named),
        "there is no profile {named} in {} or {}\nhint: {by} names it",
        file(Kind::Credentials).display(),
        file(Kind::Config).display()
    );
    profiles.source(named, DEEPEST)?.with_context(|| {
        profiles.by_hand(named).map_or_else(
            || format!("the profile {named} has no keys and no role\nhint: {by} names it"),
            |why| format!("{why}\n{INSTEAD}"),
        )
    })
}

/// As [`source`], of the profile that the environment names, or the default one, which need not lead to
/// keys: where it does not, the machine may have a role.
pub(super) fn source_if_any() -> Result<Option<Source>> {
    Profiles::read()?.source(&usual(), DEEPEST)
}

/// Why the profile of [`source_if_any`] leads to no keys, where somebody means it to.
pub(super) fn why_none() -> Option<String> {
    let by_hand = Profiles::read().ok()?.by_hand(&usual());
    by_hand.or_else(|| {
        let named = variable("AWS_PROFILE")?;
        Some(format!(
            "the profile {named} has none and no role, and AWS_PROFILE of the environment names it"
        ))
    })
}

fn usual() -> String {
    variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned())
}

/// A setting of the profile that is in force. What can't be read is told by who looks for keys.
pub fn setting(options: &TargetOptions, name: &str) -> Option<String> {
    let profiles = Profiles::read().ok()?;
    profiles.0.get(&in_force(options)?)?.get(name).map(str::to_owned)
}

/// The profile that speaks for this target: one that is named, or the default one where no keys are
/// given that have nothing to do with it.
fn in_force(options: &TargetOptions) -> Option<String> {
    if options.profile.is_some() {
        return options.profile.clone();
    }
    if options.login.access_key.is_some() {
        return None;
    }
    let has_keys = || variable("AWS_ACCESS_KEY_ID").or_else(|| variable("AWS_ROLE_ARN")).is_some();
    variable("AWS_PROFILE").or_else(|| (!has_keys()).then(|| "default".to_owned()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Credentials,
    Config,
}

fn file(kind: Kind) -> PathBuf {
    let (name, leaf) = match kind {
        Kind::Credentials => ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
        Kind::Config => ("AWS_CONFIG_FILE", "config"),
    };
    variable(name).map_or_else(|| Path::new(&home()).join(".aws").join(leaf), PathBuf::from)
}

/// A service of systemd has no HOME.
pub(super) fn home() -> String {
    variable("HOME").unwrap_or_else(|| "/root".to_owned())
}

impl Profiles {
    fn read() -> Result<Profiles> {
        let mut profiles = Profiles::default();
        // Of what is in both, that of the credentials counts.
        for kind in [Kind::Config, Kind::Credentials] {
            let file = file(kind);
            match std::fs::read_to_string(&file) {
                Ok(text) => profiles.add(&text, kind, &file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("reading {}", file.display()));
                }
            }
        }
        Ok(profiles)
    }

    fn add(&mut self, text: &str, kind: Kind, file: &Path) {
        let (mut profile, mut nested) = (None, false);
        for raw in text.lines() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                profile = name_of(section, kind).map(|name| self.0.entry(name).or_default());
                nested = false;
                continue;
            }
            // Settings of a service are indented below its name: `s3 =`.
            if nested && raw.starts_with([' ', '\t']) {
                continue;
            }
            if let (Some(profile), Some((key, value))) = (&mut profile, line.split_once('=')) {
                let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
                nested = value.is_empty();
                if !nested {
                    profile.settings.insert(key, (value.to_owned(), file.to_owned()));
                }
            }
        }
    }

    /// None: nothing in it leads to keys.
    fn source(&self, name: &str, deeper: usize) -> Result<Option<Source>> {
        let Some(profile) = self.0.get(name) else { return Ok(None) };
        if let Some(arn) = profile.get("role_arn") {
            ensure!(
                profile.get("mfa_serial").is_none(),
                "the profile {name} wants a code of a device (mfa_serial), and nobody is there when a backup runs\n{INSTEAD}"
            );
            let mut role =
                sts::Role::new(arn.to_owned(), profile.get("role_session_name").map(str::to_owned));
            role.external_id = profile.get("external_id").map(str::to_owned);
            let seconds = profile.get("duration_seconds").map(str::parse).transpose();
            role.seconds =
                seconds.with_context(|| format!("duration_seconds of the profile {name}"))?;
            if let Some(token) = profile.get("web_identity_token_file") {
                return Ok(Some(Source::WebIdentity(token.into(), role)));
            }
            let base = self.base(name, profile, deeper)?;
            return Ok(Some(Source::Assumed(Box::new(base), role)));
        }
        if let Some(keys) = profile.keys()? {
            return Ok(Some(Source::Keys(keys)));
        }
        let (profile, command) = (name.to_owned(), profile.get("credential_process"));
        Ok(command.map(|command| Source::Program { command: command.to_owned(), profile }))
    }

    /// Why a profile without keys has none: somebody would have to be there.
    fn by_hand(&self, name: &str) -> Option<String> {
        let profile = self.0.get(name)?;
        let key = BY_BROWSER.into_iter().find(|key| profile.get(key).is_some())?;
        Some(format!(
            "the profile {name} signs in with a browser ({key}), and nobody is there when a backup runs"
        ))
    }

    /// Whose keys take the role of a profile.
    fn base(&self, name: &str, profile: &Profile, deeper: usize) -> Result<Source> {
        if let Some(source) = profile.get("credential_source") {
            return match source {
                "Environment" => {
                    let keys = of_environment()?.with_context(|| {
                        format!("the profile {name} takes its keys from the environment, which has no AWS_ACCESS_KEY_ID")
                    })?;
                    Ok(Source::Keys(keys))
                }
                "Ec2InstanceMetadata" => Ok(Source::Machine),
                "EcsContainer" => Ok(Source::Container),
                other => bail!(
                    "the profile {name} has the credential_source {other:?}\nhint: Environment, Ec2InstanceMetadata, or EcsContainer"
                ),
            };
        }
        let Some(source) = profile.get("source_profile") else {
            bail!(
                "the profile {name} has a role_arn, and does not say whose keys take it\nhint: source_profile, credential_source, or web_identity_token_file"
            );
        };
        let found = if source == name {
            profile.keys()?.map(Source::Keys)
        } else {
            ensure!(
                deeper > 0,
                "the profile {name} leads from one source_profile to another\n{INSTEAD}"
            );
            self.source(source, deeper - 1)?
        };
        found.with_context(|| {
            format!("the source_profile {source} of the profile {name} has no keys")
        })
    }
}

impl Profile {
    fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|(value, _)| value.as_str())
    }

    fn keys(&self) -> Result<Option<Keys>> {
        let (Some((access, file)), Some(secret)) =
            (self.settings.get("aws_access_key_id"), self.get("aws_secret_access_key"))
        else {
            return Ok(None);
        };
        let token = self.get("aws_session_token").map(Secret::new).transpose()?;
        let (access, secret) = (access.clone(), Secret::new(secret)?);
        Ok(Some(Keys { access, secret, token, ends: None, from: Origin::File(file.clone()) }))
    }
}

/// The profile that a section is of: `[NAME]` in the credentials, `[profile NAME]` in the config.
fn name_of(section: &str, kind: Kind) -> Option<String> {
    let section = section.trim();
    let name = match kind {
        Kind::Credentials => section,
        Kind::Config if section == "default" => section,
        Kind::Config => section.strip_prefix("profile")?.strip_prefix([' ', '\t'])?,
    };
    Some(name.trim().trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As `aws configure` writes them, with a session token as `aws sts` users add it.
    const CREDENTIALS: &str = "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = a/b+c==\n\n[backup]\naws_access_key_id=AKIABACKUP\naws_secret_access_key=sesame\naws_session_token = t\n[half]\naws_access_key_id = A\n";
    const CONFIG: &str = "# ours\n[default]\nregion = eu-central-1\noutput = json\ns3 =\n  addressing_style = path\n  region = nowhere\nendpoint_url = https://s3.example.com\n\n[profile night]\nrole_arn = arn:aws:iam::123456789012:role/backup\nsource_profile = backup\nexternal_id = site 1\n[profile \"pod\"]\nrole_arn = arn:aws:iam::123456789012:role/pod\nweb_identity_token_file = /var/run/token\n[profile anywhere]\ncredential_process = helper --role x\n[profile person]\nsso_session = s\n[profile device]\nrole_arn = r\nsource_profile = backup\nmfa_serial = m\n[profile a]\nrole_arn = r\nsource_profile = b\n[profile b]\nrole_arn = r\nsource_profile = a\n[profile lonely]\nrole_arn = r\n[profile self]\nrole_arn = r\nsource_profile = self\naws_access_key_id = AKIASELF\naws_secret_access_key = x\n[sso-session s]\naws_access_key_id = AKIANOT\n[night]\naws_access_key_id = AKIANOT\n";

    fn profiles() -> Profiles {
        let mut profiles = Profiles::default();
        profiles.add(CONFIG, Kind::Config, Path::new("/root/.aws/config"));
        profiles.add(CREDENTIALS, Kind::Credentials, Path::new("/root/.aws/credentials"));
        profiles
    }

    fn source(name: &str) -> Result<Option<Source>> {
        profiles().source(name, DEEPEST)
    }

    #[test]
    fn keys_have_sections() {
        let keys = |name: &str| match source(name).unwrap() {
            Some(Source::Keys(keys)) => keys,
            other => panic!("{name}: {other:?}"),
        };
        let default = keys("default");
        assert_eq!(
            (default.access.as_str(), default.secret.expose_text()),
            ("AKIADEFAULT", "a/b+c==")
        );
        assert!(default.token.is_none());
        let backup = keys("backup");
        assert_eq!((backup.access.as_str(), backup.secret.expose_text()), ("AKIABACKUP", "sesame"));
        assert_eq!(backup.token.as_ref().unwrap().expose_text(), "t");
        assert_eq!(backup.from.to_string(), "/root/.aws/credentials");
        assert!(!format!("{:?}{backup:?}", source("night")).contains("sesame"));
        assert!(source("half").unwrap().is_none() && source("none").unwrap().is_none());
    }

    #[test]
    fn a_profile_may_take_a_role_by_the_keys_of_another() {
        let Some(Source::Assumed(base, role)) = source("night").unwrap() else { panic!() };
        assert!(matches!(*base, Source::Keys(keys) if keys.access == "AKIABACKUP"));
        assert_eq!(role.arn, "arn:aws:iam::123456789012:role/backup");
        assert_eq!(role.external_id.as_deref(), Some("site 1"));
        let Some(Source::Assumed(base, _)) = source("self").unwrap() else { panic!() };
        assert!(matches!(*base, Source::Keys(keys) if keys.access == "AKIASELF"));
        let Some(Source::WebIdentity(file, _)) = source("pod").unwrap() else { panic!() };
        assert_eq!(file, Path::new("/var/run/token"));
        let Some(Source::Program { command, .. }) = source("anywhere").unwrap() else { panic!() };
        assert_eq!(command, "helper --role x");
    }

    #[test]
    fn a_profile_with_keys_needs_no_person() {
        let mut all = Profiles::default();
        let keys = "aws_access_key_id = AKIAOWN\naws_secret_access_key = x\n";
        let left = "mfa_serial = m\nsso_session = s\n";
        all.add(
            &format!("[default]\n{keys}{left}[bare]\n{left}"),
            Kind::Credentials,
            Path::new("f"),
        );
        let found = all.source("default", DEEPEST).unwrap();
        assert!(matches!(found, Some(Source::Keys(keys)) if keys.access == "AKIAOWN"));
        assert!(all.source("bare", DEEPEST).unwrap().is_none());
        assert!(all.by_hand("bare").unwrap().contains("signs in with a browser (sso_session)"));
    }

    #[test]
    fn what_needs_a_person_is_named_with_the_way_out() {
        for (name, expected) in [
            ("device", "wants a code of a device (mfa_serial)"),
            ("a", "from one source_profile to another"),
            ("lonely", "does not say whose keys take it"),
        ] {
            let error = source(name).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("\nhint: "), "{error}");
        }
    }

    #[test]
    fn a_profile_has_settings_besides_keys() {
        let profiles = profiles();
        let default = &profiles.0["default"];
        // That below `s3 =` is another's.
        assert_eq!(default.get("region"), Some("eu-central-1"));
        assert_eq!(default.get("endpoint_url"), Some("https://s3.example.com"));
    }
}
