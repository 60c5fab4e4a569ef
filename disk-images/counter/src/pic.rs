//! The two 8259A interrupt controllers and channel 0 of the 8254 timer.
//!
//! Lines 0-15 arrive at vectors 32-47. A line is opened when its driver is ready ([`unmask`]);
//! lines of PCI devices and of ACPI are level-triggered ([`unmask_level`]), the ISA lines
//! edge-triggered.

use crate::cpu::{in8, out8};
use crate::interrupts::FIRST_IRQ_VECTOR;

/// The timer's interrupt line.
pub const TIMER_LINE: u8 = 0;
/// The line of the first serial port.
pub const SERIAL_LINE: u8 = 4;
/// The line of the primary IDE channel.
pub const IDE_LINE: u8 = 14;
/// Timer interrupts a second.
pub const TICK_HZ: u32 = 100;

const CASCADE_LINE: u8 = 2;
const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xA0;
/// Edge/level control registers of the PIIX3 (datasheet 2.5.5).
const ELCR: u16 = 0x4D0;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
const PIT_HZ: u32 = 1_193_182;

/// Initializes both controllers with every line but the timer's closed, and starts the timer.
pub fn init() {
    for (port, vector, icw3) in
        [(MASTER, FIRST_IRQ_VECTOR, 1 << CASCADE_LINE), (SLAVE, FIRST_IRQ_VECTOR + 8, CASCADE_LINE)]
    {
        out8(port, 0x11); // ICW1: edge-triggered, cascaded, ICW4 follows
        out8(port + 1, vector); // ICW2
        out8(port + 1, icw3); // ICW3
        out8(port + 1, 0x01); // ICW4: 8086 mode, normal EOI
        out8(port + 1, 0xFF); // OCW1: all masked
    }
    unmask(CASCADE_LINE);

    let divisor = (PIT_HZ + TICK_HZ / 2) / TICK_HZ;
    out8(PIT_CONTROL, 0x34); // channel 0, low then high byte, mode 2 (rate generator)
    out8(PIT_CHANNEL_0, divisor as u8);
    out8(PIT_CHANNEL_0, (divisor >> 8) as u8);
    unmask(TIMER_LINE);
}

/// The command port of the controller that has `line`, and the line's bit there.
fn controller(line: u8) -> (u16, u8) {
    if line < 8 { (MASTER, 1 << line) } else { (SLAVE, 1 << (line - 8)) }
}

/// Closes `line`.
pub fn mask(line: u8) {
    let (port, bit) = controller(line);
    out8(port + 1, in8(port + 1) | bit);
}

/// Opens `line`.
pub fn unmask(line: u8) {
    let (port, bit) = controller(line);
    out8(port + 1, in8(port + 1) & !bit);
}

/// Makes `line` level-triggered and opens it.
pub fn unmask_level(line: u8) {
    let port = ELCR + u16::from(line / 8);
    out8(port, in8(port) | 1 << (line % 8));
    unmask(line);
}

/// Ends the interrupt of `line` (non-specific EOI; interrupts do not nest here).
pub fn end_of_interrupt(line: u8) {
    if line >= 8 {
        out8(SLAVE, 0x20);
    }
    out8(MASTER, 0x20);
}

/// Whether an interrupt of line 7 or 15 is one that went away before it was acknowledged (8259A,
/// "default IR7").
pub fn is_spurious(line: u8) -> bool {
    if line % 8 != 7 {
        return false;
    }
    let (port, bit) = controller(line);
    out8(port, 0x0B); // OCW3: the next read gives the in-service register
    let spurious = in8(port) & bit == 0;
    if spurious && line >= 8 {
        out8(MASTER, 0x20); // the master saw a real interrupt of its cascade line
    }
    spurious
}
