//! Comparing two lists of lines that start with a name: what `treecheck` says of a tree.

use std::collections::BTreeMap;

/// What may differ between the tree that was backed up and the recovered one, and why. A name that
/// ends with `/` means everything below it, but not itself.
pub const VOLATILE: &[(&str, &str)] = &[
    ("/var/lib/systemd/random-seed", "written anew at every shutdown"),
    ("/var/log/journal/", "the journal of the shutdown after the backup"),
    ("/tmp/", "not backed up, and emptied at boot"),
    ("/tmp", "its own time changes with what is in it"),
    ("/var/tmp/", "not backed up"),
    ("/var/tmp", "its own time changes with what is in it"),
    ("/var/log", "rr makes its directory in it"),
    ("/var/log/wtmp", "the shutdown after the backup is recorded in it"),
    ("/var/log/rr/", "rr's own logs: of the backup while it ran, and of the recovery"),
    ("/var/log/rr", "the directory of rr's own logs"),
    ("/boot/efi/EFI/BOOT/", "the loader's copy under the path that firmware tries by itself"),
    ("/boot/efi/EFI/BOOT", "made by a recovery where the node had none"),
    ("/boot/efi/EFI", "its own time changes with what is in it"),
];

/// The differences, one line each; empty when there are none.
pub fn differences(before: &str, after: &str, volatile: &[(&str, &str)]) -> Vec<String> {
    let (before, after) = (by_name(before), by_name(after));
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| !is_volatile(name, volatile)) {
        match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) => {
                let only = |a: &[&str], b: &[&str]| {
                    let fields: Vec<_> = a.iter().filter(|f| !b.contains(*f)).copied().collect();
                    fields.join(" ")
                };
                found.push(format!("{name}: was {}, is {}", only(old, new), only(new, old)));
            }
            (Some(_), None) => found.push(format!("{name}: is missing")),
            (None, _) => found.push(format!("{name}: was not there")),
        }
    }
    found
}

fn by_name(text: &str) -> BTreeMap<&str, Vec<&str>> {
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t');
            (fields.next().unwrap_or(""), fields.collect())
        })
        .collect()
}

fn is_volatile(name: &str, volatile: &[(&str, &str)]) -> bool {
    volatile.iter().any(|(pattern, _)| {
        if pattern.ends_with('/') { name.starts_with(pattern) } else { name == *pattern }
    })
}

/// What blkid(8) says of devices that does not depend on their sizes.
pub fn identities(text: &str) -> String {
    const LASTING: &[&str] =
        &["UUID=", "LABEL=", "TYPE=", "PTUUID=", "PART_ENTRY_UUID=", "PART_ENTRY_NAME="];
    let of_device = |line: &str| {
        let (device, words) = line.strip_prefix("/dev/")?.split_once(": ")?;
        let lasts = |word: &&str| LASTING.iter().any(|key| word.starts_with(key));
        let words: Vec<_> = words.split(' ').filter(lasts).collect();
        Some(format!("{device} {}\n", words.join(" ")))
    };
    text.lines().filter_map(of_device).collect()
}

/// The lines, sorted, with single spaces.
pub fn sorted_lines(facts: &str) -> Vec<String> {
    let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines: Vec<_> = facts.lines().map(line).collect();
    lines.sort();
    lines
}

/// The lines, sorted, without `1.5G` and its like.
pub fn without_sizes(facts: &str) -> Vec<String> {
    let is_size = |word: &str| {
        word.strip_suffix(['K', 'M', 'G', 'T']).is_some_and(|number| number.parse::<f64>().is_ok())
    };
    let without = |line: String| -> String {
        line.split(' ').filter(|word| !is_size(word)).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<_> = sorted_lines(facts).into_iter().map(without).collect();
    lines.sort();
    lines
}

/// Lines of one text that are not in the other.
pub fn line_differences(before: &str, after: &str) -> Vec<String> {
    let only = |a: &str, b: &str, word: &str| -> Vec<String> {
        a.lines()
            .filter(|line| !b.lines().any(|other| other == *line))
            .map(|line| format!("disks: {word}: {line}"))
            .collect()
    };
    let mut found = only(before, after, "was");
    found.extend(only(after, before, "is"));
    found
}
