//! The BIOS: ROM image, tables and services. Pure: no clock, file, thread or randomness.
//!
//! The ROM holds small real-mode stubs; each stub writes to [`SERVICE_PORT`], and the CPU then
//! calls [`service`] with its registers. All state of the firmware lives in guest memory (BIOS data
//! area, EBDA, ROM shadow), so that a snapshot of the machine holds it.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod direct_boot;
mod layout;
mod pc;
mod post;
mod rom;
mod services;
mod tables;

use alloc::vec::Vec;
use devices::board::Board;
use devices::ram::Ram;
use devices::time::VirtualNs;
pub use direct_boot::BootError;
use layout::{AGAIN, BIOS_SEGMENT, Service};
use pc::{Call, Pc, Status, set_carry};
use serde::{Deserialize, Serialize};

/// An OUT of AL to this port asks for a service.
pub const SERVICE_PORT: u16 = 0x0B5;

/// The CPU's registers as a service sees and changes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI.
    pub gpr: [u64; 8],
    /// Selectors ES, CS, SS, DS, FS, GS. In real mode a changed selector is loaded with base =
    /// selector * 16.
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
    rom::build().0
}

/// Prepares RAM at power-on and at reset, before the first instruction: shadows the ROM, clears
/// the firmware's data areas and places the kernel of a direct boot.
///
/// # Errors
/// A kernel, initial RAM disk or command line that cannot be booted in this much memory.
pub fn power_on(
    ram: &mut Ram,
    _board: &mut Board,
    boot: Option<&DirectBoot>,
) -> Result<(), BootError> {
    ram.shadow_rom();
    let size = layout::EBDA_SIZE as u16 / 1024;
    ram.dma_write(layout::EBDA, &[0; layout::EBDA_SIZE]);
    ram.dma_write(layout::EBDA + layout::ebda::SIZE_KIB, &size.to_le_bytes());
    if let Some(boot) = boot {
        direct_boot::load(ram, boot)?;
        ram.dma_write(layout::EBDA + layout::ebda::DIRECT_BOOT, &[1]);
    }
    Ok(())
}

/// Carries out the service that a stub asked for by writing `number` to [`SERVICE_PORT`]. A write
/// that does not come from the ROM's code does nothing.
pub fn service(
    number: u8,
    registers: &mut Registers,
    ram: &mut Ram,
    board: &mut Board,
    now: VirtualNs,
) {
    let Some(service) = Service::from_number(number & !AGAIN) else { return };
    let again = number & AGAIN != 0;
    let mut pc = Pc { ram, board, now };
    if !registers.real_mode {
        services::pci_bios::flat(service, &mut pc, registers);
        return;
    }
    if registers.segments[1] != BIOS_SEGMENT && registers.segments[1] != 0xFFFF {
        return;
    }
    match service {
        Service::Reset => post::reset(&mut pc, registers),
        Service::Post => set_carry(registers, post::run(&mut pc, again) == Status::Wait),
        Service::Boot => services::boot::boot(&mut pc, registers, again),
        Service::BootFailed => services::boot::failed(&mut pc),
        Service::InvalidOpcode => services::boot::invalid_opcode(&mut pc, registers),
        Service::Tick => services::clock::tick(&mut pc),
        Service::RtcInterrupt => {
            let alarm = services::clock::rtc_interrupt(&mut pc);
            set_carry(registers, alarm);
        }
        Service::Key => {
            let scan = (registers.gpr[0] >> 8) as u8;
            let break_pressed = services::keyboard::interrupt(&mut pc, scan);
            set_carry(registers, break_pressed);
        }
        Service::MouseInterrupt => {
            let packet = services::mouse::interrupt(&mut pc);
            set_carry(registers, packet);
        }
        Service::DiskInterrupt => services::disk::interrupt(&mut pc, 0),
        Service::DiskInterrupt2 => services::disk::interrupt(&mut pc, 1),
        Service::StrayIrq => post::chips::stray_irq(&mut pc, false),
        Service::StrayIrq2 => post::chips::stray_irq(&mut pc, true),
        Service::Bios32 | Service::Pci32 => {}
        _ => call(service, Call::new(pc, registers, again)),
    }
}

/// The INT calls: work on the caller's registers.
fn call(service: Service, mut call: Call<'_>) {
    let mut status = Status::Done;
    match service {
        Service::Video => services::video::call(&mut call),
        Service::Equipment => call.ax = call.pc.bda16(layout::bda::EQUIPMENT),
        Service::MemorySize => call.ax = call.pc.bda16(layout::bda::MEMORY_KIB),
        Service::Disk => status = services::disk::call(&mut call),
        Service::Serial => status = services::serial::call(&mut call),
        Service::System => status = services::system::call(&mut call),
        Service::Keyboard => status = services::keyboard::call(&mut call),
        Service::Printer => services::printer::call(&mut call),
        _ => services::clock::call(&mut call),
    }
    call.finish(status);
}
