//! The scenarios: what is recovered, from where, by what, and on what kind of day.

use crate::cards::Cards;
use crate::day::Day;
use crate::newdisks::NewDisks;
use crate::nfs;
use crate::nodes::{self, Node};
use crate::pxe::Loader;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory on a disk of the node that survives.
    File,
    Nfs(nfs::Version),
    /// A server with WebDAV, TLS and two users: who writes, and who only reads.
    Http,
    S3,
    /// A disk that rr formats, which also is what the rescue system boots from. Not on USB, which
    /// Debian's kernels for virtual machines do not know.
    Usb,
    /// The rescue ISO itself. Nothing else of the backup is left.
    Iso,
}

/// What the rescue system is booted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// The ISO as it is.
    Cd,
    /// The ISO, with no other drivers than the node's, in the virtual drive of a management board.
    SlowCd,
    /// The ISO on a USB stick, byte for byte.
    Stick,
    /// The running node: `rr rescue boot`. Its own disks are recovered, and an admin looks on by ssh.
    Kexec,
    /// The entry that rr keeps in the node's own boot menu. Its own disks are recovered.
    LocalEntry,
    /// The network: by each of these to the shell, and then by the first once more to recover.
    Pxe(&'static [Loader]),
}

/// Enough for anything.
const MEMORY_MIB: u32 = 1536;

#[derive(Debug)]
pub struct Scenario {
    pub node: Node,
    pub target: Target,
    /// The release of Debian.
    pub suite: &'static str,
    pub medium: Medium,
    pub day: Day,
    pub new_disks: NewDisks,
    pub cards: Cards,
    /// False: the machine that is recovered has no graphics.
    pub screen: bool,
    /// The memory of the machine that is recovered.
    pub memory_mib: u32,
}

/// All scenarios. The first two are the ones for every push.
pub fn all() -> Vec<Scenario> {
    let on = Scenario::new;
    let (nfs3, nfs4) = (Target::Nfs(nfs::Version::V3), Target::Nfs(nfs::Version::V4));
    vec![
        on(nodes::BIOS_GPT_MD1_LVM_XFS, nfs4),
        on(nodes::UEFI_GPT_NVME_EXT4, Target::File),
        on(nodes::BIOS_MBR_EXT4, Target::File),
        on(nodes::UEFI_GPT_LVM_EXT4, nfs4),
        on(nodes::UEFI_GPT_LVM_EXT4, Target::Usb),
        on(nodes::UEFI_GPT_LVM_EXT4, Target::Http),
        on(nodes::BIOS_GPT_MD1_LVM_XFS, Target::S3),
        on(nodes::UEFI_GPT_NVME_EXT4, Target::Iso),
        Scenario { medium: Medium::Stick, ..on(nodes::BIOS_MBR_EXT4, Target::Iso) },
        Scenario {
            suite: "bullseye",
            medium: Medium::Stick,
            ..on(nodes::BIOS_MBR_EXT4, Target::File)
        },
        Scenario { suite: "bullseye", ..on(nodes::UEFI_GPT_LVM_EXT4, nfs3) },
        Scenario { suite: "trixie", day: Day::ServerDies, ..on(nodes::BIOS_GPT_MD1_LVM_XFS, nfs4) },
        Scenario {
            suite: "trixie",
            medium: Medium::Stick,
            day: Day::Asked,
            ..on(nodes::UEFI_GPT_NVME_EXT4, Target::File)
        },
        Scenario {
            medium: Medium::Pxe(&[Loader::Pxelinux, Loader::Ipxe]),
            ..on(nodes::BIOS_MBR_EXT4, Target::File)
        },
        Scenario {
            medium: Medium::Pxe(&[Loader::Grub, Loader::Http]),
            ..on(nodes::UEFI_GPT_NVME_EXT4, Target::File)
        },
        Scenario { medium: Medium::Kexec, ..on(nodes::BIOS_MBR_EXT4, Target::File) },
        Scenario { medium: Medium::LocalEntry, ..on(nodes::BIOS_MBR_EXT4, Target::File) },
        Scenario { new_disks: NewDisks::Smaller, ..on(nodes::UEFI_GPT_LVM_EXT4, nfs4) },
        on(nodes::UEFI_GPT_NVME_EXT4_SIGNED, Target::File),
        on(nodes::UEFI_GPT_NVME_EXT4_SIGNED, Target::Usb),
        Scenario { medium: Medium::Stick, ..on(nodes::UEFI_GPT_NVME_EXT4_SIGNED, Target::File) },
        on(nodes::BIOS_MBR_EXT4, Target::Usb),
        Scenario { medium: Medium::SlowCd, ..on(nodes::UEFI_GPT_NVME_EXT4, Target::File) },
        Scenario { cards: Cards::Bond, ..on(nodes::UEFI_GPT_LVM_EXT4, nfs4) },
        Scenario { cards: Cards::Swapped, ..on(nodes::UEFI_GPT_LVM_EXT4, Target::S3) },
        Scenario { screen: false, day: Day::Asked, ..on(nodes::BIOS_MBR_EXT4, Target::File) },
        Scenario { memory_mib: 512, ..on(nodes::BIOS_MBR_EXT4, Target::File) },
        Scenario { day: Day::Asked, ..on(nodes::UEFI_GPT_LUKS2_LVM_EXT4, Target::File) },
        on(nodes::UEFI_GPT_4KN_BTRFS, Target::File),
        Scenario { new_disks: NewDisks::Nvme, ..on(nodes::UEFI_GPT_THIN_EXT4, Target::File) },
        Scenario { new_disks: NewDisks::Dirty, ..on(nodes::UEFI_GPT_MD1_EXT4, Target::File) },
        Scenario { new_disks: NewDisks::One, ..on(nodes::UEFI_GPT_MD1_EXT4, Target::File) },
    ]
}

impl Scenario {
    /// Debian 12, recovered automatically from a CD.
    pub fn new(node: Node, target: Target) -> Scenario {
        Scenario {
            node,
            target,
            suite: "bookworm",
            medium: Medium::Cd,
            day: Day::Automatic,
            new_disks: NewDisks::Alike,
            cards: Cards::Usual,
            screen: true,
            memory_mib: MEMORY_MIB,
        }
    }

    /// Its point in the matrix; what is usual is left out.
    pub fn name(&self) -> String {
        let memory = format!("{}mib", self.memory_mib);
        let words = [
            Some(self.node.name),
            Some(match self.target {
                Target::File => "file",
                Target::Nfs(nfs::Version::V4) => "nfs",
                Target::Nfs(nfs::Version::V3) => "nfs3",
                Target::Http => "http",
                Target::S3 => "s3",
                Target::Usb => "usb",
                Target::Iso => "iso",
            }),
            Some(self.suite).filter(|suite| *suite != "bookworm"),
            match self.medium {
                Medium::Cd => None,
                Medium::SlowCd => Some("slow-cd"),
                Medium::Stick => Some("stick"),
                Medium::Kexec => Some("kexec"),
                Medium::LocalEntry => Some("local-entry"),
                Medium::Pxe(_) => Some("pxe"),
            },
            match self.day {
                Day::Automatic => None,
                Day::Asked => Some("asked"),
                Day::ServerDies => Some("server-dies"),
            },
            match self.new_disks {
                NewDisks::Alike => None,
                NewDisks::Smaller => Some("smaller"),
                NewDisks::Nvme => Some("nvme"),
                NewDisks::Dirty => Some("dirty"),
                NewDisks::One => Some("one-disk"),
            },
            match self.cards {
                Cards::Usual => None,
                Cards::Bond => Some("bond"),
                Cards::Swapped => Some("swapped-cards"),
            },
            self.node.secure_boot().then_some("secure-boot"),
            (!self.screen).then_some("serial-only"),
            (self.memory_mib != MEMORY_MIB).then_some(&*memory),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(".")
    }
}
