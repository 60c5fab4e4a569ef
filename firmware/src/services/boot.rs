//! INT 19h and 18h: the kernel that was loaded at power-on, or the first disk with a boot sector.

use super::drive::Drive;
use super::transfer::{self, Operation, Progress};
use super::video;
use crate::Registers;
use crate::direct_boot;
use crate::layout::{BIOS_SEGMENT, bda, ebda};
use crate::pc::{IF, Pc, iret_to, set_carry};
use crate::rom;

/// Where a boot sector is loaded and entered.
const BOOT_SECTOR: u16 = 0x7C00;

/// INT 19h: ends with the stub's IRET into what was found.
pub fn boot(pc: &mut Pc<'_>, registers: &mut Registers, again: bool) {
    set_carry(registers, false);
    if !again {
        if pc.ebda8(ebda::DIRECT_BOOT) == 1 {
            direct_boot::enter(pc, registers);
            return;
        }
        pc.set_ebda8(ebda::BOOT_DRIVE, 0x80);
    }
    let mut progress = again.then(|| transfer::poll(pc));
    loop {
        let number = pc.ebda8(ebda::BOOT_DRIVE);
        let Some(drive) = Drive::by_number(pc, number) else {
            let (_, bodies) = rom::build();
            let failed = (BIOS_SEGMENT, bodies.boot_failed);
            iret_to(pc, registers, (0, BOOT_SECTOR), failed, 0x0002);
            return;
        };
        let read = progress.take().unwrap_or_else(|| {
            transfer::start(pc, &drive, Operation::Read, 0, 1, BOOT_SECTOR.into())
        });
        match read {
            Progress::Waiting => {
                set_carry(registers, true);
                return;
            }
            Progress::Done if pc.read16(u64::from(BOOT_SECTOR) + 510) == 0xAA55 => {
                enter(pc, registers, number);
                return;
            }
            _ => pc.set_ebda8(ebda::BOOT_DRIVE, number.saturating_add(1)),
        }
    }
}

/// Enters the boot sector with the drive in DL.
fn enter(pc: &mut Pc<'_>, registers: &mut Registers, number: u8) {
    video::print(pc, b"Booting from hard disk\r\n");
    registers.gpr = [0; 8];
    registers.gpr[2] = number.into();
    for segment in [0, 2, 3, 4, 5] {
        registers.segments[segment] = 0;
    }
    iret_to(pc, registers, (0, BOOT_SECTOR), (0, BOOT_SECTOR), IF | 0x0002);
}

/// INT 06h: a bare IRET would meet the instruction again for ever, so this says where it is, and
/// the stub halts.
pub fn invalid_opcode(pc: &mut Pc<'_>, registers: &Registers) {
    let (stack, sp) = (registers.segments[2], registers.gpr[4] as u16);
    let [ip, cs] = [0, 2].map(|offset| {
        let at = pc.linear(stack, sp.wrapping_add(offset));
        pc.read16(at)
    });
    let text = alloc::format!("Invalid instruction at {cs:04X}:{ip:04X}: halted\r\n");
    say(pc, text.as_bytes());
}

/// Says why nothing goes on: on the screen, and for machines without one on the first serial port.
fn say(pc: &mut Pc<'_>, text: &[u8]) {
    video::print(pc, text);
    let port = pc.bda16(bda::SERIAL);
    if port != 0 {
        text.iter().for_each(|&byte| pc.out8(port, byte));
    }
}

/// INT 18h: the stub halts after this.
pub fn failed(pc: &mut Pc<'_>) {
    say(pc, b"No bootable disk: halted\r\n");
}
