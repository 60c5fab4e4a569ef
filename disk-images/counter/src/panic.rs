//! What happens when the guest cannot go on: say why on the serial port and the screen, leave, or
//! halt.

use crate::serial::Unqueued;
use crate::{cpu, vga};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

/// The port of isa-debug-exit; the emulator then ends with status (0x31 << 1) | 1 = 99.
const DEBUG_EXIT: u16 = 0xF4;
const DEBUG_EXIT_PANIC: u8 = 0x31;

/// Text cut to fit the screen, without the heap.
struct ScreenText {
    bytes: [u8; 4 * vga::COLUMNS],
    len: usize,
}

impl Write for ScreenText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(self.bytes.len() - self.len) {
            self.bytes[self.len] = if byte.is_ascii_graphic() { byte } else { b' ' };
            self.len += 1;
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = write!(Unqueued, "\r\ncounter: panic: {info}\r\n");
    let mut text = ScreenText { bytes: [0; 4 * vga::COLUMNS], len: 0 };
    let _ = write!(text, "counter: panic: {info}");
    for (row, line) in text.bytes[..text.len].chunks(vga::COLUMNS).enumerate() {
        vga::write_row(vga::ROWS - 4 + row, vga::ALARM, str::from_utf8(line).unwrap_or("?"));
    }
    cpu::out8(DEBUG_EXIT, DEBUG_EXIT_PANIC);
    cpu::halt_forever()
}

/// Referred to by landing pads in the precompiled `alloc`, which nothing jumps to: a panic never
/// unwinds here.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding")
}
