//! The BIOS: ROM image, tables and services. Pure: no clock, file, thread or randomness.
//!
//! The ROM holds small real-mode stubs; each stub writes to [`SERVICE_PORT`], and the CPU then calls [`service`] with
//! its registers. All state of the firmware lives in guest memory (BIOS data area, EBDA, ROM shadow), so that a
//! snapshot of the machine holds it.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

use alloc::vec::Vec;
use devices::board::Board;
use devices::ram::Ram;
use devices::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// An OUT of AL to this port asks for a service.
pub const SERVICE_PORT: u16 = 0x0B5;

/// The CPU's registers as a service sees and changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI.
    pub gpr: [u64; 8],
    /// Selectors ES, CS, SS, DS, FS, GS. In real mode a changed selector is loaded with base = selector * 16.
    pub segments: [u16; 6],
    /// Address after the OUT.
    pub ip: u64,
    /// RFLAGS.
    pub flags: u64,
    /// CR0.PE clear (or virtual-8086 mode): addresses are selector * 16 + offset.
    pub real_mode: bool,
}

/// What to boot besides disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectBoot {
    /// A bzImage.
    pub kernel: Vec<u8>,
    /// The initial RAM disk; may be empty.
    pub initrd: Vec<u8>,
    /// Kernel command line.
    pub append: Vec<u8>,
}

/// The ROM image that stands at the end of the 4-GiB space.
pub fn rom() -> Vec<u8> {
    alloc::vec![0xFF; 1 << 17]
}

/// Prepares RAM at power-on and at reset (tables, kernel), before the first instruction.
pub fn power_on(_ram: &mut Ram, _board: &mut Board, _boot: Option<&DirectBoot>) {}

/// Carries out the service that a stub asked for by writing `al` to [`SERVICE_PORT`].
pub fn service(
    _number: u8,
    _registers: &mut Registers,
    _ram: &mut Ram,
    _board: &mut Board,
    _now: VirtualNs,
) {
}
