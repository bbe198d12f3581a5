//! crypttab(5): encrypted volumes that a system opens when it starts.

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
    pub fn number(&self, option: &str) -> Option<&str> {
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
