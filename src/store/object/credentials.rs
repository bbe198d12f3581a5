//! The keys for S3, from the first of these that has some: `target_options.login`, the environment,
//! `~/.aws/credentials`, the role of the container, the role of the machine. Those of a role end
//! some day, and are asked for again before.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use ureq::Agent;

use crate::config::TargetOptions;
use crate::sys::secret::Secret;

/// Nobody is there on most networks.
const ROLE_ANSWER: Duration = Duration::from_secs(2);
const MACHINE_ROLES: &str = "http://169.254.169.254";
const CONTAINER_ROLES: &str = "http://169.254.170.2";
/// Keys that end within this are not used for another request.
const LEAST_LEFT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: Secret,
    pub token: Option<Secret>,
    ends: Option<jiff::Timestamp>,
    pub from: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Config,
    Environment,
    File(PathBuf),
    Role,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Config => f.write_str("target_options.login"),
            Origin::Environment => f.write_str("the environment (AWS_ACCESS_KEY_ID)"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Role => f.write_str("this machine's role"),
        }
    }
}

/// Keys that are renewed when they end.
#[derive(Debug)]
pub(super) struct Provider {
    options: TargetOptions,
    keys: Mutex<Keys>,
}

impl Provider {
    pub fn new(options: &TargetOptions) -> Result<Provider> {
        let keys = match find(options)? {
            Some(keys) => keys,
            None => role().context("asking for the keys of this machine's role")?.ok_or_else(
                || {
                    anyhow!(
                        "there are no keys for S3\nhint: access_key and secret_key in [target_options.login], AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials"
                    )
                },
            )?,
        };
        log::info!("the keys for S3 are those of {}", keys.from);
        Ok(Provider { options: options.clone(), keys: Mutex::new(keys) })
    }

    pub fn keys(&self) -> Result<Keys> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let left = keys.ends.map(|ends| ends.duration_since(jiff::Timestamp::now()));
        if left.is_some_and(|left| left.unsigned_abs() < LEAST_LEFT || left.is_negative()) {
            let fresh = match find(&self.options)? {
                Some(keys) => Some(keys),
                None => role().context("renewing the keys of this machine's role")?,
            };
            *keys = fresh.context("this machine has no role any more")?;
        }
        Ok(keys.clone())
    }
}

/// Keys that somebody put there: not those of a role.
pub fn find(options: &TargetOptions) -> Result<Option<Keys>> {
    if let (Some(access), Some(secret)) = (&options.login.access_key, &options.login.secret_key) {
        let (access, secret) = (access.clone(), secret.clone());
        return Ok(Some(Keys { access, secret, token: None, ends: None, from: Origin::Config }));
    }
    if let (Some(access), Some(secret)) =
        (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
    {
        let token = variable("AWS_SESSION_TOKEN").map(Secret::new).transpose()?;
        let (secret, from) = (Secret::new(secret)?, Origin::Environment);
        return Ok(Some(Keys { access, secret, token, ends: None, from }));
    }
    let named = options.profile.clone().or_else(|| variable("AWS_PROFILE"));
    let file = variable("AWS_SHARED_CREDENTIALS_FILE").map_or_else(
        || Path::new(&variable("HOME").unwrap_or("/root".into())).join(".aws/credentials"),
        PathBuf::from,
    );
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let profile = named.as_deref().unwrap_or("default");
    match (parse(&text, profile, &file)?, &options.profile) {
        (None, Some(profile)) => bail!(
            "{} has no keys in the section [{profile}]\nhint: target_options.profile names it",
            file.display()
        ),
        (found, _) => Ok(found),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The keys in a section of a credentials file.
fn parse(text: &str, profile: &str, file: &Path) -> Result<Option<Keys>> {
    let (mut access, mut secret, mut token, mut inside) = (None, None, None, false);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "aws_access_key_id" => access = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    let (Some(access), Some(secret)) = (access, secret) else { return Ok(None) };
    let token = token.map(Secret::new).transpose()?;
    let from = Origin::File(file.to_owned());
    Ok(Some(Keys { access, secret: Secret::new(secret)?, token, ends: None, from }))
}

/// What a role is given.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleKeys {
    access_key_id: String,
    secret_access_key: Secret,
    token: Secret,
    expiration: jiff::Timestamp,
}

/// The keys of the container's role, or of the machine's; None where there is none.
fn role() -> Result<Option<Keys>> {
    let agent = Agent::new_with_config(
        Agent::config_builder().proxy(None).timeout_global(Some(ROLE_ANSWER)).build(),
    );
    let text = match container_uri() {
        Some(uri) => Some(container(&agent, &uri)?),
        None => machine(&agent)?,
    };
    let Some(text) = text else { return Ok(None) };
    // Not the text: it holds a secret.
    let keys: RoleKeys = serde_json::from_str(&text)
        .map_err(|error| anyhow!("parsing the answer: line {}", error.line()))?;
    Ok(Some(Keys {
        access: keys.access_key_id,
        secret: keys.secret_access_key,
        token: Some(keys.token),
        ends: Some(keys.expiration),
        from: Origin::Role,
    }))
}

fn container_uri() -> Option<String> {
    variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        .map(|path| format!("{CONTAINER_ROLES}{path}"))
        .or_else(|| variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
}

fn container(agent: &Agent, uri: &str) -> Result<String> {
    let mut request = agent.get(uri);
    let file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    let token = file.and_then(|file| std::fs::read_to_string(file).ok());
    if let Some(token) = token.or_else(|| variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")) {
        request = request.header("Authorization", token.trim());
    }
    text(request.call()?)
}

/// By version 2 of the metadata service: a token first.
fn machine(agent: &Agent) -> Result<Option<String>> {
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let at = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(MACHINE_ROLES.into());
    let at = at.trim_end_matches('/');
    let asked = agent
        .put(format!("{at}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "60")
        .send_empty();
    let token = match asked {
        Ok(reply) => text(reply)?,
        Err(error) => {
            log::info!("this machine has no role at {at}: {error}");
            return Ok(None);
        }
    };
    let get = |path: &str| {
        let uri = format!("{at}/latest/meta-data/iam/security-credentials/{path}");
        let reply = agent.get(uri).header("X-aws-ec2-metadata-token", &token).call();
        match reply {
            Err(ureq::Error::StatusCode(404)) => Ok(None),
            other => text(other?).map(Some),
        }
    };
    let Some(roles) = get("")? else { return Ok(None) };
    match roles.lines().next().map(str::trim).filter(|role| !role.is_empty()) {
        Some(role) => get(role),
        None => Ok(None),
    }
}

fn text(mut reply: ureq::http::Response<ureq::Body>) -> Result<String> {
    let mut text = String::new();
    reply.body_mut().as_reader().take(1 << 20).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_has_sections() {
        // As `aws configure` writes it, with a session token as `aws sts` users add it.
        let text = "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = a/b+c==\n\n[backup]\naws_access_key_id=AKIABACKUP\naws_secret_access_key=sesame\naws_session_token = t\nregion = x\n[half]\naws_access_key_id = A\n";
        let file = Path::new("/root/.aws/credentials");
        let keys = |profile| parse(text, profile, file).unwrap();
        let default = keys("default").unwrap();
        assert_eq!(
            (default.access.as_str(), default.secret.expose_text()),
            ("AKIADEFAULT", "a/b+c==")
        );
        assert!(default.token.is_none());
        let backup = keys("backup").unwrap();
        assert_eq!((backup.access.as_str(), backup.secret.expose_text()), ("AKIABACKUP", "sesame"));
        assert_eq!(backup.token.as_ref().unwrap().expose_text(), "t");
        assert_eq!(backup.from.to_string(), "/root/.aws/credentials");
        assert!(!format!("{backup:?}").contains("sesame"));
        assert!(keys("half").is_none() && keys("none").is_none());
    }
}
