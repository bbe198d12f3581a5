//! Requests, and their repetition.
//!
//! A request that got no answer, or one that says "later" (429, 500, 502, 503, 504), is made again
//! after a pause that doubles, until nothing has come of it for `target_options.patience_seconds`. A
//! server that says when to come again (`Retry-After`) is not asked before, as far as that is soon.
//! A pack of a slow server that comes bit by bit is not given up: what counts is that something
//! comes.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use ureq::config::Config;
use ureq::http::{Request, Uri, header};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, AsSendBody, SendBody};

use super::tls;
use super::{Pieces, StoreError};
use crate::config::TargetOptions;
use crate::sys::names;

const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for so long is dead.
const LONGEST_STALL: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A server may ask for hours; what it asks for beyond this is not waited for.
const LONGEST_ASKED: Duration = Duration::from_secs(30);
/// After this the admin is told why nothing happens.
const NOTICE: Duration = Duration::from_secs(30);
/// A server that is not there when a run starts is told at once, as nearly.
const OPENING: Duration = Duration::from_secs(10);
/// Bodies from this size on are sent when the server has agreed: it may refuse them for their size,
/// or ask who we are, while we send.
const ASK_BEFORE_BYTES: u64 = 1 << 20;
/// What servers say in words.
const TEXT_LIMIT_BYTES: u64 = 64 << 20;

/// What is said of an answer to a TLS handshake that is none: rustls's words, and those of a
/// connection that was closed upon it.
const NOT_TLS: [&str; 2] = ["InvalidContentType", "unexpected end of file"];
const NO_TLS: &str = "that was no TLS";

#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    None,
    Bytes(&'a [u8]),
    Pieces(&'a Pieces),
    File(&'a Path),
}

/// What is asked of the server.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub method: &'static str,
    pub uri: String,
    pub headers: Vec<(&'static str, String)>,
    pub content: Content<'a>,
}

impl<'a> Call<'a> {
    pub fn new(method: &'static str, uri: String) -> Call<'a> {
        Call { method, uri, headers: Vec::new(), content: Content::None }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Call<'a> {
        self.headers.push((name, value.into()));
        self
    }

    pub fn content(mut self, content: Content<'a>) -> Call<'a> {
        self.content = content;
        self
    }
}

/// What the server said.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    headers: ureq::http::HeaderMap,
    body: ureq::Body,
}

/// Why a try came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// Worth another try.
    Again(String),
    /// The same, not before this time has passed.
    Later(String, Duration),
    /// The same, and something came of this one.
    GoOn(String),
    ForGood(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::ForGood(error)
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the server wants to be left alone (RFC 9110, 10.2.3). Dates, which few give, say
    /// nothing: its clock may be another.
    pub fn asks_for_pause(&self) -> Option<Duration> {
        let seconds = matches!(self.status, 429 | 503).then(|| self.header("retry-after"))??;
        Some(Duration::from_secs(seconds.trim().parse().ok()?).min(LONGEST_ASKED))
    }

    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// Whether the end of the body can be told from a connection that broke.
    pub fn says_its_end(&self) -> bool {
        self.length().is_some()
            || self.header("transfer-encoding").is_some_and(|v| v.contains("chunked"))
    }

    pub fn reader(&mut self) -> impl Read + '_ {
        self.body.as_reader()
    }

    /// The whole body, as words.
    pub fn text(&mut self) -> Result<String, Failed> {
        let mut bytes = Vec::new();
        let read = self.body.as_reader().take(TEXT_LIMIT_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| Failed::Again(format!("its answer broke off: {error}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    patience: Duration,
    later: Duration,
    /// For people: the URL of the tree.
    label: String,
    /// It has answered, so it speaks as it should.
    answered: AtomicBool,
}

impl Client {
    pub fn new(label: String, options: &TargetOptions, tls: bool) -> Result<Client> {
        let patience = Duration::from_secs(options.patience_seconds);
        let stall = Some((patience / 3).clamp(Duration::from_secs(1), LONGEST_STALL));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("rr/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT.min(patience)))
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .max_idle_connections(32)
            .max_idle_connections_per_host(32);
        if tls {
            config = config.tls_config(tls::config(options)?);
        }
        let agent = Agent::with_parts(config.build(), DefaultConnector::default(), Names);
        let (answered, later) = (AtomicBool::new(false), patience);
        Ok(Client { agent, patience: patience.min(OPENING), later, label, answered })
    }

    /// What an object is waited for once the server has been opened.
    pub fn whole_patience(&self) -> Duration {
        self.later
    }

    /// The store is open: from now on there is work to lose, and a server is waited for.
    pub fn be_patient(&mut self) {
        self.patience = self.later;
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// Makes the request that `call` gives, and gives what `read` makes of the answer. Both are told
    /// which try it is, from 0.
    pub fn run<'c, T>(
        &self,
        call: impl Fn(u32) -> Result<Call<'c>, StoreError>,
        mut read: impl FnMut(Reply, u32) -> Result<T, Failed>,
    ) -> Result<T, StoreError> {
        // The first failure: what was sent until then may have taken long, and that is no waiting.
        let mut failing = None;
        let (mut pause, mut told) = (FIRST_PAUSE, false);
        for attempt in 0.. {
            let call = call(attempt)?;
            let failed = match self.ask(&call).and_then(|reply| read(reply, attempt)) {
                Ok(done) => {
                    if told {
                        log::warn!("{} answers again", self.label);
                    }
                    return Ok(done);
                }
                Err(failed) => failed,
            };
            let mut asked = Duration::ZERO;
            let why = match failed {
                Failed::ForGood(error) => return Err(error),
                Failed::GoOn(why) => {
                    (failing, pause) = (None, FIRST_PAUSE);
                    why
                }
                Failed::Again(why) => why,
                Failed::Later(why, later) => {
                    asked = later;
                    why
                }
            };
            let why = format!("{why}{}", self.by_proxy(&call.uri));
            log::info!("{}: {why}: trying again", self.label);
            let since = failing.get_or_insert_with(Instant::now);
            if since.elapsed() + pause >= self.patience {
                return Err(self.given_up(&why, since.elapsed()));
            }
            if since.elapsed() > NOTICE && !told {
                told = true;
                let left = (self.patience.saturating_sub(since.elapsed())).as_secs();
                log::warn!("{}: {why}: trying for up to {left} s more", self.label);
            }
            // Not given up for what it asks for: it may be back before.
            if since.elapsed() + asked + pause >= self.patience {
                asked = Duration::ZERO;
            }
            std::thread::sleep(asked + jittered(pause));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let waited = failing.map_or(Duration::ZERO, |since| since.elapsed());
        Err(self.given_up("it was asked too often", waited))
    }

    /// By which proxy a request goes, where it does: what is wrong may be wrong there.
    fn by_proxy(&self, uri: &str) -> String {
        let proxy = self.agent.config().proxy();
        let uri = uri.parse().ok();
        match proxy.filter(|proxy| !uri.is_some_and(|uri: Uri| proxy.is_no_proxy(&uri))) {
            // Not its URI, which may hold a password.
            Some(proxy) => format!(" (by the proxy {}:{})", proxy.host(), proxy.port()),
            None => String::new(),
        }
    }

    fn given_up(&self, why: &str, waited: Duration) -> StoreError {
        let hint = if why.contains(NO_TLS) {
            "does it speak TLS on that port? http:// is for one that does not."
        } else {
            "is the server up, is its name right?"
        };
        let detail = format!(
            "{why}; given up after {} s\nhint: {hint} target_options.patience_seconds says how long it is waited for",
            waited.as_secs()
        );
        StoreError::Transient { store: self.label.clone(), detail }
    }

    fn ask(&self, call: &Call<'_>) -> Result<Reply, Failed> {
        let other = |detail: String| StoreError::Other { store: self.label.clone(), detail };
        let mut request = Request::builder().method(call.method).uri(&call.uri);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let length = match call.content {
            Content::None => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Pieces(pieces) => pieces.size_bytes(),
            Content::File(path) => path
                .metadata()
                .map_err(|error| other(format!("looking at {}: {error}", path.display())))?
                .len(),
        };
        if matches!(call.method, "GET" | "HEAD" | "PROPFIND") {
            // A cache in between must ask the server (RFC 9111, 5.2.1.4): an older list or
            // latest.json makes generations vanish.
            request = request.header(header::CACHE_CONTROL, "no-cache");
        }
        if !matches!(call.content, Content::None) {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        if length >= ASK_BEFORE_BYTES {
            request = request.header(header::EXPECT, "100-continue");
        }
        match call.content {
            Content::None => self.send(request, ()),
            Content::Bytes(bytes) => self.send(request, bytes),
            Content::Pieces(pieces) => {
                self.send(request, SendBody::from_reader(&mut pieces.reader()))
            }
            Content::File(path) => {
                let mut file = File::open(path)
                    .map_err(|error| other(format!("opening {}: {error}", path.display())))?;
                self.send(request, SendBody::from_reader(&mut file))
            }
        }
    }

    fn send(
        &self,
        request: ureq::http::request::Builder,
        body: impl AsSendBody,
    ) -> Result<Reply, Failed> {
        let request = request.body(body).map_err(|error| StoreError::Other {
            store: self.label.clone(),
            detail: format!("making a request: {error}"),
        })?;
        let is_tls = request.uri().scheme_str() == Some("https");
        let reply = self.agent.run(request).map_err(|error| self.unanswered(&error, is_tls))?;
        self.answered.store(true, Ordering::Relaxed);
        let (parts, body) = reply.into_parts();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn unanswered(&self, error: &ureq::Error, is_tls: bool) -> Failed {
        let text = error.to_string();
        let said = text.split_once("invalid peer certificate: ").map(|(_, said)| said);
        let Some(said) = said else {
            return Failed::Again(match error {
                ureq::Error::HostNotFound => "its name can't be resolved".to_owned(),
                _ if is_tls
                    && !self.answered.load(Ordering::Relaxed)
                    && NOT_TLS.iter().any(|words| text.contains(words)) =>
                {
                    format!("{}: {NO_TLS}", text.trim_start_matches("io: "))
                }
                _ => text.trim_start_matches("io: ").to_owned(),
            });
        };
        let lower = said.to_lowercase().replace(' ', "");
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let hint = if has(&["unknownissuer", "causedasendentity"]) {
            "name the file of the authority that signed it: target_options.ca_file"
        } else if has(&["expired", "notvalidyet"]) {
            "renew it on the server; or is the clock of this machine wrong?"
        } else if has(&["notvalidforname"]) {
            "use the name in the target's URL that the certificate is made out to"
        } else {
            "openssl s_client -connect HOST:443 shows what the server presents"
        };
        Failed::ForGood(StoreError::Certificate {
            store: self.label.clone(),
            detail: format!("the server's certificate is not valid: {said}\nhint: {hint}"),
        })
    }
}

/// Between a half and the whole of it, so that 254 nodes don't knock at the same moment.
fn jittered(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause / 2 + pause * random / 512
}

/// Looks names up as the system does; see [`names`].
#[derive(Debug)]
struct Names;

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let found = match names::addresses(host) {
            Ok(Some(found)) => found,
            Ok(None) => return DefaultResolver::default().resolve(uri, config, timeout),
            Err(error) => {
                log::info!("looking up {host}: {error:#}");
                Vec::new()
            }
        };
        if found.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut addresses = self.empty();
        for address in found.into_iter().take(16) {
            addresses.push(SocketAddr::new(address, port));
        }
        Ok(addresses)
    }
}
