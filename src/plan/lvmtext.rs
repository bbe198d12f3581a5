//! LVM's metadata as vgcfgbackup(8) writes it: which volumes can come back from it as they were,
//! and the text with these alone.
//!
//! Thin pools and caches have metadata of their own, which is lost with the disks: they are created
//! anew, below them what vgcfgrestore(8) has put back.

use std::collections::BTreeSet;
use std::ops::Range;

/// `name = value` or `name { ... }`.
#[derive(Debug)]
struct Item<'a> {
    name: &'a str,
    value: Value<'a>,
    /// Where it is in the text, with its line.
    span: Range<usize>,
}

#[derive(Debug)]
enum Value<'a> {
    Section(Vec<Item<'a>>),
    /// One or several words, without quotes.
    Words(Vec<&'a str>),
}

impl<'a> Item<'a> {
    fn items(&self) -> &[Item<'a>] {
        match &self.value {
            Value::Section(items) => items,
            Value::Words(_) => &[],
        }
    }

    fn get(&self, name: &str) -> Option<&Item<'a>> {
        self.items().iter().find(|item| item.name == name)
    }

    fn words(&self, name: &str) -> &[&'a str] {
        match self.get(name).map(|item| &item.value) {
            Some(Value::Words(words)) => words,
            _ => &[],
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.words(name).first()?.parse().ok()
    }

    fn segments(&self) -> impl Iterator<Item = &Item<'a>> {
        self.items()
            .iter()
            .filter(|item| item.name.starts_with("segment") && item.get("type").is_some())
    }
}

/// What comes back from a group's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restorable {
    /// The metadata without the other volumes.
    pub text: String,
    /// Names of the volumes that users see.
    pub volumes: BTreeSet<String>,
    /// Where arrays keep what they know of themselves: the UUID of the physical volume, first byte
    /// and size. What an earlier array left there would be believed.
    pub clear: Vec<(String, u64, u64)>,
}

/// An array's superblock, or a mirror's log, is at the start.
const CLEAR_BYTES: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;

/// Takes apart the metadata of the group `vg`, of which the volumes `wanted` come back. None where
/// the text is not understood.
pub fn restorable(text: &str, vg: &str, wanted: &BTreeSet<&str>) -> Option<Restorable> {
    let top = parse(text)?;
    let group = top.iter().find(|item| item.name == vg)?;
    let Some(all) = group.get("logical_volumes") else {
        let volumes = BTreeSet::new();
        return Some(Restorable { text: text.to_owned(), volumes, clear: Vec::new() });
    };
    let visible = all.items().iter().filter(|lv| wanted.contains(lv.name) && is_restorable(lv));
    let volumes: BTreeSet<&str> = visible.map(|lv| lv.name).collect();
    let mut kept = volumes.clone();
    let mut logs = BTreeSet::new();
    // An array's parts may be mirrors themselves.
    loop {
        let before = kept.clone();
        let known = all.items().iter().filter(|lv| before.contains(lv.name));
        for segment in known.flat_map(Item::segments) {
            let arrays = segment.words("raids").chunks(2);
            logs.extend(arrays.filter(|pair| pair.len() == 2).map(|pair| pair[0]));
            logs.extend(segment.words("mirror_log"));
            for key in ["raids", "raid0_lvs", "mirrors", "mirror_log"] {
                kept.extend(segment.words(key));
            }
        }
        if kept == before {
            break;
        }
    }
    let mut left = String::new();
    let mut at = 0;
    let whole = std::slice::from_ref(all);
    let dropped = all.items().iter().filter(|lv| !kept.contains(lv.name));
    let dropped: Vec<_> =
        if volumes.is_empty() { whole.iter().collect() } else { dropped.collect() };
    for item in dropped {
        left.push_str(&text[at..item.span.start]);
        at = item.span.end;
    }
    left.push_str(&text[at..]);
    let logs = all.items().iter().filter(|lv| logs.contains(lv.name) && kept.contains(lv.name));
    let clear = logs.filter_map(|lv| place(group, lv)).collect();
    Some(Restorable {
        text: left,
        volumes: volumes.into_iter().map(str::to_owned).collect(),
        clear,
    })
}

/// Its segments hold no metadata that is lost with the disks.
fn is_restorable(lv: &Item<'_>) -> bool {
    let fits =
        |kind: &&str| matches!(*kind, "striped" | "linear" | "mirror") || kind.starts_with("raid");
    let mut segments = lv.segments().peekable();
    segments.peek().is_some() && segments.all(|s| s.words("type").iter().all(fits))
}

/// Where the start of a plain volume is.
fn place(group: &Item<'_>, lv: &Item<'_>) -> Option<(String, u64, u64)> {
    let segment = lv.segments().find(|s| s.number("start_extent") == Some(0))?;
    let [pv, start, ..] = segment.words("stripes") else { return None };
    let pv = group.get("physical_volumes")?.get(pv)?;
    let extent = group.number("extent_size")?.checked_mul(SECTOR_BYTES)?;
    let first = pv.number("pe_start")?.checked_mul(SECTOR_BYTES)?;
    let at = first.checked_add(start.parse::<u64>().ok()?.checked_mul(extent)?)?;
    let size = segment.number("extent_count")?.checked_mul(extent)?;
    Some((pv.words("id").first()?.to_string(), at, size.min(CLEAR_BYTES)))
}

fn parse(text: &str) -> Option<Vec<Item<'_>>> {
    let mut parser = Parser { text, at: 0 };
    let items = parser.items()?;
    parser.token().is_none().then_some(items)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next word (without its quotes) or sign, and where it starts.
    fn token(&mut self) -> Option<(&'a str, usize)> {
        loop {
            let rest = &self.text[self.at..];
            self.at += rest.len() - rest.trim_start().len();
            let rest = rest.trim_start();
            if rest.starts_with('#') {
                self.at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            let start = self.at;
            let first = rest.chars().next()?;
            let len = match first {
                '{' | '}' | '[' | ']' | '=' | ',' => 1,
                '"' => {
                    let mut escaped = false;
                    let end = rest[1..].find(|c| {
                        let ends = c == '"' && !escaped;
                        escaped = c == '\\' && !escaped;
                        ends
                    })?;
                    self.at += end + 2;
                    return Some((&rest[1..=end], start));
                }
                _ => rest
                    .find(|c: char| c.is_whitespace() || "{}[]=,#".contains(c))
                    .unwrap_or(rest.len()),
            };
            self.at += len;
            return Some((&rest[..len], start));
        }
    }

    /// Up to the brace that closes a section, or the end.
    fn items(&mut self) -> Option<Vec<Item<'a>>> {
        let mut items = Vec::new();
        loop {
            let before = self.at;
            let Some((name, start)) = self.token() else { return Some(items) };
            if name == "}" {
                self.at = before;
                return Some(items);
            }
            let value = match self.token()?.0 {
                "{" => {
                    let inside = self.items()?;
                    (self.token()?.0 == "}").then_some(Value::Section(inside))?
                }
                "=" => Value::Words(self.words()?),
                _ => return None,
            };
            let line = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
            let rest = &self.text[self.at..];
            let end = self.at + rest.find('\n').map_or(rest.len(), |at| at + 1);
            items.push(Item { name, value, span: line..end });
        }
    }

    fn words(&mut self) -> Option<Vec<&'a str>> {
        let (first, _) = self.token()?;
        if first != "[" {
            return Some(vec![first]);
        }
        let mut words = Vec::new();
        loop {
            match self.token()?.0 {
                "]" => return Some(words),
                "," => {}
                word => words.push(word),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../tests/fixtures/probe/debian12/vgcfgbackup.complex");

    #[test]
    fn arrays_come_back_with_their_parts_and_thin_and_cached_volumes_do_not() {
        let wanted = ["lin", "r1", "r5", "mir", "pool", "t1", "slow"].into();
        let found = restorable(TEXT, "vg0", &wanted).unwrap();
        let names: Vec<&str> = found.volumes.iter().map(String::as_str).collect();
        assert_eq!(names, ["lin", "mir", "r1", "r5"]);
        for gone in
            ["pool", "t1", "t1snap", "linsnap", "snapshot0", "slow", "fast_cpool", "lvol0_pmspare"]
        {
            assert!(!found.text.contains(&format!("\t{gone} {{")), "{gone}\n{}", found.text);
        }
        for kept in
            ["lin {", "r1_rimage_1 {", "r5_rmeta_2 {", "mir_mlog {", "mir_mimage_0 {", "pv2 {"]
        {
            assert!(found.text.contains(kept), "{kept}\n{}", found.text);
        }
        // What is left is again what LVM writes.
        assert_eq!(restorable(&found.text, "vg0", &wanted).unwrap(), found);
        // Two legs, three legs, one log; r5_rmeta_2 is the first extent of the third volume.
        assert_eq!(found.clear.len(), 6);
        let third = ("CWQ7h8-46iQ-X353-H6Di-JUlm-Nv2m-1jb7fd".to_owned(), 1 << 20, 1 << 20);
        assert!(found.clear.contains(&third), "{:?}", found.clear);
    }

    #[test]
    fn a_group_that_keeps_no_volume_has_no_section_of_them() {
        let found = restorable(TEXT, "vg0", &["pool", "t1"].into()).unwrap();
        assert!(found.volumes.is_empty() && !found.text.contains("logical_volumes"));
        assert!(found.text.contains("physical_volumes"));
        assert_eq!(restorable("vg0 { id = \"x", "vg0", &BTreeSet::new()), None);
        assert_eq!(restorable(TEXT, "vg1", &BTreeSet::new()), None);
    }
}
