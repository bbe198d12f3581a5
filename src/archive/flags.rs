//! Inode flags (chattr) and the names that libarchive gives them in `SCHILY.fflags`.

/// Bit as in `linux/fs.h`, and name.
const FLAGS: &[(u32, &str)] = &[
    (0x0000_0001, "secdel"),
    (0x0000_0002, "undel"),
    (COMPRESS, "compress"),
    (0x0000_0008, "sync"),
    (IMMUTABLE, "schg"),
    (APPEND, "sappnd"),
    (0x0000_0040, "nodump"),
    (0x0000_0080, "noatime"),
    (0x0000_4000, "journal-data"),
    (0x0000_8000, "notail"),
    (0x0001_0000, "dirsync"),
    (0x0002_0000, "topdir"),
    (NOCOW, "nocow"),
    (PROJECT, "projinherit"),
];

/// Bit as in `linux/fs.h`, and what is lost of those that have it: it takes more than a flag to make it.
const NOT_KEPT: &[(u32, &str)] = &[
    (0x0000_0800, "files were encrypted by their filesystem, their plain content is in the backup"),
    (0x0010_0000, "files were sealed by fs-verity, the backup has no seals"),
    (0x0200_0000, "files were for direct access (DAX), the backup does not say so"),
    (0x4000_0000, "directories took A for a (casefold), those in the backup do not"),
];

/// What is made in a directory belongs to the directory's project.
pub const PROJECT: u32 = 0x2000_0000;
pub const IMMUTABLE: u32 = 0x10;
pub const APPEND: u32 = 0x20;
/// What is made in a directory that has them has them, too (but [`PROJECT`], which is more than a
/// flag): on ext4 as `EXT4_FL_INHERITED` says, fewer on others.
pub const INHERITED: u32 = 0x0081_c0cb | COMPRESS;
/// On btrfs an attribute says how.
pub const COMPRESS: u32 = 0x4;
/// On btrfs this can be set only while a file is empty.
pub const NOCOW: u32 = 0x0080_0000;

/// The flags that somebody set, without those that tell how a filesystem stores the file.
pub fn settable(flags: u32) -> u32 {
    FLAGS.iter().map(|(bit, _)| flags & bit).sum()
}

/// What of a file's flags can't come back, in words about all files that have them.
pub fn not_kept(flags: u32) -> impl Iterator<Item = &'static str> {
    NOT_KEPT.iter().filter(move |(bit, _)| flags & bit != 0).map(|(_, what)| *what)
}

/// `schg,nodump`
pub fn to_text(flags: u32) -> String {
    let names: Vec<_> =
        FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    names.join(",")
}

/// Names that are not known are passed over: other systems have other flags.
pub fn from_text(text: &str) -> u32 {
    FLAGS.iter().filter(|(_, name)| text.split(',').any(|t| t == *name)).map(|(bit, _)| bit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_survive_the_text_form() {
        let all: u32 = FLAGS.iter().map(|(bit, _)| bit).sum();
        assert_eq!(from_text(&to_text(all)), all);
        assert_eq!(to_text(IMMUTABLE | 0x40), "schg,nodump");
        assert_eq!(from_text("schg,uarch"), IMMUTABLE);
        assert_eq!(not_kept(IMMUTABLE).count(), 0);
        assert!(
            not_kept(0x0010_0001).eq(["files were sealed by fs-verity, the backup has no seals"])
        );
        assert_eq!(settable(0x0008_0000 | APPEND), APPEND, "extents are no choice of anybody");
    }
}
