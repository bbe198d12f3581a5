//! Filesystems and swap: made, and checked to be what was asked for.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::stack::{modprobe, run_all, wait_for};
use crate::plan::step::{MakeFs, MakeSubvolumes, MakeSwap};
use crate::plan::{Step, fscmd};
use crate::sys::mount::TempMount;
use crate::sys::run::Cmd;
use crate::sys::{blkid, udev};

pub fn make_fs(step: &Step, make: &MakeFs) -> Result<()> {
    for dev in &make.more_devs {
        wait_for(Path::new(dev))?;
        Cmd::new("wipefs").args(["--all", "--force", dev]).run()?;
    }
    make_on(step, &make.dev)?;
    verify_fs(make)
}

fn verify_fs(make: &MakeFs) -> Result<()> {
    verify(&make.dev, &make.fs.kind, &make.fs.uuid, fscmd::label(&make.fs))
}

/// Creates the subvolumes below the top of the filesystem, which is mounted for that alone.
pub fn make_subvolumes(make: &MakeSubvolumes) -> Result<()> {
    modprobe("btrfs");
    let options = make.mount_options();
    let top = TempMount::mount(&["-t", "btrfs", "-o", &options, &make.dev])?;
    for path in &make.paths {
        let path = top.path().join(path.as_path());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("creating {}", parent.display()))?;
        }
        Cmd::new("btrfs").args(["subvolume", "create"]).arg(&path).run()?;
    }
    if let Some(path) = &make.default {
        let path = top.path().join(path.as_path());
        Cmd::new("btrfs").args(["subvolume", "set-default"]).arg(path).run()?;
    }
    top.close()
}

pub fn make_swap(step: &Step, make: &MakeSwap) -> Result<()> {
    make_on(step, &make.dev)?;
    verify(&make.dev, "swap", &make.swap.uuid, &make.swap.label)
}

fn make_on(step: &Step, dev: &str) -> Result<()> {
    wait_for(Path::new(dev))?;
    Cmd::new("wipefs").args(["--all", "--force", dev]).run()?;
    run_all(&step.commands(""))?;
    udev::settle()
}

/// Asks libblkid, past its cache, what is there now.
fn verify(dev: &str, kind: &str, uuid: &str, label: &str) -> Result<()> {
    for (tag, wanted) in [("TYPE", kind), ("UUID", uuid), ("LABEL", label)] {
        if wanted.is_empty() {
            continue;
        }
        let found = blkid::tag(dev, tag)?;
        if found != wanted {
            bail!("{dev} has {tag} {found:?} and not {wanted:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Fs;
    use crate::probe::{ext, f2fs, vfat};

    /// Everything that rr knows of the filesystem in `file`.
    fn read(kind: &str, file: &Path) -> Fs {
        let file = file.to_string_lossy();
        let mut fs: Fs =
            toml::from_str(&format!("id = 'fs:x'\non = 'disk:x'\nkind = '{kind}'")).unwrap();
        fs.uuid = blkid::tag(&*file, "UUID").unwrap();
        match kind {
            "f2fs" => fs.f2fs = Some(Box::new(f2fs::read(&file).unwrap())),
            "vfat" => fs.vfat = Some(vfat::read(&file).unwrap().options),
            _ => fs.ext = Some(ext::read(&file).unwrap()),
        }
        fs
    }

    #[test]
    fn a_fat_whose_label_mkfs_does_not_take_is_made_without_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let dev = file.path().to_string_lossy().into_owned();
        for (label, made) in [("W\u{f6}rter", ""), ("WORTE", "WORTE")] {
            let fs = format!("id = 'fs:x'\non = 'disk:x'\nkind = 'vfat'\nlabel = '{label}'");
            let fs = Box::new(toml::from_str(&fs).unwrap());
            let make = MakeFs { dev: dev.clone(), more_devs: Vec::new(), fs };
            run_all(&Step::MakeFs(make.clone()).commands("")).unwrap();
            verify_fs(&make).unwrap();
            assert_eq!(blkid::tag(&dev, "LABEL").unwrap(), made);
        }
    }

    /// As old programs and those of other systems left it.
    #[test]
    fn an_ext_that_says_nothing_of_errors_goes_on_after_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let made = "mke2fs -q -F $0; debugfs -w -R 'ssv errors 0' $0";
        Cmd::new("sh").args(["-ec", made]).arg(file.path()).run().unwrap();
        let fs = Box::new(read("ext2", file.path()));
        assert_eq!(fs.ext.as_ref().unwrap().errors.as_deref(), Some("Unknown (continue)"));
        let dev = file.path().to_string_lossy().into_owned();
        run_all(&Step::MakeFs(MakeFs { dev, more_devs: Vec::new(), fs }).commands("")).unwrap();
    }

    /// In files: what needs no kernel that could mount it.
    #[test]
    fn what_was_made_with_odd_options_is_made_so_again() {
        for (kind, made) in [
            ("ext4", "mke2fs -q -F -t ext4 -O bigalloc,casefold -C 32768 $0"),
            ("ext4", "mke2fs -q -F -t ext4 -O quota,project,verity,encrypt -b 1024 $0"),
            ("ext4", "mke2fs -q -F $0; tune2fs -u 5 -g 6 -E mount_opts=nodelalloc $0"),
            ("f2fs", "mkfs.f2fs -q -C utf8:strict -s 2 -z 2 -i $0"),
            ("f2fs", "mkfs.f2fs -q -O extra_attr,compression -C utf8 -w 4096 $0 30000"),
            ("vfat", "mkfs.vfat -F 16 -r 1024 -s 16 $0"),
            ("vfat", "mkfs.vfat -F 12 -r 112 -s 128 $0"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let files = ["was", "is"].map(|name| dir.path().join(name));
            for file in &files {
                std::fs::File::create(file).unwrap().set_len(160 << 20).unwrap();
            }
            Cmd::new("sh").args(["-ec", made]).arg(&files[0]).run().unwrap();
            let fs = read(kind, &files[0]);
            let dev = files[1].to_string_lossy().into_owned();
            let make = MakeFs { dev, more_devs: Vec::new(), fs: Box::new(fs.clone()) };
            run_all(&Step::MakeFs(make).commands("")).unwrap();
            assert_eq!(read(kind, &files[1]), fs, "{made}");
        }
    }
}
