//! Copies of LUKS headers, for who asks for them (`backup.luks_header_recipients`). A volume whose
//! header was damaged is lost, whoever has its passphrase; with a copy of the header it is not.
//!
//! A copy opens the volume for everybody who knows a passphrase that it had at that time, for ever. So
//! it is only ever stored encrypted, to the recipients, by age(1): rr can't read it again. As it is,
//! it is in a file in memory that is not swapped, which nobody but this thread and its children sees,
//! and which is gone when they are, killed or not.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::layout::{Id, Layout};
use crate::probe::luks;
use crate::store::catalog::LUKS_HEADER;
use crate::sys::mount;
use crate::sys::run::Cmd;
use crate::sys::secret::Secret;
use crate::sys::tools;

/// Where a header lies while it is encrypted: an empty directory to everybody else.
const PLACE: &str = "/run/rr/headers";

/// The header of one volume, encrypted.
#[derive(Debug)]
pub struct Header {
    /// What the file is called in its generation.
    pub file: String,
    pub bytes: Vec<u8>,
}

/// Whether age(1) is there and takes them all.
pub fn check(recipients: &[String]) -> Result<()> {
    tools::require(&["age", "cryptsetup"])?;
    encrypt(&Secret::new("nothing")?, recipients)
        .map(drop)
        .context("encrypting something to backup.luks_header_recipients")
}

/// The headers of all LUKS volumes of the machine.
pub fn back_up(layout: &Layout, recipients: &[String]) -> Result<Vec<Header>> {
    let mut names = BTreeSet::new();
    let volumes = layout.luks.iter().map(|luks| {
        ensure!(names.insert(&luks.uuid), "two volumes have the UUID {}", luks.uuid);
        let dev = layout.dev(&luks.on);
        Ok((&luks.uuid, dev.with_context(|| format!("no device is known as {}", luks.on))?))
    });
    let volumes = volumes.collect::<Result<Vec<_>>>()?;
    let copies = volumes.iter().map(|(uuid, dev)| {
        let header = with_copy(Path::new(dev), |copy| {
            let found = luks::read(&copy.to_string_lossy(), &Id::default())?;
            ensure!(found.uuid == **uuid, "the copy is of {}, not of {uuid}", found.uuid);
            Secret::new(std::fs::read(copy).context("reading the copy")?)
        });
        let bytes = header.and_then(|header| encrypt(&header, recipients));
        let bytes = bytes.with_context(|| format!("copying the LUKS header of {dev}"))?;
        Ok(Header { file: format!("luks-{uuid}{LUKS_HEADER}"), bytes })
    });
    copies.collect()
}

/// Runs `body` with a copy of the header on `device`, which nobody else ever sees.
fn with_copy<T: Send>(device: &Path, body: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    let place = Path::new(PLACE);
    std::fs::create_dir_all(place).with_context(|| format!("creating {PLACE}"))?;
    mount::in_private_namespace(|| {
        // Unlike a tmpfs, it is never swapped; what programs have of it in their own memory may be.
        Cmd::new("mount").args(["-t", "ramfs", "-o", "mode=0700", "rr-headers", PLACE]).run()?;
        let copy = place.join("header");
        let backup = Cmd::new("cryptsetup").arg("luksHeaderBackup").arg(device);
        let done = backup.arg("--header-backup-file").arg(&copy).run().and_then(|()| body(&copy));
        // Where a chroot shares its mounts with the system, else it would end by itself.
        mount::detach(place)?;
        done
    })
}

/// Recipients are public: they may be seen in an argument list.
fn encrypt(secret: &Secret, recipients: &[String]) -> Result<Vec<u8>> {
    let recipients = recipients.iter().flat_map(|recipient| ["--recipient", recipient.as_str()]);
    Cmd::new("age").arg("--encrypt").args(recipients).secret_stdin(secret).stdout()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Disk;

    /// A volume in a file, and a layout in which the file is a disk.
    fn volume(dir: &Path) -> (std::path::PathBuf, Layout) {
        let file = dir.join("volume");
        std::fs::File::create(&file).unwrap().set_len(20 << 20).unwrap();
        let passphrase = Secret::new("open sesame").unwrap();
        let quick = "--batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file -";
        let format = Cmd::new("cryptsetup").args(["luksFormat", "--type", "luks2"]).arg(&file);
        format.args(quick.split(' ')).secret_stdin(&passphrase).run().unwrap();
        let mut layout = crate::backup::testing::layout();
        // `Layout::dev` puts the name below /dev.
        let name = format!("..{}", file.display());
        let text = format!(
            "id = \"disk:volume\"\nname = \"{name}\"\nsize_bytes = 1000\nsector_bytes = 512"
        );
        layout.disk.push(toml::from_str::<Disk>(&text).unwrap());
        let on = Id::disk("volume");
        layout.luks = vec![luks::read(&file.to_string_lossy(), &on).unwrap()];
        (file, layout)
    }

    fn identity(dir: &Path) -> (std::path::PathBuf, String) {
        let key = dir.join("key");
        Cmd::new("age-keygen").arg("-o").arg(&key).run().unwrap();
        let recipient = Cmd::new("age-keygen").arg("-y").arg(&key).text().unwrap();
        (key, recipient.trim().to_owned())
    }

    fn dump(file: &Path) -> String {
        Cmd::new("cryptsetup").arg("luksDump").arg(file).text().unwrap()
    }

    fn is_root() -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            eprintln!("skipped: only root copies LUKS headers");
        }
        root
    }

    #[test]
    fn a_copy_is_read_with_the_key_alone_and_opens_the_volume_again() {
        if !is_root() {
            return;
        }
        crate::ui::log::start(false);
        let dir = tempfile::tempdir().unwrap();
        let ((file, layout), (key, recipient)) = (volume(dir.path()), identity(dir.path()));
        let ssh = dir.path().join("id_ed25519");
        Cmd::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&ssh)
            .run()
            .unwrap();
        let public = std::fs::read_to_string(ssh.with_extension("pub")).unwrap();
        let recipients = [recipient, public.trim().to_owned()];
        check(&recipients).unwrap();
        let found = back_up(&layout, &recipients).unwrap();
        let [Header { file: name, bytes }] = &found[..] else { panic!("one volume") };
        assert_eq!(*name, format!("luks-{}.header.age", layout.luks[0].uuid));
        let header = std::fs::read(&file).unwrap();
        let uuid = layout.luks[0].uuid.as_bytes();
        assert!(header.windows(uuid.len()).any(|part| part == uuid));
        assert!(!bytes.windows(uuid.len()).any(|part| part == uuid), "it is not encrypted");
        let log = crate::ui::log::text();
        let slot = b"\"keyslots\"";
        assert!(header.windows(slot.len()).any(|part| part == slot));
        assert!(!log.windows(slot.len()).any(|part| part == slot), "it is in the log");

        let encrypted = dir.path().join(name);
        std::fs::write(&encrypted, bytes).unwrap();
        for key in [&key, &ssh] {
            let copy = dir.path().join("copy");
            let decrypt = Cmd::new("age").arg("-d").arg("-i").arg(key).arg("-o").arg(&copy);
            decrypt.arg(&encrypted).run().unwrap();
            let lost = dir.path().join("lost");
            std::fs::File::create(&lost).unwrap().set_len(20 << 20).unwrap();
            let restore = Cmd::new("cryptsetup").args(["--batch-mode", "luksHeaderRestore"]);
            restore.arg("--header-backup-file").arg(&copy).arg(&lost).run().unwrap();
            assert_eq!(dump(&lost), dump(&file));
            std::fs::remove_file(copy).unwrap();
        }
    }

    /// What is seen from outside is what a killed run would leave.
    #[test]
    fn a_header_as_it_is_is_seen_by_nobody_else() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = volume(dir.path());
        let (began, seen) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let copying = scope.spawn(move || {
                with_copy(&file, move |copy| {
                    began.send(copy.metadata()?.len()).unwrap();
                    ended.recv()?;
                    Ok(copy.exists())
                })
            });
            let bytes = seen.recv().unwrap();
            assert!(bytes > 1 << 20, "{bytes}");
            let outside: Vec<_> = std::fs::read_dir(PLACE).unwrap().collect();
            let mounted = mount::below(Path::new(PLACE)).unwrap();
            end.send(()).unwrap();
            assert!(copying.join().unwrap().unwrap());
            assert!(outside.is_empty() && mounted.is_empty(), "{outside:?} {mounted:?}");
        });
    }

    #[test]
    fn a_recipient_with_a_letter_wrong_is_found_before_the_backup() {
        let good = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        check(&[good.to_owned()]).unwrap();
        let error = format!("{:#}", check(&[good.replace("z7", "y7")]).unwrap_err());
        assert!(error.contains("luks_header_recipients") && error.contains("malformed"), "{error}");
    }
}
