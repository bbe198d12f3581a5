//! The keys that a machine or a container is given for its role, and those that a program tells.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use ureq::typestate::WithoutBody;
use ureq::{Agent, RequestBuilder};

use super::{Keys, Origin, PAUSE, TRIES, asking, profile, variable};
use crate::sys::run::Cmd;
use crate::sys::secret::Secret;
use crate::sys::tools::PATH;

/// Nobody is there on most networks.
const ROLE_ANSWER: Duration = Duration::from_secs(2);
/// A program may ask somebody far away.
const PROGRAM_ANSWER: Duration = Duration::from_secs(60);
/// What a shell ends with where there is no such program.
const NOT_FOUND: i32 = 127;
const MACHINE_ROLES: &str = "http://169.254.169.254";
const CONTAINER_ROLES: &str = "http://169.254.170.2";

/// What a role is given, and a program says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    access_key_id: String,
    secret_access_key: Secret,
    #[serde(alias = "SessionToken")]
    token: Option<Secret>,
    expiration: Option<jiff::Timestamp>,
}

impl Given {
    fn keys(text: &[u8], from: Origin) -> Result<Keys> {
        // Not the text: it holds a secret.
        let given: Given = serde_json::from_slice(text)
            .map_err(|error| anyhow!("parsing the answer: line {}", error.line()))?;
        let (access, secret) = (given.access_key_id, given.secret_access_key);
        Ok(Keys { access, secret, token: given.token, ends: given.expiration, from })
    }
}

/// What a command of `credential_process` says. It goes to the shell by its standard input: it may
/// hold secrets, and then is in no list of processes. As with AWS's own tools it has the environment
/// of who calls: what it asks is in there (`AWS_*`, `VAULT_*` and others that can't be known).
pub(super) fn said_by(command: &str, profile: &str) -> Result<Keys> {
    let shell = Cmd::new("sh").arg("-s").inherit_env().env("HOME", profile::home());
    let output = shell.stdin(command).timeout(PROGRAM_ANSWER).output()?;
    let hint = if output.code() == Some(NOT_FOUND) {
        format!(
            "\nhint: it, or a program that it calls, is not found: they are looked for in {PATH} only, name one that is elsewhere by its absolute path"
        )
    } else {
        String::new()
    };
    ensure!(
        output.success(),
        "it failed ({}): {}{hint}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Given::keys(&output.stdout, Origin::Program(profile.to_owned()))
}

fn agent() -> Agent {
    // No proxy knows the role of who asks it.
    Agent::new_with_config(asking(ROLE_ANSWER).proxy(None).build())
}

pub(super) fn container_uri() -> Option<String> {
    variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        .map(|path| format!("{CONTAINER_ROLES}{path}"))
        .or_else(|| variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"))
}

pub(super) fn of_container() -> Result<Keys> {
    let uri =
        container_uri().context("the environment has no AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
    let file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    let token = file
        .map(|file| {
            std::fs::read_to_string(&file)
                .with_context(|| format!("reading {file} (AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)"))
        })
        .transpose()?;
    let token = token.or_else(|| variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
    let agent = agent();
    let (status, text) = ask(|| match &token {
        Some(token) => agent.get(&uri).header("Authorization", token.trim()),
        None => agent.get(&uri),
    })?;
    ensure!(status == 200, "{uri} says {status}");
    Given::keys(&text, Origin::Role)
}

/// By version 2 of the metadata service: a token first. None: it has no role.
pub(super) fn of_machine() -> Result<Option<Keys>> {
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let agent = agent();
    let at = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(MACHINE_ROLES.into());
    let at = at.trim_end_matches('/');
    let asked = agent
        .put(format!("{at}/latest/api/token"))
        .header("X-aws-ec2-metadata-token-ttl-seconds", "60")
        .send_empty();
    let token = match asked.map(answer) {
        Ok(Ok((200, token))) => token,
        Ok(Ok((status, _))) => {
            log::info!("this machine has no role at {at}: status {status}");
            return Ok(None);
        }
        Ok(Err(error)) => return Err(error),
        Err(error) => {
            log::info!("this machine has no role at {at}: {error}");
            return Ok(None);
        }
    };
    let get = |path: &str| {
        let uri = format!("{at}/latest/meta-data/iam/security-credentials/{path}");
        match ask(|| agent.get(&uri).header("X-aws-ec2-metadata-token", &token[..]))? {
            (200, text) => Ok(Some(text)),
            (404, _) => Ok(None),
            (status, _) => bail!("{uri} says {status}"),
        }
    };
    let Some(roles) = get("")? else { return Ok(None) };
    let roles = String::from_utf8_lossy(&roles).into_owned();
    match roles.lines().next().map(str::trim).filter(|role| !role.is_empty()) {
        Some(role) => get(role)?.map(|text| Given::keys(&text, Origin::Role)).transpose(),
        None => Ok(None),
    }
}

/// Asks a service that is known to be there; where it breaks off, again.
fn ask(request: impl Fn() -> RequestBuilder<WithoutBody>) -> Result<(u16, Vec<u8>)> {
    let mut tries = 1;
    loop {
        match request().call().map_err(anyhow::Error::from).and_then(answer) {
            Err(error) if tries < TRIES => log::info!("asking for the role's keys: {error:#}"),
            answered => return answered,
        }
        std::thread::sleep(PAUSE * tries);
        tries += 1;
    }
}

fn answer(mut reply: ureq::http::Response<ureq::Body>) -> Result<(u16, Vec<u8>)> {
    let mut bytes = Vec::new();
    reply.body_mut().as_reader().take(1 << 20).read_to_end(&mut bytes)?;
    Ok((reply.status().as_u16(), bytes))
}
