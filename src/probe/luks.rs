//! LUKS: what `cryptsetup luksDump` tells.

use anyhow::{Context, Result, bail, ensure};

use crate::layout::{Id, Luks, Pbkdf};
use crate::sys::run::Cmd;

/// Where the sizes of LUKS1 are counted in sectors.
const SECTOR_BYTES: u64 = 512;

/// Reads the header on `device`.
pub fn read(device: &str, on: &Id) -> Result<Luks> {
    let text = Cmd::new("cryptsetup").args(["luksDump", device]).stdout()?;
    parse(&String::from_utf8_lossy(&text), on)
        .with_context(|| format!("reading the LUKS header of {device}"))
}

/// Parses `cryptsetup luksDump` of either version. The volume's name and size are the kernel's to
/// tell.
pub fn parse(text: &str, on: &Id) -> Result<Luks> {
    match value(text, "Version:") {
        Some("1") => parse_1(text, on),
        Some("2") => parse_2(text, on),
        other => bail!("LUKS of version {other:?} is not known"),
    }
}

/// The value of the first line with this key.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim)
}

fn needed<'a>(text: &'a str, key: &str) -> Result<&'a str> {
    value(text, key).with_context(|| format!("luksDump did not say {key:?}"))
}

/// The number that a value starts with: `16384 [bytes]`.
fn number(text: &str, key: &str) -> Result<u64> {
    let word = needed(text, key)?.split_whitespace().next().unwrap_or_default();
    word.parse().with_context(|| format!("{key} is {word:?}"))
}

fn parse_1(text: &str, on: &Id) -> Result<Luks> {
    let slots = text.lines().filter_map(|line| line.strip_prefix("Key Slot "));
    let used = slots.filter_map(|slot| slot.strip_suffix(": ENABLED")?.parse().ok());
    let cipher = format!("{}-{}", needed(text, "Cipher name:")?, needed(text, "Cipher mode:")?);
    let slot = text.split(": ENABLED").nth(1).unwrap_or_default();
    Ok(Luks {
        id: Id::luks(needed(text, "UUID:")?),
        on: on.clone(),
        name: String::new(),
        version: 1,
        uuid: needed(text, "UUID:")?.to_owned(),
        label: String::new(),
        subsystem: String::new(),
        cipher,
        key_bits: u32::try_from(number(text, "MK bits:")?).context("the size of the key")?,
        hash: needed(text, "Hash spec:")?.to_owned(),
        sector_bytes: 512,
        data_offset_bytes: number(text, "Payload offset:")?.saturating_mul(SECTOR_BYTES),
        size_bytes: 0,
        metadata_bytes: None,
        keyslots_bytes: None,
        pbkdf: Pbkdf {
            kind: "pbkdf2".to_owned(),
            iterations: number(slot, "Iterations:").unwrap_or_default(),
            ..Pbkdf::default()
        },
        keyslots: used.collect(),
        tokens: Vec::new(),
        flags: Vec::new(),
    })
}

fn parse_2(text: &str, on: &Id) -> Result<Luks> {
    let section = |name: &str| section(text, name);
    let (segments, slots, digests) =
        (section("Data segments:"), section("Keyslots:"), section("Digests:"));
    ensure!(value(&segments, "integrity:").is_none(), "LUKS with integrity is not supported yet");
    ensure!(items(&segments).len() == 1, "a volume that is being encrypted anew");
    let (own, slot) = slot_of_passphrase(&slots, &section("Tokens:"));
    let named = |key: &str| {
        let text = value(text, key).unwrap_or_default();
        if text.starts_with('(') { String::new() } else { text.to_owned() }
    };
    let optional = |key: &str| number(&slot, key).ok();
    let iterations = optional("Time cost:").or_else(|| optional("Iterations:"));
    let numbers = items(&slots).into_iter().filter_map(|(number, _)| number.parse().ok());
    // What comes back comes first.
    let mut keyslots: Vec<u32> = numbers.collect();
    keyslots.sort_by_key(|number| number.to_string() != own);
    Ok(Luks {
        id: Id::luks(needed(text, "UUID:")?),
        on: on.clone(),
        name: String::new(),
        version: 2,
        uuid: needed(text, "UUID:")?.to_owned(),
        label: named("Label:"),
        subsystem: named("Subsystem:"),
        cipher: needed(&segments, "cipher:")?.to_owned(),
        key_bits: u32::try_from(number(&slot, "Key:")?).context("the size of the key")?,
        hash: needed(&digests, "Hash:")?.to_owned(),
        sector_bytes: u32::try_from(number(&segments, "sector:")?).context("the sector size")?,
        data_offset_bytes: number(&segments, "offset:")?,
        size_bytes: 0,
        metadata_bytes: Some(number(text, "Metadata area:")?),
        keyslots_bytes: Some(number(text, "Keyslots area:")?),
        pbkdf: Pbkdf {
            kind: needed(&slot, "PBKDF:")?.to_owned(),
            iterations: iterations.unwrap_or_default(),
            memory_kib: optional("Memory:"),
            threads: optional("Threads:"),
        },
        keyslots,
        tokens: items(&section("Tokens:")).into_iter().map(|(_, kind)| kind).collect(),
        flags: named("Flags:").split_whitespace().map(str::to_owned).collect(),
    })
}

/// The key slot that is most likely a passphrase's: its number and what is told of it. A token's (TPM,
/// FIDO2, Clevis) holds a long random key and needs no slow function, nor do those of key files. The
/// first of the others is taken, not the slowest: GRUB may have to read it, and knows no argon2.
fn slot_of_passphrase(slots: &str, tokens: &str) -> (String, String) {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in slots.split_inclusive('\n') {
        match (item(line), found.last_mut()) {
            (Some((number, _)), _) => found.push((number, line.to_owned())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    let of_tokens: Vec<&str> =
        tokens.lines().filter_map(|line| line.trim().strip_prefix("Keyslot:")).collect();
    let is_tokens = |slot: &str| of_tokens.iter().any(|of| of.trim() == slot);
    let bound = |text: &str| !text.lines().next().unwrap_or_default().contains("unbound");
    let cost = |text: &str| match value(text, "PBKDF:") {
        Some("pbkdf2") => number(text, "Iterations:").unwrap_or_default(),
        _ => u64::MAX,
    };
    // The first of the best.
    found
        .into_iter()
        .rev()
        .max_by_key(|(slot, text)| {
            (bound(text), !is_tokens(slot), cost(text).min(Pbkdf::LEAST_ROUNDS))
        })
        .unwrap_or_default()
}

/// The lines below a heading.
fn section(text: &str, name: &str) -> String {
    let below = text.lines().skip_while(|line| *line != name).skip(1);
    let lines = below.take_while(|line| line.starts_with(char::is_whitespace));
    lines.map(|line| format!("{line}\n")).collect()
}

/// `  0: luks2`: number and kind. What is told of an item is indented further.
fn item(line: &str) -> Option<(String, String)> {
    let rest =
        line.strip_prefix("  ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let (number, kind) = rest?.trim_end().split_once(": ")?;
    Some((number.to_owned(), kind.to_owned()))
}

fn items(section: &str) -> Vec<(String, String)> {
    section.lines().filter_map(item).collect()
}
