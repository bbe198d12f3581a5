//! The machines that are backed up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rr::layout::Firmware;
use rr::prove::{Agent, Bus, DirectKernel, Disk, Machine, Vm};
use rr::sys::run::Cmd;

use crate::lab;
use crate::tree::Tree;
use crate::uml;

const DISKS: &str = include_str!("node/disks.sh");
/// No part of how a node is made, and so none of what its name in the cache depends on.
const READ: &str = include_str!("node/read.sh");
const NASTY: &str = include_str!("node/nasty.sh");

/// Makes `initrd.img` in the directory `$1` from the tree `$0`, for the node's arrays. On the host,
/// where it takes seconds, and in a mount namespace, so that the tree stays as it is.
const MAKE_INITRAMFS: &str = r#"
{ cat "$0/etc/mdadm/mdadm.conf"; echo "$arrays"; } >"$1/mdadm.conf"
mount --bind "$1/mdadm.conf" "$0/etc/mdadm/mdadm.conf"
mount --bind "$1" "$0/mnt"
mount -t proc proc "$0/proc"
kernel=$(basename "$0"/boot/vmlinuz-*)
chroot "$0" mkinitramfs -o /mnt/initrd.img "${kernel#vmlinuz-}"
"#;

/// A moment later, so that the agent can still answer.
pub const POWER_OFF: &str =
    "setsid sh -c 'sleep 1; systemctl poweroff --no-block' </dev/null >/dev/null 2>&1 &";

/// For machines that are emulated: no work against attacks that nobody makes, no panic when the timer
/// is late because the host is busy, and no emergency mode when a disk is because of that.
pub const EMULATED: &str = "mitigations=off no_timer_check systemd.default_timeout_start_sec=900";

/// The loaders that Microsoft and Debian have signed.
const SIGNED: &str = "shim-signed grub-efi-amd64-signed";

/// From power-on until the agent answers, emulated.
pub fn boot_timeout() -> Duration {
    lab::seconds(300)
}

/// How long nothing is said at most while a guest boots.
pub fn boot_silence() -> Duration {
    lab::seconds(90)
}

pub fn command_timeout() -> Duration {
    lab::seconds(180)
}

/// A machine as it is before the day that its disks die.
#[derive(Debug)]
pub struct Node {
    pub name: &'static str,
    pub firmware: Firmware,
    pub bus: Bus,
    /// Sizes of the disks that will be lost.
    pub disks_mib: &'static [u64],
    /// Of these disks; the one for backups has sectors of 512.
    sector_bytes: u32,
    /// The size of a disk for backups that survives, mounted at `/backup`.
    pub backup_mib: Option<u64>,
    /// What the kernel calls the root filesystem, and how it is mounted.
    root: &'static str,
    /// What opens its encrypted volumes, typed at each boot.
    pub passphrase: Option<&'static str>,
    /// Programs for its stack, which the other nodes do not have.
    pub packages: &'static str,
    script: &'static str,
}

/// What most nodes have in common.
const PLAIN: Node = Node {
    name: "",
    firmware: Firmware::Uefi,
    bus: Bus::Virtio,
    disks_mib: &[],
    sector_bytes: 512,
    backup_mib: None,
    root: "",
    passphrase: None,
    packages: "",
    script: "",
};

pub const BIOS_MBR_EXT4: Node = Node {
    name: "bios.mbr.ext4",
    firmware: Firmware::Bios,
    bus: Bus::Virtio,
    disks_mib: &[2304],
    backup_mib: Some(2048),
    root: "UUID=0b10a11e-0001-4000-8000-000000000001",
    script: include_str!("node/bios.mbr.ext4.sh"),
    ..PLAIN
};

/// With ReaR, and all that it makes an ISO with.
pub const WITH_REAR: Node = Node {
    packages: "rear isolinux syslinux-common xorriso ethtool file attr less",
    ..BIOS_MBR_EXT4
};

pub const BIOS_GPT_MD1_LVM_XFS: Node = Node {
    name: "bios.gpt.md1.lvm.xfs",
    firmware: Firmware::Bios,
    bus: Bus::Scsi,
    disks_mib: &[3072, 3072],
    backup_mib: None,
    root: "/dev/mapper/vg0-root",
    script: include_str!("node/bios.gpt.md1.lvm.xfs.sh"),
    ..PLAIN
};

pub const UEFI_GPT_LVM_EXT4: Node = Node {
    name: "uefi.gpt.lvm.ext4",
    firmware: Firmware::Uefi,
    bus: Bus::Virtio,
    disks_mib: &[3072],
    backup_mib: None,
    root: "/dev/mapper/system-root",
    script: include_str!("node/uefi.gpt.lvm.ext4.sh"),
    ..PLAIN
};

pub const UEFI_GPT_NVME_EXT4: Node = Node {
    name: "uefi.gpt.nvme.ext4",
    firmware: Firmware::Uefi,
    bus: Bus::Nvme,
    disks_mib: &[2304],
    backup_mib: Some(2048),
    root: "UUID=0b10a11e-0004-4000-8000-000000000001",
    script: include_str!("node/uefi.gpt.nvme.ext4.sh"),
    ..PLAIN
};

/// The same under Secure Boot.
pub const UEFI_GPT_NVME_EXT4_SIGNED: Node = Node { packages: SIGNED, ..UEFI_GPT_NVME_EXT4 };

pub const UEFI_GPT_LUKS2_LVM_EXT4: Node = Node {
    name: "uefi.gpt.luks2.lvm.ext4",
    firmware: Firmware::Uefi,
    bus: Bus::Virtio,
    disks_mib: &[3072],
    backup_mib: Some(2048),
    root: "/dev/mapper/system-root",
    passphrase: Some("correct horse"),
    packages: "cryptsetup-initramfs",
    script: include_str!("node/uefi.gpt.luks2.lvm.ext4.sh"),
    ..PLAIN
};

pub const UEFI_GPT_4KN_BTRFS: Node = Node {
    name: "uefi.gpt.4kn.btrfs",
    bus: Bus::Nvme,
    disks_mib: &[3072],
    sector_bytes: 4096,
    backup_mib: Some(2048),
    root: "UUID=0b10a11e-0006-4000-8000-000000000001 rootflags=subvol=@",
    packages: "btrfs-progs",
    script: include_str!("node/uefi.gpt.4kn.btrfs.sh"),
    ..PLAIN
};

pub const UEFI_GPT_MD1_EXT4: Node = Node {
    name: "uefi.gpt.md1.ext4",
    disks_mib: &[2304, 2304],
    backup_mib: Some(2048),
    root: "UUID=0b10a11e-0007-4000-8000-000000000001",
    script: include_str!("node/uefi.gpt.md1.ext4.sh"),
    ..PLAIN
};

pub const UEFI_GPT_THIN_EXT4: Node = Node {
    name: "uefi.gpt.thin.ext4",
    bus: Bus::Scsi,
    disks_mib: &[3072],
    backup_mib: Some(2048),
    root: "/dev/mapper/system-root",
    packages: "thin-provisioning-tools",
    script: include_str!("node/uefi.gpt.thin.ext4.sh"),
    ..PLAIN
};

impl Node {
    /// Whether its firmware starts only what Microsoft's keys have signed, at each boot but the first.
    pub fn secure_boot(&self) -> bool {
        self.packages == SIGNED
    }

    /// A machine with disks `0.raw`, `1.raw` ... of the directory `dir`, the backup disk last.
    pub fn machine(&self, dir: &Path, logs: &Path, serials: &str) -> Machine {
        let mut machine = Machine::new(self.firmware, logs);
        machine.variables = dir.join("variables.fd");
        machine.secure_boot = self.secure_boot();
        let lost = self.disks_mib.len();
        machine.disks = (self.files(dir).into_iter().enumerate())
            .map(|(index, file)| Disk {
                file,
                bus: self.bus,
                serial: if index < lost { format!("{serials}{index}") } else { "BACKUP".into() },
                wwn: None,
                sector_bytes: if index < lost { self.sector_bytes } else { 512 },
            })
            .collect();
        machine
    }

    /// The disks' files below `dir`.
    pub fn files(&self, dir: &Path) -> Vec<PathBuf> {
        (0..self.sizes_mib().len()).map(|index| dir.join(format!("{index}.raw"))).collect()
    }

    pub fn sizes_mib(&self) -> Vec<u64> {
        self.disks_mib.iter().copied().chain(self.backup_mib).collect()
    }

    /// A shell script for user-mode Linux that has the node's disks.
    pub fn script(&self, work: &str) -> String {
        format!("{}\n{DISKS}\n{READ}\n{work}\n", self.script)
    }

    /// The directory with this node's disks as they are before anything happens to it: installed,
    /// booted once, shut down. Made when it is not in the cache.
    pub fn source(&self, tree: &Tree) -> Result<PathBuf> {
        let shape = format!("{self:?}");
        let key =
            lab::key(&[&tree.key, &shape, DISKS, NASTY, MAKE_INITRAMFS, &self.install_loader()]);
        lab::cached("nodes", self.name, &key, |dir| self.make(tree, dir))
    }

    fn make(&self, tree: &Tree, dir: &Path) -> Result<()> {
        println!("making the node {} (about three minutes)", self.name);
        for (file, size) in self.files(dir).iter().zip(self.sizes_mib()) {
            lab::blank(file, size)?;
        }
        let share = dir.join("build");
        lab::make_dir(&share)?;
        std::fs::hard_link(tree.tar(), share.join("tree.tar")).context("linking the tree")?;
        lab::write(&share.join("nasty.sh"), NASTY)?;
        if self.script.contains("\narrays=") {
            let work = self.script(MAKE_INITRAMFS);
            Cmd::new("unshare")
                .args(["--mount", "sh", "-euc", &work])
                .arg(tree.root())
                .arg(&share)
                .run()?;
        }
        uml::run(tree, &self.files(dir), true, &share, &self.script("build"))?;
        std::fs::remove_file(share.join("tree.tar"))?;

        let mut machine = self.machine(dir, &dir.join("first-boot"), "OLD");
        // That of the tree knows no encrypted volume.
        let own = share.join("first-initrd");
        let initrd = if own.exists() { own } else { tree.boot_file("initrd.img-")? };
        if self.secure_boot() {
            // QEMU hands this kernel over without a shim, which Secure Boot refuses. The keys are there
            // all the same, and with them the boot entry that is made now.
            machine.enroll_keys()?;
            machine.secure_boot = false;
        }
        machine.kernel = Some(DirectKernel {
            kernel: tree.boot_file("vmlinuz-")?,
            initrd,
            cmdline: format!("root={} ro console=ttyS0 {EMULATED}", self.root),
        });
        let mut vm = machine.start()?;
        let mut agent = self.wait_up(&mut vm)?;
        agent.check(&self.install_loader(), command_timeout())?;
        agent.check(POWER_OFF, command_timeout())?;
        vm.wait_off(command_timeout())
    }

    /// Waits until the node has come up, and types its passphrase when it wants one.
    pub fn wait_up(&self, vm: &mut Vm) -> Result<Agent> {
        if let Some(passphrase) = self.passphrase {
            vm.wait_console("Please unlock disk", boot_timeout())?;
            vm.type_serial(passphrase)?;
        }
        let mut agent = vm.agent()?;
        vm.wait_boot(&mut agent, boot_timeout(), boot_silence())?;
        Ok(agent)
    }

    fn install_loader(&self) -> String {
        let disks = (0..self.disks_mib.len()).map(|index| self.kernel_name(index));
        let install = match self.firmware {
            Firmware::Bios => disks.fold(String::new(), |all, disk| {
                all + &format!("grub-install --target=i386-pc /dev/{disk} && ")
            }),
            // Debian's signed GRUB looks for its configuration in EFI/debian.
            Firmware::Uefi if self.secure_boot() => {
                "grub-install --target=x86_64-efi --bootloader-id=debian --uefi-secure-boot && \
                 efibootmgr && "
                    .to_owned()
            }
            Firmware::Uefi if self.disks_mib.len() == 1 => {
                "grub-install --target=x86_64-efi && efibootmgr && ".to_owned()
            }
            // GRUB makes no entry for an ESP that is an array.
            Firmware::Uefi => {
                let install = String::from("grub-install --target=x86_64-efi --no-nvram && ");
                disks.fold(install, |all, disk| {
                    all + &format!(
                        "efibootmgr --create --disk /dev/{disk} --part 1 --label {disk} \
                         --loader '\\EFI\\grub\\grubx64.efi' && "
                    )
                })
            }
        };
        // Read after the file that has the rest of the kernel's command line.
        let more = format!("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {EMULATED}\"");
        install + &format!("echo '{more}' >/etc/default/grub.d/lab2.cfg && update-grub && sync")
    }

    pub fn kernel_name(&self, index: usize) -> String {
        let letter = ['a', 'b', 'c', 'd'][index];
        match self.bus {
            Bus::Virtio => format!("vd{letter}"),
            Bus::Scsi | Bus::Sata => format!("sd{letter}"),
            Bus::Nvme => format!("nvme{index}n1"),
        }
    }
}
