//! A plan for people, and for a shell.

use std::fmt::Write;

use super::step::{Argv, KeepUuids, MakeSubvolumes, MountFs, Release, Step, Wipe, WriteTable};
use super::{Plan, Problem, consent, fscmd, hybrid, stackcmd};
use crate::layout::Table;
use crate::ui::hanging;

pub(super) fn refusal(problems: &[Problem]) -> String {
    let mut out = String::from("the disks can't be rebuilt as they were; nothing was touched");
    for problem in problems {
        let _ = write!(out, "\n* {}", hanging(&problem.what));
        if !problem.hint.is_empty() {
            let _ = write!(out, "\n  hint: {}", problem.hint);
        }
    }
    out
}

/// The plan with `machine` at its place in it.
pub(super) fn text(plan: &Plan, machine: &str) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "These disks will be ERASED:");
    for m in &plan.disks {
        let _ = writeln!(out, "  {:<8} {}", m.new.name, consent::name(&m.new));
        let holds = if m.holds.is_empty() { "nothing (blank)".into() } else { m.holds.join(", ") };
        wrap(&mut out, "           now holds: ", "             ", &holds);
        let _ = writeln!(out, "           becomes:   {} ({})", m.old.name, m.why);
    }
    if !plan.kept.is_empty() {
        let _ = writeln!(out, "These disks are left alone:");
        for kept in &plan.kept {
            let _ = writeln!(out, "  {:<8} {}", kept.name, kept.why);
        }
    }
    out.push_str(machine);
    let _ = writeln!(out, "Steps:");
    for (n, step) in plan.steps.iter().enumerate() {
        wrap(&mut out, &format!("{:>4}. ", n + 1), "      ", &step.describe());
    }
    if !plan.identity_changes.is_empty() {
        let _ = writeln!(out, "What will not be as it was:");
        for change in &plan.identity_changes {
            let new = if change.new.is_empty() { "a new one" } else { &change.new };
            wrap(&mut out, "  ", "    ", &format!("{}: {} becomes {new}", change.what, change.old));
        }
    }
    if !plan.notes.is_empty() {
        let _ = writeln!(out, "Note:");
        for note in &plan.notes {
            wrap(&mut out, "  ", "    ", note);
        }
    }
    out
}

const COLUMNS: usize = 80;

/// Writes words, at most [`COLUMNS`] a line.
fn wrap(out: &mut String, first: &str, indent: &str, words: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(out, "{line}");
            line = indent.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
}

/// The plan in `sh`.
pub(super) fn script(plan: &Plan) -> String {
    let mut out = String::from(
        "#!/bin/sh\n# What rr would do, for doing it by hand. It ERASES disks.\nset -eu\nROOT=${ROOT:-/mnt/rr}\n",
    );
    for step in &plan.steps {
        let _ = writeln!(out, "\n# {}", step.describe());
        match step {
            Step::Release(s) => release(s, &mut out),
            Step::Wipe(s) => wipe(s, &mut out),
            Step::WriteTable(s) => {
                let _ = writeln!(out, "sfdisk --wipe=always /dev/{} <<'END'", s.name);
                let _ = writeln!(out, "{}END", sfdisk(s));
                out.push_str(&nested(s));
                let _ = writeln!(out, "udevadm settle");
            }
            Step::Mount(s) => mount(s, &mut out),
            Step::MakeSubvolumes(s) => subvolumes(s, &mut out),
            Step::CreateVg(s) if s.restore => {
                let file = format!("/tmp/{}.vg", s.vg.name);
                let _ = writeln!(
                    out,
                    "cat >{} <<'END'\n{}\nEND",
                    quote(&file),
                    s.vg.metadata.trim_end()
                );
                let all = commands(step, &file);
                let (activate, before) = all.split_last().map_or(("", &[][..]), |(l, b)| (l, b));
                let _ = writeln!(out, "{}", before.join("\n"));
                for (dev, at, bytes) in &s.clear {
                    let _ = writeln!(
                        out,
                        "dd if=/dev/zero of={} bs=512 seek={} count={} conv=fsync status=none",
                        quote(dev),
                        at / 512,
                        bytes / 512
                    );
                }
                let _ = writeln!(out, "{activate}");
            }
            Step::KeepUuids(s) => keep_uuids(step, s, &mut out),
            _ => commands(step, "").iter().for_each(|line| {
                let _ = writeln!(out, "{line}");
            }),
        }
    }
    out
}

/// The command lines of a step as a shell takes them.
fn commands(step: &Step, metadata: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let line = |argv: &Argv| argv.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ");
    for mut argv in step.commands(metadata) {
        // By hand, cryptsetup asks for the passphrase.
        if let Some(at) = argv.windows(2).position(|pair| pair == stackcmd::SECRET_INPUT) {
            argv.drain(at..at + 2);
        }
        let older = fscmd::for_older_tool(&argv).map(|older| format!(" || {}", line(&older)));
        lines.push(format!("{}{}", line(&argv), older.unwrap_or_default()));
    }
    lines
}

/// LVM writes each volume's UUID in the line after its name.
fn keep_uuids(step: &Step, keep: &KeepUuids, out: &mut String) {
    let file = format!("/tmp/{}.vg", keep.vg);
    for (n, line) in commands(step, &file).into_iter().enumerate() {
        let _ = writeln!(out, "{line}");
        if n > 0 {
            continue;
        }
        let _ = writeln!(out, "sed -i '/^\tlogical_volumes {{$/,$ {{");
        for (name, uuid) in &keep.uuids {
            let name = name.replace('.', "\\.");
            let _ = writeln!(out, "/^\t\t{name} {{$/ {{ n; s/id = \".*\"/id = \"{uuid}\"/; }}");
        }
        let _ = writeln!(out, "}}' {}", quote(&file));
    }
}

fn release(step: &Release, out: &mut String) {
    for path in &step.mounts {
        let _ = writeln!(out, "umount {}", quote_path(path.as_path()));
    }
    for dev in &step.swaps {
        let _ = writeln!(out, "swapoff {} || true", quote(dev));
    }
    for vg in &step.vgs {
        let _ = writeln!(out, "lvm vgchange --activate n {}", quote(vg));
    }
    for md in &step.mds {
        let _ = writeln!(out, "mdadm --stop /dev/{md}");
    }
}

fn wipe(step: &Wipe, out: &mut String) {
    let disk = &step.disk.name;
    for name in step.partitions.iter().chain([disk]) {
        let _ = writeln!(out, "wipefs --all --force /dev/{name}");
    }
    let mib = 1 << 20;
    for (start, bytes) in &step.areas {
        let start = start / mib;
        let end = (start * mib + bytes).div_ceil(mib);
        for at in [start, end.saturating_sub(2)] {
            let _ = writeln!(
                out,
                "dd if=/dev/zero of=/dev/{disk} bs=1M count=2 seek={at} conv=fsync status=none || true"
            );
        }
    }
}

fn mount(step: &MountFs, out: &mut String) {
    let path = quote_path(step.path.as_path());
    let _ = writeln!(out, "mkdir -p \"$ROOT\"{path}");
    let options = match step.data_options() {
        options if options.is_empty() => String::new(),
        options => format!(" -o {}", quote(&options)),
    };
    let dev = quote(&step.dev);
    let _ = writeln!(out, "mount -t {}{options} {dev} \"$ROOT\"{path}", step.kind);
}

fn subvolumes(step: &MakeSubvolumes, out: &mut String) {
    let (dev, options) = (quote(&step.dev), quote(&step.mount_options()));
    let _ = writeln!(out, "TOP=$(mktemp -d)\nmount -t btrfs -o {options} {dev} \"$TOP\"");
    for path in &step.paths {
        let name = quote_path(path.as_path());
        if let Some(parent) = path.as_path().parent().filter(|p| !p.as_os_str().is_empty()) {
            let _ = writeln!(out, "mkdir -p \"$TOP\"/{}", quote_path(parent));
        }
        let _ = writeln!(out, "btrfs subvolume create \"$TOP\"/{name}");
    }
    if let Some(path) = &step.default {
        let name = quote_path(path.as_path());
        let _ = writeln!(out, "btrfs subvolume set-default \"$TOP\"/{name}");
    }
    let _ = writeln!(out, "umount \"$TOP\"");
}

/// The table as sfdisk(8) reads it.
pub fn sfdisk(step: &WriteTable) -> String {
    let mut out = String::new();
    let sector = u64::from(step.sector_bytes.max(512));
    match &step.table {
        Table::Gpt { guid, entries, first_usable_lba, last_usable_lba, .. } => {
            let _ = writeln!(out, "label: gpt\nlabel-id: {guid}\nunit: sectors");
            let _ = writeln!(out, "first-lba: {first_usable_lba}\nlast-lba: {last_usable_lba}");
            if *entries != 128 {
                let _ = writeln!(out, "table-length: {entries}");
            }
        }
        Table::Mbr { signature } => {
            let _ = writeln!(out, "label: dos\nlabel-id: 0x{signature:08x}\nunit: sectors");
        }
    }
    let _ = writeln!(out, "sector-size: {sector}\n");
    for p in &step.partitions {
        let _ = write!(
            out,
            "/dev/{} : start={}, size={}, type={}",
            p.name,
            p.start_bytes / sector,
            p.size_bytes / sector,
            p.type_code.strip_prefix("0x").unwrap_or(&p.type_code)
        );
        if let Some(uuid) = p.uuid {
            let _ = write!(out, ", uuid={uuid}");
        }
        if !p.label.is_empty() {
            let _ =
                write!(out, ", name=\"{}\"", p.label.replace('\\', r"\x5c").replace('"', r"\x22"));
        }
        if p.attributes != 0 {
            let _ = write!(out, ", attrs=\"{}\"", attributes(p.attributes));
        }
        if p.active {
            out.push_str(", bootable");
        }
        out.push('\n');
    }
    out
}

/// The hybrid MBR, which sfdisk writes as a table inside of the other one.
fn nested(step: &WriteTable) -> String {
    let mut out = String::new();
    let (Some(mbr), Ok(entries)) = (hybrid::of(&step.table), hybrid::entries(step)) else {
        return out;
    };
    let sector = u64::from(step.sector_bytes.max(512));
    let _ =
        writeln!(out, "sfdisk --label-nested dos --force --no-reread /dev/{} <<'END'", step.name);
    let _ = writeln!(out, "label: dos\nlabel-id: 0x{:08x}\nunit: sectors", mbr.signature);
    for entry in entries {
        let name = crate::layout::partition_name(&step.name, entry.slot);
        let (start, size) = (entry.start_bytes / sector, entry.size_bytes / sector);
        let active = if entry.active { ", bootable" } else { "" };
        let _ = writeln!(
            out,
            "/dev/{name} : start={start}, size={size}, type={:x}{active}",
            entry.kind
        );
    }
    out.push_str("END\n");
    out
}

/// The attribute bits by sfdisk's names.
fn attributes(bits: u64) -> String {
    let mut names = Vec::new();
    for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
        names.push(match bit {
            0 => "RequiredPartition".to_owned(),
            1 => "NoBlockIOProtocol".to_owned(),
            2 => "LegacyBIOSBootable".to_owned(),
            _ => format!("GUID:{bit}"),
        });
    }
    names.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn quote_path(path: &std::path::Path) -> String {
    quote(&path.to_string_lossy())
}
