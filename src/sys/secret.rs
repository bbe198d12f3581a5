//! A secret: given to programs on their standard input, never shown.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What opens an encrypted volume, or a target.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// # Errors
    /// It is empty: a volume without a secret is none that anybody wants.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Secret> {
        let bytes = bytes.into();
        ensure!(!bytes.is_empty(), "the secret is empty");
        Ok(Secret(bytes))
    }

    /// The content of a file, without the line end that an editor puts after it.
    pub fn read(path: &Path) -> Result<Secret> {
        let read = || -> Result<Secret> {
            let mut bytes = std::fs::read(path)?;
            if bytes.ends_with(b"\n") {
                bytes.pop();
            }
            Secret::new(bytes)
        };
        read().with_context(|| format!("reading the passphrase from {}", path.display()))
    }

    /// The one way to see it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// As [`Secret::expose`], of what was text when it was made; else empty.
    pub fn expose_text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let text = String::deserialize(deserializer)?;
        Secret::new(text).map_err(serde::de::Error::custom)
    }
}

/// For who shows settings: what is written is not the secret.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(not shown)")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // So that nobody may take the above for useless.
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run::Cmd;

    #[test]
    fn a_secret_reaches_the_program_and_nothing_else() {
        let secret = Secret::new("open sesame").unwrap();
        let cmd = Cmd::new("sh").args(["-c", "cat; exit 1"]).secret_stdin(&secret);
        let output = cmd.output().unwrap();
        assert_eq!(output.stdout, b"open sesame");
        for shown in [format!("{cmd:?}"), format!("{secret:?}"), cmd.to_shell()] {
            assert!(!shown.contains("sesame"), "{shown}");
        }
        // What a failing program says is told, but for the secret.
        let error = format!("{:#}", cmd.run().unwrap_err());
        assert!(!error.contains("sesame"), "{error}");
    }

    #[test]
    fn a_file_ends_before_its_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        for (text, secret) in [("a b \n", "a b "), ("a\n\n", "a\n"), ("x", "x")] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(Secret::read(&file).unwrap().expose(), secret.as_bytes());
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(format!("{:#}", Secret::read(&file).unwrap_err()).contains("pass"));
    }
}
