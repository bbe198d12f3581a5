//! The rescue system for machines that boot from the network: a tree of files that a boot server
//! serves over TFTP and HTTP, for pxelinux (BIOS), GRUB (UEFI) and iPXE (both).
//!
//! ```text
//! rr-pxe.toml                       says that the tree is rr's
//! pxelinux.0 lpxelinux.0 *.c32      BIOS; pxelinux.cfg/ is its configuration
//! bootx64.efi grubx64.efi           UEFI, httpx64.efi by UEFI HTTP boot; grub/ is its configuration
//! boot.ipxe                         iPXE; ipxe/ is its configuration
//! pxelinux.cfg/ grub/ ipxe/         for each node files named by MAC, UUID and host name, which lead
//!                                   to its menu, and one menu of all nodes
//! nodes/NODE/node.toml menu.*       what a node is, and its menus
//!            IMAGE/kernel initrd    what the menus boot; a new image has a new name
//! ```
//!
//! Many nodes write to one tree. Each puts its image under a new name, then switches its menus to it
//! file by file, and then removes all images but this and the one before, from which a machine may
//! be booting now. The menu of all nodes is made from the `node.toml` files by whoever came last.
//!
//! A menu in a tree boots from the disk when nobody chooses, whatever `rescue.default` says: a node
//! that boots from the network first would otherwise be recovered again and again.
//!
//! * [`tree`] files that appear whole; [`menus`] what they say; [`loaders`] the boot loaders
//! * [`names`](mod@names) by what boot loaders know a machine
//! * [`dnsmasq`] the configuration of a boot server

pub mod dnsmasq;
pub mod loaders;
pub mod menus;
pub mod names;
pub mod tree;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::menu::Menu;
use super::signed;
use crate::config::Config;
use menus::Kind;
pub use names::Names;
pub use tree::Tree;

/// The version of `node.toml` that this program writes.
const VERSION: u32 = 1;
const NODES: &str = "nodes";
/// Nodes that are written at the same moment make each other's menus old; more than this many times
/// in a row they do not.
const MENU_TRIES: usize = 20;

/// What of a node the others need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    pub version: u32,
    pub node: String,
    /// For people: when the image was made and of what.
    pub made: String,
    pub os: String,
    /// The directory of what the menus boot.
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The names of the files that lead to this node's menus.
    #[serde(default)]
    pub names: Vec<String>,
}

/// What one node puts into the tree.
#[derive(Debug)]
pub struct Content<'a> {
    pub menu: &'a Menu<'a>,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub names: Names,
}

/// What stands against a tree for this node. Changes nothing.
///
/// # Errors
/// The image would hold a secret, and everybody on the network could read it; or there is no tree,
/// and none can be made.
pub fn check(config: &Config) -> Result<()> {
    if !config.target_options.read_login.is_empty() {
        bail!(
            "the rescue system holds the target's login (target_options.read_login), and everybody on the boot network can read a PXE tree\nhint: leave it out, the login is asked for then; or rescue.output = [\"iso\"]"
        );
    }
    Tree::open(config)?.check()
}

/// Puts a node's image and menus into the tree. Gives what an admin should know.
pub fn publish(tree: &Tree, content: &Content<'_>) -> Result<Vec<String>> {
    tree.make()?;
    let mut warnings = loaders::add_missing(tree, content.menu.config.pxe.http.as_deref())?;
    if content.menu.layout.boot.secure_boot {
        let signed = signed::find(signed::Origin::Network);
        warnings.extend(loaders::add_signed(tree, signed.as_ref())?);
    }
    put_fixed(tree)?;
    let node = content.menu.info.node.as_str();
    let old = read_node(tree, node).unwrap_or_default();
    let image = image_name();
    let dir = format!("{NODES}/{node}/{image}");
    tree.put_file(&format!("{dir}/kernel"), content.kernel)?;
    tree.put_file(&format!("{dir}/initrd"), content.initrd)?;
    let file = NodeFile {
        version: VERSION,
        node: node.to_owned(),
        made: crate::layout::units::shown_time(&content.menu.layout.node.recorded),
        os: content.menu.layout.node.os.clone(),
        image: image.clone(),
        previous: old.as_ref().map(|old| old.image.clone()),
        names: content.names.0.clone(),
    };
    for kind in Kind::ALL {
        let text = menus::node(kind, content.menu, &image);
        tree.put(&format!("{NODES}/{node}/menu.{}", kind.suffix()), text.as_bytes())?;
    }
    let text = toml::to_string(&file).context("writing what a node is")?;
    tree.put(&node_file(node), text.as_bytes())?;
    warnings.extend(point(tree, &file, old.as_ref())?);
    put_all(tree)?;
    sweep(tree, &file)?;
    Ok(warnings)
}

/// Puts the menu of all nodes in order, as it is after a node's directory was removed by hand.
pub fn put_all(tree: &Tree) -> Result<Vec<NodeFile>> {
    for _ in 0..MENU_TRIES {
        let nodes = read_nodes(tree)?;
        for kind in Kind::ALL {
            tree.put_if_other(kind.all(), menus::all(kind, &nodes).as_bytes())?;
        }
        // Another node may have come in between, and have been overwritten.
        if read_nodes(tree)? == nodes {
            return Ok(nodes);
        }
    }
    bail!("other nodes change {} all the time", tree.label())
}

/// What is the same in every tree.
pub fn put_fixed(tree: &Tree) -> Result<()> {
    for (name, text) in menus::fixed() {
        tree.put_if_other(name, text.as_bytes())?;
    }
    Ok(())
}

fn node_file(node: &str) -> String {
    format!("{NODES}/{node}/node.toml")
}

fn read_node(tree: &Tree, node: &str) -> Result<Option<NodeFile>> {
    let Some(bytes) = tree.get(&node_file(node))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let file: NodeFile = toml::from_str(&text)
        .with_context(|| format!("parsing {} of {}", node_file(node), tree.label()))?;
    Ok(Some(file))
}

/// All nodes of the tree, by name. One that can't be read is left out.
fn read_nodes(tree: &Tree) -> Result<Vec<NodeFile>> {
    let mut found = Vec::new();
    for node in tree.list(NODES)? {
        match read_node(tree, &node) {
            Ok(file) => found.extend(file.filter(|file| file.node == node)),
            Err(error) => log::warn!("{error:#}"),
        }
    }
    Ok(found)
}

/// Makes the node's names lead to its menus, and those that it no longer has lead nowhere.
fn point(tree: &Tree, file: &NodeFile, old: Option<&NodeFile>) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for name in &file.names {
        for kind in Kind::ALL {
            let path = kind.named(name);
            let text = menus::pointer(kind, &file.node);
            if let Some(now) = tree.get(&path)?
                && now != text.as_bytes()
                && kind == Kind::Grub
            {
                warnings.push(format!(
                    "{name} in {} was another node's and is this one's now",
                    tree.label()
                ));
            }
            tree.put_if_other(&path, text.as_bytes())?;
        }
    }
    let gone = old.into_iter().flat_map(|old| &old.names).filter(|name| !file.names.contains(name));
    for name in gone {
        for kind in Kind::ALL {
            let path = kind.named(name);
            // By now it may be another node's.
            if tree.get(&path)?.as_deref() == Some(menus::pointer(kind, &file.node).as_bytes()) {
                tree.remove(&path)?;
            }
        }
    }
    Ok(warnings)
}

/// Removes older images, and what killed runs left. Only one run at a time works for a node; what
/// others have under way takes no day.
fn sweep(tree: &Tree, file: &NodeFile) -> Result<()> {
    let dir = format!("{NODES}/{}", file.node);
    tree.sweep(&dir, Duration::ZERO)?;
    for shared in ["", "grub", "ipxe", "pxelinux.cfg"] {
        tree.sweep(shared, Duration::from_secs(24 * 3600))?;
    }
    for name in tree.list(&dir)? {
        let is_image = name.starts_with(IMAGE);
        if is_image && name != file.image && file.previous.as_ref() != Some(&name) {
            tree.remove_dir(&format!("{dir}/{name}"))?;
        }
    }
    Ok(())
}

const IMAGE: &str = "image-";

fn image_name() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{IMAGE}{}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"), &random[..4])
}

#[cfg(test)]
mod tests;
