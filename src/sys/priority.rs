//! How much this process insists when others want the processor or the disks too.

use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoClass {
    LowestBestEffort,
    Idle,
}

/// Of this thread, and of the threads and programs that it starts from now on.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    #[allow(unsafe_code)]
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// As [`set_nice`]: `linux/ioprio.h`, which libc does not have.
pub fn set_io_class(class: IoClass) -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    const CLASS_SHIFT: u32 = 13;
    let priority: libc::c_long = match class {
        IoClass::LowestBestEffort => 2 << CLASS_SHIFT | 7,
        IoClass::Idle => 3 << CLASS_SHIFT,
    };
    // SAFETY: the call takes numbers only.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
