//! btrfs: what `btrfs` tells of a filesystem, mounted or not.

use std::path::Path;

use anyhow::{Context, Result};

use crate::layout::{BtrfsOptions, Subvolume};
use crate::sys::run::Cmd;

/// What is known of one filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Without `device`: see [`Found::devices`].
    pub options: BtrfsOptions,
    /// Path and size of each device that is here, by number.
    pub devices: Vec<(String, u64)>,
}

/// Reads the filesystem on `device`. Which subvolumes there are is known only where it is mounted.
pub fn read(device: &str, mounted_at: Option<&Path>) -> Result<Found> {
    let show = btrfs(&["filesystem", "show", "--raw", device])?;
    let superblock = btrfs(&["inspect-internal", "dump-super", device])?;
    let mut found = parse_super(&superblock)
        .with_context(|| format!("reading the superblock of {device}"))
        .map(|options| Found { options, devices: Vec::new() })?;
    found.devices = parse_show(&show);
    let profiles = match mounted_at {
        Some(path) => parse_df(&on_path(&["filesystem", "df", "-b"], path)?),
        None => parse_chunks(&btrfs(&["inspect-internal", "dump-tree", "-t", "chunk", device])?),
    };
    let (data, metadata) = profiles.with_context(|| format!("the profiles of {device}"))?;
    (found.options.data_profile, found.options.metadata_profile) = (data, metadata);
    if let Some(path) = mounted_at {
        let list = on_path(&["subvolume", "list", "-apuq"], path)?;
        let default = on_path(&["subvolume", "get-default"], path)?;
        read_subvolumes(&mut found.options, &list, &default);
    }
    Ok(found)
}

fn btrfs(args: &[&str]) -> Result<String> {
    Cmd::new("btrfs").args(args).stdout().map(|text| String::from_utf8_lossy(&text).into_owned())
}

fn on_path(args: &[&str], path: &Path) -> Result<String> {
    let text = Cmd::new("btrfs").args(args).arg(path).stdout()?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Parses `btrfs filesystem show --raw`: path and size of each device that is not missing.
pub fn parse_show(text: &str) -> Vec<(String, u64)> {
    let mut devices: Vec<(u64, String, u64)> = text
        .lines()
        .filter_map(|line| {
            let rest = line.trim().strip_prefix("devid")?;
            let (numbers, path) = rest.split_once(" path ")?;
            let words: Vec<&str> = numbers.split_whitespace().collect();
            let size = words.iter().position(|w| *w == "size")?;
            let size: u64 = words.get(size + 1)?.parse().ok()?;
            let missing = path.trim().is_empty() || path.ends_with("MISSING") || size == 0;
            (!missing).then(|| Some((words[0].parse().ok()?, path.trim().to_owned(), size)))?
        })
        .collect();
    devices.sort();
    devices.into_iter().map(|(_, path, size)| (path, size)).collect()
}

/// Parses `btrfs inspect-internal dump-super`.
pub fn parse_super(text: &str) -> Result<BtrfsOptions> {
    let field = |key: &str| -> Result<&str> {
        let mut lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let found = lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim());
        found.with_context(|| format!("dump-super did not say {key}"))
    };
    let number = |key: &str| -> Result<u64> {
        field(key)?.parse().with_context(|| format!("{key} is no number"))
    };
    let checksum = field("csum_type")?;
    let checksum = checksum.split(['(', ')']).nth(1).context("the kind of checksums")?;
    Ok(BtrfsOptions {
        node_bytes: number("nodesize")?,
        sector_bytes: number("sectorsize")?,
        checksum: checksum.split('-').next().unwrap_or(checksum).to_owned(),
        features: flags(text),
        devices: number("num_devices")?,
        ..BtrfsOptions::default()
    })
}

/// The names in the parentheses below `compat_ro_flags` and `incompat_flags`.
fn flags(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if !line.starts_with(char::is_whitespace) {
            inside = line.starts_with("compat_ro_flags") || line.starts_with("incompat_flags");
            continue;
        }
        let words = line.trim().trim_matches(|c| "()|".contains(c) || c == ' ');
        if inside && !words.is_empty() {
            names.push(words.to_lowercase());
        }
    }
    names
}

/// Parses `btrfs filesystem df`: the profiles of data and of metadata. Where there are several (a
/// conversion that did not end), the larger counts.
pub fn parse_df(text: &str) -> Option<(String, String)> {
    let lines = text.lines().filter_map(|line| {
        let (kind, rest) = line.split_once(", ")?;
        let (profile, rest) = rest.split_once(':')?;
        let total = rest.split("total=").nth(1)?.split(',').next()?.parse().ok()?;
        Some((kind.to_owned(), profile.to_owned(), total))
    });
    profiles(lines.collect())
}

/// Parses `btrfs inspect-internal dump-tree -t chunk`.
pub fn parse_chunks(text: &str) -> Option<(String, String)> {
    let lines = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("length ")?;
        let length: u64 = rest.split_whitespace().next()?.parse().ok()?;
        let kinds: Vec<&str> = rest.split(" type ").nth(1)?.trim().split('|').collect();
        const CONTENT: [&str; 3] = ["DATA", "METADATA", "SYSTEM"];
        let profile = kinds.iter().find(|k| !CONTENT.contains(k)).unwrap_or(&"single");
        let kind = if kinds.contains(&"DATA") { "Data" } else { "Metadata" };
        (!kinds.contains(&"SYSTEM")).then(|| (kind.to_owned(), (*profile).to_owned(), length))
    });
    profiles(lines.collect())
}

fn profiles(mut found: Vec<(String, String, u64)>) -> Option<(String, String)> {
    found.sort_by_key(|(_, _, bytes)| *bytes);
    let of = |kinds: &[&str]| {
        let found = found.iter().rfind(|(kind, _, _)| kinds.contains(&kind.as_str()))?;
        Some(found.1.to_lowercase())
    };
    let data = of(&["Data", "Data+Metadata"])?;
    // Data and metadata are mixed on small filesystems.
    let metadata = of(&["Metadata"]).unwrap_or_else(|| data.clone());
    Some((data, metadata))
}

/// Takes in `btrfs subvolume list -apuq` and `btrfs subvolume get-default`.
///
/// A snapshot is a copy of another subvolume that is not the default one. One that is mounted is
/// told apart by the caller, who knows the mounts.
pub fn read_subvolumes(options: &mut BtrfsOptions, list: &str, default: &str) {
    let id = |text: &str| -> Option<u64> {
        text.strip_prefix("ID ")?.split_whitespace().next()?.parse().ok()
    };
    let default = id(default.trim());
    for line in list.lines() {
        let Some((head, path)) = line.split_once(" path ") else { continue };
        let Some(id) = id(head) else { continue };
        let path = path.strip_prefix("<FS_TREE>/").unwrap_or(path);
        let subvolume = Subvolume { path: path.to_owned().into(), id };
        let words: Vec<&str> = head.split_whitespace().collect();
        let parent =
            words.iter().position(|w| *w == "parent_uuid").and_then(|at| words.get(at + 1));
        if default == Some(id) {
            options.default_subvolume = Some(subvolume.path.clone());
        }
        if default != Some(id) && parent.is_some_and(|parent| *parent != "-") {
            options.snapshot.push(subvolume);
        } else {
            options.subvolume.push(subvolume);
        }
    }
    options.subvolume.sort_by(|a, b| a.path.cmp(&b.path));
    options.snapshot.sort_by(|a, b| a.path.cmp(&b.path));
}

/// Snapshots that are lived in are none: those that are mounted, and those that hold subvolumes.
pub fn keep_lived_in(options: &mut BtrfsOptions, is_mounted: &dyn Fn(&Path) -> bool) {
    let subvolumes: Vec<_> = options.subvolume.iter().map(|s| s.path.clone()).collect();
    let lived_in = |s: &Subvolume| {
        let holds = |path: &Path| path.starts_with(s.path.as_path());
        is_mounted(s.path.as_path()) || subvolumes.iter().any(|other| holds(other.as_path()))
    };
    let (kept, snapshots) = options.snapshot.drain(..).partition(lived_in);
    options.snapshot = snapshots;
    let mut kept: Vec<Subvolume> = kept;
    options.subvolume.append(&mut kept);
    options.subvolume.sort_by(|a, b| a.path.cmp(&b.path));
}
