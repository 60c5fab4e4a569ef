//! INT 14h: the serial ports of the BIOS data area.
//!
//! Contract: sending and receiving wait at most the time-out at 40:7C, counted in timer ticks.

use crate::layout::{BDA, EBDA, bda, ebda};
use crate::pc::{Call, Status};

/// Line status: data ready.
const DR: u8 = 0x01;
/// Line status: transmitter holding register empty.
const THRE: u8 = 0x20;
/// Bit 7 of the answer: time-out.
const TIMEOUT: u8 = 0x80;

/// INT 14h.
pub fn call(call: &mut Call<'_>) -> Status {
    let port = call.dx();
    let base = if port < 4 { call.pc.read16(BDA + bda::SERIAL + 2 * u64::from(port)) } else { 0 };
    if base == 0 {
        return Status::Done;
    }
    match call.ah() {
        0x00 => {
            initialise(call, base);
            status(call, base);
        }
        0x01 => {
            if call.pc.in8(base + 5) & THRE == 0 {
                return wait(call, base);
            }
            let character = call.al();
            call.pc.out8(base, character);
            let line = call.pc.in8(base + 5);
            call.set_ah(line & !TIMEOUT);
        }
        0x02 => {
            let line = call.pc.in8(base + 5);
            if line & DR == 0 {
                return wait(call, base);
            }
            let character = call.pc.in8(base);
            call.ax = u16::from(line & 0x1E) << 8 | u16::from(character);
        }
        0x03 => status(call, base),
        _ => {}
    }
    Status::Done
}

/// AH = line status, AL = modem status.
fn status(call: &mut Call<'_>, base: u16) {
    let (line, modem) = (call.pc.in8(base + 5), call.pc.in8(base + 6));
    call.ax = u16::from(line) << 8 | u16::from(modem);
}

/// AL: bits 7-5 speed, 4-3 parity, 2 stop bits, 1-0 length.
fn initialise(call: &mut Call<'_>, base: u16) {
    let parameters = call.al();
    let divisor: u16 = [1047, 768, 384, 192, 96, 48, 24, 12][usize::from(parameters >> 5)];
    call.pc.out8(base + 3, 0x80 | parameters & 0x1F);
    let [low, high] = divisor.to_le_bytes();
    call.pc.out8(base, low);
    call.pc.out8(base + 1, high);
    call.pc.out8(base + 3, parameters & 0x1F);
    call.pc.out8(base + 1, 0);
    call.pc.out8(base + 4, 0x03);
}

/// Waits, or gives up with bit 7 of AH set.
fn wait(call: &mut Call<'_>, base: u16) -> Status {
    let now = call.pc.bda32(bda::TICKS);
    if !call.again {
        call.pc.write32(EBDA + ebda::SERIAL_SINCE, now);
    }
    let since = call.pc.read32(EBDA + ebda::SERIAL_SINCE);
    let limit = call.pc.bda8(bda::SERIAL_TIMEOUT + u64::from(call.dx() & 3));
    if now.wrapping_sub(since) <= u32::from(limit) {
        return Status::Wait;
    }
    let line = call.pc.in8(base + 5);
    call.set_ah(line | TIMEOUT);
    Status::Done
}
