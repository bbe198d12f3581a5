//! The command lines that make md arrays, volume groups and logical volumes as they were.

use super::fscmd::words;
use super::step::{Argv, CreateLv, CreateMd, CreateVg, KeepUuids, MakeLuks};
use crate::layout::{LvSegment, Md};

/// `mdadm --create` with the recorded identity and geometry.
///
/// Redundant arrays are resynchronised by the kernel in the background: it gives way to the
/// restore (md(4), sync_speed_min), and an array that is assumed clean would report mismatches for
/// blocks that were never written.
pub fn mdadm_create(step: &CreateMd) -> Argv {
    let md = &step.md;
    let redundant = !matches!(md.level.as_str(), "raid0" | "linear");
    let mut argv = words(&["mdadm", "--create", &md.dev(), "--run", "--force"]);
    argv.push(format!("--level={}", md.level));
    argv.push(format!("--metadata={}", md.metadata));
    argv.push(format!("--uuid={}", md.uuid));
    if let Some(name) = md.array_name.as_deref().filter(|n| !n.is_empty()) {
        // Newer mdadm takes no colon in a name: the part before it is the home host.
        let (host, name) = name.split_once(':').unwrap_or(("any", name));
        argv.push(format!("--homehost={host}"));
        argv.push(format!("--name={name}"));
    }
    if let Some(chunk) = md.chunk_bytes.filter(|c| *c > 0 && md.level != "raid1") {
        argv.push(format!("--chunk={}", chunk / 1024));
    }
    if let Some(layout) = md_layout(md) {
        argv.push(format!("--layout={layout}"));
    }
    if redundant {
        argv.push(format!("--bitmap={}", md.bitmap.as_deref().unwrap_or("none")));
        if let Some(bytes) = md.member_size_bytes.filter(|b| *b > 0) {
            argv.push(format!("--size={}", bytes / 1024));
        }
    }
    // Superblocks 0.90 and 1.0 lie at the end: data starts at the start.
    let settable = matches!(md.metadata.as_str(), "1.1" | "1.2");
    if let Some(offset) = md.data_offset_bytes.filter(|o| *o > 0 && settable) {
        argv.push(format!("--data-offset={}", offset / 1024));
    }
    argv.push(format!("--raid-devices={}", step.members.len()));
    if !step.spares.is_empty() {
        argv.push(format!("--spare-devices={}", step.spares.len()));
    }
    argv.extend(step.members.iter().chain(&step.spares).cloned());
    argv
}

/// `near=2` as mdadm shows it is `n2` as mdadm takes it.
fn md_layout(md: &Md) -> Option<String> {
    let layout = md.layout.as_deref().filter(|l| !l.is_empty() && *l != "-unknown-")?;
    match md.level.as_str() {
        "raid5" | "raid6" => Some(layout.to_owned()),
        "raid10" => Some(match layout.split_once('=') {
            Some((kind, copies)) => format!("{}{copies}", kind.get(..1)?),
            None => layout.to_owned(),
        }),
        _ => None,
    }
}

/// Where cryptsetup gets the passphrase: its standard input, to the last byte.
pub const SECRET_INPUT: [&str; 2] = ["--key-file", "-"];

pub fn luks_format(step: &MakeLuks) -> Argv {
    let luks = &step.luks;
    let mut argv = words(&["cryptsetup", "luksFormat", "--batch-mode"]);
    argv.extend(words(&["--type", &format!("luks{}", luks.version), "--uuid", &luks.uuid]));
    argv.extend(words(&["--cipher", &luks.cipher, "--key-size", &luks.key_bits.to_string()]));
    argv.extend(words(&["--hash", &luks.hash]));
    // In units of 512 bytes, whatever the sectors.
    argv.extend(words(&["--offset", &(luks.data_offset_bytes / 512).to_string()]));
    if luks.version == 2 {
        argv.extend(words(&["--sector-size", &luks.sector_bytes.to_string()]));
        argv.extend(words(&["--pbkdf", &luks.pbkdf.kind]));
        for (option, number) in [
            ("--luks2-metadata-size", luks.metadata_bytes),
            ("--luks2-keyslots-size", luks.keyslots_bytes),
            ("--pbkdf-memory", luks.pbkdf.memory_kib),
            ("--pbkdf-parallel", luks.pbkdf.threads),
        ] {
            argv.extend(number.into_iter().flat_map(|n| words(&[option, &n.to_string()])));
        }
        for (option, text) in [("--label", &luks.label), ("--subsystem", &luks.subsystem)] {
            if !text.is_empty() {
                argv.extend(words(&[option, text]));
            }
        }
    }
    // Else cryptsetup finds out how many this machine can do.
    if luks.pbkdf.iterations > 0 && !luks.pbkdf.is_weak() {
        let iterations = luks.pbkdf.iterations.to_string();
        argv.extend(words(&["--pbkdf-force-iterations", &iterations]));
    }
    argv.extend(words(&SECRET_INPUT));
    argv.push(step.dev.clone());
    argv
}

/// The header's names of what open takes as switches.
const LUKS_FLAGS: &[(&str, &str)] = &[
    ("allow-discards", "--allow-discards"),
    ("same-cpu-crypt", "--perf-same_cpu_crypt"),
    ("submit-from-crypt-cpus", "--perf-submit_from_crypt_cpus"),
    ("no-read-workqueue", "--perf-no_read_workqueue"),
    ("no-write-workqueue", "--perf-no_write_workqueue"),
];

pub fn luks_open(step: &MakeLuks) -> Argv {
    let luks = &step.luks;
    let mut argv = words(&["cryptsetup", "open", "--type", &format!("luks{}", luks.version)]);
    let flags = LUKS_FLAGS.iter().filter(|(flag, _)| luks.flags.iter().any(|f| f == flag));
    let mut flags: Vec<&str> = flags.map(|(_, switch)| *switch).collect();
    if !flags.is_empty() {
        flags.push("--persistent");
    }
    argv.extend(words(&flags));
    argv.extend(words(&SECRET_INPUT));
    argv.extend(words(&[&step.dev, &luks.name]));
    argv
}

/// With the recorded metadata, everything keeps its UUID. Without, the physical volumes do.
pub fn create_vg(step: &CreateVg, metadata: &str) -> Vec<Argv> {
    let vg = &step.vg;
    let mut commands = Vec::new();
    for (pv, dev) in vg.pv.iter().zip(&step.devices) {
        let mut argv = words(&["lvm", "pvcreate", "--yes", "-ff", "--uuid", &pv.uuid]);
        if step.restore {
            argv.extend(words(&["--restorefile", metadata]));
        } else {
            argv.extend(words(&["--norestorefile", "--dataalignment"]));
            argv.push(format!("{}b", pv.pe_start_bytes));
        }
        argv.push(dev.clone());
        commands.push(argv);
    }
    if step.restore {
        commands.push(words(&["lvm", "vgcfgrestore", "--file", metadata, &vg.name]));
        commands.push(words(&["lvm", "vgchange", "--activate", "y", &vg.name]));
    } else {
        let mut argv = words(&["lvm", "vgcreate", "--yes", "--physicalextentsize"]);
        argv.push(format!("{}b", vg.extent_bytes));
        for tag in &vg.tags {
            argv.extend(words(&["--addtag", tag]));
        }
        argv.push(vg.name.clone());
        argv.extend(step.devices.iter().cloned());
        commands.push(argv);
    }
    commands
}

/// `lvcreate` for the first segment, `lvextend` for the others.
pub fn create_lv(step: &CreateLv) -> Vec<Argv> {
    let lv = &step.lv;
    if let Some(argv) = create_thin(step) {
        return vec![argv];
    }
    let mut commands = Vec::new();
    for (i, segment) in lv.segment.iter().enumerate() {
        let mut argv = if i == 0 {
            let mut argv =
                words(&["lvm", "lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y"]);
            argv.extend(words(&["--activate", "y", "--name", &lv.name]));
            for tag in &lv.tags {
                argv.extend(words(&["--addtag", tag]));
            }
            argv
        } else {
            words(&["lvm", "lvextend", "--yes"])
        };
        argv.extend(stripes(segment));
        let plus = if i == 0 { "" } else { "+" };
        argv.extend(words(&["--extents", &format!("{plus}{}", segment.extents)]));
        argv.push(if i == 0 { step.vg.clone() } else { format!("{}/{}", step.vg, lv.name) });
        argv.extend(step.places.get(i).into_iter().flatten().cloned());
        commands.push(argv);
    }
    commands
}

/// A thin pool or a thin volume.
fn create_thin(step: &CreateLv) -> Option<Argv> {
    let lv = &step.lv;
    let mut argv = words(&["lvm", "lvcreate", "--yes", "--activate", "y", "--type", &lv.kind]);
    let bytes = |bytes: u64| format!("{bytes}b");
    match (&lv.thin_pool, lv.kind.as_str()) {
        (Some(pool), _) => {
            let extents: u64 = lv.segment.iter().map(|s| s.extents).sum();
            argv.extend(words(&["--extents", &extents.to_string()]));
            argv.extend(words(&["--poolmetadatasize", &bytes(pool.metadata_bytes)]));
            argv.extend(words(&["--chunksize", &bytes(pool.chunk_bytes)]));
            argv.extend(words(&["--discards", &pool.discards]));
            let switch = |on: bool| if on { "y" } else { "n" };
            argv.extend(words(&["--zero", switch(pool.zero)]));
            argv.extend(words(&["--poolmetadataspare", switch(pool.spare)]));
            if let Some(data) = lv.segment.first().filter(|data| data.stripes > 1) {
                argv.extend(words(&["--stripes", &data.stripes.to_string()]));
                argv.extend(words(&["--stripesize", &bytes(data.stripe_bytes)]));
            }
        }
        (None, "thin") => {
            argv.extend(words(&["--virtualsize", &bytes(lv.size_bytes)]));
            argv.extend(words(&["--thinpool", &lv.pool]));
        }
        _ => return None,
    }
    for tag in &lv.tags {
        argv.extend(words(&["--addtag", tag]));
    }
    argv.extend(words(&["--name", &lv.name, &step.vg]));
    Some(argv)
}

/// The first writes `metadata`, in which the UUIDs are to be put before the others run.
pub fn keep_uuids(step: &KeepUuids, metadata: &str) -> Vec<Argv> {
    let vg = &step.vg;
    vec![
        words(&["lvm", "vgcfgbackup", "--file", metadata, vg]),
        words(&["lvm", "vgchange", "--activate", "n", vg]),
        words(&["lvm", "vgcfgrestore", "--force", "--file", metadata, vg]),
        words(&["lvm", "vgchange", "--activate", "y", vg]),
    ]
}

fn stripes(segment: &LvSegment) -> Argv {
    if segment.stripes < 2 {
        return words(&["--type", "linear"]);
    }
    let mut argv = words(&["--type", "striped", "--stripes", &segment.stripes.to_string()]);
    argv.extend(words(&["--stripesize", &format!("{}b", segment.stripe_bytes)]));
    argv
}
