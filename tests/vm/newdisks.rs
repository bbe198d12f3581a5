//! What a node gets for the disks that it lost, and what is not as it was because of that.

use anyhow::{Result, ensure};
use rr::prove::{Bus, Machine};

use crate::compare::{identities, sorted_lines, without_sizes};
use crate::nodes::Node;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewDisks {
    /// Blank ones of the same sizes.
    Alike,
    /// With two thirds of the bytes.
    Smaller,
    /// Of the same sizes, but NVMe: what was sda is nvme0n1.
    Nvme,
    /// Of the same sizes, from another machine: with its arrays and volumes.
    Dirty,
    /// For a mirror of two disks a single one, which the admin says is enough.
    One,
}

impl NewDisks {
    pub fn size_mib(self, old: u64) -> u64 {
        if self == NewDisks::Smaller { old * 2 / 3 } else { old }
    }

    /// Puts them into the machine of the node, which has `lost` disks for them.
    pub fn fit(self, machine: &mut Machine, lost: usize) {
        match self {
            NewDisks::Alike | NewDisks::Smaller | NewDisks::Dirty => {}
            NewDisks::Nvme => {
                machine.disks[..lost].iter_mut().for_each(|disk| disk.bus = Bus::Nvme);
            }
            NewDisks::One => {
                machine.disks.remove(1);
            }
        }
    }

    /// What the admin has to agree to, on the kernel command line.
    pub fn agreed(self, node: &Node) -> String {
        match self {
            NewDisks::Alike | NewDisks::Smaller | NewDisks::Nvme => String::new(),
            NewDisks::Dirty => {
                (0..node.disks_mib.len()).map(|index| format!(" rr.erase=NEW{index}")).collect()
            }
            NewDisks::One => format!(" rr.map={}=none", node.kernel_name(1)),
        }
    }

    /// What the rescue system must have told is on them.
    pub fn remains(self) -> &'static [&'static str] {
        match self {
            NewDisks::Dirty => &["linux_raid_member \"other:data\"", "volume group leftover"],
            _ => &[],
        }
    }

    /// Of what is said of disks, that which is the same on the new ones.
    pub fn lasting(self, disks: &str) -> String {
        match self {
            NewDisks::Alike | NewDisks::Nvme | NewDisks::Dirty => disks.to_owned(),
            NewDisks::Smaller => identities(disks),
            NewDisks::One => {
                let kept = |line: &&str| !line.starts_with("ubdb");
                identities(disks).lines().filter(kept).map(|line| format!("{line}\n")).collect()
            }
        }
    }

    /// The recovered node says of itself what it said before.
    pub fn ensure_facts(self, was: &str, is: &str) -> Result<()> {
        let lines = if self == NewDisks::Smaller { without_sizes } else { sorted_lines };
        let (mut was, mut is) = (lines(was), lines(is));
        if self == NewDisks::One {
            was.dedup();
            is.dedup();
            let lost = was.iter().filter(|line| !is.contains(line) && line.starts_with("part "));
            let lost: Vec<_> = lost.cloned().collect();
            ensure!(!lost.is_empty(), "no partition of the second disk is missing: {is:#?}");
            was.retain(|line| !lost.contains(line));
        }
        ensure!(is == was, "the recovered node says {is:#?}\nand said before {was:#?}");
        Ok(())
    }
}
