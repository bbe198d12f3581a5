//! Debian trees: what is on a node's disks, and the root of the user-mode Linux that makes them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rr::sys::run::Cmd;

use crate::lab;

const PACKAGES: &str = include_str!("node/packages.txt");
const CUSTOMIZE: &str = include_str!("node/customize.sh");
const AGENT: &str = include_str!("node/agent.sh");
const UML_INIT: &str = include_str!("node/uml-init.sh");

/// Of the releases themselves. The archive of security updates forgets files that its lists name,
/// above all those of old releases.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The initramfs is made when the kernel is installed: for any hardware, and fast to unpack.
const INITRAMFS: &str = "mkdir -p \"$1/etc/initramfs-tools/conf.d\"; \
    printf 'COMPRESS=lz4\\nRESUME=none\\n' >\"$1/etc/initramfs-tools/conf.d/lab\"";

#[derive(Debug)]
pub struct Tree {
    pub dir: PathBuf,
    /// Tells trees apart.
    pub key: String,
}

impl Tree {
    /// The tree of a Debian release with these packages besides, made when it is not in the cache.
    pub fn of(suite: &str, more: &str) -> Result<Tree> {
        let packages =
            if more.is_empty() { PACKAGES.into() } else { format!("{PACKAGES}\n{more}") };
        let key = lab::key(&[suite, &packages, CUSTOMIZE, AGENT, INITRAMFS]);
        let dir = lab::cached("trees", suite, &key, |dir| make(dir, suite, &packages))?;
        let tree = Tree { dir, key };
        tree.put_init()?;
        Ok(tree)
    }

    /// Not part of what is cached: it is no part of a node. Whole at any time, for who runs it now.
    fn put_init(&self) -> Result<()> {
        let init = tempfile::NamedTempFile::new_in(self.root()).context("creating lab-init")?;
        lab::write(init.path(), UML_INIT)?;
        Cmd::new("chmod").arg("755").arg(init.path()).run()?;
        init.persist(self.root().join("lab-init")).context("placing lab-init")?;
        Ok(())
    }

    pub fn tar(&self) -> PathBuf {
        self.dir.join("tree.tar")
    }

    /// The tree as a directory, with `/lab-init` and the modules of user-mode Linux.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The newest file in `/boot` whose name starts like this.
    pub fn boot_file(&self, start: &str) -> Result<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.root().join("boot"))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)) {
                found.push(path);
            }
        }
        found.sort();
        found.pop().with_context(|| format!("looking for {start} in the tree's /boot"))
    }
}

fn make(dir: &Path, suite: &str, packages: &str) -> Result<()> {
    println!("making a tree of Debian {suite} (about two minutes)");
    let (customize, agent) = (dir.join("customize.sh"), dir.join("agent.sh"));
    lab::write(&customize, CUSTOMIZE)?;
    lab::write(&agent, AGENT)?;
    let packages: Vec<_> = packages.split_whitespace().collect();
    Cmd::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends \"false\""])
        .args(
            ["doc", "man", "locale", "info"]
                .map(|d| format!("--dpkgopt=path-exclude=/usr/share/{d}/*")),
        )
        .arg(format!("--include={}", packages.join(",")))
        .arg(format!("--essential-hook={INITRAMFS}"))
        .arg(format!("--customize-hook=sh {} \"$1\" {}", customize.display(), agent.display()))
        .arg(suite)
        .arg(dir.join("tree.tar"))
        .arg(MIRROR)
        .run()?;
    let root = dir.join("root");
    lab::make_dir(&root)?;
    Cmd::new("tar").arg("-C").arg(&root).arg("-xpf").arg(dir.join("tree.tar")).run()?;
    Cmd::new("sh")
        .args(["-c", "cp -a /usr/lib/uml/modules/* \"$0\""])
        .arg(root.join("lib/modules"))
        .run()
}
