//! A whole recovery in user-mode Linux: a small node on LVM on a mirror is backed up into a
//! directory, and comes back on two blank disks; once more over the finished disks; once more from an
//! ISO that holds the backup, step by step, as an admin does with `layoutonly` and its like; and not at
//! all where a pack is damaged, with the disks left as they are. Beside a disk with data that is not in
//! the backup it comes back without touching that, and without it where that disk is gone.
//!
//! Only firmware and boot loader are missing here: the kernel and its initramfs are files that look
//! the part, and so does what `grub-install` and `update-initramfs` write. As on a node that had GRUB in
//! a partition no disk holds it in its first sector when the backup is made, and all that hold /boot do
//! in the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rr::archive::{self, CreateOptions};
use rr::backup::headers::{self, Header};
use rr::backup::spare;
use rr::config::{Config, TargetOptions, TargetUrl};
use rr::layout::{BytesPath, Layout, Unprotected, schema};
use rr::probe;
use rr::recover::{self, Failure, Options, Outcome, Phase};
use rr::rescue::RescueInfo;
use rr::rescue::iso::volume_id;
use rr::store::{self, Access, Manifest, catalog};
use rr::sys::run::Cmd;
use rr::ui::Ui;
use rr::ui::verdict::Verdict;

use crate::iso;

pub const NAME: &str = "recover_md1_lvm";
/// The same with LUKS between the mirror and LVM.
pub const ENCRYPTED: &str = "recover_md1_luks_lvm";
/// The same beside a disk with what is in no backup.
pub const BESIDE_DATA: &str = "recover_beside_data";
pub const DISKS_MIB: &[u64] = &[300, 300];
pub const DATA_MIB: u64 = 64;

const NODE: &str = "/node";
const PASSPHRASE: &str = "open sesame, please";
const BUILD: &str = r#"
for disk in ubdb ubdc; do sfdisk /dev/$disk <<'END'
label: gpt
size=80M, type=A19D880F-05FC-4D3B-A006-743F0F84911E
type=A19D880F-05FC-4D3B-A006-743F0F84911E
END
done
udevadm settle
mdadm --create /dev/md0 --run --metadata=1.0 --level=1 --raid-devices=2 --homehost=node001 --name=boot /dev/ubdb1 /dev/ubdc1
mdadm --create /dev/md1 --run --level=1 --raid-devices=2 --homehost=node001 --name=1 /dev/ubdb2 /dev/ubdc2
pv=/dev/md1
if [ "$0" = encrypted ]; then
    printf "$1" | cryptsetup luksFormat -q --type luks2 --iter-time 50 --pbkdf-memory 32768 --key-file - /dev/md1
    printf "$1" | cryptsetup open --key-file - /dev/md1 crypt
    pv=/dev/mapper/crypt
fi
lvm vgcreate vg0 $pv
lvm lvcreate -y -n root -L 100M vg0
lvm lvcreate -y -n swap -L 32M vg0
mke2fs -q -t ext4 /dev/md0
mke2fs -q -t ext4 -L root /dev/vg0/root
mkswap /dev/vg0/swap
mount /dev/vg0/root /node
mkdir /node/boot
mount /dev/md0 /node/boot
swapon /dev/vg0/swap
cd /node
mkdir -p boot/grub/i386-pc etc bin sbin srv usr/bin proc sys dev run tmp mnt var/tmp var/log/rr
chmod 1777 tmp var/tmp
boot=$(blkid -o value -s UUID /dev/md0)
swap=$(blkid -o value -s UUID /dev/vg0/swap)
cat >/node/etc/fstab <<END
/dev/mapper/vg0-root / ext4 errors=remount-ro 0 1
UUID=$boot /boot ext4 defaults 0 2
UUID=$swap none swap sw 0 0
END
cat >/node/boot/grub/grub.cfg <<END
menuentry 'Node' {
	search --no-floppy --fs-uuid --set=root $boot
	linux /vmlinuz-6.1.0 root=/dev/mapper/vg0-root ro
	initrd /initrd.img-6.1.0
}
END
if [ "$0" = encrypted ]; then
    mkdir -m 700 etc/keys
    head -c 64 /dev/urandom >etc/keys/crypt.key
    echo "crypt UUID=$(cryptsetup luksUUID /dev/md1) /etc/keys/crypt.key luks" >etc/crypttab
fi
mkdir -p etc/lvm/devices
echo 'devices { use_devicesfile = 1 }' >etc/lvm/lvm.conf
cat >etc/lvm/devices/system.devices <<END
VERSION=1.1.2
IDTYPE=sys_wwid IDNAME=naa.5000c500a1b2c3d4 DEVNAME=/dev/sda3 PVID=$(lvm pvs --noheadings -o pv_uuid $pv | tr -d ' -') PART=3
IDTYPE=sys_wwid IDNAME=naa.5000c500a1b2c3d5 DEVNAME=/dev/sdz PVID=abcdefghijklmnopqrstuvwxyz012345
END
for file in /sbin/lvm $(ldd /sbin/lvm | grep -o '/[^ ]*'); do cp -L --parents $file /node; done
cp -L /bin/sh bin/sh
printf '#!/bin/sh\n[ "$1" = --target=i386-pc ] && printf "\\353\\143GRUB" 1<>"$2"\n' >sbin/grub-install
printf '#!/bin/sh\n[ "$*" = "-u -k 6.1.0" ] && echo "070701 built anew" >/boot/initrd.img-6.1.0\n' >sbin/update-initramfs
chmod 755 sbin/grub-install sbin/update-initramfs
mkdir -p lib/modules/6.1.0
head -c 300000 /dev/urandom >/node/boot/vmlinuz-6.1.0
{ printf 070701; head -c 500000 /dev/urandom; } >/node/boot/initrd.img-6.1.0
cp /bin/true /node/sbin/init
for n in $(seq 200); do echo "file $n" >/node/srv/$n; done
ln /node/srv/1 /node/srv/hard; ln -s 1 /node/srv/soft; mkfifo /node/srv/fifo
chmod 4755 /node/srv/2; chown 1234:5678 /node/srv/3; touch -d 2001-02-03 /node/srv/4
truncate -s 50M /node/srv/sparse
cd /
"#;
const ADD_DATA: &str = r"
mke2fs -q -t ext4 -L data /dev/ubdd
mkdir /node/data
mount /dev/ubdd /node/data
echo kept >/node/data/file
echo 'LABEL=data /data ext4 defaults 0 2' >>/node/etc/fstab
";
const LEAVE: &str = "umount -q /node/data || true; umount /node/boot /node; swapoff -a; mdadm --wait-clean --scan || true";

/// One phase, inside the machine.
pub fn run(dir: &Path, name: &str, phase: &str) -> Result<()> {
    match phase {
        "back up" => back_up(dir, name),
        "beside data" => beside_data(dir),
        "without data" => without_data(dir),
        "encrypted" => encrypted(dir),
        "damaged" => refuse(dir),
        "step by step" => step_by_step(dir),
        _ => twice(dir, &Config::default()),
    }
}

fn script(text: &str) -> Result<()> {
    Cmd::new("sh").args(["-eu", "-c", text]).run()
}

fn target(dir: &Path) -> TargetUrl {
    TargetUrl::File { dir: dir.join("backups") }
}

fn back_up(dir: &Path, name: &str) -> Result<()> {
    let encrypted = name == ENCRYPTED;
    let kind = if encrypted { "encrypted" } else { "plain" };
    Cmd::new("sh").args(["-eu", "-c", BUILD, kind, PASSPHRASE]).run()?;
    let ui = Ui::detect(false);
    if name == BESIDE_DATA {
        script(ADD_DATA)?;
    }
    let mut layout = as_a_node(probe::read(&ui)?);
    if name == BESIDE_DATA {
        let why = "exclude /data/*".to_owned();
        let marked = spare::mark(&mut layout, vec![Unprotected { what: "/data".into(), why }]);
        ensure!(marked.left == ["/data"], "{marked:?}");
    }
    fs::create_dir(dir.join("backups"))?;
    let store = store::open(&target(dir), "node001", Access::Write, &TargetOptions::default())?;
    let generation = catalog::new_generation(store.as_ref())?;
    let options = CreateOptions {
        root: NODE.into(),
        trees: vec!["/".into(), "/boot".into()],
        exclude: Vec::new(),
        generation: generation.clone(),
        node: "node001".into(),
        level: 1,
        threads: 2,
        ..CreateOptions::default()
    };
    let created = archive::create(&options, store.as_ref(), None, &ui)?;
    let mut manifest = Manifest {
        version: catalog::MANIFEST_VERSION,
        generation: generation.clone(),
        node: "node001".into(),
        rr: "test".into(),
        started: String::new(),
        finished: String::new(),
        parent: None,
        file: created.files,
        pack: created.packs,
        archive: created.stats,
        tree: vec!["/".into(), "/boot".into()],
        unprotected: Vec::new(),
        warning: created.warnings,
    };
    let text = schema::render(&layout)?;
    manifest.file.push(catalog::put(store.as_ref(), &generation, "layout.toml", text.as_bytes())?);
    if encrypted {
        Cmd::new("age-keygen").arg("-o").arg(dir.join("key")).run()?;
        let recipient = Cmd::new("age-keygen").arg("-y").arg(dir.join("key")).text()?;
        for Header { file, bytes } in headers::back_up(&layout, &[recipient.trim().to_owned()])? {
            manifest.file.push(catalog::put(store.as_ref(), &generation, &file, bytes)?);
        }
        script(&format!("cryptsetup luksDump /dev/md1 >{}/header.txt", dir.display()))?;
    }
    catalog::publish(store.as_ref(), &manifest)?;
    fs::write(dir.join("files.txt"), files(NODE)?)?;
    script(LEAVE)
}

/// The layout of a node whose root is what is mounted on [`NODE`].
pub fn as_a_node(mut layout: Layout) -> Layout {
    for mount in &mut layout.mount {
        if let Ok(inside) = mount.path.as_path().strip_prefix(NODE) {
            mount.path = BytesPath(Path::new("/").join(inside));
        }
    }
    layout
}

/// Everything about every file that must come back.
fn files(root: &str) -> Result<String> {
    let list = "find . -xdev \\( -name lost+found -o -path ./var/log -o -path ./etc/lvm -o -name 'initrd*' \\) -prune -o \
                -printf '%p %y %m %U %G %n %T@ %l\\n' | sort; \
                find . -xdev -type f ! -path './var/*' ! -path './etc/lvm/*' ! -name 'initrd*' -exec sha256sum {} + | sort -k 2; \
                test ! -e srv/sparse || du -k srv/sparse";
    let both = format!("cd {root}; {list}; cd boot; {list}");
    Cmd::new("sh").args(["-c", &both]).text()
}

fn options(dir: &Path) -> Options {
    Options {
        auto: true,
        target: Some(target(dir).to_string()),
        node: Some("node001".into()),
        verdict: Verdict::to(Some(dir.join("verdict"))),
        ..Options::default()
    }
}

/// Without the passphrase nothing is touched; with it all comes back, and it is told to nobody.
fn encrypted(dir: &Path) -> Result<()> {
    let text = failure(&Config::default(), &options(dir), false)?;
    ensure!(text.contains("luks_passphrase_file"), "{text}");
    let file = Path::new("/tmp/passphrase");
    let mut config = Config::default();
    config.recover.luks_passphrase_file = Some(file.to_owned());
    config.recover.pre = vec!["echo no key >&2; exit 3".to_owned()];
    let text = failure(&config, &options(dir), false)?;
    ensure!(text.contains("recover.pre (1 of 1) failed (exit status: 3)\nno key"), "{text}");
    for disk in ["/dev/ubdb", "/dev/ubdc"] {
        ensure!(fs::read(disk)?.iter().all(|byte| *byte == 0), "{disk} was written to");
    }
    config.recover.pre = vec![format!("echo '{PASSPHRASE}' >{}", file.display())];
    config.recover.post = vec!["echo $RR_NODE $RR_GENERATION >$RR_ROOT/var/log/post".to_owned()];
    twice(dir, &config)?;
    script(
        "mount /dev/vg0/root /node
         grep '^node001 20.*Z$' /node/var/log/post
         cryptsetup open --test-passphrase --key-file /node/etc/keys/crypt.key /dev/md1
         umount /node",
    )?;
    // Before the search below, which is logged itself.
    let log = String::from_utf8_lossy(&rr::ui::log::text()).into_owned();
    ensure!(
        log.contains("luksFormat") && !log.contains(PASSPHRASE),
        "the passphrase is in the log"
    );
    header_is_there(dir)?;
    let told = Cmd::new("grep").args(["-rl", PASSPHRASE]).arg(dir.join("backups")).output()?.text();
    ensure!(told.is_empty(), "the passphrase is in {told}");
    // What is restored and boots is no success while something that was asked for is not done.
    config.recover.post = vec!["exit 4".to_owned()];
    let mounted = Options { phase: Phase::Mount, ..options(dir) };
    recover::recover(&config, None, &mounted, &Ui::detect(false)).map_err(|f| f.error)?;
    let last = Options { phase: Phase::Finalize, ..options(dir) };
    let text = failure(&config, &last, true)?;
    ensure!(text.contains("recover.post (1 of 1) failed (exit status: 4)"), "{text}");
    Ok(())
}

/// What is said of a recovery that must fail.
fn failure(config: &Config, options: &Options, touches: bool) -> Result<String> {
    match recover::recover(config, None, options, &Ui::detect(false)) {
        Ok(other) => bail!("it went on: {other:?}"),
        Err(Failure { touched, error, .. }) => {
            let text = format!("{error:#}");
            ensure!(touched == touches, "touched {touched}: {text}");
            Ok(text)
        }
    }
}

/// The copy of the header opens to its key alone, and the report names it.
fn header_is_there(dir: &Path) -> Result<()> {
    let found = Cmd::new("find").arg(dir.join("backups")).args(["-name", "luks-*.header.age"]);
    let found = found.text()?;
    let copy = Path::new(found.trim());
    let opened = Path::new("/tmp/header");
    let decrypt = Cmd::new("age").arg("-d").arg("-i").arg(dir.join("key")).arg("-o").arg(opened);
    decrypt.arg(copy).run()?;
    let was = fs::read_to_string(dir.join("header.txt"))?;
    ensure!(Cmd::new("cryptsetup").arg("luksDump").arg(opened).text()? == was, "another header");
    let name = copy.file_name().context("no copy")?;
    let told = Cmd::new("grep").args(["-rl", "--include=result.json"]).arg(name);
    let told = told.arg(dir.join("backups")).text()?;
    ensure!(told.lines().count() == 2, "the copy is in the reports {told:?}");
    Ok(())
}

fn twice(dir: &Path, config: &Config) -> Result<()> {
    let ui = Ui::detect(false);
    for time in ["blank disks", "the finished disks"] {
        let _ = fs::remove_file(dir.join("verdict"));
        match recover::recover(config, None, &options(dir), &ui) {
            Ok(Outcome::Recovered(report)) => ensure!(report.entries > 200, "{report:?}"),
            Ok(other) => bail!("on {time}: {other:?}"),
            Err(failure) => return Err(failure.error.context(format!("recovering on {time}"))),
        }
        let said = fs::read_to_string(dir.join("verdict"))?;
        let words: Vec<_> = said.lines().collect();
        ensure!(
            words == ["fetched", "planned", "applied", "extracted", "fixed", "checked", "success"],
            "{said}"
        );
        compare(dir).with_context(|| format!("comparing after a recovery on {time}"))?;
    }
    let results = fs::read_dir(dir.join("backups/node001/recoveries"))?.count();
    ensure!(results == 2, "{results} results are at the target");
    Ok(())
}

/// The disk with the data is here: it stays as it is, and the system mounts it again.
fn beside_data(dir: &Path) -> Result<()> {
    let fstab = recovered_fstab(dir)?;
    ensure!(fstab.contains("LABEL=data /data ext4 defaults 0 2"), "{fstab}");
    script("mount /dev/ubdd /mnt; grep -qx kept /mnt/file; umount /mnt")
}

/// Another disk is in its place, which is none of the plan's.
fn without_data(dir: &Path) -> Result<()> {
    let fstab = recovered_fstab(dir)?;
    ensure!(fstab.contains("LABEL=data /data ext4 defaults,nofail 0 2"), "{fstab}");
    ensure!(fs::read("/dev/ubdd")?.iter().all(|byte| *byte == 0), "/dev/ubdd was written to");
    Ok(())
}

fn recovered_fstab(dir: &Path) -> Result<String> {
    let outcome = recover::recover(&Config::default(), None, &options(dir), &Ui::detect(false));
    let outcome = outcome.map_err(|failure| failure.error)?;
    ensure!(matches!(outcome, Outcome::Recovered(_)), "{outcome:?}");
    let said = String::from_utf8_lossy(&rr::ui::log::text()).into_owned();
    ensure!(said.contains("ubdd is left alone: /data on it"), "{said}");
    script("mount /dev/vg0/root /node; mount /dev/md0 /node/boot")?;
    let fstab = fs::read_to_string("/node/etc/fstab")?;
    script(LEAVE)?;
    Ok(fstab)
}

/// What an image knows whose ISO holds the backup.
fn on_medium() -> RescueInfo {
    let known = format!(
        "version = 1\nnode = 'node001'\ntarget = 'iso://{}'\nrr = 'test'\nmedium = 'A1B2'",
        volume_id("node001")
    );
    toml::from_str(&known).expect("the facts of a rescue system")
}

/// Makes the ISO, outside of the machine.
pub fn carry(dir: &Path) -> Result<PathBuf> {
    if let Some(why) = iso::missing() {
        bail!("{why}");
    }
    let store = store::open(&target(dir), "node001", Access::Read, &TargetOptions::default())?;
    let file = dir.join("carried.iso");
    iso::make(store.as_ref(), dir.join("backups/node001"), file.clone(), &on_medium())?;
    Ok(file)
}

/// Each verb finds the disks as the one before left them; `mountonly` as after a reboot.
fn step_by_step(dir: &Path) -> Result<()> {
    let ui = Ui::detect(false);
    // As the rescue system does, of which only the ISO is left.
    let info = on_medium();
    fs::rename(dir.join("backups"), dir.join("carried away"))?;
    let step = |phase: Phase| {
        let options = Options { phase, target: None, ..options(dir) };
        recover::recover(&Config::default(), Some(&info), &options, &ui)
            .map_err(|failure| failure.error.context(format!("{phase:?}")))
    };
    for phase in [Phase::Layout, Phase::Restore, Phase::Mount] {
        let outcome = step(phase)?;
        ensure!(matches!(outcome, Outcome::Mounted), "{phase:?} gave {outcome:?}");
        let restored = Path::new("/mnt/rr/srv/hard").exists();
        ensure!(restored != (phase == Phase::Layout), "files after {phase:?}: {restored}");
        ensure!(Path::new("/mnt/rr/boot/lost+found").exists(), "/boot is mounted");
    }
    let outcome = step(Phase::Finalize)?;
    ensure!(matches!(outcome, Outcome::Recovered(_)), "{outcome:?}");
    let log = String::from_utf8_lossy(&rr::ui::log::text()).into_owned();
    ensure!(log.contains("may only be read from here"), "nothing can be put to an ISO:\n{log}");
    ensure!(log.contains("ubdd     holds the backup"), "the medium is no candidate:\n{log}");
    read_iso(&dir.join("carried.iso"))?;
    compare(dir)
}

/// Every verb reads it, from the medium, the drive and the file.
fn read_iso(file: &Path) -> Result<()> {
    script("modprobe loop")?;
    let names = [&*volume_id("node001"), "/dev/ubdd", &file.to_string_lossy()].map(str::to_owned);
    for url in names.map(|name| format!("iso://{name}")) {
        let open =
            |access| store::open(&url.parse()?, "node001", access, &TargetOptions::default());
        let store = open(Access::Read)?;
        let manifest = catalog::find_machine(store.as_ref(), None)?;
        archive::check(&manifest, store.as_ref(), &Ui::detect(false)).context(url.clone())?;
        let Err(error) = open(Access::Write) else { bail!("{url} can be written to") };
        ensure!(format!("{error:#}").contains("not written to"), "{error:#}");
    }
    let left = fs::read_to_string("/proc/mounts")?;
    ensure!(!left.contains("iso9660"), "something is left mounted: {left}");
    Ok(())
}

fn compare(dir: &Path) -> Result<()> {
    let left = fs::read_to_string("/proc/mounts")?;
    ensure!(!left.contains("/mnt/rr"), "something is left mounted: {left}");
    script("mount /dev/vg0/root /node; mount /dev/md0 /node/boot")?;
    let (before, after) = (fs::read_to_string(dir.join("files.txt"))?, files(NODE)?);
    let report = fs::read_dir("/node/var/log/rr")?.count();
    let initramfs = fs::read("/node/boot/initrd.img-6.1.0")?;
    lists_devices()?;
    script(LEAVE)?;
    // It would look for LVM's devices by the list as it was.
    ensure!(initramfs == b"070701 built anew\n", "the initramfs was not built anew");
    for disk in ["/dev/ubdb", "/dev/ubdc"] {
        ensure!(rr::probe::boot::has_grub(disk)?, "GRUB is not on {disk}");
    }
    ensure!(report == 2, "log and result are not in the recovered system");
    ensure!(before.lines().count() > 400, "hardly anything was recorded: {before}");
    let lost: Vec<_> = before.lines().filter(|l| !after.lines().any(|o| o == *l)).collect();
    let new: Vec<_> = after.lines().filter(|l| !before.lines().any(|o| o == *l)).collect();
    ensure!(lost.is_empty() && new.is_empty(), "was: {lost:#?}\nis: {new:#?}");
    Ok(())
}

/// LVM's list has the physical volume as it is here, and the other one as it was.
fn lists_devices() -> Result<()> {
    let dir = Path::new("/node/etc/lvm/devices");
    let list = fs::read_to_string(dir.join("system.devices")).context("LVM has no list")?;
    ensure!(
        !list.contains("naa.5000c500a1b2c3d4") && list.contains("naa.5000c500a1b2c3d5"),
        "{list}"
    );
    ensure!(fs::read_dir(dir)?.count() == 2, "not just the list and its copy are in {dir:?}");
    let pvs = Cmd::new("lvm").args(["pvs", "--noheadings", "-o", "vg_name"]);
    let found = pvs.env("LVM_SYSTEM_DIR", "/node/etc/lvm").text()?;
    ensure!(found.trim() == "vg0", "by this list LVM finds {found:?}: {list}");
    Ok(())
}

/// A pack with one wrong byte is found before a disk is touched.
fn refuse(dir: &Path) -> Result<()> {
    let pack = fs::read_dir(dir.join("backups/node001/packs"))?.next().context("no pack")??.path();
    let whole = fs::read(&pack)?;
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, PermissionsExt::from_mode(0o600))?;
    fs::write(&pack, &bytes)?;
    let outcome = recover::recover(&Config::default(), None, &options(dir), &Ui::detect(false));
    let dry = Options { dry_run: true, verdict: Verdict::to(None), ..options(dir) };
    let planned = recover::recover(&Config::default(), None, &dry, &Ui::detect(false));
    fs::write(&pack, &whole)?;
    let planned = planned.map_err(|failure| failure.error.context("a dry run read the packs"))?;
    let Outcome::Planned(plan) = planned else { bail!("a dry run gave {planned:?}") };
    ensure!(plan.disks.len() == 2, "{:?}", plan.disks);
    let Err(Failure { touched, error, .. }) = outcome else { bail!("a damaged pack was taken") };
    ensure!(!touched, "a disk was touched: {error:#}");
    let said = fs::read_to_string(dir.join("verdict"))?;
    // All that needs no data came before it.
    ensure!(said.starts_with("fetched\nplanned\nfailed: ") && said.lines().count() == 3, "{said}");
    for disk in ["/dev/ubdb", "/dev/ubdc"] {
        let bytes = fs::read(disk)?;
        ensure!(bytes.iter().all(|byte| *byte == 0), "{disk} was written to");
    }
    Ok(())
}
