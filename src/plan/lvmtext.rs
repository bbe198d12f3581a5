//! LVM's metadata as vgcfgbackup(8) writes it: which volumes can come back from it as they were,
//! the text with these alone, and the text with other UUIDs.
//!
//! Thin pools have metadata of their own, which is lost with the disks and can't be made up: they are
//! created anew beside what vgcfgrestore(8) has put back, and get their UUIDs afterwards. Caches have
//! some, too, but an empty cache is as good as any: the kernel makes one where it finds zeros, as it
//! does for lvconvert(8).

use std::collections::{BTreeMap, BTreeSet};
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

    /// What a segment is, without the flags that LVM writes behind it: `cache+CACHE_USES_CACHEVOL`.
    fn kind(&self) -> &'a str {
        self.words("type").first().and_then(|kind| kind.split('+').next()).unwrap_or_default()
    }

    /// The names in [`COPIES`]. Each leg of a mirror is followed by its first extent.
    fn copies(&self) -> impl Iterator<Item = &'a str> + '_ {
        COPIES.iter().flat_map(|key| {
            let step = if *key == "mirrors" { 2 } else { 1 };
            self.words(key).iter().step_by(step).copied()
        })
    }

    fn has_type(&self, kind: &str) -> bool {
        self.segments().any(|segment| segment.kind() == kind)
    }
}

/// What comes back from a group's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restorable {
    /// The metadata without the other volumes, and without the system ID: of a group that is another
    /// system's LVM makes no volume, and the rescue system is one.
    pub text: String,
    /// That system ID, see lvmsystemid(7).
    pub system_id: Option<String>,
    /// Names of the volumes that users see.
    pub volumes: BTreeSet<String>,
    /// Where arrays and caches keep what they know of themselves: the UUID of the physical volume,
    /// first byte and size. What earlier ones left there would be believed.
    pub clear: Vec<(String, u64, u64)>,
}

/// An array's or a cache's superblock, or a mirror's log, is at the start.
const CLEAR_BYTES: u64 = 1 << 20;
const SECTOR_BYTES: u64 = 512;

/// Where the segments of arrays name the volumes that hold their data, and caches all of theirs.
const COPIES: &[&str] = &["raids", "raid0_lvs", "mirrors"];
const PARTS: &[&str] = &["mirror_log", "origin", "cache_pool", "writecache", "data", "metadata"];

/// Takes apart the metadata of the group `vg`, of which the volumes `wanted` come back. None where
/// the text is not understood.
pub fn restorable(text: &str, vg: &str, wanted: &BTreeSet<&str>) -> Option<Restorable> {
    let top = parse(text)?;
    let group = top.iter().find(|item| item.name == vg)?;
    let system_id = group.words("system_id").first().map(|id| (*id).to_owned());
    let owner = group.get("system_id");
    let (mut volumes, mut kept) = (BTreeSet::new(), BTreeSet::new());
    let Some(all) = group.get("logical_volumes") else {
        let text = without(text, owner);
        return Some(Restorable { text, system_id, volumes, clear: Vec::new() });
    };
    for lv in all.items().iter().filter(|lv| wanted.contains(lv.name)) {
        if let Some(parts) = parts(all, lv) {
            volumes.insert(lv.name.to_owned());
            kept.extend(parts);
        }
    }
    let known = |name: &&str| all.get(name);
    // Where LVM repairs the metadata of pools; a thin pool's is made with it.
    if kept.iter().filter_map(known).any(|lv| lv.has_type("cache-pool")) {
        kept.extend(all.items().iter().map(|lv| lv.name).filter(|name| name.ends_with("_pmspare")));
    }
    let whole = std::slice::from_ref(all);
    let dropped = all.items().iter().filter(|lv| !kept.contains(lv.name));
    let dropped: Vec<_> =
        if volumes.is_empty() { whole.iter().collect() } else { dropped.collect() };
    let text = without(text, owner.into_iter().chain(dropped));
    let headers = kept.iter().filter_map(known).flat_map(|lv| headers(all, lv));
    let clear: BTreeSet<_> = headers.flat_map(|lv| starts(group, all, lv)).collect();
    Some(Restorable { text, system_id, volumes, clear: clear.into_iter().collect() })
}

/// The text without these items, which come in its order.
fn without<'a>(text: &str, items: impl IntoIterator<Item = &'a Item<'a>>) -> String {
    let (mut left, mut at) = (String::new(), 0);
    for item in items {
        left.push_str(&text[at..item.span.start]);
        at = item.span.end;
    }
    left.push_str(&text[at..]);
    left
}

/// A volume's name and those of all that it is made of. None where a part of it holds metadata that
/// is lost with the disks, or is of an unknown kind.
fn parts<'a>(all: &'a Item<'a>, lv: &'a Item<'a>) -> Option<BTreeSet<&'a str>> {
    let mut names = BTreeSet::from([lv.name]);
    let (top, mut todo) = (lv.name, vec![lv]);
    // An array's parts may be mirrors themselves, a cache's may be arrays.
    while let Some(lv) = todo.pop() {
        if !is_restorable(lv, lv.name != top) {
            return None;
        }
        let others = |s: &'a Item<'a>| PARTS.iter().flat_map(|key| s.words(key)).copied();
        for name in lv.segments().flat_map(|s| s.copies().chain(others(s))) {
            if names.insert(name) {
                todo.push(all.get(name)?);
            }
        }
    }
    Some(names)
}

/// Whether a volume's segments are of kinds that need no more than their parts. `vgreduce
/// --removemissing --force` leaves an array without some: what stands there gives errors.
fn is_restorable(lv: &Item<'_>, is_part: bool) -> bool {
    let fits = |segment: &Item<'_>| {
        let kind = segment.kind();
        matches!(kind, "striped" | "linear" | "mirror" | "cache" | "cache-pool" | "writecache")
            || kind.starts_with("raid")
            || (is_part && matches!(kind, "error" | "zero"))
    };
    let mut segments = lv.segments().peekable();
    segments.peek().is_some() && segments.all(fits)
}

/// The parts of a volume that begin with what an array or a cache knows of itself.
fn headers<'a>(all: &'a Item<'a>, lv: &'a Item<'a>) -> Vec<&'a Item<'a>> {
    let mut names = Vec::new();
    for segment in lv.segments() {
        let arrays = segment.words("raids").chunks(2);
        names.extend(arrays.filter(|pair| pair.len() == 2).map(|pair| pair[0]));
        for key in ["mirror_log", "metadata", "writecache", "cache_pool"] {
            names.extend(segment.words(key));
        }
    }
    // A pool begins with data; a single volume as a cache, with metadata.
    let found = names.into_iter().filter_map(|name| all.get(name));
    found.filter(|part| !part.has_type("cache-pool")).collect()
}

/// Where the start of a volume is, in all copies.
fn starts(group: &Item<'_>, all: &Item<'_>, lv: &Item<'_>) -> Vec<(String, u64, u64)> {
    if let Some(place) = place(group, lv) {
        return vec![place];
    }
    let parts = lv.segments().flat_map(Item::copies).filter_map(|name| all.get(name));
    parts.filter_map(|part| place(group, part)).collect()
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

/// The UUIDs of the physical volumes that the data of a volume lies on, without those that only its
/// cache is on. None where the text is not understood.
pub fn data_on(text: &str, vg: &str, lv: &str) -> Option<BTreeSet<String>> {
    let top = parse(text)?;
    let group = top.iter().find(|item| item.name == vg)?;
    let (all, pvs) = (group.get("logical_volumes")?, group.get("physical_volumes")?);
    let (mut on, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut todo = vec![lv];
    while let Some(name) = todo.pop() {
        if !seen.insert(name) {
            continue;
        }
        for segment in all.get(name)?.segments() {
            match segment.kind() {
                "cache" | "writecache" => todo.extend(segment.words("origin")),
                "thin-pool" => {
                    todo.extend([segment.words("pool"), segment.words("metadata")].concat());
                }
                "thin" => todo.extend(segment.words("thin_pool")),
                "striped" | "linear" => {
                    for pv in segment.words("stripes").iter().step_by(2) {
                        on.insert((*pvs.get(pv)?.words("id").first()?).to_owned());
                    }
                }
                kind if kind == "mirror" || kind.starts_with("raid") => {
                    todo.extend(
                        segment.copies().chain(segment.words("mirror_log").iter().copied()),
                    );
                }
                _ => return None,
            }
        }
    }
    Some(on)
}

/// The UUIDs that LVM gave to the volume `lv` and to the hidden ones that it is made with, by name.
/// Of a thin pool these are its data, its metadata and the room to repair this in.
pub fn uuids(text: &str, vg: &str, lv: &str) -> Vec<(String, String)> {
    let Some(top) = parse(text) else { return Vec::new() };
    let group = top.iter().find(|item| item.name == vg);
    let Some(all) = group.and_then(|group| group.get("logical_volumes")) else {
        return Vec::new();
    };
    let pool = all.get(lv).into_iter().flat_map(Item::segments).filter(|s| s.kind() == "thin-pool");
    let hidden: Vec<_> =
        pool.flat_map(|s| [s.words("pool"), s.words("metadata")].concat()).collect();
    let spare = |name: &str| !hidden.is_empty() && name.ends_with("_pmspare");
    let wanted = |name: &str| name == lv || hidden.contains(&name) || spare(name);
    let volumes = all.items().iter().filter(|volume| wanted(volume.name));
    let uuid = |volume: &Item<'_>| volume.words("id").first().map(|id| (*id).to_owned());
    volumes.filter_map(|v| Some((v.name.to_owned(), uuid(v)?))).collect()
}

/// The metadata of the group `vg` with these UUIDs of its volumes and nothing else changed. Names
/// that it does not know are left out. None where the text is not understood.
pub fn with_uuids(text: &str, vg: &str, uuids: &BTreeMap<&str, &str>) -> Option<String> {
    let top = parse(text)?;
    let all = top.iter().find(|item| item.name == vg)?.get("logical_volumes")?;
    let (mut new, mut at) = (String::new(), 0);
    for lv in all.items() {
        let (Some(id), Some(uuid)) = (lv.get("id"), uuids.get(lv.name)) else { continue };
        let line = &text[id.span.clone()];
        new.push_str(&text[at..id.span.start]);
        new.push_str(&line.replace(lv.words("id").first()?, uuid));
        at = id.span.end;
    }
    new.push_str(&text[at..]);
    Some(new)
}

/// Whether this is a UUID as LVM writes it, and nothing that could be read otherwise in a text.
pub fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(|part| {
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'#' || b == b'!');
        if plain { part.len() } else { 0 }
    });
    lengths.eq([6, 4, 4, 4, 4, 4, 6])
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
    /// `slow` with a pool, `slow2` (a mirror) with a volume as its cache, `slow3` with a writecache.
    const CACHED: &str = include_str!("../../tests/fixtures/probe/debian12/vgcfgbackup.cached");

    #[test]
    fn arrays_and_caches_come_back_with_their_parts_and_thin_volumes_do_not() {
        let wanted = ["lin", "r1", "r5", "mir", "pool", "t1", "slow"].into();
        let found = restorable(TEXT, "vg0", &wanted).unwrap();
        let names: Vec<&str> = found.volumes.iter().map(String::as_str).collect();
        assert_eq!(names, ["lin", "mir", "r1", "r5", "slow"]);
        for gone in ["pool", "t1", "t1snap", "linsnap", "snapshot0"] {
            assert!(!found.text.contains(&format!("\t{gone} {{")), "{gone}\n{}", found.text);
        }
        for kept in [
            "lin {",
            "r1_rimage_1 {",
            "r5_rmeta_2 {",
            "mir_mlog {",
            "mir_mimage_0 {",
            "fast_cpool_cmeta {",
            "slow_corig {",
            "lvol0_pmspare {",
            "pv2 {",
        ] {
            assert!(found.text.contains(kept), "{kept}\n{}", found.text);
        }
        // What is left is again what LVM writes.
        assert_eq!(restorable(&found.text, "vg0", &wanted).unwrap(), found);
        // Two legs, three legs, one log, one cache; r5_rmeta_2 is the first extent of the third volume.
        assert_eq!(found.clear.len(), 7);
        let third = ("CWQ7h8-46iQ-X353-H6Di-JUlm-Nv2m-1jb7fd".to_owned(), 1 << 20, 1 << 20);
        assert!(found.clear.contains(&third), "{:?}", found.clear);
        // Room to repair a thin pool in is not LVM's to put back: it comes with the pool.
        let found = restorable(TEXT, "vg0", &["lin", "pool"].into()).unwrap();
        assert!(!found.text.contains("pmspare"), "{}", found.text);
    }

    #[test]
    fn what_a_cache_knew_of_itself_is_cleared_in_every_kind_of_it() {
        let found = restorable(CACHED, "vg", &["slow", "slow2", "slow3"].into()).unwrap();
        assert_eq!((found.text.as_str(), found.volumes.len()), (CACHED, 3));
        let ubdc = "5005Q3-pSzh-Ox2t-BOzV-N2iS-209z-WcVcPM";
        let mib: Vec<u64> = found
            .clear
            .iter()
            .filter(|(pv, _, bytes)| pv == ubdc && *bytes == 1 << 20)
            .map(|(_, at, _)| at >> 20)
            .collect();
        // The pool's metadata, the volume that is a cache, the one of a writecache.
        assert_eq!(mib, [6, 51, 75]);
        // And the mirror below the second volume.
        assert_eq!(found.clear.len(), 5);
        // Without the mirror's image nothing of it comes back, nor what is of a kind that is not known.
        let torn = CACHED.replace("slow2_corig_rimage_1 {", "other {");
        let odd = CACHED.replace("\"writecache\"", "\"vdo\"");
        for (text, left) in [(torn, ["slow", "slow3"]), (odd, ["slow", "slow2"])] {
            let found = restorable(&text, "vg", &["slow", "slow2", "slow3"].into()).unwrap();
            assert_eq!(found.volumes, left.map(str::to_owned).into());
        }
    }

    #[test]
    fn an_array_that_lost_a_part_comes_back_without_it() {
        // As vgreduce --removemissing --force leaves it.
        let mut text = CACHED.to_owned();
        for start in [0, 1] {
            let striped = format!(
                "type = \"striped\"\n\t\t\t\tstripe_count = 1\t# linear\n\n\t\t\t\tstripes = [\n\t\t\t\t\t\"pv2\", {start}\n\t\t\t\t]\n"
            );
            assert_eq!(text.matches(&striped).count(), 1);
            text = text.replace(&striped, "type = \"error\"\n");
        }
        let found = restorable(&text, "vg", &["slow2"].into()).unwrap();
        assert_eq!(found.volumes, ["slow2".to_owned()].into());
        assert!(found.text.contains("slow2_corig_rimage_1 {"), "{}", found.text);
        // The part that is left is cleared, and what the cache was.
        assert_eq!(found.clear.len(), 2, "{:?}", found.clear);
        // Nobody can mean to have back what is nothing but errors.
        let lost = TEXT.replace("\"striped\"", "\"error\"");
        let found = restorable(&lost, "vg0", &["lin", "r1"].into()).unwrap();
        assert_eq!(found.volumes, ["r1".to_owned()].into());
    }

    #[test]
    fn volumes_get_their_uuids_and_nothing_else_changes() {
        let told = uuids(TEXT, "vg0", "pool");
        let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["pool", "lvol0_pmspare", "pool_tmeta", "pool_tdata"]);
        assert!(told.iter().all(|(_, uuid)| is_uuid(uuid)), "{told:?}");
        assert_eq!(uuids(TEXT, "vg0", "t1").len(), 1);
        assert!(uuids(TEXT, "vg0", "pv0").is_empty() && uuids(TEXT, "vg1", "pool").is_empty());
        let new = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg";
        let wanted = [("pool", new), ("pv0", new), ("none", new)].into();
        let text = with_uuids(TEXT, "vg0", &wanted).unwrap();
        let was = told.iter().find(|(name, _)| name == "pool").unwrap();
        assert_eq!(text, TEXT.replace(&was.1, new));
        assert_ne!(text, TEXT);
        for odd in ["", "aaaaaa-bbbb-cccc-dddd-eeee-ffff-ggggg\"", "aaaaaa-bbbb", "LVUUID-root"] {
            assert!(!is_uuid(odd), "{odd}");
        }
    }

    #[test]
    fn a_group_comes_back_as_no_systems_own() {
        // As LVM 2.03.16 writes it where lvm.conf has a system_id_source.
        let of_group = "\tformat = \"lvm2\"\t\t\t# informational\n";
        assert_eq!(TEXT.matches(of_group).count(), 1);
        let owned = TEXT.replace(of_group, &format!("{of_group}\tsystem_id = \"node1\"\n"));
        for wanted in [&["lin", "r1"][..], &["t1"]] {
            let wanted = wanted.iter().copied().collect();
            let found = restorable(&owned, "vg0", &wanted).unwrap();
            assert_eq!(found.system_id.as_deref(), Some("node1"));
            let plain = restorable(TEXT, "vg0", &wanted).unwrap();
            assert_eq!((found.text, plain.system_id), (plain.text, None));
        }
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
