//! crypttab(5): key files that opened a volume open it again.

use std::path::Path;

use anyhow::{Context, Result};

use super::Tree;
use crate::layout::Luks;
use crate::probe::crypttab::{Entry, parse};
use crate::sys::inside;
use crate::sys::run::Cmd;

/// Lets the key files that crypttab names open their volumes. Returns what was done, in words.
pub fn enroll(tree: &Tree<'_>) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let Some(passphrase) = tree.passphrase else { return Ok(done) };
    for entry in parse(&inside::read(tree.root, "/etc/crypttab").unwrap_or_default()) {
        let luks = tree.plan.layout.luks.iter().find(|luks| luks.name == entry.name);
        let script = entry.options.iter().any(|o| o.starts_with("keyscript="));
        let Some(luks) = luks.filter(|_| entry.key.starts_with('/') && !script) else { continue };
        if entry.is_volatile() {
            continue;
        }
        let Some(file) = inside::find(tree.root, &entry.key).filter(|f| f.is_file()) else {
            done.push(format!(
                "{} that opens {} is not in the backup: the passphrase opens it",
                entry.key, entry.name
            ));
            continue;
        };
        let device = tree.plan.layout.dev(&luks.on).context("a volume on no device")?;
        if opens(&device, &file, &entry)? {
            continue;
        }
        add_key(luks, &device, &file, &entry)
            .secret_stdin(passphrase)
            .run()
            .with_context(|| format!("enrolling the key file {}", entry.key))?;
        done.push(format!("{} opens {} again", entry.key, entry.name));
    }
    Ok(done)
}

/// Whether the key file opens the volume: it did when this ran before.
fn opens(device: &str, file: &Path, entry: &Entry) -> Result<bool> {
    let mut cmd =
        Cmd::new("cryptsetup").args(["open", "--test-passphrase", "--key-file"]).arg(file);
    for (option, switch) in
        [("keyfile-size", "--keyfile-size"), ("keyfile-offset", "--keyfile-offset")]
    {
        if let Some(number) = entry.number(option) {
            cmd = cmd.args([switch, number]);
        }
    }
    Ok(cmd.arg(device).output()?.success())
}

fn add_key(luks: &Luks, device: &str, file: &Path, entry: &Entry) -> Cmd {
    let mut cmd = Cmd::new("cryptsetup").args(["luksAddKey", "--batch-mode", "--key-file", "-"]);
    for (option, switch) in
        [("keyfile-size", "--new-keyfile-size"), ("keyfile-offset", "--new-keyfile-offset")]
    {
        if let Some(number) = entry.number(option) {
            cmd = cmd.args([switch, number]);
        }
    }
    // A file of random bytes needs no slow function.
    if luks.version == 2 {
        cmd = cmd.args(["--pbkdf", "pbkdf2"]);
    }
    cmd.args(["--pbkdf-force-iterations", "1000"]).arg(device).arg(file)
}
