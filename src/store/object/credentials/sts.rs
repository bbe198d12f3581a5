//! The keys of a role, by those of somebody who may take it: AWS STS, and what speaks like it.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use ureq::http::Uri;

use super::super::s3;
use super::{Keys, Origin, PAUSE, TRIES, asking_by_tls, variable};
use crate::config::TargetOptions;
use crate::sys::secret::Secret;

const FORM: &str = "application/x-www-form-urlencoded";
/// All but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A role to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    pub arn: String,
    session: String,
    pub external_id: Option<String>,
    /// How long its keys are to live.
    pub seconds: Option<u32>,
}

impl Role {
    pub fn new(arn: String, session: Option<String>) -> Role {
        Role { arn, session: session.unwrap_or("rr".into()), external_id: None, seconds: None }
    }

    /// By the keys of somebody who may take it.
    pub fn assume(&self, by: &Keys, options: &TargetOptions) -> Result<Keys> {
        let taking = || format!("taking the role {} by the keys of {}", self.arn, by.from);
        let more = self.external_id.iter().map(|id| ("ExternalId", id.as_str()));
        let form = self.form("AssumeRole", more);
        self.ask(&form, Some(by), options).with_context(taking)
    }

    /// By the token in a file, which is renewed by somebody else.
    pub fn by_web_identity(&self, file: &Path, options: &TargetOptions) -> Result<Keys> {
        let token = std::fs::read_to_string(file).with_context(|| {
            format!("reading the token of the web identity in {}", file.display())
        })?;
        let form = self.form("AssumeRoleWithWebIdentity", [("WebIdentityToken", token.trim())]);
        let taking = || format!("taking the role {} by the token in {}", self.arn, file.display());
        self.ask(&form, None, options).with_context(taking)
    }

    fn form<'a>(&self, action: &str, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let mut form = format!("Action={action}&Version=2011-06-15");
        let mut add = |name: &str, value: &str| {
            form += &format!("&{name}={}", utf8_percent_encode(value, ESCAPED));
        };
        add("RoleArn", &self.arn);
        add("RoleSessionName", &self.session);
        if let Some(seconds) = self.seconds {
            add("DurationSeconds", &seconds.to_string());
        }
        more.into_iter().for_each(|(name, value)| add(name, value));
        form
    }

    fn ask(&self, form: &str, by: Option<&Keys>, options: &TargetOptions) -> Result<Keys> {
        let region = s3::resolved(options).region.unwrap_or_default();
        let at = variable("AWS_ENDPOINT_URL_STS").or_else(|| variable("AWS_ENDPOINT_URL"));
        let at = at.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
        let uri: Uri = at.parse().with_context(|| format!("the endpoint of STS {at:?}"))?;
        let host = uri.authority().with_context(|| format!("{at:?} names no server"))?.as_str();
        let agent = asking_by_tls(options, &at)?;
        let mut tries = 1;
        loop {
            let mut request = agent.post(&at).header("Content-Type", FORM);
            if let Some(keys) = by {
                let date = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
                let signed = authorization(keys, &region, host, &date, form);
                request = request.header("X-Amz-Date", date).header("Authorization", signed);
                if let Some(token) = &keys.token {
                    request = request.header("X-Amz-Security-Token", token.expose_text());
                }
            }
            let answered = request.send(form).map_err(anyhow::Error::from).and_then(|mut reply| {
                Ok((reply.status().as_u16(), reply.body_mut().read_to_string()?))
            });
            match answered {
                Ok((200, text)) => return self.keys_in(&text),
                Ok((status, text)) if status < 500 => bail!(refusal(status, &text)),
                _ if tries < TRIES => std::thread::sleep(PAUSE * tries),
                Ok((status, text)) => bail!(refusal(status, &text)),
                Err(error) => return Err(error).with_context(|| format!("asking {at}")),
            }
            tries += 1;
        }
    }

    fn keys_in(&self, text: &str) -> Result<Keys> {
        // Not the text: it holds a secret.
        let document = roxmltree::Document::parse(text.trim_start())
            .map_err(|_| anyhow!("the answer is no XML"))?;
        let field = |name: &str| {
            let mut nodes = document.descendants().filter(roxmltree::Node::is_element);
            let node = nodes.find(|node| node.tag_name().name() == name);
            let text = node.and_then(|node| node.text()).map(|text| text.trim().to_owned());
            text.with_context(|| format!("the answer has no {name}"))
        };
        Ok(Keys {
            access: field("AccessKeyId")?,
            secret: Secret::new(field("SecretAccessKey")?)?,
            token: Some(Secret::new(field("SessionToken")?)?),
            ends: Some(field("Expiration")?.parse().context("the end of the keys")?),
            from: Origin::Assumed(self.arn.clone()),
        })
    }
}

fn refusal(status: u16, text: &str) -> String {
    let (code, message) = s3::error_of(text).unwrap_or_default();
    format!(
        "status {status}: {code}: {message}\nhint: the role's trust policy must name who takes it; aws sts get-caller-identity says who that is"
    )
}

/// The header `Authorization` of a form that is posted to `/`: AWS Signature Version 4.
fn authorization(keys: &Keys, region: &str, host: &str, date: &str, form: &str) -> String {
    let mut headers = vec![("content-type", FORM), ("host", host), ("x-amz-date", date)];
    if let Some(token) = &keys.token {
        headers.push(("x-amz-security-token", token.expose_text()));
    }
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let request = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(&Sha256::digest(form)));
    let day = date.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{region}/sts/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let mut key = [b"AWS4", keys.secret.expose()].concat();
    for part in scope.split('/') {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &to_sign));
    let access = &keys.access;
    format!(
        "AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!());
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_as_botocore_signs_it() {
        // botocore 1.44.5, SigV4Auth of this very request at this time.
        let mut role = Role::new("arn:aws:iam::123456789012:role/backup".into(), None);
        (role.seconds, role.external_id) = (Some(3600), Some("a b".into()));
        let more = role.external_id.iter().map(|id| ("ExternalId", id.as_str()));
        let form = role.form("AssumeRole", more);
        let mut keys = Keys {
            access: "AKIDEXAMPLE".into(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY").unwrap(),
            token: None,
            ends: None,
            from: Origin::Config,
        };
        let sign = |keys: &Keys, host| {
            authorization(keys, "eu-central-1", host, "20261122T050000Z", &form)
        };
        let found = sign(&keys, "sts.eu-central-1.amazonaws.com");
        assert_eq!(
            found,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261122/eu-central-1/sts/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=b42ad3d2830623b1b6d6a4db77e03ec213b3a513dab501f5975be059db983612"
        );
        keys.token = Some(Secret::new("tok/en==").unwrap());
        let found = sign(&keys, "127.0.0.1:5000");
        assert!(found.ends_with("SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=0c7a3cda1a84cea1248750db564e3fe7ddc0bf97a55a9001adb8a8b846c3ab64"), "{found}");
    }

    #[test]
    fn a_refusal_says_why_and_what_helps() {
        // AWS STS.
        let text = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    <Type>Sender</Type>\n    <Code>AccessDenied</Code>\n    <Message>User: arn:aws:iam::123456789012:user/node001 is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/backup</Message>\n  </Error>\n  <RequestId>b1</RequestId>\n</ErrorResponse>";
        let said = refusal(403, text);
        assert!(said.contains("AccessDenied: User: arn") && said.contains("\nhint: "), "{said}");
    }
}
