//! Power-on self test: chips, PCI, vectors, data areas, disks, tables.
//!
//! Contract: short (no memory test, no delay loop); it waits for a disk only while the disk is
//! busy.

pub mod chips;
pub mod ide;
pub mod pci;
mod vectors;

use crate::Registers;
use crate::layout::ebda;
use crate::pc::{Pc, Status, set_carry};
use crate::services::{clock, video};
use crate::tables;

/// CMOS register of the shutdown code.
const SHUTDOWN: u8 = 0x0F;
/// PIIX reset control register.
const RESET_CONTROL: u16 = 0xCF9;

/// The CPU came out of reset: after INIT, CMOS 0Fh may ask for a jump to the address at 40:67
/// (codes 5, 9 and Ah; IBM PC AT technical reference). Answers with CF set for that. Any other way
/// here on a running machine is a reboot, which goes by a hard reset: only that places a kernel of
/// a direct boot again.
pub fn reset(pc: &mut Pc<'_>, registers: &mut Registers) {
    let code = pc.cmos(SHUTDOWN);
    let running = pc.ebda8(ebda::POST_STAGE) == ide::STAGES;
    let resume = running && matches!(code, 0x05 | 0x09 | 0x0A);
    pc.set_cmos(SHUTDOWN, 0);
    if code == 0x05 && resume {
        chips::end_of_interrupt(pc, true);
    }
    if running && !resume {
        pc.out8(RESET_CONTROL, 0x02);
        pc.out8(RESET_CONTROL, 0x06);
    }
    set_carry(registers, resume);
}

/// Runs POST as far as it goes without waiting.
pub fn run(pc: &mut Pc<'_>, again: bool) -> Status {
    if pc.board.has_signal() {
        return Status::Wait;
    }
    if !again {
        begin(pc);
    }
    if ide::detect(pc) == Status::Wait {
        return Status::Wait;
    }
    finish(pc);
    Status::Done
}

fn begin(pc: &mut Pc<'_>) {
    vectors::install(pc);
    chips::mask_all(pc);
    pci::enumerate(pc);
    chips::init_interrupts(pc);
    chips::init_local_apic(pc);
    chips::init_timer(pc);
    chips::init_cmos(pc);
    vectors::init_data_area(pc);
    chips::init_keyboard(pc);
    chips::find_serial_ports(pc);
    video::set_mode(pc, 3, true);
    clock::set_ticks_from_rtc(pc);
    pc.set_ebda8(ebda::POST_STAGE, 0);
    ide::reset(pc);
}

fn finish(pc: &mut Pc<'_>) {
    tables::install(pc);
    video::print(pc, b"ftemu BIOS\r\n");
    ide::announce(pc);
}
