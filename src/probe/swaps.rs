//! What is swapped to: `/proc/swaps`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::sys::mount::unescape_octal;

/// A line of `/proc/swaps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    pub path: PathBuf,
    /// A swap file, not a device.
    pub file: bool,
}

/// The swap areas in use; none where the kernel has no swap.
pub fn read() -> Vec<Active> {
    parse(&std::fs::read("/proc/swaps").unwrap_or_default())
}

/// Parses `/proc/swaps`.
pub fn parse(text: &[u8]) -> Vec<Active> {
    let lines = text.split(|b| *b == b'\n').skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let path = PathBuf::from(OsString::from_vec(unescape_octal(fields.next()?)));
            Some(Active { path, file: fields.next()? == b"file" })
        })
        .collect()
}
