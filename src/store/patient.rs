//! A store that is given up when it does not answer.
//!
//! A network filesystem may hang where its mount options promise an error: an NFSv4 client that
//! recovers its session waits for its server without any limit (seen with Linux 6.12, `softerr` and
//! a server that was switched off while files were restored). Such a wait can't be broken, but it
//! can be left behind: every call runs on a thread of its own, and the caller goes on without it
//! when it takes too long.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Object, Pieces, Store, StoreError};

/// After this the admin is told why nothing happens.
const NOTICE: Duration = Duration::from_secs(30);
/// A store that was given up once is not waited for as long again: a failed run still wants to leave
/// its log there.
const AFTER_GIVING_UP: Duration = Duration::from_secs(10);
/// Slower than this is as good as dead.
const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;

#[derive(Debug)]
pub struct PatientStore {
    inner: Arc<dyn Store>,
    patience: Duration,
    given_up: AtomicBool,
    security: Option<String>,
}

impl PatientStore {
    /// `patience` is for an answer; for data there is more, by its size.
    pub fn new(inner: Box<dyn Store>, patience: Duration) -> PatientStore {
        let given_up = AtomicBool::new(false);
        PatientStore { inner: inner.into(), patience, given_up, security: None }
    }

    /// With what the kernel says of the mount, see [`Store::security`].
    pub fn secured_by(self, security: Option<String>) -> PatientStore {
        PatientStore { security, ..self }
    }

    fn wait<T: Send + 'static>(
        &self,
        bytes: usize,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answers) = mpsc::channel();
        let inner = Arc::clone(&self.inner);
        let spawned = thread::Builder::new().name("store".to_owned()).spawn(move || {
            // Nobody listens any more when the call was given up.
            let _ = answer.send(call(inner.as_ref()));
        });
        let fail = |detail: String| StoreError::Transient { store: self.inner.url(), detail };
        spawned.map_err(|error| fail(format!("starting a thread: {error}")))?;

        let first = if self.given_up.load(Ordering::Relaxed) {
            AFTER_GIVING_UP.min(self.patience)
        } else {
            self.patience
        };
        let limit = first + Duration::from_secs(bytes as u64 / LEAST_BYTES_PER_SECOND);
        let received = match answers.recv_timeout(NOTICE.min(limit)) {
            Err(RecvTimeoutError::Timeout) if limit > NOTICE => {
                let seconds = NOTICE.as_secs();
                let left = (limit - NOTICE).as_secs();
                let url = self.inner.url();
                log::warn!("{url} has not answered for {seconds} s: waiting up to {left} s more");
                let received = answers.recv_timeout(limit - NOTICE);
                if received.is_ok() {
                    log::warn!("{url} answers again");
                }
                received
            }
            other => other,
        };
        let Ok(result) = received else {
            self.given_up.store(true, Ordering::Relaxed);
            return Err(fail(format!(
                "given up after {} s\nhint: is the server up? target_options.patience_seconds says how long it is waited for",
                limit.as_secs()
            )));
        };
        self.given_up.store(false, Ordering::Relaxed);
        result
    }
}

impl Store for PatientStore {
    fn url(&self) -> String {
        self.inner.url()
    }
    fn security(&self) -> Option<&str> {
        self.security.as_deref()
    }
    fn put_pieces(&self, name: &str, pieces: &Pieces) -> Result<(), StoreError> {
        let (name, pieces) = (name.to_owned(), pieces.clone());
        let bytes = usize::try_from(pieces.size_bytes()).unwrap_or(usize::MAX);
        self.wait(bytes, move |store| store.put_pieces(&name, &pieces))
    }
    fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        let size = path.metadata().map_or(0, |found| found.len());
        let (name, path) = (name.to_owned(), path.to_owned());
        let bytes = usize::try_from(size).unwrap_or(usize::MAX);
        self.wait(bytes, move |store| store.put_file(&name, &path))
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        self.wait(bytes.len(), move |store| store.put_new(&name, &bytes))
    }
    fn claim(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (name, bytes) = (name.to_owned(), bytes.to_vec());
        self.wait(bytes.len(), move |store| store.claim(&name, &bytes))
    }
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let size = usize::try_from(self.size_bytes(name)?).unwrap_or(usize::MAX);
        let name = name.to_owned();
        self.wait(size, move |store| store.get(&name))
    }
    fn get_range_into(
        &self,
        name: &str,
        offset: u64,
        len: usize,
        room: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        let name = name.to_owned();
        self.wait(len, move |store| store.get_range_into(&name, offset, len, room))
    }
    fn size_bytes(&self, name: &str) -> Result<u64, StoreError> {
        let name = name.to_owned();
        self.wait(0, move |store| store.size_bytes(&name))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let prefix = prefix.to_owned();
        self.wait(0, move |store| store.list(&prefix))
    }
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.wait(0, move |store| store.delete(&name))
    }
    fn free_bytes(&self) -> Result<Option<u64>, StoreError> {
        self.wait(0, |store| store.free_bytes())
    }
    fn sweep(&self) -> Result<usize, StoreError> {
        self.wait(0, |store| store.sweep())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TargetOptions, TargetUrl};
    use crate::store::{self, Access};

    #[test]
    fn a_store_that_hangs_is_given_up_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let url = TargetUrl::File { dir: dir.path().to_owned() };
        let inner = store::open(&url, "node001", Access::Write, &TargetOptions::default()).unwrap();
        let patient = PatientStore::new(inner, Duration::from_millis(300));
        patient.put("packs/a", b"abc").unwrap();
        assert_eq!(patient.get("packs/a").unwrap(), b"abc");

        let (release, released) = mpsc::channel::<()>();
        let hangs = move |_: &dyn Store| {
            let _ = released.recv();
            Ok(())
        };
        let error = patient.wait(0, hangs).unwrap_err();
        assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
        assert!(error.to_string().contains("\nhint: "), "{error}");
        drop(release);
        assert_eq!(patient.get_range("packs/a", 1, 2).unwrap(), b"bc");
        assert!(!patient.given_up.load(Ordering::Relaxed));
    }
}
