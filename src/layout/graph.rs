//! Who sits on whom.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Disk, Id, Layout, Lv};

impl Layout {
    /// The devices directly below `id`: a partition's disk, an array's members, a group's physical
    /// volumes, a volume's group, the device that content is on.
    pub fn below(&self, id: &Id) -> Vec<Id> {
        if let Some(p) = self.partition.iter().find(|p| p.id == *id) {
            return vec![p.disk.clone()];
        }
        if let Some(md) = self.md.iter().find(|md| md.id == *id) {
            return md.member.iter().map(|m| m.on.clone()).collect();
        }
        if let Some(luks) = self.luks.iter().find(|luks| luks.id == *id) {
            return vec![luks.on.clone()];
        }
        if let Some(vg) = self.vg.iter().find(|vg| vg.id == *id) {
            return vg.pv.iter().map(|pv| pv.on.clone()).collect();
        }
        if let Some(lv) = self.lv.iter().find(|lv| lv.id == *id) {
            let pool = |p: &&Lv| p.vg == lv.vg && !lv.pool.is_empty() && p.name == lv.pool;
            let pool = self.lv.iter().find(pool).map(|pool| pool.id.clone());
            return pool.into_iter().chain([lv.vg.clone()]).collect();
        }
        if let Some(fs) = self.fs.iter().find(|fs| fs.id == *id) {
            return fs.devices();
        }
        if let Some(swap) = self.swap.iter().find(|swap| swap.id == *id) {
            return vec![swap.on.clone()];
        }
        Vec::new()
    }

    /// Whether `id` is somewhere below `above`.
    pub fn stands_on(&self, above: &Id, id: &Id) -> bool {
        let mut seen = BTreeSet::new();
        let mut todo = self.below(above);
        while let Some(next) = todo.pop() {
            if next == *id {
                return true;
            }
            if seen.insert(next.clone()) {
                todo.extend(self.below(&next));
            }
        }
        false
    }

    /// The disks at the bottom of `id`; `id` itself where it is a disk.
    pub fn disks_below(&self, id: &Id) -> BTreeSet<Id> {
        let mut seen = BTreeSet::new();
        let mut disks = BTreeSet::new();
        let mut todo = vec![id.clone()];
        while let Some(id) = todo.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            if self.disk.iter().any(|d| d.id == id) {
                disks.insert(id.clone());
            }
            todo.extend(self.below(&id));
        }
        disks
    }

    /// Takes out every device and every content that does not stay, and the mounts of filesystems that
    /// don't. A swap or filesystem is asked for by its own id.
    pub fn retain(&mut self, stays: impl Fn(&Id) -> bool) {
        self.disk.retain(|disk| stays(&disk.id));
        self.partition.retain(|partition| stays(&partition.id));
        self.md.retain(|md| stays(&md.id));
        self.luks.retain(|luks| stays(&luks.id));
        self.vg.retain(|vg| stays(&vg.id));
        self.lv.retain(|lv| stays(&lv.id));
        self.swap.retain(|swap| stays(&swap.id));
        self.mount.retain(|mount| stays(&mount.fs));
        self.fs.retain(|fs| stays(&fs.id));
    }

    /// As [`Layout::disks_below`], the disks themselves.
    pub fn disks_on(&self, id: &Id) -> Vec<&Disk> {
        let below = self.disks_below(id);
        self.disk.iter().filter(|disk| below.contains(&disk.id)).collect()
    }

    /// The disks of what is mounted at `path`.
    pub fn disks_of(&self, path: &str) -> Vec<&Disk> {
        let mount = self.mount.iter().find(|mount| mount.path.as_path() == Path::new(path));
        mount.map(|mount| self.disks_on(&mount.fs)).unwrap_or_default()
    }

    /// The disks that hold `/boot`, where that is in a filesystem of its own or in that of `/`.
    pub fn boot_disks(&self) -> Vec<&Disk> {
        let boot = self.disks_of("/boot");
        if boot.is_empty() { self.disks_of("/") } else { boot }
    }

    /// The node of a device, `/dev/...`, by the names that this layout has.
    pub fn dev(&self, id: &Id) -> Option<String> {
        if let Some(d) = self.disk.iter().find(|d| d.id == *id) {
            return Some(d.dev());
        }
        if let Some(p) = self.partition.iter().find(|p| p.id == *id) {
            return Some(p.dev());
        }
        if let Some(md) = self.md.iter().find(|md| md.id == *id) {
            return Some(md.dev());
        }
        if let Some(luks) = self.luks.iter().find(|luks| luks.id == *id) {
            return Some(luks.dev()).filter(|_| !luks.name.is_empty());
        }
        let lv = self.lv.iter().find(|lv| lv.id == *id)?;
        let vg = self.vg.iter().find(|vg| vg.id == lv.vg)?;
        Some(lv.dev(&vg.name))
    }
}
