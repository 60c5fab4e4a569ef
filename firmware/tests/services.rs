//! POST, boot and the INT services through the ROM's own stubs, on the real board.

mod stub_cpu;

use devices::board::Signal;
use devices::io::Input;
use firmware::DirectBoot;
use stub_cpu::{AX, BP, BX, CX, DI, DS, DX, ES, SI, Stop, StubPc, ZF};

const BOOT: (u16, u16) = (0x0000, 0x7C00);

/// A disk of `sectors` whose sector n holds n in every 32-bit word, with a boot signature.
fn disk(sectors: u32) -> Vec<u8> {
    let mut content: Vec<u8> = (0..sectors).flat_map(|n| n.to_le_bytes().repeat(128)).collect();
    content[510..512].copy_from_slice(&[0x55, 0xAA]);
    content
}

fn booted() -> StubPc {
    let mut pc = StubPc::new(64 << 20, [disk(20_160), vec![], disk(2048), vec![]], None);
    assert_eq!(pc.run(BOOT, 100_000), Stop::There);
    pc
}

/// Calls INT `vector` with the registers given and returns AX.
fn int(pc: &mut StubPc, vector: u8, registers: &[(usize, u64)]) -> u16 {
    for &(register, value) in registers {
        pc.regs.gpr[register] = value;
    }
    pc.call(vector);
    pc.get(AX)
}

#[test]
fn post_reaches_the_boot_sector_quickly() {
    let pc = booted();
    assert!(pc.instructions < 5_000, "{}", pc.instructions);
    assert_eq!(pc.get(DX) & 0xFF, 0x80);
    assert_eq!(pc.bytes(0x7C00 + 510, 2), [0x55, 0xAA]);
    assert_eq!(pc.read16(0x475) & 0xFF, 2, "two disks");
    assert_eq!([pc.read16(0x400), pc.read16(0x402), pc.read16(0x404)], [0x3F8, 0x2F8, 0]);
    assert!(pc.debug.contains("Booting from hard disk"), "{}", pc.debug);
    assert!(pc.interrupts.contains(&0x76), "the disk interrupted: {:?}", pc.interrupts);
}

#[test]
fn an_unbootable_disk_is_passed_over_and_none_is_said() {
    let mut first = disk(100);
    first[511] = 0;
    let mut pc = StubPc::new(16 << 20, [first.clone(), disk(50), vec![], vec![]], None);
    assert_eq!(pc.run(BOOT, 100_000), Stop::There);
    assert_eq!(pc.get(DX) & 0xFF, 0x81);
    let mut pc = StubPc::new(16 << 20, [first, vec![], vec![], vec![]], None);
    assert_eq!(pc.run(BOOT, 100_000), Stop::Dead);
    assert!(pc.debug.contains("No bootable disk"), "{}", pc.debug);
    assert_eq!(pc.serial, b"No bootable disk: halted\r\n");
}

#[test]
fn a_bad_boot_sector_is_passed_over() {
    let mut pc = StubPc::new(16 << 20, [disk(100), disk(50), vec![], vec![]], None);
    pc.bad_sectors = vec![0];
    assert_eq!(pc.run(BOOT, 100_000), Stop::Dead);
}

#[test]
fn disk_reads_and_writes_by_cylinder_and_by_packet() {
    let mut pc = booted();
    // Cylinder 2, head 3, sector 4 of 16 heads and 63 sectors.
    let lba = (2 * 16 + 3) * 63 + 3;
    pc.regs.segments[ES] = 0x2000;
    let ax = int(&mut pc, 0x13, &[(AX, 0x0203), (BX, 0x10), (CX, 0x0204), (DX, 0x0380)]);
    assert!(!pc.carry());
    assert_eq!(ax, 0x0003);
    assert_eq!([pc.read32(0x2_0010), pc.read32(0x2_0210)], [lba, lba + 1]);
    // A packet of 300 sectors: more than one command.
    let packet = [0x10, 0, 0x2C, 0x01, 0, 0, 0, 0x30, 7, 0, 0, 0, 0, 0, 0, 0];
    pc.ram.dma_write(0x5000, &packet);
    pc.regs.segments[DS] = 0;
    let ax = int(&mut pc, 0x13, &[(AX, 0x4200), (SI, 0x5000), (DX, 0x80)]);
    assert_eq!((ax >> 8, pc.carry()), (0, false));
    assert_eq!([pc.read32(0x3_0000), pc.read32(0x3_0000 + 299 * 512)], [7, 306]);
    // Written to the second disk, at sector 5.
    let packet = [0x10, 0, 2, 0, 0, 0, 0, 0x30, 5, 0, 0, 0, 0, 0, 0, 0];
    pc.ram.dma_write(0x5000, &packet);
    int(&mut pc, 0x13, &[(AX, 0x4300), (SI, 0x5000), (DX, 0x81)]);
    assert!(!pc.carry());
    assert_eq!(pc.disks[2][5 * 512..5 * 512 + 4], 7u32.to_le_bytes());
    assert_eq!(pc.disks[2][6 * 512..6 * 512 + 4], 8u32.to_le_bytes());
    assert_eq!(pc.disks[2][7 * 512..7 * 512 + 4], 7u32.to_le_bytes());
}

#[test]
fn buffers_that_the_bus_master_cannot_take_are_served_too() {
    let mut pc = booted();
    // An odd address; 128 sectors across a 64-KiB boundary of the bus master; high memory.
    for (segment, offset) in [(0x2000u16, 1u16), (0x2FF0, 0), (0xFFFF, 0x0010)] {
        let mut packet = [0x10, 0, 127, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        packet[4..6].copy_from_slice(&offset.to_le_bytes());
        packet[6..8].copy_from_slice(&segment.to_le_bytes());
        pc.ram.dma_write(0x5000, &packet);
        pc.regs.segments[DS] = 0;
        int(&mut pc, 0x13, &[(AX, 0x4200), (SI, 0x5000), (DX, 0x80)]);
        assert!(!pc.carry());
        let at = (u64::from(segment) << 4) + u64::from(offset);
        assert_eq!([pc.read32(at), pc.read32(at + 126 * 512 + 508)], [9, 135]);
        pc.ram.dma_write(at, &[0xEE; 512]);
        int(&mut pc, 0x13, &[(AX, 0x4300), (SI, 0x5000), (DX, 0x80)]);
        assert!(!pc.carry());
        assert_eq!(pc.disks[0][9 * 512..10 * 512], [0xEE; 512]);
        assert_eq!(pc.disks[0][10 * 512..10 * 512 + 4], 10u32.to_le_bytes());
        pc.disks[0][9 * 512..10 * 512].copy_from_slice(&9u32.to_le_bytes().repeat(128));
    }
}

#[test]
fn disk_errors_have_their_status() {
    let mut pc = booted();
    pc.bad_sectors = vec![10];
    pc.regs.segments[ES] = 0x2000;
    let status = |pc: &mut StubPc, registers: &[(usize, u64)]| {
        let ax = int(pc, 0x13, registers);
        (ax >> 8, pc.carry())
    };
    assert_eq!(status(&mut pc, &[(AX, 0x0201), (BX, 0), (CX, 11), (DX, 0x80)]), (0x10, true));
    assert_eq!(status(&mut pc, &[(AX, 0x0100), (DX, 0x80)]), (0x10, true));
    assert_eq!(status(&mut pc, &[(AX, 0x0000), (DX, 0x80)]), (0, false));
    assert_eq!(status(&mut pc, &[(AX, 0x0201), (CX, 0), (DX, 0x80)]), (0x04, true));
    assert_eq!(status(&mut pc, &[(AX, 0x0201), (CX, 1), (DX, 0x1080)]), (0x04, true));
    assert_eq!(status(&mut pc, &[(AX, 0x0201), (CX, 1), (DX, 0x82)]), (0x80, true));
    assert_eq!(status(&mut pc, &[(AX, 0x0401), (CX, 2), (DX, 0x80)]), (0, false));
    assert_eq!(status(&mut pc, &[(AX, 0x0401), (CX, 11), (DX, 0x80)]), (0x10, true));
    assert_eq!(status(&mut pc, &[(AX, 0x7F00), (DX, 0x80)]), (0x01, true));
    let packet = [0x10, 0, 2, 0, 0, 0, 0, 0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    pc.ram.dma_write(0x5000, &packet);
    pc.regs.segments[DS] = 0;
    assert_eq!(status(&mut pc, &[(AX, 0x4200), (SI, 0x5000), (DX, 0x80)]), (0x04, true));
    assert_eq!(pc.read16(0x5002), 0, "nothing was moved");
}

#[test]
fn disk_parameters() {
    let mut pc = booted();
    int(&mut pc, 0x13, &[(AX, 0x0800), (DX, 0x80)]);
    assert_eq!((pc.get(CX), pc.get(DX)), (19 << 8 | 63, 15 << 8 | 2));
    let ax = int(&mut pc, 0x13, &[(AX, 0x1500), (DX, 0x80)]);
    assert_eq!((ax, pc.get(CX), pc.get(DX)), (0x0300, 0, 20_160));
    let ax = int(&mut pc, 0x13, &[(AX, 0x4100), (BX, 0x55AA), (DX, 0x80)]);
    assert_eq!((ax & 0xFF00, pc.get(BX), pc.get(CX)), (0x3000, 0xAA55, 5));
    pc.regs.segments[DS] = 0;
    pc.ram.dma_write(0x5000, &[0x4A, 0]);
    int(&mut pc, 0x13, &[(AX, 0x4800), (SI, 0x5000), (DX, 0x81)]);
    assert!(!pc.carry());
    let result = pc.bytes(0x5000, 0x4A);
    assert_eq!((pc.read32(0x5010), pc.read16(0x5018)), (2048, 512));
    assert_eq!(result[0x1E..0x20], [0xDD, 0xBE]);
    assert_eq!(result[0x28..0x30], *b"ATA     ");
    assert_eq!(result[0x1E..0x4A].iter().fold(0u8, |sum, &b| sum.wrapping_add(b)), 0);
}

#[test]
fn memory_is_reported_alike_by_every_call() {
    let mut pc = booted();
    assert_eq!(int(&mut pc, 0x12, &[]), 639);
    assert_eq!(int(&mut pc, 0x15, &[(AX, 0x8800)]), (63 << 10) - 64);
    int(&mut pc, 0x15, &[(AX, 0xE801)]);
    assert_eq!((pc.get(AX), pc.get(BX)), (15 << 10, (48 << 4) - 1));
    pc.regs.segments[ES] = 0;
    let (mut next, mut usable, mut ranges) = (0, 0, 0);
    loop {
        let registers = [(AX, 0xE820), (BX, next), (CX, 20), (DX, 0x534D_4150), (DI, 0x5000)];
        int(&mut pc, 0x15, &registers);
        assert!(!pc.carry());
        assert_eq!(pc.regs.gpr[AX] as u32, 0x534D_4150);
        if pc.read32(0x5010) == 1 {
            usable += u64::from(pc.read32(0x5008));
        }
        ranges += 1;
        next = pc.regs.gpr[BX] & 0xFFFF_FFFF;
        if next == 0 {
            break;
        }
    }
    assert_eq!(usable, (64 << 20) - (1 << 20) + 639 * 1024 - 0x1_0000);
    assert!(ranges >= 6);
}

#[test]
fn block_move_copies_above_the_first_megabyte() {
    let mut pc = booted();
    pc.regs.segments[ES] = 0;
    let mut table = [0u8; 48];
    table[0x12..0x15].copy_from_slice(&[0x00, 0x7C, 0x00]);
    table[0x1A..0x1D].copy_from_slice(&[0x00, 0x00, 0x20]);
    table[0x1F] = 0x01;
    pc.ram.dma_write(0x5000, &table);
    let ax = int(&mut pc, 0x15, &[(AX, 0x8700), (CX, 256), (SI, 0x5000)]);
    assert_eq!((ax >> 8, pc.carry()), (0, false));
    assert_eq!(pc.bytes(0x0120_0000, 512), pc.bytes(0x7C00, 512));
}

#[test]
fn waits_take_the_time_asked_for() {
    let mut pc = booted();
    let before = pc.now.0;
    int(&mut pc, 0x15, &[(AX, 0x8600), (CX, 0x0001), (DX, 0x86A0)]); // 100,000 us
    assert!(!pc.carry());
    let waited = pc.now.0 - before;
    assert!((99_000_000..102_000_000).contains(&waited), "{waited}");
    int(&mut pc, 0x15, &[(AX, 0x8600), (CX, 0), (DX, 500)]);
    assert!(!pc.carry(), "the wait before has ended");
}

#[test]
fn ticks_count_and_follow_the_clock() {
    let mut pc = booted();
    int(&mut pc, 0x1A, &[(AX, 0)]);
    let ticks = u64::from(pc.get(CX)) << 16 | u64::from(pc.get(DX));
    int(&mut pc, 0x1A, &[(AX, 0x0200)]);
    let bcd = |byte: u16| u64::from(byte >> 4 & 15) * 10 + u64::from(byte & 15);
    let seconds = bcd(pc.get(CX) >> 8) * 3600 + bcd(pc.get(CX)) * 60 + bcd(pc.get(DX) >> 8);
    assert!(ticks.abs_diff(seconds * 1_193_182 / 65_536) <= 40, "{ticks} {seconds}");
    assert_eq!(seconds, 23 * 3600 + 5 * 60 + 27);
    int(&mut pc, 0x1A, &[(AX, 0x0400)]);
    assert_eq!((pc.get(CX), pc.get(DX)), (0x2026, 0x1231));
    int(&mut pc, 0x15, &[(AX, 0x8600), (CX, 0x000F), (DX, 0x4240)]); // a second
    int(&mut pc, 0x1A, &[(AX, 0)]);
    let later = u64::from(pc.get(CX)) << 16 | u64::from(pc.get(DX));
    assert!((17..=20).contains(&(later - ticks)), "{ticks} {later}");
}

#[test]
fn the_keyboard_buffer_gives_back_what_was_put_in() {
    let mut pc = booted();
    int(&mut pc, 0x16, &[(AX, 0x0100)]);
    assert_ne!(pc.regs.flags & ZF, 0, "empty");
    for n in 0..15u64 {
        assert_eq!(int(&mut pc, 0x16, &[(AX, 0x0500), (CX, 0x1E61 + n)]) & 0xFF, 0);
    }
    assert_eq!(int(&mut pc, 0x16, &[(AX, 0x0500), (CX, 0x1E00)]) & 0xFF, 1, "full");
    assert_eq!(int(&mut pc, 0x16, &[(AX, 0x1100)]), 0x1E61);
    assert_eq!(pc.regs.flags & ZF, 0);
    for n in 0..15 {
        assert_eq!(int(&mut pc, 0x16, &[(AX, 0x0000)]), 0x1E61 + n);
    }
}

#[test]
fn keys_arrive_as_characters() {
    let mut pc = booted();
    // Set 2: a; Shift + 1; Ctrl + c; grey Up; Caps Lock, b; keypad 7 with Num Lock.
    let typed: [(&[u8], u16); 6] = [
        (&[0x1C, 0xF0, 0x1C], 0x1E61),
        (&[0x12, 0x16, 0xF0, 0x16, 0xF0, 0x12], 0x0221),
        (&[0x14, 0x21, 0xF0, 0x21, 0xF0, 0x14], 0x2E03),
        (&[0xE0, 0x75, 0xE0, 0xF0, 0x75], 0x48E0),
        (&[0x58, 0xF0, 0x58, 0x32, 0xF0, 0x32], 0x3042),
        (&[0x77, 0xF0, 0x77, 0x6C, 0xF0, 0x6C], 0x4737),
    ];
    for (codes, word) in typed {
        pc.board.input(&mut pc.ram, pc.now, Input::Key(codes.to_vec()));
        assert_eq!(int(&mut pc, 0x16, &[(AX, 0x1000)]), word, "{codes:x?}");
    }
    assert!(pc.interrupts.contains(&0x09));
    assert_eq!(int(&mut pc, 0x16, &[(AX, 0x0200)]) & 0xFF, 0x60, "Caps and Num Lock");
}

#[test]
fn the_mouse_calls_its_handler() {
    let mut pc = booted();
    int(&mut pc, 0x15, &[(AX, 0xC205), (BX, 0x0300)]);
    assert!(!pc.carry());
    pc.ram.dma_write(0x5000, &[0xCB]);
    pc.regs.segments[ES] = 0;
    int(&mut pc, 0x15, &[(AX, 0xC207), (BX, 0x5000)]);
    assert!(!pc.carry());
    int(&mut pc, 0x15, &[(AX, 0xC200), (BX, 0x0100)]);
    assert!(!pc.carry());
    let seen = pc.entered.len();
    pc.board.input(&mut pc.ram, pc.now, Input::Pointer { dx: 5, dy: -3, buttons: 1 });
    int(&mut pc, 0x15, &[(AX, 0x8600), (CX, 0), (DX, 2000)]);
    assert!(pc.entered[seen..].contains(&(0x0000, 0x5000)), "the handler was called");
    assert_eq!(pc.stack_at_far_call, [0x00, 0xFD, 0x05, 0x29]);
}

#[test]
fn text_goes_to_the_screen_and_scrolls() {
    let mut pc = booted();
    int(&mut pc, 0x10, &[(AX, 0x0003)]);
    for character in b"one\r\ntwo" {
        int(&mut pc, 0x10, &[(AX, 0x0E00 | u64::from(*character)), (BX, 7)]);
    }
    let cell = |pc: &mut StubPc, row: u64, column: u64| {
        let at = 0xB_8000 + 2 * (80 * row + column);
        pc.board.mmio_read(&mut pc.ram, pc.now, at, 2) as u16
    };
    assert_eq!([cell(&mut pc, 0, 0), cell(&mut pc, 1, 2)], [0x076F, 0x076F]);
    int(&mut pc, 0x10, &[(AX, 0x0300), (BX, 0)]);
    assert_eq!((pc.get(DX), pc.get(CX)), (0x0103, 0x0607));
    int(&mut pc, 0x10, &[(AX, 0x0200), (BX, 0), (DX, 0x184F)]);
    int(&mut pc, 0x10, &[(AX, 0x0921), (BX, 0x1E), (CX, 1)]);
    assert_eq!(cell(&mut pc, 24, 79), 0x1E21);
    assert_eq!(int(&mut pc, 0x10, &[(AX, 0x0800), (BX, 0)]), 0x1E21);
    int(&mut pc, 0x10, &[(AX, 0x0E58), (BX, 7)]);
    assert_eq!([cell(&mut pc, 0, 0), cell(&mut pc, 23, 79)], [0x0774, 0x1E58], "scrolled");
    int(&mut pc, 0x10, &[(AX, 0x0600), (BX, 0x4F00), (CX, 0x0101), (DX, 0x0202)]);
    assert_eq!([cell(&mut pc, 1, 1), cell(&mut pc, 2, 2)], [0x4F20; 2]);
    assert_ne!(cell(&mut pc, 3, 3), 0x4F20);
    int(&mut pc, 0x10, &[(AX, 0x0F00)]);
    assert_eq!(pc.get(AX), 0x5003);
}

#[test]
fn pci_bios_finds_the_devices_and_post_has_placed_them() {
    let mut pc = booted();
    int(&mut pc, 0x1A, &[(AX, 0xB101)]);
    assert_eq!(pc.regs.gpr[DX] as u32, u32::from_le_bytes(*b"PCI "));
    int(&mut pc, 0x1A, &[(AX, 0xB102), (CX, 0x100E), (DX, 0x8086), (SI, 0)]);
    assert_eq!((pc.get(BX), pc.carry()), (3 << 3, false), "the network card");
    let register = |pc: &mut StubPc, function: u64, register: u64| {
        int(pc, 0x1A, &[(AX, 0xB10A), (BX, function), (DI, register)]);
        pc.regs.gpr[CX] as u32
    };
    assert_eq!(register(&mut pc, 3 << 3, 0x10), 0xE000_0000);
    let ports = register(&mut pc, 3 << 3, 0x18);
    assert!(ports & 1 == 1 && ports >= 0xC000, "{ports:#x}");
    assert_eq!(register(&mut pc, 3 << 3, 0x3C) & 0xFF, 11, "slot 3, INTA#: PIRQC");
    assert_eq!(register(&mut pc, 3 << 3, 0x04) & 7, 7);
    assert_eq!(register(&mut pc, 1 << 3, 0x60), 0x0B0B_0A0A, "PIRQRC");
    assert_eq!(register(&mut pc, 1 << 3 | 3, 0x40), 0xB001);
    int(&mut pc, 0x1A, &[(AX, 0xB103), (CX, 0x01_0180), (SI, 0)]);
    assert_eq!(pc.get(BX), 1 << 3 | 1, "IDE");
    assert_eq!(int(&mut pc, 0x1A, &[(AX, 0xB102), (CX, 0x1234), (SI, 0)]) >> 8, 0x86);
    assert!(pc.carry());
    assert_eq!(int(&mut pc, 0x1A, &[(AX, 0xB109), (BX, 8), (DI, 1)]) >> 8, 0x87);
}

/// The number that a 32-bit stub (push ebp; mov ebp, eax; mov al, number) hands to the service.
fn flat_number(pc: &StubPc, entry: u64) -> u8 {
    let code = pc.bytes(entry, 5);
    assert_eq!(code[..4], [0x55, 0x89, 0xC5, 0xB0]);
    code[4]
}

#[test]
fn the_32_bit_entries_answer_as_the_interrupt_does() {
    let mut pc = booted();
    let segment = pc.bytes(0xF_0000, 0x1_0000);
    let directory = (0..segment.len()).step_by(16).find(|&at| segment[at..].starts_with(b"_32_"));
    let entry = u64::from(pc.read32(0xF_0000 + directory.expect("there") as u64 + 4));
    pc.regs.real_mode = false;
    let flat = |pc: &mut StubPc, entry: u64, eax: u32, ebx: u64, ecx: u64, edx: u64, edi: u64| {
        let number = flat_number(pc, entry);
        for (register, value) in [(BP, eax.into()), (BX, ebx), (CX, ecx), (DX, edx), (DI, edi)] {
            pc.regs.gpr[register] = value;
        }
        pc.regs.gpr[SI] = 0;
        let (ram, board) = (&mut pc.ram, &mut pc.board);
        firmware::service(number, &mut pc.regs, ram, board, pc.now);
        pc.regs.gpr[BP] as u32
    };
    let wanted = u32::from_le_bytes(*b"$PCI");
    assert_eq!(flat(&mut pc, entry, wanted, 0, 0, 0, 0) as u8, 0);
    let service = pc.regs.gpr[BX] + pc.regs.gpr[DX];
    assert!(pc.regs.gpr[DX] < pc.regs.gpr[CX]);
    assert_eq!(flat(&mut pc, entry, 0x1234_5678, 0, 0, 0, 0) as u8, 0x80);
    assert_eq!(flat(&mut pc, service, 0xB102, 0, 0x7010, 0x8086, 0) >> 8 & 0xFF, 0);
    assert_eq!((pc.get(BX), pc.carry()), (1 << 3 | 1, false));
    flat(&mut pc, service, 0xB10A, 0, 0, 0, 0);
    assert_eq!(pc.regs.gpr[CX], 0x1237_8086);
    flat(&mut pc, service, 0xB1FF, 0, 0, 0, 0);
    assert!(pc.carry());
}

#[test]
fn serial_ports_send_receive_and_time_out() {
    let mut pc = booted();
    // 115,200 is not among the speeds: 9600 8N1 it is.
    int(&mut pc, 0x14, &[(AX, 0x00E3), (DX, 0)]);
    assert_eq!(int(&mut pc, 0x14, &[(AX, 0x0141), (DX, 0)]) & 0x80FF, 0x0041);
    assert_eq!(pc.serial, b"A");
    let input = Input::ConsoleRx { port: 0, bytes: b"z".to_vec() };
    pc.board.input(&mut pc.ram, pc.now, input);
    assert_eq!(int(&mut pc, 0x14, &[(AX, 0x0200), (DX, 0)]) & 0x80FF, 0x007A);
    let before = pc.now.0;
    assert_eq!(int(&mut pc, 0x14, &[(AX, 0x0200), (DX, 0)]) & 0x8000, 0x8000, "time-out");
    assert!((500_000_000..700_000_000).contains(&(pc.now.0 - before)));
    assert_eq!(int(&mut pc, 0x14, &[(AX, 0x0300), (DX, 3)]), 0x0300, "no such port");
}

#[test]
fn tables_stand_where_they_are_looked_for() {
    let pc = booted();
    let segment = pc.bytes(0xF_0000, 0x1_0000);
    let find = |signature: &[u8]| {
        (0..segment.len()).step_by(16).find(|&at| segment[at..].starts_with(signature))
    };
    for signature in [&b"RSD PTR "[..], b"_MP_", b"_SM_", b"$PIR", b"_32_"] {
        assert!(find(signature).is_some(), "{signature:?}");
    }
    let rsdp = find(b"RSD PTR ").expect("there");
    let rsdt = u32::from_le_bytes(segment[rsdp + 16..rsdp + 20].try_into().expect("four"));
    assert!((rsdt as u64) >= (64 << 20) - 0x1_0000);
    assert_eq!(pc.bytes(rsdt.into(), 4), b"RSDT");
}

#[test]
fn a_kernel_is_entered_at_its_setup_code() {
    let mut kernel = vec![0; 4096];
    kernel[0x1F1] = 2;
    kernel[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20Fu16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x22C..0x230].copy_from_slice(&0x7FFF_FFFFu32.to_le_bytes());
    kernel[0x238] = 0xFF;
    let boot = DirectBoot { kernel, initrd: vec![1; 100], append: b"quiet".to_vec() };
    let mut pc = StubPc::new(64 << 20, [disk(100), vec![], vec![], vec![]], Some(&boot));
    assert_eq!(pc.run((0x1020, 0), 100_000), Stop::There);
    assert_eq!(pc.regs.segments[..4], [0x1000, 0x1020, 0x1000, 0x1000]);
    assert_eq!(pc.bytes(0x2_0000, 6), b"quiet\0");
    assert_eq!(pc.regs.flags & 0x200, 0);
}

#[test]
fn a_cpu_reset_jumps_where_cmos_says_or_reboots() {
    let mut pc = booted();
    let reset = |pc: &mut StubPc, code: u32| {
        pc.board.port_write(&mut pc.ram, pc.now, 0x70, 1, 0x0F);
        pc.board.port_write(&mut pc.ram, pc.now, 0x71, 1, code);
        pc.regs.segments[1] = 0xF000;
        pc.regs.ip = 0xFFF0;
        pc.regs.flags = 2;
    };
    pc.ram.dma_write(0x467, &[0x34, 0x12, 0x00, 0x30]);
    reset(&mut pc, 0x0A);
    assert_eq!(pc.run((0x3000, 0x1234), 100), Stop::There);
    assert!(!pc.board.has_signal());
    reset(&mut pc, 0x00);
    let post = (0xF000, 0xE05B);
    assert_eq!(pc.run(post, 100), Stop::There);
    for _ in 0..8 {
        pc.step();
    }
    assert_eq!(pc.board.take_signal(), Some(Signal::Reset));
}

#[test]
fn an_invalid_instruction_is_named_and_halts() {
    let mut pc = booted();
    pc.regs.segments[1] = 0x1234;
    pc.regs.ip = 0xABCD;
    pc.interrupt(6);
    assert_eq!(pc.run((0, 0), 1000), Stop::Dead);
    assert!(pc.debug.contains("Invalid instruction at 1234:ABCD"), "{}", pc.debug);
}

#[test]
fn the_same_machine_boots_to_the_same_state() {
    let state = || {
        let pc = booted();
        let mut pages = vec![];
        for page in 0..pc.ram.pages() {
            pages.extend_from_slice(pc.ram.page(page));
        }
        (pc.instructions, pc.now, pc.regs.clone(), pages)
    };
    assert!(state() == state());
}

#[test]
fn nothing_that_a_guest_puts_into_registers_or_data_areas_panics() {
    let mut pc = booted();
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 16
    };
    for round in 0..20_000u32 {
        if round % 3 == 0 {
            let at = [0x400 + random() % 0x100, 0x9_FC00 + random() % 0x400][round as usize & 1];
            pc.ram.dma_write(at, &[random() as u8]);
        }
        for register in 0..8 {
            pc.regs.gpr[register] = random();
        }
        for segment in [ES, 2, DS] {
            pc.regs.segments[segment] = random() as u16;
        }
        pc.regs.segments[1] = 0xF000;
        pc.regs.real_mode = round % 16 != 0;
        let number = random() as u8;
        let (ram, board) = (&mut pc.ram, &mut pc.board);
        firmware::service(number, &mut pc.regs, ram, board, pc.now);
        while pc.board.poll_output().is_some() {}
    }
}
