//! S3, and whatever speaks like it: keys, signatures, lists, and what its errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rusty_s3::actions::{
    DeleteObject, GetObject, HeadObject, ListObjectsV2, ListObjectsV2Response, PutObject, S3Action,
};
use rusty_s3::{Bucket, Credentials, UrlStyle};

use super::super::name::OWNER;
use super::client::{Call, Client, Failed, Reply};
use super::credentials::{self, Provider};
use super::{Object, StoreError};
use crate::config::TargetOptions;

/// A signature is made for each try.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// Servers allow for clocks that differ by some 15 minutes. A refusal by one whose clock differs by
/// more than this may be for that.
const CLOCKS_DIFFER_SECONDS: u64 = 300;

#[derive(Debug)]
pub(super) struct S3 {
    bucket: Bucket,
    /// What comes before the names of objects, with a slash at its end.
    base: String,
    provider: Arc<Provider>,
    /// How much the server's clock is ahead of ours: in a rescue system ours may be years behind.
    ahead_seconds: AtomicI64,
}

/// What a target needs besides its URL, from the options, the environment and the profile. The rescue system
/// has another environment, so its image gets this.
pub fn resolved(options: &TargetOptions) -> TargetOptions {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let first = |names: [&str; 2]| names.iter().find_map(|name| variable(name));
    let given = options.endpoint.clone();
    let setting = |name| credentials::setting(options, name);
    let endpoint = given
        .or_else(|| first(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]))
        .or_else(|| setting("endpoint_url"));
    let region = options.region.clone();
    let region = region
        .or_else(|| first(["AWS_REGION", "AWS_DEFAULT_REGION"]))
        .or_else(|| setting("region"));
    let region = Some(region.unwrap_or_else(|| "us-east-1".to_owned()));
    let path_style = Some(options.path_style.unwrap_or(endpoint.is_some()));
    TargetOptions { endpoint, region, path_style, ..options.clone() }
}

/// Whether the connection is encrypted.
pub(super) fn is_tls(options: &TargetOptions) -> bool {
    resolved(options).endpoint.is_none_or(|endpoint| endpoint.starts_with("https://"))
}

impl S3 {
    pub fn new(
        bucket: &str,
        base: String,
        provider: Arc<Provider>,
        options: &TargetOptions,
    ) -> Result<S3> {
        let found = resolved(options);
        let region = found.region.unwrap_or_default();
        let endpoint =
            found.endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let style =
            if found.path_style == Some(true) { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let url = endpoint.parse().with_context(|| format!("the S3 endpoint {endpoint:?}"))?;
        let bucket = Bucket::new(url, style, bucket.to_owned(), region).with_context(|| {
            format!("the bucket {bucket} at {endpoint}\nhint: target_options.path_style = true")
        })?;
        Ok(S3 { bucket, base, provider, ahead_seconds: AtomicI64::new(0) })
    }

    /// A signed request about an object.
    pub fn call<'a>(
        &self,
        method: &'static str,
        name: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Call<'a>> {
        let key = format!("{}{name}", self.base);
        let credentials = self.credentials()?;
        let (bucket, some) = (&self.bucket, Some(&credentials));
        let uri = match method {
            "PUT" => self.sign(PutObject::new(bucket, some, &key), headers),
            "DELETE" => self.sign(DeleteObject::new(bucket, some, &key), headers),
            "HEAD" => self.sign(HeadObject::new(bucket, some, &key), headers),
            _ => self.sign(GetObject::new(bucket, some, &key), headers),
        };
        let mut call = Call::new(method, uri);
        for (name, value) in headers {
            call = call.header(name, *value);
        }
        Ok(call)
    }

    fn credentials(&self) -> Result<Credentials> {
        let keys = self.provider.keys(self.now())?;
        let (access, secret) = (keys.access.as_str(), keys.secret.expose_text());
        Ok(match &keys.token {
            Some(token) => Credentials::new_with_token(access, secret, token.expose_text()),
            None => Credentials::new(access, secret),
        })
    }

    fn sign<'a>(
        &self,
        mut action: impl S3Action<'a>,
        headers: &[(&'static str, &'a str)],
    ) -> String {
        for (name, value) in headers {
            action.headers_mut().insert(*name, *value);
        }
        action.sign_with_time(SIGNED_FOR, &self.now()).into()
    }

    /// By the server's clock, as far as it is known.
    fn now(&self) -> jiff::Timestamp {
        let ahead = jiff::SignedDuration::from_secs(self.ahead_seconds.load(Ordering::Relaxed));
        let now = jiff::Timestamp::now();
        now.checked_add(ahead).unwrap_or(now)
    }

    /// All objects below the base whose name starts with `prefix`.
    pub fn list(
        &self,
        client: &Client,
        prefix: &str,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<Vec<Object>, StoreError> {
        let mut found = Vec::new();
        self.pages(client, prefix, None, refusal, &mut |page| {
            for object in page.contents {
                let Some(name) = object.key.strip_prefix(&self.base) else { continue };
                let name = name.to_owned();
                let Some(size_bytes) = object.size else {
                    return Err(format!("its list does not say how big {name} is"));
                };
                found.push(Object { name, size_bytes });
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// The directories below the base that are nodes' trees, or may not be looked into.
    pub fn nodes(
        &self,
        client: &Client,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        self.pages(client, "", Some("/"), refusal, &mut |page| {
            let below =
                |key: &str| Some(key.strip_prefix(&self.base)?.trim_end_matches('/').to_owned());
            found.extend(page.common_prefixes.iter().filter_map(|common| below(&common.prefix)));
            Ok(true)
        })?;
        let mut nodes = Vec::new();
        for node in found {
            let mut has_some = false;
            for inside in ["generations/", OWNER] {
                let prefix = format!("{node}/{inside}");
                let looked = self.pages(client, &prefix, None, refusal, &mut |page| {
                    has_some |= !page.contents.is_empty();
                    Ok(false)
                });
                match looked {
                    Err(StoreError::Denied { .. }) => has_some = true,
                    other => other?,
                }
                if has_some {
                    nodes.push(node);
                    break;
                }
            }
        }
        Ok(nodes)
    }

    /// Calls `read` for each page of a list, until it says that it has enough.
    fn pages(
        &self,
        client: &Client,
        prefix: &str,
        delimiter: Option<&str>,
        refusal: &dyn Fn(&mut Reply) -> Failed,
        read: &mut dyn FnMut(ListObjectsV2Response) -> Result<bool, String>,
    ) -> Result<(), StoreError> {
        let fail = |detail: String| StoreError::Other { store: client.label().to_owned(), detail };
        let key = format!("{}{prefix}", self.base);
        let mut more: Option<String> = None;
        loop {
            let call = |_| {
                let credentials = self.credentials().map_err(|e| fail(format!("{e:#}")))?;
                let mut list = ListObjectsV2::new(&self.bucket, Some(&credentials));
                list.with_prefix(key.as_str());
                if let Some(delimiter) = delimiter {
                    list.with_delimiter(delimiter);
                }
                if let Some(token) = &more {
                    list.with_continuation_token(token.as_str());
                }
                Ok(Call::new("GET", self.sign(list, &[])))
            };
            let page = client.run(call, |mut reply, _| {
                if reply.status != 200 {
                    return Err(refusal(&mut reply));
                }
                let text = reply.text()?;
                ListObjectsV2::parse_response(&text)
                    .map_err(|error| fail(format!("its list can't be understood: {error}")).into())
            })?;
            more.clone_from(&page.next_continuation_token);
            if !read(page).map_err(fail)? || more.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether a rule of the bucket deletes older versions in time. One that can't be seen is none.
    pub fn ends_versions(&self, client: &Client) -> bool {
        let fail = |error: anyhow::Error| StoreError::Other {
            store: client.label().to_owned(),
            detail: format!("{error:#}"),
        };
        let call = |_| {
            let credentials = self.credentials().map_err(fail)?;
            let mut rules = GetObject::new(&self.bucket, Some(&credentials), "");
            rules.query_mut().insert("lifecycle", "");
            Ok(Call::new("GET", self.sign(rules, &[])))
        };
        let asked = client.run(call, |mut reply, _| {
            let text = reply.text()?;
            Ok((reply.status, text))
        });
        match asked {
            Ok((200, text)) => ends_versions(&text, &self.base),
            Ok((status, text)) => {
                log::info!("{}: its lifecycle rules: status {status}: {text}", client.label());
                false
            }
            Err(error) => {
                log::info!("asking for the lifecycle rules of the bucket: {error}");
                false
            }
        }
    }

    /// What an error of S3 means; None where its status says it all.
    pub fn explain(&self, store: &str, reply: &Reply, text: &str) -> Option<Failed> {
        // Of a URL that is signed for another time most say just AccessDenied, and to HEAD nothing.
        if reply.status == 403
            && let Some(failed) = self.take_clock(reply, CLOCKS_DIFFER_SECONDS)
        {
            return Some(failed);
        }
        let (code, message) = error_of(text)?;
        let store = store.to_owned();
        let from =
            self.provider.keys(self.now()).map(|keys| keys.from.to_string()).unwrap_or_default();
        let detail = |hint: &str| format!("{code}: {message}\nhint: {hint}");
        let for_good = |error| Some(Failed::ForGood(error));
        match code.as_str() {
            "NoSuchBucket" => for_good(StoreError::Other {
                store,
                detail: detail("create the bucket, or is its name wrong in the target's URL?"),
            }),
            "ExpiredToken" | "InvalidToken" if self.provider.has_others() => {
                Some(Failed::Again(format!("{code}: {message}")))
            }
            "InvalidAccessKeyId"
            | "NotSignedUp"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "ExpiredToken" => for_good(StoreError::Denied {
                store,
                detail: detail(&format!("the keys are those of {from}: are they right?")),
            }),
            "AccessDenied" | "AllAccessDisabled" => for_good(StoreError::Denied {
                store,
                detail: detail(&format!(
                    "the keys of {from} need s3:ListBucket, s3:GetObject and, but for reading, s3:PutObject and s3:DeleteObject"
                )),
            }),
            "RequestTimeTooSkewed" => Some(self.take_clock(reply, 60).unwrap_or_else(|| {
                Failed::ForGood(StoreError::Denied {
                    store,
                    detail: detail("set the clock of this machine"),
                })
            })),
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException" => for_good(StoreError::Other {
                store,
                detail: detail("target_options.region must be the bucket's"),
            }),
            "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
                for_good(StoreError::Full { store, detail: format!("{code}: {message}") })
            }
            "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "OperationAborted"
            | "ConditionalRequestConflict" => Some(Failed::Again(format!("{code}: {message}"))),
            // Servers have words of their own.
            _ if reply.status == 403 => for_good(StoreError::Denied {
                store,
                detail: detail(&format!("the keys are those of {from}: may they do that there?")),
            }),
            _ => None,
        }
    }

    /// Signs by the server's clock from now on. None where it said no time, or that by which we sign,
    /// but for less than `least_seconds`.
    fn take_clock(&self, reply: &Reply, least_seconds: u64) -> Option<Failed> {
        let date = reply.header("date")?;
        let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
        let ahead = theirs.duration_since(jiff::Timestamp::now()).as_secs();
        if self.ahead_seconds.load(Ordering::Relaxed).abs_diff(ahead) < least_seconds {
            return None;
        }
        self.ahead_seconds.store(ahead, Ordering::Relaxed);
        log::warn!("the server's clock is {ahead} s ahead of this machine's: going by that");
        // Not for ever: the clocks of several servers behind one name may differ.
        Some(Failed::Again("the clocks differ".to_owned()))
    }
}

/// Whether one of these lifecycle rules deletes older versions of all that is below `base`.
fn ends_versions(rules: &str, base: &str) -> bool {
    let Ok(document) = roxmltree::Document::parse(rules.trim_start()) else { return false };
    document.descendants().filter(|node| node.tag_name().name() == "Rule").any(|rule| {
        let all = |name: &'static str| {
            let found = rule.descendants().filter(move |node| node.tag_name().name() == name);
            found.map(|node| node.text().unwrap_or_default().trim().to_owned())
        };
        all("Status").any(|status| status == "Enabled")
            && all("NoncurrentVersionExpiration").next().is_some()
            && all("Prefix").all(|prefix| base.starts_with(&prefix))
            // Only of some objects.
            && ["Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"]
                .into_iter()
                .all(|filter| all(filter).next().is_none())
    })
}

/// Code and message of an error.
pub(super) fn error_of(text: &str) -> Option<(String, String)> {
    let document = roxmltree::Document::parse(text.trim_start()).ok()?;
    let field = |name: &str| {
        let node = document.descendants().find(|node| node.has_tag_name(name))?;
        Some(node.text().unwrap_or_default().trim().to_owned())
    };
    Some((field("Code")?, field("Message").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_code_and_a_message() {
        // Amazon S3; the host id is left out.
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>";
        let found = error_of(text).unwrap();
        assert_eq!(found, ("SlowDown".into(), "Please reduce your request rate.".into()));
        assert_eq!(error_of("<html><body>502</body>"), None);
        assert_eq!(error_of(""), None);
    }

    #[test]
    fn a_rule_counts_where_it_is_for_all_that_rr_stores() {
        let rule = |filter: &str, status: &str| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Rule><ID>other</ID><Filter><Prefix></Prefix></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration></Rule><Rule><ID>a</ID>{filter}<Status>{status}</Status><NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>"
            )
        };
        for all in ["<Filter/>", "<Prefix/>", "<Filter><Prefix>site/</Prefix></Filter>"] {
            assert!(ends_versions(&rule(all, "Enabled"), "site/node001/"), "{all}");
            assert!(!ends_versions(&rule(all, "Disabled"), "site/node001/"), "{all}");
        }
        for some in [
            "<Filter><Prefix>logs/</Prefix></Filter>",
            "<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>",
            "<Filter><And><Prefix></Prefix><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></And></Filter>",
        ] {
            assert!(!ends_versions(&rule(some, "Enabled"), "site/node001/"), "{some}");
        }
        for none in ["", "<LifecycleConfiguration/>", "<html>"] {
            assert!(!ends_versions(none, "site/node001/"), "{none}");
        }
    }
}
