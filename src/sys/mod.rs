//! The only door out: external programs, mounts, devices, system calls.
//!
//! No other module starts a process or holds `unsafe`.
//!
//! * [`run`] external programs; [`child`] one that was started
//! * [`at_end`] programs that run whatever happens to this one
//! * [`blkid`] what is on which device
//! * [`secret`] what is given to programs and never shown
//! * [`tools`] the table of the programs that rr uses, and the packages they come in
//! * [`direct`] big files past the page cache
//! * [`fs`] files: attributes, flags, holes
//! * [`hook`] commands that the admin named
//! * [`inside`] paths in the tree of another system
//! * [`ioctl`] what block devices are asked
//! * [`kexec`] loading another kernel
//! * [`keymap`] what the keys of the console mean
//! * [`lock`] what one process at a time may do
//! * [`mount`] mounting, mount guards, `/proc/self/mountinfo`
//! * [`names`] the addresses of hosts
//! * [`priority`] letting others go first
//! * [`signals`] what is done when a signal ends this process
//! * [`sync`] what threads share
//! * [`udev`] waiting for and asking udev

pub mod at_end;
pub mod blkid;
mod child;
pub mod direct;
pub mod fs;
pub mod hook;
pub mod inside;
pub mod ioctl;
pub mod kexec;
pub mod keymap;
pub mod lock;
pub mod mount;
pub mod names;
pub mod priority;
pub mod run;
pub mod secret;
pub mod signals;
pub mod sync;
pub mod tools;
pub mod udev;
