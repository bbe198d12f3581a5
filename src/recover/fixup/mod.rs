//! What a restored tree needs to boot on these disks.

pub mod efi;
pub mod fstab;
pub mod grub;
pub mod initramfs;
pub mod menu;
