//! `recipe` and the RESTORE text: how to get the files without rr.

use std::fmt::Write;

use super::index::{Index, Place};
use crate::store::Manifest;

/// One line for each stretch of a pack: name, offset and length in bytes. Their bytes, one after
/// the other, are the whole stream in zstd frames.
pub fn render(index: &Index) -> String {
    let mut text = String::new();
    let mut stretch: Option<(Place, u64)> = None;
    let mut line = |stretch: Option<(Place, u64)>| {
        if let Some((place, len)) = stretch {
            let _ = writeln!(text, "{} {} {len}", index.pack_name(&place), place.offset);
        }
    };
    for chunk in &index.chunks {
        let place = chunk.frame.place;
        stretch = match stretch {
            Some((first, len))
                if first.pack == place.pack && first.offset + len == place.offset =>
            {
                Some((first, len + u64::from(place.len)))
            }
            other => {
                line(other);
                Some((place, place.len.into()))
            }
        };
    }
    line(stretch);
    text
}

/// How a copied LUKS header is used, where there is one.
fn header_text(manifest: &Manifest) -> &'static str {
    if manifest.luks_headers().is_empty() {
        return "";
    }
    "#
# The files luks-UUID.header.age beside this text are the headers of the LUKS volumes, encrypted with
# age. They mend a volume of which nothing but the header is damaged, with the key that belongs to
# one of backup.luks_header_recipients (age's, or ssh's), as root:
#
#     (umask 077; age -d -i KEY luks-UUID.header.age > /dev/shm/header)
#     cryptsetup luksHeaderRestore --header-backup-file /dev/shm/header /dev/DEVICE
#     shred -u /dev/shm/header
#
# Never onto a volume that was made anew, as rr recover does: what is in it could not be read any
# more. A header opens its volume with the passphrases of its time, also with one that was changed.
"
}

/// What `RESTORE.txt` says: for people to read, and for `sh` to run.
pub fn restore_text(manifest: &Manifest) -> String {
    let Manifest { generation, node, rr, started, .. } = manifest;
    let trees = manifest.tree.join(" ");
    let headers = header_text(manifest);
    format!(
        r#"#!/bin/sh
# How to get the files of this backup without rr.
#
# Node:        {node}
# Generation:  {generation}, started {started}, written by rr {rr}
# Trees:       {trees}
#
# You need: sh, dd, zstd and tar, and the directory of the node (the one that holds packs/ and
# generations/). This text is a shell script. To unpack everything below /mnt:
#
#     sh generations/{generation}/RESTORE.txt /mnt
#
# To have the plain tar archive instead, or to look at it:
#
#     sh generations/{generation}/RESTORE.txt > node.tar
#     sh generations/{generation}/RESTORE.txt | tar tvf -
#
# What it does: each line of the file `recipe` beside this text names a pack, an offset and a
# length in bytes. These pieces, one after the other, are a zstd file; unpacked, it is a POSIX tar
# archive with paths relative to /. zstd checks every piece.
#
# Unpack as root, with GNU tar for all attributes. Where the old disks are gone: partition, make the
# filesystems and mount them below /mnt first; `layout.toml` beside this text says how they were
# (sizes in bytes, UUIDs, mount points). Afterwards install the boot loader: chroot /mnt, then
# grub-install and update-grub (Debian, Ubuntu), or grub2-install and grub2-mkconfig -o
# /boot/grub2/grub.cfg (Fedora, RHEL; with UEFI, efibootmgr instead of grub2-install).
{headers}
set -eu
case $0 in */*) here=${{0%/*}} ;; *) here=. ;; esac
node_dir=$here/../..

# Not every dd knows these flags; without them, tail and head do it.
direct=no
if dd if=/dev/null bs=1 iflag=skip_bytes,count_bytes skip=0 count=0 >/dev/null 2>&1; then
    direct=yes
fi

fail() {{
    echo "RESTORE: $1" >&2
    exit 1
}}

# Whether the last byte of each piece is there.
check() {{
    while read -r pack offset length; do
        [ -r "$node_dir/$pack" ] || fail "$pack is missing"
        last=$((offset + length - 1))
        case $(dd if="$node_dir/$pack" bs=1 skip="$last" count=1 2>&1 >/dev/null) in
            1+0*) ;;
            *) fail "$pack is truncated" ;;
        esac
    done < "$here/recipe"
}}

piece() {{
    if [ "$direct" = yes ]; then
        dd if="$1" bs=65536 iflag=skip_bytes,count_bytes skip="$2" count="$3" 2>/dev/null
    else
        tail -c "+$(($2 + 1))" "$1" | head -c "$3"
    fi
}}

stream() {{
    while read -r pack offset length; do
        piece "$node_dir/$pack" "$offset" "$length"
    done < "$here/recipe" | zstd -dc
}}

check
if [ $# -eq 0 ]; then
    stream
    exit
fi
# Each tar knows other options: only those that it accepts are used.
options=
for option in --numeric-owner --xattrs '--xattrs-include=*' --acls --warning=no-unknown-keyword; do
    if tar "$option" -cf /dev/null -C / --no-recursion . >/dev/null 2>&1; then
        options="$options $option"
    fi
done
set -f
# A shell tells only how the end of a pipe went: the beginning says it on its own.
# shellcheck disable=SC2086
said=$({{
    {{ stream && echo whole >&3; }} | tar -xpf - -C "$1" $options >&2 && echo unpacked >&3
}} 3>&1)
case $said in
    *whole*unpacked* | *unpacked*whole*) echo "restored below $1" >&2 ;;
    *whole*) fail "tar could not restore everything" ;;
    *) fail "the packs could not be read to their end" ;;
esac
"#
    )
}
