//! Where the firmware keeps things: fixed addresses of the PC, the EBDA, and the numbers of the
//! services.
//!
//! Contract: all state of the firmware lives at these addresses in guest memory. The guest can
//! overwrite it, so every reader checks what it reads.

/// Linear address of the interrupt vector table.
pub const IVT: u64 = 0;
/// Linear address of the BIOS data area.
pub const BDA: u64 = 0x400;
/// Segment of the extended BIOS data area.
pub const EBDA_SEGMENT: u16 = 0x9FC0;
/// Linear address of the extended BIOS data area.
pub const EBDA: u64 = 0x9FC00;
/// Size of the EBDA in bytes.
pub const EBDA_SIZE: usize = 1024;
/// Segment of the BIOS code.
pub const BIOS_SEGMENT: u16 = 0xF000;
/// Linear address of the BIOS segment.
pub const BIOS: u64 = 0xF_0000;
/// Bytes of RAM at the end of low memory that hold the ACPI tables.
pub const ACPI_RESERVED: u64 = 0x1_0000;
/// Machines with less RAM than this get no ACPI tables.
pub const ACPI_MIN_RAM: u64 = 4 << 20;

/// Offsets within the BIOS data area (IBM PC AT technical reference, section 5).
pub mod bda {
    /// Base ports of four serial ports.
    pub const SERIAL: u64 = 0x00;
    /// Base ports of three parallel ports.
    pub const PARALLEL: u64 = 0x08;
    /// Segment of the EBDA.
    pub const EBDA_SEGMENT: u64 = 0x0E;
    /// Equipment word (INT 11h).
    pub const EQUIPMENT: u64 = 0x10;
    /// Conventional memory in KiB (INT 12h).
    pub const MEMORY_KIB: u64 = 0x13;
    /// Keyboard shift flags, two bytes.
    pub const SHIFT: u64 = 0x17;
    /// Accumulator of the Alt + keypad entry.
    pub const ALT_KEYPAD: u64 = 0x19;
    /// Head of the keyboard buffer.
    pub const KEY_HEAD: u64 = 0x1A;
    /// Tail of the keyboard buffer.
    pub const KEY_TAIL: u64 = 0x1C;
    /// The standard keyboard buffer, 32 bytes.
    pub const KEY_BUFFER: u64 = 0x1E;
    /// Video mode.
    pub const VIDEO_MODE: u64 = 0x49;
    /// Text columns.
    pub const COLUMNS: u64 = 0x4A;
    /// Bytes of a video page.
    pub const PAGE_SIZE: u64 = 0x4C;
    /// Offset of the active video page.
    pub const PAGE_OFFSET: u64 = 0x4E;
    /// Cursor positions of eight pages.
    pub const CURSOR: u64 = 0x50;
    /// Cursor shape: end line, start line.
    pub const CURSOR_SHAPE: u64 = 0x60;
    /// Active video page.
    pub const ACTIVE_PAGE: u64 = 0x62;
    /// CRT controller's port.
    pub const CRTC: u64 = 0x63;
    /// Last value written to the mode register.
    pub const MODE_REGISTER: u64 = 0x65;
    /// Timer ticks since midnight.
    pub const TICKS: u64 = 0x6C;
    /// Set when midnight has passed.
    pub const MIDNIGHT: u64 = 0x70;
    /// Bit 7: Ctrl-Break was pressed.
    pub const BREAK: u64 = 0x71;
    /// Status of the last hard-disk operation.
    pub const DISK_STATUS: u64 = 0x74;
    /// Number of hard disks.
    pub const DISK_COUNT: u64 = 0x75;
    /// Time-outs of four parallel ports.
    pub const PARALLEL_TIMEOUT: u64 = 0x78;
    /// Time-outs of four serial ports.
    pub const SERIAL_TIMEOUT: u64 = 0x7C;
    /// Start of the keyboard buffer.
    pub const KEY_START: u64 = 0x80;
    /// End of the keyboard buffer.
    pub const KEY_END: u64 = 0x82;
    /// Text rows less one.
    pub const ROWS: u64 = 0x84;
    /// Scan lines of a character.
    pub const CHARACTER_HEIGHT: u64 = 0x85;
    /// EGA/VGA control.
    pub const VIDEO_CONTROL: u64 = 0x87;
    /// EGA/VGA switches.
    pub const VIDEO_SWITCHES: u64 = 0x88;
    /// VGA flags.
    pub const VIDEO_FLAGS: u64 = 0x89;
    /// Display combination code.
    pub const DISPLAY_CODE: u64 = 0x8A;
    /// FFh when the disk has interrupted.
    pub const DISK_INTERRUPT: u64 = 0x8E;
    /// Keyboard mode: E0/E1 prefixes, enhanced keyboard.
    pub const KEY_MODE: u64 = 0x96;
    /// Keyboard LEDs.
    pub const KEY_LEDS: u64 = 0x97;
    /// Far pointer to the user's wait flag.
    pub const WAIT_FLAG: u64 = 0x98;
    /// Microseconds left of the user's wait.
    pub const WAIT_COUNT: u64 = 0x9C;
    /// Bit 0: a wait is active; bit 7: it has ended.
    pub const WAIT_ACTIVE: u64 = 0xA0;
}

/// Offsets within the EBDA.
pub mod ebda {
    /// Size in KiB.
    pub const SIZE_KIB: u64 = 0x00;
    /// Four drive records of 32 bytes.
    pub const DRIVES: u64 = 0x10;
    /// BIOS drive numbers 80h..83h -> record, 0xFF for none.
    pub const DRIVE_ORDER: u64 = 0x90;
    /// The disk transfer in progress, 32 bytes.
    pub const TRANSFER: u64 = 0xA0;
    /// Stage of POST.
    pub const POST_STAGE: u64 = 0xC0;
    /// Boot candidate.
    pub const BOOT_DRIVE: u64 = 0xC1;
    /// 1: a kernel is in memory.
    pub const DIRECT_BOOT: u64 = 0xC2;
    /// Device and function number of the IDE interface, 0 for none.
    pub const IDE_FUNCTION: u64 = 0xC3;
    /// Start of a serial-port wait in ticks.
    pub const SERIAL_SINCE: u64 = 0xC4;
    /// Drive parameter table extensions of the four drives, 16 bytes each.
    pub const DPTE: u64 = 0xD0;
    /// Fixed-disk parameter tables of drives 80h and 81h, 16 bytes each.
    pub const DISK_PARAMETERS: u64 = 0x110;
    /// PS/2 mouse state, 16 bytes.
    pub const MOUSE: u64 = 0x130;
    /// Physical region descriptors, 32 bytes.
    pub const REGIONS: u64 = 0x150;
    /// Top of the ACPI tables, for the memory map: 0 when there are none.
    pub const ACPI_BASE: u64 = 0x140;
}

/// What a stub asks for: the number in AL when it writes to the service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Service {
    /// After a CPU reset: is it a real one (CF=0) or does CMOS 0Fh ask for a jump (CF=1)?
    Reset = 1,
    /// Power-on self test.
    Post,
    /// INT 19h: find a boot sector, or enter the loaded kernel.
    Boot,
    /// INT 18h: nothing to boot.
    BootFailed,
    /// INT 10h.
    Video,
    /// INT 11h.
    Equipment,
    /// INT 12h.
    MemorySize,
    /// INT 13h.
    Disk,
    /// INT 14h.
    Serial,
    /// INT 15h.
    System,
    /// INT 16h.
    Keyboard,
    /// INT 17h.
    Printer,
    /// INT 1Ah.
    Time,
    /// IRQ 0.
    Tick,
    /// IRQ 1, scan code in AH.
    Key,
    /// IRQ 8.
    RtcInterrupt,
    /// IRQ 14.
    DiskInterrupt,
    /// IRQ 15.
    DiskInterrupt2,
    /// IRQ 12.
    MouseInterrupt,
    /// An IRQ of the first controller that nobody serves.
    StrayIrq,
    /// An IRQ of the second controller that nobody serves.
    StrayIrq2,
    /// BIOS32 service directory, 32-bit protected mode, EAX in EBP.
    Bios32,
    /// PCI BIOS, 32-bit protected mode, EAX in EBP.
    Pci32,
    /// INT 06h that nobody hooked: the processor refused an instruction.
    InvalidOpcode,
}

/// Set in the number when a stub asks again after a wait.
pub const AGAIN: u8 = 0x80;

impl Service {
    const ALL: [Self; 24] = [
        Self::Reset,
        Self::Post,
        Self::Boot,
        Self::BootFailed,
        Self::Video,
        Self::Equipment,
        Self::MemorySize,
        Self::Disk,
        Self::Serial,
        Self::System,
        Self::Keyboard,
        Self::Printer,
        Self::Time,
        Self::Tick,
        Self::Key,
        Self::RtcInterrupt,
        Self::DiskInterrupt,
        Self::DiskInterrupt2,
        Self::MouseInterrupt,
        Self::StrayIrq,
        Self::StrayIrq2,
        Self::Bios32,
        Self::Pci32,
        Self::InvalidOpcode,
    ];

    /// The service with this number (without [`AGAIN`]).
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_services_agree() {
        for (index, service) in Service::ALL.into_iter().enumerate() {
            assert_eq!(service as usize, index + 1);
            assert_eq!(Service::from_number(service as u8), Some(service));
        }
        assert_eq!(Service::from_number(0), None);
        assert_eq!(Service::from_number(25), None);
    }
}
