//! The command lines that make filesystems and swap as they were.

use super::step::{Argv, MakeFs};
use crate::layout::{BtrfsOptions, ExtOptions, F2fsOptions, Fs, Swap, VfatOptions, XfsOptions};

/// Features that mke2fs(8) does not take: the state of a mounted filesystem.
const EXT_STATE: &[&str] = &["needs_recovery", "orphan_present", "journal_needs_recovery"];

pub fn tools(kind: &str) -> &'static [&'static str] {
    match kind {
        "xfs" => &["mkfs.xfs"],
        "vfat" => &["mkfs.vfat"],
        "btrfs" => &["mkfs.btrfs"],
        "f2fs" => &["mkfs.f2fs"],
        _ => &["mke2fs", "tune2fs"],
    }
}

pub fn make_fs(make: &MakeFs) -> Vec<Argv> {
    let MakeFs { dev, more_devs, fs } = make;
    match fs.kind.as_str() {
        "btrfs" => vec![mkfs_btrfs(dev, more_devs, fs)],
        "xfs" => vec![mkfs_xfs(dev, more_devs, fs)],
        "vfat" => vec![mkfs_vfat(dev, fs)],
        "f2fs" => vec![mkfs_f2fs(dev, fs)],
        _ => make_ext(dev, fs),
    }
}

pub fn make_swap(dev: &str, swap: &Swap) -> Argv {
    let mut argv = words(&["mkswap", "-f"]);
    push_if(&mut argv, "-U", &swap.uuid);
    push_if(&mut argv, "-L", &swap.label);
    argv.push(dev.into());
    argv
}

fn make_ext(dev: &str, fs: &Fs) -> Vec<Argv> {
    let mut mke2fs = words(&["mke2fs", "-q", "-F", "-t", &fs.kind]);
    push_if(&mut mke2fs, "-U", &fs.uuid);
    push_if(&mut mke2fs, "-L", &fs.label);
    let Some(ext) = &fs.ext else {
        mke2fs.push(dev.into());
        return vec![mke2fs];
    };
    let features: Vec<_> =
        ext.features.iter().map(String::as_str).filter(|f| !EXT_STATE.contains(f)).collect();
    mke2fs.extend(words(&["-O", &format!("none,{}", features.join(","))]));
    mke2fs.extend(words(&["-b", &ext.block_bytes.to_string()]));
    mke2fs.extend(words(&["-I", &ext.inode_bytes.to_string()]));
    mke2fs.extend(words(&["-N", &ext.inodes.to_string()]));
    mke2fs.extend(words(&["-m", "0"]));
    if let Some(bytes) = ext.cluster_bytes.filter(|_| features.contains(&"bigalloc")) {
        mke2fs.extend(words(&["-C", &bytes.to_string()]));
    }
    if let Some(groups) = ext.flex_groups.filter(|_| features.contains(&"flex_bg")) {
        mke2fs.extend(words(&["-G", &groups.to_string()]));
    }
    let journal_mib = ext.journal_bytes.filter(|b| b % MIB == 0).map(|b| b / MIB);
    if let Some(mib) = journal_mib.filter(|_| features.contains(&"has_journal")) {
        mke2fs.extend(words(&["-J", &format!("size={mib}")]));
    }
    let extended = ext_extended(ext);
    if !extended.is_empty() {
        mke2fs.extend(words(&["-E", &extended]));
    }
    mke2fs.push(dev.into());
    mke2fs.push(ext.blocks.to_string());
    vec![mke2fs, tune2fs(dev, ext)]
}

const MIB: u64 = 1 << 20;

fn ext_extended(ext: &ExtOptions) -> String {
    let mut options = Vec::new();
    if let Some(stride) = ext.stride {
        options.push(format!("stride={stride}"));
    }
    if let Some(width) = ext.stripe_width {
        options.push(format!("stripe_width={width}"));
    }
    if let Some(seed) = &ext.hash_seed {
        options.push(format!("hash_seed={seed}"));
    }
    options.join(",")
}

/// What mke2fs has no option for.
fn tune2fs(dev: &str, ext: &ExtOptions) -> Argv {
    let mut argv = words(&["tune2fs", "-r", &ext.reserved_blocks.to_string()]);
    argv.extend(words(&["-c", &ext.max_mount_count.to_string()]));
    argv.extend(words(&["-i", &format!("{}s", ext.check_interval_seconds)]));
    if let Some(errors) = &ext.errors {
        // As dumpe2fs says it: "Remount read-only", or "Unknown (continue)" where nothing is set.
        let errors = match errors.to_ascii_lowercase() {
            errors if errors.contains("remount") => "remount-ro",
            errors if errors.contains("panic") => "panic",
            _ => "continue",
        };
        argv.extend(words(&["-e", errors]));
    }
    for (option, id) in [("-u", ext.reserved_uid), ("-g", ext.reserved_gid)] {
        if let Some(id) = id {
            argv.extend(words(&[option, &id.to_string()]));
        }
    }
    // mke2fs asks the device for its stripes where it is not told any.
    let own = [("stride", ext.stride), ("stripe_width", ext.stripe_width)];
    let none = own.iter().filter(|(_, blocks)| blocks.is_none());
    let mut extended: Vec<_> = none.map(|(name, _)| format!("{name}=0")).collect();
    extended.extend(ext.more_mount_options.iter().map(|options| format!("mount_opts={options}")));
    if !extended.is_empty() {
        argv.extend(words(&["-E", &extended.join(",")]));
    }
    // mke2fs's own defaults are taken away where the filesystem did not have them.
    let mut options: Vec<String> = ["user_xattr", "acl"]
        .into_iter()
        .filter(|default| !ext.mount_options.iter().any(|o| o == default))
        .map(|default| format!("^{default}"))
        .collect();
    options.extend(ext.mount_options.iter().cloned());
    argv.extend(words(&["-o", &options.join(","), dev]));
    argv
}

/// Where mkfs.xfs(8) takes the flags that xfs_info(8) shows.
const XFS_FLAGS: &[(&str, &[&str])] = &[
    ("-m", &["crc", "finobt", "rmapbt", "reflink", "bigtime", "inobtcount", "metadir", "autofsck"]),
    ("-i", &["sparse", "nrext64", "exchange"]),
    ("-n", &["ftype", "parent"]),
];
/// With checksums (`crc=1`) these can't be chosen.
const XFS_V4_FLAGS: &[(&str, &[&str])] =
    &[("-i", &["attr", "projid32bit"]), ("-l", &["lazy-count"])];

fn mkfs_xfs(dev: &str, log_dev: &[String], fs: &Fs) -> Argv {
    let mut argv = words(&["mkfs.xfs", "-q", "-f"]);
    if fs.xfs.as_ref().is_some_and(is_made_no_more) {
        argv.push(UNSUPPORTED.into());
    }
    push_if(&mut argv, "-L", &fs.label);
    let Some(xfs) = &fs.xfs else {
        if !fs.uuid.is_empty() {
            argv.extend(words(&["-m", &format!("uuid={}", fs.uuid)]));
        }
        argv.push(dev.into());
        return argv;
    };
    argv.extend(words(&["-b", &format!("size={}", xfs.block_bytes)]));
    argv.extend(words(&["-s", &format!("size={}", xfs.sector_bytes)]));
    let flags = |option: &str| -> Vec<String> {
        let v4 = xfs.flags.get("crc") == Some(&0);
        XFS_FLAGS
            .iter()
            .chain(if v4 { XFS_V4_FLAGS } else { &[] })
            .filter(|(o, _)| *o == option)
            .flat_map(|(_, names)| names.iter())
            .filter_map(|name| xfs.flags.get(*name).map(|value| format!("{name}={value}")))
            .collect()
    };
    let mut meta = flags("-m");
    if !fs.uuid.is_empty() {
        meta.push(format!("uuid={}", fs.uuid));
    }
    let mut inode = vec![format!("size={}", xfs.inode_bytes), format!("maxpct={}", xfs.imaxpct)];
    inode.extend(flags("-i"));
    let mut log: Vec<String> = log_dev.iter().map(|dev| format!("logdev={dev}")).collect();
    log.extend((xfs.log_blocks > 0).then(|| format!("size={}b", xfs.log_blocks)));
    log.extend(flags("-l"));
    let mut naming = Vec::new();
    if xfs.dir_block_bytes > 0 {
        naming.push(format!("size={}", xfs.dir_block_bytes));
    }
    naming.extend(flags("-n"));
    let groups = [("-m", meta), ("-d", xfs_data(xfs)), ("-i", inode), ("-l", log), ("-n", naming)];
    for (option, values) in groups {
        if !values.is_empty() {
            argv.extend(words(&[option, &values.join(",")]));
        }
    }
    argv.push(dev.into());
    argv
}

/// mkfs.xfs since 5.19 makes with this alone what older ones made: filesystems of less than 300 MB,
/// with a log of less than 64 MB or a single allocation group. The kernel still takes them all.
const UNSUPPORTED: &str = "--unsupported";
const XFS_LEAST_BYTES: u64 = 300 << 20;
const XFS_LEAST_LOG_BYTES: u64 = 64 << 20;

fn is_made_no_more(xfs: &XfsOptions) -> bool {
    let bytes = |blocks: u64| blocks.saturating_mul(xfs.block_bytes);
    bytes(xfs.blocks) < XFS_LEAST_BYTES
        || bytes(xfs.log_blocks) < XFS_LEAST_LOG_BYTES
        || xfs.agcount < 2
}

/// The same command for a program that is too old for a switch in it. Such a program ends before
/// it writes anything.
pub fn for_older_tool(argv: &Argv) -> Option<Argv> {
    let mut older = argv.clone();
    match argv.first()?.as_str() {
        "mkfs.xfs" => older.retain(|word| word != UNSUPPORTED),
        // Before 5.9 none made a free space tree: the kernel does, where the mount options say so.
        "mkfs.btrfs" => {
            if let Some(at) = older.iter().position(|word| word == BTRFS_RUNTIME) {
                older.drain(at..at + 2);
            }
        }
        _ => {}
    }
    (older != *argv).then_some(older)
}

fn xfs_data(xfs: &XfsOptions) -> Vec<String> {
    let mut data = vec![format!("size={}b", xfs.blocks)];
    data.push(match xfs.ag_blocks {
        Some(blocks) => format!("agsize={blocks}b"),
        None => format!("agcount={}", xfs.agcount),
    });
    if xfs.sunit_blocks > 0 {
        let sectors = |blocks: u64| blocks.saturating_mul(xfs.block_bytes) / 512;
        data.push(format!("sunit={}", sectors(xfs.sunit_blocks)));
        data.push(format!("swidth={}", sectors(xfs.swidth_blocks)));
    } else {
        // Otherwise mkfs.xfs would ask the device below for its stripes.
        data.push("noalign".into());
    }
    data
}

fn mkfs_vfat(dev: &str, fs: &Fs) -> Argv {
    let mut argv = words(&["mkfs.vfat"]);
    if let Some(vfat) = &fs.vfat {
        let VfatOptions { fat_bits, cluster_bytes, sector_bytes, reserved_sectors, fats, .. } =
            vfat;
        let sectors = cluster_bytes.checked_div(*sector_bytes).unwrap_or(0);
        argv.extend(words(&["-F", &fat_bits.to_string()]));
        argv.extend(words(&["-S", &sector_bytes.to_string()]));
        argv.extend(words(&["-s", &sectors.to_string()]));
        argv.extend(words(&["-R", &reserved_sectors.to_string()]));
        argv.extend(words(&["-f", &fats.to_string()]));
        if let Some(entries) = vfat.root_entries.filter(|_| *fat_bits != 32) {
            argv.extend(words(&["-r", &entries.to_string()]));
        }
        if sectors > 0 && reserved_sectors % sectors != 0 {
            // mkfs.fat would round the reserved sectors up to whole clusters.
            argv.push("-a".into());
        }
    }
    push_if(&mut argv, "-i", &fs.uuid.replace('-', ""));
    push_if(&mut argv, "-n", label(fs));
    argv.push(dev.into());
    argv
}

/// The label that is made: mkfs.vfat takes others than ASCII only in a locale that has the letters,
/// and the code page that they are in on the device is not known.
pub fn label(fs: &Fs) -> &str {
    if fs.kind == "vfat" && !fs.label.is_ascii() { "" } else { &fs.label }
}

fn mkfs_f2fs(dev: &str, fs: &Fs) -> Argv {
    let mut argv = words(&["mkfs.f2fs", "-q", "-f"]);
    push_if(&mut argv, "-U", &fs.uuid);
    push_if(&mut argv, "-l", &fs.label);
    let Some(f2fs) = &fs.f2fs else {
        argv.push(dev.into());
        return argv;
    };
    let F2fsOptions { features, casefold, segments_per_section, sections_per_zone, .. } = &**f2fs;
    push_if(&mut argv, "-O", &features.join(","));
    push_if(&mut argv, "-C", casefold.as_deref().unwrap_or_default());
    argv.extend(words(&["-s", &segments_per_section.to_string()]));
    argv.extend(words(&["-z", &sections_per_zone.to_string()]));
    if f2fs.more_inodes {
        argv.push("-i".into());
    }
    argv.extend(words(&[
        "-w",
        &F2fsOptions::BLOCK_BYTES.to_string(),
        dev,
        &f2fs.blocks.to_string(),
    ]));
    argv
}

fn mkfs_btrfs(dev: &str, more_devs: &[String], fs: &Fs) -> Argv {
    let mut argv = words(&["mkfs.btrfs", "--quiet", "--force"]);
    push_if(&mut argv, "--uuid", &fs.uuid);
    push_if(&mut argv, "--label", &fs.label);
    if let Some(btrfs) = &fs.btrfs {
        argv.extend(btrfs_options(btrfs));
        // One size is for each of several devices.
        if let [only] = &btrfs.device[..] {
            argv.extend(words(&["--byte-count", &only.size_bytes.to_string()]));
        }
    }
    argv.push(dev.into());
    argv.extend(more_devs.iter().cloned());
    argv
}

/// What mkfs.btrfs chooses by itself according to its version, and what the superblock calls it.
const BTRFS_FEATURES: &[(&str, &str)] = &[
    ("extref", "extended_iref"),
    ("skinny-metadata", "skinny_metadata"),
    ("no-holes", "no_holes"),
];

/// Features that can be chosen at each mount, too.
const BTRFS_RUNTIME: &str = "-R";

fn btrfs_options(btrfs: &BtrfsOptions) -> Argv {
    let has = |name: &str| btrfs.features.iter().any(|feature| feature == name);
    let mut argv = words(&["--nodesize", &btrfs.node_bytes.to_string()]);
    argv.extend(words(&["--sectorsize", &btrfs.sector_bytes.to_string()]));
    // Programs before 5.3 don't know the option, nor anything else than the default.
    if btrfs.checksum != "crc32c" {
        argv.extend(words(&["--checksum", &btrfs.checksum]));
    }
    argv.extend(words(&["--data", &btrfs.data_profile, "--metadata", &btrfs.metadata_profile]));
    if has("mixed_groups") {
        argv.push("--mixed".into());
    }
    let on = |name: &str, has: bool| if has { name.to_owned() } else { format!("^{name}") };
    let mut features: Vec<_> =
        BTRFS_FEATURES.iter().map(|(name, known)| on(name, has(known))).collect();
    if has("block_group_tree") {
        features.push("block-group-tree".into());
    }
    argv.extend(words(&["--features", &features.join(",")]));
    argv.extend(words(&[BTRFS_RUNTIME, &on("free-space-tree", has("free_space_tree"))]));
    argv
}

fn push_if(argv: &mut Argv, option: &str, value: &str) {
    if !value.is_empty() {
        argv.extend(words(&[option, value]));
    }
}

pub fn words(words: &[&str]) -> Argv {
    words.iter().map(|w| (*w).to_owned()).collect()
}
