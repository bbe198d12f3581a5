//! `rr pxe setup|dnsmasq`

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use crate::cli::{DnsmasqArgs, PxeVerb};
use crate::config::{Config, TargetUrl};
use crate::rescue::pxe::{self, Tree, dnsmasq, loaders};

use super::{Exit, Session, print, print_json, usage};

pub(super) fn run(session: &Session<'_>, verb: &PxeVerb) -> Result<Exit> {
    match verb {
        PxeVerb::Setup => setup(session),
        PxeVerb::Dnsmasq(args) => print_dnsmasq(session, args),
    }
}

fn setup(session: &Session<'_>) -> Result<Exit> {
    let tree = Tree::open(session.config)?;
    tree.make()?;
    let done = session.ui.step("Putting boot loaders", || {
        loaders::replace(&tree, session.config.pxe.http.as_deref())
    })?;
    if done.is_empty() {
        bail!(
            "this machine has no boot loader for networks\nhint: on Debian install pxelinux and syslinux-common for BIOS, shim-signed and grub-efi-amd64-signed for UEFI"
        );
    }
    pxe::put_fixed(&tree)?;
    let nodes: Vec<String> = pxe::put_all(&tree)?.into_iter().map(|file| file.node).collect();
    if session.global.json {
        print_json(&serde_json::json!({ "tree": tree.label(), "loaders": done, "nodes": nodes }))?;
    }
    session.ui.success(format!(
        "{} boots {}; nodes in it: {}",
        tree.label(),
        done.join(" and "),
        if nodes.is_empty() { "none yet".to_owned() } else { nodes.join(", ") }
    ));
    Ok(Exit::Done)
}

fn print_dnsmasq(session: &Session<'_>, args: &DnsmasqArgs) -> Result<Exit> {
    let root = match &args.root {
        Some(root) => root.clone(),
        None => root(session.config).map_err(usage)?,
    };
    let server = dnsmasq::Server {
        root: &root,
        range: &args.range,
        interface: args.interface.as_deref(),
        http: session.config.pxe.http.as_deref(),
    };
    print(&dnsmasq::render(&server))?;
    Ok(Exit::Done)
}

/// The tree's directory on the boot server: an NFS server most often exports by the same name.
fn root(config: &Config) -> Result<PathBuf> {
    let (url, below) = pxe::tree::place(config)?;
    let dir = if let Some(dir) = url.dir() {
        dir.to_owned()
    } else if let TargetUrl::Nfs { path, .. } = url {
        PathBuf::from(path)
    } else {
        return Err(anyhow!("where is the tree on the boot server?\nhint: --root DIR"));
    };
    Ok(if below.is_empty() { dir } else { dir.join(below) })
}
