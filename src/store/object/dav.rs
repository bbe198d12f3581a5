//! HTTP: WebDAV (RFC 4918) where the server has it, else PUT, GET, HEAD and DELETE.

use std::collections::HashSet;
use std::sync::Mutex;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;

use super::super::name::{OWNER, is_part_of_name};
use super::client::{Call, Client, Content, Failed, Reply};
use super::{Object, StoreError};
use crate::config::Login;
use crate::sys::sync::lock;

const ASK_ROOM: &[u8] = b"<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<propfind xmlns=\"DAV:\"><prop><quota-available-bytes/></prop></propfind>\n";

#[derive(Debug)]
pub(super) struct Dav {
    /// Of the tree, without a slash at its end.
    uri: String,
    /// Scheme, server, and the path of the target.
    root: String,
    authorization: Option<Authorization>,
    /// Directories that are there.
    made: Mutex<HashSet<String>>,
}

/// The header by which the server knows us.
struct Authorization(String);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(...)")
    }
}

/// What is in a directory.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    leaf: String,
    /// None: a directory.
    size_bytes: Option<u64>,
}

impl Dav {
    pub fn new(root: String, node: &str, login: &Login) -> Dav {
        let authorization = match (&login.user, &login.password) {
            (Some(user), Some(password)) => {
                let both = [user.as_bytes(), b":", password.expose()].concat();
                Some(Authorization(format!("Basic {}", BASE64.encode(both))))
            }
            _ => None,
        };
        // That of no node is what all are in.
        let uri = format!("{root}/{node}").trim_end_matches('/').to_owned();
        Dav { uri, root, authorization, made: Mutex::default() }
    }

    /// A request about an object, or about the tree itself.
    pub fn call<'a>(&self, method: &'static str, name: &str) -> Call<'a> {
        self.at(method, format!("{}/{name}", self.uri))
    }

    /// A MOVE that replaces nothing (RFC 4918, 9.9.3).
    pub fn move_new<'a>(&self, name: &str, to: &str) -> Call<'a> {
        self.call("MOVE", name)
            .header("Destination", format!("{}/{to}", self.uri))
            .header("Overwrite", "F")
    }

    fn at<'a>(&self, method: &'static str, uri: String) -> Call<'a> {
        let call = Call::new(method, uri);
        match &self.authorization {
            Some(Authorization(value)) => call.header("Authorization", value.clone()),
            None => call,
        }
    }

    /// Without a body it asks for all properties (RFC 4918, 9.1).
    fn propfind<'a>(&self, uri: String, depth: &str) -> Call<'a> {
        self.at("PROPFIND", uri).header("Depth", depth)
    }

    /// Whether the server knows WebDAV there. For writing, the target's last directory is made.
    pub fn is_dav(
        &self,
        client: &Client,
        write: bool,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<bool, StoreError> {
        let ask = || {
            client.run(
                |_| Ok(self.propfind(format!("{}/", self.root), "0")),
                |mut reply, _| match reply.status {
                    401 | 407 | 429 | 502..=504 => Err(refusal(&mut reply)),
                    status => Ok(status),
                },
            )
        };
        let status = ask()?;
        if status != 404 || !write {
            return Ok(status == 207);
        }
        self.make(client, &self.root, refusal)?;
        Ok(ask()? == 207)
    }

    /// Makes the directories that `name` is in. Before it is put: nginx says 500 where one is missing.
    pub fn make_parents(
        &self,
        client: &Client,
        name: &str,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<(), StoreError> {
        let parents = name.match_indices('/').map(|(at, _)| &name[..at]);
        // One thread at a time: of two that make the same one at once, Apache gives the later a 403.
        let mut made = lock(&self.made);
        for dir in std::iter::once("").chain(parents) {
            if made.contains(dir) {
                continue;
            }
            let uri = format!("{}/{dir}", self.uri);
            self.make(client, uri.trim_end_matches('/'), refusal)?;
            made.insert(dir.to_owned());
        }
        Ok(())
    }

    fn make(
        &self,
        client: &Client,
        uri: &str,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<(), StoreError> {
        client.run(
            |_| Ok(self.at("MKCOL", format!("{uri}/"))),
            |mut reply, _| match reply.status {
                // 405 is said of a directory that is there.
                200..=299 | 405 => Ok(()),
                _ => Err(refusal(&mut reply)),
            },
        )
    }

    /// All objects whose name starts with `prefix`.
    pub fn list(
        &self,
        client: &Client,
        prefix: &str,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<Vec<Object>, StoreError> {
        let (dirs, _) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let mut found = Vec::new();
        let mut todo = vec![dirs.to_owned()];
        while let Some(dirs) = todo.pop() {
            for member in self.members(client, &dirs, refusal)? {
                let name = match dirs.as_str() {
                    "" => member.leaf,
                    dirs => format!("{dirs}/{}", member.leaf),
                };
                match member.size_bytes {
                    Some(size_bytes) if name.starts_with(prefix) => {
                        found.push(Object { name, size_bytes });
                    }
                    None if name.starts_with(prefix) || prefix.starts_with(&name) => {
                        todo.push(name);
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    fn members(
        &self,
        client: &Client,
        dirs: &str,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<Vec<Member>, StoreError> {
        let uri = if dirs.is_empty() {
            format!("{}/", self.uri)
        } else {
            format!("{}/{dirs}/", self.uri)
        };
        let path = path_of(&uri);
        client.run(
            |_| Ok(self.propfind(uri.clone(), "1")),
            |mut reply, _| match reply.status {
                404 => Ok(Vec::new()),
                207 => parse(&reply.text()?, &path).map_err(|error| {
                    let detail = format!("its list of {path} can't be understood: {error:#}");
                    StoreError::Other { store: client.label().to_owned(), detail }.into()
                }),
                _ => Err(refusal(&mut reply)),
            },
        )
    }

    /// The directories below the tree that are nodes' trees, or may not be looked into.
    pub fn nodes(
        &self,
        client: &Client,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<Vec<String>, StoreError> {
        let is_dir = |member: &Member| member.size_bytes.is_none();
        let mut nodes = Vec::new();
        for node in self.members(client, "", refusal)?.into_iter().filter(is_dir) {
            // What is no name of ours may need escapes.
            if !is_part_of_name(&node.leaf) {
                continue;
            }
            let has_some = match self.members(client, &node.leaf, refusal) {
                Ok(inside) => {
                    inside.iter().any(|m| m.leaf == if is_dir(m) { "generations" } else { OWNER })
                }
                Err(StoreError::Denied { .. }) => true,
                Err(error) => return Err(error),
            };
            if has_some {
                nodes.push(node.leaf);
            }
        }
        Ok(nodes)
    }

    /// Room that is left (RFC 4331); None where the server does not tell.
    pub fn free_bytes(
        &self,
        client: &Client,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<Option<u64>, StoreError> {
        let ask = |_| {
            let call = self.propfind(format!("{}/", self.uri), "0");
            Ok(call.header("Content-Type", "application/xml").content(Content::Bytes(ASK_ROOM)))
        };
        client.run(ask, |mut reply, _| match reply.status {
            207 => Ok(room_in(&reply.text()?)),
            429 | 502..=504 => Err(refusal(&mut reply)),
            // Not asked for in words that it knows.
            _ => reply.text().map(|_| None),
        })
    }

    /// Removes the directory of a generation when its last object is gone. Not that of the packs:
    /// deleting a directory deletes what is in it, and the next pack may be on its way.
    pub fn tidy(
        &self,
        client: &Client,
        name: &str,
        refusal: &dyn Fn(&mut Reply) -> Failed,
    ) -> Result<(), StoreError> {
        let Some((dirs, _)) = name.rsplit_once('/') else { return Ok(()) };
        if !dirs.starts_with("generations/") || !self.members(client, dirs, refusal)?.is_empty() {
            return Ok(());
        }
        client.run(
            |_| Ok(self.call("DELETE", &format!("{dirs}/"))),
            |mut reply, _| match reply.status {
                200..=299 | 404 => Ok(()),
                _ => Err(refusal(&mut reply)),
            },
        )
    }
}

/// What a server says who knows quotas. One without a limit says less than nothing; nothing at all is
/// what some say who do not know (Nextcloud, of a storage that does not answer): the next PUT tells.
fn room_in(text: &str) -> Option<u64> {
    let document = roxmltree::Document::parse(text).ok()?;
    let mut nodes = document.descendants();
    let told = nodes.find(|node| is(*node, "quota-available-bytes"))?.text()?.trim();
    told.parse().ok().filter(|bytes| *bytes > 0)
}

/// What follows the server in a URI.
fn path_of(uri: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    rest.find('/').map_or("/", |at| &rest[at..]).to_owned()
}

/// The members of the directory `path` in the answer to a PROPFIND of depth 1.
fn parse(text: &str, path: &str) -> Result<Vec<Member>> {
    let document = roxmltree::Document::parse(text)?;
    let mut found = Vec::new();
    let mut has_itself = false;
    for response in document.descendants().filter(|node| is(*node, "response")) {
        let within =
            |name: &str| response.descendants().find(|node| is(*node, name)).and_then(|n| n.text());
        let href = percent_decode_str(within("href").unwrap_or_default().trim());
        // What is no UTF-8 is no name of ours.
        let href = href.decode_utf8_lossy().into_owned();
        let href = if href.starts_with('/') { href } else { path_of(&href) };
        let (whole, own) = (href.trim_end_matches('/'), path.trim_end_matches('/'));
        if whole == own {
            has_itself = true;
            continue;
        }
        let Some((above, leaf)) = whole.rsplit_once('/') else { continue };
        if above != own {
            continue;
        }
        let is_dir = response.descendants().any(|node| is(node, "collection"));
        let size = within("getcontentlength").and_then(|size| size.trim().parse().ok());
        anyhow::ensure!(is_dir || size.is_some(), "{leaf} has no size");
        let size_bytes = if is_dir { None } else { size };
        found.push(Member { leaf: leaf.to_owned(), size_bytes });
    }
    anyhow::ensure!(has_itself, "it is about other paths");
    Ok(found)
}

fn is(node: roxmltree::Node<'_, '_>, name: &str) -> bool {
    node.is_element()
        && node.tag_name().name() == name
        && node.tag_name().namespace() == Some("DAV:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_of_apache_is_read() {
        // Apache 2.4 mod_dav, shortened to one file and one directory.
        let text = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:">
<D:response xmlns:lp1="DAV:"><D:href>/dav/node001/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/node001/packs/</D:href><D:propstat><D:prop>
<lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response xmlns:lp1="DAV:"><D:href>/dav/node001/latest%2ejson</D:href><D:propstat><D:prop>
<lp1:resourcetype/><lp1:getcontentlength>61</lp1:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
</D:multistatus>"#;
        let dir = Member { leaf: "packs".into(), size_bytes: None };
        let file = Member { leaf: "latest.json".into(), size_bytes: Some(61) };
        assert_eq!(parse(text, "/dav/node001/").unwrap(), [dir, file]);
        // A proxy that shows it elsewhere must not make all backups vanish.
        assert!(parse(text, "/other/node001/").is_err());
        assert!(parse(&text[..text.len() - 20], "/dav/node001/").is_err());
        assert!(parse(&text.replace("getcontentlength", "x"), "/dav/node001/").is_err());
    }

    #[test]
    fn room_is_told_or_not() {
        // Nextcloud 28, sabre/dav; the href is shortened.
        let text = |room: &str| {
            format!(
                "<?xml version=\"1.0\"?>\n<d:multistatus xmlns:d=\"DAV:\" xmlns:s=\"http://sabredav.org/ns\" xmlns:oc=\"http://owncloud.org/ns\" xmlns:nc=\"http://nextcloud.org/ns\"><d:response><d:href>/dav/</d:href><d:propstat><d:prop>{room}</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"
            )
        };
        let of = |room: &str| room_in(&text(room));
        assert_eq!(
            of("<d:quota-available-bytes>10485760</d:quota-available-bytes>"),
            Some(10 << 20)
        );
        // Without a limit, and by a server that does not know it.
        assert_eq!(of("<d:quota-available-bytes>-3</d:quota-available-bytes>"), None);
        assert_eq!(of("<d:quota-available-bytes/>"), None);
        assert_eq!(room_in("<html>"), None);
    }

    #[test]
    fn a_password_is_not_shown() {
        // The example of RFC 7617, section 2.
        let login = toml::from_str("user = 'Aladdin'\npassword = 'open sesame'").unwrap();
        let dav = Dav::new("http://h/x".into(), "node001", &login);
        let sent = &dav.call("GET", "a").headers[0].1;
        assert_eq!(sent, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{dav:?}").contains("QWxhZGRpbj"));
    }
}
