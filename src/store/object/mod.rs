//! Objects on a server: S3, WebDAV, and plain HTTP.
//!
//! A PUT is whole or not at all on all of them, so objects go straight to their names. What a
//! server can is tried out when it is opened for writing:
//!
//! * How it puts an object only where none is, see [`Claim`]: by `If-None-Match: *`, as S3, Minio and
//!   Apache do, or by a MOVE that replaces nothing, as nginx with WebDAV does. Where it can do
//!   neither, [`Store::put_new`] looks before it puts. Of these only S3 looks and takes in one step.
//!   With the others [`Store::claim`] waits then, and looks whether the object is still the one: of
//!   two who do so at once, the one whose bytes stay has it. That is as good as the server's answers
//!   are quick; that a lock stays its owner's is looked at again before anything is published or
//!   deleted (see [`super::lock`]).
//! * Whether it can list. Where it can't: see [`plain`].
//!
//! * [`opening`] what a server is, and what it can
//! * [`client`] requests and their repetition, [`refusal`] what other answers mean, [`ranges`] objects
//!   and parts of them, [`tls`] who is trusted
//! * [`s3`] and [`credentials`], [`dav`] and [`plain`] what is special to the kinds of server

mod client;
pub mod credentials;
mod dav;
mod opening;
mod plain;
mod ranges;
mod refusal;
pub mod s3;
pub mod tls;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::name::{Tag, is_name, is_part_of_name};
use super::{Access, Object, PIECE_BYTES, Pieces, Store, StoreError, room};
use crate::config::{TargetOptions, TargetUrl};
use client::{Call, Client, Content, Failed, Reply};
use credentials::Provider;
use dav::Dav;
use plain::Known;
use s3::S3;

/// How an object is put only where none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The server does it: `If-None-Match: *` (RFC 9110, 13.1.2). Apache looks, and then takes the
    /// body.
    Conditional,
    /// `Overwrite: F` (RFC 4918, 9.9.3). nginx looks, and then renames.
    Move,
    /// We look, and then put.
    Look,
}

/// How long a server takes from looking to replacing.
const SERVER_SETTLES: Duration = Duration::from_millis(250);
/// How long another machine may take from looking to putting.
const OTHERS_SETTLE: Duration = Duration::from_secs(2);

/// One node's tree on a server.
#[derive(Debug)]
pub struct ObjectStore {
    client: Client,
    server: Server,
    claim: Claim,
    tag: Tag,
    /// Whether the server says how much room is left.
    tells_room: bool,
    /// Whether it keeps what is deleted, as an older version, and no rule that is known ends that.
    keeps_versions: bool,
}

#[derive(Debug)]
enum Server {
    S3(Box<S3>),
    /// With what is known to be there, where it can't list it: where it has no WebDAV.
    Http(Box<Dav>, Option<Mutex<Known>>),
}

/// Whether requests to the target are encrypted, and so need the system's certificates.
pub fn is_tls(url: &TargetUrl, options: &TargetOptions) -> bool {
    match url {
        TargetUrl::Http { tls, .. } => *tls,
        TargetUrl::S3 { .. } => s3::is_tls(options),
        _ => false,
    }
}

/// What a rescue system reaches the target with. It has another environment than the node.
pub fn for_rescue(url: &TargetUrl, options: &TargetOptions) -> TargetOptions {
    match url {
        TargetUrl::S3 { .. } => s3::resolved(options).for_rescue(),
        _ => options.for_rescue(),
    }
}

/// Whether the target wants a login that a rescue image will not have.
pub fn asks_login(url: &TargetUrl, options: &TargetOptions) -> Result<bool> {
    let read = &options.read_login;
    Ok(match url {
        TargetUrl::S3 { .. } => read.access_key.is_none() && credentials::are_given(options)?,
        TargetUrl::Http { .. } => read.user.is_none() && options.login.user.is_some(),
        _ => false,
    })
}

/// The trees of all nodes that have a generation, for reading, and of those that may not be looked into.
pub fn open_all(
    url: &TargetUrl,
    options: &TargetOptions,
) -> Result<Vec<(String, Result<ObjectStore>)>> {
    let way = Way::to(url, options)?;
    let whole = way.tree("")?;
    let refusal = |reply: &mut Reply| whole.refusal(reply, "");
    let mut nodes = match &whole.server {
        Server::S3(s3) => s3.nodes(&whole.client, &refusal)?,
        Server::Http(dav, _) => {
            ensure!(
                dav.is_dav(&whole.client, false, &refusal)?,
                "{url} has no WebDAV, and without it a web server can't be asked for its nodes\nhint: rr --node NAME list shows one of them"
            );
            dav.nodes(&whole.client, &refusal)?
        }
    };
    nodes.retain(|node| is_part_of_name(node));
    nodes.sort();
    let open = |node: String| {
        let store = way.tree(&node).and_then(|mut store| {
            store.find_out(Access::Read).with_context(|| format!("opening the tree of {node}"))?;
            Ok(store)
        });
        (node, store)
    };
    Ok(nodes.into_iter().map(open).collect())
}

/// How a target is reached, for one tree or for all.
struct Way<'a> {
    url: &'a TargetUrl,
    options: &'a TargetOptions,
    /// For S3.
    keys: Option<Arc<Provider>>,
}

impl Way<'_> {
    fn to<'a>(url: &'a TargetUrl, options: &'a TargetOptions) -> Result<Way<'a>> {
        let s3 = matches!(url, TargetUrl::S3 { .. });
        let keys = s3.then(|| Provider::new(options)).transpose()?.map(Arc::new);
        Ok(Way { url, options, keys })
    }

    /// The tree of a node; that of no name is what all are in.
    fn tree(&self, node: &str) -> Result<ObjectStore> {
        let Way { url, options, keys } = self;
        let label = format!("{url}/{node}").trim_end_matches('/').to_owned();
        let client = Client::new(label, options, is_tls(url, options))?;
        let server = match (url, keys) {
            (TargetUrl::S3 { bucket, prefix }, Some(keys)) => {
                let base = [prefix.as_str(), node].join("/");
                let base = base.trim_matches('/');
                let base = if base.is_empty() { String::new() } else { format!("{base}/") };
                Server::S3(Box::new(S3::new(bucket, base, Arc::clone(keys), options)?))
            }
            _ => Server::Http(Box::new(Dav::new(url.to_string(), node, &options.login)), None),
        };
        let (claim, tag) = (Claim::Look, Tag::own());
        Ok(ObjectStore { client, server, claim, tag, tells_room: false, keeps_versions: false })
    }
}

impl ObjectStore {
    /// Opens the tree of `node`. For writing, a small object is put and deleted again.
    pub fn open(
        url: &TargetUrl,
        node: &str,
        access: Access,
        options: &TargetOptions,
    ) -> Result<ObjectStore> {
        ensure!(
            is_part_of_name(node),
            "{node:?} can't name a directory of a node\nhint: --node NAME with letters, digits, dots, dashes"
        );
        let mut store = Way::to(url, options)?.tree(node)?;
        store.find_out(access)?;
        store.client.be_patient();
        Ok(store)
    }

    /// Gives the object `part`, which has `bytes`, the name `name` if that is not taken.
    fn move_new(&self, part: &str, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let Server::Http(dav, _) = &self.server else {
            return Err(self.other("it has no WebDAV".to_owned()));
        };
        dav.make_parents(&self.client, name, &|reply| self.refusal(reply, name))?;
        self.client.run(
            |_| Ok(dav.move_new(part, name)),
            |mut reply, attempt| match reply.status {
                200..=299 => reply.text().map(drop),
                // An answer that got lost: it may have been moved by the try before.
                404 | 412 => {
                    reply.text()?;
                    self.is_ours(name, Content::Bytes(bytes), attempt)
                }
                _ => Err(self.refusal(&mut reply, name)),
            },
        )
    }

    /// A request about an object.
    fn call<'a>(
        &self,
        method: &'static str,
        name: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Call<'a>, StoreError> {
        match &self.server {
            Server::S3(s3) => {
                s3.call(method, name, headers).map_err(|error| self.other(format!("{error:#}")))
            }
            Server::Http(dav, _) => Ok(headers
                .iter()
                .fold(dav.call(method, name), |call, (name, value)| call.header(name, *value))),
        }
    }

    fn other(&self, detail: String) -> StoreError {
        StoreError::Other { store: self.client.label().to_owned(), detail }
    }

    fn put_content(
        &self,
        name: &str,
        content: Content<'_>,
        only_new: bool,
    ) -> Result<(), StoreError> {
        let condition: &[(&str, &str)] = if only_new { &[("if-none-match", "*")] } else { &[] };
        if let Server::Http(dav, None) = &self.server {
            dav.make_parents(&self.client, name, &|reply| self.refusal(reply, name))?;
        }
        self.client.run(
            |_| Ok(self.call("PUT", name, condition)?.content(content)),
            |mut reply, attempt| match reply.status {
                // Read to its end, so that the connection can be used again.
                200..=299 => reply.text().map(drop),
                412 if only_new => {
                    reply.text()?;
                    self.is_ours(name, content, attempt)
                }
                // Of a directory that is missing.
                404 if !matches!(self.server, Server::S3(_)) => {
                    Err(self.no_directory(name).into())
                }
                500 if matches!(self.server, Server::Http(_, Some(_))) => Err(Failed::Again(
                    "status 500 (nginx says it where a directory is missing: create_full_put_path on)"
                        .to_owned(),
                )),
                _ => Err(self.refusal(&mut reply, name)),
            },
        )
    }

    fn no_directory(&self, name: &str) -> StoreError {
        self.other(format!(
            "there is no directory for {name}\nhint: create the target's directory on the server; nginx: create_full_put_path on"
        ))
    }

    /// The object is there. A request that was made again may itself have put it the first time.
    fn is_ours(&self, name: &str, content: Content<'_>, attempt: u32) -> Result<(), Failed> {
        if attempt > 0
            && let Content::Bytes(bytes) = content
            && self.get(name)? == bytes
        {
            return Ok(());
        }
        let store = self.client.label().to_owned();
        Err(Failed::ForGood(StoreError::Exists { store, name: name.to_owned() }))
    }

    fn delete_object(&self, name: &str) -> Result<(), StoreError> {
        self.delete_or_hide(name).map(drop)
    }

    /// Deletes it, and says whether the server only hides it: S3 keeps it as an older version then.
    fn delete_or_hide(&self, name: &str) -> Result<bool, StoreError> {
        self.client.run(
            |_| self.call("DELETE", name, &[]),
            |mut reply, _| match reply.status {
                200..=299 | 404 | 410 => {
                    reply.text()?;
                    Ok(reply.header("x-amz-delete-marker") == Some("true"))
                }
                _ => Err(self.refusal(&mut reply, name)),
            },
        )
    }

    fn size_of(&self, name: &str) -> Result<u64, StoreError> {
        self.client.run(
            |_| self.call("HEAD", name, &[]),
            |mut reply, _| match (reply.status, reply.length()) {
                (200, Some(size)) => Ok(size),
                (200, None) => Err(self.other(format!("it does not say how big {name} is")).into()),
                _ => Err(self.refusal(&mut reply, name)),
            },
        )
    }

    /// Also what is no object of ours.
    fn list_raw(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let refusal = |reply: &mut Reply| self.refusal(reply, prefix);
        match &self.server {
            Server::S3(s3) => s3.list(&self.client, prefix, &refusal),
            Server::Http(dav, None) => dav.list(&self.client, prefix, &refusal),
            Server::Http(_, Some(known)) => {
                known.lock().unwrap_or_else(PoisonError::into_inner).list(prefix, self)
            }
        }
    }

    /// Notes for a server that can't list what is there.
    fn note(&self, note: impl FnOnce(&mut Known)) {
        if let Server::Http(_, Some(known)) = &self.server {
            note(&mut known.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn leave_room(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        if !self.tells_room || bytes < room::SMALL_BYTES {
            return Ok(());
        }
        let Some(free) = self.free_bytes()? else { return Ok(()) };
        room::leave(self.client.label(), name, bytes, free)
    }

    fn check_name(&self, name: &str) -> Result<(), StoreError> {
        if is_name(name) {
            return Ok(());
        }
        Err(self.other(format!("{name:?} can't be the name of an object")))
    }
}

impl plain::Ask for ObjectStore {
    fn label(&self) -> String {
        self.client.label().to_owned()
    }
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        Store::get(self, name)
    }
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.size_of(name)
    }
}

impl Store for ObjectStore {
    fn url(&self) -> String {
        self.client.label().to_owned()
    }

    fn put_pieces(&self, name: &str, pieces: &Pieces) -> Result<(), StoreError> {
        self.check_name(name)?;
        self.leave_room(name, pieces.size_bytes())?;
        self.put_content(name, Content::Pieces(pieces), false)?;
        self.note(|known| known.put(name, pieces.size_bytes()));
        Ok(())
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        self.check_name(name)?;
        let size = path.metadata().map_or(0, |meta| meta.len());
        self.leave_room(name, size)?;
        self.put_content(name, Content::File(path), false)?;
        self.note(|known| known.put(name, size));
        Ok(())
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.check_name(name)?;
        let exists = || StoreError::Exists { store: self.url(), name: name.to_owned() };
        match self.claim {
            Claim::Conditional => self.put_content(name, Content::Bytes(bytes), true)?,
            Claim::Move => {
                let part = self.tag.part_name("try");
                self.put_content(&part, Content::Bytes(bytes), false)?;
                if let Err(error) = self.move_new(&part, name, bytes) {
                    let _ = self.delete_object(&part);
                    return Err(error);
                }
            }
            Claim::Look => {
                match self.size_of(name) {
                    Ok(_) => return Err(exists()),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
                self.put_content(name, Content::Bytes(bytes), false)?;
            }
        }
        self.note(|known| known.put(name, bytes.len() as u64));
        Ok(())
    }

    fn claim(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_new(name, bytes)?;
        let settle = match (self.claim, &self.server) {
            (Claim::Conditional, Server::S3(_)) => None,
            (Claim::Conditional | Claim::Move, _) => Some(SERVER_SETTLES),
            (Claim::Look, _) => Some(OTHERS_SETTLE),
        };
        if let Some(settle) = settle {
            std::thread::sleep(settle);
            if self.get(name)? != bytes {
                let name = name.to_owned();
                return Err(StoreError::Exists { store: self.url(), name });
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.check_name(name)?;
        self.fetch(name)
    }

    fn get_range_into(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        mut room: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.check_name(name)?;
        if len == 0 {
            // There is no range of nothing.
            return match self.size_of(name)? {
                size if offset <= size => Ok(Vec::new()),
                size => Err(self.cut_off(name, (offset, 0), Some(size))),
            };
        }
        room.resize(len, 0);
        self.fill_range(name, offset, &mut room)?;
        Ok(room)
    }

    /// By one request, however much it is: what the next one would wait for is on its way already.
    fn read_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        self.check_name(name)?;
        if len == 0 {
            return Ok(());
        }
        self.pass_range(name, (offset, len), each)
    }

    fn size_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.check_name(name)?;
        self.size_of(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let (dirs, _) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        if !dirs.is_empty() && !is_name(dirs) {
            return Err(self.other(format!("{prefix:?} can't be the start of a name")));
        }
        let mut found = self.list_raw(prefix)?;
        found.retain(|object| is_name(&object.name));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.check_name(name)?;
        self.delete_object(name)?;
        self.note(|known| known.deleted(name));
        match &self.server {
            Server::Http(dav, None) => {
                dav.tidy(&self.client, name, &|reply| self.refusal(reply, name))
            }
            _ => Ok(()),
        }
    }

    /// S3 has no word for it: a full one refuses what is put.
    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        match &self.server {
            Server::Http(dav, None) => {
                dav.free_bytes(&self.client, &|reply| self.refusal(reply, ""))
            }
            _ => Ok(None),
        }
    }

    fn keeps_versions(&self) -> bool {
        self.keeps_versions
    }

    fn sweep(&self) -> Result<usize, StoreError> {
        let mut swept = 0;
        for object in self.list_raw("try.")? {
            if Tag::of_part(&object.name).is_some_and(|tag| !tag.is_alive()) {
                self.delete_object(&object.name)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
