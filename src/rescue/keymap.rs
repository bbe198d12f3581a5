//! The keyboard of the rescue system's screen: what the node's console has, for passphrases are typed
//! there. The node's loadkeys compiles it, so that the rescue system needs neither that nor the
//! files that keymaps include.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::tree::Tree;
use crate::config::Keymap;
use crate::sys::keymap;
use crate::sys::run::Cmd;

/// Where it is in the rescue system.
pub const PATH: &str = "/etc/rr/keymap";
/// Where setupcon(1) of Debian and Ubuntu keeps what it compiled of `/etc/default/keyboard`.
const CACHE: &str = "etc/console-setup";
/// The kernel's own.
const BUILT_IN: &str = "us";

/// Puts the keymap into `tree`. Gives what an admin should know.
///
/// # Errors
/// One that was asked for by name is not there.
pub fn add(tree: &mut Tree, wanted: &Keymap) -> Result<Option<String>> {
    let found = match wanted {
        Keymap::None => Ok(None),
        Keymap::Named(name) => Ok(Some(name.clone())),
        Keymap::Node => of_node(Path::new("/")),
    };
    let compiled = found.and_then(|name| name.as_deref().map(compile).transpose());
    match (compiled, wanted) {
        (Ok(None), _) => Ok(None),
        (Ok(Some(bytes)), _) => {
            tree.text(PATH.trim_start_matches('/'), 0o644, bytes);
            Ok(None)
        }
        (Err(error), Keymap::Named(_)) => Err(error),
        (Err(error), _) => Ok(Some(format!(
            "keys in the rescue system are those of an American keyboard, unlike the node's: {error:#}\nhint: install kbd, or rescue.keymap = \"none\" in rr.toml where that is right"
        ))),
    }
}

/// What the console of the system below `root` has, as loadkeys takes it. None: what every kernel has.
fn of_node(root: &Path) -> Result<Option<String>> {
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let keyboard = read("etc/default/keyboard");
    let is_set = |key: &str| value(&keyboard, key).is_some();
    let plain = value(&keyboard, "XKBLAYOUT").is_some_and(|layout| layout == BUILT_IN);
    if plain && !is_set("XKBVARIANT") && !is_set("XKBOPTIONS") {
        return Ok(None);
    }
    if let Some(cached) = cached(&root.join(CACHE)) {
        return Ok(Some(cached.to_string_lossy().into_owned()));
    }
    let console = read("etc/vconsole.conf");
    if let Some(name) = value(&console, "KEYMAP") {
        return Ok(Some(name).filter(|name| name != BUILT_IN));
    }
    match value(&keyboard, "XKBLAYOUT") {
        Some(layout) if layout != BUILT_IN => Err(anyhow!(
            "its layout is {layout:?}, and /{CACHE} has no keymap made of that (`setupcon --save-only` makes it)"
        )),
        _ => Ok(None),
    }
}

fn cached(dir: &Path) -> Option<PathBuf> {
    let entries = dir.read_dir().ok()?;
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("cached_") && name.ends_with(".kmap.gz")
    });
    // Of several the one that was made last is in use.
    found.sort_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    found.pop()
}

/// What a file of shell assignments has for `key`, where that is not empty.
fn value(text: &str, key: &str) -> Option<String> {
    let of = |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix('=')?.to_owned());
    let last = text.lines().filter_map(of).next_back()?;
    let plain = last.trim().trim_matches(['"', '\'']);
    (!plain.is_empty()).then(|| plain.to_owned())
}

fn compile(name: &str) -> Result<Vec<u8>> {
    let compiling = || format!("compiling the keymap {name}");
    let bytes = Cmd::new("loadkeys")
        .args(["--unicode", "--bkeymap", "--"])
        .arg(name)
        .stdout()
        .with_context(compiling)?;
    keymap::parse(&bytes).with_context(compiling)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/etc/default/keyboard` as Debian 12's installer leaves it.
    const KEYBOARD: &str = "# KEYBOARD CONFIGURATION FILE\n\n# Consult the keyboard(5) manual page.\n\n\
        XKBMODEL=\"pc105\"\nXKBLAYOUT=\"de\"\nXKBVARIANT=\"\"\nXKBOPTIONS=\"\"\n\nBACKSPACE=\"guess\"\n";
    /// `/etc/vconsole.conf` as Anaconda of RHEL 9 leaves it.
    const VCONSOLE: &str = "KEYMAP=\"de-nodeadkeys\"\nFONT=\"eurlatgr\"\n";

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_node_says_which_keyboard_it_has() {
        let rhel = root(&[("etc/vconsole.conf", VCONSOLE)]);
        assert_eq!(of_node(rhel.path()).unwrap().as_deref(), Some("de-nodeadkeys"));
        let kmap = "etc/console-setup/cached_UTF-8_del.kmap.gz";
        let debian = root(&[
            ("etc/default/keyboard", KEYBOARD),
            ("etc/console-setup/cached_setup_keyboard.sh", ""),
            (kmap, ""),
        ]);
        let found = of_node(debian.path()).unwrap().unwrap();
        assert_eq!(Path::new(&found), debian.path().join(kmap));
    }

    #[test]
    fn an_american_keyboard_is_what_kernels_have() {
        assert_eq!(of_node(root(&[]).path()).unwrap(), None);
        let us = KEYBOARD.replace("\"de\"", "\"us\"");
        assert_eq!(of_node(root(&[("etc/default/keyboard", &us)]).path()).unwrap(), None);
        let us = root(&[("etc/vconsole.conf", "KEYMAP=us\n")]);
        assert_eq!(of_node(us.path()).unwrap(), None);
    }

    #[test]
    fn a_layout_that_nothing_was_made_of_is_told() {
        let dir = root(&[("etc/default/keyboard", KEYBOARD)]);
        let error = of_node(dir.path()).unwrap_err().to_string();
        assert!(error.contains("\"de\"") && error.contains("setupcon"), "{error}");
    }

    #[test]
    fn a_keymap_that_was_asked_for_has_to_be_there() {
        let dir = root(&[("mine.kmap", "keymaps 0-1\nkeycode 21 = z Z\nkeycode 44 = y Y\n")]);
        let mine = dir.path().join("mine.kmap").display().to_string();
        let mut tree = Tree::new();
        add(&mut tree, &Keymap::None).unwrap();
        assert!(!tree.contains("etc/rr/keymap"));
        let missing = Keymap::Named("/nowhere.kmap".into());
        let error = format!("{:#}", add(&mut tree, &missing).unwrap_err());
        assert!(error.contains("/nowhere.kmap"), "{error}");
        if crate::sys::tools::find("loadkeys".as_ref()).is_none() {
            eprintln!("skipped: loadkeys is not installed (scripts/install-deps installs it)");
            return;
        }
        add(&mut tree, &Keymap::Named(mine)).unwrap();
        assert!(tree.contains("etc/rr/keymap"));
    }
}
