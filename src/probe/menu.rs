//! What the boot loader's configuration says it will start: GRUB's grub.cfg and the entries of the
//! Boot Loader Specification (`/boot/loader/entries/*.conf`).
//!
//! Only what tells which files and devices have to be there is read; the language of grub.cfg is
//! not run.

/// A kernel that the boot menu offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    pub title: String,
    /// As in the configuration: relative to the filesystem that the loader reads.
    pub kernel: String,
    pub initrds: Vec<String>,
    /// As an entry of the Boot Loader Specification says it.
    pub version: Option<String>,
    /// The kernel's command line.
    pub args: String,
    /// Filesystems that the loader searches by UUID before it reads the files.
    pub searched_uuids: Vec<String>,
}

impl Entry {
    /// What the kernel mounts as `/`: the last `root=` counts.
    pub fn root(&self) -> Option<&str> {
        self.args
            .split_ascii_whitespace()
            .map(|word| word.trim_matches('"'))
            .filter_map(|word| word.strip_prefix("root="))
            .next_back()
    }
}

/// All kernels of a grub.cfg in the order of the menu; the first is the default unless somebody
/// chose another.
pub fn parse_grub(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut current: Option<Entry> = None;
    for line in text.lines() {
        let words = words(line);
        let Some((command, args)) = words.split_first() else { continue };
        match command.as_str() {
            "menuentry" => {
                entries.extend(current.take().filter(|e| !e.kernel.is_empty()));
                let title = args.first().cloned().unwrap_or_default();
                current = Some(Entry { title, ..Entry::default() });
            }
            "linux" | "linux16" | "linuxefi" => {
                if let (Some(entry), Some((kernel, args))) = (&mut current, args.split_first()) {
                    entry.kernel = without_device(kernel);
                    entry.args = args.join(" ");
                }
            }
            "initrd" | "initrd16" | "initrdefi" => {
                if let Some(entry) = &mut current {
                    entry.initrds.extend(args.iter().map(|name| without_device(name)));
                }
            }
            "search" => {
                if let Some(entry) = &mut current {
                    entry.searched_uuids.extend(searched(args));
                }
            }
            "submenu" => entries.extend(current.take().filter(|e| !e.kernel.is_empty())),
            _ => {}
        }
    }
    entries.extend(current.filter(|e| !e.kernel.is_empty()));
    entries
}

/// One entry of the Boot Loader Specification. `variables` are GRUB's (`kernelopts` of grubenv).
pub fn parse_bls(text: &str, variables: &dyn Fn(&str) -> Option<String>) -> Option<Entry> {
    let mut entry = Entry::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
        let value = value.trim();
        match key {
            "title" => value.clone_into(&mut entry.title),
            "linux" => value.clone_into(&mut entry.kernel),
            "version" => entry.version = Some(value.to_owned()),
            "initrd" => entry.initrds.extend(
                value.split_ascii_whitespace().filter(|w| !w.starts_with('$')).map(str::to_owned),
            ),
            "options" => {
                for word in value.split_ascii_whitespace() {
                    let known = word.strip_prefix('$').and_then(variables);
                    let word = known.as_deref().unwrap_or(word);
                    entry.args = [entry.args.as_str(), word].join(" ").trim().to_owned();
                }
            }
            _ => {}
        }
    }
    (!entry.kernel.is_empty()).then_some(entry)
}

/// Whether grub.cfg takes its entries from `/boot/loader/entries`.
pub fn uses_bls(grub_cfg: &str) -> bool {
    grub_cfg.lines().any(|line| line.trim() == "blscfg")
}

/// A variable of `grubenv`.
pub fn grubenv(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

/// The UUIDs in the arguments of `search --fs-uuid`.
fn searched(args: &[String]) -> Vec<String> {
    if !args.iter().any(|a| a == "--fs-uuid" || a == "-u") {
        return Vec::new();
    }
    args.last().filter(|last| !last.starts_with('-')).cloned().into_iter().collect()
}

/// `(hd0,gpt2)/vmlinuz` and `($root)/vmlinuz` without what is in parentheses.
fn without_device(name: &str) -> String {
    match name.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, path)) => path.to_owned(),
        None => name.to_owned(),
    }
}

/// A line's words as GRUB splits them: quotes group, a backslash takes the next character as it
/// is, `#` at the start of a word begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(q), c) if q == c => quote = None,
            (None | Some('"'), '\\') => {
                word.get_or_insert_default().extend(chars.next());
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_of_a_grub_cfg_are_found_in_menu_order() {
        // What grub-mkconfig of Debian 11, 12 and 13 made of a machine with a /boot of its own.
        let cases = [
            (
                include_str!("../../tests/fixtures/grub/debian11.cfg"),
                "5.10.0-30-amd64",
                "UUID=6f34c817-4b74-49c9-9b67-80649d0c770e",
                "2288a893-5922-4dbf-b6ec-b950464b9ca0",
            ),
            (
                include_str!("../../tests/fixtures/grub/debian12.cfg"),
                "6.1.0-28-amd64",
                "UUID=6ad5d04d-4f6c-473c-9729-b6e713bff224",
                "f0a965ad-b00f-4da8-80e5-7c775973c04d",
            ),
            (
                include_str!("../../tests/fixtures/grub/debian13.cfg"),
                "6.12.57+deb13-amd64",
                "UUID=75d581be-50ce-4977-a511-8fa1ec2336dd",
                "b8b4dde0-ee5e-4709-8024-072746f0dd2c",
            ),
        ];
        for (text, version, root, boot) in cases {
            let entries = parse_grub(text);
            let titles: Vec<_> = entries.iter().map(|e| e.title.clone()).collect();
            assert_eq!(
                titles,
                [
                    "Debian GNU/Linux".to_owned(),
                    format!("Debian GNU/Linux, with Linux {version}"),
                    format!("Debian GNU/Linux, with Linux {version} (recovery mode)"),
                ]
            );
            for entry in &entries {
                assert_eq!(entry.kernel, format!("/vmlinuz-{version}"));
                assert_eq!(entry.initrds, [format!("/initrd.img-{version}")]);
                assert_eq!(entry.root(), Some(root));
                assert_eq!(entry.searched_uuids, [boot]);
            }
            assert!(entries[2].args.contains("single"));
            assert!(!uses_bls(text));
        }
    }

    #[test]
    fn devices_in_front_of_files_quotes_and_efi_commands_are_understood() {
        let text = "menuentry 'It'\\''s \"it\"' {\n linuxefi ($root)/vmlinuz root=UUID=1 root=\"UUID=2\"\n \
                    initrdefi /early.cpio /initrd\\ 1 # comment\n}\nmenuentry empty {\n reboot\n}\n";
        let entries = parse_grub(text);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].title, "It's \"it\"");
        assert_eq!(entries[0].kernel, "/vmlinuz");
        assert_eq!(entries[0].initrds, ["/early.cpio", "/initrd 1"]);
        assert_eq!(entries[0].root(), Some("UUID=2"));
    }

    #[test]
    fn entries_of_the_boot_loader_specification_are_read() {
        // As kernel-install writes it on RHEL 8.
        let text = "title Red Hat Enterprise Linux (4.18.0-80.el8.x86_64) 8.0 (Ootpa)\n\
                    version 4.18.0-80.el8.x86_64\nlinux /vmlinuz-4.18.0-80.el8.x86_64\n\
                    initrd /initramfs-4.18.0-80.el8.x86_64.img $tuned_initrd\n\
                    options $kernelopts $tuned_params\nid rhel-1\ngrub_users $grub_users\n";
        let env = "# GRUB Environment Block\nsaved_entry=x\nkernelopts=root=/dev/mapper/rhel-root ro crashkernel=auto\n######";
        let entry = parse_bls(text, &|name| grubenv(env, name)).unwrap();
        assert_eq!(entry.kernel, "/vmlinuz-4.18.0-80.el8.x86_64");
        assert_eq!(entry.initrds, ["/initramfs-4.18.0-80.el8.x86_64.img"]);
        assert_eq!(entry.root(), Some("/dev/mapper/rhel-root"));
        assert_eq!(entry.version.as_deref(), Some("4.18.0-80.el8.x86_64"));
        assert!(parse_bls("title none\n", &|_| None).is_none());
        assert!(uses_bls("insmod blscfg\n  blscfg\n"));
    }
}
