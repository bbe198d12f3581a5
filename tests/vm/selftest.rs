//! Tests of the lab itself: a checker that sees nothing would pass everything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::compare::differences;
use crate::{switch, treecheck};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("lab.treecheck.sees_every_change", || said(sees_every_change())),
        Trial::test(
            "lab.compare.volatile_is_what_is_listed",
            || said(volatile_is_what_is_listed()),
        ),
        Trial::test("lab.switch.frames_are_tagged_and_untagged", || {
            said(switch::frames_are_tagged_and_untagged())
        }),
    ]
}

fn said(result: Result<()>) -> Result<(), libtest_mimic::Failed> {
    result.map_err(|error| format!("{error:#}").into())
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir(dir.join("d"))?;
    fs::write(dir.join("d/file"), "content")?;
    fs::write(dir.join("d/other"), "content")?;
    fs::hard_link(dir.join("d/file"), dir.join("d/link"))?;
    symlink("file", dir.join("d/symlink"))?;
    fs::File::create(dir.join("d/sparse"))?.set_len(1 << 20)?;
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 1);
    for name in ["d/file", "d/other", "d/sparse", "d"] {
        fs::File::open(dir.join(name))?.set_modified(then)?;
    }
    Ok(())
}

type Change = (&'static str, fn(&Path) -> std::io::Result<()>);

fn sees_every_change() -> Result<()> {
    let changes: &[Change] = &[
        ("mode=", |d| fs::set_permissions(d.join("d/file"), fs::Permissions::from_mode(0o600))),
        ("mtime=", |d| fs::File::open(d.join("d/other"))?.set_modified(SystemTime::UNIX_EPOCH)),
        ("hash=", |d| fs::write(d.join("d/file"), "CONTENT")),
        ("size=", |d| fs::write(d.join("d/other"), "more content")),
        ("links=", |d| {
            fs::remove_file(d.join("d/link"))?;
            fs::copy(d.join("d/file"), d.join("d/link")).map(drop)
        }),
        ("target=", |d| {
            fs::remove_file(d.join("d/symlink"))?;
            symlink("nowhere", d.join("d/symlink"))
        }),
        ("data=", |d| fs::write(d.join("d/sparse"), vec![0; 1 << 20])),
        ("xattr:user.k=", |d| xattr::set(d.join("d/file"), "user.k", b"v")),
        ("is missing", |d| fs::remove_file(d.join("d/sparse"))),
        ("was not there", |d| fs::write(d.join("new"), "")),
    ];
    for (field, change) in changes {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        make(dir.path())?;
        let before = text(dir.path())?;
        ensure!(differences(&before, &text(dir.path())?, &[]).is_empty(), "differs from itself");
        change(dir.path())?;
        let found = differences(&before, &text(dir.path())?, &[]);
        ensure!(found.iter().any(|line| line.contains(field)), "{field} is not seen: {found:#?}");
    }
    Ok(())
}

fn text(dir: &Path) -> Result<String> {
    Ok(String::from_utf8(treecheck::walk(dir, &[])?.join(&b'\n'))?)
}

fn volatile_is_what_is_listed() -> Result<()> {
    let (before, after) = ("/a/b\tx\n/a\tx\n/ab\tx", "/a/b\ty\n/a\ty\n/ab\ty");
    let found = differences(before, after, &[("/a/", "why")]);
    ensure!(found == ["/a: was x, is y", "/ab: was x, is y"], "{found:#?}");
    Ok(())
}
