//! The lab of the tests: a virtual machine to boot things in. The scenarios of `tests/vm` drive whole
//! recoveries with it; no verb does.
//!
//! * [`machine`] what the machine is made of, and starting it
//! * [`vm`] a machine that runs: waiting, looking, typing, ending it
//! * [`qmp`] the protocol that QEMU is told things with
//! * [`agent`] running commands inside a guest that has the lab's agent
//! * [`pulse`] telling a machine that stands still from one that is slow
//!
//! A verdict comes as ordered tokens, one a line, over the virtio-serial port `rr.verdict`; the
//! console is only for people to read. Everything that the machine says is kept in files in its log
//! directory from power-on to the end. Software emulation is the default even where `/dev/kvm`
//! opens: nested KVM may run the firmware and then hang without a word in the kernel. To use
//! KVM all the same, set `RR_VM_ACCEL=kvm`.

pub mod agent;
pub mod machine;
pub mod pulse;
pub mod qmp;
pub mod vm;

pub use agent::Agent;
pub use machine::{Bus, DirectKernel, Disk, Machine, Segment, Wire};
pub use pulse::StandsStill;
pub use vm::Vm;
