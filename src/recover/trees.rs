//! Which of the backup's trees have a filesystem to go to.
//!
//! An archive holds the files of every local filesystem, also of those that no layout records: a ZFS
//! pool, a mounted image. Where nothing is mounted at their place they would fill the root filesystem,
//! and lie hidden below what is mounted there later.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::mounts;
use crate::layout::{BytesPath, Layout, Mount};

/// The mount points that an archive holds the files of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trees {
    pub come: Vec<PathBuf>,
    pub left: Vec<PathBuf>,
}

impl Trees {
    /// `names` are a manifest's, `planned` is what the disks become, mounted below `root`.
    pub fn of(names: &[String], planned: &Layout, root: &Path) -> Result<Trees> {
        let all = crate::sys::mount::mounts()?;
        // An admin may have mounted more, between the steps of a recovery.
        let mounted = |path: &Path| {
            let point: PathBuf =
                root.join(path.strip_prefix("/").unwrap_or(path)).components().collect();
            mounts::at(&all, &point).is_some()
        };
        Trees::sort(names, planned, mounted)
    }

    fn sort(names: &[String], planned: &Layout, mounted: impl Fn(&Path) -> bool) -> Result<Trees> {
        let made = |id: &crate::layout::Id| planned.fs.iter().any(|fs| fs.id == *id);
        let mut places: Vec<PathBuf> = planned
            .fs
            .iter()
            .flat_map(|fs| planned.subvolume_places(fs))
            .filter_map(|s| s.1)
            .collect();
        let whole = planned.mount.iter().filter(|m| made(&m.fs) && !is_bound(m, planned));
        places.extend(whole.map(|m| m.path.0.clone()));
        let mut trees = Trees::default();
        for name in names {
            let path = BytesPath::parse(name)
                .with_context(|| format!("{name} in the manifest is no path"))?
                .0;
            let comes = path == Path::new("/") || places.contains(&path) || mounted(&path);
            if comes { &mut trees.come } else { &mut trees.left }.push(path);
        }
        Ok(trees)
    }

    /// What does not come back, and how it can.
    pub fn told(&self, generation: &str) -> Option<String> {
        let paths: Vec<_> = self.left.iter().map(|p| BytesPath(p.clone()).to_string()).collect();
        (!paths.is_empty()).then(|| {
            let paths = paths.join(" ");
            format!(
                "NOT restored, since what they were on is not recreated: the files of {paths}. Mount it, then: rr restore --gen {generation} --to / {paths}"
            )
        })
    }
}

/// Whether it is a directory of a filesystem that is mounted elsewhere, bound to this place. It is
/// archived here where something lies over its own place; a recovery makes no such mounts, and at this
/// place the files may not even fit.
fn is_bound(mount: &Mount, layout: &Layout) -> bool {
    let is_subvolume =
        || layout.fs.iter().any(|fs| fs.id == mount.fs && fs.subvolume_of(mount).is_some());
    let has_it = |other: &Mount| {
        let (own, other_shows) = (mount.shows(), other.shows());
        other.fs == mount.fs && own != other_shows && own.starts_with(other_shows)
    };
    mount.shows() != Path::new("/") && !is_subvolume() && layout.mount.iter().any(has_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::raid_node;

    #[test]
    fn only_what_has_a_filesystem_comes_back() {
        let names = ["/", "/boot", "/tank", "/tank/data", "/mnt/a\\x5cb"].map(str::to_owned);
        let mut node = raid_node();
        let mut data = node.mount[0].clone();
        data.path = "/tank/data".into();
        node.mount.push(data);
        let sorted =
            |mounted: &str| Trees::sort(&names, &node, |path| path == Path::new(mounted)).unwrap();
        let trees = sorted("");
        assert_eq!(trees.come, ["/", "/boot", "/tank/data"].map(PathBuf::from));
        assert_eq!(trees.left, ["/tank", "/mnt/a\\b"].map(PathBuf::from));
        let told = trees.told("G1").unwrap();
        assert!(told.ends_with("rr restore --gen G1 --to / /tank /mnt/a\\x5cb"), "{told}");
        assert_eq!(sorted("/tank").left.len(), 1);
        node.fs.retain(|fs| fs.id != node.mount[0].fs);
        let trees = Trees::sort(&names, &node, |_| false).unwrap();
        assert_eq!(trees.come, [Path::new("/")], "its disk does not come back");
        assert_eq!(Trees::default().told("G1"), None);
    }

    #[test]
    fn what_is_bound_to_a_place_that_no_recovery_binds_does_not_fill_what_is_below() {
        let mut node = raid_node();
        let mut bound = node.mount[0].clone();
        (bound.path, bound.root) = ("/old".into(), Some("/srv".into()));
        node.mount.push(bound);
        let names = ["/", "/old"].map(str::to_owned);
        let sorted = |node: &Layout, mounted: bool| Trees::sort(&names, node, |_| mounted).unwrap();
        assert_eq!(sorted(&node, false).left, [Path::new("/old")]);
        assert_eq!(sorted(&node, true).left, [""; 0].map(PathBuf::from));
        // A part of a filesystem that is mounted nowhere else.
        node.mount.remove(0);
        assert_eq!(sorted(&node, false).left, [""; 0].map(PathBuf::from));
    }

    #[test]
    fn subvolumes_come_with_their_filesystem() {
        let node = include_str!("../../tests/fixtures/layout/btrfs.toml");
        let node = crate::layout::schema::parse(node).unwrap();
        let places: Vec<PathBuf> =
            node.fs.iter().flat_map(|fs| node.subvolume_places(fs)).filter_map(|s| s.1).collect();
        let names: Vec<_> = places.iter().map(|p| BytesPath(p.clone()).to_string()).collect();
        let inner = places.iter().find(|p| node.mount.iter().all(|m| m.path.as_path() != *p));
        assert!(inner.is_some(), "one is not mounted by itself: {places:?}");
        assert_eq!(Trees::sort(&names, &node, |_| false).unwrap().left, [""; 0].map(PathBuf::from));
    }
}
