//! What the keys of the console mean: a keymap as loadkeys(1) compiles it with `--bkeymap`, given to
//! the kernel.
//!
//! `bkeymap`, a byte for each of 256 tables (a combination of Shift, `AltGr` and so on) that says
//! whether it follows, and for each that does what its 128 keys give, as two bytes of the machine.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, bail};

const MAGIC: &[u8] = b"bkeymap";
const TABLES: usize = 256;
const KEYS: usize = 128;
/// A key that the map says nothing of.
const HOLE: u16 = 0x200;
const SCREEN: &str = "/dev/tty0";

/// What one key means in one table, as the kernel takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    table: u8,
    key: u8,
    value: u16,
}

mod raw {
    #![allow(unsafe_code, missing_docs)]
    nix::ioctl_write_ptr_bad!(kdskbent, 0x4b47, super::Key);
}

/// What the keys mean, without those that the map says nothing of: they stay as they are.
pub fn parse(bytes: &[u8]) -> Result<Vec<Key>> {
    let Some((flags, mut rest)) =
        bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(TABLES))
    else {
        bail!("this is no keymap");
    };
    let mut keys = Vec::new();
    for table in (0..=u8::MAX).filter(|table| flags[usize::from(*table)] != 0) {
        let Some((values, more)) = rest.split_at_checked(2 * KEYS) else {
            bail!("the keymap ends early");
        };
        rest = more;
        let values = values.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
        // The first is no key: given a value, it makes or deletes tables.
        keys.extend(
            (0..=u8::MAX)
                .zip(values)
                .skip(1)
                .filter(|(_, value)| *value != HOLE)
                .map(|(key, value)| Key { table, key, value }),
        );
    }
    if !rest.is_empty() || keys.is_empty() {
        bail!("the keymap has {} keys and {} bytes too many", keys.len(), rest.len());
    }
    Ok(keys)
}

/// Gives the screen's keyboard the keymap in `file`.
pub fn load(file: &Path) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let keys = parse(&bytes).with_context(|| format!("reading {}", file.display()))?;
    let screen = File::options()
        .read(true)
        .write(true)
        .open(SCREEN)
        .with_context(|| format!("opening {SCREEN}"))?;
    for key in &keys {
        set(&screen, key).with_context(|| format!("giving the keyboard {key:x?}"))?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn set(screen: &File, key: &Key) -> nix::Result<()> {
    // SAFETY: the descriptor is open, and the kernel only reads the four bytes of the key.
    unsafe { raw::kdskbent(screen.as_raw_fd(), key) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `loadkeys --unicode --bkeymap` of kbd 2.5.1 makes of the first four tables of the German
    /// keyboard of Debian 12's console-setup (`ckbcomp -model pc105 -layout de`).
    const GERMAN: &[u8] = include_bytes!("../../tests/fixtures/keymap/de.bkeymap");

    #[test]
    fn the_german_keyboard_has_z_where_the_american_has_y() {
        let keys = parse(GERMAN).unwrap();
        let on = |key: u8| keys.iter().find(|k| k.table == 0 && k.key == key).map(|k| k.value);
        // Letters are of type 11: Caps Lock is for them.
        assert_eq!(on(21), Some(0xb00 | u16::from(b'z')));
        assert_eq!(on(44), Some(0xb00 | u16::from(b'y')));
        assert_eq!(on(40), Some(0xbe4), "ä");
        assert_eq!(on(0), None, "no key");
        assert!(keys.iter().all(|key| key.value != HOLE));
    }

    #[test]
    fn what_is_no_whole_keymap_is_refused() {
        assert!(parse(b"").is_err());
        assert!(parse(b"keymaps 0-127\nkeycode 21 = z\n").is_err());
        assert!(parse(&GERMAN[..GERMAN.len() - 1]).is_err());
        assert!(parse(&[GERMAN, b"x"].concat()).is_err());
        let empty = [MAGIC, &[0; TABLES]].concat();
        assert!(parse(&empty).is_err(), "a map of nothing");
    }

    /// Some kernels have no screen, and only root may do this.
    #[test]
    #[allow(unsafe_code)]
    fn the_kernel_takes_a_keymap_and_keeps_what_that_says_nothing_of() {
        nix::ioctl_readwrite_bad!(kdgkbent, 0x4b46, Key);
        const NO_TABLE: u16 = 0x27f;
        let Ok(screen) = File::options().read(true).write(true).open(SCREEN) else {
            println!("skipped: {SCREEN} can't be opened here");
            return;
        };
        let get = |table: u8, key: u8| {
            let mut entry = Key { table, key, value: 0 };
            // SAFETY: the descriptor is open, and the kernel writes into the four bytes of the key.
            unsafe { kdgkbent(screen.as_raw_fd(), &mut entry) }.map(|_| entry)
        };
        if let Err(errno) = get(0, 1) {
            println!("skipped: {SCREEN} has no keys: {errno}");
            return;
        }
        let all = (0..=3).flat_map(|table| (0..=127).map(move |key| (table, key)));
        let before: Vec<Key> = all.map(|(table, key)| get(table, key).unwrap()).collect();

        // Of table 0 only two keys, as in a file with an admin's own.
        let mut own = [MAGIC, &[0; TABLES]].concat();
        own[MAGIC.len()] = 1;
        let mut values = vec![HOLE; KEYS];
        (values[21], values[44]) = (u16::from(b'z'), u16::from(b'y'));
        own.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keymap");
        std::fs::write(&file, own).unwrap();
        let loaded = load(&file).map(|()| (get(0, 21).unwrap().value, get(0, 16).unwrap()));
        std::fs::write(&file, GERMAN).unwrap();
        let german = load(&file).map(|()| (get(0, 40).unwrap().value, get(1, 3).unwrap().value));

        for (index, entry) in before.iter().enumerate() {
            let is_table = before[index / KEYS * KEYS].value != NO_TABLE;
            // The first is the table itself.
            if is_table != (entry.key == 0) {
                set(&screen, entry).unwrap();
            }
        }
        assert_eq!(loaded.unwrap(), (u16::from(b'z'), before[16]));
        assert_eq!(german.unwrap(), (0xbe4, u16::from(b'"')));
        assert_eq!(get(0, 40).unwrap(), before[40], "the test left another keymap");
    }
}
