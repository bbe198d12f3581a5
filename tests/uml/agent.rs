//! What runs inside the machine: one phase of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use rr::layout::{Layout, Partition, schema};
use rr::plan::Answers;
use rr::sys::run::Cmd;
use rr::sys::secret::Secret;
use rr::ui::Ui;
use rr::{apply, plan, probe};

use crate::cases::{self, Case, Expect, Target};
use crate::{network, recover, snapshot};

const ROOT: &str = "/mnt/rr";
/// In what builds a machine, before words that the backup has to say of it.
const NOT_PROTECTED: &str = "# NOT protected: ";

pub fn main(dir: &Path) -> ExitCode {
    rr::ui::log::start(false);
    let result = run(dir);
    let _ = rr::ui::log::to_file(&dir.join("log"));
    match result {
        Ok(()) => {
            let _ = fs::write(dir.join("done"), "");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            eprintln!("{}", fs::read_to_string(dir.join("log")).unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Result<()> {
    let name = fs::read_to_string(dir.join("case"))?;
    let phase = fs::read_to_string(dir.join("phase"))?;
    if [recover::NAME, recover::ENCRYPTED, recover::BESIDE_DATA].contains(&name.as_str()) {
        return recover::run(dir, &name, &phase);
    }
    if name == snapshot::NAME {
        return match phase.as_str() {
            "be killed" => snapshot::be_killed(dir),
            _ => snapshot::run(dir),
        };
    }
    if name == network::NAME {
        return network::run(dir);
    }
    let case = cases::all().into_iter().find(|c| c.name == name).context("an unknown case")?;
    match phase.as_str() {
        "build" => build(dir, &case),
        "dirty" => match case.target {
            Target::Dirty(_, text) => script(text),
            _ => bail!("no script makes the disks dirty"),
        },
        _ => rebuild(dir, &case),
    }
}

pub fn script(text: &str) -> Result<()> {
    Cmd::new("sh").args(["-eux", "-c", text]).run()
}

fn build(dir: &Path, case: &Case) -> Result<()> {
    script(case.build)?;
    let ui = Ui::detect(false);
    let layout = recover::as_a_node(probe::read(&ui)?);
    fs::write(dir.join("layout.toml"), schema::render(&layout)?)?;
    let told = |text: &str| {
        layout.unprotected.iter().any(|u| format!("{}: {}", u.what, u.why).contains(text))
    };
    for text in case.build.lines().filter_map(|line| line.strip_prefix(NOT_PROTECTED)) {
        ensure!(told(text), "{text:?} is not named: {:#?}", layout.unprotected);
    }
    // The node's own plan onto itself, as it is made at backup time.
    plan::plan(&layout, &layout, &Answers::default())?;
    script("umount -R /node/* 2>/dev/null || true; umount -R /node/; swapoff -a")?;
    fs::write(dir.join("before.txt"), dump()?)?;
    Ok(())
}

fn rebuild(dir: &Path, case: &Case) -> Result<()> {
    let ui = Ui::detect(false);
    let mut recorded = schema::parse(&fs::read_to_string(dir.join("layout.toml"))?)?;
    let resized = match case.expect {
        Expect::Resized(how) => Some(how),
        _ => None,
    };
    let grow = resized == Some("larger");
    let map = match case.expect {
        Expect::Without(disk) => vec![(disk.to_owned(), plan::leave::NONE.to_owned())],
        Expect::Joined(_) => {
            let disks = recorded.disk.iter().filter(|disk| !disk.unused);
            disks.map(|disk| (disk.name.clone(), "ubdb".to_owned())).collect()
        }
        _ => Vec::new(),
    };
    let answers = Answers {
        auto: true,
        grow,
        map: map.clone(),
        erase: case.erase.iter().map(|s| (*s).to_owned()).collect(),
        ..Answers::default()
    };
    if let Target::Scsi(bytes, count, mib) = case.target {
        let kind =
            format!("sector_size={bytes} dev_size_mb={mib} add_host={count} per_host_store=1");
        script(&format!("modprobe sd_mod; modprobe scsi_debug {kind}; udevadm settle"))?;
    }
    let present = probe::read(&ui)?;
    if let Expect::Refused(part) = case.expect {
        // Disks here have a place; it must not help where they are blank.
        if matches!(case.target, Target::Blank(_)) {
            recorded.disk.iter_mut().for_each(|disk| disk.path = None);
        }
        let planned = plan::plan(&recorded, &present, &answers);
        let Err(refusal) = planned else {
            bail!(
                "it was not refused: {}",
                plan::plan(&recorded, &present, &answers)?.render_text()
            )
        };
        ensure!(refusal.to_string().contains(part), "refused otherwise: {refusal}");
        return Ok(());
    }
    let planned = plan::plan(&recorded, &present, &answers)?;
    fs::write(dir.join("plan.txt"), planned.render_text())?;
    fs::write(dir.join("plan.sh"), planned.render_script())?;
    for how in ["smaller", "larger"] {
        let told = planned.notes.iter().any(|n| n.contains(&format!("becomes {how}")));
        ensure!(told == (resized == Some(how)), "{:?}", planned.notes);
    }
    let told = |what: &str| {
        resized.is_some() && what.starts_with("UUID of logical volume")
            || resized.is_some() && what.starts_with("UUID of volume group")
            || matches!(case.expect, Expect::Joined(_)) && what.starts_with("PARTUUID of ubdd")
    };
    let changes = planned.identity_changes();
    ensure!(changes.iter().all(|change| told(&change.what)), "{changes:?}");
    let passphrase = Secret::new("pass phrase")?;
    for name in ["after.txt", "again.txt"] {
        // The second time over the finished machine, mounted as it is, found by what it carries.
        let present = probe::read(&ui)?;
        let again = Answers { grow, map: map.clone(), ..Answers::default() };
        let answers = if name == "again.txt" { again } else { answers.clone() };
        let planned = plan::plan(&recorded, &present, &answers)?;
        apply::apply(&planned, Path::new(ROOT), Some(&passphrase), &ui)?;
        write_files(&planned)?;
        if resized.is_some() || case.expect == Expect::Sectors {
            is_as_planned(&planned, &probe::read(&ui)?)?;
        }
        if matches!(case.expect, Expect::Joined(_)) {
            has_partitions(&planned.layout, &probe::read(&ui)?)?;
        }
        apply::unmount(&planned, Path::new(ROOT))?;
        script("swapoff -a; mdadm --wait-clean --scan 2>/dev/null || true")?;
        let text = dump()?;
        fs::write(dir.join(name), text)?;
        apply::mount(&planned, Path::new(ROOT), Some(&passphrase), &ui)?;
    }
    Ok(())
}

/// Nothing has another size than the plan says.
fn is_as_planned(plan: &plan::Plan, present: &Layout) -> Result<()> {
    // Devices are called by their disks' names here.
    let here = |id: &String| {
        plan.disks.iter().fold(id.clone(), |id, disk| id.replace(&disk.old.name, &disk.new.name))
    };
    let sizes = |layout: &Layout| {
        let partitions = layout.partition.iter().map(|p| (p.id.0.clone(), p.size_bytes));
        let places = layout.partition.iter().map(|p| (format!("{} at", p.id.0), p.start_bytes));
        let volumes = layout.lv.iter().map(|lv| (lv.id.0.clone(), lv.size_bytes));
        // How much of its device a FAT leaves for itself is for mkfs.vfat to say.
        let fs = layout.fs.iter().filter(|fs| fs.kind != "vfat");
        let fs = fs.map(|fs| (fs.id.0.clone(), fs.size_bytes));
        partitions.chain(places).chain(volumes).chain(fs).collect::<BTreeMap<_, _>>()
    };
    let (plan, present) = (sizes(&plan.layout), sizes(present));
    for (what, bytes) in &plan {
        let is = present.get(&here(what));
        ensure!(is == Some(bytes), "{what} has {is:?} bytes, the plan says {bytes}");
    }
    Ok(())
}

/// Each has the place, size, type and identity that the plan says.
fn has_partitions(planned: &Layout, present: &Layout) -> Result<()> {
    let all = |layout: &Layout| {
        let told = |p: &Partition| {
            (p.name.clone(), p.start_bytes, p.size_bytes, p.type_code.clone(), p.uuid)
        };
        layout.partition.iter().map(told).collect::<BTreeSet<_>>()
    };
    ensure!(all(planned) == all(present), "{:#?}\n{:#?}", planned.partition, present.partition);
    Ok(())
}

/// Something is written to every filesystem, and comes back.
fn write_files(planned: &plan::Plan) -> Result<()> {
    for mount in planned.mounts() {
        let path = Path::new(ROOT).join(mount.path.as_path().strip_prefix("/")?);
        let file = path.join("written");
        fs::write(&file, "by rr").with_context(|| format!("writing {}", file.display()))?;
        fs::remove_file(&file)?;
    }
    Ok(())
}

/// Whether this is a partition that holds the first sector, where a table would be. This kernel, and
/// no other one of Debian's, looks for Acorn's disks, and takes one in 256 filesystems of 1 KiB blocks
/// for one: adfs_partition() in block/partitions/acorn.c goes by a checksum of one byte.
fn is_mistaken(device: &str) -> bool {
    let Some(name) = device.strip_prefix("/dev/") else { return false };
    let start = std::fs::read_to_string(format!("/sys/class/block/{name}/start"));
    start.is_ok_and(|start| start.trim() == "0")
}

/// What the tools say of every device, without what changes by itself.
fn dump() -> Result<String> {
    script("udevadm settle")?;
    let mut out = String::new();
    let lsblk = Cmd::new("lsblk").args(["-lnpo", "NAME,TYPE,SIZE", "-b"]).text()?;
    let mut devices: Vec<(String, String)> = Vec::new();
    for line in lsblk.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(kind)) = (words.next(), words.next()) {
            devices.push((name.to_owned(), kind.to_owned()));
        }
    }
    // The parts of a volume show its content, or a piece of it.
    let part = |name: &str| VOLUME_PARTS.iter().any(|part| name.contains(part));
    devices.retain(|(name, _)| !part(name) && !is_mistaken(name));
    devices.sort();
    devices.dedup();
    for (device, kind) in &devices {
        let _ = writeln!(out, "== {device} {kind}");
        let blkid = Cmd::new("blkid").args(["-p", "-o", "export", device]).output()?.text();
        // The UUID of an array's member (UUID_SUB) is mdadm's to choose; a disk's number the kernel's.
        let own = ["DEVNAME", "UUID_SUB", "PART_ENTRY_DISK"];
        let told = |line: &&str| !own.iter().any(|key| line.starts_with(key));
        let mut tags: Vec<_> = blkid.lines().filter(told).collect();
        tags.sort_unstable();
        for tag in &tags {
            let _ = writeln!(out, "{device} {tag}");
        }
        let has = |tag: &str| tags.contains(&tag);
        if tags.iter().any(|t| t.starts_with("PTTYPE=")) {
            tell(&mut out, device, "sfdisk", &["--dump", device], &[])?;
        }
        if has("PTTYPE=gpt") {
            // What only protects the disk is as large as that.
            let dump = "sfdisk --label-nested dos --dump $0 | grep -v type=ee$ || true";
            tell(&mut out, device, "sh", &["-c", dump, device], &[])?;
        }
        if kind.starts_with("raid") {
            // Which of a member's names is told (/dev/md1, /dev/md/1) is for the order of /dev to say; the
            // key has the kernel's.
            let export = "mdadm --detail --export $0 | sed 's/_DEV=.*/_DEV/'";
            tell(&mut out, device, "sh", &["-c", export, device], &[])?;
            tell(&mut out, device, "mdadm", &["--detail", device], MD_DETAIL)?;
        }
        if has("TYPE=linux_raid_member") {
            tell(&mut out, device, "mdadm", &["--examine", device], MD_EXAMINE)?;
        }
        if ["ext2", "ext3", "ext4"].iter().any(|kind| has(&format!("TYPE={kind}"))) {
            tell(&mut out, device, "dumpe2fs", &["-h", device], EXT)?;
        }
        if has("TYPE=xfs") {
            tell(&mut out, device, "xfs_info", &[device], &[])?;
        }
        if has("TYPE=f2fs") {
            tell(&mut out, device, "dump.f2fs", &["-d", "1", device], F2FS)?;
        }
        if has("TYPE=crypto_LUKS") {
            // The digest of the key itself, which nobody can guess, is made as fast as may be.
            let dump = "cryptsetup luksDump $0 | sed '/^Digests/,$d'";
            tell(&mut out, device, "sh", &["-c", dump, device], LUKS)?;
        }
        if has("TYPE=btrfs") {
            btrfs(&mut out, device)?;
        }
        if has("TYPE=vfat") {
            tell(&mut out, device, "od", &["-A", "d", "-t", "x1", "-N", "90", device], &[])?;
        }
    }
    lvm(&mut out, &["vgs", "-o", "vg_name,vg_uuid,vg_extent_size,vg_extent_count,vg_tags"])?;
    lvm(&mut out, &["pvs", "-o", "pv_name,pv_uuid,pv_size,pe_start,pv_tags"])?;
    let lv = "lv_full_name,lv_size,segtype,stripes,stripe_size,region_size,seg_pe_ranges,lv_tags,\
              pool_lv,chunk_size,discards,zero,lv_metadata_size,cachemode,cache_policy,\
              cache_settings,kernel_cache_settings,kernel_cache_policy,kernel_metadata_format";
    lvm(&mut out, &["lvs", "-o", lv])?;
    lvm(&mut out, &["lvs", "-a", "-o", "lv_full_name,lv_uuid"])?;
    // What thin pools are made of is placed anew.
    let parts =
        "lvm lvs -a --noheadings -o lv_full_name,seg_pe_ranges | sed -E '/_t(data|meta)|pmspare/d'";
    tell(&mut out, "lvm", "sh", &["-c", parts], &[])?;
    Ok(out)
}

fn lvm(out: &mut String, args: &[&str]) -> Result<()> {
    tell(out, "lvm", "lvm", &[args, &["--noheadings", "--units", "b"]].concat(), &[])
}

/// What a btrfs says of itself when its top is mounted.
fn btrfs(out: &mut String, device: &str) -> Result<()> {
    tell(out, device, "btrfs", &["inspect-internal", "dump-super", device], BTRFS)?;
    let top = "/tmp/top";
    script(&format!(
        "mkdir -p {top}; mount -t btrfs -o subvolid=5 {device} {top} && btrfs filesystem sync {top}"
    ))?;
    let list = "btrfs subvolume list $0 | sed 's/.* path /subvolume /' | sort; \
                btrfs subvolume get-default $0 | sed 's/.* path /default /'; \
                btrfs filesystem df $0 | sed 's/:.*//'; \
                btrfs filesystem show --raw $0 | sed 's/used.*path/path/; s/FS bytes.*//'";
    tell(out, device, "sh", &["-c", list, top], &[])?;
    script(&format!("umount {top}"))
}

const VOLUME_PARTS: &[&str] = &[
    "_rimage_", "_rmeta_", "_mimage_", "_mlog", "_tdata", "_tmeta", "-tpool", "_corig", "_cdata",
    "_cmeta", "_cvol", "_wcorig", "-real", "-cow", "rootsnap", "bootsnap",
];

/// Only lines that start with one of these are kept, where some are given.
const MD_DETAIL: &[&str] = &[
    "Version",
    "Raid Level",
    "Array Size",
    "Used Dev Size",
    "Raid Devices",
    "Total Devices",
    "Intent Bitmap",
    "Layout",
    "Chunk Size",
    "Name",
    "UUID",
];
const MD_EXAMINE: &[&str] = &[
    "Version",
    "Array UUID",
    "Name",
    "Raid Level",
    "Raid Devices",
    "Array Size",
    "Used Dev Size",
    "Data Offset",
    "Super Offset",
    "Layout",
    "Chunk Size",
    "Device Role",
    "Internal Bitmap",
];
const LUKS: &[&str] = &[
    "Version",
    "Metadata area",
    "Keyslots area",
    "UUID",
    "Label",
    "Subsystem",
    "Flags",
    "offset",
    "length",
    "cipher",
    "sector",
    "Cipher",
    "Key",
    "PBKDF",
    "Time cost",
    "Memory",
    "Threads",
    "Iterations",
    "AF",
    "Hash",
    "Payload offset",
    "MK bits",
    "0:",
    "1:",
];
const F2FS: &[&str] = &[
    "volum_name",
    "log_",
    "segs_per_sec",
    "secs_per_zone",
    "block_count",
    "section_count",
    "segment_count",
    "segment0_blkaddr",
    "main_blkaddr",
    "cp_payload",
    "rsvd_segment_count",
    "overprov_segment_count",
    "user_block_count",
    "Info: superblock features",
];
const BTRFS: &[&str] = &[
    "csum_type",
    "fsid",
    "metadata_uuid",
    "label",
    "total_bytes",
    "sectorsize",
    "nodesize",
    "num_devices",
    "( MIXED_BACKREF",
    "( FREE_SPACE_TREE",
    "FREE_SPACE_TREE_VALID",
    "DEFAULT_SUBVOL",
    "MIXED_GROUPS",
    "BIG_METADATA",
    "EXTENDED_IREF",
    "SKINNY_METADATA",
    "NO_HOLES",
    "dev_item.total_bytes",
    "dev_item.devid",
];
/// Not the reserved GDT blocks: a filesystem that has grown has fewer than one made at that size,
/// and all that they tell is how far it could still grow online.
const EXT: &[&str] = &[
    "Filesystem volume name",
    "Filesystem UUID",
    "Filesystem features",
    "Filesystem flags",
    "Default mount options",
    "Errors behavior",
    "Inode count",
    "Block count",
    "Reserved block count",
    "First block",
    "Block size",
    "Fragment size",
    "Group descriptor size",
    "Blocks per group",
    "Inodes per group",
    "Inode blocks per group",
    "RAID stride",
    "RAID stripe width",
    "Flex block group size",
    "Maximum mount count",
    "Check interval",
    "Reserved blocks uid",
    "First inode",
    "Inode size",
    "Journal inode",
    "Default directory hash",
    "Directory Hash Seed",
    "Checksum type",
    "Total journal size",
    "Required extra isize",
    "Desired extra isize",
];

fn tell(out: &mut String, device: &str, program: &str, args: &[&str], keep: &[&str]) -> Result<()> {
    let text = Cmd::new(program).args(args).text()?;
    for line in text.lines() {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if keep.is_empty() || keep.iter().any(|start| line.starts_with(start)) {
            // State, not identity.
            let line = line.replace(" needs_recovery", "").replace(" orphan_present", "");
            let _ = writeln!(out, "{device} {program}: {line}");
        }
    }
    Ok(())
}
