//! EFI system partitions: what is on them for a firmware to start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::block::names_in;
use crate::layout::{Boot, EfiEntry, Id, Layout};

/// An EFI system partition (or a mirror of some) that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    pub dir: PathBuf,
    /// The GUIDs of the partitions that it is on.
    pub partitions: BTreeSet<Uuid>,
}

impl Esp {
    /// The EFI system partitions of the layout, as they are mounted below `root`.
    pub fn all(layout: &Layout, root: &Path) -> Vec<Esp> {
        let esps = layout.mount.iter().filter(|mount| layout.boot.esp.contains(&mount.fs));
        esps.map(|mount| {
            let path = mount.path.as_path();
            let dir = root.join(path.strip_prefix("/").unwrap_or(path));
            Esp { dir, partitions: partitions_below(layout, &mount.fs) }
        })
        .collect()
    }

    /// The recorded entries that start a file which is on it.
    pub fn entries<'a>(&self, boot: &'a Boot) -> Vec<&'a EfiEntry> {
        let here = |entry: &&EfiEntry| {
            self.partitions.contains(&entry.partition) && file(&self.dir, &entry.path).is_some()
        };
        boot.efi_entry.iter().filter(here).collect()
    }

    /// Whether entries were recorded for it, with their files or without.
    pub fn has_entries(&self, boot: &Boot) -> bool {
        boot.efi_entry.iter().any(|entry| self.partitions.contains(&entry.partition))
    }
}

fn partitions_below(layout: &Layout, id: &Id) -> BTreeSet<Uuid> {
    let mut guids = BTreeSet::new();
    let mut todo = vec![id.clone()];
    while let Some(id) = todo.pop() {
        match layout.partition.iter().find(|p| p.id == id) {
            Some(partition) => guids.extend(partition.uuid),
            None => todo.extend(layout.below(&id)),
        }
    }
    guids
}

/// The file that an entry's path (`\EFI\debian\shimx64.efi`) means on a mounted ESP. Letters count
/// alike, as on FAT.
pub fn file(esp: &Path, path: &str) -> Option<PathBuf> {
    let mut at = esp.to_owned();
    for part in path.split(['\\', '/']).filter(|part| !part.is_empty()) {
        let found = std::fs::read_dir(&at)
            .ok()?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().eq_ignore_ascii_case(part))?;
        at = found.path();
    }
    at.is_file().then_some(at)
}

/// The name that firmware tries by itself on a disk without an entry (UEFI specification 2.10,
/// section 3.5.1.1), by the architecture in the loader's own name.
pub fn fallback_path(loader: &str, arch: &str) -> &'static str {
    let loader = loader.to_ascii_lowercase();
    let has = |suffix: &str| loader.ends_with(suffix);
    match arch {
        _ if has("x64.efi") => r"\EFI\BOOT\BOOTX64.EFI",
        _ if has("aa64.efi") => r"\EFI\BOOT\BOOTAA64.EFI",
        _ if has("ia32.efi") => r"\EFI\BOOT\BOOTIA32.EFI",
        "aarch64" => r"\EFI\BOOT\BOOTAA64.EFI",
        _ => r"\EFI\BOOT\BOOTX64.EFI",
    }
}

/// The loaders on a mounted ESP that a firmware is likely to have started, where none of its entries is
/// known, the likeliest first: a shim, else GRUB or systemd-boot, in a vendor's directory. GRUB has a file
/// there that names the filesystem it starts from: what starts from none of these `filesystems` (UUIDs)
/// is of a system that was there before.
pub fn unnamed_loaders(esp: &Path, arch: &str, filesystems: &[&str]) -> Vec<String> {
    let suffix = if arch == "aarch64" { "aa64.efi" } else { "x64.efi" };
    let is_efi = |name: &String| name.eq_ignore_ascii_case("EFI");
    let Some(efi) = names_in(esp).into_iter().find(is_efi) else { return Vec::new() };
    let is_of_another = |vendor: &String| {
        let config = std::fs::read(esp.join(&efi).join(vendor).join("grub.cfg"));
        config.is_ok_and(|config| {
            let config = String::from_utf8_lossy(&config);
            !filesystems.iter().any(|uuid| !uuid.is_empty() && config.contains(uuid))
        })
    };
    let (others, own): (Vec<_>, Vec<_>) =
        names_in(&esp.join(&efi)).into_iter().partition(is_of_another);
    let of_vendors = |vendors: &[String]| {
        let kinds = ["shim", "grub", "systemd-boot"].into_iter();
        let paths = kinds.flat_map(|loader| {
            vendors.iter().map(move |vendor| format!(r"\EFI\{vendor}\{loader}{suffix}"))
        });
        paths.filter(|path| file(esp, path).is_some()).collect::<Vec<_>>()
    };
    [of_vendors(&own), of_vendors(&others)].concat()
}

/// Whether the firmware can start one of these: those that it knows by entries, and any where it knows
/// none. A recovery puts what it finds under the fallback path.
pub fn can_start(esps: &[Esp], boot: &Boot, arch: &str) -> bool {
    let starts = |esp: &&Esp| {
        !esp.entries(boot).is_empty()
            || file(&esp.dir, fallback_path("", arch)).is_some()
            || !unnamed_loaders(&esp.dir, arch, &[]).is_empty()
    };
    let known: Vec<&Esp> = esps.iter().filter(|esp| esp.has_entries(boot)).collect();
    if known.is_empty() { esps.iter().any(|esp| starts(&esp)) } else { known.iter().all(starts) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn entry(number: u16, path: &str) -> EfiEntry {
        EfiEntry {
            number,
            label: "debian".into(),
            partition: Uuid::from_u128(1),
            path: path.into(),
            active: true,
        }
    }

    #[test]
    fn only_entries_for_this_partition_whose_file_is_there_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("efi/Debian")).unwrap();
        std::fs::write(dir.path().join("efi/Debian/grubx64.efi"), "").unwrap();
        let partitions = BTreeSet::from([Uuid::from_u128(1)]);
        let esp = Esp { dir: dir.path().to_owned(), partitions };
        let elsewhere =
            EfiEntry { partition: Uuid::from_u128(2), ..entry(2, r"\EFI\debian\grubx64.efi") };
        let gone = entry(1, r"\EFI\old\grubx64.efi");
        let mut boot = Boot { efi_entry: vec![gone, elsewhere], ..Boot::default() };
        assert!(esp.has_entries(&boot) && esp.entries(&boot).is_empty());
        boot.efi_entry.push(entry(3, r"\EFI\debian\grubx64.efi"));
        assert_eq!(esp.entries(&boot), [&boot.efi_entry[2]]);
    }

    #[test]
    fn the_fallback_is_named_by_architecture() {
        assert_eq!(
            fallback_path(r"\EFI\debian\grubaa64.efi", "aarch64"),
            r"\EFI\BOOT\BOOTAA64.EFI"
        );
        assert_eq!(fallback_path(r"\loader.efi", "x86_64"), r"\EFI\BOOT\BOOTX64.EFI");
    }

    #[test]
    fn a_loader_without_an_entry_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let find = || unnamed_loaders(dir.path(), "x86_64", &["0f3c"]).into_iter().next();
        let put = |name: &str| {
            let file = dir.path().join("efi").join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        };
        put("Microsoft/Boot/bootmgfw.efi");
        put("a/grubaa64.efi");
        assert_eq!(find(), None);
        let esps = [Esp { dir: dir.path().to_owned(), partitions: BTreeSet::new() }];
        assert!(!can_start(&esps, &Boot::default(), "x86_64"));
        put("systemd/systemd-bootx64.efi");
        assert_eq!(find().as_deref(), Some(r"\EFI\systemd\systemd-bootx64.efi"));
        put("debian/grubx64.efi");
        assert_eq!(find().as_deref(), Some(r"\EFI\debian\grubx64.efi"));
        put("fedora/shimx64.efi");
        assert_eq!(find().as_deref(), Some(r"\EFI\fedora\shimx64.efi"));
        // Of a system that was there before.
        put("centos/shimx64.efi");
        let config = |vendor: &str, text: &str| {
            std::fs::write(dir.path().join("efi").join(vendor).join("grub.cfg"), text).unwrap();
        };
        config("centos", "search --fs-uuid --set=dev 7e57\n");
        assert_eq!(find().as_deref(), Some(r"\EFI\fedora\shimx64.efi"));
        config("fedora", "search.fs_uuid 7e57 root\n");
        config("debian", "search.fs_uuid 0f3c root\n");
        assert_eq!(find().as_deref(), Some(r"\EFI\debian\grubx64.efi"));
        assert!(can_start(&esps, &Boot::default(), "x86_64"));
        assert!(!can_start(&[], &Boot::default(), "x86_64"));
    }
}
