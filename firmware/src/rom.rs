//! The ROM image: 16-bit stubs at the entry points that software expects, and tables in fixed
//! places.
//!
//! Contract: a stub saves AX, puts the number of its service into AL and writes it to the service
//! port. A service that must wait answers with CF set: the stub then enables interrupts, halts, and
//! asks again with [`AGAIN`] in the number. `STI; HLT` leaves no gap: the interrupt shadow of STI
//! covers the HLT, and the question is asked with interrupts off, so no wake-up is lost.
//! Entry points: IBM PC AT technical reference; Phoenix "System BIOS for IBM PCs", appendix A.

use crate::SERVICE_PORT;
use crate::layout::{AGAIN, BIOS_SEGMENT, EBDA_SEGMENT, Service};
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of the ROM: the segment F000h.
pub const SIZE: usize = 1 << 16;

/// Where each entry point lies in the BIOS segment.
pub mod entry {
    /// Stub bodies begin here.
    pub const BODIES: u16 = 0xC000;
    /// Power-on entry.
    pub const POST: u16 = 0xE05B;
    /// NMI.
    pub const NMI: u16 = 0xE2C3;
    /// INT 13h.
    pub const DISK: u16 = 0xE3FE;
    /// INT 19h.
    pub const BOOT: u16 = 0xE6F2;
    /// System configuration table.
    pub const CONFIG_TABLE: u16 = 0xE6F5;
    /// Baud-rate divisors.
    pub const BAUD_TABLE: u16 = 0xE729;
    /// INT 14h.
    pub const SERIAL: u16 = 0xE739;
    /// INT 16h.
    pub const KEYBOARD: u16 = 0xE82E;
    /// IRQ 1.
    pub const KEY: u16 = 0xE987;
    /// IRQ 6, diskette.
    pub const DISKETTE_IRQ: u16 = 0xEF57;
    /// Diskette parameters.
    pub const DISKETTE_TABLE: u16 = 0xEFC7;
    /// INT 17h.
    pub const PRINTER: u16 = 0xEFD2;
    /// INT 10h.
    pub const VIDEO: u16 = 0xF065;
    /// Video parameters.
    pub const VIDEO_TABLE: u16 = 0xF0A4;
    /// INT 12h.
    pub const MEMORY_SIZE: u16 = 0xF841;
    /// INT 11h.
    pub const EQUIPMENT: u16 = 0xF84D;
    /// INT 15h.
    pub const SYSTEM: u16 = 0xF859;
    /// 8x8 characters 0-127.
    pub const FONT: u16 = 0xFA6E;
    /// INT 1Ah.
    pub const TIME: u16 = 0xFE6E;
    /// IRQ 0.
    pub const TICK: u16 = 0xFEA5;
    /// A bare IRET.
    pub const IRET: u16 = 0xFF53;
    /// The reset vector.
    pub const RESET: u16 = 0xFFF0;
    /// The date of the BIOS.
    pub const DATE: u16 = 0xFFF5;
    /// The model byte.
    pub const MODEL: u16 = 0xFFFE;
}

/// Entry points that have no fixed place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bodies {
    /// IRQ 8.
    pub rtc_irq: u16,
    /// IRQ 12.
    pub mouse_irq: u16,
    /// IRQ 14.
    pub disk_irq: u16,
    /// IRQ 15.
    pub disk_irq2: u16,
    /// Any other IRQ of the first controller.
    pub stray_irq: u16,
    /// Any other IRQ of the second controller.
    pub stray_irq2: u16,
    /// INT 18h.
    pub boot_failed: u16,
    /// INT 06h.
    pub invalid_opcode: u16,
    /// CLI, HLT for ever.
    pub halt: u16,
    /// 32-bit BIOS32 service directory.
    pub bios32: u16,
    /// 32-bit PCI BIOS.
    pub pci32: u16,
}

/// Builds the ROM, and says where the bodies without fixed entry points are.
pub fn build() -> (Vec<u8>, Bodies) {
    let mut rom = Rom { bytes: vec![0; SIZE], next: entry::BODIES };
    let mut bodies = Bodies::default();
    rom.reset_and_boot();
    for (at, service, waits) in [
        (entry::VIDEO, Service::Video, false),
        (entry::EQUIPMENT, Service::Equipment, false),
        (entry::MEMORY_SIZE, Service::MemorySize, false),
        (entry::DISK, Service::Disk, true),
        (entry::SERIAL, Service::Serial, true),
        (entry::SYSTEM, Service::System, true),
        (entry::KEYBOARD, Service::Keyboard, true),
        (entry::PRINTER, Service::Printer, false),
        (entry::TIME, Service::Time, false),
    ] {
        let body = if waits { waiting(service) } else { simple(service) };
        rom.entry(at, &body);
    }
    rom.entry(entry::TICK, &tick());
    rom.entry(entry::KEY, &key());
    bodies.rtc_irq = rom.body(&rtc_irq());
    bodies.mouse_irq = rom.body(&mouse_irq());
    bodies.disk_irq = rom.body(&simple(Service::DiskInterrupt));
    bodies.disk_irq2 = rom.body(&simple(Service::DiskInterrupt2));
    bodies.stray_irq = rom.body(&simple(Service::StrayIrq));
    bodies.stray_irq2 = rom.body(&simple(Service::StrayIrq2));
    rom.jump(entry::DISKETTE_IRQ, bodies.stray_irq);
    bodies.halt = rom.body(&HALT);
    bodies.boot_failed = rom.body(&halting(Service::BootFailed));
    bodies.invalid_opcode = rom.body(&halting(Service::InvalidOpcode));
    rom.put(entry::NMI, &[IRET]);
    rom.put(entry::IRET, &[IRET]);
    bodies.bios32 = rom.body(&flat(Service::Bios32));
    bodies.pci32 = rom.body(&flat(Service::Pci32));
    rom.tables();
    (rom.bytes, bodies)
}

const PUSH_AX: u8 = 0x50;
const POP_AX: u8 = 0x58;
const CLI: u8 = 0xFA;
const STI: u8 = 0xFB;
const HLT: u8 = 0xF4;
const IRET: u8 = 0xCF;
/// xor ax, ax; mov ss, ax; mov sp, 7C00h
const STACK: [u8; 7] = [0x31, 0xC0, 0x8E, 0xD0, 0xBC, 0x00, 0x7C];
/// mov al, 20h; out 20h, al: end of interrupt to the first controller.
const EOI: [u8; 4] = [0xB0, 0x20, 0xE6, 0x20];
/// mov al, 20h; out A0h, al; out 20h, al: end of interrupt to both controllers.
const EOI_BOTH: [u8; 6] = [0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20];
/// cli; hlt; jmp back to the hlt
const HALT: [u8; 4] = [CLI, HLT, 0xEB, 0xFD];

/// mov al, number; out SERVICE_PORT, al
fn ask(service: Service) -> [u8; 4] {
    [0xB0, service as u8, 0xE6, SERVICE_PORT as u8]
}

/// Asks, and while the answer is CF: sti; hlt; cli; ask again.
fn ask_until_done(service: Service) -> Vec<u8> {
    let mut code = ask(service).to_vec();
    code.extend([0x73, 0x07]); // jnc done
    code.extend([STI, HLT, CLI]);
    code.extend([0xB0, service as u8 | AGAIN]); // mov al, number + AGAIN
    code.extend([0xEB, 0xF5]); // jmp to the out
    code
}

/// An INT handler that never waits.
fn simple(service: Service) -> Vec<u8> {
    [&[PUSH_AX][..], &ask(service), &[POP_AX, IRET]].concat()
}

/// An INT handler that may wait.
fn waiting(service: Service) -> Vec<u8> {
    [&[PUSH_AX][..], &ask_until_done(service), &[POP_AX, IRET]].concat()
}

/// IRQ 0: count, call the user's INT 1Ch, end of interrupt.
fn tick() -> Vec<u8> {
    let user = [0x1E, 0x52, 0xCD, 0x1C, 0x5A, 0x1F]; // push ds; push dx; int 1Ch; pop dx; pop ds
    [&[PUSH_AX][..], &ask(Service::Tick), &user, &EOI, &[POP_AX, IRET]].concat()
}

/// IRQ 1: read the scan code, offer it to INT 15h AH=4Fh, and hand it to the service in AH.
fn key() -> Vec<u8> {
    let mut code = vec![PUSH_AX];
    code.extend([0xE4, 0x60]); // in al, 60h
    code.extend([0xB4, 0x4F, 0xF9, 0xCD, 0x15]); // mov ah, 4Fh; stc; int 15h
    code.extend([0x73, 0x0A]); // jnc end: the hook has swallowed the key
    code.extend([0x88, 0xC4]); // mov ah, al
    code.extend(ask(Service::Key));
    code.extend([0x73, 0x02]); // jnc end
    code.extend([0xCD, 0x1B]); // int 1Bh: Ctrl-Break
    code.extend(EOI);
    code.extend([POP_AX, IRET]);
    code
}

/// IRQ 8: the service answers with CF when the alarm rang.
fn rtc_irq() -> Vec<u8> {
    let alarm = [0x73, 0x02, 0xCD, 0x4A]; // jnc end; int 4Ah
    [&[PUSH_AX][..], &ask(Service::RtcInterrupt), &alarm, &EOI_BOTH, &[POP_AX, IRET]].concat()
}

/// IRQ 12: the service takes the byte; CF: call the user's handler with the packet.
///
/// The handler is entered as INT 15h AX=C207h promises: status, x, y and zero pushed, far call.
fn mouse_irq() -> Vec<u8> {
    let mut code = vec![PUSH_AX];
    code.extend(ask(Service::MouseInterrupt));
    code.extend([0x73, 0x1E]); // jnc end
    code.extend([0x1E, 0xB8]); // push ds; mov ax, EBDA
    code.extend(EBDA_SEGMENT.to_le_bytes());
    code.extend([0x8E, 0xD8]); // mov ds, ax
    let mouse = crate::layout::ebda::MOUSE as u16;
    for field in [8, 10, 12, 14] {
        code.extend([0xFF, 0x36]); // push word [MOUSE + field]
        code.extend((mouse + field).to_le_bytes());
    }
    code.extend([0xFF, 0x1E]); // call far [MOUSE + 4]
    code.extend((mouse + 4).to_le_bytes());
    code.extend([0x83, 0xC4, 0x08, 0x1F]); // add sp, 8; pop ds
    code.extend(EOI_BOTH);
    code.extend([POP_AX, IRET]);
    code
}

/// INT 18h and 06h: say it and halt.
fn halting(service: Service) -> Vec<u8> {
    [&ask(service)[..], &HALT].concat()
}

/// A far-called 32-bit entry: EAX travels in EBP.
fn flat(service: Service) -> Vec<u8> {
    let mut code = vec![0x55, 0x89, 0xC5]; // push ebp; mov ebp, eax
    code.extend(ask(service));
    code.extend([0x89, 0xE8, 0x5D, 0xCB]); // mov eax, ebp; pop ebp; retf
    code
}

struct Rom {
    bytes: Vec<u8>,
    next: u16,
}

impl Rom {
    fn put(&mut self, at: u16, bytes: &[u8]) {
        let at = usize::from(at);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Places a body at the next 16 bytes that are free.
    fn body(&mut self, code: &[u8]) -> u16 {
        let at = self.next;
        self.put(at, code);
        self.next = (at + code.len() as u16).next_multiple_of(16);
        assert!(self.next <= entry::POST, "stub bodies reach the fixed entry points");
        at
    }

    /// jmp near from `at` to `target`
    fn jump(&mut self, at: u16, target: u16) {
        let [low, high] = target.wrapping_sub(at + 3).to_le_bytes();
        self.put(at, &[0xE9, low, high]);
    }

    fn entry(&mut self, at: u16, code: &[u8]) {
        let body = self.body(code);
        self.jump(at, body);
    }

    fn reset_and_boot(&mut self) {
        let mut code = vec![CLI];
        code.extend(ask(Service::Reset));
        code.extend([0x73, 0x09]); // jnc post
        // CMOS 0Fh asked for a jump: mov ax, 40h; mov ds, ax; jmp far [67h]
        code.extend([0xB8, 0x40, 0x00, 0x8E, 0xD8, 0xFF, 0x2E, 0x67, 0x00]);
        code.extend(STACK);
        code.extend(ask_until_done(Service::Post));
        code.extend([0xCD, 0x19]); // int 19h
        code.extend(HALT);
        self.entry(entry::POST, &code);
        let boot = [&[CLI][..], &STACK, &ask_until_done(Service::Boot), &[IRET]].concat();
        self.entry(entry::BOOT, &boot);
        let [low, high] = entry::POST.to_le_bytes();
        let [segment_low, segment_high] = BIOS_SEGMENT.to_le_bytes();
        // jmp far F000:E05B
        self.put(entry::RESET, &[0xEA, low, high, segment_low, segment_high]);
    }

    fn tables(&mut self) {
        // Length 8: model FCh, submodel 01h, revision 0; second 8259, RTC, INT 15h AH=4Fh, EBDA;
        // INT 16h AH=09h.
        self.put(entry::CONFIG_TABLE, &[8, 0, 0xFC, 1, 0, 0x74, 0x40, 0, 0, 0]);
        for (index, divisor) in [1047u16, 768, 384, 192, 96, 48, 24, 12].into_iter().enumerate() {
            self.put(entry::BAUD_TABLE + 2 * index as u16, &divisor.to_le_bytes());
        }
        // 1.44-MB diskette.
        let diskette = [0xAF, 0x02, 0x25, 0x02, 0x12, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08];
        self.put(entry::DISKETTE_TABLE, &diskette);
        self.put(entry::DATE, b"11/01/26");
        self.put(entry::MODEL, &[0xFC]);
        let sum = self.bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        self.put(entry::MODEL + 1, &[sum.wrapping_neg()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

    /// Decodes `code` and checks that every instruction is valid and every short jump lands on one.
    fn check(code: &[u8], bits: u32) -> Vec<Mnemonic> {
        let mut decoder = Decoder::with_ip(bits, code, 0, DecoderOptions::NONE);
        let (mut starts, mut targets, mut mnemonics) = (vec![], vec![], vec![]);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            assert!(!instruction.is_invalid(), "{code:02x?}");
            starts.push(instruction.ip());
            mnemonics.push(instruction.mnemonic());
            let flow = instruction.flow_control();
            if matches!(flow, FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
                targets.push(instruction.near_branch_target());
            }
        }
        starts.push(code.len() as u64);
        for target in targets {
            assert!(starts.contains(&target), "jump to {target:#x} in {code:02x?}");
        }
        mnemonics
    }

    #[test]
    fn stubs_decode_and_jumps_land_on_instructions() {
        for code in [simple(Service::Video), waiting(Service::Disk), tick(), rtc_irq()] {
            assert_eq!(check(&code, 16).last(), Some(&Mnemonic::Iret));
        }
        let mouse = check(&mouse_irq(), 16);
        assert_eq!(mouse.iter().filter(|&&m| m == Mnemonic::Call).count(), 1);
        assert!(check(&key(), 16).contains(&Mnemonic::Int));
        assert_eq!(check(&halting(Service::BootFailed), 16).last(), Some(&Mnemonic::Jmp));
        assert_eq!(check(&flat(Service::Pci32), 32).last(), Some(&Mnemonic::Retf));
    }

    #[test]
    fn a_wait_asks_again_with_the_flag_and_loops_to_the_out() {
        let code = ask_until_done(Service::Disk);
        let mnemonics = check(&code, 16);
        use Mnemonic::{Cli, Hlt, Jae, Jmp, Mov, Out, Sti};
        assert_eq!(mnemonics, [Mov, Out, Jae, Sti, Hlt, Cli, Mov, Jmp]);
        let mut decoder = Decoder::with_ip(16, &code, 0, DecoderOptions::NONE);
        let jump = decoder.iter().last().expect("code is not empty");
        assert_eq!(jump.near_branch_target(), 2, "the OUT");
    }

    #[test]
    fn fixed_entry_points_lead_to_their_stubs() {
        let (rom, _) = build();
        for at in [entry::POST, entry::DISK, entry::VIDEO, entry::TIME, entry::TICK, entry::KEY] {
            let at = usize::from(at);
            assert_eq!(rom[at], 0xE9);
            let distance = u16::from_le_bytes([rom[at + 1], rom[at + 2]]);
            let target = (at as u16 + 3).wrapping_add(distance);
            assert!((entry::BODIES..entry::POST).contains(&target));
        }
        assert_eq!(rom[0xFFF0..0xFFF5], [0xEA, 0x5B, 0xE0, 0x00, 0xF0]);
        assert_eq!(rom.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0);
        assert_eq!((rom[0xFFFE], rom[usize::from(entry::IRET)]), (0xFC, IRET));
    }

    #[test]
    fn entries_do_not_overlap() {
        let places = [
            (entry::POST, 3),
            (entry::NMI, 1),
            (entry::DISK, 3),
            (entry::BOOT, 3),
            (entry::CONFIG_TABLE, 10),
            (entry::BAUD_TABLE, 16),
            (entry::SERIAL, 3),
            (entry::KEYBOARD, 3),
            (entry::KEY, 3),
            (entry::DISKETTE_IRQ, 3),
            (entry::DISKETTE_TABLE, 11),
            (entry::PRINTER, 3),
            (entry::VIDEO, 3),
            (entry::VIDEO_TABLE, 88),
            (entry::MEMORY_SIZE, 3),
            (entry::EQUIPMENT, 3),
            (entry::SYSTEM, 3),
            (entry::FONT, 1024),
            (entry::TIME, 3),
            (entry::TICK, 3),
            (entry::IRET, 1),
            (entry::RESET, 5),
            (entry::DATE, 8),
            (entry::MODEL, 2),
        ];
        for pair in places.windows(2) {
            assert!(u32::from(pair[0].0) + pair[0].1 <= u32::from(pair[1].0), "{pair:?}");
        }
    }
}
