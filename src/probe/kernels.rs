//! The kernels that a system can start, by what is in its tree: that of the running system, or one that
//! was restored.

use std::path::{Path, PathBuf};

use super::menu;
use crate::sys::inside;

/// A kernel of the boot menu, and where its files are in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub entry: menu::Entry,
    /// As true in a chroot: `/boot/vmlinuz-6.1.0-28-amd64`. None where the file is not there.
    pub kernel: Option<PathBuf>,
    pub initrds: Vec<(String, Option<PathBuf>)>,
}

/// What the system's boot menu offers, the default first.
pub fn kernels(root: &Path) -> Vec<Kernel> {
    let mut entries = Vec::new();
    let mut bls = false;
    for dir in ["/boot/grub", "/boot/grub2"] {
        let text = inside::read(root, Path::new(dir).join("grub.cfg")).unwrap_or_default();
        bls |= menu::uses_bls(&text);
        entries.extend(menu::parse_grub(&text));
    }
    if bls || entries.is_empty() {
        let mut found = bls_entries(root);
        found.append(&mut entries);
        entries = found;
    }
    if entries.is_empty() {
        entries.extend(newest(root));
    }
    entries.into_iter().map(|entry| locate(root, entry)).collect()
}

/// The entries of `/boot/loader/entries`, those with the highest names first, as GRUB sorts them
/// well enough to find the newest kernel.
fn bls_entries(root: &Path) -> Vec<menu::Entry> {
    let env = inside::read(root, "/boot/grub2/grubenv").unwrap_or_default();
    let saved = menu::grubenv(&env, "saved_entry").unwrap_or_default();
    let mut entries = Vec::new();
    for dir in ["/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries"] {
        let mut names = inside::names(root, dir);
        names.retain(|name| name.ends_with(".conf"));
        names.sort_by_key(|name| (name.strip_suffix(".conf") == Some(&saved), name.clone()));
        for name in names.iter().rev() {
            let text = inside::read(root, Path::new(dir).join(name)).unwrap_or_default();
            entries.extend(menu::parse_bls(&text, &|name| menu::grubenv(&env, name)));
        }
    }
    entries
}

/// The newest kernel in /boot by its name, where no configuration is understood.
fn newest(root: &Path) -> Option<menu::Entry> {
    let names = inside::names(root, "/boot");
    let kernel = names.iter().rfind(|name| version(name).is_some())?;
    let version = version(kernel)?;
    let initrds = [format!("initrd.img-{version}"), format!("initramfs-{version}.img")];
    Some(menu::Entry {
        title: "newest kernel in /boot".into(),
        kernel: format!("/boot/{kernel}"),
        initrds: initrds
            .into_iter()
            .filter(|n| names.contains(n))
            .map(|n| format!("/boot/{n}"))
            .collect(),
        ..menu::Entry::default()
    })
}

fn locate(root: &Path, entry: menu::Entry) -> Kernel {
    Kernel {
        kernel: in_tree(root, &entry.kernel),
        initrds: entry.initrds.iter().map(|name| (name.clone(), in_tree(root, name))).collect(),
        entry,
    }
}

/// Where a file that the loader names is in the tree: it counts from the filesystem that /boot is
/// on, or from an ESP.
fn in_tree(root: &Path, name: &str) -> Option<PathBuf> {
    let name = name.trim_start_matches('/');
    // GRUB counts from the top of a btrfs, where Ubuntu's root is the subvolume `@`.
    let below = name.split_once('/').filter(|(first, _)| first.starts_with('@'));
    let name = Path::new(below.map_or(name, |(_, rest)| rest));
    ["/", "/boot", "/boot/efi", "/efi"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| inside::find(root, path).is_some_and(|file| file.is_file()))
}

/// The version of a kernel, by its name: `/boot/vmlinuz-6.1.0-28-amd64`.
pub fn version(kernel: &str) -> Option<&str> {
    let name = kernel.rsplit('/').next()?;
    name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("linux-")).filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree() -> tempfile::TempDir {
        let tmp = tempfile::tempdir().unwrap();
        let boot = tmp.path().join("boot");
        fs::create_dir_all(boot.join("grub")).unwrap();
        let grub = include_str!("../../tests/fixtures/grub/debian12.cfg");
        fs::write(boot.join("grub/grub.cfg"), grub).unwrap();
        fs::write(boot.join("vmlinuz-6.1.0-28-amd64"), "kernel").unwrap();
        fs::write(boot.join("initrd.img-6.1.0-28-amd64"), "070701").unwrap();
        tmp
    }

    #[test]
    fn without_a_menu_the_newest_kernel_counts() {
        let tmp = tree();
        let root = tmp.path();
        fs::remove_file(root.join("boot/grub/grub.cfg")).unwrap();
        let found = kernels(root);
        assert_eq!(found[0].kernel.as_deref(), Some(Path::new("/boot/vmlinuz-6.1.0-28-amd64")));
        assert_eq!(found[0].initrds.len(), 1);
    }

    #[test]
    fn a_kernel_in_a_subvolume_is_found_where_it_is_mounted() {
        let tmp = tree();
        let root = tmp.path();
        for name in ["/@/boot/vmlinuz-6.1.0-28-amd64", "/@boot/vmlinuz-6.1.0-28-amd64"] {
            let found = in_tree(root, name);
            assert_eq!(found.as_deref(), Some(Path::new("/boot/vmlinuz-6.1.0-28-amd64")), "{name}");
        }
        assert_eq!(in_tree(root, "/other/boot/vmlinuz-6.1.0-28-amd64"), None);
    }

    #[test]
    fn bls_entries_come_from_the_loader_directory_with_the_saved_one_first() {
        let tmp = tree();
        let root = tmp.path();
        fs::remove_dir_all(root.join("boot/grub")).unwrap();
        fs::create_dir_all(root.join("boot/grub2")).unwrap();
        fs::create_dir_all(root.join("boot/loader/entries")).unwrap();
        fs::write(root.join("boot/grub2/grub.cfg"), "insmod blscfg\nblscfg\n").unwrap();
        fs::write(root.join("boot/grub2/grubenv"), "saved_entry=m-5.14.0-1\n").unwrap();
        for version in ["5.14.0-1", "5.14.0-2"] {
            let text = format!(
                "linux /vmlinuz-{version}\ninitrd /initramfs-{version}.img\noptions root=UUID=1\n"
            );
            fs::write(root.join(format!("boot/loader/entries/m-{version}.conf")), text).unwrap();
        }
        let found = kernels(root);
        assert_eq!(found[0].entry.kernel, "/vmlinuz-5.14.0-1");
        assert_eq!(found[1].entry.kernel, "/vmlinuz-5.14.0-2");
    }

    #[test]
    fn a_kernel_says_its_version() {
        assert_eq!(version("/vmlinuz-6.1.0-28-amd64"), Some("6.1.0-28-amd64"));
        assert_eq!(version("/boot/vmlinuz"), None);
        assert_eq!(version("/boot/vmlinuz-"), None);
    }
}
