//! xfs: what `xfs_info` tells, of a mounted filesystem or of a device.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::layout::XfsOptions;
use crate::sys::run::Cmd;

/// Asks about the filesystem on `device`, by its mount point where it has one: a mounted
/// filesystem is only up to date there.
pub fn read(device: &str, mounted_at: Option<&Path>) -> Result<(XfsOptions, Log)> {
    let output = Cmd::new("xfs_info").arg(mounted_at.unwrap_or(Path::new(device))).stdout()?;
    parse(&String::from_utf8_lossy(&output))
        .with_context(|| format!("reading the geometry of the xfs on {device}"))
}

/// Where the log is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Log {
    #[default]
    Within,
    /// On a device of its own, which is known of a mounted filesystem alone.
    Outside(Option<String>),
}

/// Parses `xfs_info`. Its lines are `section =words key=value, key=value`; a section goes on over
/// lines that start with blanks. Newer versions only add keys.
pub fn parse(text: &str) -> Result<(XfsOptions, Log)> {
    let mut options = XfsOptions::default();
    let mut log = Log::Within;
    let mut section = "";
    let mut seen = 0;
    for line in text.lines() {
        let Some((head, rest)) = line.split_once('=') else { continue };
        if let Some(name) = head.split_whitespace().next() {
            section = name;
        }
        match elsewhere(head, rest) {
            Some(("log", device)) => {
                log = Log::Outside(device.starts_with('/').then(|| device.to_owned()));
            }
            Some((section, device)) => bail!(
                "its {section} section is on a device of its own ({device}), which rr does not make"
            ),
            None => {}
        }
        // "meta-data=/dev/a=b   isize=512": the first word is a name, whatever is in it.
        let words = if line.starts_with("meta-data") {
            rest.split_once(char::is_whitespace).map_or("", |(_, words)| words)
        } else {
            rest
        };
        for word in words.split([' ', ',']).filter(|w| !w.is_empty()) {
            let Some((key, value)) = word.split_once('=') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            seen += 1;
            assign(&mut options, section, key, value);
        }
    }
    anyhow::ensure!(
        seen > 0 && options.block_bytes > 0 && options.blocks > 0,
        "this is no output of xfs_info: {text:?}"
    );
    Ok((options, log))
}

/// A log or a realtime section that is outside: `log      =/dev/sdb1   bsize=4096 ...`.
fn elsewhere<'a>(head: &'a str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    let section = head.trim_end();
    let device = rest.split_whitespace().next()?;
    let outside = device == "external" || device.starts_with('/');
    (matches!(section, "log" | "realtime") && outside).then_some((section, device))
}

fn assign(options: &mut XfsOptions, section: &str, key: &str, value: u64) {
    match (section, key) {
        ("meta-data", "isize") => options.inode_bytes = value,
        ("meta-data", "agcount") => options.agcount = value,
        ("meta-data", "sectsz") => options.sector_bytes = value,
        ("data", "bsize") => options.block_bytes = value,
        ("data", "blocks") => options.blocks = value,
        ("data", "imaxpct") => options.imaxpct = value,
        ("data", "sunit") => options.sunit_blocks = value,
        ("data", "swidth") => options.swidth_blocks = value,
        ("naming", "bsize") => options.dir_block_bytes = value,
        ("log", "blocks") => options.log_blocks = value,
        // Follows from the size, or is the log's and the realtime section's own geometry.
        ("meta-data", "agsize") => options.ag_blocks = Some(value),
        ("log", "bsize" | "sectsz" | "sunit" | "version") => {}
        ("meta-data" | "data" | "naming" | "log", flag) => {
            options.flags.insert(flag.to_owned(), value);
        }
        _ => {}
    }
}
