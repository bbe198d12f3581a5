//! The keys for S3. From the first of these that has some:
//!
//! * `target_options.login`;
//! * the profile that `target_options.profile` names;
//! * the environment: keys, or a role and the token of a web identity;
//! * the profile `AWS_PROFILE`, or `default`;
//! * the role of the container, the role of the machine.
//!
//! Those of a role end some day, and are asked for again before; also when the server says that they
//! have ended.
//!
//! * [`profile`] `~/.aws/credentials` and `~/.aws/config`; [`sts`] the keys of another role;
//!   [`role`] what a machine or a container is given, and what a program says

mod profile;
mod role;
mod sts;

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use super::tls;
use crate::config::TargetOptions;
use crate::sys::secret::Secret;
use crate::sys::sync::lock;
pub(super) use profile::setting;

/// Keys that end within this are not used for another request.
const LEAST_LEFT: Duration = Duration::from_secs(300);
/// Where renewing fails, or gives keys that end as soon: while they last, it is tried again after this.
const RENEW_PAUSE: Duration = Duration::from_secs(30);
/// For one answer about keys.
const ANSWER: Duration = Duration::from_secs(10);
/// How often who gives keys is asked, after pauses that get longer.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: Secret,
    pub token: Option<Secret>,
    ends: Option<jiff::Timestamp>,
    pub from: Origin,
}

impl Keys {
    /// Whether a server can't tell them apart.
    fn is(&self, other: &Keys) -> bool {
        let token = |keys: &Keys| keys.token.as_ref().map(|token| token.expose().to_vec());
        self.access == other.access
            && self.secret.expose() == other.secret.expose()
            && token(self) == token(other)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Config,
    Environment,
    File(PathBuf),
    /// What `credential_process` of this profile names.
    Program(String),
    /// Of this name, by the keys of another.
    Assumed(String),
    Role,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Config => f.write_str("target_options.login"),
            Origin::Environment => f.write_str("the environment (AWS_ACCESS_KEY_ID)"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Program(profile) => write!(f, "credential_process of the profile {profile}"),
            Origin::Assumed(arn) => write!(f, "the role {arn}"),
            Origin::Role => f.write_str("this machine's role"),
        }
    }
}

/// Where keys are to be had. Nobody was asked for them yet.
#[derive(Debug, Clone)]
enum Source {
    Keys(Keys),
    /// A shell command, as `credential_process` of a profile has it.
    Program {
        command: String,
        profile: String,
    },
    Assumed(Box<Source>, sts::Role),
    /// With the file that holds the token.
    WebIdentity(PathBuf, sts::Role),
    Container,
    Machine,
}

impl Source {
    /// # Errors
    /// The settings name something that is not there or is not supported.
    fn find(options: &TargetOptions) -> Result<Source> {
        let login = &options.login;
        if let (Some(access), Some(secret)) = (&login.access_key, &login.secret_key) {
            let (access, secret, from) = (access.clone(), secret.clone(), Origin::Config);
            return Ok(Source::Keys(Keys { access, secret, token: None, ends: None, from }));
        }
        if let Some(named) = &options.profile {
            return profile::source(named, "target_options.profile");
        }
        if let Some(keys) = of_environment()? {
            return Ok(Source::Keys(keys));
        }
        if let (Some(file), Some(arn)) =
            (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN"))
        {
            let session = variable("AWS_ROLE_SESSION_NAME");
            return Ok(Source::WebIdentity(file.into(), sts::Role::new(arn, session)));
        }
        // What the environment names may be for other programs, and have only a region.
        if let Some(source) = profile::source_if_any()? {
            return Ok(source);
        }
        Ok(if role::container_uri().is_some() { Source::Container } else { Source::Machine })
    }

    /// None where a machine has no role.
    fn fetch(&self, options: &TargetOptions) -> Result<Option<Keys>> {
        Ok(Some(match self {
            Source::Keys(keys) => keys.clone(),
            Source::Program { command, profile } => {
                role::said_by(command, profile).with_context(|| {
                    format!("asking credential_process of the profile {profile} for keys")
                })?
            }
            Source::Assumed(base, role) => {
                let keys = base.fetch(options)?.with_context(no_keys)?;
                role.assume(&keys, options)?
            }
            Source::WebIdentity(token_file, role) => role.by_web_identity(token_file, options)?,
            Source::Container => role::of_container().context("asking for the container's role")?,
            Source::Machine => {
                return role::of_machine().context("asking for this machine's role");
            }
        }))
    }
}

/// Keys that are renewed when they end.
#[derive(Debug)]
pub(super) struct Provider {
    options: TargetOptions,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    keys: Keys,
    /// When they were last renewed, or that was tried.
    tried: Option<Instant>,
    /// When these took the place of others.
    changed: Option<Instant>,
}

impl Provider {
    pub fn new(options: &TargetOptions) -> Result<Provider> {
        let keys = Source::find(options)?.fetch(options)?.with_context(no_keys)?;
        log::info!("the keys for S3 are those of {}", keys.from);
        let current = Mutex::new(Current { keys, tried: None, changed: None });
        Ok(Provider { options: options.clone(), current })
    }

    /// The keys for a request at `now`: by the server's clock, which says when they end.
    pub fn keys(&self, now: jiff::Timestamp) -> Result<Keys> {
        let mut current = lock(&self.current);
        let left = current.keys.ends.map(|ends| ends.duration_since(now));
        let least = jiff::SignedDuration::try_from(LEAST_LEFT).unwrap_or_default();
        let ended = left.is_some_and(|left| !left.is_positive());
        if left.is_some_and(|left| left < least)
            && (ended || current.tried.is_none_or(|at| at.elapsed() > RENEW_PAUSE))
        {
            current.tried = Some(Instant::now());
            match self.fetch() {
                Ok(fresh) => current.take(fresh),
                // They may still do for what is left to be done.
                Err(error) if left.is_some_and(|left| left.is_positive()) => {
                    log::warn!("renewing the keys of {}: {error:#}", current.keys.from);
                }
                Err(error) => return Err(error).context("renewing the keys for S3"),
            }
        }
        Ok(current.keys.clone())
    }

    /// The server says that the keys have ended. Whether there are others now.
    pub fn has_others(&self) -> bool {
        let mut current = lock(&self.current);
        // The request may have been on its way with the ones before.
        if current.changed.is_some_and(|at| at.elapsed() < RENEW_PAUSE) {
            return true;
        }
        match self.fetch() {
            Ok(fresh) if !fresh.is(&current.keys) => {
                current.take(fresh);
                true
            }
            Ok(_) => false,
            Err(error) => {
                log::warn!("renewing the keys of {}: {error:#}", current.keys.from);
                false
            }
        }
    }

    fn fetch(&self) -> Result<Keys> {
        let fresh = Source::find(&self.options)?.fetch(&self.options)?;
        fresh.context("there are none any more")
    }
}

impl Current {
    fn take(&mut self, fresh: Keys) {
        if !fresh.is(&self.keys) {
            self.changed = Some(Instant::now());
        }
        self.keys = fresh;
    }
}

fn no_keys() -> anyhow::Error {
    let why = profile::why_none().map(|why| format!(": {why}")).unwrap_or_default();
    anyhow!(
        "there are no keys for S3{why}\nhint: access_key and secret_key in [target_options.login], AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials"
    )
}

/// Whether this node has keys that another machine would not have: all but those of a machine's role.
pub fn are_given(options: &TargetOptions) -> Result<bool> {
    Ok(!matches!(Source::find(options)?, Source::Machine))
}

fn of_environment() -> Result<Option<Keys>> {
    let (Some(access), Some(secret)) =
        (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
    else {
        return Ok(None);
    };
    let token = variable("AWS_SESSION_TOKEN").map(Secret::new).transpose()?;
    let (secret, from) = (Secret::new(secret)?, Origin::Environment);
    Ok(Some(Keys { access, secret, token, ends: None, from }))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// For who is asked for keys; what it refuses is read as well. Nothing is kept open: it is asked
/// once an hour.
fn asking(timeout: Duration) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_idle_connections(0)
}

fn asking_by_tls(options: &TargetOptions, uri: &str) -> Result<Agent> {
    let mut config = asking(ANSWER);
    if uri.starts_with("https://") {
        // The client certificate is for the store only.
        let options = TargetOptions { login: crate::config::Login::default(), ..options.clone() };
        config = config.tls_config(tls::config(&options)?);
    }
    Ok(Agent::new_with_config(config.build()))
}
