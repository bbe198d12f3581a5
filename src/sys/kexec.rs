//! Loading a kernel that the running one hands the machine over to.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

/// Loads `kernel` with `initrd` and its command line, as kexec_file_load(2) does. Nothing changes until
/// the machine is rebooted by way of kexec.
///
/// # Errors
/// The running kernel can't, or may not: Secure Boot wants a signed one.
#[allow(unsafe_code)]
pub fn load(kernel: &File, initrd: &File, cmdline: &str) -> Result<()> {
    let cmdline = CString::new(cmdline).context("the kernel's command line holds a NUL byte")?;
    let bytes = cmdline.as_bytes_with_nul();
    let no_flags: libc::c_ulong = 0;
    // SAFETY: both descriptors are open, and the pointer and its length are those of `bytes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            bytes.len(),
            bytes.as_ptr(),
            no_flags,
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        Err(errno @ (Errno::EPERM | Errno::ENOSYS)) => bail!(
            "the running kernel does not load another one: {errno}\nhint: only root may; sysctl kernel.kexec_load_disabled is to be 0"
        ),
        Err(errno @ (Errno::ENODATA | Errno::EBADMSG | Errno::EKEYREJECTED)) => bail!(
            "the kernel of the rescue system is not signed by a key of this machine, and Secure Boot is on: {errno}"
        ),
        Err(errno) => Err(errno).context("loading the kernel of the rescue system"),
    }
}
