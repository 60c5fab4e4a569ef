//! Interrupt vectors and the BIOS data area.

use crate::layout::{BDA, BIOS_SEGMENT, EBDA, EBDA_SEGMENT, IVT, bda, ebda};
use crate::pc::Pc;
use crate::rom::{self, entry};
use alloc::vec;

/// Writes the interrupt vector table.
pub fn install(pc: &mut Pc<'_>) {
    let (_, bodies) = rom::build();
    let mut offsets = vec![entry::IRET; 0x78];
    for (vector, offset) in [
        (0x02, entry::NMI),
        (0x06, bodies.invalid_opcode),
        (0x08, entry::TICK),
        (0x09, entry::KEY),
        (0x0E, entry::DISKETTE_IRQ),
        (0x10, entry::VIDEO),
        (0x11, entry::EQUIPMENT),
        (0x12, entry::MEMORY_SIZE),
        (0x13, entry::DISK),
        (0x14, entry::SERIAL),
        (0x15, entry::SYSTEM),
        (0x16, entry::KEYBOARD),
        (0x17, entry::PRINTER),
        (0x18, bodies.boot_failed),
        (0x19, entry::BOOT),
        (0x1A, entry::TIME),
        (0x1D, entry::VIDEO_TABLE),
        (0x1E, entry::DISKETTE_TABLE),
        (0x40, entry::IRET),
        (0x42, entry::VIDEO),
        (0x43, entry::FONT),
        (0x70, bodies.rtc_irq),
        (0x74, bodies.mouse_irq),
        (0x76, bodies.disk_irq),
        (0x77, bodies.disk_irq2),
    ] {
        offsets[vector] = offset;
    }
    for vector in [0x0A, 0x0B, 0x0C, 0x0D, 0x0F] {
        offsets[vector] = bodies.stray_irq;
    }
    for vector in [0x71, 0x72, 0x73, 0x75] {
        offsets[vector] = bodies.stray_irq2;
    }
    for (vector, offset) in offsets.into_iter().enumerate() {
        set(pc, vector as u64, BIOS_SEGMENT, offset);
    }
    // 60h-67h belong to the user, 1Fh and 44h to fonts of which there are none.
    for vector in (0x60..0x68).chain([0x1F, 0x44]) {
        set(pc, vector, 0, 0);
    }
    for (vector, drive) in [(0x41, 0), (0x46, 1)] {
        set(pc, vector, EBDA_SEGMENT, ebda::DISK_PARAMETERS as u16 + drive * 16);
    }
}

fn set(pc: &mut Pc<'_>, vector: u64, segment: u16, offset: u16) {
    pc.write16(IVT + vector * 4, offset);
    pc.write16(IVT + vector * 4 + 2, segment);
}

/// Clears the BIOS data area and fills in what is known before the devices.
pub fn init_data_area(pc: &mut Pc<'_>) {
    pc.write(BDA, &[0; 0x100]);
    pc.set_bda16(bda::EBDA_SEGMENT, EBDA_SEGMENT);
    pc.set_bda16(bda::MEMORY_KIB, (EBDA / 1024) as u16);
    // Coprocessor, PS/2 mouse, 80x25 colour.
    pc.set_bda16(bda::EQUIPMENT, 0x0026);
    let buffer = bda::KEY_BUFFER as u16;
    for offset in [bda::KEY_HEAD, bda::KEY_TAIL, bda::KEY_START] {
        pc.set_bda16(offset, buffer);
    }
    pc.set_bda16(bda::KEY_END, buffer + 32);
    pc.set_bda8(bda::KEY_MODE, 0x10);
    for port in 0..4 {
        pc.set_bda8(bda::PARALLEL_TIMEOUT + port, 20);
        pc.set_bda8(bda::SERIAL_TIMEOUT + port, 10);
    }
}
