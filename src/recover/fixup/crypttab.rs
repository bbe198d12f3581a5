//! crypttab(5): key files that opened a volume open it again.

use std::path::Path;

use anyhow::{Context, Result};

use super::Tree;
use crate::layout::Luks;
use crate::sys::inside;
use crate::sys::run::Cmd;

/// One line of crypttab(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub device: String,
    /// Empty: a passphrase is asked for.
    pub key: String,
    pub options: Vec<String>,
}

impl Entry {
    /// The volume is made anew at every boot (swap with a random key).
    pub fn is_volatile(&self) -> bool {
        self.key.starts_with("/dev/") || self.options.iter().any(|o| o == "plain")
    }

    /// The number that an option gives.
    fn number(&self, option: &str) -> Option<&str> {
        self.options.iter().find_map(|o| o.strip_prefix(option)?.strip_prefix('='))
    }
}

/// The entries, in order.
pub fn parse(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, device) = (words.next()?.to_owned(), words.next()?.to_owned());
            let key = words.next().filter(|key| !matches!(*key, "none" | "-"));
            let options = words.next().unwrap_or_default().split(',').map(str::to_owned);
            let key = key.unwrap_or_default().to_owned();
            Some(Entry { name, device, key, options: options.collect() })
        })
        .collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_systemd_reads_them() {
        let text = "# <target> <source> <key> <options>\n\
                    sda3_crypt UUID=f6f1f77d none luks,discard\n\
                    data /dev/sdb1 /etc/keys/data.key luks,keyfile-size=64,keyfile-offset=8\n\
                    swap /dev/sda2 /dev/urandom swap,cipher=aes-xts-plain64\n\
                    short UUID=1\n\nbroken\n";
        let entries = parse(text);
        let seen: Vec<_> =
            entries.iter().map(|e| (e.name.as_str(), e.key.as_str(), e.is_volatile())).collect();
        assert_eq!(
            seen,
            [
                ("sda3_crypt", "", false),
                ("data", "/etc/keys/data.key", false),
                ("swap", "/dev/urandom", true),
                ("short", "", false),
            ]
        );
        assert_eq!(entries[1].number("keyfile-size"), Some("64"));
        assert_eq!(entries[1].number("keyfile"), None);
    }
}
