//! What an answer means that is not the one that was hoped for, and what to do about it.

use super::client::{Failed, Reply};
use super::{ObjectStore, Server, StoreError};

impl ObjectStore {
    pub(super) fn refusal(&self, reply: &mut Reply, name: &str) -> Failed {
        match (self.meaning(reply, name), reply.asks_for_pause()) {
            (Failed::Again(why), Some(pause)) => Failed::Later(why, pause),
            (failed, _) => failed,
        }
    }

    fn meaning(&self, reply: &mut Reply, name: &str) -> Failed {
        let store = self.client.label().to_owned();
        let text = match reply.text() {
            Ok(text) => text,
            Err(failed) => return failed,
        };
        if let Server::S3(s3) = &self.server
            && let Some(failed) = s3.explain(&store, reply, &text)
        {
            return failed;
        }
        let status = reply.status;
        let detail = |hint: &str| format!("status {status}{}\nhint: {hint}", words(&text));
        Failed::ForGood(match status {
            404 => StoreError::NotFound { store, name: name.to_owned() },
            401 | 407 => StoreError::Denied {
                store,
                detail: detail("user and password in [target_options.login]: are they right?"),
            },
            403 => StoreError::Denied {
                store,
                detail: detail("may this login do that there? The server's error log says why"),
            },
            400 | 495 | 496 if text.contains("certificate") => StoreError::Certificate {
                store,
                detail: detail(
                    "it wants a client certificate: client_cert_file and client_key_file in [target_options.login]",
                ),
            },
            405 | 501 => StoreError::Denied {
                store,
                detail: detail(
                    "the server must allow PUT and DELETE there; nginx: dav_methods PUT DELETE MKCOL; create_full_put_path on",
                ),
            },
            409 => StoreError::Other {
                store,
                detail: detail(
                    "the server can't make the directory; nginx: create_full_put_path on",
                ),
            },
            413 => StoreError::Other {
                store,
                detail: detail(
                    "the server takes no object of this size; nginx: client_max_body_size 0",
                ),
            },
            507 => StoreError::Full {
                store,
                detail: detail("make room there, or keep fewer generations (backup.keep_last)"),
            },
            300..=399 => {
                // What follows a ? may be a signature.
                let to = reply.header("location").unwrap_or("somewhere else");
                let to = to.split(['?', '#']).next().unwrap_or_default();
                let hint = match &self.server {
                    Server::S3(_) => {
                        "target_options.endpoint and target_options.region must be the bucket's"
                    }
                    Server::Http(..) => "give that as the target",
                };
                self.other(format!("it redirects to {to}\nhint: {hint}"))
            }
            408 | 425 | 429 | 500 | 502..=504 => {
                return Failed::Again(format!("status {status}{}", words(&text)));
            }
            _ => self.other(format!("status {status}{}", words(&text))),
        })
    }
}

/// The words of an answer, if they are few: a page of HTML says nothing that the status does not.
fn words(text: &str) -> String {
    let text = text.trim();
    let plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if text.is_empty() || text.len() > 200 || text.starts_with('<') || !text.chars().all(plain) {
        return String::new();
    }
    format!(": {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_are_said_back() {
        assert_eq!(words(" no room \n"), ": no room");
        for silent in ["", "<html>no</html>", "\u{1b}[2J"] {
            assert_eq!(words(silent), "");
        }
    }
}
