//! INT 17h: the parallel ports of the BIOS data area (POST finds none on this board).

use crate::layout::{BDA, bda};
use crate::pc::Call;

/// INT 17h: AH=00h prints AL, 01h initialises, 02h asks for the status.
pub fn call(call: &mut Call<'_>) {
    let port = call.dx();
    let base = if port < 3 { call.pc.read16(BDA + bda::PARALLEL + 2 * u64::from(port)) } else { 0 };
    if base == 0 {
        // Time-out: nothing is there.
        call.set_ah(0x01);
        return;
    }
    match call.ah() {
        0x00 => {
            let character = call.al();
            call.pc.out8(base, character);
            let control = call.pc.in8(base + 2);
            call.pc.out8(base + 2, control | 0x01);
            call.pc.out8(base + 2, control & !0x01);
        }
        0x01 => {
            let control = call.pc.in8(base + 2);
            call.pc.out8(base + 2, control & !0x04);
            call.pc.out8(base + 2, control | 0x04);
        }
        0x02 => {}
        _ => return,
    }
    let status = call.pc.in8(base + 1);
    call.set_ah((status ^ 0x48) & 0xF8);
}
