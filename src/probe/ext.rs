//! ext2, ext3 and ext4: what `dumpe2fs -h` tells.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::layout::ExtOptions;
use crate::sys::run::Cmd;

/// Listed among the features, and rather what the filesystem is going through.
const STATES: &[&str] = &["needs_recovery", "orphan_present"];

/// What mke2fs(8) takes for `flex_bg` by itself.
const FLEX_GROUPS: u64 = 16;
/// As it does for `bigalloc`.
const CLUSTER_BLOCKS: u64 = 16;

/// Reads the superblock of `device`.
pub fn read(device: &str) -> Result<ExtOptions> {
    let output = Cmd::new("dumpe2fs").args(["-h", device]).stdout()?;
    parse(&String::from_utf8_lossy(&output))
        .with_context(|| format!("reading the superblock of {device}"))
}

/// Parses `dumpe2fs -h`.
pub fn parse(text: &str) -> Result<ExtOptions> {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let number = |key: &str| -> Result<u64> {
        let value = fields.get(key).with_context(|| format!("dumpe2fs did not say {key:?}"))?;
        first_word(value).parse().with_context(|| format!("{key} is {value:?}"))
    };
    let optional = |key: &str| fields.get(key).and_then(|v| first_word(v).parse().ok());
    let words = |key: &str| -> Vec<String> {
        let value = fields.get(key).copied().unwrap_or_default();
        value.split_whitespace().filter(|w| *w != "(none)").map(str::to_owned).collect()
    };
    let block_bytes = number("Block size")?;
    let mut features = words("Filesystem features");
    features.retain(|feature| !STATES.contains(&feature.as_str()));
    Ok(ExtOptions {
        block_bytes,
        blocks: number("Block count")?,
        inode_bytes: number("Inode size")?,
        inodes: number("Inode count")?,
        features,
        reserved_blocks: number("Reserved block count")?,
        stride: optional("RAID stride"),
        stripe_width: optional("RAID stripe width"),
        cluster_bytes: optional("Cluster size")
            .filter(|bytes| *bytes != CLUSTER_BLOCKS * block_bytes),
        reserved_uid: optional("Reserved blocks uid").filter(|uid| *uid != 0),
        reserved_gid: optional("Reserved blocks gid").filter(|gid| *gid != 0),
        // tune2fs sets none with a comma.
        more_mount_options: fields
            .get("Mount options")
            .filter(|options| !options.is_empty() && !options.contains(','))
            .map(|options| (*options).to_owned()),
        // What mke2fs makes by itself goes without saying: rescue images of before know no such key.
        flex_groups: optional("Flex block group size").filter(|groups| *groups != FLEX_GROUPS),
        hash_seed: fields.get("Directory Hash Seed").map(|v| (*v).to_owned()),
        // Not "journal size", which is rounded. Since 1.46 the first, before that the second.
        journal_bytes: optional("Total journal blocks")
            .or_else(|| optional("Journal length"))
            .and_then(|blocks: u64| blocks.checked_mul(block_bytes)),
        mount_options: words("Default mount options"),
        max_mount_count: fields
            .get("Maximum mount count")
            .and_then(|v| v.parse().ok())
            .unwrap_or_default(),
        check_interval_seconds: optional("Check interval").unwrap_or_default(),
        errors: fields.get("Errors behavior").map(|v| (*v).to_owned()),
    })
}

fn first_word(value: &str) -> &str {
    value.split_whitespace().next().unwrap_or_default()
}
