//! What is found out of a server when a store on it is opened: whether it answers, whether it can list,
//! and, for writing, by how it puts an object only where none is.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::super::name::OWNER;
use super::super::{Access, Store, StoreError};
use super::client::Content;
use super::{Claim, ObjectStore, Server};

/// How long a cache may give old answers that is put up with, and when it is asked again.
const SHORT_CACHE: Duration = Duration::from_secs(75);
const SHORT_CACHE_PAUSE: Duration = Duration::from_secs(2);

impl ObjectStore {
    pub(super) fn find_out(&mut self, access: Access) -> Result<()> {
        let lists = match &self.server {
            Server::S3(_) => true,
            Server::Http(dav, _) => {
                let makes = access == Access::Write;
                dav.is_dav(&self.client, makes, &|reply| self.refusal(reply, ""))?
            }
        };
        if let (false, Server::Http(_, known)) = (lists, &mut self.server) {
            log::info!("{} can't list: it has no WebDAV", self.client.label());
            *known = Some(Mutex::default());
        }
        let has_latest = self.look()?;
        if access == Access::Read {
            return Ok(());
        }
        if access != Access::Write && !has_latest && !self.is_tree()? {
            let store = self.client.label().to_owned();
            return Err(StoreError::NotFound { store, name: "a backup".to_owned() }.into());
        }
        if access == Access::Delete {
            return Ok(());
        }
        let probe = self.tag.part_name("try");
        self.put_content(&probe, Content::Bytes(b"rr\n"), false)
            .context("trying whether objects can be put there")?;
        if let Server::Http(_, Some(_)) = &self.server {
            self.refuse_old_answers(&probe)?;
        }
        self.claim = self.find_claim(&probe)?;
        self.tells_room = self.free_bytes()?.is_some();
        log::info!("{}: objects are put where none is by {:?}", self.client.label(), self.claim);
        let hides =
            self.delete_or_hide(&probe).context("trying whether objects can be deleted there")?;
        self.keeps_versions = match &self.server {
            Server::S3(s3) => hides && !s3.ends_versions(&self.client),
            Server::Http(..) => false,
        };
        Ok(())
    }

    /// Where the server can't list, `latest.json` is all that tells which generations there are. One
    /// from a cache would make the next run forget those that it does not name. A cache of a minute
    /// (nginx's open_file_cache) is waited for, which no run is so short as to meet again.
    fn refuse_old_answers(&self, probe: &str) -> Result<()> {
        // Asked for once, it is in the cache.
        self.fetch(probe).context("trying whether objects can be read there")?;
        let text = b"rr, changed\n";
        self.put_content(probe, Content::Bytes(text), false)?;
        let end = Instant::now() + SHORT_CACHE.min(self.client.whole_patience());
        while self.fetch(probe)? != text {
            if Instant::now() < end {
                std::thread::sleep(SHORT_CACHE_PAUSE);
                continue;
            }
            self.delete_object(probe)?;
            bail!(
                "{} answers with what was there before: is a cache between it and this machine?\nhint: the cache must pass PUT on to the server and ask it again for each GET; or give the target the server's own address",
                self.client.label()
            );
        }
        Ok(())
    }

    /// Tries on the object `taken`, which is there, how one is not replaced.
    fn find_claim(&self, taken: &str) -> Result<Claim, StoreError> {
        match self.put_content(taken, Content::Bytes(b"rr\n"), true) {
            Err(StoreError::Exists { .. }) => return Ok(Claim::Conditional),
            // It may say that it does not know such a thing.
            Ok(()) | Err(StoreError::Other { .. } | StoreError::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
        let Server::Http(_, None) = &self.server else { return Ok(Claim::Look) };
        let other = self.tag.part_name("try");
        self.put_content(&other, Content::Bytes(b"rr\n"), false)?;
        let moved = self.move_new(&other, taken, b"");
        self.delete_object(&other)?;
        match moved {
            Err(StoreError::Exists { .. }) => Ok(Claim::Move),
            Ok(()) | Err(StoreError::Other { .. } | StoreError::Denied { .. }) => Ok(Claim::Look),
            Err(error) => Err(error),
        }
    }

    /// Whether a node has begun to back up there, that has finished none.
    fn is_tree(&self) -> Result<bool, StoreError> {
        match self.size_of(OWNER) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(!self.list_raw("generations/")?.is_empty()),
            Err(error) => Err(error),
        }
    }

    /// Whether generations are named there. A server that is down, and a wrong login, are told when the
    /// store is opened, and not as a missing backup.
    fn look(&self) -> Result<bool> {
        let name = "latest.json";
        let looked = self.client.run(
            |_| self.call("GET", name, &[]),
            |mut reply, _| match reply.status {
                200 => reply.text().map(drop),
                _ => Err(self.refusal(&mut reply, name)),
            },
        );
        match looked {
            Err(StoreError::NotFound { .. }) => Ok(false),
            other => other.map(|()| true).context("looking whether the target answers"),
        }
    }
}
