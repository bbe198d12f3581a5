//! Starting the rescue system from the system that runs, without a medium: kexec.
//!
//! Kernel and initrd come from the target, so that any Linux can become the rescue system of any
//! node: the node itself, or what a hosting provider boots machines into.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{menu, stored};
use crate::config::{Config, MenuDefault};
use crate::store::{Store, StoreError};
use crate::sys::kexec;
use crate::sys::run::Cmd;

/// What the machine is to become.
#[derive(Debug)]
pub struct Boot {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    pub cmdline: String,
}

impl Boot {
    /// Fetches what is in a node's tree at the target. `more` are kernel parameters besides those that
    /// this machine's configuration gives a rescue system.
    pub fn fetch(
        store: &dyn Store,
        config: &Config,
        mode: MenuDefault,
        more: &[String],
    ) -> Result<Boot> {
        let dir = stored::newest(store)?;
        let get = |name: &str| match store.get(&format!("{dir}{name}")) {
            Ok(bytes) => Ok(bytes),
            Err(StoreError::NotFound { .. }) => bail!(
                "{} holds no rescue system: {name} is missing\nhint: rr mkrescue on the node makes it",
                store.url()
            ),
            Err(error) => Err(error).with_context(|| format!("fetching {name}")),
        };
        let mode = menu::default_entry(mode);
        let mut cmdline = format!("rr.recover={mode} {}", menu::parameters(config));
        for word in more {
            cmdline += &format!(" {}", quote(word)?);
        }
        Ok(Boot { kernel: get("kernel")?, initrd: get("initrd")?, cmdline })
    }

    pub fn bytes(&self) -> u64 {
        (self.kernel.len() + self.initrd.len()) as u64
    }

    /// Loads it. Until [`go`] nothing else changes.
    pub fn load(&self) -> Result<()> {
        kexec::load(&file("kernel", &self.kernel)?, &file("initrd", &self.initrd)?, &self.cmdline)
    }
}

/// Shuts this system down in order, and starts what was loaded.
pub fn go() -> Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        bail!(
            "the rescue system is loaded, but only systemd shuts a machine down in order before it\nhint: end what runs, and start it yourself: kexec --exec"
        );
    }
    Cmd::new("systemctl").arg("kexec").run().context("starting the rescue system")
}

/// A file in memory.
fn file(name: &str, bytes: &[u8]) -> Result<File> {
    let making = || format!("making a file of {} bytes in memory", bytes.len());
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).with_context(making)?);
    file.write_all(bytes).with_context(making)?;
    Ok(file)
}

/// A parameter as the kernel reads it: in double quotes where it has blanks.
fn quote(word: &str) -> Result<String> {
    if word.is_empty() || word.contains(['"', '\n', '\0']) {
        bail!("{word:?} can't be a kernel parameter");
    }
    let blanks = word.contains(char::is_whitespace);
    Ok(if blanks { format!("\"{word}\"") } else { word.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TargetOptions;
    use crate::store::{self, Access};

    #[test]
    fn what_is_started_is_the_nodes_rescue_system_with_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().display()).parse().unwrap();
        let options = TargetOptions::default();
        let store = store::open(&url, "node001", Access::Write, &options).unwrap();
        let config = Config::default();
        let boot = |more: &[String]| Boot::fetch(store.as_ref(), &config, MenuDefault::Ask, more);
        let error = boot(&[]).unwrap_err().to_string();
        assert!(error.contains("kernel is missing") && error.contains("rr mkrescue"), "{error}");
        store.put("kernel", b"K").unwrap();
        store.put("initrd", b"II").unwrap();
        let ready = boot(&["rr.map=sda=sdb".into(), "rr.erase=S 1".into()]).unwrap();
        assert_eq!(ready.bytes(), 3);
        assert!(ready.cmdline.starts_with("rr.recover=ask rootfstype=ramfs"), "{}", ready.cmdline);
        assert!(ready.cmdline.ends_with(" rr.map=sda=sdb \"rr.erase=S 1\""), "{}", ready.cmdline);
        assert!(boot(&["a\"b".into()]).is_err());
        // On a backup disk; the newest is not whole.
        for name in ["rescue/000001/kernel", "rescue/000001/initrd", "rescue/000002/kernel"] {
            store.put(name, b"12345").unwrap();
        }
        assert_eq!(boot(&[]).unwrap().bytes(), 10);
    }
}
