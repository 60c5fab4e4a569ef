//! INT 15h AH=C2h and IRQ 12: the PS/2 mouse.
//!
//! Contract: the user's handler is called by the IRQ stub with status, x, y and zero on the stack.
//! IBM PS/2 BIOS interface reference, INT 15h AH=C2h.

use crate::layout::{EBDA, ebda};
use crate::pc::{Call, Pc};
use crate::post::chips;

/// Offsets in the mouse record.
const ENABLED: u64 = 0;
const INDEX: u64 = 1;
const HANDLER: u64 = 4;
const PACKET: u64 = 8;
/// Bytes of a packet.
const PACKET_SIZE: u8 = 3;

const OK: u8 = 0x00;
const INVALID_FUNCTION: u8 = 0x01;
const INVALID_INPUT: u8 = 0x02;
const INTERFACE_ERROR: u8 = 0x03;
const NO_HANDLER: u8 = 0x05;

fn field(offset: u64) -> u64 {
    EBDA + ebda::MOUSE + offset
}

/// IRQ 12: takes a byte; true when a packet is complete and the stub must call the handler (the
/// stub then ends the interrupt in either case).
pub fn interrupt(pc: &mut Pc<'_>) -> bool {
    let status = pc.in8(0x64);
    if status & 0x21 != 0x21 {
        return false;
    }
    let byte = pc.in8(0x60);
    if pc.read8(field(ENABLED)) == 0 {
        return false;
    }
    let index = pc.read8(field(INDEX));
    // The first byte of a packet has bit 3 set: anything else is out of step.
    if index >= PACKET_SIZE || index == 0 && byte & 0x08 == 0 {
        pc.write8(field(INDEX), 0);
        return false;
    }
    pc.write16(field(PACKET) + 2 * u64::from(index), byte.into());
    let complete = index + 1 == PACKET_SIZE;
    pc.write8(field(INDEX), if complete { 0 } else { index + 1 });
    complete && pc.read32(field(HANDLER)) != 0
}

/// Sends a byte to the mouse and reads its answers; `false` unless it acknowledges.
fn command(pc: &mut Pc<'_>, byte: u8, answer: &mut [u8]) -> bool {
    chips::keyboard_command(pc, 0xD4);
    chips::keyboard_data(pc, byte);
    if mouse_byte(pc) != Some(0xFA) {
        return false;
    }
    answer.iter_mut().all(|byte| mouse_byte(pc).map(|read| *byte = read).is_some())
}

fn mouse_byte(pc: &mut Pc<'_>) -> Option<u8> {
    (pc.in8(0x64) & 0x21 == 0x21).then(|| pc.in8(0x60))
}

/// Turns the mouse port and IRQ 12 on or off in the controller's command byte.
fn set_port(pc: &mut Pc<'_>, on: bool) {
    chips::keyboard_command(pc, 0x20);
    let Some(byte) = chips::keyboard_byte(pc) else { return };
    let byte = if on { byte & !0x20 | 0x02 } else { byte & !0x02 | 0x20 };
    chips::keyboard_command(pc, 0x60);
    chips::keyboard_data(pc, byte);
}

/// INT 15h AH=C2h.
pub fn call(call: &mut Call<'_>) {
    let (bh, _) = call.bh_bl();
    let pc = &mut call.pc;
    let mut answer = [0; 3];
    let status = match call.ax as u8 {
        0x00 if bh > 1 => INVALID_INPUT,
        0x00 if bh == 1 && pc.read32(field(HANDLER)) == 0 => NO_HANDLER,
        0x00 => {
            set_port(pc, true);
            let done = command(pc, if bh == 1 { 0xF4 } else { 0xF5 }, &mut []);
            pc.write8(field(ENABLED), bh);
            pc.write8(field(INDEX), 0);
            result(done)
        }
        0x01 | 0x05 => {
            if call.ax as u8 == 0x05 && bh != PACKET_SIZE {
                INVALID_INPUT
            } else {
                pc.write8(field(ENABLED), 0);
                pc.write8(field(INDEX), 0);
                set_port(pc, true);
                let done = command(pc, 0xFF, &mut answer[..2]);
                call.set_bx(u16::from(answer[1]) << 8 | u16::from(answer[0]));
                result(done)
            }
        }
        0x02 => match [10, 20, 40, 60, 80, 100, 200].get(usize::from(bh)) {
            Some(&rate) => result(command(pc, 0xF3, &mut []) && command(pc, rate, &mut [])),
            None => INVALID_INPUT,
        },
        0x03 if bh > 3 => INVALID_INPUT,
        0x03 => result(command(pc, 0xE8, &mut []) && command(pc, bh, &mut [])),
        0x04 => {
            let done = command(pc, 0xF2, &mut answer[..1]);
            call.set_bx(call.bx() & 0xFF | u16::from(answer[0]) << 8);
            result(done)
        }
        0x06 => extended(call, bh),
        0x07 => {
            let handler = u32::from(call.es()) << 16 | u32::from(call.bx());
            call.pc.write32(field(HANDLER), handler);
            OK
        }
        _ => INVALID_FUNCTION,
    };
    call.set_ah(status);
    call.set_cf(status != OK);
}

/// AL=06h: status, or scaling 1:1 and 2:1.
fn extended(call: &mut Call<'_>, bh: u8) -> u8 {
    let mut answer = [0; 3];
    match bh {
        0 => {
            let done = command(&mut call.pc, 0xE9, &mut answer);
            call.set_bx(call.bx() & 0xFF00 | u16::from(answer[0]));
            call.set_cx(answer[1].into());
            call.set_dx(answer[2].into());
            result(done)
        }
        1 => result(command(&mut call.pc, 0xE6, &mut [])),
        2 => result(command(&mut call.pc, 0xE7, &mut [])),
        _ => INVALID_INPUT,
    }
}

fn result(done: bool) -> u8 {
    if done { OK } else { INTERFACE_ERROR }
}
