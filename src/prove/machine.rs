//! What a virtual machine is made of.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::vm::{Sockets, Vm};
use crate::layout::Firmware;
use crate::sys::run::Cmd;
use crate::sys::tools;

/// Chooses the accelerator: `tcg` (default) or `kvm`.
const ACCEL_VARIABLE: &str = "RR_VM_ACCEL";

/// Where OVMF's images are: Debian and Ubuntu, Fedora and RHEL.
const OVMF: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// The same with Microsoft's keys and Secure Boot on.
const OVMF_SECURE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Virtio,
    Scsi,
    Nvme,
    Sata,
}

/// A disk whose sectors are in a raw file.
#[derive(Debug, Clone)]
pub struct Disk {
    pub file: PathBuf,
    pub bus: Bus,
    pub serial: String,
    /// Not on virtio and NVMe, which have none.
    pub wwn: Option<u64>,
    /// 512 or 4096.
    pub sector_bytes: u32,
}

/// A kernel that is started without firmware menus and boot loaders.
#[derive(Debug, Clone)]
pub struct DirectKernel {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub cmdline: String,
}

/// A network of its own with a boot server: a TAP device in a network namespace.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The namespace as a file: `/proc/PID/ns/net`.
    pub namespace: PathBuf,
    pub tap: String,
}

/// A network card whose frames are datagrams: to and from a program that plays the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    pub mac: String,
    /// The card's UDP port of the loopback, and the one of the switch.
    pub own: u16,
    pub peer: u16,
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub firmware: Firmware,
    /// UEFI: starts only what Microsoft's keys have signed.
    pub secure_boot: bool,
    /// UEFI: the file that holds the firmware's variables. Made afresh when it is not there, kept
    /// for the next start.
    pub variables: PathBuf,
    pub memory_mib: u32,
    pub cpus: u32,
    pub disks: Vec<Disk>,
    /// A CD in the drive, which then is what the machine boots from.
    pub cdrom: Option<PathBuf>,
    /// What the drive is on: SATA, or SCSI for kernels without its driver.
    pub cdrom_bus: Bus,
    /// An image on a USB stick, which then is what the machine boots from.
    pub stick: Option<PathBuf>,
    /// The place in `disks` of the one that the machine boots from, whatever its firmware is set to.
    pub boots_from: Option<usize>,
    pub kernel: Option<DirectKernel>,
    /// The network that the machine is on and boots from first. None: QEMU's own, which reaches what
    /// the host reaches, and is not booted from.
    pub segment: Option<Segment>,
    /// Cards on a switch, in slots that keep their order. Any: instead of `segment`.
    pub wires: Vec<Wire>,
    /// False: a machine without graphics, whose console is the serial port.
    pub screen: bool,
    /// A port of this host's loopback that leads to the machine's port 22. Not on a segment.
    pub ssh_port: Option<u16>,
    /// False: a reboot ends the machine, as pulling the plug at the right moment would.
    pub reboots: bool,
    /// Where `console.log`, `verdict.log` and `qemu.log` go. Each start begins them anew.
    pub logs: PathBuf,
}

/// The PCI slot of the first card on a wire; Linux calls it enp0s16.
const WIRE_SLOT: usize = 16;

impl Wire {
    fn card(&self, at: usize) -> Vec<String> {
        let Wire { mac, own, peer } = self;
        words(&format!(
            "-netdev socket,id=wire{at},udp=127.0.0.1:{peer},localaddr=127.0.0.1:{own} \
             -device virtio-net-pci,netdev=wire{at},mac={mac},addr={:#x},romfile=",
            WIRE_SLOT + at
        ))
    }
}

impl Machine {
    /// A machine without disks.
    pub fn new(firmware: Firmware, logs: &Path) -> Machine {
        Machine {
            firmware,
            secure_boot: false,
            variables: logs.join("efi-variables.fd"),
            memory_mib: 1536,
            cpus: 2,
            disks: Vec::new(),
            cdrom: None,
            cdrom_bus: Bus::Sata,
            stick: None,
            boots_from: None,
            kernel: None,
            segment: None,
            wires: Vec::new(),
            screen: true,
            ssh_port: None,
            reboots: true,
            logs: logs.to_owned(),
        }
    }

    /// Switches the machine on.
    pub fn start(&self) -> Result<Vm> {
        std::fs::create_dir_all(&self.logs)
            .with_context(|| format!("making {}", self.logs.display()))?;
        let sockets = Sockets::new()?;
        tools::require(&["qemu-system-x86_64"])?;
        // Ends with the thread that started it, however that ends: nobody would read its sockets.
        let mut cmd = Cmd::new("setpriv").args(["--pdeathsig", "KILL"]);
        if let Some(segment) = &self.segment {
            cmd = cmd.arg("nsenter").arg(format!("--net={}", segment.namespace.display()));
        }
        cmd = cmd.arg("qemu-system-x86_64");
        for args in self.arguments(&sockets)? {
            cmd = cmd.args(args);
        }
        // QEMU opens these when it starts; a waiter may look earlier.
        for name in ["console.log", "verdict.log"] {
            File::create(self.logs.join(name)).with_context(|| format!("creating {name}"))?;
        }
        let log = self.logs.join("qemu.log");
        let said = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = cmd.spawn(Stdio::from(said.try_clone()?), Stdio::from(said))?;
        Vm::attach(child, sockets, self.screen, &self.logs)
    }

    fn arguments(&self, sockets: &Sockets) -> Result<Vec<Vec<String>>> {
        let mut all = vec![
            words("-nodefaults -display none -no-user-config -machine q35"),
            words(if self.screen { "-vga std" } else { "-vga none" }),
            accelerator()?,
            words(&format!("-m {} -smp {} -rtc base=utc", self.memory_mib, self.cpus)),
            self.network(),
            words("-device virtio-rng-pci"),
        ];
        all.push(self.channels(sockets));
        if !self.reboots {
            all.push(words("-no-reboot"));
        }
        if self.firmware == Firmware::Uefi {
            all.push(self.uefi()?);
        }
        if let Some(direct) = &self.kernel {
            all.push(vec!["-kernel".into(), direct.kernel.display().to_string()]);
            all.push(vec!["-initrd".into(), direct.initrd.display().to_string()]);
            all.push(vec!["-append".into(), direct.cmdline.clone()]);
        }
        if let Some(iso) = &self.cdrom {
            all.push(drive("cd", iso, ",media=cdrom,readonly=on"));
            match self.cdrom_bus {
                Bus::Scsi => {
                    all.push(words("-device virtio-scsi-pci,id=drives"));
                    all.push(words("-device scsi-cd,drive=cd,bus=drives.0,bootindex=0"));
                }
                _ => all.push(words("-device ide-cd,drive=cd,bus=ide.5,bootindex=0")),
            }
        }
        if let Some(image) = &self.stick {
            all.push(drive("stick", image, ""));
            all.push(words("-device qemu-xhci,id=usb"));
            all.push(words("-device usb-storage,bus=usb.0,drive=stick,removable=on,bootindex=0"));
        }
        if self.disks.iter().any(|disk| disk.bus == Bus::Scsi) {
            all.push(words("-device virtio-scsi-pci,id=scsi"));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            all.extend(self.disk(index, disk)?);
        }
        Ok(all)
    }

    fn network(&self) -> Vec<String> {
        if !self.wires.is_empty() {
            return self.wires.iter().enumerate().flat_map(|(at, wire)| wire.card(at)).collect();
        }
        let Some(Segment { tap, .. }) = &self.segment else {
            let forward = self.ssh_port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:22"));
            let netdev = format!("-netdev user,id=lan{}", forward.unwrap_or_default());
            return words(&format!("{netdev} -device virtio-net-pci,netdev=lan,romfile="));
        };
        let netdev = format!("-netdev tap,id=lan,ifname={tap},script=no,downscript=no");
        // A BIOS machine boots by iPXE in the card's ROM, UEFI by what the firmware has.
        let rom = if self.firmware == Firmware::Uefi { ",romfile=" } else { "" };
        words(&format!("{netdev} -device virtio-net-pci,netdev=lan,bootindex=0{rom}"))
    }

    fn channels(&self, sockets: &Sockets) -> Vec<String> {
        let file = |name: &str| comma(&self.logs.join(name));
        let socket = |path: &Path| format!("socket,path={},server=on,wait=off", comma(path));
        vec![
            "-chardev".into(),
            format!("{},id=console,logfile={}", socket(&sockets.serial()), file("console.log")),
            "-serial".into(),
            "chardev:console".into(),
            "-device".into(),
            "virtio-serial-pci".into(),
            "-chardev".into(),
            format!("file,id=verdict,path={}", file("verdict.log")),
            "-device".into(),
            "virtserialport,chardev=verdict,name=rr.verdict".into(),
            "-chardev".into(),
            format!("{},id=lab", socket(&sockets.agent())),
            "-device".into(),
            "virtserialport,chardev=lab,name=rr.lab".into(),
            "-qmp".into(),
            format!("unix:{},server=on,wait=off", comma(&sockets.qmp())),
        ]
    }

    /// Makes variables with Microsoft's keys, for a machine that is started without Secure Boot at
    /// first.
    pub fn enroll_keys(&self) -> Result<()> {
        let (_, variables) = find_firmware(OVMF_SECURE)?;
        crate::sys::fs::copy(Path::new(variables), &self.variables)
    }

    fn uefi(&self) -> Result<Vec<String>> {
        let (code, empty) = find_firmware(if self.secure_boot { OVMF_SECURE } else { OVMF })?;
        if !self.variables.exists() {
            crate::sys::fs::copy(Path::new(empty), &self.variables)?;
        }
        let mut all = Vec::new();
        if self.secure_boot {
            // Only the firmware itself may write its variables.
            all = words("-machine smm=on -global driver=cfi.pflash01,property=secure,value=on");
        }
        all.extend([
            "-drive".into(),
            format!("if=pflash,format=raw,unit=0,readonly=on,file={code}"),
            "-drive".into(),
            format!("if=pflash,format=raw,unit=1,file={}", comma(&self.variables)),
        ]);
        Ok(all)
    }

    fn disk(&self, index: usize, disk: &Disk) -> Result<Vec<Vec<String>>> {
        let id = format!("disk{index}");
        let mut device = match disk.bus {
            Bus::Virtio => format!("virtio-blk-pci,drive={id},serial={}", disk.serial),
            Bus::Scsi => {
                format!("scsi-hd,bus=scsi.0,scsi-id={index},drive={id},serial={}", disk.serial)
            }
            Bus::Nvme => format!("nvme,drive={id},serial={}", disk.serial),
            Bus::Sata => format!("ide-hd,bus=ide.{index},drive={id},serial={}", disk.serial),
        };
        match (disk.wwn, disk.bus) {
            (Some(wwn), Bus::Scsi | Bus::Sata) => device += &format!(",wwn={wwn:#018x}"),
            (Some(_), bus) => bail!("a disk on {bus:?} has no WWN"),
            (None, _) => {}
        }
        if disk.sector_bytes != 512 {
            let size = disk.sector_bytes;
            device += &format!(",logical_block_size={size},physical_block_size={size}");
        }
        // UEFI follows its own variables from disk to disk, which is what is to be tested; with a
        // boot index QEMU would overrule them.
        if self.boots_from == Some(index) {
            device += ",bootindex=0";
        } else if self.firmware == Firmware::Bios {
            device += &format!(",bootindex={}", index + 1);
        }
        Ok(vec![
            drive(&id, &disk.file, ",cache=unsafe,discard=unmap"),
            vec!["-device".into(), device],
        ])
    }
}

fn accelerator() -> Result<Vec<String>> {
    match std::env::var(ACCEL_VARIABLE).as_deref() {
        // QEMU 7.2 computes the flags after CMPXCHG16B from what an earlier instruction left, and an
        // interrupt then saves garbage: kernels, which use it to allocate memory, panicked or stood
        // still once in some dozen boots. They do without where the processor has none.
        Err(_) | Ok("" | "tcg") => Ok(words("-accel tcg,thread=multi -cpu Nehalem,-cx16")),
        Ok("kvm") => Ok(words("-accel kvm -cpu host")),
        Ok(other) => bail!("{ACCEL_VARIABLE}={other} is neither tcg nor kvm"),
    }
}

/// The code and the variables of the first that is there.
fn find_firmware(known: &[(&'static str, &'static str)]) -> Result<(&'static str, &'static str)> {
    let Some(found) = known.iter().find(|(code, _)| Path::new(code).exists()) else {
        bail!(
            "there is no UEFI firmware for virtual machines\nhint: apt-get install ovmf, or dnf install edk2-ovmf"
        );
    };
    Ok(*found)
}

fn drive(id: &str, file: &Path, more: &str) -> Vec<String> {
    vec!["-drive".into(), format!("if=none,id={id},format=raw,file={}{more}", comma(file))]
}

/// A path inside a comma-separated option: QEMU reads two commas as one.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(bus: Bus) -> Disk {
        let file = PathBuf::from("/a,b.raw");
        Disk { file, bus, serial: "S1".into(), wwn: None, sector_bytes: 512 }
    }

    #[test]
    fn the_cd_comes_before_the_disks_and_uefi_orders_its_disks_itself() {
        let sockets = Sockets::new().unwrap();
        for (firmware, ordered) in [(Firmware::Bios, true), (Firmware::Uefi, false)] {
            let dir = tempfile::tempdir().unwrap();
            let mut machine = Machine::new(firmware, dir.path());
            machine.cdrom = Some("/rr.iso".into());
            machine.disks = vec![disk(Bus::Nvme)];
            let Ok(all) = machine.arguments(&sockets) else {
                println!("skipped: no OVMF here");
                continue;
            };
            let line = all.concat().join(" ");
            assert!(line.contains("ide-cd,drive=cd,bus=ide.5,bootindex=0"), "{line}");
            assert_eq!(line.contains("serial=S1,bootindex=1"), ordered, "{line}");
            assert!(line.contains("file=/a,,b.raw,"), "{line}");
        }
    }

    #[test]
    fn cards_on_wires_keep_their_slots() {
        let sockets = Sockets::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(Firmware::Bios, dir.path());
        let wire = |mac: &str, own| Wire { mac: mac.into(), own, peer: 7 };
        machine.wires = vec![wire("52:54:00:00:00:0a", 8), wire("52:54:00:00:00:0b", 9)];
        machine.screen = false;
        let line = machine.arguments(&sockets).unwrap().concat().join(" ");
        assert!(line.contains("udp=127.0.0.1:7,localaddr=127.0.0.1:9"), "{line}");
        assert!(line.contains("netdev=wire1,mac=52:54:00:00:00:0b,addr=0x11"), "{line}");
        assert!(line.contains("-vga none") && !line.contains("netdev user"), "{line}");
    }

    #[test]
    fn on_a_segment_the_network_comes_before_the_disks() {
        let sockets = Sockets::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(Firmware::Bios, dir.path());
        machine.disks = vec![disk(Bus::Virtio)];
        machine.segment = Some(Segment { namespace: "/proc/1/ns/net".into(), tap: "tap0".into() });
        let line = machine.arguments(&sockets).unwrap().concat().join(" ");
        assert!(line.contains("ifname=tap0,script=no,downscript=no"), "{line}");
        assert!(line.contains("virtio-net-pci,netdev=lan,bootindex=0"), "{line}");
        assert!(line.contains("serial=S1,bootindex=1"), "{line}");
    }

    #[test]
    fn a_wwn_that_the_bus_can_not_show_is_refused() {
        let machine = Machine::new(Firmware::Bios, Path::new("/nowhere"));
        let mut with_wwn = disk(Bus::Virtio);
        with_wwn.wwn = Some(0x5000_c500_0000_0001);
        assert!(machine.disk(0, &with_wwn).is_err());
        with_wwn.bus = Bus::Scsi;
        let line = machine.disk(0, &with_wwn).unwrap().concat().join(" ");
        assert!(line.contains("wwn=0x5000c50000000001"), "{line}");
    }
}
