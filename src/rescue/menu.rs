//! The boot menu: what GRUB shows and with which parameters it starts the rescue system.

use std::path::Path;

use crate::config::schema::{MenuDefault, is_parameter};
use crate::config::{Config, RescueConfig};
use crate::layout::units::shown_time;
use crate::layout::{Firmware, Layout};

use super::info::RescueInfo;
use crate::store::catalog;

const MEDIUM: &str = include_str!("../../bootloader-assets/medium.cfg");
const HEAD: &str = include_str!("../../bootloader-assets/head.cfg");
const IMAGE: &str = include_str!("../../bootloader-assets/grub.cfg");
const DISK: &str = include_str!("../../bootloader-assets/disk.cfg");
const NODE: &str = include_str!("../../bootloader-assets/node.cfg");
const GENERATION: &str = include_str!("../../bootloader-assets/generation.cfg");
const LOCAL: &str = include_str!("../../bootloader-assets/local.cfg");
const THEME: &str = include_str!("../../bootloader-assets/theme.txt");

/// How an entry of [`GENERATION`] begins and ends.
const EARLIER: &str = "    menuentry ";
const EARLIER_END: &str = "    }\n";

/// A node's entries, in its tree at the target.
pub const MENU: &str = "menu.cfg";
/// How long the menu waits for a key.
pub const TIMEOUT_SECONDS: u32 = 30;

/// Which of the node's boot loaders "Boot from the first disk" looks for on UEFI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaders {
    All,
    /// Not those whose names are on our own media as well: GRUB may find these first, for ever.
    NotOfMedia,
}

/// What the menu says about the image.
#[derive(Debug)]
pub struct Menu<'a> {
    pub layout: &'a Layout,
    pub config: &'a Config,
    pub info: &'a RescueInfo,
    /// The name of the marker file by which GRUB finds its medium.
    pub id: &'a str,
    pub size_mib: u64,
    /// What GRUB calls the font that is on the medium.
    pub font: &'a str,
}

impl Menu<'_> {
    /// The menu on a CD or a stick.
    pub fn grub_cfg(&self) -> String {
        let menu = self.grub_menu(self.config.rescue.default, Loaders::NotOfMedia);
        fill(MEDIUM, &[("ID", self.id)]) + "\n" + &menu
    }

    /// What GRUB's menus have in common, wherever the files come from.
    pub fn grub_menu(&self, default: MenuDefault, which: Loaders) -> String {
        let (unit, speed) = self.serial();
        fill(
            &format!("{HEAD}\n{IMAGE}"),
            &[
                ("TIMEOUT", &TIMEOUT_SECONDS.to_string()),
                ("DEFAULT", default_entry(default)),
                ("UNIT", &unit.to_string()),
                ("SPEED", &speed.to_string()),
                ("NODE", &plain(&self.info.node)),
                ("SIZE", &self.size_mib.to_string()),
                ("CMDLINE", &self.cmdline()),
                ("LOADERS", &loaders(self.layout, which)),
            ],
        )
    }

    /// The kernel's parameters, besides those that the menu's entries set.
    pub fn cmdline(&self) -> String {
        cmdline(self.config, self.info, &running_cmdline())
    }

    /// The serial port that the menu is on as well: its number and its speed.
    pub fn serial(&self) -> (u32, u32) {
        menu_port(&consoles(&self.config.rescue, &self.info.consoles, &running_cmdline()))
    }

    pub fn theme(&self) -> String {
        let date = shown_time(&self.layout.node.recorded);
        let product = format!("{} {}", self.layout.node.vendor, self.layout.node.product);
        let os = format!("{}  {}", self.layout.node.os, product.trim());
        let what = match self.info.medium {
            Some(_) => "Rescue system of rr, with the backup",
            None => "Rescue system of rr",
        };
        theme(self.font, &self.info.node, &format!("{what}, made {date}"), os.trim())
    }
}

/// The menu of a backup disk, whose filesystem has the label `label`.
#[derive(Debug)]
pub struct DiskMenu<'a> {
    pub label: &'a str,
    /// As in [`Menu`].
    pub id: &'a str,
    pub font: &'a str,
}

impl DiskMenu<'_> {
    pub fn grub_cfg(&self) -> String {
        let filled = [
            ("ID", self.id),
            ("TIMEOUT", &TIMEOUT_SECONDS.to_string()),
            // Left in a machine, it harms nothing.
            ("DEFAULT", default_entry(MenuDefault::Local)),
            ("UNIT", "0"),
            ("SPEED", "115200"),
            // Whose loader it would be is not known: the firmware's next choice.
            ("LOADERS", "none"),
        ];
        fill(&format!("{MEDIUM}\n{HEAD}\n{DISK}"), &filled)
    }

    pub fn theme(&self) -> String {
        let subtitle = "Backups and rescue systems of rr. Which node?";
        theme(self.font, self.label, subtitle, "")
    }
}

/// The entries of a node in the menu of the backup disk that holds these generations, oldest first.
/// `dir` is where the image lies in the node's tree, with a slash at its end.
pub fn of_node(
    config: &Config,
    info: &RescueInfo,
    generations: &[String],
    (dir, size_mib): (&str, u64),
) -> String {
    let cmdline = cmdline(config, info, &running_cmdline());
    let size_mib = size_mib.to_string();
    let common =
        [("NODE", info.node.as_str()), ("DIR", dir), ("SIZE", &size_mib), ("CMDLINE", &cmdline)];
    let entry = |generation: &String| {
        let time = catalog::time_of(generation).map(|time| shown_time(&time.to_string()));
        let date = time.unwrap_or_default();
        let own = [("GENERATION", generation.as_str()), ("DATE", date.as_str())];
        fill(&fill(GENERATION, &own), &common)
    };
    let generations: String = generations.iter().rev().map(entry).collect();
    fill(&fill(NODE, &[("GENERATIONS", &generations)]), &common)
}

/// The rescue system's submenu in the menu of the node itself. The image lies in a directory of a
/// filesystem: its UUID, and the path there.
pub fn local(
    config: &Config,
    info: &RescueInfo,
    (uuid, dir): (&str, &Path),
    size_mib: u64,
) -> String {
    let cmdline = cmdline(config, info, &running_cmdline());
    let (dir, size_mib) = (format!("{}/", dir.display()), size_mib.to_string());
    let dir = dir.replace("//", "/");
    let node = plain(&info.node);
    let common = [
        ("NODE", &*node),
        ("SIZE", &size_mib),
        ("UUID", uuid),
        ("DIR", &dir),
        ("CMDLINE", &cmdline),
    ];
    fill(LOCAL, &common)
}

/// Whether this is such a menu.
pub fn is_local(menu: &[u8]) -> bool {
    LOCAL.lines().next().is_some_and(|first| menu.starts_with(first.as_bytes()))
}

/// Such entries without those of generations that are not there any more. All else was written on
/// the node, which may be another machine than this one, and stays.
pub fn only(entries: &str, generations: &[String]) -> String {
    let mut kept = String::new();
    let mut entry = String::new();
    for line in entries.lines().map(|line| format!("{line}\n")) {
        if entry.is_empty() && !line.starts_with(EARLIER) {
            kept += &line;
            continue;
        }
        entry += &line;
        if line == EARLIER_END {
            let of = entry.split_whitespace().find_map(|word| word.strip_prefix("rr.gen="));
            if of.is_none_or(|of| generations.iter().any(|generation| generation == of)) {
                kept += &entry;
            }
            entry.clear();
        }
    }
    kept + &entry
}

fn theme(font: &str, title: &str, subtitle: &str, detail: &str) -> String {
    let (title, subtitle, detail) = (plain(title), plain(subtitle), plain(detail));
    let texts =
        [("TITLE", &*title), ("SUBTITLE", &*subtitle), ("DETAIL", &*detail), ("FONT", font)];
    fill(THEME, &texts)
}

/// Fills in the words between @ signs.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

/// Text without what a boot loader's parser would read as something else.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || "\"'\\$`{}".contains(c) { ' ' } else { c }).collect()
}

/// The entry's name, which is also the word for it in `rr.recover=`.
pub(super) fn default_entry(default: MenuDefault) -> &'static str {
    match default {
        MenuDefault::Local => "local",
        MenuDefault::Auto => "auto",
        MenuDefault::Ask => "ask",
        MenuDefault::Shell => "shell",
    }
}

/// The kernel's parameters where no image was made for it, from the configuration and the kernel that
/// runs.
pub(super) fn parameters(config: &Config) -> String {
    words(config, &[], "", &running_cmdline())
}

/// The kernel's parameters, besides `rr.recover=` which the menu's entries set.
fn cmdline(config: &Config, info: &RescueInfo, running: &str) -> String {
    words(config, &info.consoles, &info.cmdline, running)
}

fn words(config: &Config, own_consoles: &[String], more: &str, running: &str) -> String {
    // A tmpfs, which the kernel takes otherwise, holds half of the memory: a large image would not
    // be unpacked whole where there are 512 MiB.
    // SELinux without a policy refuses labels (before Linux 5.5) or keeps them in memory only.
    let words = ["rootfstype=ramfs", "selinux=0", "loglevel=3", "console=tty0"];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    let consoles = consoles(&config.rescue, own_consoles, running);
    words.extend(consoles.iter().map(|console| format!("console={console}")));
    // Interfaces get the names that the node knows them by.
    let naming = running
        .split_whitespace()
        .filter(|word| word.starts_with("net.ifnames=") || word.starts_with("biosdevname="));
    words.extend(naming.map(str::to_owned));
    words.extend(config.rescue.cmdline.split_whitespace().map(str::to_owned));
    words.extend(more.split_whitespace().map(str::to_owned));
    // Those of the configuration are such.
    words.retain(|word| is_parameter(word));
    words.join(" ")
}

/// The serial consoles: the configured ones; else those of the node, and the first serial port.
fn consoles(config: &RescueConfig, own: &[String], running: &str) -> Vec<String> {
    if !config.console.is_empty() {
        return config.console.iter().map(|console| console.0.clone()).collect();
    }
    if !own.is_empty() {
        return own.to_vec();
    }
    let mut found: Vec<String> = running
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("console="))
        .filter(|console| console.starts_with("tty") && serial_port(console).is_some())
        .map(str::to_owned)
        .collect();
    if !found.iter().any(|console| console.starts_with("ttyS0")) {
        // The node's own consoles come later, so that they are the kernel's first choice.
        found.insert(0, "ttyS0,115200".to_owned());
    }
    found
}

/// A menu can be on one port only: the last, as the kernel prefers it. Somebody sits at that one.
fn menu_port(consoles: &[String]) -> (u32, u32) {
    consoles.iter().rev().find_map(|console| serial_port(console)).unwrap_or((0, 115_200))
}

/// `ttyS1,9600n8` is unit 1 at 9600 baud.
fn serial_port(console: &str) -> Option<(u32, u32)> {
    let (port, options) = console.split_once(',').unwrap_or((console, ""));
    let unit = port.strip_prefix("ttyS")?.parse().ok()?;
    let digits: String = options.chars().take_while(char::is_ascii_digit).collect();
    Some((unit, digits.parse().unwrap_or(115_200)))
}

/// The node's boot loaders as GRUB paths, for "Boot from the first disk" on UEFI.
fn loaders(layout: &Layout, which: Loaders) -> String {
    if layout.boot.firmware != Firmware::Uefi {
        return "none".into();
    }
    let mut paths: Vec<String> = Vec::new();
    for entry in &layout.boot.efi_entry {
        let path = entry.path.replace('\\', "/");
        let is_of_media = path.to_ascii_lowercase().starts_with("/efi/boot/");
        let fits = path.starts_with('/')
            && (which == Loaders::All || !is_of_media)
            && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        if fits && !paths.contains(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() { "none".into() } else { paths.join(" ") }
}

fn running_cmdline() -> String {
    std::fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn info() -> RescueInfo {
        RescueInfo {
            version: super::super::info::VERSION,
            node: "node001".into(),
            target: "nfs://s/x".into(),
            rr: "0".into(),
            consoles: Vec::new(),
            cmdline: String::new(),
            asks_login: false,
            target_options: crate::config::TargetOptions::default(),
            read_login: Default::default(),
            target_device: None,
            medium: None,
            product_uuid: None,
        }
    }

    #[test]
    fn the_kernel_gets_screen_and_serial_consoles_and_the_names_of_interfaces() {
        let config = Config::default();
        let running = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 console=tty0 console=ttyS1,9600n8 net.ifnames=0 quiet";
        assert_eq!(
            cmdline(&config, &info(), running),
            "rootfstype=ramfs selinux=0 loglevel=3 console=tty0 console=ttyS0,115200 console=ttyS1,9600n8 net.ifnames=0"
        );
    }

    #[test]
    fn the_menu_is_on_the_serial_port_that_the_node_uses() {
        let of = |running: &str| menu_port(&consoles(&RescueConfig::default(), &[], running));
        assert_eq!(of("quiet"), (0, 115_200));
        // Management boards have the second or the third port.
        assert_eq!(of("console=tty0 console=ttyS1,57600n8 quiet"), (1, 57_600));
        assert_eq!(of("console=ttyS1,57600n8 console=tty0"), (1, 57_600));
        assert_eq!(of("console=ttyS1,57600 console=ttyS0,9600"), (0, 9600));
        assert_eq!(of("console=ttyS0 console=ttyS2"), (2, 115_200));
    }

    #[test]
    fn a_configured_console_is_the_only_one() {
        let mut config = Config::default();
        config.rescue.console = vec![crate::config::Console("ttyS2,57600".into())];
        config.rescue.cmdline = "mitigations=off".into();
        assert_eq!(
            cmdline(&config, &info(), ""),
            "rootfstype=ramfs selinux=0 loglevel=3 console=tty0 console=ttyS2,57600 mitigations=off"
        );
        assert_eq!(serial_port("ttyS2,57600n8"), Some((2, 57600)));
        assert_eq!(serial_port("tty0"), None);
    }

    #[test]
    fn the_first_disk_is_not_the_stick_itself() {
        let mut layout = super::super::tests::layout();
        layout.boot.firmware = Firmware::Uefi;
        let mut of = |paths: &[&str], which: Loaders| {
            let entry = |path: &&str| crate::layout::EfiEntry {
                number: 1,
                label: String::new(),
                partition: uuid::Uuid::nil(),
                path: (*path).to_owned(),
                active: true,
            };
            layout.boot.efi_entry = paths.iter().map(entry).collect();
            loaders(&layout, which)
        };
        // AMI's "UEFI OS" is the last of these.
        let node =
            [r"\EFI\debian\shimx64.efi", r"\EFI\debian\shimx64.efi", r"\EFI\BOOT\BOOTX64.EFI"];
        assert_eq!(of(&node, Loaders::NotOfMedia), "/EFI/debian/shimx64.efi");
        assert_eq!(of(&[r"\efi\boot\grubx64.efi"], Loaders::NotOfMedia), "none");
        // From the network nothing else is there, and not every firmware goes on when GRUB ends.
        assert_eq!(of(&node, Loaders::All), "/EFI/debian/shimx64.efi /EFI/BOOT/BOOTX64.EFI");
    }

    #[test]
    fn entries_of_generations_that_are_gone_go() {
        let all = ["20261119T013500Z", "20261120T013500Z", "20261121T013500Z"].map(str::to_owned);
        let of = |generations: &[String]| {
            of_node(&Config::default(), &info(), generations, ("rescue/000001/", 80))
        };
        assert_eq!(only(&of(&all), &all), of(&all));
        assert_eq!(only(&of(&all), &all[1..2]), of(&all[1..2]));
        assert_eq!(only(&of(&all), &[]), of(&[]));
        // Whatever is there that was not understood stays.
        let foreign = "menuentry \"x\" {\n}\n    menuentry \"half\" {\n";
        assert_eq!(only(foreign, &[]), foreign);
    }

    #[test]
    fn a_name_can_not_break_out_of_the_menu() {
        assert_eq!(plain("a\"$(x)'\n`b"), "a  (x)   b");
    }

    #[test]
    fn every_word_of_the_template_is_filled_in() {
        let layout = super::super::tests::layout();
        let (config, info) = (Config::default(), info());
        let menu = Menu {
            layout: &layout,
            config: &config,
            info: &info,
            id: "abc",
            size_mib: 40,
            font: "Unifont Regular 16",
        };
        for text in [menu.grub_cfg(), menu.theme()] {
            let left = text.lines().find(|line| line.contains('@') && !line.starts_with('#'));
            assert_eq!(left, None);
        }
        assert!(menu.grub_cfg().contains("set default=local"));

        let disk = DiskMenu { label: "RR-BACKUP", id: "abc", font: "Unifont Regular 16" };
        let generations = ["20261120T013500Z", "20261121T013500Z"].map(String::from);
        let node = of_node(&config, &info, &generations, ("rescue/000001/", 40));
        let local = local(&config, &info, ("1-2", Path::new("/boot/rr/rescue/000001/")), 40);
        for text in [disk.grub_cfg(), disk.theme(), node.clone(), local.clone()] {
            let left = text.lines().find(|line| line.contains('@') && !line.starts_with('#'));
            assert_eq!(left, None);
        }
        assert!(local.contains("linux /boot/rr/rescue/000001/kernel rr.recover=$1 "), "{local}");
        assert!(local.contains("--set=root 1-2\n") && local.contains("default=rr-ask"), "{local}");
        let newest = node.find("rr.gen=20261121T013500Z").unwrap();
        assert!(newest < node.find("rr.gen=20261120T013500Z").unwrap(), "{node}");
        assert!(node.contains("2026-11-20"), "{node}");
        assert_eq!(node.matches("/backup/node001/rescue/000001/initrd").count(), 5, "{node}");
    }

    /// By GRUB's own parser.
    #[test]
    fn the_menus_are_in_the_language_of_grub() {
        let layout = super::super::tests::layout();
        let (config, info) = (Config::default(), info());
        let (id, font) = ("abc", "Unifont Regular 16");
        let menu = Menu { layout: &layout, config: &config, info: &info, id, size_mib: 40, font };
        let disk = DiskMenu { label: "RR-BACKUP", id, font };
        let node = of_node(&config, &info, &["20261120T013500Z".to_owned()], ("", 40));
        if crate::sys::tools::find("grub-script-check".as_ref()).is_none() {
            eprintln!("skipped: no grub-script-check here");
            return;
        }
        let local = local(&config, &info, ("1-2", Path::new("/boot/rr/rescue/000001/")), 40);
        for text in [menu.grub_cfg(), disk.grub_cfg(), node, local] {
            crate::sys::run::Cmd::new("grub-script-check").stdin(text).run().unwrap();
        }
    }
}
