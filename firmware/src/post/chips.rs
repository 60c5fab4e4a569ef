//! The chips of the ISA side: interrupt controllers, timer, CMOS, keyboard controller, serial
//! ports.

use crate::layout::{EBDA, bda};
use crate::pc::Pc;

const PIC1: u16 = 0x20;
const PIC2: u16 = 0xA0;
const ELCR: u16 = 0x4D0;

/// Masks every interrupt of both controllers.
pub fn mask_all(pc: &mut Pc<'_>) {
    pc.out8(PIC1 + 1, 0xFF);
    pc.out8(PIC2 + 1, 0xFF);
}

/// Initialises both 8259A for vectors 08h and 70h, PCI interrupts level-triggered, and unmasks
/// timer, keyboard, cascade and disks (Intel 8259A, "Initialization Command Words").
pub fn init_interrupts(pc: &mut Pc<'_>) {
    for (base, vector, cascade) in [(PIC1, 0x08, 0x04), (PIC2, 0x70, 0x02)] {
        pc.out8(base, 0x11);
        pc.out8(base + 1, vector);
        pc.out8(base + 1, cascade);
        pc.out8(base + 1, 0x01);
    }
    let level = super::pci::PIRQ_LINES.iter().chain(&[super::pci::SCI]);
    let level = level.fold(0u16, |lines, &line| lines | 1 << line);
    let [low, high] = level.to_le_bytes();
    pc.out8(ELCR, low);
    pc.out8(ELCR + 1, high);
    pc.out8(PIC1 + 1, 0xB8);
    pc.out8(PIC2 + 1, 0x2F);
}

/// Virtual wire mode: the local APIC passes the 8259s' INTR on from LINT0 and NMI from LINT1
/// (MultiProcessor specification 1.4, 3.6.2.2).
pub fn init_local_apic(pc: &mut Pc<'_>) {
    const BASE: u64 = 0xFEE0_0000;
    let spurious = pc.mmio_read32(BASE + 0xF0);
    pc.mmio_write32(BASE + 0xF0, spurious & !0xFF | 0x1FF);
    pc.mmio_write32(BASE + 0x350, 0x0000_0700);
    pc.mmio_write32(BASE + 0x360, 0x0000_0400);
}

/// Unmasks one line.
pub fn unmask(pc: &mut Pc<'_>, irq: u8) {
    let port = if irq < 8 { PIC1 + 1 } else { PIC2 + 1 };
    let mask = pc.in8(port) & !(1 << (irq & 7));
    pc.out8(port, mask);
}

/// Non-specific end of interrupt to the first controller, and before it to the second.
pub fn end_of_interrupt(pc: &mut Pc<'_>, second: bool) {
    if second {
        pc.out8(PIC2, 0x20);
    }
    pc.out8(PIC1, 0x20);
}

/// An interrupt without a handler: if it is in service and not spurious, mask and end it.
pub fn stray_irq(pc: &mut Pc<'_>, second: bool) {
    let base = if second { PIC2 } else { PIC1 };
    pc.out8(base, 0x0B);
    let in_service = pc.in8(base);
    if in_service != 0 {
        let highest = in_service & in_service.wrapping_neg();
        let keep = if second { 0 } else { 0x04 };
        let mask = pc.in8(base + 1) | (highest & !keep);
        pc.out8(base + 1, mask);
        pc.out8(base, 0x20);
    }
    if second {
        pc.out8(PIC1, 0x20);
    }
}

/// PIT channel 0 at 18.2 Hz (mode 3, count 65536), channel 1 as for refresh, speaker off.
pub fn init_timer(pc: &mut Pc<'_>) {
    pc.out8(0x43, 0x36);
    pc.out8(0x40, 0);
    pc.out8(0x40, 0);
    pc.out8(0x43, 0x54);
    pc.out8(0x41, 18);
    let speaker = pc.in8(0x61) & !0x03;
    pc.out8(0x61, speaker);
}

/// RTC running in 24-hour BCD mode, and the equipment that CMOS reports (MC146818A; RBIL CMOS.LST).
pub fn init_cmos(pc: &mut Pc<'_>) {
    pc.set_cmos(0x0A, 0x26);
    pc.set_cmos(0x0B, 0x02);
    pc.cmos(0x0C);
    pc.cmos(0x0D);
    pc.set_cmos(0x0E, 0);
    let low = pc.low_ram();
    let extended_kib = ((low.max(1 << 20) - (1 << 20)) / 1024).min(0xFFFF) as u16;
    let above_16m = ((low.max(16 << 20) - (16 << 20)) >> 16).min(0xFFFF) as u16;
    let base_kib = (EBDA / 1024 + 1) as u16;
    let high = ((pc.ram.size() - low) >> 16) as u32;
    let word = |value: u16| value.to_le_bytes();
    for (register, value) in [
        (0x10, 0),
        (0x12, 0),
        (0x14, 0x06),
        (0x15, word(base_kib)[0]),
        (0x16, word(base_kib)[1]),
        (0x17, word(extended_kib)[0]),
        (0x18, word(extended_kib)[1]),
        (0x30, word(extended_kib)[0]),
        (0x31, word(extended_kib)[1]),
        (0x34, word(above_16m)[0]),
        (0x35, word(above_16m)[1]),
        (0x5B, high.to_le_bytes()[0]),
        (0x5C, high.to_le_bytes()[1]),
        (0x5D, high.to_le_bytes()[2]),
    ] {
        pc.set_cmos(register, value);
    }
    let sum = (0x10..0x2E).fold(0u16, |sum, register| sum + u16::from(pc.cmos(register)));
    pc.set_cmos(0x2E, sum.to_be_bytes()[0]);
    pc.set_cmos(0x2F, sum.to_be_bytes()[1]);
}

/// 8042: self-test, scan-code translation and IRQ 1 on, keyboard and mouse ports enabled, keyboard
/// scanning.
pub fn init_keyboard(pc: &mut Pc<'_>) {
    drain_keyboard(pc);
    keyboard_command(pc, 0xAD);
    keyboard_command(pc, 0xA7);
    drain_keyboard(pc);
    keyboard_command(pc, 0xAA);
    drain_keyboard(pc);
    keyboard_command(pc, 0x60);
    keyboard_data(pc, 0x74); // no interrupts yet, both ports off, translation
    keyboard_command(pc, 0xAE);
    keyboard_data(pc, 0xFF); // reset: ACK, BAT ok
    drain_keyboard(pc);
    keyboard_data(pc, 0xF4); // scan
    drain_keyboard(pc);
    keyboard_command(pc, 0x60);
    keyboard_data(pc, 0x65); // IRQ 1, mouse port off, translation
    pc.set_bda8(bda::KEY_LEDS, 0x10);
}

/// Writes a command to the keyboard controller when it takes one.
pub fn keyboard_command(pc: &mut Pc<'_>, command: u8) {
    if keyboard_ready(pc) {
        pc.out8(0x64, command);
    }
}

/// Writes a byte to the keyboard (or the controller's parameter).
pub fn keyboard_data(pc: &mut Pc<'_>, data: u8) {
    if keyboard_ready(pc) {
        pc.out8(0x60, data);
    }
}

/// Reads a byte from the controller if there is one.
pub fn keyboard_byte(pc: &mut Pc<'_>) -> Option<u8> {
    let status = pc.in8(0x64);
    (status != 0xFF && status & 0x01 != 0).then(|| pc.in8(0x60))
}

fn keyboard_ready(pc: &mut Pc<'_>) -> bool {
    pc.in8(0x64) & 0x02 == 0
}

/// Reads and forgets what the controller holds.
fn drain_keyboard(pc: &mut Pc<'_>) {
    for _ in 0..32 {
        if keyboard_byte(pc).is_none() {
            break;
        }
    }
}

/// Enters the 16550s that answer into the BIOS data area, 9600 baud 8N1.
pub fn find_serial_ports(pc: &mut Pc<'_>) {
    let mut found = 0;
    for base in [0x3F8, 0x2F8, 0x3E8, 0x2E8] {
        if !serial_answers(pc, base) {
            continue;
        }
        pc.out8(base + 3, 0x83);
        pc.out8(base, 12);
        pc.out8(base + 1, 0);
        pc.out8(base + 3, 0x03);
        pc.out8(base + 1, 0);
        pc.set_bda16(bda::SERIAL + 2 * found, base);
        found += 1;
    }
    let equipment = pc.bda16(bda::EQUIPMENT) & !0x0E00 | (found as u16) << 9;
    pc.set_bda16(bda::EQUIPMENT, equipment);
}

/// Whether a UART stands at `base`: its scratch register keeps what is written.
pub fn serial_answers(pc: &mut Pc<'_>, base: u16) -> bool {
    let saved = pc.in8(base + 7);
    let keeps = [0x55, 0xAA].into_iter().all(|pattern| {
        pc.out8(base + 7, pattern);
        pc.in8(base + 7) == pattern
    });
    pc.out8(base + 7, saved);
    keeps
}
